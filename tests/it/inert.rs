//! Options that do nothing in the combination given: each is named once, and does nothing; those
//! that do something are not named.

use crate::cli::{attnmap, generate, refused, walk};
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

fn fixture(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name).display().to_string()
}

/// The options that stderr says have no effect.
#[track_caller]
fn said(output: &std::process::Output) -> Vec<String> {
    let told = String::from_utf8(output.stderr.clone()).unwrap();
    assert!(output.status.success(), "{told}");
    let inert = told.lines().filter(|line| line.contains("has no effect here: "));
    inert.map(|line| line.trim_start_matches("attnmap: warning: ").split(' ').next().unwrap().to_owned()).collect()
}

/// The pixels of every overlay and of the image.
fn pixels(run: &Path) -> Vec<(PathBuf, image::RgbImage)> {
    let mut pictures: Vec<PathBuf> =
        walk(run).into_iter().filter(|path| path.extension().is_some_and(|e| e == "png")).collect();
    pictures
        .retain(|path| path.parent().is_some_and(|folder| folder.ends_with("overlays")) || path.ends_with("image.png"));
    pictures.sort();
    let read = |path: PathBuf| {
        let image = image::open(&path).unwrap().to_rgb8();
        (path.strip_prefix(run).unwrap().to_owned(), image)
    };
    pictures.into_iter().map(read).collect()
}

fn latents(folder: &TempDir) -> String {
    let path = folder.path().join("latents.safetensors");
    let values: Vec<f32> = (0..1024).map(|index| ((index * 37 % 101) as f32 - 50.0) / 25.0).collect();
    let tensor = candle_core::Tensor::from_vec(values, &[1usize, 4, 16, 16], &candle_core::Device::Cpu).unwrap();
    candle_core::safetensors::save(&std::collections::HashMap::from([("latents", tensor)]), &path).unwrap();
    path.display().to_string()
}

#[test]
fn an_option_of_generate_that_does_nothing_is_named_once_and_changes_nothing() {
    let folder = TempDir::new().unwrap();
    let (none, some) =
        (fixture("adapters/kohya-sd1.safetensors") + ":0", fixture("adapters/kohya-sd1.safetensors") + ":0.5");
    let noise = latents(&folder);
    // What else is given, the option with its value, and whether it does nothing then.
    let cases: &[(&[&str], &[&str], bool)] = &[
        (&["--guidance", "1"], &["--negative", "rain"], true),
        (&[], &["--negative", "rain"], false),
        (&["--guidance", "0"], &["--trace-negative"], true),
        (&[], &["--trace-negative"], false),
        (&["--scheduler", "dpm++2s"], &["--spacing", "trailing"], true),
        (&["--scheduler", "ddim"], &["--spacing", "trailing"], false),
        (&[], &["--prediction", "epsilon"], true),
        (&[], &["--prediction", "v_prediction"], false),
        (&[], &["--lora", &none], true),
        (&[], &["--lora", &some], false),
        (&["--latents", &noise], &["--seed", "4"], true),
        (&["--latents", &noise, "--scheduler", "euler-a"], &["--seed", "4"], false),
        (&[], &["--seed", "4"], false),
        (&[], &["--keep-steps", "5"], true),
        (&[], &["--self-memory", "2GiB"], true),
        (&["--aggregate", "goca"], &["--keep-goca"], true),
        (&[], &["--keep-steps", "2"], false),
        (&[], &["--probe", "frog"], false),
        (&[], &["--words", "a,Red,apple"], true),
        (&[], &["--words", "red"], false),
        (&[], &["--layers", "up"], false),
        (&["--aggregate", "up"], &["--layers", "up"], true),
        (&[], &["--steps-window", "1-1"], false),
        (&[], &["--steps-window", "0..1"], true),
        (&["--style", "contour"], &["--opacity", "0.3"], true),
        (&["--style", "mask"], &["--opacity", "0.3"], false),
        (&["--style", "spotlight"], &["--colormap", "turbo"], true),
        (&["--style", "contour"], &["--colormap", "turbo"], false),
        (&[], &["--overlay-size", "64"], false),
        // Modes of reading, which are no mistake where they find nothing to read.
        (&[], &["--emphasis"], false),
        (&[], &["--long"], false),
    ];
    for (others, option, inert) in cases {
        let (with, _kept, run) = generate("a red apple", &[*others, *option].concat());
        // At 64 pixels both sizes of overlays are the image's own.
        let own_size = option[0] == "--overlay-size" && others.is_empty();
        let expected: Vec<&str> = if *inert || own_size { vec![option[0]] } else { Vec::new() };
        assert_eq!(said(&with), expected, "{others:?} {option:?}");
        if *inert {
            let (without, _kept, plain) = generate("a red apple", others);
            assert_eq!(said(&without).len(), usize::from(others.contains(&"--overlay-size")), "{others:?}");
            assert_eq!(pixels(&run), pixels(&plain), "{others:?} {option:?}");
        }
    }
    // A probe of a word that the prompt has, and images that are one.
    let (output, ..) = generate("a red apple", &["--probe", "APPLE"]);
    assert_eq!(said(&output), ["--probe"]);
    let (output, ..) = generate("a red apple", &["--probe", "apple,frog"]);
    assert!(said(&output).is_empty());
    let (output, ..) = generate("a red apple", &["--latents", &noise, "--images", "2"]);
    assert_eq!(said(&output), ["--images"]);
}

