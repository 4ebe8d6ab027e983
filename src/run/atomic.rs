//! Files and folders that a reader never sees half-written: everything is made beside its place and renamed into it.

use crate::{Error, Result};
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Writes one file whole or not at all: `body` writes into a hidden sibling, which then takes the place of `path`. The
/// sibling is removed when anything fails.
///
/// # Errors
/// [`Error::Io`] naming `path`.
pub fn write_file(path: &Path, body: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
    let partial = Partial(sibling(path));
    let write = || {
        let mut file = BufWriter::with_capacity(1 << 18, File::create_new(&partial.0)?);
        body(&mut file)?;
        file.into_inner().map_err(io::IntoInnerError::into_error)?;
        fs::rename(&partial.0, path)
    };
    write().map_err(Error::io(path))
}

/// A name beside `path` that nobody else uses: `.NAME.partial-PID-COUNT`.
fn sibling(path: &Path) -> PathBuf {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    path.with_file_name(format!(".{name}.partial-{}-{count}", std::process::id()))
}

/// A file or folder that is removed on drop, if it is still there.
#[derive(Debug)]
struct Partial(PathBuf);

impl Drop for Partial {
    fn drop(&mut self) {
        // Nothing is left to do when cleaning up fails: the first error is the one to report.
        if self.0.is_dir() {
            fs::remove_dir_all(&self.0).ok();
        } else {
            fs::remove_file(&self.0).ok();
        }
    }
}
