//! `attnmap view`: a run drawn again by the real binary, and every choice that it refuses.

use crate::cli::{attnmap, generate, refused};
use serde_json::Value;
use std::fs;

#[test]
fn view_makes_a_run_again_with_other_choices() {
    let (made, _folder, run) = generate("a red apple and a red frog", &["--trace-negative", "--negative", "beach"]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let read = |name: &str| fs::read(run.join(name)).unwrap();
    let (image, trace, maps) = (read("image.png"), read("trace.safetensors"), read("heatmaps.safetensors"));
    let path = run.to_str().unwrap();
    let view = |more: &[&str]| {
        let output = attnmap(&[&["view", path, "--json"], more].concat());
        assert!(output.status.success(), "{more:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };

    // The same choices give the same bytes.
    view(&[]);
    assert_eq!(maps, read("heatmaps.safetensors"));

    let facts = view(&["--words", "red apple,red#2,<start>", "--style", "contour", "--steps-window", "1-1"]);
    let words: Vec<_> = facts["words"].as_array().unwrap().iter().map(|word| word["text"].as_str().unwrap()).collect();
    assert_eq!(words, ["red apple", "red", "<start>"]);
    assert_eq!(facts["aggregate"], "compete, steps 1-1");
    assert_eq!(facts["display"]["style"], "contour");
    let mut overlays: Vec<_> = fs::read_dir(run.join("overlays"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    overlays.sort();
    assert_eq!(overlays, ["00-red-apple.png", "01-red-2.png", "02-start.png"]);
    assert_eq!(facts, serde_json::from_slice::<Value>(&read("run.json")).unwrap());

    assert_eq!(view(&["--half", "unconditional"])["words"][0]["text"], "beach");
    let page = run.join("compared.html");
    let compared = attnmap(&["compare", path, path, "--out", page.to_str().unwrap()]);
    refused(
        &compared,
        2,
        &["run: it has no maps of its prompt", "--half unconditional", "make them with `attnmap view`"],
    );
    assert_eq!(view(&["--layers", "up", "--heads", "0"])["aggregate"], "all, layers up, heads 0");
    assert_eq!((image, trace), (read("image.png"), read("trace.safetensors")), "only the pictures change");
}

#[test]
fn view_refuses_in_one_line_and_changes_nothing() {
    let (made, folder, run) = generate("a red apple", &["--no-step-maps"]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let before = fs::read(run.join("run.json")).unwrap();
    let path = run.to_str().unwrap();
    let refuse =
        |more: &[&str], code, parts: &[&str]| refused(&attnmap(&[&["view", path], more].concat()), code, parts);
    refuse(&["--words", "pear"], 2, &["--words", "\"pear\" is not in the prompt", "apple"]);
    refuse(&["--heads", "0-99"], 2, &["--heads", "99 does not exist"]);
    refuse(&["--heads", "0", "--steps-window", "1-1"], 2, &["cannot be combined with --heads"]);
    refuse(&["--steps-window", "1-1"], 2, &["no single steps"]);
    refuse(&["--resolution", "999"], 2, &["--resolution", "no layer has a grid of 999; this run has"]);
    refuse(&["--half", "unconditional"], 2, &["no unconditional half"]);
    refuse(&["--opacity", "2"], 2, &["--opacity", "from 0 to 1"]);
    refuse(&["--overlay-size", "0"], 2, &["--overlay-size", "64 to 4096"]);
    refuse(&["--colormap", "jet"], 2, &["--colormap", "magma"]);
    refuse(&["--out", path], 2, &["--out", "--force"]);
    assert_eq!(before, fs::read(run.join("run.json")).unwrap());

    let nowhere = folder.path().join("nowhere");
    refused(&attnmap(&["view", nowhere.to_str().unwrap()]), 1, &["nowhere", "no such folder"]);
    fs::write(run.join("trace.safetensors"), b"cut short").unwrap();
    refuse(&[], 1, &["trace.safetensors", "make the run again"]);
}

/// Maps of the negative prompt are not taken for the prompt's where both have as many tokens.
#[test]
fn maps_of_the_other_half_are_not_compared() {
    let (output, _folder, run) = generate("a frog", &["--negative", "a box", "--trace-negative"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let path = run.to_str().unwrap();
    let page = run.join("compared.html");
    let compare = || attnmap(&["compare", path, path, "--force", "--out", page.to_str().unwrap()]);
    assert!(compare().status.success());
    assert!(attnmap(&["view", path, "--half", "unconditional"]).status.success());
    refused(&compare(), 2, &["it has no maps of its prompt"]);
}
