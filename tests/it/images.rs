//! Runs that set out from a picture or paint in one, and looks at one. They are held against
//! diffusers on the tiny checkpoints, and run through the real binary.

use crate::cli::{attnmap, generate, refused};
use crate::pipeline::{self, distance, fixtures, tiny, values};
use attnmap::checkpoint::{Checkpoint, OpenOptions, Source};
use attnmap::heatmap::{self, Aggregate};
use attnmap::picture;
use attnmap::pipeline::{Init, LoadOptions, LookOptions, Options, Pipeline, RecordOptions};
use attnmap::trace::{Trace, Unobserved};
use candle_core::{Device, Tensor};
use image::codecs::webp::WebPEncoder;
use image::{DynamicImage, ExtendedColorType, ImageEncoder, ImageFormat, Rgb, RgbImage};
use serde::Deserialize;
use std::collections::HashMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::Output;
use tempfile::TempDir;

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
    /// Changes to the scheduler's config.
    #[serde(default)]
    config: Config,
}

#[derive(Debug, Default, Deserialize)]
struct Config {
    skip_prk_steps: Option<bool>,
    steps_offset: Option<usize>,
    clip_sample: Option<bool>,
}

/// Runs every fixture of a folder; at least `least`.
fn check_all(folder: &str, least: usize) {
    let mut checked = 0;
    for entry in fs::read_dir(fixtures().join(folder)).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let Settings { run, strength, config } = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let expected = candle_core::safetensors::load(path.with_extension("safetensors"), &Device::Cpu).unwrap();
        let source = Source::Folder(fixtures().join(&run.checkpoint));
        let mut checkpoint = Checkpoint::open(&source, &OpenOptions::default()).unwrap();
        let scheduler = &mut checkpoint.scheduler;
        scheduler.skip_prk_steps = config.skip_prk_steps.or(scheduler.skip_prk_steps);
        scheduler.steps_offset = config.steps_offset.or(scheduler.steps_offset);
        scheduler.clip_sample = config.clip_sample.or(scheduler.clip_sample);
        let pipeline = Pipeline::load(&checkpoint, &LoadOptions::default()).unwrap();
        let (width, height) = (run.width as u32, run.height as u32);
        let image = picture::resize(&rgb(&expected["picture"]), width, height);
        let mask = expected.get("mask").map(|mask| picture::mask(&rgb(mask), width, height));
        let init = Some(Init { image, name: "picture".into(), strength, mask });
        run.check(&name, &pipeline, &Options { init, ..run.options(&pipeline) }, &expected);
        checked += 1;
    }
    assert!(checked >= least, "{checked} fixtures");
}

#[test]
fn runs_from_a_picture_equal_diffusers() {
    check_all("images", 16);
}

