//! Expectations, causes at a place and two words against each other, through the command line, on
//! one run of the default checkpoint.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use serde_json::Value;
use tempfile::TempDir;

use crate::cli::{attnmap, refused};

const PROMPT: &str = "a red apple to the left of a green frog on the beach";

struct Made {
    _folder: TempDir,
    run: PathBuf,
    code: Option<i32>,
    told: String,
}

/// One run, whose expectations are met but for one. Tests that change it take a copy.
static MADE: LazyLock<Made> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let expect = "frog right of apple, apple@left, frog@0.5,0,0.5,1, frog, no fox, frog@left";
    let out = run.display().to_string();
    let output =
        attnmap(&["generate", PROMPT, "--steps", "12", "--keep-steps", "0", "--expect", expect, "--out", &out]);
    let told = String::from_utf8(output.stdout).unwrap();
    assert!(!told.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    Made { _folder: folder, run, code: output.status.code(), told }
});

fn copy() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("run");
    for file in crate::cli::walk(&MADE.run) {
        let target = to.join(file.strip_prefix(&MADE.run).unwrap());
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::copy(&file, target).unwrap();
    }
    (folder, to)
}

fn record(run: &Path) -> Value {
    serde_json::from_slice(&fs::read(run.join("run.json")).unwrap()).unwrap()
}

fn outcomes(record: &Value) -> Vec<(String, Option<bool>)> {
    let list = record["expectations"].as_array().unwrap();
    list.iter().map(|one| (one["expectation"].as_str().unwrap().to_owned(), one["met"].as_bool())).collect()
}

#[test]
fn what_is_expected_is_judged_kept_and_told() {
    let made = &*MADE;
    assert_eq!(made.code, Some(3), "{}", made.told);
    let record = record(&made.run);
    let met: Vec<Option<bool>> = outcomes(&record).into_iter().map(|(_, met)| met).collect();
    assert_eq!(met, [Some(true), Some(true), Some(true), Some(true), Some(true), Some(false)], "{}", made.told);
    let list = &record["expectations"];
    assert_eq!(
        (&list[0]["measure"], &list[1]["measure"], &list[2]["measure"]),
        (&"offset".into(), &"margin".into(), &"inside".into())
    );
    assert_eq!((&list[3]["measure"], &list[4]["measure"]), (&"gain".into(), &"gain".into()));
    for outcome in list.as_array().unwrap().iter().filter(|outcome| outcome["measure"] != "gain") {
        let (value, bound) = (outcome["value"].as_f64().unwrap(), outcome["bound"].as_f64().unwrap());
        assert_eq!(Some(value >= bound), outcome["met"].as_bool(), "{outcome}");
    }
    // A phrase stands where its thing stands, whatever the map of its colour.
    let phrase = attnmap(&[
        "facts",
        &made.run.display().to_string(),
        "--expect",
        "a red apple left of the green frog",
        "--json",
    ]);
    let phrase: Value = serde_json::from_slice(&phrase.stdout).unwrap();
    assert_eq!(phrase["expectations"][0]["value"], list[0]["value"]);
    // The figures are those of the maps.
    let centre = |word: &str| {
        let words = record["words"].as_array().unwrap();
        words.iter().find(|entry| entry["text"] == word).unwrap()["centroid"]["x"].as_f64().unwrap()
    };
    assert!((list[0]["value"].as_f64().unwrap() - (centre("frog") - centre("apple"))).abs() < 1e-5);
    assert!((list[1]["value"].as_f64().unwrap() - (0.5 - centre("apple"))).abs() < 1e-5);
    assert!(made.told.contains("frog right of apple: met; its centre lies"), "{}", made.told);
    assert!(made.told.contains("frog@left: not met; its centre lies at"), "{}", made.told);
    // What the prompt does not name is looked for in the image, and nothing else changes.
    assert!(record.get("probes").is_none() && list[4]["says"].as_str().unwrap().contains("noised image"), "{list}");
    let page = fs::read_to_string(made.run.join("report.html")).unwrap();
    assert!(page.contains("Expected: frog@left: not met"));
}

