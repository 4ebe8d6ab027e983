//! `attnmap compare`: which words its page shows and its sentences are of, and what is said of runs
//! whose maps are not alike.

use crate::cli::{attnmap, generate, refused};
use serde_json::Value;
use std::path::Path;

/// What `compare` says of two runs, and what its page holds of them.
#[track_caller]
fn compared(a: &Path, b: &Path, more: &[&str]) -> (String, Value) {
    let page = b.with_file_name("compared.html");
    let [a, b, out] = [a, b, page.as_path()].map(|path| path.display().to_string());
    let output = attnmap(&[&["compare", &a, &b, "--json", "--force", "--out", &out], more].concat());
    assert!(output.status.success(), "{more:?}: {}", String::from_utf8_lossy(&output.stderr));
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    let said: Vec<&str> = told["differences"].as_array().unwrap().iter().map(|line| line.as_str().unwrap()).collect();
    let page = std::fs::read_to_string(page).unwrap();
    let data = page.split("<script id=\"run\" type=\"application/json\">").nth(1).unwrap();
    let data: Value = serde_json::from_str(data.split("</script>").next().unwrap()).unwrap();
    assert_eq!(data["pairs"]["0-1"]["differences"], told["differences"], "the page says what is printed");
    (said.join("\n"), data)
}

/// The words of the first run that the page shows beside the second's, with their numbers.
fn shown(data: &Value) -> Vec<String> {
    let pairs = data["pairs"]["0-1"]["pairs"].as_array().unwrap();
    let name = |pair: &Value| {
        let word = &data["runs"][0]["words"][pair["a"].as_u64().unwrap() as usize];
        format!("{}#{}", word["text"].as_str().unwrap(), word["occurrence"])
    };
    pairs.iter().map(name).collect()
}

#[test]
fn the_page_and_the_sentences_are_of_the_chosen_words() {
    let (made, _folder, run) = generate("a red apple and a frog", &[]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let of = |words: &str| shown(&compared(&run, &run, &["--words", words]).1);
    assert_eq!(of("apple"), ["apple#1"]);
    assert_eq!(of("a"), ["a#1", "a#2"]);
    assert_eq!(of("a#2"), ["a#2"], "the second alone");
    assert_eq!(of("Red  apple,frog"), ["red#1", "apple#1", "frog#1"], "a phrase stands for its words");
    // This checkpoint draws nothing, which is said of things alone.
    let (said, data) = compared(&run, &run, &[]);
    assert!(said.contains("“frog”") && said.contains("“apple”") && shown(&data).len() == 6, "{said}");
    let (said, _) = compared(&run, &run, &["--words", "apple"]);
    assert!(said.contains("“apple”") && !said.contains("frog"), "{said}");
    let path = run.display().to_string();
    let page = run.with_file_name("refused.html").display().to_string();
    for (words, named) in [("<start>", "\"<start>\""), ("apple,<end>", "\"<end>\""), ("pear", "\"pear\"")] {
        let output = attnmap(&["compare", &path, &path, "--words", words, "--out", &page]);
        refused(&output, 2, &["--words", named]);
    }
    assert!(!Path::new(&page).exists(), "no page of nothing");
}

/// Areas begin at a share of a map's top, and centres are of areas.
#[test]
fn words_are_not_said_to_move_between_two_thresholds() {
    let (made, _folder, run) = generate("a red apple left of a frog", &[]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let other = run.with_file_name("other");
    let (path, out) = (run.display().to_string(), other.display().to_string());
    assert!(attnmap(&["view", &path, "--threshold", "0.8", "--out", &out]).status.success());
    let (said, data) = compared(&run, &other, &[]);
    assert!(said.contains("Made differently: threshold 0.4 in A, 0.8 in B."), "{said}");
    assert!(said.contains("begin at different thresholds"), "{said}");
    for claim in ["same way", "moved left", "moved right", "moved too", "where before", "its area"] {
        assert!(!said.contains(claim), "{claim}: {said}");
    }
    let rows = data["pairs"]["0-1"]["settings"].as_array().unwrap();
    assert!(rows.contains(&serde_json::json!(["threshold", "0.4", "0.8"])), "{rows:?}");
    // With one threshold there is nothing to tell.
    let (said, _) = compared(&other, &other, &[]);
    assert!(said.contains("Both were made in the same way.") && !said.contains("thresholds"), "{said}");
}

#[test]
fn of_what_was_not_drawn_nothing_is_said_but_that() {
    let (made, _folder, run) = generate("a frog", &[]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let record: Value = serde_json::from_slice(&std::fs::read(run.join("run.json")).unwrap()).unwrap();
    assert_eq!(record["facts"]["words"][1]["neglected"], true, "this checkpoint draws nothing");
    let seeds = ["--seed", "1"];
    let (made, _other, second) = generate("a frog", &seeds);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let (said, _) = compared(&run, &second, &[]);
    let told: Vec<&str> = said.lines().filter(|line| line.contains("frog")).collect();
    assert_eq!(told, ["Of what was probably not drawn in A or in B nothing more is said: “frog”."]);
}
