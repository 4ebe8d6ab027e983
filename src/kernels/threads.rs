//! How many threads the operators use, and when a task is worth splitting.

use crate::{Error, Result};
use rayon::prelude::*;
use std::ops::Range;

/// Sizes rayon's global pool, once, before any work: `threads`, or as many as this process may use.
///
/// What it may use is [`std::thread::available_parallelism`]: the affinity mask and cgroup quotas
/// count. Call it first thing in `main`; it tells candle's own pool the same number, which is
/// asleep while ours works and the other way round.
///
/// # Errors
/// When `threads` is 0, or the pool was already built with another size.
pub fn init(threads: Option<usize>) -> Result<usize> {
    let threads = match threads {
        Some(0) => return Err(Error::option("--threads", "must be 1 or more; 0 given")),
        Some(threads) => threads,
        None => std::thread::available_parallelism().map_or(1, usize::from),
    };
    keep_freed_memory();
    // SAFETY: the caller is `main` before any other thread exists; candle reads the variable when
    // it builds its pool.
    unsafe { std::env::set_var("RAYON_NUM_THREADS", threads.to_string()) };
    match rayon::ThreadPoolBuilder::new().num_threads(threads).build_global() {
        Ok(()) => Ok(threads),
        Err(_) if rayon::current_num_threads() == threads => Ok(threads),
        Err(_) => Err(Error::option("--threads", "cannot be changed once work has begun")),
    }
}

/// Lets freed memory be used again without going back to the system. Activations come and go by the
/// hundred megabytes, and fresh pages cost more than what is computed on them.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn keep_freed_memory() {
    // SAFETY: plain settings of the C library's allocator; a refusal only leaves its defaults.
    unsafe {
        libc::mallopt(libc::M_MMAP_MAX, 0);
        libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX);
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn keep_freed_memory() {}

/// Threads that an operator can expect to run on.
pub fn count() -> usize {
    rayon::current_num_threads()
}

/// Work below this many nanoseconds (as estimated for one thread) is not worth waking another
/// thread for.
const WORTH_SPLITTING: usize = 40_000;

/// Calls `task` for every index below `tasks`. The pool is used when `nanoseconds`, the estimate
/// for all tasks on one thread, is worth it.
pub(crate) fn each(tasks: usize, nanoseconds: usize, task: impl Fn(usize) + Send + Sync) {
    if tasks <= 1 || nanoseconds < WORTH_SPLITTING || count() == 1 {
        (0..tasks).for_each(task);
    } else {
        (0..tasks).into_par_iter().with_max_len(1).for_each(task);
    }
}

/// Splits `0..length` into ranges of about equal size, multiples of `step`, and calls `task` for
/// each. There are enough ranges to keep all threads busy; see [`each`] for `nanoseconds`.
pub(crate) fn ranges(length: usize, step: usize, nanoseconds: usize, task: impl Fn(Range<usize>) + Send + Sync) {
    let steps = length.div_ceil(step.max(1));
    let tasks = steps.min(4 * count()).min(nanoseconds / (WORTH_SPLITTING / 4) + 1).max(1);
    each(tasks, nanoseconds, |index| {
        let start = (index * steps / tasks) * step;
        let end = (((index + 1) * steps / tasks) * step).min(length);
        if start < end {
            task(start..end);
        }
    });
}
