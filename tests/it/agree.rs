//! Whatever is done to a run after whatever else, its page, `run.json`, `evidence.json` and what
//! the commands print agree.

use crate::cli::attnmap;
use serde_json::Value;
use std::collections::HashSet;
use std::fs;
use std::path::Path;

const PROMPT: &str = "a red apple to the left of a green frog on the beach";

/// What can be done to a run.
const COMMANDS: [&[&str]; 8] = [
    &["view", "--aggregate", "daam"],
    &["view"],
    &["explain", "--words", "frog"],
    &["explain", "--words", "on,apple", "--no-counterfactual"],
    &["facts"],
    &["explain", "--words", "frog", "--weight", "frog=0.5"],
    &["animate", "--words", "frog"],
    &["report"],
];

/// What adds to a run, or only asks: tried once each, before and after the others.
const BESIDE: [&[&str]; 6] = [
    &["ask", "--at", "20,40", "--cause"],
    &["explain", "--words", "frog", "--sanity"],
    &["explain", "--words", "frog,apple", "--shapley"],
    &["attribute", "--word", "frog", "--method", "occlusion", "--test-steps", "1"],
    &["components"],
    &["why", "--word", "frog", "--budget", "20"],
];

fn json(file: &Path) -> Value {
    serde_json::from_slice(&fs::read(file).unwrap()).unwrap()
}

/// What the page holds of the run.
fn page(run: &Path) -> Value {
    let html = fs::read_to_string(run.join("report.html")).unwrap();
    let from = html.find("<script id=\"run\"").unwrap();
    let text = &html[from + html[from..].find('>').unwrap() + 1..];
    serde_json::from_str(&text[..text.find("</script>").unwrap()]).unwrap()
}

#[track_caller]
fn agree(run: &Path, after: &str) {
    let (record, page, path) = (json(&run.join("run.json")), page(run), run.display().to_string());
    let facts: Value = serde_json::from_slice(&attnmap(&["facts", &path, "--json"]).stdout).unwrap();
    assert_eq!(facts, record["facts"], "{after}");
    assert_eq!(page["official"]["name"], record["aggregate"], "{after}");
    for (row, word) in page["layout"].as_array().unwrap().iter().zip(record["words"].as_array().unwrap()) {
        let share = |of: &Value| of["share"].as_f64().unwrap() as f32;
        assert_eq!(share(row), share(word), "{after}");
        let peak = attnmap::percent(word["peak"]["value"].as_f64().unwrap());
        let shown = row["facts"].as_array().unwrap().iter().find(|fact| fact[0] == "peak").unwrap();
        assert_eq!(shown[1], Value::from(peak), "{after}");
    }
    // Everything asked about has the shares of the whole.
    let asked = attnmap(&["ask", &path, "--box", "0,0,64,64", "--json"]);
    let asked: Value = serde_json::from_slice(&asked.stdout).unwrap();
    for word in record["words"].as_array().unwrap().iter().filter(|word| word["occurrence"] == 1) {
        let part = asked.as_array().unwrap().iter().find(|part| part["word"] == word["text"]).unwrap();
        assert!((part["share"].as_f64().unwrap() - word["share"].as_f64().unwrap()).abs() < 1e-6, "{after}: {part}");
    }
    if !run.join("evidence.json").exists() {
        assert_eq!(page["verdicts"], serde_json::json!([]), "{after}");
        return;
    }
    let evidence = json(&run.join("evidence.json"));
    assert_eq!(evidence["aggregate"], record["aggregate"], "{after}");
    let (shown, tested) = (page["verdicts"].as_array().unwrap(), evidence["words"].as_array().unwrap());
    assert_eq!(shown.len(), tested.len(), "{after}");
    for (shown, tested) in shown.iter().zip(tested) {
        for field in ["mattered", "changed", "shows", "sentence"] {
            assert_eq!(shown[field], tested[field], "{after}");
        }
        let drawn = evidence["counterfactuals"].as_array().map_or(&[][..], |drawn| &drawn[..]);
        let drawn = drawn.iter().find(|drawn| drawn["word"] == tested["word"]);
        assert_eq!(tested["changed"], drawn.map_or(Value::Null, |drawn| drawn["area"].clone()), "{after}");
        assert!(drawn.is_none_or(|drawn| run.join(drawn["strip"].as_str().unwrap()).is_file()), "{after}");
        assert!(run.join(tested["picture"].as_str().unwrap()).is_file(), "{after}");
    }
}

#[test]
fn no_command_leaves_a_file_that_contradicts_another() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let path = run.display().to_string();
    let made = attnmap(&["generate", PROMPT, "--steps", "3", "--size", "64x64", "--out", &path]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    agree(&run, "generate");
    let mut tested: Vec<String> = Vec::new();
    let words_of = |evidence: &Value| {
        evidence["words"]
            .as_array()
            .unwrap()
            .iter()
            .map(|word| word["word"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let mut call = |command: &'static [&'static str], before: &str| {
        let arguments = [&command[..1], &[path.as_str()], &command[1..]].concat();
        let output = attnmap(&arguments);
        let after = format!("{} after {before}", command.join(" "));
        assert!(output.status.success(), "{after}: {}", String::from_utf8_lossy(&output.stderr));
        agree(&run, &after);
        // `ask --cause` tests the words that it has to rank.
        if command.contains(&"--cause") {
            let words = words_of(&json(&run.join("evidence.json")));
            assert!(tested.iter().all(|word| words.contains(word)), "{after}: what was tested before stays");
            tested = words;
        }
        if command[0] == "explain" {
            let new = command[2].split(',').map(str::to_owned).filter(|word| !tested.contains(word));
            tested.extend(new.collect::<Vec<_>>());
            let words = words_of(&json(&run.join("evidence.json"))).len();
            assert_eq!(words, tested.len(), "{after}: what was tested before stays");
        }
    };
    // Every command after every other and itself, each pair once: a de Bruijn sequence, made of the
    // single commands and the ascending pairs.
    let mut order = Vec::new();
    for first in 0..COMMANDS.len() {
        order.push(first);
        order.extend((first + 1..COMMANDS.len()).flat_map(|second| [first, second]));
    }
    order.push(0);
    let pairs: HashSet<&[usize]> = order.windows(2).collect();
    assert_eq!((pairs.len(), order.len()), (COMMANDS.len().pow(2), COMMANDS.len().pow(2) + 1));
    let mut before = "generate".to_owned();
    for at in order {
        call(COMMANDS[at], &before);
        before = COMMANDS[at].join(" ");
    }
    for beside in BESIDE {
        call(beside, "all others");
        for other in [COMMANDS[0], COMMANDS[2]] {
            call(other, &beside.join(" "));
        }
    }
}
