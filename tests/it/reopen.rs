//! Runs say with which checkpoint they were made, whatever was chosen of it: `explain` opens it again by what `run.json` says alone.

use crate::checkpoint::Copy;
use crate::cli::attnmap;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use tempfile::TempDir;

fn fixture(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name).display().to_string()
}

/// A copy of a tiny checkpoint that has its weights as the variant fp16 alone.
fn halved() -> Copy {
    let copy = Copy::of("tiny-sd1");
    for file in ["unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "text_encoder/model"] {
        let path = |kind: &str| copy.path().join(format!("{file}{kind}.safetensors"));
        fs::rename(path(""), path(".fp16")).unwrap();
    }
    copy
}

/// The setting `key` of the run in `folder`, which its trace has too.
#[track_caller]
fn setting(folder: &Path, key: &str) -> Value {
    let record: Value = serde_json::from_slice(&fs::read(folder.join("run.json")).unwrap()).unwrap();
    let trace = attnmap::run::Run::open(folder).unwrap().trace().unwrap();
    assert_eq!(record["settings"][key], trace.about.settings[key]);
    record["settings"][key].clone()
}

#[track_caller]
fn succeeds(arguments: &[&str]) {
    let output = attnmap(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn explain_opens_what_a_run_was_made_with() {
    let (halved, single) = (halved(), crate::single::tiny_file("tiny-sd2", |_| {}));
    let (halved, single) = (halved.path().display().to_string(), single.1.display().to_string());
    let (lora, vector) = (fixture("adapters/kohya-sd1.safetensors"), fixture("adapters/one-vector.safetensors"));
    let (one, two) = (fixture("tiny-sd1"), fixture("tiny-sd2"));
    let (weighted, named) = (format!("{lora}:0.7"), format!("{vector}:<cat>"));
    let cases: [(&[&str], &str, Value); 6] = [
        (&["--model", &halved, "--variant", "fp16"], "variant", json!("fp16")),
        (&["--model", &single, "--config", &two], "config", json!(two)),
        (&["--model", &one, "--prediction", "v_prediction"], "prediction", json!("v_prediction")),
        (&["--model", &one, "--lora", &weighted], "loras", json!([{"file": lora, "weight": 0.7}])),
        (&["--model", &one, "--embedding", &named], "embeddings", json!([{"file": vector, "word": "<cat>"}])),
        (&["--model", &one, "--dtype", "bf16"], "dtype", json!("bf16")),
    ];
    for (chosen, key, expected) in cases {
        let folder = TempDir::new().unwrap();
        let run = folder.path().join("run").display().to_string();
        let small = ["generate", "a <cat> and an apple", "--steps", "2", "--size", "64x64", "--out", &run];
        succeeds(&[&small, chosen].concat());
        assert_eq!(setting(Path::new(&run), key), expected, "{key}");
        succeeds(&["explain", &run, "--words", "apple"]);
        assert!(Path::new(&run).join("evidence.json").is_file(), "{key}");
    }
    // A look at a picture is no different.
    let folder = TempDir::new().unwrap();
    let (picture, look) = (folder.path().join("picture.png"), folder.path().join("look").display().to_string());
    image::RgbImage::from_fn(64, 64, |x, y| image::Rgb([4 * x as u8, 4 * y as u8, 90])).save(&picture).unwrap();
    let picture = picture.display().to_string();
    succeeds(&[
        "trace",
        &picture,
        "an apple",
        "--model",
        &halved,
        "--variant",
        "fp16",
        "--size",
        "64x64",
        "--out",
        &look,
    ]);
    assert_eq!(setting(Path::new(&look), "variant"), "fp16");
    succeeds(&["explain", &look, "--words", "apple"]);
}

#[test]
fn what_has_moved_is_given_again() {
    let folder = TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (run, here, there) = (path("run"), path("here.safetensors"), path("there.safetensors"));
    fs::copy(fixture("adapters/kohya-sd1.safetensors"), &here).unwrap();
    let model = fixture("tiny-sd1");
    let small = ["generate", "an apple", "--model", &model, "--lora", &here, "--steps", "2", "--size", "64x64"];
    succeeds(&[&small[..], &["--out", &run]].concat());
    fs::rename(&here, &there).unwrap();
    let output = attnmap(&["explain", &run]);
    crate::cli::refused(&output, 2, &["--lora", "here.safetensors"]);
    // Another strength is another checkpoint.
    let output = attnmap(&["explain", &run, "--lora", &format!("{there}:0.5")]);
    crate::cli::refused(&output, 2, &["is not the checkpoint that made the run"]);
    succeeds(&["explain", &run, "--lora", &there]);
}
