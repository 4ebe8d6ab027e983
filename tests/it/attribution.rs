//! Attribution against torch and captum (`tests/fixtures/make_attribution.py`), and the command.

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use attnmap::attribution::{AttributionQuestion, AttributionTarget, GradientPlan, Input, Inputs, Method, attribute};
use attnmap::checkpoint::{Checkpoint, OpenOptions, Source};
use attnmap::facts::region::Region;
use attnmap::pipeline::{LoadOptions, Options, Pipeline};
use attnmap::scheduler::TorchGenerator;
use attnmap::trace::{By, Grid, PromptInfo};
use candle_core::{DType, Device, IndexOp, Shape, Tensor};
use serde_json::Value;

use crate::cli::{attnmap, generate, refused};

fn fixture() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/attribution.json");
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap()
}

fn numbers(value: &Value) -> Vec<usize> {
    value.as_array().unwrap().iter().map(|value| value.as_u64().unwrap() as usize).collect()
}

fn load(name: &str, plain: bool) -> Pipeline {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
    let checkpoint = Checkpoint::open(&Source::Folder(folder), &OpenOptions::default()).unwrap();
    Pipeline::load(&checkpoint, &LoadOptions { plain, ..LoadOptions::default() }).unwrap()
}

/// The run that the fixture is of, on one of the tiny checkpoints.
struct Case {
    options: Options,
    steps: Vec<(Tensor, f64)>,
    region: Region,
}

impl Case {
    fn new(fixture: &Value, factor: usize, pipeline: &Pipeline) -> Self {
        let [height, width] = numbers(&fixture["grid"])[..] else { panic!("a grid") };
        let [left, top, right, bottom] = numbers(&fixture["box"])[..] else { panic!("a box") };
        let timesteps = numbers(&fixture["timesteps"]);
        let mut torch = TorchGenerator::new(fixture["seed"].as_u64().unwrap());
        let shape = [timesteps.len(), 1, 4, height, width];
        let noise = torch.randn_tensor(Shape::from(shape.to_vec()), DType::F32, &Device::Cpu).unwrap();
        let steps = timesteps.iter().enumerate().map(|(step, &timestep)| (noise.i(step).unwrap(), timestep as f64));
        let options = Options {
            height: height * factor,
            width: width * factor,
            guidance_scale: 1.0,
            ..pipeline.default_options()
        };
        let grid = Grid::new(height, width);
        let region = Region::of_box(grid, grid, [left, top, right, bottom].map(|side| side as f64)).unwrap();
        Self { options, steps: steps.collect(), region }
    }
}

#[test]
fn gradients_are_torchs_and_integrated_gradients_captums() {
    let fixture = fixture();
    for (name, case) in fixture["cases"].as_object().unwrap() {
        let pipeline = load(name, true);
        let Case { options, steps, region } = Case::new(&fixture, pipeline.vae_factor(), &pipeline);
        let prompt = pipeline.prompt(fixture["text"].as_str().unwrap(), &options).unwrap();
        let target = AttributionTarget::new(&pipeline, &prompt, &options, &steps, &region).unwrap();
        for (input, expected) in case["inputs"].as_object().unwrap() {
            let inputs = Inputs::new(&pipeline, &prompt, input.parse().unwrap(), &options).unwrap();
            for method in [Method::Gradient, Method::Integrated] {
                let question = AttributionQuestion {
                    options: &options,
                    target: &target,
                    inputs: &inputs,
                    method,
                    points: Some(numbers(&serde_json::json!([fixture["points"]]))[0]),
                    batch: 16,
                    players: &[],
                    budget: 0,
                };
                let found = attribute(&pipeline, &question, &mut |_| ControlFlow::Continue(())).unwrap();
                let what = format!("{name}, {input}, {method}");
                for (found, end) in [(found.whole, "whole"), (found.empty, "empty")] {
                    let off = (found - number(&expected[end])).abs();
                    assert!(off <= 1e-4 * number(&expected["whole"]), "{what}: {end} is off by {off}");
                }
                let expected: Vec<Vec<f64>> = serde_json::from_value(expected[method.name()].clone()).unwrap();
                let most = expected.iter().flatten().fold(0.0f64, |most, value| most.max(value.abs()));
                let found_tokens = found.scored.unwrap().tokens;
                assert_eq!(
                    found_tokens.iter().map(Vec::len).collect::<Vec<_>>(),
                    expected.iter().map(Vec::len).collect::<Vec<_>>()
                );
                let off = found_tokens.iter().flatten().zip(expected.iter().flatten());
                let off = off.fold(0.0f64, |off, (found, expected)| off.max((found - expected).abs()));
                assert!(off <= 1e-4 * most, "{what}: off by {off}, the largest is {most}");
                if method == Method::Integrated {
                    assert!(found.gap.unwrap() < 0.02, "{what}: gap {:?}", found.gap);
                }
            }
        }
    }
}

