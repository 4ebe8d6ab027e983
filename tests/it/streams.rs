//! Streams, signals and threads that fail: the work is done all the same, and the exit code says
//! what came of it.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use crate::cli::walk;

fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_attnmap"));
    command.current_dir(folder).args(arguments).env("NO_COLOR", "1").env("HF_HUB_OFFLINE", "1");
    command
}

/// `generate` of a word that the default checkpoint never saw, of which it warns.
const WARNED: [&str; 7] = ["generate", "a red giraffe", "--steps", "1", "--overlay-size", "64", "--out"];

/// A device on which every write fails.
fn full() -> Stdio {
    OpenOptions::new().write(true).open("/dev/full").expect("Linux has it").into()
}

/// A pipe that nobody reads.
fn closed() -> Stdio {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    writer.into()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn all_that_is_printed_goes_through_one_place() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for file in walk(&src).into_iter().filter(|file| file.extension().is_some_and(|ending| ending == "rs")) {
        // Test fixtures of the library, which no binary has.
        if file.ends_with("model/fixture.rs") {
            continue;
        }
        let code = fs::read_to_string(&file).unwrap();
        let code = code.split("#[cfg(test)]").next().unwrap();
        for line in code.lines().filter(|line| !line.trim_start().starts_with("//")) {
            for printer in ["println!(", "print!(", "dbg!("] {
                assert!(!line.contains(printer), "{}: {line:?} panics where it cannot be written", file.display());
            }
            let place =
                file.ends_with("cli/print.rs") || !line.contains("io::stderr()") || line.contains("is_terminal");
            assert!(place, "{}: {line:?} belongs into cli/print.rs", file.display());
        }
    }
}

#[test]
fn all_that_is_read_goes_through_one_place() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    // What the system tells of itself, and the cache of the hub, whose files other programs lay.
    let apart = [src.join("files"), src.join("pipeline/free.rs"), src.join("checkpoint/hub")];
    for file in walk(&src).into_iter().filter(|file| file.extension().is_some_and(|ending| ending == "rs")) {
        if apart.iter().any(|place| file.starts_with(place)) {
            continue;
        }
        let code = fs::read_to_string(&file).unwrap();
        let code = code.split("#[cfg(test)]").next().unwrap();
        for line in code.lines().filter(|line| !line.trim_start().starts_with("//")) {
            for reader in ["fs::read(", "fs::read_to_string("] {
                assert!(!line.contains(reader), "{}: {line:?} waits for a pipe for ever", file.display());
            }
        }
    }
}