#[test]
fn the_causes_name_nothing_that_was_not_given() {
    let lcm = fixture("tiny-lcm");
    let (output, ..) = generate("a red apple", &["--guidance", "1", "--negative", "rain"]);
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.contains("guidance is off (1 is not above 1)"), "{told}");
    // Z-Image counts from 0.
    let z_image = fixture("tiny-z-image");
    let (output, ..) = generate("a red apple", &["--model", &z_image, "--guidance", "0", "--negative", "rain"]);
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.contains("guidance is off (0 is not above 0)"), "{told}");
    // The last --model counts.
    let (output, ..) = generate("a red apple", &["--model", &lcm, "--negative", "rain"]);
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.contains("takes the guidance as an input") && !told.contains("--guidance"), "{told}");
}

#[test]
fn the_other_commands_say_it_too() {
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    let model = fixture("tiny-sd1");
    let small = ["--model", &model, "--steps", "2", "--size", "64x64"];
    let swept = at("swept");
    let sweep = ["sweep", "a red apple", "--seeds", "0,1", "--out", &swept, "--guidance", "1", "--negative", "rain"];
    assert_eq!(said(&attnmap(&[&sweep[..], &small].concat())), ["--negative"]);

    let list = at("list.csv");
    fs::write(&list, "prompt,steps,negative\na red apple,1,\na frog,1,rain\n").unwrap();
    let cells = at("cells");
    let gallery = ["gallery", &list, "--seeds", "0", "--out", &cells, "--negative", "snow"];
    assert_eq!(said(&attnmap(&[&gallery[..], &small].concat())), ["--steps"]);

    // What the checkpoint's guidance decides is known once it is loaded, and said once for all
    // cells.
    let cells = at("unguided");
    let gallery =
        ["gallery", "--prompt", "a frog", "--prompt", "a cat", "--seeds", "0", "--out", &cells, "--guidance", "1"];
    let none = ["--negative", "rain", "--trace-negative", "--keep-steps", "3"];
    let told = attnmap(&[&gallery[..], &none, &small].concat());
    assert_eq!(said(&told), ["--negative", "--trace-negative", "--keep-steps"]);
    let word = fixture("adapters/three-vectors.safetensors") + ":<toy>";
    let cells = at("taught");
    let gallery = ["gallery", "--seeds", "0", "--out", &cells, "--embedding", &word, "--prompt", "a frog"];
    let told = attnmap(&[&gallery[..], &small].concat());
    let told = String::from_utf8_lossy(&told.stderr).into_owned();
    assert_eq!(told.matches("no prompt has <toy>, the word of --embedding").count(), 1, "{told}");
    let told = attnmap(&[&gallery[..], &small, &["--prompt", "a <toy>"]].concat());
    assert!(!String::from_utf8_lossy(&told.stderr).contains("no prompt has"), "one of them has it");

    let (made, _kept, run) = generate("a red apple", &[]);
    assert!(made.status.success());
    let run = run.display().to_string();
    let picture = format!("{run}/image.png");
    let traced = at("traced");
    let trace =
        ["trace", &picture, "a red apple", "--out", &traced, "--model", &model, "--probe", "apple", "--words", "red"];
    assert_eq!(said(&attnmap(&trace)), ["--probe"]);

    let explain = ["explain", &run, "--words", "apple"];
    assert_eq!(said(&attnmap(&[&explain[..], &["--budget", "9"]].concat())), ["--budget"]);
    assert_eq!(said(&attnmap(&[&explain[..], &["--batch", "4"]].concat())), ["--batch"]);
    assert!(said(&attnmap(&[&explain[..], &["--batch", "4", "--force"]].concat())).is_empty());
    refused(&attnmap(&[&explain[..], &["--seed", "3"]].concat()), 2, &["RUN", "--seed"]);
    let view = ["view", &run, "--style", "contour", "--opacity", "0.4"];
    assert_eq!(said(&attnmap(&view)), ["--opacity"]);
    assert_eq!(said(&attnmap(&["models", "--variant", "fp16"])), ["--variant"]);
}
