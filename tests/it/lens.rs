//! The lens on the text encoder against diffusers (`tests/fixtures/make_lens.py`), and the command.

use std::ops::ControlFlow;
use std::path::Path;

use attnmap::checkpoint::{Checkpoint, OpenOptions, Source};
use attnmap::pipeline::{LoadOptions, Options, Pipeline};
use serde_json::Value;

use crate::cli::{attnmap, refused};

#[test]
fn images_are_diffusers_own() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    for (name, expected) in [
        ("tiny-sd1", vec![vec![0], vec![1], vec![2], vec![3]]),
        ("tiny-sd2", vec![vec![0], vec![1], vec![2], vec![3]]),
        ("tiny-sdxl", vec![vec![1, 1], vec![2, 2], vec![2, 3], vec![3, 4]]),
    ] {
        let checkpoint = Checkpoint::open(&Source::Folder(fixtures.join(name)), &OpenOptions::default()).unwrap();
        let pipeline = Pipeline::load(&checkpoint, &LoadOptions::default()).unwrap();
        let options = Options {
            steps: 2,
            guidance_scale: 7.5,
            seeds: vec![3],
            height: 64,
            width: 64,
            ..pipeline.default_options()
        };
        let prompt = pipeline.prompt("a red apple and a green frog", &options).unwrap();
        let stops = pipeline.lens_stops(1, 0);
        assert_eq!(stops, expected, "{name}");
        assert_eq!(pipeline.lens_stops(2, 0).last(), stops.last());
        let runs = pipeline.lens(&prompt, &options, &stops, &mut || ControlFlow::Continue(())).unwrap();
        let mut compared = 0;
        for (layers, run) in stops.iter().zip(&runs) {
            let layers: Vec<String> = layers.iter().map(usize::to_string).collect();
            let file = fixtures.join("lens").join(format!("{name}-{}.png", layers.join("-")));
            let Ok(theirs) = image::open(&file) else { continue };
            compared += 1;
            let pairs = run.generation.image.as_raw().iter().zip(theirs.to_rgb8().into_raw());
            let off = pairs.map(|(a, b)| a.abs_diff(b)).max().unwrap();
            assert!(off <= 2, "{name} after {layers:?} layers: off by {off}");
        }
        assert!(compared >= 3, "{name}: {compared} compared");
        // The last stop is the run itself.
        let whole =
            pipeline.generate(&prompt, &options, &mut attnmap::trace::Unobserved, &mut |_| ControlFlow::Continue(()));
        assert_eq!(whole.unwrap().images[0].image, runs.last().unwrap().generation.image, "{name}");
    }
}

#[test]
fn the_command_draws_a_strip() {
    let work = tempfile::tempdir().unwrap();
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiny-sd1");
    let out = work.path().join("apple");
    let (model, out) = (model.to_str().unwrap(), out.to_str().unwrap());
    let arguments =
        ["lens", "a red apple", "--model", model, "--steps", "2", "--size", "64x64", "--every", "2", "--out", out];
    let output = attnmap(&[&arguments[..], &["--json"]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lens: Value = serde_json::from_slice(&output.stdout).unwrap();
    let stops = lens["stops"].as_array().unwrap();
    assert_eq!(stops.iter().map(|stop| stop["layers"][0].as_u64().unwrap()).collect::<Vec<_>>(), [0, 1, 3]);
    assert!(stops[0]["difference"].as_f64().unwrap() > 0.0 && stops[2]["difference"] == 0.0);
    let picture = image::open(format!("{out}.png")).unwrap();
    // One row of images, and one for each of the two words.
    assert!(picture.width() > 500 && picture.height() > 750, "{}x{}", picture.width(), picture.height());
    refused(&attnmap(&arguments), 2, &["--out"]);
    refused(&attnmap(&["lens", "a red apple", "--model", model, "--every", "0"]), 2, &["--every"]);
}
