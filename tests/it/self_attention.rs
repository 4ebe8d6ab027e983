//! Self-attention maps: their numbers against torch, their budget, and the command that shows them.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use attnmap::pipeline::{Options, RecordOptions};
use attnmap::trace::{Grid, Trace};
use candle_core::Device;
use serde::Deserialize;
use serde_json::Value;

use crate::cli::{attnmap, generate, refused, walk};
use crate::traced::{fixtures, load, traced};

#[derive(Debug, Deserialize)]
struct Case {
    checkpoint: String,
    prompt: String,
    width: usize,
    height: usize,
    guidance_scale: f64,
    steps: usize,
    seed: u64,
    sites: BTreeMap<String, usize>,
}

#[test]
fn ties_equal_torch() {
    let cases: BTreeMap<String, Case> =
        serde_json::from_slice(&fs::read(fixtures().join("ties.json")).unwrap()).unwrap();
    let expected = candle_core::safetensors::load(fixtures().join("ties.safetensors"), &Device::Cpu).unwrap();
    for (name, case) in cases {
        let pipeline = load(&case.checkpoint);
        // A second image beside it, to see that rows of the batch are not mixed up.
        let options = Options {
            steps: case.steps,
            guidance_scale: case.guidance_scale,
            seeds: vec![case.seed, case.seed + 1],
            height: case.height,
            width: case.width,
            ..pipeline.default_options()
        };
        let self_attention = pipeline.plan_self_attention(&options, None, 1 << 30).unwrap().sites;
        let with =
            traced(&pipeline, &case.prompt, &options, RecordOptions { self_attention, ..RecordOptions::default() });
        let without = traced(&pipeline, &case.prompt, &options, RecordOptions::default());

        let trace = &with[0].trace;
        assert_eq!(trace.recording.self_attention.len(), case.sites.len(), "{name}");
        assert!(
            trace.recording.self_attention.is_sorted_by_key(|self_attention| self_attention.grid.cells()),
            "the coarsest first"
        );
        for self_attention in &trace.recording.self_attention {
            let Grid { height, width } = self_attention.grid;
            let grid = format!("{height}x{width}");
            assert_eq!(self_attention.sites, case.sites[&grid], "{name}: {grid}");
            let truth = expected[&format!("{name}/{grid}")].flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert_eq!(self_attention.mean.len(), truth.len());
            let top = truth.iter().copied().fold(0f32, f32::max);
            let off = self_attention.mean.iter().zip(&truth).map(|(a, b)| (a.to_f32() - b).abs()).fold(0f32, f32::max);
            println!("{name}: {grid} is off by {:.1e} of its maximum", off / top);
            assert!(off <= 1e-3 * top, "{name}: {grid} is off by {off} of {top}");
            for row in self_attention.mean.chunks_exact(self_attention.grid.cells()) {
                let sum: f32 = row.iter().map(|value| value.to_f32()).sum();
                assert!((sum - 1.0).abs() < 2e-3, "{name}: {grid}: a row sums to {sum}");
            }
        }
        assert_ne!(
            trace.recording.self_attention[0].mean[..],
            with[1].trace.recording.self_attention[0].mean[..],
            "each image has its own"
        );
        // Forming the probabilities is another order of the same sums: the image stays within their
        // rounding.
        for (a, b) in with.iter().zip(&without) {
            let worst = a.generation.image.as_raw().iter().zip(b.generation.image.as_raw());
            assert!(worst.map(|(a, b)| a.abs_diff(*b)).max().unwrap() <= 1, "{name}");
            assert!(b.trace.recording.self_attention.is_empty());
        }

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("trace.safetensors");
        trace.save(&path).unwrap();
        let loaded = Trace::load(&path).unwrap();
        loaded.verify().unwrap();
        for (a, b) in loaded.recording.self_attention.iter().zip(&trace.recording.self_attention) {
            assert_eq!((a.grid, a.sites, &a.mean[..]), (b.grid, b.sites, &b.mean[..]));
        }
    }
}

