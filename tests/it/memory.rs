//! What a run takes of memory: flat in the number of steps beyond the maps of single steps.
#![cfg(target_os = "linux")]

use attnmap::checkpoint::{Checkpoint, OpenOptions, Source};
use attnmap::pipeline::{LoadOptions, Pipeline};
use std::path::Path;
use std::process::{Command, Stdio};

/// Peak resident memory in bytes of a run with the embedded checkpoint. It is read while the run
/// goes on. What the system says at the end counts the memory of the process that began it too, and
/// that is this test's.
fn peak(steps: usize, more: &[&str]) -> u64 {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_attnmap"));
    command.args(["generate", "a red apple on the beach", "--quiet", "--steps", &steps.to_string()]).args(more);
    command.arg("--out").arg(folder.path().join("run")).stdout(Stdio::null());
    let mut child = command.spawn().unwrap();
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    loop {
        let known = std::fs::read_to_string(&status).unwrap_or_default();
        let line = known.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
        peak = kilobytes.map_or(peak, |kilobytes| peak.max(kilobytes * 1024));
        if let Some(status) = child.try_wait().unwrap() {
            assert!(status.success(), "the run failed");
            return peak;
        }
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
}

/// A size that no machine holds, and for which nothing is allocated before it is refused.
const VAST: usize = 1 << 20;

#[test]
fn what_cannot_fit_is_refused_to_everyone() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiny-sd1");
    let checkpoint = Checkpoint::open(&Source::Folder(folder.clone()), &OpenOptions::default()).unwrap();
    let vast = LoadOptions { size: Some([VAST; 2]), ..LoadOptions::default() };
    let refusal = Pipeline::load(&checkpoint, &vast).err().unwrap().to_string();
    assert!(refusal.contains("1048576x1048576") && refusal.contains("are free"), "{refusal}");
    assert!(Pipeline::load(&checkpoint, &LoadOptions { ignore_memory: true, ..vast }).is_ok());
    // Nor does a size that overflows get through.
    let overflowing = LoadOptions { size: Some([usize::MAX; 2]), ..LoadOptions::default() };
    assert!(Pipeline::load(&checkpoint, &overflowing).is_err());

    let place = tempfile::tempdir().unwrap();
    let attnmap = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_attnmap"));
        let model = ["--model", folder.to_str().unwrap(), "--size", "32768x32768"];
        command.current_dir(place.path()).args(arguments).args(model).output().unwrap()
    };
    let run = attnmap(&["generate", "a frog"]);
    crate::cli::refused(&run, 1, &["needs more memory than there is", "GB are free", "--size", "--ignore-memory"]);
    crate::cli::refused(&attnmap(&["sweep", "a frog"]), 1, &["needs more memory than there is"]);
    let gallery = attnmap(&["gallery", "--prompt", "a frog", "--seeds", "0..2", "--out", "g"]);
    let told = String::from_utf8_lossy(&gallery.stderr);
    assert!(told.contains("needs more memory than there is") && gallery.status.code() == Some(1), "{told}");
    assert!(String::from_utf8_lossy(&gallery.stdout).contains("0 made, 0 kept, 2 failed"));
}

#[test]
fn many_steps_take_no_more_than_few() {
    const MIB: u64 = 1 << 20;
    let (few, many) = (peak(5, &["--no-step-maps"]), peak(60, &["--no-step-maps"]));
    println!("5 steps: {} MiB, 60 steps: {} MiB", few / MIB, many / MIB);
    // A step's latents and maps kept by mistake: 55 steps of 3 sites would take more than this.
    assert!(many < few + 8 * MIB, "5 steps: {few} bytes, 60 steps: {many}");
    // 63 MB of weights in f32 beside the 31 MB that the binary holds in f16, and the activations of
    // a 128x128 decoding.
    assert!(many < 220 * MIB, "{many} bytes");
}
