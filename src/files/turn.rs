//! Taking turns among processes that read a file, add to it and write it again.

use std::fs::{File, TryLockError};
use std::path::Path;
use std::time::{Duration, Instant};

/// The turn of one writer among several processes, and machines that share the folder; given back
/// on drop.
pub(crate) struct Turn(Option<File>);

impl Turn {
    /// Waits for the others, a while: a lock that is never given back must not stop a gallery.
    ///
    /// `file` is one that is there and that all of them know.
    pub(crate) fn wait(file: &Path) -> Self {
        const LONGEST: Duration = Duration::from_secs(20);
        // Open for writing, which network file systems want for a lock; nothing is written.
        let file = File::options().read(true).write(true).open(file).ok();
        let began = Instant::now();
        while let Some(Err(TryLockError::WouldBlock)) = file.as_ref().map(File::try_lock) {
            if began.elapsed() > LONGEST {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Self(file)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        // Where it was not locked there is nothing to give back.
        self.0.as_ref().map(File::unlock);
    }
}
