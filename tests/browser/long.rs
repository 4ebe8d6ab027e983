//! The longer mode: a night's gallery in small, killed at random moments. Not run unless asked for:
//!
//!     cargo test --release --test browser -- --ignored --nocapture

use crate::chrome::Look;
use crate::folder::{assert_equal, files};
use crate::{browser, clean, scratch};
use serde_json::json;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

const PROMPTS: [&str; 5] = [
    "a red apple to the left of a green frog on the beach",
    "a panda above a fox in the snow",
    "a purple heart and a blue house at night",
    "समुद्र तट पर एक हरा मेंढक",
    "<script>alert(1)</script> \"quotes\" & </style> ../../etc/passwd",
];
const SEEDS: usize = 40;

fn gallery(at: &Path, out: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_attnmap"));
    let seeds = format!("0..{SEEDS}");
    command.current_dir(at).args(["gallery", "prompts.txt", "--seeds", &seeds, "--quiet", "--out", out]);
    command.stdout(Stdio::null());
    command
}

#[test]
#[ignore = "takes minutes: makes 400 images"]
fn two_hundred_cells_killed_at_random_moments_are_the_gallery_that_was_never_killed() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    fs::write(at.join("prompts.txt"), PROMPTS.join("\n")).unwrap();
    let whole = Instant::now();
    assert!(gallery(at, "whole").status().unwrap().success());
    let whole = whole.elapsed();

    // Another moment in every try: from before the checkpoint is loaded to well into the work.
    let mut state = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos() as u64 | 1;
    println!("random moments from {state}");
    let mut random = move |most: u128| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        u128::from(state) % most
    };
    let (mut kills, mut unfinished) = (0, Vec::new());
    loop {
        let mut child = gallery(at, "killed").spawn().unwrap();
        let moment = Duration::from_millis(random(whole.as_millis() / 8 + 1) as u64);
        let began = Instant::now();
        let ended = loop {
            match child.try_wait().unwrap() {
                Some(status) => break Some(status),
                None if began.elapsed() >= moment => break None,
                None => std::thread::sleep(Duration::from_millis(3)),
            }
        };
        if let Some(status) = ended {
            assert!(status.success());
            break;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        kills += 1;
        let cells = fs::read_dir(at.join("killed/cells")).map_or(0, Iterator::count);
        unfinished.push(cells);
        // Whatever is there is complete.
        for cell in fs::read_dir(at.join("killed/cells")).into_iter().flatten() {
            let cell = cell.unwrap().path();
            for name in ["run.json", "report.html", "trace.safetensors", "cell.json", "thumb.jpg", "maps.png"] {
                assert!(cell.join(name).is_file(), "{} has no {name}", cell.display());
            }
        }
    }
    println!(
        "{} cells in {:.1} s; killed {kills} times with {unfinished:?} cells there",
        PROMPTS.len() * SEEDS,
        whole.as_secs_f64()
    );
    assert!(kills >= 3, "it must be killed to show anything");
    assert_equal(&at.join("whole"), &at.join("killed"));
    let whole = files(&at.join("whole"));
    let bytes: usize = whole.values().map(Vec::len).sum();
    println!("{} files, {:.0} MB, equal byte for byte", whole.len(), bytes as f64 / 1e6);
    println!("index: {} kB", whole["index.html"].len() / 1000);

    let Some(mut chrome) = browser() else { return };
    chrome.open(&at.join("killed/index.html"), "#word=frog", Look::default());
    assert_eq!(chrome.text(".meta span:nth-child(2)"), "200 images");
    chrome
        .wait("[...document.querySelectorAll('.cell img')].every((image) => image.complete && image.naturalWidth > 0)");
    let lit = chrome.eval("document.querySelectorAll('.cell .lit:not([hidden])').length");
    assert!(lit.as_u64().unwrap() > 5, "{lit} cells are lit");
    chrome.screenshot(false).save(scratch("gallery-200.png")).unwrap();
    println!("opened in {} ms", chrome.eval("document.documentElement.dataset.opened"));
    // The report of a cell, as a reader gets there.
    chrome.click(".cell");
    chrome.wait("location.pathname.endsWith('/report.html') && document.documentElement?.dataset.ready === 'true'");
    assert_eq!(chrome.eval("document.querySelectorAll('.word').length > 3"), json!(true));
    clean(&mut chrome);
}
