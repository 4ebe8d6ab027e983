//! The removal of what may be a file, a link or a folder.

use std::fs;
use std::io;
use std::path::Path;

/// Removes what lies at `path`, and no error where nothing does. A link is removed and not
/// followed.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(_) => Ok(()),
    }
}
