//! Runs say with which checkpoint they were made, whatever was chosen of it: `explain` opens it
//! again by what `run.json` says alone.

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
    crate::cli::refused(
        &output,
        2,
        &["--lora: no file", "here.safetensors", "if it has moved, give it with --lora FILE:1"],
    );
    // Another strength is another checkpoint.
    let output = attnmap(&["explain", &run, "--lora", &format!("{there}:0.5")]);
    crate::cli::refused(
        &output,
        2,
        &["--lora: the run was made with --lora", "here.safetensors:1", "not with --lora", "there.safetensors:0.5"],
    );
    succeeds(&["explain", &run, "--lora", &there]);
}

/// Several images at once are summed in another order than one, which moves some values by 1 of
/// 255.
#[test]
fn explain_makes_the_cells_of_a_batch_again() {
    let folder = TempDir::new().unwrap();
    let gallery = folder.path().join("g").display().to_string();
    let list = folder.path().join("prompts.txt").display().to_string();
    fs::write(&list, "a red apple to the left of a green frog on the beach\n").unwrap();
    succeeds(&["gallery", &list, "--seeds", "0..4", "--batch", "4", "--steps", "8", "--out", &gallery]);
    for cell in fs::read_dir(Path::new(&gallery).join("cells")).unwrap() {
        succeeds(&["explain", &cell.unwrap().path().display().to_string(), "--words", "frog"]);
    }
    // Another picture is another run.
    let run = folder.path().join("run").display().to_string();
    succeeds(&["generate", "a frog", "--steps", "4", "--out", &run]);
    let image = Path::new(&run).join("image.png");
    let mut pixels = image::open(&image).unwrap().to_rgb8();
    pixels.get_pixel_mut(3, 5).0[1] ^= 2;
    pixels.save(&image).unwrap();
    let output = attnmap(&["explain", &run, "--words", "frog"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("cannot be made again exactly"));
}

/// What `compare` says of two runs that differ in something that it could overlook.
#[test]
fn compare_says_what_differs() {
    let folder = TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let small = ["generate", "a frog on the beach", "--steps", "3"];
    let adapters = ["la", "lb"].map(|name| {
        fs::create_dir(path(name)).unwrap();
        format!("{}/style.safetensors", path(name))
    });
    let lora = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/lora/stand-left.safetensors");
    fs::copy(&lora, &adapters[0]).unwrap();
    let read = candle_core::safetensors::load(&lora, &candle_core::Device::Cpu).unwrap();
    let doubled = read.into_iter().map(|(name, tensor)| (name, (tensor * 2.0).unwrap())).collect();
    candle_core::safetensors::save(&doubled, &adapters[1]).unwrap();
    let picture = path("start.png");
    image::RgbImage::from_fn(128, 128, |x, y| image::Rgb([x as u8, y as u8, 90])).save(&picture).unwrap();
    let init: &[&str] = &["--init", &picture];
    succeeds(&[&small, init, &["--out", &path("i0")]].concat());
    image::RgbImage::from_fn(128, 128, |x, y| image::Rgb([90, x as u8, y as u8])).save(&picture).unwrap();
    succeeds(&[&small, init, &["--out", &path("i1")]].concat());
    let runs: [(&str, &[&str]); 5] = [
        ("plain", &[]),
        ("negative", &["--negative", "red"]),
        ("probe", &["--probe", "tree"]),
        ("la-run", &["--lora", &adapters[0]]),
        ("lb-run", &["--lora", &adapters[1]]),
    ];
    for (name, more) in runs {
        succeeds(&[&small, more, &["--out", &path(name)]].concat());
    }
    for (a, b, expected) in [
        ("plain", "plain", "Both were made in the same way."),
        ("plain", "negative", "negative prompt none in A, red in B"),
        ("plain", "probe", "probes none in A, tree in B"),
        ("la-run", "lb-run", "the weights have the digest "),
        ("plain", "la-run", "LoRA none in A, style.safetensors at 1 in B."),
        ("i0", "i1", "was another picture or mask in A than in B"),
    ] {
        let output = attnmap(&["compare", &path(a), &path(b), "--out", &path("page.html"), "--force"]);
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(told.contains(expected), "{a} and {b}: {told}{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn a_run_without_changes_says_so_and_another_checkpoint_is_named() {
    let folder = TempDir::new().unwrap();
    let run = folder.path().join("run").display().to_string();
    let (model, lora) = (fixture("tiny-sd1"), fixture("adapters/kohya-sd1.safetensors"));
    succeeds(&["generate", "an apple", "--model", &model, "--steps", "2", "--size", "64x64", "--out", &run]);
    let output = attnmap(&["explain", &run, "--lora", &lora]);
    crate::cli::refused(&output, 2, &["--lora: the run was made without --lora", "leave it out"]);
    let output = attnmap(&["explain", &run, "--model", &fixture("tiny-sd2")]);
    crate::cli::refused(&output, 2, &["tiny-sd2 is not the checkpoint that made the run", "tiny-sd1"]);
}
