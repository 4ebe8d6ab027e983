//! How many threads the operators use, and when a task is worth splitting.

use crate::argument::THREADS;
use crate::{Error, Result};
use rayon::prelude::*;
use std::ops::Range;
use std::sync::{Arc, Mutex};

/// Sizes rayon's global pool, once, before any work: `threads`, or as many as this process may use.
///
/// What it may use is [`std::thread::available_parallelism`]: the affinity mask and cgroup quotas
/// count. Call it first thing in `main`; it tells candle's own pool the same number, which is
/// asleep while ours works and the other way round. Where the system does not give so many
/// threads, the calling one works alone. Returns how many work.
///
/// # Errors
/// When `threads` is 0, or the pool was already built with another size.
pub fn init(threads: Option<usize>) -> Result<usize> {
    let threads = match threads {
        Some(0) => return Err(Error::argument(THREADS, "must be 1 or more; 0 given")),
        Some(threads) => threads,
        None => std::thread::available_parallelism().map_or(1, usize::from),
    };
    keep_freed_memory();
    // A pool that cannot be built cannot be tried again with less: what the system gives is tried.
    let alone = !gives(threads);
    let threads = if alone { 1 } else { threads };
    // SAFETY: the caller is `main` before any other thread exists; candle reads the variable when
    // it builds its pool.
    unsafe { std::env::set_var("RAYON_NUM_THREADS", threads.to_string()) };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
    // The calling thread does all of the work where there can be no other.
    let pool = if alone { pool.use_current_thread() } else { pool };
    match pool.build_global() {
        Ok(()) => Ok(threads),
        Err(_) if rayon::current_num_threads() == threads => Ok(threads),
        Err(_) => Err(Error::argument(THREADS, "cannot be changed once work has begun")),
    }
}

/// Whether the system gives this process so many threads at once: `ulimit -u` and a container's
/// own limit count.
fn gives(threads: usize) -> bool {
    let gate = Arc::new(Mutex::new(()));
    let closed = gate.lock();
    let spawn = |_| {
        let gate = gate.clone();
        std::thread::Builder::new().stack_size(64 << 10).spawn(move || drop(gate.lock()))
    };
    let given: Vec<_> = (0..threads).map(spawn).take_while(Result::is_ok).flatten().collect();
    drop(closed);
    let count = given.len();
    given.into_iter().for_each(|thread| drop(thread.join()));
    count == threads
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
