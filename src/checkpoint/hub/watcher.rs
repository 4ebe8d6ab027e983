//! Passes hf-hub's progress on.

use crate::checkpoint::Progress;
use hf_hub::progress::{DownloadEvent, ProgressEvent, ProgressHandler};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Passes hf-hub's events on, and keeps the length that the server gave the file.
pub(super) struct Watcher {
    progress: Option<Arc<dyn Progress>>,
    file: Mutex<String>,
    expected: AtomicU64,
}

impl Watcher {
    pub(super) fn new(progress: Option<Arc<dyn Progress>>) -> Self {
        Self { progress, file: Mutex::default(), expected: AtomicU64::new(0) }
    }

    /// The length that the server gave the file; 0 for one that was in the cache already.
    pub(super) fn expected(&self) -> u64 {
        self.expected.load(Ordering::Relaxed)
    }

    pub(super) fn begin(&self, file: &str) {
        *self.file.lock().unwrap_or_else(PoisonError::into_inner) = file.to_string();
        self.expected.store(0, Ordering::Relaxed);
    }

    pub(super) fn end(&self, length: u64) {
        // A file that was in the cache already had no start, and is not worth a progress bar.
        if self.expected.load(Ordering::Relaxed) != 0 {
            self.tell(length, length);
        }
    }

    fn tell(&self, done: u64, total: u64) {
        if let Some(progress) = &self.progress {
            let file = self.file.lock().unwrap_or_else(PoisonError::into_inner).clone();
            progress.download(&file, done, total);
        }
    }
}

impl ProgressHandler for Watcher {
    fn on_progress(&self, event: &ProgressEvent) {
        let ProgressEvent::Download(event) = event else { return };
        match event {
            DownloadEvent::Start { total_bytes, .. } => {
                self.expected.store(*total_bytes, Ordering::Relaxed);
                self.tell(0, *total_bytes);
            }
            // The end is told by `end`, once the file has been checked.
            DownloadEvent::Progress { files } => {
                for file in files.iter().filter(|file| file.bytes_completed < file.total_bytes) {
                    self.tell(file.bytes_completed, file.total_bytes);
                }
            }
            DownloadEvent::AggregateProgress { bytes_completed, total_bytes, .. } if bytes_completed < total_bytes => {
                self.tell(*bytes_completed, *total_bytes);
            }
            DownloadEvent::AggregateProgress { .. } | DownloadEvent::Complete => {}
        }
    }
}