#[test]
fn values_of_words_sum_and_methods_agree_on_what_they_share() {
    let fixture = fixture();
    let pipeline = load("tiny-sd1", true);
    let Case { options, steps, region } = Case::new(&fixture, pipeline.vae_factor(), &pipeline);
    let prompt = pipeline.prompt(fixture["text"].as_str().unwrap(), &options).unwrap();
    let target = AttributionTarget::new(&pipeline, &prompt, &options, &steps[..1], &region).unwrap();
    let inputs = Inputs::new(&pipeline, &prompt, Input::Tokens, &options).unwrap();
    let ask = |method, batch, players: &[usize], budget| {
        let question = AttributionQuestion {
            options: &options,
            target: &target,
            inputs: &inputs,
            method,
            points: Some(4),
            batch,
            players,
            budget,
        };
        attribute(&pipeline, &question, &mut |_| ControlFlow::Continue(())).unwrap()
    };
    let names: Vec<&str> = inputs.owners().iter().map(|owner| owner.name.as_str()).collect();
    assert_eq!(names[..3], ["a", "red", "apple"]);
    let (one, many) = (ask(Method::Integrated, 1, &[], 0), ask(Method::Integrated, 3, &[], 0));
    // The same whatever the batch.
    let most = one.values.iter().fold(0.0f64, |most, value| most.max(value.abs()));
    assert!(one.values.iter().zip(&many.values).all(|(a, b)| (a - b).abs() <= 1e-5 * most));
    // Whole Shapley values close the gap; the last player of two is all that is not the first.
    let shares = ask(Method::Shapley, 4, &[1, 2], 8);
    assert!(shares.gap.unwrap() < 1e-6, "{:?}", shares.gap);
    // With one player and the rest, a value is the mean of adding it to nothing and to everything.
    let lone = ask(Method::Shapley, 4, &[2], 4);
    let occluded = ask(Method::Occlusion, 4, &[], 0);
    let first = names.iter().position(|name| *name == "<start>").unwrap();
    assert_eq!(occluded.values[first], 0.0, "the start token is the empty prompt's own");
    assert!(lone.values[2] != 0.0 && occluded.values[2] != 0.0);
    assert_eq!(lone.evaluations, 4);
}

#[test]
fn fast_layers_have_no_gradient_and_say_so() {
    let fixture = fixture();
    let pipeline = load("tiny-sd1", false);
    let Case { options, steps, region } = Case::new(&fixture, pipeline.vae_factor(), &pipeline);
    let prompt = pipeline.prompt("a frog", &options).unwrap();
    let target = AttributionTarget::new(&pipeline, &prompt, &options, &steps[..1], &region).unwrap();
    let inputs = Inputs::new(&pipeline, &prompt, Input::States, &options).unwrap();
    let question = AttributionQuestion {
        options: &options,
        target: &target,
        inputs: &inputs,
        method: Method::Gradient,
        points: None,
        batch: 1,
        players: &[],
        budget: 0,
    };
    let error = attribute(&pipeline, &question, &mut |_| ControlFlow::Continue(())).unwrap_err().to_string();
    assert!(error.contains("plain"), "{error}");
}

#[test]
fn a_gradient_is_planned_for() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiny-sd1");
    let checkpoint = Checkpoint::open(&Source::Folder(folder), &OpenOptions::default()).unwrap();
    let plan = |side, free| GradientPlan {
        free,
        ..GradientPlan::new(checkpoint.denoiser.unet().unwrap(), Grid::new(side, side), 77)
    };
    // Scores grow with the square of the cells.
    assert!(plan(64, None).bytes_a_row > 8 * plan(16, None).bytes_a_row);
    let row = plan(16, None).bytes_a_row;
    assert_eq!(plan(16, Some(4 * row)).rows(8).unwrap(), 3);
    assert_eq!(plan(16, Some(400 * row)).rows(8).unwrap(), 8);
    let error = plan(16, Some(row / 2)).rows(8).unwrap_err().to_string();
    assert!(error.contains("are free") && error.contains("`method` occlusion"), "{error}");
}

