//! Ctrl-C during a command on a run that exists: exit code 130, and the run is as it was.

#![cfg(unix)]

use crate::cli::{attnmap, walk};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

fn contents(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    walk(folder).into_iter().map(|file| (file.clone(), fs::read(file).unwrap())).collect()
}

#[test]
fn a_command_on_a_run_that_is_interrupted_leaves_the_run_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run").display().to_string();
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiny-sd1").display().to_string();
    let prompt = "a red apple to the left of a green frog, a blue house, a small dog, a big cat and a yellow flower";
    let made = attnmap(&[
        "generate",
        prompt,
        "--model",
        &model,
        "--steps",
        "12",
        "--size",
        "128x128",
        "-q",
        "--no-step-maps",
        "--out",
        &run,
    ]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let before = contents(folder.path());
    let commands: [&[&str]; 4] = [
        &["probe", &run, "--words", "hat,shadow"],
        &["explain", &run, "--counterfactual"],
        &["ask", &run, "--at", "9,9", "--cause"],
        &["attribute", &run, "--word", "apple"],
    ];
    for command in commands {
        let mut child = Command::new(env!("CARGO_BIN_EXE_attnmap"))
            .args(command)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(250));
        assert!(child.try_wait().unwrap().is_none(), "{command:?} ended before it was interrupted");
        assert_eq!(unsafe { libc::kill(child.id() as libc::pid_t, libc::SIGINT) }, 0);
        let output = child.wait_with_output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(130), "{command:?}: {told}");
        let after = contents(folder.path());
        let names = |files: &BTreeMap<PathBuf, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&after), names(&before), "{command:?}");
        assert!(after == before, "{command:?} changed a file");
    }
}