#[test]
fn painting_in_a_picture_equals_diffusers() {
    check_all("inpainting", 16);
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
        init: Some(Init { image: image.clone(), name: String::new(), strength: 0.5, mask: None }),
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

/// Of Heun's calls there are fewer than two a step, and leaving out every step must not panic.
#[test]
fn timesteps_of_a_run_without_steps_are_refused() {
    let pipeline = tiny("tiny-sd1");
    let init = Some(Init { image: RgbImage::new(64, 64), name: String::new(), strength: 0.1, mask: None });
    let scheduler = Some("heun".parse().unwrap());
    let options = Options { steps: 3, height: 64, width: 64, scheduler, init, ..pipeline.default_options() };
    let error = pipeline.timesteps(&options).unwrap_err().to_string();
    assert!(error.contains("less than one"), "{error}");
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
    // After the start marker: APP1, an EXIF block of one little-endian entry, orientation 6 (turn
    // right).
    let exif = b"\xff\xe1\x00\x22Exif\0\0II\x2a\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0";
    jpeg.splice(2..2, exif.iter().copied());
    fs::write(&path, jpeg).unwrap();
    let read = picture::read(&path, attnmap::argument::INIT).unwrap();
    assert_eq!(read.dimensions(), (16, 32));
    assert!(read.get_pixel(8, 4).0[0] > 200 && read.get_pixel(8, 28).0[2] > 200, "red is above");

    // Some programs write JPEG's marker before the same block into WebP files.
    let plain = RgbImage::new(32, 16);
    for marker in [&b""[..], b"Exif\0\0"] {
        let mut webp = Vec::new();
        let mut encoder = WebPEncoder::new_lossless(&mut webp);
        encoder.set_exif_metadata([marker, &exif[10..]].concat()).unwrap();
        encoder.write_image(plain.as_raw(), 32, 16, ExtendedColorType::Rgb8).unwrap();
        assert_eq!(picture::decode(&webp).unwrap().to_rgb8().dimensions(), (16, 32), "{marker:?}");
    }
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

#[derive(Debug, Deserialize)]
struct LookSettings {
    checkpoint: String,
    prompt: String,
    levels: Vec<usize>,
    seed: u64,
    tokens: usize,
}

#[test]
fn looks_at_a_picture_equal_the_networks_called_by_hand() {
    for name in ["sd1", "sd1-wide", "sd2-tall"] {
        let path = fixtures().join("looks").join(name);
        let settings: LookSettings = serde_json::from_slice(&fs::read(path.with_extension("json")).unwrap()).unwrap();
        let expected = candle_core::safetensors::load(path.with_extension("safetensors"), &Device::Cpu).unwrap();
        let pipeline = tiny(&settings.checkpoint);
        let image = rgb(&expected["picture"]);
        let prompt = pipeline.tokenize(&settings.prompt).unwrap();
        assert_eq!(prompt.tokens.len(), settings.tokens);
        let options = LookOptions { levels: settings.levels, seed: settings.seed, ..LookOptions::default() };
        let noised = pipeline.noise_picture(&image, &options).unwrap();
        let shown: Vec<f32> = noised.iter().flat_map(|noised| values(&noised.latent)).collect();
        let error = distance(&shown, &values(&expected["latents"]));
        assert!(error < 1e-5, "{name}: the noised latents are off by {error:e}");

        let quiet = &mut || ControlFlow::Continue(());
        let trace = pipeline.trace_picture(&image, &prompt, &options, &RecordOptions::default(), quiet).unwrap();
        trace.verify().unwrap();
        let timesteps: Vec<f64> = options.levels.iter().map(|&level| level as f64).collect();
        assert_eq!(trace.recording.timesteps, timesteps);
        let maps = heatmap::aggregate(&trace, &Aggregate::named("daam").unwrap(), &[]).unwrap();
        let expected = values(&expected["heatmap"]);
        assert_eq!(maps.tokens.len(), expected.len(), "{name}");
        let maximum = expected.iter().copied().fold(0.0, f32::max);
        let worst = maps.tokens.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst <= 1e-3 * maximum, "{name}: heat maps are off by {worst} of {maximum}");
        println!("{name}: latents {error:.1e}, heat maps {:.1e} of the maximum", worst / maximum);
    }
}

/// `attnmap trace` with the tiny checkpoint and a fresh `--out`.
fn trace(image: &str, caption: &str, more: &[&str]) -> (Output, TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let model = fixtures().join("tiny-sd1").display().to_string();
    let path = out.display().to_string();
    let mut arguments = vec!["trace", image, caption, "--model", &model, "--out", &path];
    arguments.extend(more);
    (attnmap(&arguments), folder, out)
}

#[test]
fn a_traced_picture_is_a_run_like_any_other() {
    let pictures = tempfile::tempdir().unwrap();
    let photo = picture_file(pictures.path(), "photo.webp", 90, 60);
    let more = ["--levels", "200,700", "--seed", "4", "--probe", "tail", "--size", "72x48"];
    let (output, _folder, out) = trace(&photo, "a red apple and a frog", &more);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for file in ["image.png", "words.png", "heatmaps.safetensors", "trace.safetensors", "report.html", "overlays"] {
        assert!(out.join(file).exists(), "{file} is missing");
    }
    let record = json(out.join("run.json"));
    assert_eq!((&record["kind"], &record["timesteps"]), (&"trace".into(), &serde_json::json!([700.0, 200.0])));
    assert_eq!(record["settings"]["levels"], serde_json::json!([700, 200]));
    let traced = Trace::load(&out.join("trace.safetensors")).unwrap();
    assert_eq!((traced.call(), traced.call_name(1)), ("noise level", "t\u{a0}=\u{a0}200, 25\u{a0}% noise".into()));
    assert_eq!(traced.about.levels().unwrap(), "t\u{a0}=\u{a0}700, 200; noise 92, 25\u{a0}%");
    // 1 - alphas_cumprod of diffusers' scheduler with this config.
    for (noise, want) in record["settings"]["noise"].as_array().unwrap().iter().zip([0.91748, 0.24631]) {
        assert!((noise.as_f64().unwrap() - want).abs() < 1e-5, "{noise}");
    }
    assert_eq!(record["settings"]["picture"], photo.as_str());
    assert_eq!(record["probes"].as_array().unwrap().len(), 1, "{}", record["probes"]);
    let image = image::open(out.join("image.png")).unwrap().to_rgb8();
    assert!(image == picture::resize(&image::open(&photo).unwrap().to_rgb8(), 72, 48));

    let run = out.to_str().unwrap();
    let page = pictures.path().join("page.html").display().to_string();
    for command in [
        vec!["view", run, "--words", "frog", "--style", "contour"],
        vec!["report", run],
        vec!["ask", run, "--at", "71,47"],
        vec!["compare", run, run, "--out", &page],
        vec!["animate", run],
    ] {
        let output = attnmap(&command);
        assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    let facts = attnmap(&["facts", run, "--json"]);
    let facts: serde_json::Value = serde_json::from_slice(&facts.stdout).unwrap();
    assert!(facts["words"][2]["placed"].is_null(), "levels are no steps on a way: {facts}");

    let explained = attnmap(&["explain", run, "--words", "apple"]);
    assert!(explained.status.success(), "{}", String::from_utf8_lossy(&explained.stderr));
    let evidence = json(out.join("evidence.json"));
    assert_eq!(evidence["steps"], serde_json::json!([0, 1]), "both levels");
    assert!(evidence["words"][0]["effect"].as_f64().unwrap() > 0.0, "{evidence}");
    refused(&attnmap(&["explain", run, "--counterfactual"]), 2, &["--counterfactual", "picture"]);
}

#[test]
fn looks_that_cannot_be_had_are_refused_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let photo = picture_file(folder.path(), "photo.png", 64, 64);
    let thin = picture_file(folder.path(), "thin.png", 4, 400);
    let missing = folder.path().join("missing.png").display().to_string();
    let place = folder.path().display().to_string();
    let cases: &[(&str, &str, &[&str], &[&str])] = &[
        (&missing, "an apple", &[], &["IMAGE", "missing.png", "no such file"]),
        (&place, "an apple", &[], &["IMAGE", "a folder"]),
        (&thin, "an apple", &[], &["IMAGE", "4x400", "--size"]),
        (&photo, " ", &[], &["CAPTION", "empty"]),
        (&photo, "an apple", &["--levels", "1000"], &["--levels", "1000"]),
        (&photo, "an apple", &["--levels", "early"], &["--levels"]),
        (&photo, "an apple", &["--levels", "-1"], &["--levels"]),
        (&photo, "an apple", &["--levels", ""], &["--levels"]),
        (&photo, "an apple", &["--size", "0x64"], &["--size"]),
        (&photo, "an apple", &["--size", "65x64"], &["--size", "64"]),
        (&photo, "an apple", &["--words", "giraffe"], &["giraffe"]),
        (&photo, "an apple", &["--resolution", "12345"], &["12345"]),
    ];
    for (image, caption, more, parts) in cases {
        let (output, _folder, out) = trace(image, caption, more);
        refused(&output, 2, parts);
        assert!(!out.exists(), "{more:?}");
    }
    let (output, _kept, out) = trace(&photo, "an apple", &[]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let model = fixtures().join("tiny-sd1").display().to_string();
    let again = attnmap(&["trace", &photo, "an apple", "--model", &model, "--out", out.to_str().unwrap()]);
    refused(&again, 2, &["--force"]);
}

#[test]
fn a_part_of_a_picture_is_painted() {
    let folder = tempfile::tempdir().unwrap();
    let photo = picture_file(folder.path(), "photo.png", 64, 64);
    let mask = RgbImage::from_fn(32, 32, |x, _| if x < 16 { Rgb([0, 0, 0]) } else { Rgb([255, 255, 255]) });
    let mask_path = folder.path().join("mask.png").display().to_string();
    mask.save(&mask_path).unwrap();
    let inpaint = fixtures().join("tiny-inpaint").display().to_string();

    for model in [None, Some(inpaint.as_str())] {
        let mut more = vec!["--init", &photo, "--mask", &mask_path, "--steps", "3"];
        more.extend(model.iter().flat_map(|model| ["--model", *model]));
        let (output, _folder, out) = generate("a red apple", &more);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let record = json(out.join("run.json"));
        assert_eq!((&record["settings"]["masked"], &record["settings"]["strength"]), (&true.into(), &1.0.into()));
        let kept = image::open(out.join("mask.png")).unwrap().to_luma8();
        assert_eq!((kept.get_pixel(31, 9).0[0], kept.get_pixel(32, 9).0[0]), (0, 255));

        // Everything that made the run is in its folder.
        let run = out.to_str().unwrap();
        let explained = attnmap(&["explain", run, "--words", "apple", "--at", "2"]);
        assert!(explained.status.success(), "{}", String::from_utf8_lossy(&explained.stderr));
        assert!(json(out.join("evidence.json"))["words"][0]["effect"].as_f64().unwrap() > 0.0);
    }
    // A checkpoint of four channels puts the picture back outside of the mask: there it is what the
    // autoencoder makes of it.
    let pipeline = tiny("tiny-sd1");
    let prompt = pipeline.tokenize("a red apple").unwrap();
    let quiet = &mut |_: attnmap::pipeline::Event| ControlFlow::Continue(());
    let image = image::open(&photo).unwrap().to_rgb8();
    let mut run = |seed| {
        let init =
            Init { image: image.clone(), name: String::new(), strength: 1.0, mask: Some(picture::mask(&mask, 64, 64)) };
        let options = Options {
            init: Some(init),
            seeds: vec![seed],
            steps: 3,
            height: 64,
            width: 64,
            ..pipeline.default_options()
        };
        values(&pipeline.generate(&prompt, &options, &mut Unobserved, quiet).unwrap().images[0].latent)
    };
    let (a, b) = (run(1), run(2));
    let (mut inside, mut outside) = (0f32, 0f32);
    for (cell, (a, b)) in a.iter().zip(&b).enumerate() {
        let most = if cell % 16 < 8 { &mut outside } else { &mut inside };
        *most = most.max((a - b).abs());
    }
    assert!(outside < 0.3 * inside && inside > 0.5, "seeds differ by {outside} outside, {inside} inside");
}

#[test]
fn masks_that_cannot_be_used_are_refused_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let photo = picture_file(folder.path(), "photo.png", 64, 64);
    RgbImage::new(64, 64).save(path("black.png")).unwrap();
    RgbImage::from_pixel(64, 32, Rgb([255; 3])).save(path("wide.png")).unwrap();
    RgbImage::from_pixel(64, 64, Rgb([255; 3])).save(path("white.png")).unwrap();
    fs::write(path("empty.png"), "").unwrap();
    let inpaint = fixtures().join("tiny-inpaint").display().to_string();
    let (black, wide, white, empty, missing) =
        (path("black.png"), path("wide.png"), path("white.png"), path("empty.png"), path("missing.png"));
    let cases: &[(&[&str], &[&str])] = &[
        (&["--init", &photo, "--mask", &missing], &["--mask", "missing.png", "no such file"]),
        (&["--init", &photo, "--mask", folder.path().to_str().unwrap()], &["--mask", "a folder"]),
        (&["--init", &photo, "--mask", &empty], &["--mask", "empty.png"]),
        (&["--init", &photo, "--mask", &black], &["--mask", "nothing would be drawn"]),
        (&["--init", &photo, "--mask", &wide], &["--mask", "64x32", "64x64"]),
        (&["--init", &photo, "--mask", &white, "--strength", "0"], &["--strength"]),
        (&["--mask", &white], &["--init"]),
        (&["--model", &inpaint], &["--mask", "inpaints", "--init"]),
        (&["--model", &inpaint, "--init", &photo], &["--mask", "inpaints"]),
    ];
    for (more, parts) in cases {
        let (output, _folder, out) = generate("a red apple", more);
        refused(&output, 2, parts);
        assert!(!out.exists(), "{more:?}");
    }
    refused(&trace(&photo, "an apple", &["--model", &inpaint]).0, 1, &["inpainting checkpoint", "is not supported"]);
    let eval = fixtures().parent().unwrap().join("data/scenes/report").display().to_string();
    refused(&attnmap(&["eval", &eval, "--model", &inpaint, "-q"]), 1, &["inpainting checkpoint", "is not supported"]);
}

#[derive(Debug, Deserialize)]
struct FlowCase {
    checkpoint: String,
    prompt: String,
    seed: u64,
    steps: usize,
    width: usize,
    height: usize,
    strength: f64,
    guidance: f64,
    timesteps: Vec<f64>,
}

/// Flow matching rounds the skipped steps down where others round the taken ones
/// (`tests/fixtures/make_flow_pictures.py`).
#[test]
fn flows_from_a_picture_equal_diffusers() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/flow-pictures");
    for name in ["sd3", "sd3-masked", "flux", "flux-masked", "z-image"] {
        let case: FlowCase = serde_json::from_slice(&fs::read(folder.join(format!("{name}.json"))).unwrap()).unwrap();
        let expected =
            candle_core::safetensors::load(folder.join(format!("{name}.safetensors")), &Device::Cpu).unwrap();
        let pipeline = tiny(&case.checkpoint);
        let image = rgb(&expected["picture"]);
        let mask = expected.get("mask").map(|mask| picture::mask(&rgb(mask), case.width as u32, case.height as u32));
        let options = Options {
            init: Some(Init { image, name: String::new(), strength: case.strength, mask }),
            seeds: vec![case.seed],
            steps: case.steps,
            guidance_scale: case.guidance,
            height: case.height,
            width: case.width,
            ..pipeline.default_options()
        };
        let prompt = pipeline.tokenize(&case.prompt).unwrap();
        let made = pipeline.generate(&prompt, &options, &mut Unobserved, &mut |_| ControlFlow::Continue(())).unwrap();
        assert_eq!(made.timesteps.len(), case.timesteps.len(), "{name}");
        assert!(made.timesteps.iter().zip(&case.timesteps).all(|(a, b)| (a - b).abs() < 1e-3), "{name}");
        let error = distance(&values(&made.images[0].latent), &values(&expected["latents"]));
        println!("{name}: latents {error:.1e}");
        assert!(error < 1e-3, "{name}: {error:e}");
    }
}
