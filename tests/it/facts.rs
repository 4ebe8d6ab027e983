//! The facts of a run, through the command line: in `run.json`, from `facts`, and against a seed
//! sweep.

use crate::program::{attnmap, json};
use serde_json::Value;

const PROMPT: &str = "a red apple to the left of a green frog on the beach";

#[test]
fn a_run_holds_its_facts_and_a_sweep_changes_what_peaks_are_compared_with() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    attnmap(folder, &["generate", PROMPT, "--out", "outputs/run"]);
    let run =
        || -> Value { serde_json::from_slice(&std::fs::read(folder.join("outputs/run/run.json")).unwrap()).unwrap() };
    let facts = json(folder, &["facts", "outputs/run", "--json"]);
    assert_eq!(run()["facts"], facts);
    assert_eq!((facts["over_seeds"].as_bool(), facts["words"].as_array().unwrap().len()), (Some(false), 13));
    assert_eq!(facts["stated"][0]["agrees"], Value::Bool(true));
    let leaks = facts["leakage"].as_array().unwrap();
    let pairs: Vec<_> = leaks.iter().map(|leak| [leak["adjective"].as_str(), leak["noun"].as_str()]).collect();
    assert_eq!(pairs, [[Some("red"), Some("apple")], [Some("green"), Some("frog")]]);
    for leak in leaks {
        // Words for the whole scene are no targets.
        assert!(leak["others"].as_array().unwrap().iter().all(|other| other["noun"] != "beach"), "{leak}");
        // The adjective follows the noun whose map is nearest.
        let others =
            leak["others"].as_array().unwrap().iter().map(|other| (other["divergence"].as_f64(), &other["noun"]));
        let nearest =
            others.chain([(leak["own"].as_f64(), &leak["noun"])]).min_by(|a, b| a.0.partial_cmp(&b.0).unwrap());
        assert_eq!(nearest.unwrap().1, &leak["follows"]);
    }
    let placed = &facts["words"][2]["placed"];
    assert!(placed["step"].as_u64().unwrap() < placed["steps"].as_u64().unwrap(), "{placed}");
    let page = std::fs::read_to_string(folder.join("outputs/run/report.html")).unwrap();
    assert!(page.contains("apple left of frog, as the prompt says"));

    // Other maps have other facts, and are asked from then on.
    attnmap(folder, &["view", "outputs/run", "--aggregate", "daam"]);
    assert_ne!(run()["facts"], facts);
    assert_eq!(run()["facts"], json(folder, &["facts", "outputs/run", "--json"]));
    attnmap(folder, &["view", "outputs/run"]);
    assert_eq!(run()["facts"], facts);

    let sweep = json(folder, &["sweep", PROMPT, "--seeds", "0..3", "--json"]);
    assert_eq!(sweep["filler_peaks"].as_array().unwrap().len(), 3, "the highest filler under each seed");
    let beside = json(folder, &["facts", "outputs/run", "--json"]);
    assert_eq!((&beside["over_seeds"], &beside["filler_peak"]), (&Value::Bool(true), &sweep["filler_peak"]));
    // A sweep of chosen words compares them with all fillers too.
    let chosen =
        json(folder, &["sweep", PROMPT, "--seeds", "0..3", "--words", "frog", "--json", "--out", "outputs/chosen"]);
    assert_eq!(chosen["filler_peaks"], sweep["filler_peaks"]);
    assert_eq!(chosen["words"][0]["neglected"], sweep["words"][9]["neglected"]);
    // Of another aggregate it is no measure, and none is taken.
    assert_eq!(
        json(folder, &["facts", "outputs/run", "--aggregate", "daam", "--json"])["over_seeds"],
        Value::Bool(false)
    );
    let mut command = assert_cmd::Command::cargo_bin("attnmap").unwrap();
    let args = ["facts", "outputs/run", "--aggregate", "daam", "--sweep"];
    let named = std::fs::read_dir(folder.join("outputs")).unwrap().map(|entry| entry.unwrap().path());
    let named = named.into_iter().find(|path| path.to_string_lossy().ends_with("-sweep")).unwrap();
    let output = command.current_dir(folder).args(args).arg(named).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("another prompt, checkpoint or aggregate"));
}

/// A comma ends what a prompt says of a thing: what follows is neither its object nor described.
#[test]
fn a_comma_ends_what_the_prompt_says() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let prompt = "a frog left of an apple, house, a cat that is red, green fox";
    attnmap(folder, &["generate", prompt, "--steps", "2", "--out", "run"]);
    let facts = json(folder, &["facts", "run", "--json"]);
    assert_eq!(facts["stated"].as_array().unwrap().len(), 1, "{facts}");
    assert_eq!([&facts["stated"][0]["subject"], &facts["stated"][0]["object"]], ["frog", "apple"]);
    let leaks = facts["leakage"].as_array().unwrap();
    let pairs: Vec<_> = leaks.iter().map(|leak| [leak["adjective"].as_str(), leak["noun"].as_str()]).collect();
    assert_eq!(pairs, [[Some("green"), Some("fox")]]);
}

/// A sweep says of a thing that it was probably not drawn where `facts` says it of a run.
#[test]
fn a_sweep_and_a_run_call_the_same_things_not_drawn() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/tiny-sd3");
    let sweep = |prompt: &str, more: &[&str]| {
        let own = ["sweep", prompt, "--seeds", "0..1", "--json", "--force", "--out", "swept"];
        json(folder, &[&own[..], more].concat())
    };
    let joint = sweep("a red apple left of a green frog", &["--model", model, "--size", "56x32", "--steps", "1"]);
    let silent = |sweep: &Value| sweep["words"].as_array().unwrap().iter().all(|word| word["neglected"].is_null());
    assert!(silent(&joint), "the bound is of cross-attention: {joint}");
    let prompt = "a red apple, a frog";
    attnmap(folder, &["generate", prompt, "--by", "tag", "--steps", "4", "--seed", "0", "--out", "run"]);
    let facts = json(folder, &["facts", "run", "--json"]);
    let tags = sweep(prompt, &["--by", "tag", "--steps", "4"]);
    let (told, swept) = (facts["words"].as_array().unwrap(), tags["words"].as_array().unwrap());
    assert_eq!((told.len(), swept.len()), (2, 2));
    for (told, swept) in told.iter().zip(swept) {
        let share = told["neglected"].as_bool().map(|absent| f64::from(u8::from(absent)));
        assert_eq!((&told["word"], share), (&swept["word"], swept["neglected"].as_f64()));
    }
    assert!(silent(&sweep(prompt, &["--aggregate", "daam", "--steps", "4"])), "the bound is of other maps");
}
