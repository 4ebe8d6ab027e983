//! Heat maps against torch: resizing, and DAAM's aggregation from raw probabilities (tests/fixtures/make_heatmaps.py).

use attnmap::heatmap::{Aggregate, Filter, Resampler, aggregate};
use attnmap::trace::{
    About, Attends, AttentionObserver, Grid, Plan, PromptInfo, Recorder, Site, Stage, Step, TokenInfo, TokenKind, Trace,
};
use candle_core::{Device, Tensor};
use std::collections::HashMap;

fn fixture() -> HashMap<String, Tensor> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/heatmaps.safetensors");
    candle_core::safetensors::load(path, &Device::Cpu).unwrap()
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn grid(tensor: &Tensor) -> Grid {
    let (height, width) = tensor.dims2().unwrap();
    Grid::new(height, width)
}

#[track_caller]
fn assert_close(ours: &[f32], theirs: &[f32], tolerance: f32, what: &str) {
    assert_eq!(ours.len(), theirs.len(), "{what}");
    let worst = ours.iter().zip(theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst <= tolerance, "{what}: off by {worst}");
}

#[test]
fn resizing_equals_torch() {
    let fixture = fixture();
    let mut checked = 0;
    for (name, input) in fixture.iter().filter(|(name, _)| name.ends_with(".input")) {
        let name = name.trim_end_matches(".input");
        for (mode, filter) in
            [("bicubic", Filter::Bicubic), ("bilinear", Filter::Bilinear), ("nearest-exact", Filter::Nearest)]
        {
            let expected = &fixture[&format!("{name}.{mode}")];
            let ours = Resampler::new(grid(input), grid(expected), filter).resize(&values(input));
            assert_close(&ours, &values(expected), 1e-6, &format!("{name} {mode}"));
            checked += 1;
        }
    }
    assert_eq!(checked, 15);
}

#[test]
fn daam_equals_daam() {
    let fixture = fixture();
    let shapes = [
        (Stage::Down, 2, 8, 12),
        (Stage::Down, 3, 4, 6),
        (Stage::Mid, 2, 2, 3),
        (Stage::Up, 2, 1, 1),
        (Stage::Up, 3, 2, 3),
        (Stage::Up, 2, 8, 12),
    ];
    let site = |(index, (stage, heads, height, width)): (usize, (Stage, usize, usize, usize))| Site {
        path: format!("site.{index}"),
        stage,
        attends: Attends::Prompt,
        index,
        heads,
        height,
        width,
    };
    let sites: Vec<Site> = shapes.into_iter().enumerate().map(site).collect();
    let plan = Plan { tokens: 5, unconditional_tokens: None, images: 2, per_step: true };
    let mut recorder = Recorder::new(&sites, plan);
    for index in 0..3 {
        recorder.begin_step(&Step { index, count: 3, timestep: 0.0, images: 2, guided: true }).unwrap();
        for site in &sites {
            recorder.observe(site, &fixture[&format!("daam.probabilities.{}.{index}", site.index)]).unwrap();
        }
    }
    for (image, recording) in recorder.finish().unwrap().into_iter().enumerate() {
        let token = TokenInfo { id: 0, text: String::new(), kind: TokenKind::Text, start: 0, end: 0 };
        let prompt = PromptInfo { tokens: vec![token; 5], ..PromptInfo::default() };
        let about = About { prompt, latent: Grid::new(8, 12), ..About::default() };
        let trace = Trace::new(about, recording).unwrap();
        let maps = aggregate(&trace, &Aggregate::named("daam").unwrap(), &[]).unwrap();
        let theirs = values(&fixture[&format!("daam.tokens.{image}")]);
        let largest = theirs.iter().copied().fold(0.0, f32::max);
        assert_close(&maps.tokens, &theirs, 1e-5 * largest, &format!("image {image}"));
    }
}
