//! Heat maps against torch: resizing, and DAAM's aggregation from raw probabilities
//! (tests/fixtures/make_heatmaps.py).

use attnmap::heatmap::{Aggregate, Filter, Resampler, aggregate};
use attnmap::trace::{
    About, AttentionKind, AttentionObserver, Grid, PromptInfo, Recorder, RecordingPlan, Site, Stage, Step, TokenInfo,
    TokenKind, Trace, WordInfo,
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
        depth: 0.0,
        kind: AttentionKind::Cross,
        index,
        heads,
        height,
        width,
    };
    let sites: Vec<Site> = shapes.into_iter().enumerate().map(site).collect();
    let plan = RecordingPlan { tokens: 5, unconditional_tokens: None, images: 2, per_step: true };
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

/// A trace of two sites (one on the latent grid, one coarser) whose prompt has the words `one` and
/// `two`. `pieces` are the parts of `one`'s probability that its tokens have. `seed` gives the
/// probabilities.
fn split(seed: u64, pieces: &[f32]) -> Trace {
    let site = |index: usize, height, width| Site {
        path: format!("up_blocks.{index}.attentions.0"),
        stage: Stage::Up,
        depth: 0.0,
        kind: AttentionKind::Cross,
        index,
        heads: 2,
        height,
        width,
    };
    let sites = [site(0, 2, 3), site(1, 4, 6)];
    let tokens = 3 + pieces.len();
    let plan = RecordingPlan { tokens, unconditional_tokens: None, images: 1, per_step: true };
    let mut recorder = Recorder::new(&sites, plan);
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 24) as f32
    };
    for index in 0..3 {
        recorder.begin_step(&Step { index, count: 3, timestep: 0.0, images: 1, guided: false }).unwrap();
        for site in &sites {
            let cells = site.height * site.width;
            let mut values = Vec::new();
            for _ in 0..site.heads * cells {
                let raw = [4.0 + next(), next(), next(), next(), 2.0 * next()];
                let total: f32 = raw.iter().sum();
                let [start, one, two, end, padding] = raw.map(|value| value / total);
                values.push(start);
                values.extend(pieces.iter().map(|piece| piece * one));
                values.extend([two, end, padding]);
            }
            let shape = (1, site.heads, cells, tokens + 1);
            recorder.observe(site, &Tensor::from_vec(values, shape, &Device::Cpu).unwrap()).unwrap();
        }
    }
    let token = |kind| TokenInfo { id: 0, text: String::new(), kind, start: 0, end: 0 };
    let text = (0..=pieces.len()).map(|_| token(TokenKind::Text));
    let tokens: Vec<_> = [token(TokenKind::Start)].into_iter().chain(text).chain([token(TokenKind::End)]).collect();
    let word = |text: &str, start: usize, tokens: std::ops::Range<usize>| WordInfo {
        text: text.into(),
        start,
        end: start + 3,
        tokens: tokens.collect(),
        occurrence: 1,
    };
    let (one, two) = (1..1 + pieces.len(), 1 + pieces.len()..2 + pieces.len());
    let words = vec![word("one", 0, one), word("two", 4, two)];
    let prompt = PromptInfo { text: "one two".into(), tokens, words };
    let about = About { prompt, latent: Grid::new(4, 6), image: Grid::new(32, 48), ..About::default() };
    Trace::new(about, recorder.finish().unwrap().remove(0)).unwrap()
}

/// Attention to a word is that to all its tokens: into how many of them a tokenizer cuts it changes
/// nothing.
#[test]
fn splitting_a_word_into_more_tokens_changes_nothing() {
    use attnmap::facts::region::{Place, rank};
    use proptest::prelude::*;
    let pieces = prop::collection::vec(0.05f32..1.0, 2..5);
    let how = prop::sample::select(vec!["compete", "all, layers up", "all", "last-up, heads 1", "compete, steps 2-3"]);
    let config = ProptestConfig { cases: 40, ..ProptestConfig::default() };
    proptest!(config, |(seed in any::<u64>(), pieces in pieces, how in how)| {
           let total: f32 = pieces.iter().sum();
           let pieces: Vec<f32> = pieces.iter().map(|piece| piece / total).collect();
           let how: Aggregate = how.parse().unwrap();
           let traces = [split(seed, &[1.0]), split(seed, &pieces)];
           let maps = traces.each_ref().map(|trace| aggregate(trace, &how, &trace.about.prompt.words).unwrap());
           let near = |a: f32, b: f32| (a - b).abs() <= 2e-3 * a.abs().max(b.abs()).max(1e-3);
           for word in 0..2 {
               let [one, many] = maps.each_ref().map(|maps| maps.word(word));
               for (a, b) in one.iter().zip(many) {
                   prop_assert!(near(*a, *b), "map: {a} {b}");
               }
               let [one, many] = maps.each_ref().map(|maps| maps.layout(word, 0.4));
               prop_assert!(near(one.share, many.share) && near(one.peak_value(), many.peak_value()));
               let [one, many] = [one, many].map(|layout| layout.peak.unwrap());
               prop_assert_eq!((one.row, one.column), (many.row, many.column));
           }
           let place = Place::Box([3.0, 5.0, 30.0, 21.0], Grid::new(32, 48));
           let words = |trace: &Trace| rank(trace, &how, &trace.about.prompt.words, &place, 0.4, &|_| None).unwrap();
    let parts = traces.each_ref().map(words);
           for (one, many) in parts[0].iter().zip(&parts[1]) {
               prop_assert_eq!(&one.word, &many.word);
               prop_assert!(near(one.share as f32, many.share as f32) && near(one.lift as f32, many.lift as f32));
           }
           prop_assert!((parts[1].iter().map(|part| part.share).sum::<f64>() - 1.0).abs() < 1e-3);
       });
}
