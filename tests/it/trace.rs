//! The recorder against plain sums, and the trace file against everything that can be wrong with a
//! file.

use attnmap::heatmap::{Aggregate, aggregate};
use attnmap::trace::{
    About, AttentionKind, AttentionObserver, CheckpointInfo, Grid, Half, PromptInfo, Recorder, Recording,
    RecordingPlan, Site, Stage, Step, TextAttention, TokenInfo, TokenKind, Trace, WordInfo,
};
use candle_core::{Device, Tensor};
use proptest::prelude::*;
use std::path::PathBuf;

const STEPS: usize = 3;
const KEYS: usize = 13;

fn site(index: usize, kind: AttentionKind, heads: usize, height: usize, width: usize) -> Site {
    let path = format!("up_blocks.{index}.attentions.0.transformer_blocks.0.attn2");
    Site { path, stage: Stage::Up, depth: [0.25, 0.0, 0.75][index], kind, index, heads, height, width }
}

/// Sites of odd sizes, one of more cells than the recorder takes at once.
fn sites() -> Vec<Site> {
    vec![
        site(0, AttentionKind::Cross, 3, 9, 11),
        site(1, AttentionKind::SelfAttention, 3, 9, 11),
        site(2, AttentionKind::Cross, 2, 1, 2),
    ]
}

fn probabilities(site: &Site, batch: usize, step: usize) -> Tensor {
    let shape = (batch, site.heads, site.height * site.width, KEYS);
    let count = (shape.0 * shape.1 * shape.2 * shape.3) as f32;
    let ramp = Tensor::arange(0f32, count, &Device::Cpu).unwrap();
    let logits = (((ramp * 0.7).unwrap() + step as f64).unwrap().cos().unwrap() * 3.0).unwrap();
    candle_nn::ops::softmax_last_dim(&logits.reshape(shape).unwrap()).unwrap()
}

fn record(plan: RecordingPlan, guided: bool) -> Vec<Recording> {
    let mut recorder = Recorder::new(&sites(), plan);
    let batch = if guided { 2 * plan.images } else { plan.images };
    for index in 0..STEPS {
        let step = Step { index, count: STEPS, timestep: 900.0 - index as f64, images: plan.images, guided };
        recorder.begin_step(&step).unwrap();
        for site in sites() {
            assert_eq!(recorder.wants(&site), site.kind == AttentionKind::Cross);
            if recorder.wants(&site) {
                recorder.observe(&site, &probabilities(&site, batch, index)).unwrap();
            }
        }
    }
    recorder.finish().unwrap()
}

const PLAN: RecordingPlan = RecordingPlan { tokens: 4, unconditional_tokens: Some(2), images: 2, per_step: true };

/// Sum over the steps of one row of the batch, `[heads, tokens + 1, cells]`, and the head mean of
/// every step.
fn plain(site: &Site, row: usize, batch: usize, tokens: usize) -> (Vec<f32>, Vec<f32>) {
    let cells = site.height * site.width;
    let mut sum = vec![0.0; site.heads * (tokens + 1) * cells];
    let mut mean = vec![0.0; STEPS * (tokens + 1) * cells];
    for step in 0..STEPS {
        let values: Vec<f32> =
            probabilities(site, batch, step).get(row).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        for (index, value) in values.into_iter().enumerate() {
            let (head, cell, token) = (index / KEYS / cells, index / KEYS % cells, (index % KEYS).min(tokens));
            sum[(head * (tokens + 1) + token) * cells + cell] += value;
            mean[(step * (tokens + 1) + token) * cells + cell] += value / site.heads as f32;
        }
    }
    (sum, mean)
}

