//! Scores and facts against numbers made with numpy and scipy (`tests/fixtures/make_evidence.py`);
//! cuts against diffusers (`tests/fixtures/make_causal.py`) and against answers known by
//! construction.

use attnmap::checkpoint::{Checkpoint, OpenOptions, Source};
use attnmap::evidence::accuracy::{Accuracy, bootstrap};
use attnmap::evidence::{Agreement, Change, Cut, Mattered, Row, SHOWN, Shows, changes, edges, judge};
use attnmap::facts::{overlap, spread, symmetric_kl};
use attnmap::heatmap::{Aggregate, aggregate};
use attnmap::pipeline::{LoadOptions, Options, Pipeline, RecordOptions};
use attnmap::scheduler::TorchGenerator;
use attnmap::trace::{Grid, PromptInfo};
use candle_core::{DType, Device, IndexOp, Tensor};
use serde_json::Value;
use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::Path;

fn fixture() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/evidence.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn floats(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|value| value.as_f64().unwrap() as f32).collect()
}

fn close(found: f64, expected: &Value, tolerance: f64, what: &str) {
    let expected = expected.as_f64().unwrap();
    assert!((found - expected).abs() <= tolerance, "{what}: {found}, numpy has {expected}");
}

#[test]
fn agreement_is_scipys() {
    for pair in fixture()["pairs"].as_array().unwrap() {
        let found = Agreement::of(&floats(&pair["a"]), &floats(&pair["b"]));
        close(found.spearman.unwrap(), &pair["spearman"], 1e-9, "spearman");
        close(found.iou_top, &pair["iou_top"], 1e-12, "iou_top");
        close(found.drop, &pair["drop"], 1e-9, "drop");
    }
}

#[test]
fn accuracy_is_numpys() {
    for one in fixture()["accuracy"].as_array().unwrap() {
        let mask: Vec<bool> = one["mask"].as_array().unwrap().iter().map(|value| value.as_bool().unwrap()).collect();
        let found = Accuracy::of(&floats(&one["map"]), &mask);
        for (name, value) in Accuracy::NAMES.iter().zip(found.values()) {
            close(value, &one[*name], 1e-9, name);
        }
    }
}

#[test]
fn the_bootstrap_is_numpys_draw_by_draw() {
    let fixture = &fixture()["bootstrap"];
    let group = |group: &Value| group.as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).collect();
    let groups: Vec<Vec<f64>> = fixture["groups"].as_array().unwrap().iter().map(group).collect();
    let found = bootstrap(&groups, 11);
    close(found.mean, &fixture["mean"], 1e-12, "mean");
    close(found.low, &fixture["low"], 1e-12, "low");
    close(found.high, &fixture["high"], 1e-12, "high");
}

#[test]
fn edges_are_scipys_sobel() {
    let fixture = &fixture()["edges"];
    let found = edges(&floats(&fixture["luminance"]), Grid::new(24, 40), Grid::new(6, 10));
    for (cell, (found, expected)) in found.iter().zip(fixture["cells"].as_array().unwrap()).enumerate() {
        close(f64::from(*found), expected, 1e-5, &format!("cell {cell}"));
    }
}

#[test]
fn distributions_are_compared_as_scipy_does() {
    let fixture = &fixture()["distributions"];
    let (p, q) = (floats(&fixture["p"]), floats(&fixture["q"]));
    close(symmetric_kl(&p, &q), &fixture["symmetric_kl"], 1e-5, "symmetric KL");
    close(overlap(&p, &q), &fixture["overlap"], 1e-9, "overlap");
    close(f64::from(spread(&p, Grid::new(8, 8)).unwrap()), &fixture["spread"], 1e-6, "spread");
}

fn tiny() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiny-sd1")
}

fn load(folder: &Path) -> Pipeline {
    let checkpoint = Checkpoint::open(&Source::Folder(folder.to_path_buf()), &OpenOptions::default()).unwrap();
    Pipeline::load(&checkpoint, &LoadOptions::default()).unwrap()
}

