//! `attnmap sweep`: what it says of things that were not drawn, seeds that are drawn, and links
//! between sweeps and runs whose names count up.

use crate::cli::attnmap;
use crate::program;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

fn read(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// This checkpoint of random weights draws nothing.
#[test]
fn of_what_no_seed_drew_nothing_else_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/tiny-sd1");
    let made = ["--model", model, "--steps", "2", "--size", "64x64", "--seeds", "0..8", "--out", "swept"];
    let table = program::attnmap(folder.path(), &[&["sweep", "a red apple left of a frog"], &made[..]].concat());
    let table = String::from_utf8(table).unwrap();
    let page = fs::read_to_string(folder.path().join("swept/index.html")).unwrap();
    let found = read(&folder.path().join("swept/sweep.json"));
    let words = found["words"].as_array().unwrap();
    for (at, name) in [(2, "apple"), (6, "frog")] {
        let word = &words[at];
        assert_eq!((&word["word"], &word["neglected"]), (&json!(name), &json!(1.0)));
        assert_eq!(word["drawn"], json!(vec![false; 8]));
        let said = format!("“{name}”");
        assert!(!table.contains(&said) && !page.contains(&said), "{table}");
        assert!(table.contains("in 8 of 8") && page.contains("probably not drawn in 8 of 8"), "{table}");
    }
    assert!(words[1].get("drawn").is_none() && table.contains("“red”"), "colours are not judged: {table}");
    assert_eq!(found["stated"][0]["drawn"], json!({"seeds": 0, "agrees": 0, "fails": 0}));
    assert!(!table.contains("stated:") && !page.contains("stated:"), "{table}");
}

#[test]
fn names_that_count_up_are_linked_too() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let quick = ["--steps", "1"];
    let make = |arguments: &[&str]| drop(program::attnmap(at, &[arguments, &quick].concat()));
    // The first run and the first sweep have other settings than the second ones.
    let first = ["--guidance", "2"];
    make(&[&["generate", "a red apple", "--seed", "0"][..], &first].concat());
    make(&["generate", "a red apple", "--seed", "0"]);
    make(&[&["sweep", "a red apple", "--seeds", "0,1"][..], &first].concat());
    make(&["sweep", "a red apple", "--seeds", "0-2"]);
    make(&["generate", "a red apple", "--seed", "1"]);
    let page = |name: &str| fs::read_to_string(at.join("outputs").join(name)).unwrap();
    let (run, second_run) = (page("a-red-apple-0/report.html"), page("a-red-apple-0-2/report.html"));
    let later = page("a-red-apple-1/report.html");
    assert!(run.contains("../a-red-apple-sweep/index.html") && !run.contains("sweep-2"));
    assert!(second_run.contains("../a-red-apple-sweep-2/index.html"));
    assert!(later.contains("../a-red-apple-sweep-2/index.html"), "a run that came after the sweep");
    let (sweep, second_sweep) = (page("a-red-apple-sweep/index.html"), page("a-red-apple-sweep-2/index.html"));
    assert!(sweep.contains("../a-red-apple-0/report.html") && !sweep.contains("a-red-apple-0-2"));
    assert!(second_sweep.contains("../a-red-apple-0-2/report.html"));
    assert!(!second_sweep.contains("../a-red-apple-0/report.html"), "it has other settings");
}

#[test]
fn seeds_of_a_list_may_be_drawn() {
    let folder = tempfile::tempdir().unwrap();
    let out = |name: &str| folder.path().join(name).display().to_string();
    let swept = out("swept");
    let output = attnmap(&["sweep", "a frog", "--seeds", "random,7,-1", "--steps", "1", "--json", "--out", &swept]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}");
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    let seeds: Vec<u64> = found["seeds"].as_array().unwrap().iter().map(|seed| seed.as_u64().unwrap()).collect();
    assert!(seeds.len() == 3 && seeds[1] == 7 && seeds[0] != seeds[2], "{seeds:?}");
    assert!(said.contains(&format!("--seeds random drew {}, {}", seeds[0], seeds[2])), "{said}");
    // What is recorded makes the same image again.
    let page = fs::read_to_string(folder.path().join("swept/index.html")).unwrap();
    assert!(page.contains(&format!(" --seed {}", seeds[0])), "{page}");

    let cells = out("cells");
    let output = attnmap(&["gallery", "--prompt", "a frog", "--seeds=-1", "--steps", "1", "--out", &cells]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let made: Vec<_> = fs::read_dir(folder.path().join("cells/cells")).unwrap().collect::<Result<_, _>>().unwrap();
    assert_eq!(made.len(), 1);
    let record = read(&made[0].path().join("run.json"));
    let seed = record["settings"]["seed"].as_u64().unwrap();
    assert!(record["command"].as_str().unwrap().contains(&format!(" --seed {seed}")), "{}", record["command"]);
}
