//! Runs that set out from a picture: against diffusers on the tiny checkpoints, and through the real binary.

use crate::cli::{attnmap, generate, refused};
use crate::pipeline::{self, distance, fixtures, tiny, values};
use attnmap::picture;
use attnmap::pipeline::{Init, Options};
use attnmap::trace::Unobserved;
use candle_core::{Device, Tensor};
use image::{DynamicImage, ImageFormat, Rgb, RgbImage};
use serde::Deserialize;
use std::collections::HashMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

fn tensors(name: &str) -> HashMap<String, Tensor> {
    let path = fixtures().join("images").join(name);
    candle_core::safetensors::load(path, &Device::Cpu).unwrap()
}

fn rgb(tensor: &Tensor) -> RgbImage {
    let (height, width, _) = tensor.dims3().unwrap();
    RgbImage::from_raw(width as u32, height as u32, tensor.flatten_all().unwrap().to_vec1().unwrap()).unwrap()
}

#[test]
fn resizing_equals_pillow() {
    let tensors = tensors("resize.safetensors");
    let given = rgb(&tensors["picture"]);
    assert_eq!(tensors.len(), 13);
    for (name, expected) in &tensors {
        let Some((width, height)) = name.split_once('x') else { continue };
        let found = picture::resize(&given, width.parse().unwrap(), height.parse().unwrap());
        assert!(found == rgb(expected), "{name}");
    }
}

#[derive(Debug, Deserialize)]
struct Settings {
    #[serde(flatten)]
    run: pipeline::Settings,
    strength: f64,
}

#[test]
fn runs_from_a_picture_equal_diffusers() {
    let mut checked = 0;
    for entry in fs::read_dir(fixtures().join("images")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let Settings { run, strength } = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let expected = tensors(&format!("{name}.safetensors"));
        let pipeline = tiny(&run.checkpoint);
        let image = picture::resize(&rgb(&expected["picture"]), run.width as u32, run.height as u32);
        let init = Some(Init { image, name: "picture".into(), strength });
        run.check(&name, &pipeline, &Options { init, ..run.options(&pipeline) }, &expected);
        checked += 1;
    }
    assert!(checked >= 10, "{checked} fixtures");
}

#[test]
fn a_batch_from_a_picture_equals_single_runs() {
    let pipeline = tiny("tiny-sd1");
    let prompt = pipeline.tokenize("a red apple").unwrap();
    let quiet = &mut |_: attnmap::pipeline::Event| ControlFlow::Continue(());
    let image = RgbImage::from_fn(48, 64, |x, y| Rgb([5 * x as u8, 3 * y as u8, 99]));
    let options = |seeds: &[u64]| Options {
        seeds: seeds.to_vec(),
        steps: 4,
        height: 64,
        width: 48,
        init: Some(Init { image: image.clone(), name: String::new(), strength: 0.5 }),
        ..pipeline.default_options()
    };
    let pair = pipeline.generate(&prompt, &options(&[3, 4]), &mut Unobserved, quiet).unwrap();
    for (seed, found) in [3, 4].into_iter().zip(&pair.images) {
        let alone = pipeline.generate(&prompt, &options(&[seed]), &mut Unobserved, quiet).unwrap();
        let error = distance(&values(&found.latent), &values(&alone.images[0].latent));
        assert!(error < 1e-5, "seed {seed}: {error:e}");
    }
    assert_ne!(pair.images[0].image, pair.images[1].image);
}

/// A picture file of `width` x `height` pixels in `folder`.
fn picture_file(folder: &Path, name: &str, width: u32, height: u32) -> String {
    let image = RgbImage::from_fn(width, height, |x, y| Rgb([(4 * x) as u8, (3 * y) as u8, 80]));
    let path = folder.join(name);
    DynamicImage::from(image).save(&path).unwrap();
    path.display().to_string()
}