/// A copy of tiny-sd1 whose UNet weights were changed by `change`, told each name and tensor.
fn changed(change: impl Fn(&str, &Tensor) -> Option<Tensor>) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    copy_folder(&tiny(), copy.path());
    let file = copy.path().join("unet/diffusion_pytorch_model.safetensors");
    let tensors = candle_core::safetensors::load(&file, &Device::Cpu).unwrap();
    let tensors: HashMap<String, Tensor> =
        tensors.into_iter().map(|(name, tensor)| (name.clone(), change(&name, &tensor).unwrap_or(tensor))).collect();
    candle_core::safetensors::save(&tensors, &file).unwrap();
    copy
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &target)
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// The changes that cutting `word` makes at the fixture's two noisy latents.
fn cut(pipeline: &Pipeline, text: &str, word: &str, how: Cut) -> Change {
    let prompt = pipeline.tokenize(text).unwrap();
    let info = PromptInfo::from(&prompt);
    let word = info.words.iter().find(|found| found.text == word).unwrap();
    let noise = TorchGenerator::new(9).randn_tensor((2, 1, 4, 8, 12), DType::F32, &Device::Cpu).unwrap();
    let (first, second) = (noise.i(0).unwrap(), noise.i(1).unwrap());
    let rows = [Row::cut(pipeline, &prompt, &[word], how).unwrap()];
    let steps = [(&first, 700.0), (&second, 300.0)];
    let options = pipeline.default_options();
    let whole = Row::whole(&prompt);
    changes(pipeline, &options, &whole, &rows, &steps, 8, &mut || ControlFlow::Continue(())).unwrap().remove(0)
}

/// A word becomes the article of its own vocabulary, and no end token, whichever encoder reads it.
#[test]
fn a_word_becomes_the_article_of_each_vocabulary() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let text = "a frog on a moon";
    for name in ["tiny-sd1", "tiny-sdxl", "tiny-sd3", "tiny-flux-schnell", "tiny-z-image"] {
        let pipeline = load(&fixtures.join(name));
        let prompt = pipeline.tokenize(text).unwrap();
        let first = |position: usize| position < prompt.ids.len();
        let article =
            prompt.tokens.iter().rev().find(|token| first(token.position) && &text[token.range.clone()] == "a");
        let article = article.unwrap().id;
        let info = PromptInfo::from(&prompt);
        let frog = info.words.iter().find(|word| word.text == "frog").unwrap();
        let positions: Vec<usize> = frog.tokens.iter().map(|&token| prompt.tokens[token].position).collect();
        let row = Row::cut(&pipeline, &prompt, &[frog], Cut::Substitute).unwrap();
        for (position, (now, was)) in row.prompt().ids.iter().zip(&prompt.ids).enumerate() {
            let expected = if positions.contains(&position) { article } else { *was };
            assert_eq!(*now, expected, "{name}: token {position}");
        }
        // CLIP's summary of the prompt is of the text itself there.
        let said = if name == "tiny-flux-schnell" { "a a on a moon" } else { text };
        assert_eq!(row.prompt().text, said, "{name}");
    }
}

/// Z-Image fills the text up, so that it has more keys than its encoder has states.
#[test]
fn a_word_is_masked_in_every_network() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    for name in ["tiny-sd1", "tiny-sdxl", "tiny-sd3", "tiny-flux-schnell", "tiny-z-image"] {
        let pipeline = load(&fixtures.join(name));
        let options = Options { height: 64, width: 64, ..pipeline.default_options() };
        let prompt = pipeline.prompt("a frog on a moon", &options).unwrap();
        let info = PromptInfo::from(&prompt);
        let frog = info.words.iter().find(|word| word.text == "frog").unwrap();
        let rows = [Row::cut(&pipeline, &prompt, &[frog], Cut::Mask).unwrap()];
        let (grid, channels) = (pipeline.latent_grid(&options), pipeline.latent_channels());
        let shape = (1, channels, grid.height, grid.width);
        let noise = TorchGenerator::new(9).randn_tensor(shape, DType::F32, &Device::Cpu).unwrap();
        let (whole, steps) = (Row::whole(&prompt), [(&noise, 700.0)]);
        let found = changes(&pipeline, &options, &whole, &rows, &steps, 8, &mut || ControlFlow::Continue(()));
        let effect = found.unwrap().remove(0).effect;
        assert!(effect > 0.0 && effect < 1.0, "{name}: {effect}");
    }
}

