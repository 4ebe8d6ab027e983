//! Picture files of every kind against Pillow (tests/fixtures/make_pictures.py), and refused
//! wherever they are cut.

use crate::cli::{attnmap, generate, refused};
use crate::pipeline::fixtures;
use attnmap::picture;
use attnmap::trace::Grid;
use candle_core::Device;
use image::{Rgba, RgbaImage};
use std::fs;
use std::path::Path;

fn files() -> Vec<(String, Vec<u8>)> {
    let names = fs::read_dir(fixtures().join("pictures")).unwrap().map(|entry| entry.unwrap().path());
    let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
    let mut files: Vec<_> = names
        .filter(|path| path.extension().is_some_and(|kind| kind != "safetensors"))
        .map(|path| (name(&path), fs::read(&path).unwrap()))
        .collect();
    files.sort();
    assert_eq!(files.len(), 16);
    files
}

#[test]
fn every_kind_of_picture_is_read_as_pillow_reads_it() {
    let expected =
        candle_core::safetensors::load(fixtures().join("pictures/expected.safetensors"), &Device::Cpu).unwrap();
    for (name, bytes) in files() {
        let read = picture::decode(&bytes).unwrap_or_else(|error| panic!("{name}: {error}")).to_rgb8();
        let expected: Vec<u8> = expected[&name].flatten_all().unwrap().to_vec1().unwrap();
        assert_eq!(read.dimensions(), (20, 12), "{name}");
        let worst = read.as_raw().iter().zip(&expected).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
        // Decoders of lossy files round their transforms in their own ways.
        let most = if name.ends_with("jpg") || name == "lossy.webp" { 4 } else { 0 };
        assert!(worst <= most, "{name} differs by {worst}");
    }
}

#[test]
fn a_picture_cut_anywhere_is_refused_and_bytes_behind_its_end_are_not() {
    for (name, bytes) in files() {
        for length in 0..bytes.len() {
            let read = picture::decode(&bytes[..length]);
            if name.ends_with("webp") && length + 1 == bytes.len() && read.is_ok() {
                continue; // the last byte only fills up to an even length
            }
            let error = read.expect_err(&format!("{name}, {length} of {}", bytes.len()));
            assert!(!error.contains('\n') && !error.is_empty(), "{name}: {error}");
        }
        let half = picture::decode(&bytes[..bytes.len() / 2]).unwrap_err();
        assert!(half.contains("cut short"), "{name}: {half}");
        let mut longer = bytes.clone();
        longer.extend_from_slice(b"notes of an editor \xff\xd8\xff");
        assert_eq!(picture::decode(&longer).unwrap().to_rgb8(), picture::decode(&bytes).unwrap().to_rgb8(), "{name}");
    }
}

#[test]
fn other_kinds_are_named_with_those_that_can_be_read() {
    for (start, kind) in [(&b"GIF89a\x01\x00\x01\x00"[..], "a gif picture"), (b"BM\x00\x00\x00\x00", "a bmp picture")] {
        let error = picture::decode(start).unwrap_err();
        assert!(error.contains(kind) && error.contains("png, jpeg and webp"), "{error}");
    }
    assert!(picture::decode(b"<svg/>").unwrap_err().contains("png, jpeg and webp"));
}

#[test]
fn cut_pictures_are_refused_wherever_one_is_given() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let fixture = |name: &str| fixtures().join("pictures").join(name);
    let whole = fixture("rgb.png").display().to_string();
    for name in ["baseline.jpg", "cmyk.jpg", "animated.png", "animated.webp"] {
        let bytes = fs::read(fixture(name)).unwrap();
        fs::write(path(name), &bytes[..bytes.len() - bytes.len() / 4]).unwrap();
    }
    let model = fixtures().join("tiny-sd1").display().to_string();
    let parts = |option: &'static str, name: &'static str| [option, name, "cut short"];
    let trace = attnmap(&["trace", &path("baseline.jpg"), "an apple", "--model", &model, "--out", &path("run")]);
    refused(&trace, 2, &parts("IMAGE", "baseline.jpg"));
    refused(&generate("an apple", &["--init", &path("cmyk.jpg")]).0, 2, &parts("--init", "cmyk.jpg"));
    let masked = generate("an apple", &["--init", &whole, "--mask", &path("animated.webp")]);
    refused(&masked.0, 2, &parts("--mask", "animated.webp"));
    let cells = ["gallery", "--prompt", "an apple", "--model", &model, "--out", &path("g"), "--init"];
    refused(&attnmap(&[&cells[..], &[&path("animated.png")]].concat()), 2, &parts("--init", "animated.png"));
    assert!(!folder.path().join("run").exists() && !folder.path().join("g").exists());
}

