//! `report.html` of a run on disk: what the page holds equals what the run's files say.

use attnmap::heatmap::{Aggregate, aggregate};
use attnmap::report::{self, from_run, pack};
use attnmap::run::{RunRecord, Sampling, Settings, save_heatmaps};
use attnmap::trace::{
    About, AttentionKind, CheckpointInfo, Grid, HalfMaps, PromptInfo, Recording, Site, SiteMaps, Stage, TextAttention,
    TokenInfo, TokenKind, Trace, WordInfo,
};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use half::f16;
use std::io::Read;
use std::path::Path;

const STEPS: usize = 3;
const TOKENS: usize = 4;
const HEADS: usize = 2;

fn probability(site: usize, head: usize, step: usize, channel: usize, cell: usize) -> f32 {
    let raw = |c: usize| 1.0 + ((site * 7 + head * 5 + step * 3 + c * 11 + cell) as f32 * 0.9).sin();
    raw(channel) / (0..=TOKENS).map(raw).sum::<f32>()
}

fn trace() -> Trace {
    let grids = [(Stage::Down, 4, 6), (Stage::Up, 2, 3), (Stage::Up, 4, 6)];
    let sites: Vec<Site> = grids
        .iter()
        .enumerate()
        .map(|(index, &(stage, height, width))| {
            let path = format!("blocks.{index}.attn2");
            Site { path, stage, depth: 0.0, kind: AttentionKind::Cross, index, heads: HEADS, height, width }
        })
        .collect();
    let maps = sites.iter().enumerate().map(|(s, site)| {
        let cells = site.height * site.width;
        let all = |count: usize| {
            (0..count).flat_map(move |a| (0..=TOKENS).flat_map(move |c| (0..cells).map(move |cell| (a, c, cell))))
        };
        let sum = |(head, c, cell)| (0..STEPS).map(|step| probability(s, head, step, c, cell)).sum::<f32>();
        let mean = |(step, c, cell)| {
            f16::from_f32((0..HEADS).map(|h| probability(s, h, step, c, cell)).sum::<f32>() / HEADS as f32)
        };
        let (sum, steps) = (all(HEADS).map(sum).collect::<Vec<_>>(), all(STEPS).map(mean).collect::<Vec<_>>());
        SiteMaps { sum: sum.into(), steps: Some(steps.into()) }
    });
    let conditional = HalfMaps { tokens: TOKENS, sites: maps.collect() };
    let causal: Vec<f16> = (0..HEADS * TOKENS * TOKENS)
        .map(|i| {
            let (row, column) = (i / TOKENS % TOKENS, i % TOKENS);
            f16::from_f32(if column <= row { 1.0 / (row + 1) as f32 } else { 0.0 })
        })
        .collect();
    let text = vec![TextAttention { heads: HEADS, probabilities: causal.into() }];
    let timesteps = vec![999.0, 666.0, 333.0];
    let recording = Recording {
        sites,
        timesteps,
        conditional,
        unconditional: None,
        probes: None,
        self_attention: vec![],
        text,
        text_2: Vec::new(),
        text_queries: None,
        concepts: None,
        goca: None,
    };
    let token = |id, text: &str, kind, start, end| TokenInfo { id, text: text.into(), kind, start, end };
    let word = |text: &str, start, tokens| WordInfo {
        text: text.into(),
        start,
        end: start + text.len(),
        tokens,
        occurrence: 1,
    };
    let prompt = PromptInfo {
        text: "<b> & frog".into(),
        tokens: vec![
            token(1, "<|startoftext|>", TokenKind::Start, 0, 0),
            token(2, "<b></w>", TokenKind::Text, 0, 3),
            token(3, "frog</w>", TokenKind::Text, 6, 10),
            token(4, "<|endoftext|>", TokenKind::End, 10, 10),
        ],
        words: vec![word("<b>", 0, vec![1]), word("frog", 6, vec![2])],
    };
    let about = About {
        prompt,
        negative: None,
        probes: vec![],
        latent: Grid::new(4, 6),
        image: Grid::new(32, 48),
        checkpoint: CheckpointInfo { id: "embedded".into(), digest: "abc".into() },
        settings: serde_json::json!({}),
        ..About::default()
    };
    Trace::new(about, recording).unwrap()
}

