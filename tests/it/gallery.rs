//! Galleries made by the real binary with a tiny checkpoint: killed, continued, split, and with cells that fail.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

const PROMPTS: &str = "a frog on a hat\n# not this\n<script>alert(1)</script> & ../../etc/passwd\n";

fn command(folder: &Path, more: &[&str]) -> Command {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let mut command = Command::new(env!("CARGO_BIN_EXE_attnmap"));
    command.env("NO_COLOR", "1").env("HF_HUB_OFFLINE", "1").current_dir(folder).args(["gallery", "--model"]);
    command.arg(fixtures.join("tiny-sd1")).args(["--steps", "2", "--size", "64x64", "--batch", "2", "--threads", "2"]);
    command.args(["--overlay-size", "64"]).args(more);
    command
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Every file below `folder` with its bytes; how long things took is left out.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut all = BTreeMap::new();
    let mut open = vec![folder.to_path_buf()];
    while let Some(path) = open.pop() {
        for entry in fs::read_dir(path).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(folder).unwrap().to_string_lossy().into_owned();
            if name == "timings" {
                continue;
            }
            if path.is_dir() { open.push(path) } else { drop(all.insert(name, fs::read(&path).unwrap())) }
        }
    }
    all
}

fn assert_equal(a: &Path, b: &Path) {
    let (a, b) = (files(a), files(b));
    assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>());
    for (name, bytes) in &a {
        assert!(*bytes == b[name], "{name} differs");
    }
}

#[test]
fn killed_at_any_moment_and_split_over_shards_it_is_the_same_gallery() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    fs::write(at.join("prompts.txt"), PROMPTS).unwrap();
    let axes = ["prompts.txt", "--seeds", "0..3", "--replace", "frog=cat"];
    let whole = command(at, &axes).args(["--out", "whole"]).output().unwrap();
    assert!(whole.status.success(), "{}", text(&whole));
    assert!(text(&whole).contains("9 made, 0 kept, 0 failed"), "{}", text(&whole));
    let names: Vec<String> = files(&at.join("whole")).into_keys().collect();
    assert_eq!(names.iter().filter(|name| name.ends_with("/report.html")).count(), 9);
    assert!(names.iter().all(|name| !name.contains("..") && !name.contains("partial")), "{names:?}");

    // Killed (not asked to stop) after ever longer times, then left to finish.
    let mut finished = false;
    for round in 0..40u64 {
        let mut child =
            command(at, &axes).args(["--out", "killed"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(20 + 60 * round));
        let done = child.try_wait().unwrap().is_some();
        child.kill().ok();
        child.wait().unwrap();
        if done {
            finished = true;
            break;
        }
        // Whatever is there is complete.
        for entry in fs::read_dir(at.join("killed/cells")).into_iter().flatten() {
            let cell = entry.unwrap().path();
            assert!(cell.join("run.json").is_file() && cell.join("report.html").is_file(), "{}", cell.display());
        }
    }
    if !finished {
        assert!(command(at, &axes).args(["--out", "killed"]).output().unwrap().status.success());
    }
    assert_equal(&at.join("whole"), &at.join("killed"));

    for shard in ["2/3", "1/3", "3/3"] {
        let part = command(at, &axes).args(["--out", "split", "--shard", shard]).output().unwrap();
        assert!(part.status.success(), "{}", text(&part));
    }
    assert_equal(&at.join("whole"), &at.join("split"));
    fs::remove_file(at.join("split/index.html")).unwrap();
    let index = Command::new(env!("CARGO_BIN_EXE_attnmap")).args(["gallery", "--index"]).arg(at.join("split")).output();
    assert!(index.unwrap().status.success());
    assert_equal(&at.join("whole"), &at.join("split"));
}

#[test]
fn a_failing_cell_is_recorded_and_the_rest_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    fs::write(at.join("p.csv"), "prompt,size\na frog,64x64\na cat,10x10\na dog,64x64\n").unwrap();
    let output = command(at, &["p.csv", "--seeds", "5", "--out", "g"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(text(&output).contains("2 made, 0 kept, 1 failed"), "{}", text(&output));
    let failures: Vec<_> = fs::read_dir(at.join("g/failures")).unwrap().collect();
    assert_eq!(failures.len(), 1);
    assert!(fs::read_to_string(at.join("g/index.html")).unwrap().contains("multiple of"));
}

#[test]
fn mistakes_are_named_before_anything_is_made() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    fs::write(at.join("p.txt"), "a frog\n").unwrap();
    fs::create_dir(at.join("full")).unwrap();
    fs::write(at.join("full/mine.txt"), "x").unwrap();
    for (arguments, needle) in [
        (&["p.txt", "--seeds", "3..1"][..], "--seeds"),
        (&["p.txt", "--replace", "apple=pear"], "stands in no prompt"),
        (&["--seeds", "1"], "no prompt"),
        (&["p.txt", "--out", "full"], "other things in it"),
        (&["p.txt", "--shard", "0/2"], "I/N"),
        (&["p.txt", "--words", "frog"], "--words"),
    ] {
        let output = command(at, arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", text(&output));
        assert!(text(&output).contains(needle), "{arguments:?}: {}", text(&output));
    }
    assert!(!at.join("gallery").exists());
}
