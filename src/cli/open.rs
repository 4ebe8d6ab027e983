//! A page in the browser, without a shell in between.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::print;

/// The program that opens a file as the user's desktop does.
#[cfg(target_os = "macos")]
const OPENER: &str = "open";
#[cfg(windows)]
const OPENER: &str = "explorer.exe";
#[cfg(not(any(target_os = "macos", windows)))]
const OPENER: &str = "xdg-open";

/// How long an opener may take to say that it cannot.
const SOON: Duration = Duration::from_millis(1500);

/// Opens `page`, and says what to do where nothing can.
pub fn open(page: &Path) {
    if !opens(page) {
        print::note(format!("no browser could be opened here; open {} in one", page.display()));
    }
}

/// Opens the page that a server sends at `url`, and says what to do where nothing can.
#[cfg(feature = "serve")]
pub fn address(url: &str) {
    if !opens_with(url.as_ref()) {
        print::note("no browser could be opened here; open the address in one");
    }
}

fn opens(page: &Path) -> bool {
    // An absolute path is never taken for an option.
    page.canonicalize().is_ok_and(|page| opens_with(page.as_os_str()))
}

fn opens_with(page: &OsStr) -> bool {
    let silent = Stdio::null;
    let child = Command::new(OPENER).arg(page).stdin(silent()).stdout(silent()).stderr(silent()).spawn();
    let Ok(mut child) = child else { return false };
    let begun = Instant::now();
    loop {
        match child.try_wait() {
            // Windows' opener says 1 when all is well.
            Ok(Some(status)) => return status.success() || cfg!(windows),
            Ok(None) if begun.elapsed() < SOON => std::thread::sleep(Duration::from_millis(20)),
            // A browser that stays in the foreground is open.
            _ => return true,
        }
    }
}
