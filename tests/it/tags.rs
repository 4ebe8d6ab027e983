//! `--by tag`: what stands between commas is one word, in maps, facts and tests alike; and the dead
//! tags.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::cli::{attnmap, generate, refused};

const PROMPT: &str = "a red apple, on the beach, a, green frog";

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn words(value: &Value) -> Vec<String> {
    let name = |word: &Value| word["text"].as_str().or(word["word"].as_str()).unwrap().to_owned();
    value["words"].as_array().unwrap().iter().map(name).collect()
}

fn printed(arguments: &[&str]) -> Value {
    let output = attnmap(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

const TAGS: [&str; 4] = ["a red apple", "on the beach", "a", "green frog"];

#[test]
fn a_run_by_tags_has_tags_for_its_words_everywhere() {
    let (made, _folder, run) = generate(PROMPT, &["--by", "tag"]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let at = run.to_str().unwrap();
    let record = json(&run.join("run.json"));
    assert_eq!((words(&record), &record["by"]), (TAGS.map(str::to_owned).to_vec(), &"tag".into()));
    assert_eq!(words(&record["facts"]), TAGS);
    assert!(run.join("overlays/03-green-frog.png").is_file());
    let page = fs::read_to_string(run.join("report.html")).unwrap();
    for tag in TAGS {
        assert!(page.contains(&format!("{{\"text\":\"{tag}\",\"occurrence\":")), "{tag}");
    }
    // The tokens of a tag are those of its words.
    let tokens: Vec<usize> =
        record["words"].as_array().unwrap().iter().map(|w| w["tokens"].as_array().unwrap().len()).collect();
    let all = record["tokens"].as_array().unwrap().len();
    assert_eq!(tokens.iter().sum::<usize>() + 3 + 2, all, "all but three commas, start and end");
    // Other commands follow the run, and words can be had again.
    assert_eq!(words(&printed(&["facts", at, "--json"])), TAGS);
    assert_eq!(words(&printed(&["facts", at, "--json", "--by", "word"])).len(), 9);
    let asked = printed(&["ask", at, "--at", "9,9", "--json"]);
    let mut named: Vec<String> =
        asked.as_array().unwrap().iter().map(|part| part["word"].as_str().unwrap().to_owned()).collect();
    named.retain(|name| !name.starts_with('<'));
    named.sort();
    assert_eq!(named, ["a", "a red apple", "green frog", "on the beach"]);
    refused(
        &attnmap(&["view", at, "--words", "red"]),
        2,
        &["--words", "\"red\" is a part of a tag", "--by word", "a red apple"],
    );
    let viewed = printed(&["view", at, "--by", "word", "--json"]);
    assert_eq!((words(&viewed).len(), viewed.get("by")), (9, None));
    refused(&attnmap(&["view", at, "--by", "line"]), 2, &["--by", "word", "tag"]);
}

#[test]
fn explain_ends_with_the_dead_tags_and_draws_the_image_without_all_of_them() {
    let (made, _folder, run) = generate(PROMPT, &[]);
    assert!(made.status.success());
    let at = run.to_str().unwrap();
    let found = printed(&["explain", at, "--by", "tag", "--test-steps", "1", "--counterfactual", "--json"]);
    // A tag of fillers alone is not tested.
    let tested = ["a red apple", "on the beach", "green frog"];
    assert_eq!((words(&found), &found["by"]), (tested.map(str::to_owned).to_vec(), &"tag".into()));
    let dead = &found["dead"];
    let by_one: Vec<&Value> = found["words"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|word| word["mattered"] == "not at all")
        .map(|word| &word["word"])
        .collect();
    assert_eq!(dead["tags"].as_array().unwrap().iter().collect::<Vec<_>>(), by_one);
    assert_eq!(dead["tested"], 3);
    let prompt = dead["prompt"].as_str().unwrap();
    for tag in tested {
        assert_eq!(prompt.contains(tag), !by_one.iter().any(|dead| *dead == tag), "{prompt}");
    }
    let notes = found["notes"].as_array().unwrap();
    match by_one.is_empty() {
        true => assert!(dead["changed"].is_null() && notes[0].as_str().unwrap().starts_with("No tag is dead")),
        false => {
            assert!(dead["changed"].as_f64().is_some() && run.join(dead["strip"].as_str().unwrap()).is_file());
            // The same image as of the prompt itself.
            let (_, _kept, other) = generate(prompt, &[]);
            let image = |run: &Path| image::open(run.join("image.png")).unwrap().to_rgb8();
            let share = attnmap::evidence::changed_share(&image(&run), &image(&other));
            assert!((dead["changed"].as_f64().unwrap() - share).abs() < 1e-9);
        }
    }
    // The run's maps and page are in the same words now, and it is all known the second time.
    assert_eq!(words(&json(&run.join("run.json"))), TAGS);
    let output = attnmap(&["explain", at, "--test-steps", "1", "--counterfactual"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && text.contains("on the beach"), "{text}");
    let last = text.lines().filter(|line| !line.is_empty()).collect::<Vec<_>>().join("\n");
    assert!(last.contains("tag"), "{last}");
}

/// What `explain` found and drew of words stays: a question by tags is refused, and says what would
/// take its place.
#[test]
fn a_question_by_tags_takes_nothing_away() {
    let (made, _folder, run) = generate(PROMPT, &[]);
    assert!(made.status.success());
    let at = run.to_str().unwrap();
    printed(&["explain", at, "--words", "frog", "--test-steps", "1", "--no-counterfactual", "--json"]);
    let before = std::fs::read(run.join("evidence.json")).unwrap();
    let asked = attnmap(&["ask", at, "--by", "tag", "--at", "3,3", "--cause"]);
    refused(&asked, 2, &["its tests of frog", "`attnmap explain RUN --by tag`"]);
    assert_eq!(std::fs::read(run.join("evidence.json")).unwrap(), before);
    assert!(attnmap(&["ask", at, "--at", "3,3", "--cause"]).status.success());
}

/// What was found of a word is not shown at a tag of that name.
#[test]
fn what_was_found_of_words_is_not_told_of_tags() {
    let (made, _folder, run) = generate("a red apple, a frog hat, frog", &["--steps", "3"]);
    assert!(made.status.success());
    let at = run.to_str().unwrap();
    printed(&["explain", at, "--test-steps", "1", "--no-counterfactual", "--json"]);
    let causal = |more: &[&str]| -> Vec<Value> {
        let asked = printed(&[&["ask", at, "--at", "9,9", "--json"], more].concat());
        asked.as_array().unwrap().iter().map(|part| part["causal"].clone()).filter(|found| !found.is_null()).collect()
    };
    assert!(!causal(&[]).is_empty());
    assert!(causal(&["--by", "tag"]).is_empty());
    refused(&attnmap(&["ask", at, "--by", "tag", "--words", "frog", "--at", "9,9", "--cause"]), 2, &["by tag"]);
    // A tag may have a comma, and is asked for by its name.
    let (made, _folder, run) = generate("1,000 frogs, a house", &["--by", "tag", "--steps", "2"]);
    assert!(made.status.success());
    let at = run.to_str().unwrap();
    assert_eq!(words(&printed(&["facts", at, "--words", "a house,1,000 frogs", "--json"])).len(), 2);
    assert!(attnmap(&["ask", at, "--versus", "1,000 frogs,a house", "--half", "conditional"]).status.code() != Some(1));
    let judged = attnmap(&["facts", at, "--expect", "\"1,000 frogs\"@left, house@right", "--json"]);
    assert!(matches!(judged.status.code(), Some(0 | 3)), "{}", String::from_utf8_lossy(&judged.stderr));
}

#[test]
fn why_asks_about_tags_as_the_run_has_them_or_as_it_is_told() {
    let (made, _folder, run) = generate(PROMPT, &["--by", "tag"]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let at = run.to_str().unwrap();
    let part = ["--word", "\"frog\" is a part of a tag", "--by word", "green frog"];
    refused(&attnmap(&["why", at, "--word", "frog"]), 2, &part);
    refused(&attnmap(&["why", at, "--word", "on the beach"]), 2, &["--word", "whole scene"]);
    refused(&attnmap(&["why", at, "--word", "a"]), 2, &["--word", "draws nothing"]);
    refused(&attnmap(&["why", at, "--by", "line"]), 2, &["--by", "word", "tag"]);
    let ask = |more: &[&str]| printed(&[&["why", at, "--budget", "20", "--json"], more].concat());
    let own = ask(&["--word", "green frog"]);
    let found = &own["findings"];
    assert_eq!((&own["word"], &found["by"]), (&"green frog".into(), &"tag".into()));
    // Each other tag is taken out whole, if the thing was drawn at all.
    let tested = found["effects"].as_array().unwrap().iter().map(|effect| effect["of"].as_str().unwrap());
    let tested = tested.map(|tag| format!("without “{tag}”"));
    let untested = found["untested"].as_array().unwrap().iter().map(|edit| edit.as_str().unwrap().to_owned());
    let edits: Vec<String> = tested.chain(untested).collect();
    match own["place"].is_null() {
        true => assert!(edits.is_empty(), "{own}"),
        false => assert_eq!(edits, ["without “a red apple”", "without “on the beach”"]),
    }
    // Words can be had again, and what is known of a tag is no answer to a phrase of that name.
    let phrase = ask(&["--word", "green frog", "--by", "word"]);
    assert!(phrase["word"] == "green frog" && phrase["findings"].get("by").is_none(), "{phrase}");
    assert_eq!(ask(&["--word", "frog", "--by", "word"])["word"], "frog");
    assert_eq!(json(&run.join("run.json"))["by"], "tag", "the run is as it was");
}

/// `gallery --without each` says of every cell what was left out and how much of the image that
/// changes, as the page does.
#[test]
fn a_gallery_tells_what_each_word_changes() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("all").display().to_string();
    let words = ["gallery", "--prompt", "a red apple and a frog", "--without", "each", "--seeds", "0", "--steps", "2"];
    let words = [&words[..], &["--out", &out]].concat();
    let made = printed(&[&words[..], &["--json"]].concat());
    let cells = made["facts"]["without"].as_array().unwrap();
    let named: Vec<&str> = cells.iter().map(|cell| cell["without"].as_str().unwrap()).collect();
    assert_eq!(named, ["red", "apple", "frog"]);
    for cell in cells {
        let changed = cell["changed"].as_f64().unwrap();
        assert!(changed > 0.0 && changed <= 1.0, "{cell}");
        assert!(folder.path().join("all/cells").join(cell["cell"].as_str().unwrap()).is_dir());
    }
    let again = String::from_utf8(attnmap(&words).stdout).unwrap();
    assert!(again.contains("without frog  ") && again.contains("% of the image changes"), "{again}");
    refused(&attnmap(&["gallery", "--prompt", "a frog", "--without", "every"]), 2, &["--without", "each"]);
}