/// A run folder as `generate` leaves it.
fn run_folder(folder: &Path) -> attnmap::heatmap::Heatmaps {
    let trace = trace();
    let how = Aggregate::named("daam").unwrap();
    let maps = aggregate(&trace, &how, &trace.about.prompt.words).unwrap();
    let mut record = RunRecord {
        by: Default::default(),
        format_version: attnmap::run::FORMAT_VERSION,
        attnmap: "0.1.0".into(),
        kind: Default::default(),
        command: "attnmap generate '<b> & frog' --seed 7".into(),
        prompt: trace.about.prompt.text.clone(),
        negative: None,
        checkpoint: trace.about.checkpoint.clone(),
        settings: Settings {
            seed: 7,
            sampling: Sampling { steps: Some(STEPS), size: Some([32, 48]), ..Sampling::default() },
            ..Settings::default()
        },
        latent: trace.about.latent,
        image: trace.about.image,
        tokens: vec![],
        encoders: vec![],
        padding_share: 0.0,
        image_share: None,
        words: vec![],
        probes: vec![],
        cut_off: vec![],
        warnings: vec![],
        aggregate: String::new(),
        maps: None,
        display: attnmap::render::Display::default(),
        facts: None,
        expectations: Vec::new(),
        sites: trace.recording.sites.clone(),
        timesteps: trace.recording.timesteps.clone(),
        timings: Default::default(),
    };
    record.describe(&maps, &how, &trace.about.prompt, 0.4);
    record.write(folder).unwrap();
    trace.save(&folder.join("trace.safetensors")).unwrap();
    save_heatmaps(&folder.join("heatmaps.safetensors"), &maps, &how.to_string(), &trace.about.prompt).unwrap();
    image::RgbImage::new(48, 32).save(folder.join("image.png")).unwrap();
    maps
}

/// The text of a script element of a page.
fn element<'a>(html: &'a str, id: &str) -> &'a str {
    let from = html.find(&format!("<script id=\"{id}\"")).unwrap();
    let html = &html[from..];
    let html = &html[html.find('>').unwrap() + 1..];
    &html[..html.find("</script>").unwrap()]
}

#[test]
fn the_page_holds_the_runs_own_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let maps = run_folder(folder.path());
    let (file, size) = report::write(folder.path()).unwrap();
    let html = std::fs::read_to_string(&file).unwrap();
    assert_eq!(html.len(), size);
    assert!(html.contains("<title>&lt;b&gt; &amp; frog · attnmap</title>"));
    let run: serde_json::Value = serde_json::from_str(element(&html, "run")).unwrap();
    assert_eq!(run["prompt"], "<b> & frog");
    assert_eq!(run["tokens"][2]["text"], "frog");
    assert_eq!(run["sites"][0]["used"], true);
    assert_eq!((&run["matrices"][0]["name"], &run["matrices"][0]["layers"]), (&"text".into(), &1.into()));
    assert_eq!(run["segments"][1]["text"], " & ");

    let mut bytes = Vec::new();
    let packed = BASE64.decode(element(&html, "maps")).unwrap();
    flate2::read::ZlibDecoder::new(&packed[..]).read_to_end(&mut bytes).unwrap();
    let block = |value: &serde_json::Value| pack::PlaneBlock {
        at: value["at"].as_u64().unwrap() as usize,
        planes: value["planes"].as_u64().unwrap() as usize,
        height: value["height"].as_u64().unwrap() as usize,
        width: value["width"].as_u64().unwrap() as usize,
        bits: value["bits"].as_u64().unwrap() as u8,
    };
    // The run's own maps, 16 bits: equal to heatmaps.safetensors over the steps.
    let own = pack::unpack(&bytes, &block(&run["official"]["block"]));
    assert_eq!(own.len(), maps.words.len());
    for (seen, sum) in own.iter().zip(&maps.words) {
        assert!((seen - sum / STEPS as f32).abs() < 1e-5, "{seen} {sum}");
    }
    // One head of one site, 8 bits, and one step.
    let heads = pack::unpack(&bytes, &block(&run["sites"][1]["byHead"]));
    let steps = pack::unpack(&bytes, &block(&run["sites"][1]["byStep"]));
    for channel in 0..=TOKENS {
        for cell in 0..6 {
            let sum: f32 = (0..STEPS).map(|step| probability(1, 1, step, channel, cell)).sum();
            let seen = heads[((TOKENS + 1) + channel) * 6 + cell];
            assert!((seen - sum / STEPS as f32).abs() < 0.002, "{seen} {sum}");
            let mean: f32 = (0..HEADS).map(|head| probability(1, head, 2, channel, cell)).sum::<f32>() / HEADS as f32;
            let seen = steps[(2 * (TOKENS + 1) + channel) * 6 + cell];
            assert!((seen - mean).abs() < 0.002, "{seen} {mean}");
        }
    }
}

