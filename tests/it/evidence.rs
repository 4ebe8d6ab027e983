//! Scores and facts against numbers made with numpy and scipy (`tests/fixtures/make_evidence.py`).

use attnmap::evidence::accuracy::{Accuracy, bootstrap};
use attnmap::evidence::facts::{overlap, spread, symmetric_kl};
use attnmap::evidence::scores::{Agreement, edges};
use attnmap::trace::Grid;
use serde_json::Value;

fn fixture() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/evidence.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn floats(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|value| value.as_f64().unwrap() as f32).collect()
}

fn close(found: f64, expected: &Value, tolerance: f64, what: &str) {
    let expected = expected.as_f64().unwrap();
    assert!((found - expected).abs() <= tolerance, "{what}: {found}, numpy has {expected}");
}

#[test]
fn agreement_is_scipys() {
    for pair in fixture()["pairs"].as_array().unwrap() {
        let found = Agreement::of(&floats(&pair["a"]), &floats(&pair["b"]));
        close(found.spearman.unwrap(), &pair["spearman"], 1e-9, "spearman");
        close(found.iou_top, &pair["iou_top"], 1e-12, "iou_top");
        close(found.drop, &pair["drop"], 1e-9, "drop");
    }
}

#[test]
fn accuracy_is_numpys() {
    for one in fixture()["accuracy"].as_array().unwrap() {
        let mask: Vec<bool> = one["mask"].as_array().unwrap().iter().map(|value| value.as_bool().unwrap()).collect();
        let found = Accuracy::of(&floats(&one["map"]), &mask);
        for (name, value) in Accuracy::NAMES.iter().zip(found.values()) {
            close(value, &one[*name], 1e-9, name);
        }
    }
}

#[test]
fn the_bootstrap_is_numpys_draw_by_draw() {
    let fixture = &fixture()["bootstrap"];
    let group = |group: &Value| group.as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).collect();
    let groups: Vec<Vec<f64>> = fixture["groups"].as_array().unwrap().iter().map(group).collect();
    let found = bootstrap(&groups, 11);
    close(found.mean, &fixture["mean"], 1e-12, "mean");
    close(found.low, &fixture["low"], 1e-12, "low");
    close(found.high, &fixture["high"], 1e-12, "high");
}

#[test]
fn edges_are_scipys_sobel() {
    let fixture = &fixture()["edges"];
    let found = edges(&floats(&fixture["luminance"]), Grid::new(24, 40), Grid::new(6, 10));
    for (cell, (found, expected)) in found.iter().zip(fixture["cells"].as_array().unwrap()).enumerate() {
        close(f64::from(*found), expected, 1e-5, &format!("cell {cell}"));
    }
}

#[test]
fn distributions_are_compared_as_scipy_does() {
    let fixture = &fixture()["distributions"];
    let (p, q) = (floats(&fixture["p"]), floats(&fixture["q"]));
    close(symmetric_kl(&p, &q), &fixture["symmetric_kl"], 1e-5, "symmetric KL");
    close(overlap(&p, &q), &fixture["overlap"], 1e-9, "overlap");
    close(f64::from(spread(&p, Grid::new(8, 8)).unwrap()), &fixture["spread"], 1e-6, "spread");
}