#[test]
fn a_run_that_exists_is_judged_by_other_expectations() {
    let run = MADE.run.display().to_string();
    let facts = |expect: &str| attnmap(&["facts", &run, "--expect", expect, "--json"]);
    // The look for a fox is known, and one for a house is taken now.
    let (met, unmet) = (facts("apple left of frog, no fox, no house"), facts("apple@right, apple left of frog"));
    assert!(String::from_utf8_lossy(&met.stdout).contains("no house"), "{}", String::from_utf8_lossy(&met.stderr));
    assert_eq!((met.status.code(), unmet.status.code()), (Some(0), Some(3)));
    let told: Value = serde_json::from_slice(&unmet.stdout).unwrap();
    assert_eq!(outcomes(&told)[0], ("apple@right".to_owned(), Some(false)));
    assert!(told["words"].as_array().unwrap().len() > 10, "the facts stay as they are");
    assert!(String::from_utf8_lossy(&unmet.stderr).contains("1 of 2 expectations is not met"));

    for (expect, parts) in [
        ("apple@lft", &["--expect", "at character 7", "no side"][..]),
        ("apple@left, panda@right", &["at character 13", "panda", "is not in the prompt"]),
        ("apple@left, no beach", &["at character 16", "maps do not tell whether"]),
        ("", &["--expect", "there is none"]),
    ] {
        refused(&facts(expect), 2, parts);
    }
    // Before a checkpoint is loaded, and before anything is made.
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run").display().to_string();
    let make = |expect: &str| attnmap(&["generate", "a frog", "--steps", "2", "--out", &out, "--expect", expect]);
    refused(&make("frog@"), 2, &["at character 6", "no side"]);
    refused(&make("frog@left, hat left of frog"), 2, &["at character 12", "hat", "is not in the prompt"]);
    // What is judged by tags is looked for among the tags, with or without their article.
    let picture = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/scenes/final/02.png");
    let by_tag = ["--by", "tag", "--expect", "frog@left", "--out", &out];
    for command in [&["generate"][..], &["trace", picture]] {
        let output = attnmap(&[command, &["a green frog, a house"], &by_tag[..]].concat());
        refused(&output, 2, &["--expect", "is a part of a tag"]);
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    let small = ["--model", &tiny(), "--steps", "1", "--size", "64x64"];
    let expect = ["--by", "tag", "--expect", "frog left of the house, \"a house\"@right", "--out", &out];
    let output = attnmap(&[&["generate", "a frog, a house"][..], &small, &expect].concat());
    assert!(matches!(output.status.code(), Some(0 | 3)), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn other_maps_are_judged_anew() {
    let (_folder, run) = copy();
    let path = run.display().to_string();
    let output = attnmap(&["view", &path, "--threshold", "0.8"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let (before, after) = (record(&MADE.run), record(&run));
    assert_eq!(outcomes(&before).len(), outcomes(&after).len());
    assert_ne!(before["expectations"][0]["value"], after["expectations"][0]["value"]);
}

fn tiny() -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiny-sd1").display().to_string()
}

#[test]
fn sweeps_count_seeds_and_galleries_have_a_filter() {
    let folder = tempfile::tempdir().unwrap();
    let (model, at) = (tiny(), |name: &str| folder.path().join(name).display().to_string());
    let own = ["--model", &model, "--steps", "2", "--size", "64x64"];
    let out = at("sweep");
    let args =
        ["sweep", "a red apple and a frog", "--seeds", "0..3", "--expect", "apple left of frog, no fox", "--json"];
    let output = attnmap(&[&args[..], &["--out", &out], &own].concat());
    let swept: Value = serde_json::from_slice(&output.stdout).unwrap();
    let expected = swept["expectations"].as_array().unwrap();
    assert_eq!(expected.len(), 2);
    let mut all = true;
    for one in expected {
        let met: Vec<bool> = one["met"].as_array().unwrap().iter().map(|met| met.as_bool().unwrap()).collect();
        let share = met.iter().filter(|met| **met).count() as f64 / 3.0;
        assert!(met.len() == 3 && (one["share"].as_f64().unwrap() - share).abs() < 1e-9, "{one}");
        all &= met.iter().all(|met| *met);
    }
    assert_eq!(output.status.code(), Some(if all { 0 } else { 3 }));
    let page = fs::read_to_string(folder.path().join("sweep/index.html")).unwrap();
    assert!(page.contains("expected: apple left of frog: met in"));

    let out = at("gallery");
    let gallery = |expect: &str| {
        let args = ["gallery", "--prompt", "a red apple and a frog", "--prompt", "a box", "--seeds", "0..2", "--json"];
        attnmap(&[&args[..], &["--expect", expect, "--out", &out], &own].concat())
    };
    let cells = || -> Vec<Value> {
        let mut folders: Vec<_> =
            fs::read_dir(folder.path().join("gallery/cells")).unwrap().collect::<Result<_, _>>().unwrap();
        folders.sort_by_key(|entry| entry.file_name());
        folders.iter().map(|entry| record(&entry.path())).collect()
    };
    let made = gallery("apple left of frog, no fox");
    let told: Value = serde_json::from_slice(&made.stdout).unwrap();
    let counts = [&told["facts"]["expected"]["met"], &told["facts"]["expected"]["unmet"]].map(|n| n.as_u64().unwrap());
    assert_eq!(counts.iter().sum::<u64>(), 4);
    assert_eq!(made.status.code(), Some(if counts[1] > 0 { 3 } else { 0 }));
    for cell in cells() {
        let applies = cell["prompt"].as_str().unwrap().contains("apple");
        assert_eq!(cell["expectations"][0]["met"].is_boolean(), applies, "{}", cell["expectations"]);
        assert!(cell["expectations"][1]["met"].is_boolean());
        assert!(cell["command"].as_str().unwrap().contains("--expect 'apple left of frog, no fox'"));
    }
    let index = fs::read_to_string(folder.path().join("gallery/index.html")).unwrap();
    assert!(index.contains(r#""expectations":["apple left of frog","no fox"]"#));

    // Cells that are there are judged by what is expected now, from their traces.
    let traces = |cell: &Value| cell["expectations"][0]["expectation"].clone();
    let again = gallery("frog@left");
    let told: Value = serde_json::from_slice(&again.stdout).unwrap();
    assert_eq!((&told["facts"]["made"], &told["facts"]["kept"]), (&0.into(), &4.into()));
    assert!(cells().iter().all(|cell| traces(cell) == "frog@left"));
    refused(&gallery("panda@left"), 2, &["at character 1", "stands in no prompt"]);
}

#[test]
fn causes_at_a_place_are_ranked_and_kept() {
    let (_folder, run) = copy();
    let path = run.display().to_string();
    let centre = |word: &str| {
        let words = record(&run)["words"].as_array().unwrap().clone();
        let at = words.iter().find(|entry| entry["text"] == word).unwrap()["centroid"].clone();
        let [x, y] = ["x", "y"].map(|side| (at[side].as_f64().unwrap() * 128.0) as u32);
        format!("{x},{y}")
    };
    for noun in ["apple", "frog"] {
        let at = centre(noun);
        let output = attnmap(&["ask", &path, "--at", &at, "--cause", "--json"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let parts: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(parts[0]["word"], noun, "{parts}");
        let causes = parts.as_array().unwrap().iter().filter_map(|part| part["cause"].as_f64());
        let causes: Vec<f64> = causes.collect();
        assert_eq!(causes.len(), 5, "red, apple, green, frog, beach");
        assert!((causes.iter().sum::<f64>() - 1.0).abs() < 1e-9, "{causes:?}");
        // A colour follows its noun.
        let colour = if noun == "apple" { "red" } else { "green" };
        assert_eq!(parts[1]["word"], colour, "{parts}");
    }
    // It is kept: the second question loads no checkpoint, and the page has it.
    assert!(run.join("evidence.json").is_file());
    let table = attnmap(&["ask", &path, "--at", "90,60", "--cause"]);
    let table = (String::from_utf8(table.stdout).unwrap(), String::from_utf8(table.stderr).unwrap());
    assert!(table.0.starts_with("word") && table.0.contains("share of its change") && table.1.is_empty(), "{table:?}");
    refused(&attnmap(&["ask", &path, "--cause"]), 2, &["--at", "name a place"]);
    refused(&attnmap(&["ask", &path, "--at", "1,1", "--cause", "--words", "red apple"]), 2, &["no single word"]);
}

#[test]
fn two_words_are_held_against_each_other() {
    let (_folder, run) = copy();
    let path = run.display().to_string();
    let output = attnmap(&["ask", &path, "--versus", "apple, frog", "--json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found["words"], serde_json::json!(["apple", "frog"]));
    let numbers = |name: &str| -> Vec<f64> {
        found[name].as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).collect()
    };
    let (map, change) = (numbers("map"), numbers("change"));
    assert_eq!((map.len(), change.len()), (256, 256));
    let half = |values: &[f64], right: bool| -> f64 {
        values.iter().enumerate().filter(|(cell, _)| (cell % 16 >= 8) == right).map(|(_, value)| value).sum()
    };
    // The apple stands on the left, and so does what cutting it changes.
    assert!(half(&map, false) > 0.0 && half(&map, true) < 0.0);
    assert!(half(&change, false) > 0.0 && half(&change, true) < 0.0);
    let places = found["places"].as_array().unwrap();
    assert_eq!(places.len(), 2);
    let pair = |place: &Value, name: &str| [0, 1].map(|word: usize| place[name][word].as_f64().unwrap());
    assert!(pair(&places[0], "change")[0] > pair(&places[0], "change")[1]);
    assert!(pair(&places[1], "attention")[0] < pair(&places[1], "attention")[1]);
    // Of the whole image each has what `ask` says of it.
    let whole = ["--box", "0,0,128,128", "--json"];
    let whole = |more: &[&str]| -> Value {
        serde_json::from_slice(&attnmap(&[&["ask", &path][..], more, &whole].concat()).stdout).unwrap()
    };
    let (both, ranked) = (whole(&["--versus", "apple,frog"]), whole(&[]));
    for (at, word) in ["apple", "frog"].into_iter().enumerate() {
        let own = ranked.as_array().unwrap().iter().find(|part| part["word"] == word).unwrap();
        let difference = own["share"].as_f64().unwrap() - both["places"][0]["attention"][at].as_f64().unwrap();
        assert!(difference.abs() < 1e-6, "{word}");
    }
    for file in ["versus/apple-frog.png", "versus/apple-frog.json"] {
        assert!(run.join(file).is_file(), "{file}");
    }

    // A probe has a map and nothing to cut; a place has one row for each word.
    assert!(attnmap(&["probe", &path, "--words", "fox"]).status.success());
    let output = attnmap(&["ask", &path, "--versus", "frog,fox", "--box", "64,0,64,128"]);
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(
        table.contains("box 64, 0, 64, 128") && table.contains("probe:fox") && table.contains("was not cut"),
        "{table}"
    );
    // What a run was asked about can be expected by either name, and the image is looked at for it.
    let expected = attnmap(&["facts", &path, "--expect", "probe:fox, fox", "--json"]);
    let told: Value = serde_json::from_slice(&expected.stdout).unwrap();
    let [marked, bare] = [0, 1].map(|at: usize| told["expectations"][at].clone());
    assert_eq!((&marked["measure"], &marked["value"]), (&"gain".into(), &bare["value"]), "{told}");
    for (both, parts) in [
        ("apple", &["--versus", "is not two words"][..]),
        ("apple,apple", &["--versus", "the same word"]),
        ("apple,panda", &["--versus", "panda", "attnmap probe RUN --words"]),
        ("a,frog", &["--versus", "2 words", "a#1"]),
    ] {
        refused(&attnmap(&["ask", &path, "--versus", both]), 2, parts);
    }
}
