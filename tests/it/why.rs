//! `attnmap why`: its answer, what it keeps, what it refuses, and the forked runs that it is made
//! of.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use attnmap::checkpoint::{Checkpoint, OpenOptions, Source};
use attnmap::pipeline::{Event, Fork, LoadOptions, Options, Pipeline};
use attnmap::run::Run;
use attnmap::scheduler::TorchGenerator;
use attnmap::trace::{By, PromptInfo, Unobserved};
use attnmap::why::bench::{Bench, From as Start};
use attnmap::why::edits::edits;
use attnmap::why::{Question, Subject};
use candle_core::{DType, Device, Tensor};
use serde_json::Value;
use tempfile::TempDir;

use crate::cli::{attnmap, generate, refused};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn tiny() -> PathBuf {
    fixture("tiny-sd1")
}

fn pipeline() -> Pipeline {
    let checkpoint = Checkpoint::open(&Source::Folder(tiny()), &OpenOptions::default()).unwrap();
    Pipeline::load(&checkpoint, &LoadOptions::default()).unwrap()
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// A run of the built-in checkpoint with few steps.
fn small(folder: &TempDir, prompt: &str) -> String {
    let out = folder.path().join("run").display().to_string();
    let made = attnmap(&["generate", prompt, "--steps", "4", "--seed", "3", "--out", &out]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    out
}

#[test]
fn the_answer_is_a_sentence_with_its_evidence_and_is_kept() {
    let folder = TempDir::new().unwrap();
    let run = small(&folder, "a penguin to the left of a fox");
    let at = Path::new(&run);
    let ask = |more: &[&str]| attnmap(&[&["why", &run, "--budget", "20"], more].concat());
    let output = ask(&["--word", "penguin", "--json"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    assert!(said.contains("at most 20 runs of 4 steps, about "), "{said}");
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer, json(&at.join("why.json")));
    assert_eq!((&answer["word"], answer["steps"].as_u64()), (&Value::from("penguin"), Some(4)));
    let causes: Vec<&str> = answer["cause"].as_array().unwrap().iter().map(|cause| cause.as_str().unwrap()).collect();
    assert!(causes.contains(&"words"), "turning the relation round swaps the sides: {answer}");
    assert!(answer["runs"].as_f64().unwrap() <= 20.0);
    let sentence = answer["sentence"].as_str().unwrap();
    assert!(sentence.contains("the words") && sentence.contains("turning “left of” to “right of”"), "{sentence}");
    for figure in answer["figures"].as_array().unwrap() {
        assert!(at.join(figure["file"].as_str().unwrap()).is_file(), "{figure}");
    }
    assert!(answer["figures"].as_array().unwrap().len() >= 3, "{}", answer["figures"]);
    let page = fs::read_to_string(at.join("report.html")).unwrap();
    assert!(page.contains("\"why\":[{") && page.contains("Why is it there?"));

    // Asked again, it is known; another way of asking for the same thing is the same question.
    let place = &answer["place"];
    let pixel = |axis: usize| (128.0 * place[axis].as_f64().unwrap()).floor().to_string();
    let again = ask(&["--at", &format!("{},{}", pixel(0), pixel(1)), "--batch", "2"]);
    let (text, said) = (String::from_utf8_lossy(&again.stdout), String::from_utf8_lossy(&again.stderr));
    assert!(text.starts_with(sentence), "{text}");
    assert!(said.contains("--batch has no effect here") && !said.contains("at most"), "{said}");

    // With more runs it goes on from there; with as many or fewer it is known.
    let more = attnmap(&["why", &run, "--word", "penguin", "--budget", "24", "--json"]);
    let said = String::from_utf8_lossy(&more.stderr).into_owned();
    assert!(more.status.success() && said.contains("going on after"), "{said}");
    let later: Value = serde_json::from_slice(&more.stdout).unwrap();
    assert_eq!(later["findings"]["seeds"], answer["findings"]["seeds"]);
    let runs = |answer: &Value| answer["runs"].as_f64().unwrap();
    assert!(runs(&later) >= runs(&answer) && runs(&later) <= 24.0, "{later}");
    // The newest answer is the one that was shown last.
    fs::write(at.join("why.json"), r#"{"attnmap": "0.1.0", "word": "fox"}"#).unwrap();
    let known = ask(&["--word", "penguin", "--json"]);
    assert_eq!(serde_json::from_slice::<Value>(&known.stdout).unwrap(), later);
    assert_eq!(json(&at.join("why.json"))["word"], "penguin");

    // A run that is replaced takes its answers with it.
    let replaced = attnmap(&["generate", "a fox", "--steps", "1", "--force", "--out", &run]);
    assert!(replaced.status.success(), "{}", String::from_utf8_lossy(&replaced.stderr));
    assert!(!at.join("why.json").exists() && !at.join("why/penguin.json").exists());
}

#[test]
fn what_cannot_be_asked_is_refused_in_one_line() {
    let (made, _folder, out) = generate("a red apple to the left of a frog and a frog on the beach", &[]);
    assert!(made.status.success());
    let run = out.display().to_string();
    let ask = |more: &[&str]| attnmap(&[&["why", &run], more].concat());
    refused(&ask(&["--word", "cat"]), 2, &["--word", "cat", "is not in the prompt"]);
    refused(&ask(&["--word", "the"]), 2, &["--word", "draws nothing"]);
    refused(&ask(&["--word", "beach"]), 2, &["--word", "whole scene"]);
    refused(&ask(&["--word", "frog"]), 2, &["--word", "frog#1 or frog#2"]);
    refused(&ask(&["--at", "64,3"]), 2, &["--at", "64x64"]);
    refused(&ask(&["--box", "1,2,3"]), 2, &["--box", "X,Y,W,H"]);
    refused(&ask(&["--budget", "5"]), 2, &["--budget", "20"]);
    refused(&ask(&["--word", "frog", "--at", "1,1"]), 2, &["--at"]);
    fs::write(out.join("why.json"), "mine").unwrap();
    refused(&ask(&["--word", "apple"]), 2, &["why.json", "not attnmap's"]);
    fs::remove_file(out.join("why.json")).unwrap();

    // What another program recorded, and what was there before, cannot be drawn again.
    let record = fs::read_to_string(out.join("run.json")).unwrap();
    for (kind, reason) in [("record", "another program drew"), ("trace", "a picture that was there")] {
        fs::write(out.join("run.json"), record.replace("\"kind\": \"generate\"", &format!("\"kind\": \"{kind}\"")))
            .unwrap();
        refused(&ask(&["--word", "apple"]), 2, &[&run, reason, "attnmap generate"]);
    }
    fs::write(out.join("run.json"), record.replace("\"settings\": {", "\"settings\": {\"strength\": 0.5,")).unwrap();
    refused(&ask(&["--word", "apple"]), 2, &["set out from a picture", "--init"]);
}

/// What a drawn thing reaches in joint attention is not known, so that nothing is drawn to ask.
#[test]
fn a_run_of_joint_attention_is_refused_before_it_is_drawn_again() {
    let folder = TempDir::new().unwrap();
    for name in ["tiny-sd3", "tiny-flux-schnell", "tiny-z-image"] {
        let (model, out) = (fixture(name).display().to_string(), folder.path().join(name));
        let run = out.display().to_string();
        let small = ["--model", &model, "--size", "56x32", "--steps", "2", "--out", &run];
        let made = attnmap(&[&["generate", "a red apple beside a green frog"], &small[..]].concat());
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        for asked in [&["--word", "frog"][..], &[]] {
            let output = attnmap(&[&["why", &run], asked].concat());
            refused(&output, 2, &["RUN", &run, "joint attention", "attnmap explain RUN"]);
        }
        assert!(!out.join("why.json").exists() && !out.join("why").exists());
        let refusal = Question::new(Run::open(&out).unwrap(), &Subject::Any, 24, 4).unwrap_err();
        assert!(refusal.to_string().contains("joint attention"), "{refusal}");
    }
}

/// The runs without the LoRA are made and shown, whatever they say.
#[test]
fn a_run_with_a_lora_is_also_drawn_without_it() {
    let folder = TempDir::new().unwrap();
    let out = folder.path().join("run");
    let run = out.display().to_string();
    let name = "stand-left.safetensors";
    let lora = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/lora").join(name).display().to_string();
    let made =
        attnmap(&["generate", "a penguin", "--lora", &lora, "--steps", "2", "--seed", "3", "--out", &run, "--quiet"]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let output = attnmap(&["why", &run, "--word", "penguin", "--budget", "20", "--json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer, json(&out.join("why.json")));
    let kept: attnmap::why::Answer = serde_json::from_value(answer.clone()).unwrap();
    assert_eq!((kept.word.as_str(), kept.steps), ("penguin", 2));
    assert_eq!(kept.findings.loras, [name]);
    assert!(kept.place.is_some() && !kept.sentence.is_empty() && kept.runs <= 20.0, "{answer}");
    // Over the same seeds as with it.
    let seeds: Vec<u64> = kept.findings.without_loras.iter().map(|spot| spot.seed).collect();
    assert_eq!(seeds, kept.findings.seeds.iter().take(4).map(|spot| spot.seed).collect::<Vec<_>>());
    let row = kept.table.iter().find(|row| row.experiment == format!("without {name}")).unwrap();
    assert_eq!(row.images, 4);
    assert!(out.join("why/penguin-loras.png").is_file(), "{:?}", kept.figures);
    // Who puts it there is named only where a habit is a cause.
    assert!(kept.loras.is_empty() || kept.cause.contains(&attnmap::why::Cause::Habit), "{answer}");
}

#[test]
fn tags_are_taken_out_whole_and_a_phrase_within_one_is_turned() {
    let pipeline = pipeline();
    let options = Options { seeds: vec![0], steps: 2, height: 64, width: 64, ..pipeline.default_options() };
    let prompt = pipeline.prompt("a red apple, a fox on the left, on the beach, green frog", &options).unwrap();
    let thing = |by: By, name: &str| PromptInfo::from(&prompt).by(by).select(name).unwrap().swap_remove(0);
    let of = |by: By, name: &str| -> Vec<String> {
        let edits = edits(&pipeline, &prompt, &options, &thing(by, name), by).unwrap();
        edits.iter().map(|edit| edit.change.in_words(&edit.of, edit.becomes.as_deref())).collect()
    };
    let phrase = ["“left” turned to “right”", "without “on the left”"];
    let tags = ["without “a red apple”", "without “a fox on the left”", "without “on the beach”"];
    assert_eq!(of(By::Tag, "green frog"), [&phrase[..], &tags].concat());
    let words = ["apple", "fox", "beach", "red", "green"].map(|word| format!("without “{word}”"));
    assert_eq!(of(By::Word, "frog"), [&phrase.map(str::to_owned)[..], &words].concat());

    // By words the thing itself is never edited, and a comma ends what is said of places.
    let edits_of = |text: &str, name: &str| -> Vec<String> {
        let prompt = pipeline.prompt(text, &options).unwrap();
        let thing = PromptInfo::from(&prompt).select(name).unwrap().swap_remove(0);
        let edits = edits(&pipeline, &prompt, &options, &thing, By::Word).unwrap();
        edits.iter().map(|edit| edit.change.in_words(&edit.of, edit.becomes.as_deref())).collect()
    };
    assert_eq!(edits_of("a fox in a top hat", "top hat"), ["without “fox”"]);
    assert_eq!(edits_of("a fox on the left", "fox on the left"), [""; 0]);
    assert!(edits_of("a frog, game over, a cat", "frog").iter().all(|edit| !edit.contains("turned")));
    assert!(edits_of("a frog over a cat", "frog").contains(&"“over” turned to “under”".to_owned()));

    // A tag that is renamed by turning the phrase within it is still the same thing.
    let fox = thing(By::Tag, "a fox on the left");
    let edits = edits(&pipeline, &prompt, &options, &fox, By::Tag).unwrap();
    let bench = Bench {
        pipeline: &pipeline,
        options: options.clone(),
        prompt: prompt.clone(),
        aggregate: attnmap::heatmap::Aggregate::default(),
        thing: fox,
        by: By::Tag,
        batch: 2,
    };
    assert!(edits[0].prompt.text.contains("a fox on the right"), "{}", edits[0].prompt.text);
    let drawn = bench.draw(&edits[0].prompt, &[0], Start::Seed, &mut |_| ControlFlow::Continue(())).unwrap();
    assert_eq!(drawn.len(), 1);
    assert!(drawn[0].spot.centre.is_some());
}

#[test]
fn what_is_interrupted_goes_on() {
    let folder = TempDir::new().unwrap();
    let out = PathBuf::from(small(&folder, "a penguin to the left of a fox"));
    let checkpoint = Checkpoint::open(&Source::Embedded, &OpenOptions::default()).unwrap();
    let pipeline = Pipeline::load(&checkpoint, &LoadOptions::default()).unwrap();
    let mut plain = |_| unreachable!("the run has no LoRA");
    let question = || Question::new(Run::open(&out).unwrap(), &Subject::Word("penguin".into()), 24, 4).unwrap();
    let whole = question().make(&pipeline, &mut plain, true, &mut |_| ControlFlow::Continue(())).unwrap();
    let mut calls = 0;
    let stopped = question().make(&pipeline, &mut plain, true, &mut |_| {
        calls += 1;
        if calls > 12 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert_eq!(stopped.unwrap_err().exit_code(), 130);
    let made = question().made().unwrap();
    assert!(made > 1.0 && made < whole.runs, "{made} of {}", whole.runs);
    assert!(question().known().unwrap().is_none());
    let rest = question().make(&pipeline, &mut plain, false, &mut |_| ControlFlow::Continue(())).unwrap();
    assert_eq!((&rest.sentence, &rest.cause, rest.settled_at), (&whole.sentence, &whole.cause, whole.settled_at));
    assert_eq!((&rest.findings.seeds, &rest.findings.forks), (&whole.findings.seeds, &whole.findings.forks));
    assert!((rest.runs - whole.runs).abs() < 1e-9, "{} and {}", rest.runs, whole.runs);
    assert_eq!(question().known().unwrap().map(|known| known.sentence), Some(whole.sentence));
}

#[test]
fn what_was_not_drawn_is_told_after_fresh_noise() {
    let (made, _folder, out) = generate("a red apple to the left of a frog", &[]);
    assert!(made.status.success());
    let question = Question::new(Run::open(&out).unwrap(), &Subject::Word("frog".into()), 24, 4).unwrap();
    let mut plain = |_| unreachable!("the run has no LoRA");
    let answer = question.make(&pipeline(), &mut plain, true, &mut |_| ControlFlow::Continue(())).unwrap();
    assert!(answer.place.is_none() && answer.sentence.contains("may not have been drawn"), "{}", answer.sentence);
    assert_eq!((answer.runs, answer.table.len()), (9.0, 1), "{:?}", answer.table);
    assert!(answer.notes.is_empty(), "{:?}", answer.notes);
}

#[test]
fn a_fork_is_the_estimate_with_noise_to_the_level_of_its_step() {
    let pipeline = pipeline();
    let own = pipeline.default_options();
    let options =
        Options { seeds: vec![5], steps: 4, height: 64, width: 64, scheduler: Some("ddim".parse().unwrap()), ..own };
    let prompt = pipeline.prompt("a red apple", &options).unwrap();
    let run = |options: &Options| {
        let (mut inputs, mut estimates) = (Vec::new(), Vec::new());
        let done = pipeline.generate(&prompt, options, &mut Unobserved, &mut |event| {
            if let Event::Stepped { input, denoised, .. } = event {
                inputs.push(input.clone());
                estimates.push(denoised.clone());
            }
            ControlFlow::Continue(())
        });
        (done.unwrap(), inputs, estimates)
    };
    let (whole, _, estimates) = run(&options);
    let fork = Fork { denoised: estimates[1].clone(), call: 2 };
    let forked = Options { fork: Some(fork.clone()), seeds: vec![8, 9], ..options.clone() };
    assert_eq!(pipeline.timesteps(&forked).unwrap(), &whole.timesteps[2..]);
    let (done, inputs, _) = run(&forked);
    assert_eq!(done.timesteps, &whole.timesteps[2..]);
    for (image, seed) in [8, 9].into_iter().enumerate() {
        let noise = TorchGenerator::new(seed).randn_tensor(estimates[1].shape(), DType::F32, &Device::Cpu).unwrap();
        let expected = pipeline.noised(&estimates[1], &noise, whole.timesteps[2] as usize).unwrap();
        let off = (inputs[0].narrow(0, image, 1).unwrap() - expected).unwrap().abs().unwrap();
        let worst = off.flatten_all().unwrap().max(0).unwrap().to_scalar::<f32>().unwrap();
        assert!(worst < 1e-5, "{worst}");
    }
    let refuse = |options: Options| pipeline.check(&options).unwrap_err().to_string();
    let late = Fork { call: 4, ..fork.clone() };
    assert!(refuse(Options { fork: Some(late), ..options.clone() }).contains("no call 4 in a run of 4"));
    let small = Fork { denoised: Tensor::zeros((1, 4, 2, 2), DType::F32, &Device::Cpu).unwrap(), call: 1 };
    assert!(refuse(Options { fork: Some(small), ..options.clone() }).contains("has shape"));
    let latents = Some(estimates[1].clone());
    let given = refuse(Options { fork: Some(fork), latents, ..options });
    assert!(given.contains("fork"), "{given}");
}
