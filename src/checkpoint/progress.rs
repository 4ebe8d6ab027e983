//! Who is told how a download goes.

/// Told how a download goes. Calls may come from other threads.
pub trait Progress: Send + Sync {
    /// `done` of `total` bytes of `file` have arrived; `done == total` once at its end. `total` is
    /// 0 where unknown.
    fn download(&self, file: &str, done: u64, total: u64);
}
