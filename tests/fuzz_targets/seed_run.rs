//! A small whole run that fuzz targets start from.

use attnmap::files::Target;
use attnmap::heatmap::Aggregate;
use attnmap::render::Display;
use attnmap::run::{NewRun, Pictures, RunKind, Sampling, Settings, write_run};
use attnmap::trace::{
    About, AttentionKind, CheckpointInfo, Grid, HalfMaps, PromptInfo, Recording, Site, SiteMaps, Stage, TextAttention,
    TokenInfo, TokenKind, Trace, WordInfo,
};
use half::f16;
use image::{Rgb, RgbImage};
use std::fs;
use std::path::Path;

/// What `attnmap explain` leaves for the page.
pub const EVIDENCE: &str = r#"{"format_version": 1, "notes": ["a note"], "figures": [{"caption": "c", "file":
    "image.png"}],
    "words": [{"word": "apple", "verdict": "supported", "sentence": "It mattered."}]}"#;

const GRID: Grid = Grid { height: 4, width: 6 };
const STEPS: usize = 2;

/// Trace files: with a negative prompt and the steps' maps, and without.
pub fn traces() -> Vec<Vec<u8>> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("trace.safetensors");
    let bytes = |rich: bool| {
        trace(rich).save(&file).unwrap();
        fs::read(&file).unwrap()
    };
    vec![bytes(true), bytes(false)]
}

/// Fills the empty `folder` with a run.
pub fn make(folder: &Path) {
    let trace = trace(true);
    let image = RgbImage::from_fn(48, 32, |x, y| Rgb([5 * x as u8, 7 * y as u8, 90]));
    let aggregate = Aggregate::named("compete").unwrap();
    let display = Display { overlay_size: 64, ..Display::default() };
    let new = NewRun {
        by: Default::default(),
        kind: RunKind::Generate,
        pictures: Pictures { trace: &trace, image: &image, aggregate: &aggregate, display: &display, words: None },
        settings: Settings {
            seed: 7,
            sampling: Sampling { steps: Some(STEPS), size: Some([32, 48]), ..Sampling::default() },
            ..Settings::default()
        },
        negative: Some("fog".into()),
        command: "attnmap generate 'apple frog'".into(),
        expect: None,
        cut_off: Vec::new(),
        warnings: Vec::new(),
        timings: Default::default(),
    };
    write_run(&Target::named(folder, false), &new, |_, _, _| Ok(())).unwrap();
}

fn trace(rich: bool) -> Trace {
    let half = |tokens: usize| {
        let share = 1.0 / (tokens + 1) as f32;
        let cells = (tokens + 1) * GRID.cells();
        let steps = rich.then(|| vec![f16::from_f32(share); STEPS * cells].into());
        HalfMaps { tokens, sites: vec![SiteMaps { sum: vec![STEPS as f32 * share; cells].into(), steps }] }
    };
    let site = Site {
        path: "up_blocks.0.attentions.0.transformer_blocks.0.attn2".into(),
        stage: Stage::Up,
        depth: 0.0,
        kind: AttentionKind::Cross,
        index: 0,
        heads: 1,
        height: GRID.height,
        width: GRID.width,
    };
    let recording = Recording {
        sites: vec![site],
        timesteps: vec![900.0, 400.0],
        conditional: half(4),
        unconditional: rich.then(|| half(3)),
        probes: None,
        self_attention: Vec::new(),
        text: vec![TextAttention { heads: 1, probabilities: vec![f16::from_f32(0.25); 16].into() }],
        text_2: Vec::new(),
        text_queries: None,
        concepts: None,
        goca: None,
    };
    let about = About {
        prompt: prompt(&["apple", "frog"]),
        negative: rich.then(|| prompt(&["fog"])),
        latent: GRID,
        image: Grid::new(32, 48),
        checkpoint: CheckpointInfo { id: "synthetic".into(), digest: "0".into() },
        settings: serde_json::json!({ "seed": 7 }),
        ..About::default()
    };
    Trace::new(about, recording).unwrap()
}

fn prompt(words: &[&str]) -> PromptInfo {
    let token = |kind, start, end| TokenInfo { id: 1, text: String::new(), kind, start, end };
    let (mut tokens, mut infos, mut start) = (vec![token(TokenKind::Start, 0, 0)], Vec::new(), 0);
    for (index, word) in words.iter().enumerate() {
        let end = start + word.len();
        tokens.push(token(TokenKind::Text, start, end));
        infos.push(WordInfo { text: word.to_string(), start, end, tokens: vec![index + 1], occurrence: 1 });
        start = end + 1;
    }
    let text = words.join(" ");
    tokens.push(token(TokenKind::End, text.len(), text.len()));
    PromptInfo { text, tokens, words: infos }
}