fn json(path: PathBuf) -> serde_json::Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn a_run_from_a_picture_keeps_it_and_says_so() {
    let pictures = tempfile::tempdir().unwrap();
    let photo = picture_file(pictures.path(), "photo.jpg", 90, 60);
    let (output, _folder, out) = generate("a red apple", &["--steps", "6", "--init", &photo, "--strength", "0.5"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let record = json(out.join("run.json"));
    assert_eq!(record["settings"]["init"], photo.as_str());
    assert_eq!(record["settings"]["strength"], 0.5);
    // PNDM calls the UNet once more than it takes steps.
    assert_eq!(record["timesteps"].as_array().unwrap().len(), 4, "{}", record["timesteps"]);
    assert!(record["command"].as_str().unwrap().contains("--strength 0.5"), "{}", record["command"]);
    let kept = image::open(out.join("init.png")).unwrap().to_rgb8();
    let given = image::open(&photo).unwrap().to_rgb8();
    assert!(kept == picture::resize(&given, 64, 64), "init.png is not the picture at the run's size");

    // The causal test needs the same run again, and the picture may be gone by then.
    fs::remove_file(&photo).unwrap();
    let explained = attnmap(&["explain", out.to_str().unwrap(), "--words", "apple", "--at", "2", "--json"]);
    assert!(explained.status.success(), "{}", String::from_utf8_lossy(&explained.stderr));
    let evidence = json(out.join("evidence.json"));
    assert!(evidence["words"][0]["effect"].as_f64().unwrap() > 0.0, "{evidence}");
    // Another picture in its place makes another run.
    picture_file(&out, "init.png", 64, 64);
    let again = attnmap(&["explain", out.to_str().unwrap(), "--words", "apple", "--force", "-q"]);
    refused(&again, 1, &["cannot be made again exactly"]);
}

#[test]
fn without_a_size_the_picture_keeps_its_shape() {
    let folder = tempfile::tempdir().unwrap();
    let photo = picture_file(folder.path(), "photo.png", 300, 200);
    let model = fixtures().join("tiny-sd1").display().to_string();
    let out = folder.path().join("run").display().to_string();
    let output = attnmap(&[
        "generate", "an apple", "--model", &model, "--steps", "2", "--init", &photo, "--out", &out, "--json",
    ]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let record: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&record["settings"]["width"], &record["settings"]["height"]), (&80.into(), &52.into()), "of 64x64");
}

#[test]
fn pictures_stand_upright_as_their_exif_says() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("turned.jpg");
    let image = RgbImage::from_fn(32, 16, |x, _| if x < 16 { Rgb([250, 10, 10]) } else { Rgb([10, 10, 250]) });
    let mut jpeg = Vec::new();
    DynamicImage::from(image).write_to(&mut std::io::Cursor::new(&mut jpeg), ImageFormat::Jpeg).unwrap();
    // After the start marker: APP1, an EXIF block of one little-endian entry, orientation 6 (turn right).
    let exif = b"\xff\xe1\x00\x22Exif\0\0II\x2a\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0";
    jpeg.splice(2..2, exif.iter().copied());
    fs::write(&path, jpeg).unwrap();
    let read = picture::read(&path, "--init").unwrap();
    assert_eq!(read.dimensions(), (16, 32));
    assert!(read.get_pixel(8, 4).0[0] > 200 && read.get_pixel(8, 28).0[2] > 200, "red is above");
}

#[test]
fn pictures_that_cannot_be_used_are_refused_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let photo = picture_file(folder.path(), "photo.png", 64, 64);
    let thin = picture_file(folder.path(), "thin.png", 400, 4);
    fs::write(path("text.png"), "not a picture").unwrap();
    fs::write(path("empty.png"), "").unwrap();
    let whole = fs::read(&photo).unwrap();
    fs::write(path("cut.png"), &whole[..whole.len() / 2]).unwrap();
    let cases: &[(&[&str], &[&str])] = &[
        (&["--init", &path("missing.png")], &["--init", "missing.png", "no such file"]),
        (&["--init", folder.path().to_str().unwrap()], &["--init", "a folder"]),
        (&["--init", &path("text.png")], &["--init", "text.png", "png, jpeg"]),
        (&["--init", &path("empty.png")], &["--init", "empty.png"]),
        (&["--init", &path("cut.png")], &["--init", "cut.png"]),
        (&["--init", &photo, "--strength", "0"], &["--strength", "above 0"]),
        (&["--init", &photo, "--strength", "-0.5"], &["--strength", "above 0"]),
        (&["--init", &photo, "--strength", "1.01"], &["--strength", "at most 1"]),
        (&["--init", &photo, "--strength", "NaN"], &["--strength"]),
        (&["--init", &photo, "--strength", "most"], &["--strength"]),
        (&["--init", &photo, "--strength", "0.4"], &["--strength", "0.4 of 2 steps"]),
        (&["--init", &photo, "--size", "0x64"], &["--size"]),
        (&["--init", &photo, "--size", "65x64"], &["--size", "64"]),
        (&["--strength", "0.5"], &["--init"]),
    ];
    for (more, parts) in cases {
        let (output, _folder, out) = generate("a red apple", more);
        refused(&output, 2, parts);
        assert!(!out.exists(), "{more:?}");
    }
    let model = fixtures().join("tiny-sd1").display().to_string();
    let out = path("run");
    refused(
        &attnmap(&["generate", "an apple", "--model", &model, "--steps", "2", "--init", &thin, "--out", &out]),
        2,
        &["--init", "400x4", "--size"],
    );
    let (output, ..) = generate("a red apple", &["--init", &photo, "--strength", "1"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
