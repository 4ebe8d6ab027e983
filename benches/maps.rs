//! What watching and looking cost at the size of Stable Diffusion 1.5 (512x512, 15 tokens, 50
//! steps).
//!
//! `cargo bench --bench maps`

use attnmap::heatmap::{Aggregate, aggregate};
use attnmap::trace::{
    About, AttentionKind, AttentionObserver, Grid, PromptInfo, Recorder, RecordingPlan, Site, Stage, Step, TokenInfo,
    TokenKind, Trace, WordInfo,
};
use candle_core::{DType, Device, Tensor};
use std::path::PathBuf;
use std::sync::LazyLock;

const TOKENS: usize = 15;
const STEPS: usize = 50;
const PLAN: RecordingPlan = RecordingPlan { tokens: TOKENS, unconditional_tokens: None, images: 1, per_step: true };

fn main() {
    divan::main();
}

/// The prompt sites of Stable Diffusion 1.5 at a latent grid of 64x64, with flat probabilities.
fn sites() -> Vec<(Site, Tensor)> {
    let blocks = [
        (Stage::Down, "down_blocks.0", 2, 64),
        (Stage::Down, "down_blocks.1", 2, 32),
        (Stage::Down, "down_blocks.2", 2, 16),
        (Stage::Mid, "mid_block", 1, 8),
        (Stage::Up, "up_blocks.1", 3, 16),
        (Stage::Up, "up_blocks.2", 3, 32),
        (Stage::Up, "up_blocks.3", 3, 64),
    ];
    let mut sites = Vec::new();
    for (stage, block, count, side) in blocks {
        let ones = Tensor::ones((2, 8, side * side, 77), DType::F32, &Device::Cpu).unwrap();
        let flat = (ones / 77.0).unwrap();
        for layer in 0..count {
            let path = format!("{block}.attentions.{layer}.transformer_blocks.0.attn2");
            let index = sites.len();
            let site = Site {
                path,
                stage,
                depth: 0.0,
                kind: AttentionKind::Cross,
                index,
                heads: 8,
                height: side,
                width: side,
            };
            sites.push((site, flat.clone()));
        }
    }
    sites
}

fn record(recorder: &mut Recorder, sites: &[(Site, Tensor)], index: usize) {
    recorder.begin_step(&Step { index, count: STEPS, timestep: 0.0, images: 1, guided: true }).unwrap();
    for (site, probabilities) in sites {
        recorder.observe(site, probabilities).unwrap();
    }
}

fn recorder(sites: &[(Site, Tensor)]) -> Recorder {
    Recorder::new(&sites.iter().map(|(site, _)| site.clone()).collect::<Vec<_>>(), PLAN)
}

/// All sites of one step, the conditional half, with one map per step.
#[divan::bench(sample_count = 20, sample_size = 1)]
fn record_one_step(bencher: divan::Bencher) {
    let sites = sites();
    let mut recorder = recorder(&sites);
    let mut index = 0;
    bencher.bench_local(|| {
        record(&mut recorder, &sites, index);
        index += 1;
    });
}

static TRACE: LazyLock<(tempfile::TempDir, PathBuf)> = LazyLock::new(|| {
    let sites = sites();
    let mut recorder = recorder(&sites);
    (0..STEPS).for_each(|index| record(&mut recorder, &sites, index));
    let token = TokenInfo { id: 0, text: String::new(), kind: TokenKind::Text, start: 0, end: 0 };
    let word = |token| WordInfo { text: "word".into(), start: 0, end: 0, tokens: vec![token], occurrence: token };
    let words = (1..TOKENS - 1).map(word).collect();
    let prompt = PromptInfo { text: String::new(), tokens: vec![token; TOKENS], words };
    let about = About { prompt, latent: Grid::new(64, 64), ..About::default() };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("trace.safetensors");
    Trace::new(about, recorder.finish().unwrap().remove(0)).unwrap().save(&path).unwrap();
    (folder, path)
});

/// Opening the trace and making every word's map, as `view` does.
#[divan::bench(args = ["daam", "all", "last-up"])]
fn open_and_aggregate(bencher: divan::Bencher, name: &str) {
    bench(bencher, &Aggregate::named(name).unwrap());
}

/// The same from single steps.
#[divan::bench]
fn open_and_aggregate_a_window(bencher: divan::Bencher) {
    bench(bencher, &Aggregate { steps: Some("0.2..0.8".parse().unwrap()), ..Aggregate::named("daam").unwrap() });
}

fn bench(bencher: divan::Bencher, how: &Aggregate) {
    let path = &TRACE.1;
    bencher.bench_local(|| {
        let trace = Trace::load(path).unwrap();
        aggregate(&trace, how, &trace.about.prompt.words).unwrap()
    });
}