#[test]
fn the_recorder_equals_plain_sums() {
    for guided in [true, false] {
        let (first, batch) = if guided { (2, 4) } else { (0, 2) };
        for (image, recording) in record(PLAN, guided).into_iter().enumerate() {
            assert_eq!(recording.unconditional.is_some(), guided);
            let halves = [(Some(recording.conditional), first + image, 4), (recording.unconditional, image, 2)];
            for (maps, row, tokens) in halves {
                let Some(maps) = maps else { continue };
                for (site, maps) in recording.sites.iter().zip(&maps.sites) {
                    let (sum, mean) = plain(site, row, batch, tokens);
                    let close = |a: &f32, b: &f32| (a - b).abs() < 1e-5;
                    assert!(maps.sum.iter().zip(&sum).all(|(a, b)| close(a, b)) && maps.sum.len() == sum.len());
                    let steps = maps.steps.as_ref().unwrap();
                    assert_eq!(steps.len(), mean.len());
                    assert!(steps.iter().zip(&mean).all(|(a, b)| (a.to_f32() - b).abs() < 5e-4));
                }
            }
        }
    }
}

#[test]
fn rows_that_do_not_sum_to_the_steps_are_found() {
    let mut recorder = Recorder::new(&sites()[2..], RecordingPlan { images: 1, unconditional_tokens: None, ..PLAN });
    recorder.begin_step(&Step { index: 0, count: 1, timestep: 0.0, images: 1, guided: false }).unwrap();
    let wrong = (probabilities(&sites()[2], 1, 0) * 1.01).unwrap();
    recorder.observe(&sites()[2], &wrong).unwrap();
    let error = recorder.finish().unwrap_err().to_string();
    assert!(error.contains("up_blocks.2") && error.contains("sums to 1.01"), "{error}");
}

#[test]
fn a_site_missed_at_a_step_is_found() {
    let mut recorder = Recorder::new(&sites()[2..], RecordingPlan { images: 1, ..PLAN });
    recorder.begin_step(&Step { index: 0, count: 1, timestep: 0.0, images: 1, guided: false }).unwrap();
    assert!(recorder.finish().unwrap_err().to_string().contains("observed at 0 of 1 steps"));
}