#[test]
fn the_command_keeps_what_it_finds_beside_attention() {
    let (made, _folder, run) = generate("a red apple and a frog", &["--quiet"]);
    assert!(made.status.success());
    let folder = run.to_str().unwrap();
    let ask = |more: &[&str]| attnmap(&[&["attribute", folder, "--test-steps", "1"][..], more].concat());
    let found = |more: &[&str]| {
        let output = ask(more);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let said: Value = serde_json::from_str(&found(&["--word", "frog", "--method", "gradient", "--json"])).unwrap();
    assert_eq!((said["place"].as_str(), said["method"].as_str()), (Some("the region of frog"), Some("gradient")));
    let words = said["words"].as_array().unwrap();
    assert!(words.iter().any(|row| row["word"] == "apple" && row["attention"].as_f64().unwrap() > 0.0));
    let text = found(&["--at", "3,3", "--method", "occlusion"]);
    assert!(text.contains("pixel 3, 3") && text.contains("attention here"), "{text}");
    found(&["--at", "3,3", "--method", "occlusion"]);
    // One entry per question; the page has them.
    let kept: Value = serde_json::from_slice(&fs::read(run.join("attribution.json")).unwrap()).unwrap();
    assert_eq!(kept["regions"].as_array().unwrap().len(), 2);
    let page = fs::read_to_string(run.join("report.html")).unwrap();
    assert!(page.contains("the region of frog") && page.contains("occlusion"));
    // Attention and cut beside it are those that the run has now, on the page too.
    assert!(attnmap(&["explain", folder, "--words", "frog", "--test-steps", "1", "--quiet"]).status.success());
    assert!(attnmap(&["view", folder, "--aggregate", "daam", "--quiet"]).status.success());
    let page = fs::read_to_string(run.join("report.html")).unwrap();
    let from = page.find("\"attributions\":").unwrap();
    let shown: Value = serde_json::Deserializer::from_str(&page[from + 15..]).into_iter().next().unwrap().unwrap();
    let asked: Value = serde_json::from_slice(&attnmap(&["ask", folder, "--at", "3,3", "--json"]).stdout).unwrap();
    let of = |rows: &Value| rows.as_array().unwrap().iter().find(|row| row["word"] == "frog").unwrap().clone();
    let pixel = shown.as_array().unwrap().iter().find(|region| region["place"] == "pixel 3, 3").unwrap();
    let (row, part) = (of(&pixel["words"]), of(&asked));
    for (own, other) in [("attention", "share"), ("cut", "causal")] {
        let difference = row[own].as_f64().unwrap() - part[other].as_f64().unwrap();
        assert!(difference.abs() < 1e-6, "{own}: {row} {part}");
    }
    let places: Vec<&str> = shown.as_array().unwrap().iter().map(|one| one["place"].as_str().unwrap()).collect();
    assert!(places.contains(&"the region of frog by earlier maps"), "{places:?}");
    let kept: Value = serde_json::from_slice(&fs::read(run.join("attribution.json")).unwrap()).unwrap();
    assert!(kept["regions"][0]["words"][0]["attention"].is_null(), "only what does not change is kept");
    // What joins as one has no value of its own, not one of 0.
    let shapley = ["--at", "9,9", "--method", "shapley", "--words", "frog"];
    let said: Value = serde_json::from_str(&found(&[&shapley[..], &["--json"]].concat())).unwrap();
    let names: Vec<&str> = said["words"].as_array().unwrap().iter().map(|row| row["word"].as_str().unwrap()).collect();
    assert_eq!(names, ["frog", "<other>"]);
    let text = found(&shapley);
    assert!(text.contains("mean of 1 step)") && text.contains("joined as one"), "{text}");

    for (wrong, says) in [
        (&["--at", "3,3", "--word", "frog"][..], "--word"),
        (&["--word", "zebra"], "--word"),
        (&["--at", "999,3"], "--at"),
        (&["--at", "3,3", "--method", "saliency"], "--method"),
        (&["--at", "3,3", "--method", "shapley", "--words", "zebra"], "--words"),
    ] {
        refused(&ask(wrong), 2, &[says]);
    }
    // What another program recorded cannot be made again here.
    let record =
        fs::read_to_string(run.join("run.json")).unwrap().replace("\"kind\": \"generate\"", "\"kind\": \"record\"");
    fs::write(run.join("run.json"), record).unwrap();
    refused(&ask(&["--at", "3,3"]), 2, &["another program", "attnmap generate"]);
}

/// A run by tags is asked about its tags. The place of each among owners is that among the tags.
#[test]
fn tags_own_the_tokens_of_their_words() {
    let pipeline = load("tiny-sd1", false);
    let options = pipeline.default_options();
    let prompt = pipeline.prompt("a red apple, green frog", &options).unwrap();
    let tags = PromptInfo::from(&prompt).by(By::Tag).words;
    let inputs = Inputs::of_words(&pipeline, &prompt, &tags, Input::States, &options).unwrap();
    let names: Vec<&str> = inputs.owners().iter().map(|owner| owner.name.as_str()).collect();
    assert_eq!(names, ["a red apple", "green frog", "<start>", "<end>", "<padding>", "<other>", "<pooled>"]);
    // The comma is no tag's.
    assert_eq!((0..7).filter(|&owner| inputs.has(owner)).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5]);
}