#[test]
fn what_is_no_ordinary_file_is_refused_at_once() {
    if cfg!(not(unix)) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let pipe = path("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let whole = fixtures().join("pictures/rgb.png").display().to_string();
    for other in [pipe.as_str(), "/dev/zero"] {
        let kind = if other == pipe { "a pipe" } else { "a device" };
        refused(&attnmap(&["trace", other, "an apple", "--out", &path("run")]), 2, &["IMAGE", other, kind]);
        refused(&generate("an apple", &["--init", other]).0, 2, &["--init", other, kind]);
        refused(&generate("an apple", &["--init", &whole, "--mask", other]).0, 2, &["--mask", other, kind]);
        refused(&generate("an apple", &["--latents", other]).0, 2, &["--latents", other, kind]);
        refused(&generate("an apple", &["--lora", other]).0, 2, &["--lora", other]);
        refused(&attnmap(&["gallery", other, "--out", &path("g")]), 1, &[other, kind]);
        refused(&attnmap(&["generate", "--prompt-file", other, "--out", &path("run")]), 2, &["--prompt-file", kind]);
    }
    let (made, _folder, run) = generate("an apple", &[]);
    assert!(made.status.success());
    for name in ["image.png", "trace.safetensors", "run.json"] {
        let file = run.join(name);
        let kept = fs::read(&file).unwrap();
        fs::remove_file(&file).unwrap();
        assert!(std::process::Command::new("mkfifo").arg(&file).status().unwrap().success());
        for command in ["view", "report", "ask"] {
            let more: &[&str] = if command == "ask" { &["--at", "3,3"] } else { &[] };
            let output = attnmap(&[&[command, run.to_str().unwrap()], more].concat());
            refused(&output, 1, &[name, "a pipe"]);
        }
        fs::remove_file(&file).unwrap();
        fs::write(&file, kept).unwrap();
    }
}

#[test]
fn a_mask_of_another_shape_is_refused_with_both_sizes_and_transparency_is_warned_of() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    RgbaImage::from_pixel(64, 32, Rgba([255; 4])).save(path("wide.png")).unwrap();
    let spot = |x, y| if x < 32 && y < 32 { Rgba([255; 4]) } else { Rgba([255, 255, 255, 0]) };
    RgbaImage::from_fn(64, 64, spot).save(path("clear.png")).unwrap();
    let (made, _folder, run) = generate("a red apple", &["--self-attention"]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let (run, image) = (run.to_str().unwrap(), run.join("image.png").display().to_string());
    for command in ["ask", "self-attention"] {
        let wide = attnmap(&[command, run, "--region", &path("wide.png")]);
        refused(&wide, 2, &["--region", "wide.png", "64x32", "64x64"]);
        let clear = attnmap(&[command, run, "--region", &path("clear.png")]);
        let text = String::from_utf8_lossy(&clear.stderr).into_owned();
        assert!(clear.status.success() && text.lines().count() == 1, "{text}");
        assert!(text.contains("clear.png: its transparency was dropped") && text.contains("100 % of it"), "{text}");
    }
    let (clear, _folder, _) = generate("a frog", &["--init", &image, "--mask", &path("clear.png")]);
    let text = String::from_utf8_lossy(&clear.stderr).into_owned();
    assert!(clear.status.success() && text.matches("transparency was dropped").count() == 1, "{text}");
    let model = fixtures().join("tiny-sd1").display().to_string();
    for (command, option) in [(&["generate", "a frog", "--steps", "4", "--init"][..], "--init"), (&["trace"], "IMAGE")]
    {
        let more: &[&str] = if option == "IMAGE" { &["a frog"] } else { &[] };
        let (picture, out) = (path("clear.png"), path(command[0]));
        let tail = ["--model", model.as_str(), "--size", "64x64", "--out", out.as_str()];
        let clear = attnmap(&[command, &[picture.as_str()], more, &tail].concat());
        let text = String::from_utf8_lossy(&clear.stderr).into_owned();
        assert!(clear.status.success() && text.matches("transparency was dropped").count() == 1, "{text}");
        assert!(text.contains(option), "{text}");
    }
    // Nothing to warn of where nothing is seen through.
    let opaque = picture::read_mask(Path::new(&path("wide.png")), Grid::new(32, 64), attnmap::argument::MASK).unwrap();
    assert_eq!(opaque.warning, None);
}
