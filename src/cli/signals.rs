//! The signals that end the program, before which everything half-made is removed.

use std::sync::{Mutex, PoisonError};

/// What a command wants to be said when it is interrupted.
type LastWords = Box<dyn FnMut() -> String + Send>;

static LAST_WORDS: Mutex<Option<LastWords>> = Mutex::new(None);

/// Lets `say` be called when the program is ended by a signal: it may finish what must be, and says
/// how things stand.
pub fn say_at_end(say: impl FnMut() -> String + Send + 'static) {
    *LAST_WORDS.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(say));
}

/// What the command wants to be said.
pub fn last_words() -> Option<String> {
    LAST_WORDS.lock().unwrap_or_else(PoisonError::into_inner).as_mut().map(|say| say())
}

/// Calls `handler` on its own thread when SIGINT, SIGTERM or SIGHUP comes; the handler ends the
/// program. A signal that was ignored when the program began (`nohup`, `trap ''`, a job in the
/// background of a script) stays ignored. Where the system gives no thread, signals end the program
/// at once.
///
/// # Errors
/// When the system refuses a handler.
pub fn on_end(handler: impl FnMut() + Send + 'static) -> anyhow::Result<()> {
    fail_beyond_limits();
    let installed = keeping_ignored(|| ctrlc::set_handler(handler));
    match installed {
        Err(ctrlc::Error::System(_)) => {
            end_at_once();
            Ok(())
        }
        result => Ok(result?),
    }
}

/// Beyond a limit on the size of files (`ulimit -f`) a write fails, and what is half made goes. On
/// its own the system would end the program.
fn fail_beyond_limits() {
    #[cfg(unix)]
    // SAFETY: SIG_IGN is a valid action.
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
    }
}

#[cfg(unix)]
const ENDING: [libc::c_int; 3] = [libc::SIGHUP, libc::SIGINT, libc::SIGTERM];

/// Runs `install`, which handles all of [`ENDING`], and puts back that a signal is ignored. In
/// between such a signal is held back, so that none reaches the handler.
#[cfg(unix)]
fn keeping_ignored<T>(install: impl FnOnce() -> T) -> T {
    let ignored: Vec<libc::c_int> = ENDING.into_iter().filter(|&signal| is_ignored(signal)).collect();
    // SAFETY: the sets are plain data, initialised by `sigemptyset` and by `pthread_sigmask` before
    // they are read; SIG_IGN is a valid action.
    unsafe {
        let mut held = std::mem::zeroed::<libc::sigset_t>();
        libc::sigemptyset(&mut held);
        for &signal in &ignored {
            libc::sigaddset(&mut held, signal);
        }
        let mut before = std::mem::zeroed::<libc::sigset_t>();
        libc::pthread_sigmask(libc::SIG_BLOCK, &held, &mut before);
        let result = install();
        for &signal in &ignored {
            // A signal that waits is thrown away by this.
            libc::signal(signal, libc::SIG_IGN);
        }
        libc::pthread_sigmask(libc::SIG_SETMASK, &before, std::ptr::null_mut());
        result
    }
}

#[cfg(unix)]
fn is_ignored(signal: libc::c_int) -> bool {
    // SAFETY: only asks; `sigaction` fills the zeroed action in.
    unsafe {
        let mut action = std::mem::zeroed::<libc::sigaction>();
        libc::sigaction(signal, std::ptr::null(), &mut action) == 0 && action.sa_sigaction == libc::SIG_IGN
    }
}

/// What the system does on its own: without a thread that waits for it, a handled signal would only
/// be swallowed.
#[cfg(unix)]
fn end_at_once() {
    for signal in ENDING.into_iter().filter(|&signal| !is_ignored(signal)) {
        // SAFETY: SIG_DFL is a valid action for each of them.
        unsafe {
            libc::signal(signal, libc::SIG_DFL);
        }
    }
}

#[cfg(not(unix))]
fn keeping_ignored<T>(install: impl FnOnce() -> T) -> T {
    install()
}

#[cfg(not(unix))]
fn end_at_once() {}