#[test]
fn verdicts_and_kept_steps_are_picked_up_where_they_are() {
    let folder = tempfile::tempdir().unwrap();
    run_folder(folder.path());
    let data = from_run(folder.path()).unwrap();
    assert!(data.verdicts.is_empty() && data.estimates.is_empty());
    // As the first format has it: one verdict per word.
    let records = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/records");
    std::fs::copy(records.join("evidence-1.json"), folder.path().join("evidence.json")).unwrap();
    let causal = candle_core::Tensor::zeros((2, 4, 6), candle_core::DType::F32, &candle_core::Device::Cpu).unwrap();
    let tensors = std::collections::HashMap::from([("causal", causal)]);
    candle_core::safetensors::save(&tensors, folder.path().join("evidence.safetensors")).unwrap();
    std::fs::create_dir(folder.path().join("steps")).unwrap();
    for name in ["02.png", "01.png", "notes.txt"] {
        let path = folder.path().join("steps").join(name);
        match name.ends_with(".png") {
            true => image::RgbImage::new(4, 6).save(path).unwrap(),
            false => std::fs::write(path, "notes").unwrap(),
        }
    }
    let data = from_run(folder.path()).unwrap();
    assert_eq!((data.verdicts.len(), data.verdicts[0].word), (1, 1));
    let verdict = &data.verdicts[0];
    assert_eq!((verdict.mattered, verdict.shows, verdict.changed), ("much", "yes", None));
    assert!(verdict.sentence.starts_with("Cutting \"frog\" moves 20 % of the prediction"), "{}", verdict.sentence);
    assert!(verdict.measured.starts_with("Cutting \"frog\" moves 20 % of the prediction."), "{}", verdict.measured);
    // Numbers of the first format are made again: a word has the attention of all its tokens, and
    // facts are there.
    assert_eq!(data.layout.len(), data.words.len());
    assert_eq!(data.estimates.iter().map(|e| e.step).collect::<Vec<_>>(), [0, 1]);
}

#[test]
fn a_folder_without_a_run_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let error = report::write(folder.path()).unwrap_err().to_string();
    assert!(error.contains("no run here"), "{error}");
    run_folder(folder.path());
    std::fs::remove_file(folder.path().join("image.png")).unwrap();
    let error = report::write(folder.path()).unwrap_err().to_string();
    assert!(error.contains("image.png"), "{error}");
    std::fs::write(folder.path().join("trace.safetensors"), b"x").unwrap();
    let error = report::write(folder.path()).unwrap_err().to_string();
    assert!(error.contains("trace.safetensors") && error.contains("safetensors"), "{error}");
}
