//! The pages in a real browser: chromium is driven like a person would, and must never complain,
//! fetch or overflow.
//!
//! Without chromium these tests say so and pass; `.ci/run` installs it. `ATTNMAP_BLESS=1` writes
//! the truth images anew.

mod chrome;
mod compare;
#[path = "../common/folder.rs"]
mod folder;
mod gallery;
mod inside;
mod long;
mod numbers;
#[path = "../common/program.rs"]
mod program;
mod report;
mod sample;
#[cfg(feature = "serve")]
mod serve;
mod sweep;
mod truth;
mod view;
mod why;

use attnmap::report::{ReportData, page};
use chrome::Chrome;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard};

/// One browser for all tests, which take turns. Two would slow each other down and disturb what is
/// timed, and starting one takes longer than most tests.
static ONE: Mutex<Option<Chrome>> = Mutex::new(None);

/// The browser with a new tab, or `None` with a loud line where the machine has none.
fn browser() -> Option<Turn> {
    let Some(program) = chrome::program() else {
        eprintln!("SKIPPED: no chromium on this machine, so the pages were not tested in a browser (see .ci/run)");
        return None;
    };
    let mut turn = ONE.lock().unwrap_or_else(|failed| {
        // The test before may have left anything behind.
        ONE.clear_poison();
        let mut turn = failed.into_inner();
        *turn = None;
        turn
    });
    turn.get_or_insert_with(|| Chrome::launch(program)).open_tab();
    Some(Turn(turn))
}

/// The turn of a test at the browser.
struct Turn(MutexGuard<'static, Option<Chrome>>);

impl std::ops::Deref for Turn {
    type Target = Chrome;

    fn deref(&self) -> &Chrome {
        self.0.as_ref().expect("a browser is there in each turn")
    }
}

impl std::ops::DerefMut for Turn {
    fn deref_mut(&mut self) -> &mut Chrome {
        self.0.as_mut().expect("a browser is there in each turn")
    }
}

/// Where pages and screenshots of a test are left to be looked at.
fn scratch(name: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("browser");
    std::fs::create_dir_all(&folder).unwrap();
    folder.join(name)
}

/// The page of `data`, written where it can be looked at.
fn write(name: &str, data: &ReportData) -> PathBuf {
    let file = scratch(name);
    std::fs::write(&file, page(data)).unwrap();
    file
}

/// The browser has had nothing to complain of.
#[track_caller]
fn clean(chrome: &mut Chrome) {
    let faults = chrome.faults();
    assert!(faults.is_empty(), "{faults:#?}");
    // What is not there is not said to be "null".
    let said =
        chrome.eval("(document.body.innerText.match(/.{0,40}(null|undefined|NaN|\\[object ).{0,40}/) || [])[0] || ''");
    assert_eq!(said, "", "the page says what only a program says");
}