#[cfg(unix)]
#[test]
fn a_pipe_among_the_files_of_a_run_is_not_waited_for() {
    use std::time::{Duration, Instant};
    let (made, folder, run) = crate::cli::generate("a red apple", &[]);
    assert!(made.status.success(), "{}", text(&made.stderr));
    let cases: [(&str, &[&str]); 2] =
        [("words.png", &["report", "run"]), ("evidence.json", &["ask", "run", "--at", "9,9", "--cause"])];
    for (name, arguments) in cases {
        let file = run.join(name);
        fs::remove_file(&file).ok();
        let path = std::ffi::CString::new(file.to_str().unwrap()).unwrap();
        // SAFETY: a C string that lives on, and no pointer is kept.
        assert_eq!(unsafe { libc::mkfifo(path.as_ptr(), 0o600) }, 0);
        let quiet = (Stdio::null(), Stdio::null());
        let mut child = command(folder.path(), arguments).stdout(quiet.0).stderr(quiet.1).spawn().unwrap();
        let since = Instant::now();
        let mut ended = false;
        while !ended && since.elapsed() < Duration::from_secs(60) {
            std::thread::sleep(Duration::from_millis(20));
            ended = child.try_wait().unwrap().is_some();
        }
        child.kill().ok();
        child.wait().unwrap();
        assert!(ended, "{name}: {arguments:?} waits for a pipe");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn what_cannot_be_said_on_stderr_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    for (index, stderr) in [full(), closed()].into_iter().enumerate() {
        let out = format!("run-{index}");
        let made = command(folder.path(), &[&WARNED[..], &[&out]].concat()).stderr(stderr).output().unwrap();
        assert_eq!(made.status.code(), Some(0));
        assert!(folder.path().join(&out).join("report.html").is_file(), "{out}");
    }
    for (arguments, code) in [(&["facts", "nosuch"][..], 1), (&["models", "a b"], 2), (&["generate", "--sed"], 2)] {
        for stderr in [full(), closed()] {
            let ended = command(folder.path(), arguments).stderr(stderr).output().unwrap();
            assert_eq!(ended.status.code(), Some(code), "{arguments:?}");
        }
    }
    // A cell that fails, and a warning of it.
    let gallery = ["gallery", "--prompt", "a frog", "--seeds", "0", "--steps", "1,5000", "--overlay-size", "64"];
    let ended = command(folder.path(), &gallery).stderr(full()).output().unwrap();
    assert_eq!(ended.status.code(), Some(1), "{}", text(&ended.stdout));
    assert!(text(&ended.stdout).contains("1 made, 0 kept, 1 failed"), "{}", text(&ended.stdout));
    // A reader of stdout that is gone hides neither the work nor how it ended.
    let ended = command(folder.path(), &gallery).stdout(closed()).output().unwrap();
    assert_eq!(ended.status.code(), Some(1), "{}", text(&ended.stderr));
}

#[test]
fn a_reader_of_stdout_that_goes_away_stops_no_work() {
    let folder = tempfile::tempdir().unwrap();
    let arguments = [&WARNED[..], &["runs", "--images", "2"]].concat();
    let made = command(folder.path(), &arguments).stdout(closed()).output().unwrap();
    assert_eq!(made.status.code(), Some(0), "{}", text(&made.stderr));
    assert_eq!(walk(folder.path()).iter().filter(|path| path.ends_with("report.html")).count(), 2);
    for arguments in [&["--help"][..], &["models"], &["completions", "bash"], &["generate", "--help"]] {
        let ended = command(folder.path(), arguments).stdout(closed()).output().unwrap();
        assert_eq!((ended.status.code(), text(&ended.stderr).as_str()), (Some(0), ""), "{arguments:?}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn facts_that_cannot_be_written_are_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let generate = [&WARNED[..], &["run", "--json", "--quiet"]].concat();
    let commands: [&[&str]; 6] =
        [&["--help"], &["--version"], &["models"], &["completions", "zsh"], &["view", "--help"], &generate];
    for arguments in commands {
        let ended = command(folder.path(), arguments).stdout(full()).output().unwrap();
        let said = text(&ended.stderr);
        let lines: Vec<&str> = said.lines().filter(|line| !line.contains("warning:")).collect();
        assert_eq!(ended.status.code(), Some(1), "{arguments:?}: {said}");
        assert!(lines.len() == 1 && lines[0].contains("standard output: No space left"), "{arguments:?}: {said}");
    }
    assert!(folder.path().join("run/run.json").is_file(), "the run is there");
}

#[cfg(unix)]
mod signals {
    use super::*;
    use std::os::unix::process::CommandExt;
    use std::time::{Duration, Instant};

    const ENDING: [(&str, libc::c_int); 3] = [("HUP", libc::SIGHUP), ("INT", libc::SIGINT), ("TERM", libc::SIGTERM)];

    /// A run of a second or more, for which `signal` has the action `action` when it begins, and
    /// the others their own.
    fn begin(folder: &Path, signal: libc::c_int, action: libc::sighandler_t) -> Child {
        let long = ["generate", "a red apple", "--steps", "60", "--overlay-size", "64", "--out", "run", "-q"];
        let mut command = command(folder, &long);
        command.stderr(Stdio::piped()).stdout(Stdio::null());
        // SAFETY: `signal` may be called between fork and exec.
        unsafe {
            command.pre_exec(move || {
                for (_, other) in ENDING {
                    libc::signal(other, libc::SIG_DFL);
                }
                libc::signal(signal, action);
                Ok(())
            });
        }
        command.spawn().unwrap()
    }

    /// Waits until the handlers are set, and says whether `signal` is ignored.
    fn handled(child: &Child, signal: libc::c_int) -> u64 {
        let bit = 1u64 << (signal - 1);
        let since = Instant::now();
        loop {
            let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
            let mask = |name: &str| {
                let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("0");
                u64::from_str_radix(line.trim(), 16).unwrap_or(0)
            };
            let set = ENDING.iter().all(|(_, other)| (mask("SigCgt:") | mask("SigIgn:")) & (1 << (other - 1)) != 0);
            if set || since.elapsed() > Duration::from_secs(20) {
                return mask("SigIgn:") & bit;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn send(child: &Child, signal: libc::c_int) {
        // SAFETY: a plain system call.
        assert_eq!(unsafe { libc::kill(child.id() as libc::pid_t, signal) }, 0);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_signal_that_was_ignored_stays_ignored() {
        for (name, signal) in ENDING {
            let folder = tempfile::tempdir().unwrap();
            let child = begin(folder.path(), signal, libc::SIG_IGN);
            assert_ne!(handled(&child, signal), 0, "SIG{name}");
            send(&child, signal);
            let ended = child.wait_with_output().unwrap();
            assert_eq!(ended.status.code(), Some(0), "SIG{name}: {}", text(&ended.stderr));
            assert!(folder.path().join("run/run.json").is_file(), "SIG{name}");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_signal_ends_the_run_and_leaves_nothing() {
        for (name, signal) in ENDING {
            let folder = tempfile::tempdir().unwrap();
            let child = begin(folder.path(), signal, libc::SIG_DFL);
            assert_eq!(handled(&child, signal), 0, "SIG{name}");
            send(&child, signal);
            let ended = child.wait_with_output().unwrap();
            assert_eq!(ended.status.code(), Some(130), "SIG{name}: {}", text(&ended.stderr));
            assert!(text(&ended.stderr).contains("interrupted"), "SIG{name}: {}", text(&ended.stderr));
            assert!(walk(folder.path()).is_empty(), "SIG{name}");
        }
    }

    /// `ulimit -u 1`: the limit counts for users that are not root alone, so the run is another's.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_run_is_made_where_the_system_gives_no_thread() {
        let folder = tempfile::tempdir().unwrap();
        let binary = folder.path().join("attnmap");
        fs::copy(env!("CARGO_BIN_EXE_attnmap"), &binary).unwrap();
        let open = |path: &Path| {
            use std::os::unix::fs::PermissionsExt;
            fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
        };
        [folder.path(), &binary].into_iter().for_each(open);
        for arguments in
            [&["generate", "a red apple", "--steps", "1", "--out", "run"][..], &["models"], &["view", "run"]]
        {
            let ended = limited(&binary, folder.path(), arguments);
            assert_eq!(ended.status.code(), Some(0), "{arguments:?}: {}", text(&ended.stderr));
            assert!(!text(&ended.stderr).contains("panicked"), "{arguments:?}: {}", text(&ended.stderr));
        }
        assert!(folder.path().join("run/report.html").is_file());
    }

    fn limited(binary: &Path, folder: &Path, arguments: &[&str]) -> Output {
        let mut command = Command::new(binary);
        command.current_dir(folder).args(arguments).env("HF_HUB_OFFLINE", "1").env("HOME", PathBuf::from(folder));
        // SAFETY: both calls may be made between fork and exec; a user of its own has no other
        // process.
        unsafe {
            command.pre_exec(|| {
                if libc::getuid() == 0 && libc::setuid(54_321) != 0 {
                    return Err(std::io::Error::last_os_error());
                }
                let one = libc::rlimit { rlim_cur: 1, rlim_max: 1 };
                match libc::setrlimit(libc::RLIMIT_NPROC, &one) {
                    0 => Ok(()),
                    _ => Err(std::io::Error::last_os_error()),
                }
            });
        }
        command.output().unwrap()
    }
}
