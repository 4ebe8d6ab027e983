//! Components against scikit-learn (`tests/fixtures/make_components.py`), and the command.

use std::fs;

use attnmap::components::nmf::{Factors, Matrix, descend, error, factorise};
use serde_json::Value;

use crate::cli::{attnmap, generate, refused};

fn floats(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).collect()
}

#[test]
fn the_error_is_scikit_learns() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/components.json");
    let fixture: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let number = |name: &str| fixture[name].as_u64().unwrap() as usize;
    let values = floats(&fixture["matrix"]).into_iter().map(|value| value as f32).collect();
    let matrix = Matrix { rows: number("rows"), columns: number("columns"), values };
    let start = Factors { count: number("k"), w: floats(&fixture["w"]), h: floats(&fixture["h"]) };
    let found = error(&matrix, &descend(&matrix, start).unwrap()).unwrap();
    let expected = fixture["error"].as_f64().unwrap();
    assert!((found - expected).abs() <= 0.01 * expected, "from the same factors: {found}, scikit-learn {expected}");
    // From our own beginning, which is scikit-learn's `nndsvda` too.
    for (k, expected) in fixture["nndsvda"].as_object().unwrap() {
        let expected = expected.as_f64().unwrap();
        let factors = factorise(&matrix, k.parse().unwrap()).unwrap();
        let found = error(&matrix, &factors).unwrap();
        assert!(found <= 1.01 * expected, "{k} components: {found}, scikit-learn {expected}");
    }
}

#[test]
fn the_command_names_components_and_keeps_them() {
    let (made, _folder, run) = generate("a red apple and a frog", &["--quiet"]);
    assert!(made.status.success());
    let folder = run.to_str().unwrap();
    let ask = |more: &[&str]| attnmap(&[&["components", folder][..], more].concat());
    let (first, second) = (ask(&["--k", "3", "--json"]), ask(&["-k", "3", "--json"]));
    assert!(first.status.success(), "{}", String::from_utf8_lossy(&first.stderr));
    assert_eq!(first.stdout, second.stdout, "the same every time");
    let found: Value = serde_json::from_slice(&first.stdout).unwrap();
    let components = found["components"].as_array().unwrap();
    assert_eq!((components.len(), found["explained"].as_array().unwrap().len()), (3, 12));
    let explained = floats(&found["explained"]);
    assert!(explained.windows(2).all(|pair| pair[1] >= pair[0] - 0.01), "{explained:?}");
    assert!(explained.iter().all(|share| (0.0..=1.0).contains(share)));
    let shares: f64 = components.iter().map(|component| component["share"].as_f64().unwrap()).sum();
    assert!((shares - 1.0).abs() < 1e-9);
    for component in components {
        let sum = |parts: &Value, at: usize| -> f64 {
            parts.as_array().unwrap().iter().map(|part| part[at].as_f64().unwrap()).sum()
        };
        assert!((sum(&component["words"], 1) - 1.0).abs() < 1e-9 && (sum(&component["heads"], 2) - 1.0).abs() < 1e-9);
        let name = component["name"].as_str().unwrap();
        assert!(["a", "red", "apple", "and", "frog"].iter().any(|word| name.starts_with(word)), "{name}");
    }
    assert!(run.join("components.png").is_file() && run.join("components.json").is_file());
    assert!(fs::read_to_string(run.join("report.html")).unwrap().contains("\"explained\""));
    // Files of the run, so that it may be replaced whole.
    let text = String::from_utf8(ask(&["-k", "2", "--words", "apple,frog"]).stdout).unwrap();
    assert!(text.contains("Explained by so many") && text.contains("components.png"), "{text}");

    for (wrong, says) in [(&["--k", "0"][..], "--k"), (&["--k", "13"], "--k"), (&["--words", "zebra"], "--words")] {
        refused(&ask(wrong), 2, &[says]);
    }
}