#[test]
fn cuts_change_what_they_change_in_diffusers() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/causal.json");
    let fixture: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let pipeline = load(&tiny());
    for (name, how) in Cut::NAMED {
        let expected = floats(&fixture["maps"][name]);
        let found = cut(&pipeline, fixture["text"].as_str().unwrap(), fixture["word"].as_str().unwrap(), how).map;
        let top = expected.iter().copied().fold(0.0, f32::max);
        assert!(top > 0.0 && found.len() == expected.len());
        for (found, expected) in found.iter().zip(&expected) {
            assert!(
                (found - expected).abs() <= 1e-3 * top,
                "{name}: {found}, diffusers has {expected} of at most {top}"
            );
        }
    }
}

#[test]
fn without_cross_attention_nothing_matters() {
    let folder = changed(|name, tensor| name.contains("attn2.to_out").then(|| tensor.zeros_like().unwrap()));
    let pipeline = load(folder.path());
    let prompt = pipeline.tokenize("a red apple and a green frog").unwrap();
    let options = Options { steps: 2, height: 32, width: 48, ..pipeline.default_options() };
    let keep = RecordOptions { per_step: false, ..RecordOptions::default() };
    let traced = pipeline.trace(&prompt, &options, keep, &mut |_| ControlFlow::Continue(())).unwrap().0.remove(0);
    let words = &traced.trace.about.prompt.words;
    let maps = aggregate(&traced.trace, &Aggregate::named("all").unwrap(), words).unwrap();
    for (index, word) in words.iter().enumerate() {
        for (name, how) in Cut::NAMED {
            let change = cut(&pipeline, "a red apple and a green frog", &word.text, how);
            assert!(change.effect < 1e-9, "{name} {}: {}", word.text, change.effect);
            let zero = vec![0.0; maps.grid.cells()];
            let found = judge(&maps, index, None, &zero, change.effect, &traced.generation.image);
            assert_eq!((found.mattered, found.shows), (Mattered::NotAtAll, Shows::Nothing));
            assert_eq!((found.attention.iou_top, found.attention.drop), (0.0, 0.0));
        }
    }
}

#[test]
fn a_word_without_values_matters_only_through_others() {
    // The word's hidden state is taken out of every value projection: W (1 - h h^T / |h|^2) h = 0.
    let text = "a red apple and a green frog";
    let whole = load(&tiny());
    let prompt = whole.tokenize(text).unwrap();
    let info = PromptInfo::from(&prompt);
    let word = info.words.iter().find(|word| word.text == "apple").unwrap().clone();
    assert_eq!(word.tokens.len(), 1, "one token, one direction to take out");
    let hidden =
        whole.conditioning(&[&prompt], &whole.default_options()).unwrap().hidden_states.i((0, word.tokens[0])).unwrap();
    let unit = hidden.broadcast_div(&hidden.sqr().unwrap().sum_all().unwrap().sqrt().unwrap()).unwrap();
    let folder = changed(|name, weight| {
        name.contains("attn2.to_v").then(|| {
            let weight = weight.to_dtype(DType::F32).unwrap();
            let along = weight.matmul(&unit.unsqueeze(1).unwrap()).unwrap();
            (&weight - along.matmul(&unit.unsqueeze(0).unwrap()).unwrap()).unwrap()
        })
    });
    let pipeline = load(folder.path());
    assert!(cut(&whole, text, "apple", Cut::Mask).effect > 1e-7, "with values the word has an effect");
    assert!(cut(&pipeline, text, "apple", Cut::Mask).effect < 1e-11);
    assert!(cut(&pipeline, text, "apple", Cut::Substitute).effect > 1e-7);
    assert!(cut(&pipeline, text, "frog", Cut::Mask).effect > 1e-7);
}