fn trace() -> Trace {
    let token = |kind, start, end| TokenInfo { id: 7, text: "x</w>".into(), kind, start, end };
    let text = vec![token(TokenKind::Text, 0, 3), token(TokenKind::Text, 4, 10)];
    let tokens = [vec![token(TokenKind::Start, 0, 0)], text, vec![token(TokenKind::End, 10, 10)]].concat();
    let word =
        |text: &str, start, end, token| WordInfo { text: text.into(), start, end, tokens: vec![token], occurrence: 1 };
    let words = vec![word("red", 0, 3, 1), word("лес", 4, 10, 2)];
    let special = vec![token(TokenKind::Start, 0, 0), token(TokenKind::End, 0, 0)];
    let about = About {
        prompt: PromptInfo { text: "red лес".into(), tokens, words },
        negative: Some(PromptInfo { tokens: special, ..PromptInfo::default() }),
        probes: vec![],
        latent: Grid::new(9, 11),
        image: Grid::new(72, 88),
        checkpoint: CheckpointInfo { id: "tiny".into(), digest: "0123".into() },
        settings: serde_json::json!({ "seed": 7, "steps": STEPS }),
        ..About::default()
    };
    let mut recording = record(PLAN, true).remove(1);
    let layer = probabilities(&site(0, AttentionKind::SelfAttention, 2, 1, KEYS), 1, 0);
    recording.text = vec![TextAttention::from_chunks(&layer, &[4]).unwrap()];
    Trace::new(about, recording).unwrap()
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn saved(folder: &tempfile::TempDir) -> PathBuf {
    let path = folder.path().join("trace.safetensors");
    trace().save(&path).unwrap();
    path
}

#[test]
fn a_trace_survives_its_file() {
    let folder = folder();
    let (before, path) = (trace(), saved(&folder));
    let after = Trace::load(&path).unwrap();
    assert_eq!(before.about, after.about);
    assert_eq!(before.recording.sites, after.recording.sites);
    assert_eq!(before.recording.timesteps, after.recording.timesteps);
    assert_eq!(&before.recording.text[0].probabilities[..], &after.recording.text[0].probabilities[..]);
    for half in [Half::Conditional, Half::Unconditional] {
        let ((before, _), (after, _)) = (before.half(half).unwrap(), after.half(half).unwrap());
        assert_eq!(before.tokens, after.tokens);
        for (before, after) in before.sites.iter().zip(&after.sites) {
            assert_eq!(&before.sum[..], &after.sum[..]);
            assert_eq!(&before.steps.as_ref().unwrap()[..], &after.steps.as_ref().unwrap()[..]);
        }
    }
    after.verify().unwrap();
}

/// The trace `name` of tests/fixtures/records, of which is read what numpy made of it.
fn recorded(name: &str) -> Trace {
    let records = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/records");
    let trace = Trace::load(&PathBuf::from(format!("{records}/{name}.safetensors"))).unwrap();
    trace.verify().unwrap();
    let read = std::fs::read_to_string(format!("{records}/{name}.json")).unwrap();
    let read: serde_json::Value = serde_json::from_str(&read).unwrap();
    let apple = trace.about.prompt.words.iter().filter(|word| word.text == "apple").cloned().collect::<Vec<_>>();
    let maps = aggregate(&trace, &Aggregate::named("finest").unwrap(), &apple).unwrap();
    let shares = aggregate(&trace, &Aggregate::named("all").unwrap(), &apple).unwrap().shares;
    let rows: Vec<Vec<f32>> = serde_json::from_value(read["apple"].clone()).unwrap();
    let channels: Vec<f32> = serde_json::from_value(read["shares"].clone()).unwrap();
    for (ours, numpy) in [(maps.word(0), &rows.concat()[..]), (&shares[..], &channels[..])] {
        assert_eq!(ours.len(), numpy.len());
        assert!(ours.iter().zip(numpy).all(|(ours, numpy)| (ours - numpy).abs() < 1e-5), "{ours:?}\n{numpy:?}");
    }
    trace
}

/// A trace of the format before joint attention, whose sites say `attends` and have no depth
/// (tests/fixtures/make_trace_1.py).
#[test]
fn a_trace_of_format_1_is_read() {
    let trace = recorded("trace-1");
    let sites: Vec<_> = trace.recording.sites.iter().map(|site| (site.stage, site.depth, site.kind)).collect();
    assert_eq!(sites, [(Stage::Down, 0.25, AttentionKind::Cross), (Stage::Mid, 0.75, AttentionKind::Cross)]);
    assert!(trace.half(Half::Unconditional).is_some() && trace.probes(Half::Conditional).is_some());
    let kept = &trace.recording;
    assert_eq!((kept.self_attention.len(), kept.text.len(), kept.text_2.len()), (1, 1, 0));
}

/// A trace as attnmap 0.1.0 wrote it (tests/fixtures/make_trace_2.py).
#[test]
fn a_trace_of_format_2_is_read() {
    let trace = recorded("trace-2");
    let sites = &trace.recording.sites;
    assert!(sites.iter().all(|site| site.kind == AttentionKind::Cross) && sites.len() == 11);
    assert_eq!((sites[0].stage, sites[4].stage, sites[10].stage), (Stage::Down, Stage::Mid, Stage::Up));
    assert!(sites.is_sorted_by(|one, next| one.depth < next.depth) && sites[10].depth < 1.0);
    assert_eq!((trace.about.checkpoint.id.as_str(), trace.recording.timesteps.len()), ("tiny-sd1", 1));
    assert!(trace.recording.conditional.sites.iter().all(|site| site.steps.is_some()));
    assert!(trace.half(Half::Unconditional).is_some() && trace.probes(Half::Conditional).is_some());
    let kept = &trace.recording;
    assert_eq!((kept.self_attention.len(), kept.text.len(), kept.text_2.len()), (0, 3, 0));
}

#[test]
fn equal_traces_are_equal_bytes_and_nothing_else_is_left() {
    let folder = folder();
    let path = saved(&folder);
    let first = std::fs::read(&path).unwrap();
    trace().save(&path).unwrap();
    assert_eq!(first, std::fs::read(&path).unwrap());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

/// The saved trace with its header changed by `edit`.
fn edited(edit: impl FnOnce(&mut serde_json::Value)) -> String {
    let folder = folder();
    let path = saved(&folder);
    let bytes = std::fs::read(&path).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut header: serde_json::Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    edit(&mut header);
    let header = header.to_string();
    let file = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &bytes[8 + length..]].concat();
    std::fs::write(&path, file).unwrap();
    match Trace::load(&path) {
        Ok(_) => "fine".into(),
        Err(error) => error.to_string().replace(path.to_str().unwrap(), "FILE"),
    }
}

#[test]
fn wrong_headers_are_refused_by_name() {
    let metadata = |key: &'static str, value: &'static str| {
        edited(move |header| header["__metadata__"][key] = serde_json::Value::from(value))
    };
    assert_eq!(edited(|_| {}), "fine");
    let newer = metadata("format_version", "3");
    assert!(
        newer.starts_with("FILE: trace format 3, written by attnmap ") && newer.contains("update attnmap"),
        "{newer}"
    );
    assert!(metadata("format_version", "one").contains("is not a number"));
    assert!(edited(|header| header["__metadata__"] = serde_json::json!({})).contains("not an attnmap trace"));
    assert!(metadata("tokens", "[]").contains("not F32 [3, 1, 9, 11]"));
    assert!(metadata("sites", "no").contains("metadata \"sites\""));
    assert!(metadata("latent", r#"{"height":0,"width":3}"#).contains("latent grid"));
    assert!(metadata("latent", r#"{"height":99999999,"width":3}"#).contains("latent grid"));
    assert!(metadata("timesteps", "[1, 2]").contains("not F16 [2, 5, 9, 11]"));
    assert!(metadata("prompt", "red").contains("not a part of the prompt"));
    let words = r#"[{"text":"red","start":0,"end":3,"tokens":[4],"occurrence":1}]"#;
    assert!(metadata("words", words).contains("names tokens [4] of 4"));
    let words = r#"[{"text":"red","start":0,"end":5,"tokens":[1],"occurrence":1}]"#;
    assert!(metadata("words", words).contains("0..5"), "a word may not end inside a character");
}

#[test]
fn files_that_are_no_traces_are_refused() {
    let folder = folder();
    let path = folder.path().join("trace.safetensors");
    assert!(Trace::load(&path).unwrap_err().to_string().contains("No such file"));
    for bytes in [&b""[..], b"hello", &[255; 64], &[0; 64]] {
        std::fs::write(&path, bytes).unwrap();
        let error = Trace::load(&path).unwrap_err().to_string();
        assert!(error.contains("trace.safetensors") && !error.contains('\n'), "{error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever happened to the file, loading and aggregating end in a value or an error.
    #[test]
    fn damaged_files_never_panic(
        cut in proptest::option::of(0.0f64..1.0),
        flips in proptest::collection::vec((0.0f64..1.0, 0u8..=255), 0..6),
        in_header in any::<bool>(),
    ) {
        let folder = folder();
        let path = saved(&folder);
        let mut bytes = std::fs::read(&path).unwrap();
        let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let reach = if in_header { header } else { bytes.len() };
        for (place, byte) in flips {
            bytes[(place * reach as f64) as usize] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate((cut * bytes.len() as f64) as usize);
        }
        std::fs::write(&path, bytes).unwrap();
        if let Ok(trace) = Trace::load(&path) {
            trace.verify().ok();
            for name in ["daam", "all", "last-up"] {
                aggregate(&trace, &Aggregate::named(name).unwrap(), &trace.about.prompt.words).ok();
            }
            let how = Aggregate { steps: Some("1-2".parse().unwrap()), ..Aggregate::default() };
            aggregate(&trace, &how, &trace.about.prompt.words).ok();
        }
    }
}