#[test]
fn a_place_is_shown_at_every_grid() {
    let (output, _folder, out) = generate("a red apple", &["--size", "96x64", "--self-attention"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && said.contains("self-attention at 24x16, 12x8, 6x4"), "{said}");
    let (run, trace) = (out.display().to_string(), Trace::load(&out.join("trace.safetensors")).unwrap());

    let shown = attnmap(&["self-attention", &run, "--at", "50.5,20", "--json"]);
    assert!(shown.status.success(), "{}", String::from_utf8_lossy(&shown.stderr));
    let shown: Value = serde_json::from_slice(&shown.stdout).unwrap();
    let kept: Value = serde_json::from_slice(&fs::read(out.join("self-attention/pixel-50-20.json")).unwrap()).unwrap();
    assert_eq!(shown, kept);
    assert!(image::open(out.join("self-attention/pixel-50-20.png")).unwrap().width() > 96);
    for (map, self_attention) in shown["maps"].as_array().unwrap().iter().zip(&trace.recording.self_attention) {
        let Grid { height, width } = self_attention.grid;
        assert_eq!((&map["height"], &map["width"]), (&height.into(), &width.into()));
        let cell = (20 * height / 64) * width + 50 * width / 96;
        let row = &self_attention.mean[cell * self_attention.grid.cells()..][..self_attention.grid.cells()];
        let values: Vec<f32> = map["map"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect();
        assert!(values.iter().zip(row).all(|(a, b)| (a - b.to_f32()).abs() < 1e-6) && values.len() == row.len());
        assert!((map["stays"].as_f64().unwrap() - f64::from(row[cell].to_f32())).abs() < 1e-3);
    }
    // A box is the mean of its cells: of the whole image, the mean of all rows.
    let whole = attnmap(&["self-attention", &run, "--box", "0,0,96,64", "--json"]);
    let whole: Value = serde_json::from_slice(&whole.stdout).unwrap();
    let (map, self_attention) = (&whole["maps"][0], &trace.recording.self_attention[0]);
    assert!((map["stays"].as_f64().unwrap() - 1.0).abs() < 1e-6, "the whole image keeps everything");
    for (cell, value) in map["map"].as_array().unwrap().iter().enumerate() {
        let cells = self_attention.grid.cells();
        let mean = self_attention.mean.iter().skip(cell).step_by(cells).map(|v| v.to_f32()).sum::<f32>() / cells as f32;
        assert!((value.as_f64().unwrap() as f32 - mean).abs() < 1e-4);
    }
    let table = String::from_utf8(attnmap(&["self-attention", &run, "--at", "50,20", "--out", &run]).stdout).unwrap();
    assert!(table.contains("24x16") && table.contains("pixel-50-20.png"), "{table}");
    refused(&attnmap(&["self-attention", &run, "--at", "96,0"]), 2, &["--at", "96x64"]);
    refused(&attnmap(&["self-attention", &run]), 2, &["--at"]);
    for name in ["tiny-sd3", "tiny-flux-schnell"] {
        let model = fixtures().join(name).display().to_string();
        let none = ["generate", "a red apple", "--model", &model, "--steps", "1", "--self-attention", "--out", &run];
        refused(&attnmap(&[&none[..], &["--force"]].concat()), 2, &["--self-attention", "no layer has"]);
    }

    // The page holds what fits it, one plane per place.
    let data = attnmap::report::from_run(&out).unwrap();
    let packed = attnmap::report::pack::pack(&data, usize::MAX);
    let sizes: Vec<_> =
        packed.self_attention.iter().map(|block| block.as_ref().map(|block| (block.planes, block.height))).collect();
    assert_eq!(sizes, [Some((24, 4)), Some((96, 8)), None]);
    assert!(packed.notes.iter().any(|note| note.contains("more than 256 cells")), "{:?}", packed.notes);
}

#[test]
fn the_budget_refuses_or_leaves_out_with_numbers() {
    let (output, _folder, _) =
        generate("a red apple", &["--self-attention=24x16", "--size", "96x64", "--self-memory", "1MiB"]);
    refused(&output, 2, &["--self-attention", "24x16 takes", "1.0 MiB", "--self-memory"]);
    let (output, _folder, _) = generate("a red apple", &["--self-attention=5"]);
    refused(&output, 2, &["--self-attention", "it has 16x16, 8x8, 4x4"]);
    for (more, part) in
        [(["--self-attention=big", "--seed=1"], "no size"), (["--self-attention", "--self-memory=9 acres"], "512MiB")]
    {
        let (output, _folder, _) = generate("a red apple", &more);
        refused(&output, 2, &[part]);
    }
    let (output, folder, _) = generate(
        "a red apple",
        &["--self-attention", "--size", "96x64", "--self-memory", "300KiB", "--images", "2", "--guidance", "1"],
    );
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && said.contains("24x16 is left out"), "{said}");
    let traces: Vec<PathBuf> =
        walk(folder.path()).into_iter().filter(|path| path.ends_with("trace.safetensors")).collect();
    assert_eq!(traces.len(), 2);
    for trace in traces {
        let trace = Trace::load(&trace).unwrap();
        let sides: Vec<usize> =
            trace.recording.self_attention.iter().map(|self_attention| self_attention.grid.height).collect();
        assert_eq!(sides, [4, 8]);
    }
    let (_, _folder, plain) = generate("a red apple", &[]);
    refused(&attnmap(&["self-attention", &plain.display().to_string(), "--at", "1,1"]), 1, &["--self-attention"]);
}