#[test]
fn eval_agrees_with_diffusers_on_the_final_scenes() {
    // `training/measure_attention.py` computed the same with diffusers.
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let fixture = std::fs::read(root.join("tests/fixtures/accuracy.json")).unwrap();
    let fixture: Value = serde_json::from_slice(&fixture).unwrap();
    let output = assert_cmd::Command::cargo_bin("attnmap")
        .unwrap()
        .args(["eval", "--json"])
        .arg(root.join("tests/data/scenes/final"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    let pairs =
        [("daam", "daam"), ("resolution 16x16", "resolution 16"), ("last-up", "last up block"), ("compete", "compete")];
    for (ours, theirs) in pairs.into_iter().chain([("resolution 8x8", "resolution 8")]) {
        let figures = &found["aggregates"][ours];
        close(figures["iou_0.4"].as_f64().unwrap(), &fixture["mean_iou"][theirs], 1e-4, ours);
        close(figures["pointing"].as_f64().unwrap(), &fixture["pointing"][theirs], 1e-3, ours);
    }
    let baselines = [("whole image", "whole image"), ("centre disk", "centre disk")];
    for (ours, theirs) in baselines.into_iter().chain([("exact mask on the latent grid", "ceiling")]) {
        close(found["baselines"][ours]["iou_0.4"].as_f64().unwrap(), &fixture["mean_iou"][theirs], 1e-4, ours);
    }
    let default = found["default"].as_str().unwrap();
    let [best, single] =
        [default, "resolution 16x16"].map(|name| found["aggregates"][name]["iou_0.4"].as_f64().unwrap());
    assert!(best >= 0.70 && best >= single + 0.05, "{default}: {best}, best single resolution {single}");
}

const PROMPT: &str = "a red apple to the left of a green frog on the beach";

fn attnmap(folder: &Path, args: &[&str]) -> std::process::Output {
    assert_cmd::Command::cargo_bin("attnmap").unwrap().current_dir(folder).arg("--quiet").args(args).output().unwrap()
}

/// What `attnmap` with these arguments prints as JSON.
fn json(folder: &Path, args: &[&str]) -> Value {
    let output = attnmap(folder, args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// All scores of one map.
fn agrees(found: &Value, expected: &Value, what: &str) {
    for (score, tolerance) in [("spearman", 1e-3), ("iou_top", 1e-9), ("drop", 1e-4)] {
        close(found[score].as_f64().unwrap(), &expected[score], tolerance, &format!("{what}: {score}"));
    }
}

#[test]
fn an_explanation_of_the_default_checkpoint_is_that_of_diffusers() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/explain.json");
    let fixture: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(fixture["prompt"], PROMPT);
    assert!(attnmap(folder.path(), &["generate", PROMPT, "--out", "run"]).status.success());
    for (name, _) in Cut::NAMED {
        let found = json(folder.path(), &["explain", "run", "--cut", name, "--json"]);
        assert_eq!(found["steps"], fixture["steps"]);
        let file = std::fs::read(folder.path().join("run/evidence.safetensors")).unwrap();
        let tensors = safetensors::SafeTensors::deserialize(&file).unwrap();
        let maps = tensors.tensor("causal").unwrap().data().to_vec();
        let maps: Vec<f32> = maps.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        let expected = fixture["cuts"][name].as_array().unwrap();
        assert_eq!(found["words"].as_array().unwrap().len(), expected.len());
        for (index, (found, expected)) in found["words"].as_array().unwrap().iter().zip(expected).enumerate() {
            let what = format!("{name} {}", expected["word"]);
            assert_eq!(found["word"], expected["word"]);
            let effect = expected["effect"].as_f64().unwrap();
            close(found["effect"].as_f64().unwrap(), &expected["effect"], 1e-4 * effect, &what);
            let causal = floats(&expected["causal"]);
            let top = causal.iter().copied().fold(0.0, f32::max);
            for (found, expected) in maps[index * causal.len()..].iter().zip(&causal) {
                assert!(
                    (found - expected).abs() <= 5e-4 * top,
                    "{what}: {found}, diffusers has {expected} of at most {top}"
                );
            }
            agrees(&found["attention"], &expected["attention"], &what);
            for control in ["centre_blob", "other_word", "equal_mass_token", "edges"] {
                agrees(&found["controls"][control], &expected["controls"][control], &format!("{what}, {control}"));
            }
        }
    }
}

#[test]
fn words_are_left_out_and_scaled_and_maps_fall_apart_without_weights() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    assert!(attnmap(folder.path(), &["generate", PROMPT, "--out", "run"]).status.success());
    let picture = |file: &Value| image::open(run.join(file.as_str().unwrap())).unwrap().to_rgb8();
    // Without the frog, which stands on the right, the right half changes.
    let without = json(folder.path(), &["explain", "run", "--words", "frog", "--json"]);
    assert_eq!((&without["words"][0]["mattered"], &without["words"][0]["shows"]), (&"much".into(), &"yes".into()));
    // Word by word, what was found of the others stays.
    let both = json(folder.path(), &["explain", "run", "--words", "the#2", "--json"]);
    let words: Vec<&Value> = both["words"].as_array().unwrap().iter().map(|word| &word["word"]).collect();
    assert_eq!(words, ["frog", "the#2"]);
    assert_eq!((&both["words"][0], both["counterfactuals"].as_array().unwrap().len()), (&without["words"][0], 2));
    // Next to nothing changes without it, and no map shows where.
    assert_eq!(
        (&both["words"][1]["mattered"], &both["words"][1]["shows"]),
        (&"not at all".into(), &"nothing to show".into())
    );
    // A causal picture of each word, on one scale: brightest where the word that matters moves
    // most.
    let causal: Vec<_> = both["words"].as_array().unwrap().iter().map(|word| picture(&word["picture"])).collect();
    let changed = |picture: &image::RgbImage| picture.pixels().filter(|p| p.0[0] > 200).count();
    assert!(changed(&causal[0]) > 100 && changed(&causal[1]) == 0, "the frog is lit, a word that moves nothing is not");
    let without = &without["counterfactuals"][0];
    let region = picture(&without["region"]);
    let white = |half: u32| region.enumerate_pixels().filter(|(x, _, p)| p.0[0] == 255 && x / 64 == half).count();
    assert!(white(1) > 4 * white(0) && without["area"].as_f64().unwrap() > 0.1, "{without}");

    let all = [
        "explain",
        "run",
        "--words",
        "frog,apple",
        "--cut",
        "mask",
        "--counterfactual",
        "--weight",
        "frog=0..2",
        "--json",
    ];
    let mut found = json(folder.path(), &all);
    let original = picture(&"image.png".into());
    let weights = &found["reweighted"][0];
    assert_eq!(weights["weights"], serde_json::json!([0.0, 0.5, 1.0, 1.5, 2.0]));
    assert_eq!((picture(&weights["images"][2]) == original, &weights["means"][2]), (true, &serde_json::json!(0.0)));
    assert!(weights["means"][0].as_f64().unwrap() > 0.01 && weights["means"][4].as_f64().unwrap() > 0.001);
    // In the order of the prompt, whatever was named first.
    let without = &found["counterfactuals"][1];
    assert_eq!((&without["word"], &found["words"][1]["word"]), (&"frog".into(), &"frog".into()));
    assert_eq!(found["words"][1]["changed"], without["area"]);
    assert!(picture(&without["image"]) == picture(&weights["images"][0]), "weight 0 is the cut `mask`");
    // Another cut replaces what was there, and leaves no picture of it.
    let kept = std::fs::read_dir(run.join("counterfactual")).unwrap().map(|file| file.unwrap().file_name());
    assert!(kept.into_iter().all(|name| !name.to_string_lossy().contains("without-on")));

    // Asked for less, or the same, nothing is made again; asked for more, what was found stays.
    let before = std::fs::read(run.join("evidence.json")).unwrap();
    let modified = || std::fs::metadata(run.join("evidence.json")).unwrap().modified().unwrap();
    let time = modified();
    assert_eq!(json(folder.path(), &all), found);
    assert_eq!(json(folder.path(), &["explain", "run", "--words", "frog,apple", "--cut", "mask", "--json"]), found);
    assert_eq!((modified(), std::fs::read(run.join("evidence.json")).unwrap()), (time, before));
    let more = json(folder.path(), &["explain", "run", "--words", "frog,apple", "--cut", "mask", "--sanity", "--json"]);
    let sanity = more["sanity"]["levels"].as_array().unwrap();
    let blocks: Vec<_> = sanity.iter().map(|level| level["block"].as_str().unwrap()).collect();
    assert_eq!((blocks[0], blocks.last().copied()), ("up_blocks.2", Some("down_blocks.0")));
    let overlap = |level: &Value, of: &str| level[of]["iou_top"].as_f64().unwrap();
    let last = sanity.last().unwrap();
    assert!(overlap(last, "attention") < SHOWN && overlap(last, "causal") < SHOWN, "{last}");
    for part in ["words", "counterfactuals", "reweighted"] {
        assert_eq!(more[part], found[part].take(), "{part}");
    }
    assert!(more["notes"][0].as_str().unwrap().contains("fallen apart at the end, as they must"));
    let page = std::fs::read_to_string(run.join("report.html")).unwrap();
    assert!(page.contains("fallen apart at the end, as they must") && page.contains("1 is the run itself"));

    // A run with a setting that is not known here is refused in one line.
    let text = std::fs::read_to_string(run.join("run.json")).unwrap();
    std::fs::write(run.join("run.json"), text.replacen("\"seed\"", "\"from_the_future\": 7, \"seed\"", 1)).unwrap();
    let output = attnmap(folder.path(), &["explain", "run", "--force"]);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(message.contains("`from_the_future` (7)") && message.lines().count() == 1, "{message}");
}

#[test]
fn a_folder_of_the_users_own_is_measured() {
    let folder = tempfile::tempdir().unwrap();
    let (scenes, mine) =
        (Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/scenes/final"), folder.path().join("mine"));
    std::fs::create_dir(&mine).unwrap();
    std::fs::copy(scenes.join("03.png"), mine.join("one.png")).unwrap();
    std::fs::copy(scenes.join("03-star.png"), mine.join("one-star.png")).unwrap();
    std::fs::write(mine.join("one.txt"), "a purple star in the desert\n").unwrap();
    // Named from where the user stands, which is not where the binary was built.
    let found = json(folder.path(), &["eval", "mine", "--json"]);
    assert_eq!((&found["scenes"]["objects"], &found["default"]), (&Value::from(1), &Value::from("compete")));
    assert!(found["aggregates"]["compete"]["iou_0.4"].as_f64().unwrap() > 0.7, "{found}");
    // A level counts once, also the one without noise; baselines have none.
    let found = json(folder.path(), &["eval", "mine", "--levels", "0,0", "--json"]);
    assert_eq!(found["timesteps"], serde_json::json!([0]));
    let (compete, whole) = (&found["aggregates"]["compete"], &found["baselines"]["whole image"]);
    assert_eq!((&compete["iou_0.4_at_timestep"]["0"], &compete["count"]), (&compete["iou_0.4"], &Value::from(1)));
    assert!(whole["iou_0.4_at_timestep"].is_null() && whole["count"] == 1, "{whole}");
    let output = attnmap(folder.path(), &["eval", "mine", "--levels", "5000"]);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(2) && message.contains("--levels: 5000 is beyond"), "{message}");
    std::fs::write(mine.join("two.txt"), "a fox").unwrap();
    let output = attnmap(folder.path(), &["eval", "mine"]);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2));
    assert!(message.contains("two.txt has a caption and no picture") && message.lines().count() == 1, "{message}");
}

/// A second question with a larger budget is answered by more sets; one with a smaller takes
/// nothing away.
#[test]
fn a_larger_budget_shares_the_effect_among_the_words_anew() {
    let (made, _folder, run) = crate::cli::generate("a red apple and a green frog", &["--quiet"]);
    assert!(made.status.success());
    let run = run.display().to_string();
    let sets = |budget: &str| -> Value {
        let asked = ["explain", &run, "--shapley", "--budget", budget, "--test-steps", "1"];
        let output = crate::cli::attnmap(&[&asked[..], &["--no-counterfactual", "--json"]].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let found: Value = serde_json::from_slice(&output.stdout).unwrap();
        found["shapley"]["evaluations"].clone()
    };
    // Of four words: one order and its reverse, then all sets, which the second budget just pays
    // for.
    assert_eq!([sets("1"), sets("16"), sets("64"), sets("1")], [8, 16, 16, 16]);
}
