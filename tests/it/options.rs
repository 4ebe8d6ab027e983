//! What `generate` takes, the other commands that make images take too, and make the same of it.

use crate::cli::refused;
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use tempfile::TempDir;

fn fixture(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name).display().to_string()
}

fn attnmap(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_attnmap"));
    command.current_dir(folder).args(arguments).env("NO_COLOR", "1").env("HF_HUB_OFFLINE", "1").output().unwrap()
}

#[track_caller]
fn succeeds(folder: &Path, arguments: &[&str]) -> Vec<u8> {
    let output = attnmap(folder, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// Everything at once that is no default.
fn unusual() -> Vec<String> {
    let lora = fixture("adapters/kohya-sd1.safetensors") + ":0.7";
    let embedding = fixture("adapters/one-vector.safetensors") + ":<cat>";
    let model = fixture("tiny-sd1");
    let all = [
        ["--model", &model],
        ["--lora", &lora],
        ["--embedding", &embedding],
        ["--prediction", "v_prediction"],
        ["--size", "64x48"],
        ["--steps", "2"],
        ["--guidance", "3"],
        ["--scheduler", "ddim"],
        ["--spacing", "trailing"],
        ["--clip-skip", "1"],
        ["--negative", "(rain:1.2)"],
    ];
    let switches = ["--emphasis", "--long"];
    all.concat().into_iter().chain(switches).map(String::from).collect()
}

const PROMPT: &str = "a (red:1.4) apple BREAK a <cat> on the beach";

#[test]
fn a_sweep_is_made_with_what_generate_takes() {
    let folder = TempDir::new().unwrap();
    let unusual = unusual();
    let unusual: Vec<&str> = unusual.iter().map(String::as_str).collect();
    succeeds(folder.path(), &[&["generate", PROMPT, "--seed", "7", "--out", "run"], &unusual[..]].concat());
    succeeds(folder.path(), &[&["sweep", PROMPT, "--seeds", "7", "--out", "swept"], &unusual[..]].concat());
    let (run, swept) = (json(&folder.path().join("run/run.json")), json(&folder.path().join("swept/sweep.json")));
    let mut settings = run["settings"].clone();
    settings["seed"] = 0.into();
    assert_eq!(settings, swept["settings"]);
    assert_eq!((&settings["loras"][0]["weight"], &settings["spacing"]), (&0.7.into(), &"trailing".into()));
    let words = run["words"].as_array().unwrap();
    assert_eq!(words.len(), swept["words"].as_array().unwrap().len());
    for (word, swept) in words.iter().zip(swept["words"].as_array().unwrap()) {
        assert_eq!(word["peak"]["value"], swept["peak"], "{word}");
        assert_eq!(word["centroid"], swept["centroids"][0], "{word}");
    }
    // One seed's mean is its image: the sweep's page shows it.
    let page = fs::read_to_string(folder.path().join("swept/index.html")).unwrap();
    assert!(page.contains("Where &lt;cat&gt; lands") && page.contains("dir=\"auto\">red</th>"), "{page}");
    assert!(image::open(folder.path().join("swept/sweep.png")).is_ok());
    // A sweep of chosen words, from a picture.
    let picture = ["sweep", PROMPT, "--seeds", "7,9", "--out", "chosen", "--words", "apple", "--init", "run/image.png"];
    succeeds(folder.path(), &[&picture[..], &unusual[..]].concat());
    let chosen = json(&folder.path().join("chosen/sweep.json"));
    assert_eq!((&chosen["seeds"], &chosen["settings"]["strength"]), (&serde_json::json!([7, 9]), &0.8.into()));
    assert_eq!((chosen["words"].as_array().unwrap().len(), &chosen["words"][0]["word"]), (1, &"apple".into()));
    // It is a measure for runs that were made in the same way, and for no others.
    let facts = |sweep: &str| attnmap(folder.path(), &["facts", "run", "--sweep", sweep]);
    assert!(facts("swept").status.success());
    refused(&facts("chosen"), 2, &["--sweep", "of other settings"]);
}

#[test]
fn the_command_on_a_sweeps_page_has_the_mask_and_what_words_are() {
    let folder = TempDir::new().unwrap();
    let at = folder.path();
    image::RgbImage::from_pixel(64, 64, image::Rgb([90, 120, 40])).save(at.join("init.png")).unwrap();
    image::GrayImage::from_fn(64, 64, |x, _| image::Luma([if x < 32 { 255 } else { 0 }]))
        .save(at.join("mask.png"))
        .unwrap();
    let model = fixture("tiny-sd1");
    let sweep = ["sweep", "a red apple, a frog", "--model", &model, "--steps", "2", "--seeds", "7", "--by", "tag"];
    let picture = ["--size", "64x64", "--init", "init.png", "--mask", "mask.png", "--out", "swept"];
    succeeds(at, &[&sweep[..], &picture[..]].concat());
    let page = fs::read_to_string(at.join("swept/index.html")).unwrap();
    assert!(page.contains(" --seed 7 --mask mask.png --by tag</code>"), "{page}");
}

#[test]
fn a_gallery_is_made_with_what_generate_takes() {
    let folder = TempDir::new().unwrap();
    let unusual = unusual();
    let unusual: Vec<&str> =
        [&["--dtype", "bf16"], &unusual.iter().map(String::as_str).collect::<Vec<_>>()[..]].concat();
    succeeds(folder.path(), &["generate", "a frog on the beach", "--steps", "2", "--out", "first"]);
    let picture = ["--init", "first/image.png", "--strength", "0.9"];
    succeeds(folder.path(), &[&["generate", PROMPT, "--seed", "7", "--out", "run"], &unusual[..], &picture].concat());
    let gallery = ["gallery", "--prompt", PROMPT, "--seeds", "7", "--out", "cells"];
    succeeds(folder.path(), &[&gallery[..], &unusual[..], &picture].concat());
    let cells: Vec<_> =
        fs::read_dir(folder.path().join("cells/cells")).unwrap().map(|cell| cell.unwrap().path()).collect();
    let [cell] = cells.as_slice() else { panic!("one cell: {cells:?}") };
    for file in ["trace.safetensors", "init.png"] {
        assert_eq!(
            fs::read(folder.path().join("run").join(file)).unwrap(),
            fs::read(cell.join(file)).unwrap(),
            "{file}"
        );
    }
    let (run, made) = (json(&folder.path().join("run/run.json")), json(&cell.join("run.json")));
    for part in ["settings", "negative", "words", "checkpoint"] {
        assert_eq!(run[part], made[part], "{part}");
    }
    assert_eq!((&made["settings"]["dtype"], &made["settings"]["strength"]), (&"bf16".into(), &0.9.into()));
    // A cell is a run that can be explained.
    succeeds(folder.path(), &["explain", &cell.display().to_string(), "--words", "apple"]);
}

#[test]
fn explain_makes_its_run_as_generate_does() {
    let folder = TempDir::new().unwrap();
    let unusual = unusual();
    let unusual: Vec<&str> =
        [&["--probe", "frog,shadow", "--seed", "3"], &unusual.iter().map(String::as_str).collect::<Vec<_>>()[..]]
            .concat();
    succeeds(folder.path(), &[&["generate", PROMPT, "--out", "run"], &unusual[..]].concat());
    let explain = [&["explain", PROMPT, "--words", "apple"], &unusual[..]].concat();
    succeeds(folder.path(), &explain);
    let made = fs::read_dir(folder.path().join("outputs")).unwrap().map(|entry| entry.unwrap().path());
    let made: Vec<_> = made.filter(|path| path.is_dir()).collect();
    let [made] = made.as_slice() else { panic!("one run: {made:?}") };
    let (run, explained) = (json(&folder.path().join("run/run.json")), json(&made.join("run.json")));
    for part in ["settings", "negative", "words", "probes", "checkpoint", "tokens"] {
        assert_eq!(run[part], explained[part], "{part}");
    }
    assert_eq!(
        fs::read(folder.path().join("run/trace.safetensors")).unwrap(),
        fs::read(made.join("trace.safetensors")).unwrap()
    );
    assert!(made.join("evidence.json").is_file() && made.join("report.html").is_file());
    // Its command line makes it again.
    let command = explained["command"].as_str().unwrap().to_owned() + " --out again";
    let binary = Path::new(env!("CARGO_BIN_EXE_attnmap")).parent().unwrap();
    let path = format!("{}:{}", binary.display(), std::env::var("PATH").unwrap());
    let shell =
        Command::new("sh").args(["-c", &command]).current_dir(folder.path()).env("PATH", path).output().unwrap();
    assert!(shell.status.success(), "{command}: {}", String::from_utf8_lossy(&shell.stderr));
    assert_eq!(run["settings"], json(&folder.path().join("again/run.json"))["settings"], "{command}");
    assert_eq!(
        fs::read(folder.path().join("run/trace.safetensors")).unwrap(),
        fs::read(folder.path().join("again/trace.safetensors")).unwrap()
    );

    // Asked again, it is the same run; asked otherwise, it is not taken for it.
    let before = fs::metadata(made.join("evidence.json")).unwrap().modified().unwrap();
    succeeds(folder.path(), &explain);
    assert_eq!(fs::metadata(made.join("evidence.json")).unwrap().modified().unwrap(), before);
    let mut other = explain.clone();
    let steps = other.iter().position(|word| *word == "--steps").unwrap() + 1;
    other[steps] = "3";
    succeeds(folder.path(), &other);
    let counted = |count: &str| folder.path().join(format!("{}{count}", made.display()));
    assert_eq!(json(&counted("-2").join("run.json"))["settings"]["steps"], 3);
    succeeds(folder.path(), &other);
    succeeds(folder.path(), &explain);
    assert!(counted("-2").join("evidence.json").is_file() && !counted("-3").exists(), "each is found again");
    refused(&attnmap(folder.path(), &["explain", "run", "--steps", "3"]), 2, &["RUN", "run is a run"]);
}

#[test]
fn a_caption_is_read_as_a_prompt_is() {
    let folder = TempDir::new().unwrap();
    let picture = folder.path().join("picture.png");
    image::RgbImage::from_fn(64, 64, |x, y| image::Rgb([4 * x as u8, 4 * y as u8, 90])).save(&picture).unwrap();
    let model = fixture("tiny-sd1");
    let trace = |caption: &str, out: &str, more: &[&str]| {
        let arguments = ["trace", "picture.png", caption, "--size", "64x64", "--model", &model, "--out", out];
        succeeds(folder.path(), &[&arguments[..], more].concat());
        json(&folder.path().join(out).join("run.json"))
    };
    let words = |record: &Value| -> Vec<String> {
        record["words"].as_array().unwrap().iter().map(|word| word["text"].as_str().unwrap().into()).collect()
    };
    let maps = |out: &str| fs::read(folder.path().join(out).join("heatmaps.safetensors")).unwrap();
    let plain = trace("a red apple", "plain", &[]);
    assert_eq!(plain["settings"]["emphasis"], Value::Null);
    let weighted = trace("a (red:1.4) apple BREAK a frog", "weighted", &["--emphasis", "--long"]);
    assert_eq!(words(&weighted), ["a", "red", "apple", "a", "frog"]);
    assert_eq!((&weighted["settings"]["emphasis"], &weighted["settings"]["long"]), (&true.into(), &true.into()));
    // A weight of 1 changes nothing, another does.
    let map = |record: &Value| record["words"][1]["peak"]["value"].as_f64().unwrap();
    let one = trace("a (red:1) apple", "one", &["--emphasis"]);
    assert!((map(&one) - map(&plain)).abs() < 1e-6, "{} {}", map(&one), map(&plain));
    trace("a (red:1.4) apple", "strong", &["--emphasis"]);
    assert_ne!(maps("strong"), maps("one"));
    succeeds(folder.path(), &["explain", "weighted", "--words", "red,frog"]);
}

#[test]
fn layers_of_clip_are_left_out_wherever_a_prompt_is_read() {
    let folder = TempDir::new().unwrap();
    let at = folder.path();
    let (model, flux) = (fixture("tiny-sd1"), fixture("tiny-flux-schnell"));
    let few = ["--model", &model, "--steps", "2", "--size", "64x64"];
    let generate = |out: &str, skip: &str| {
        succeeds(at, &[&["generate", "a red apple", "--out", out, "--clip-skip", skip], &few[..]].concat());
        json(&at.join(out).join("run.json"))["settings"]["clip_skip"].clone()
    };
    assert_eq!((generate("run", "1"), generate("whole", "0")), (1.into(), Value::Null));
    let image = |run: &str| image::open(at.join(run).join("image.png")).unwrap();
    assert_ne!(image("run"), image("whole"));
    // What draws it again refuses where it does not meet the image.
    succeeds(at, &["attribute", "run", "--word", "apple"]);
    succeeds(at, &["probe", "run", "--words", "frog"]);
    let lens: Value =
        serde_json::from_slice(&succeeds(at, &[&["lens", "a frog", "--clip-skip", "1", "--json"], &few[..]].concat()))
            .unwrap();
    assert_eq!(lens["stops"].as_array().unwrap().last().unwrap()["layers"], serde_json::json!([2]));

    // A picture says it, and another checkpoint may have no such layers.
    let trace = |out: &str, more: &[&str]| {
        let output = attnmap(at, &[&["trace", "run/image.png", "--out", out], more].concat());
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{said}");
        (said, json(&at.join(out).join("run.json")))
    };
    let (said, record) = trace("traced", &["--model", &model]);
    assert!(said.contains("read with --clip-skip 1"), "{said}");
    assert_eq!(record["settings"]["clip_skip"], 1);
    assert!(record["command"].as_str().unwrap().contains(" --clip-skip 1"), "{}", record["command"]);
    let (said, record) = trace("plain", &["--model", &model, "--clip-skip", "0"]);
    assert!(!said.contains("--clip-skip") && record["settings"]["clip_skip"].is_null(), "{said}");
    let (said, record) = trace("other", &["--model", &flux]);
    assert!(said.contains("read without --clip-skip 1 after all"), "{said}");
    assert_eq!(record["settings"]["clip_skip"], Value::Null);
    fs::create_dir(at.join("pictures")).unwrap();
    fs::copy(at.join("run/image.png"), at.join("pictures/a.png")).unwrap();
    succeeds(at, &["trace", "pictures", "--out", "looks", "--model", &model]);
    let cell = fs::read_dir(at.join("looks/cells")).unwrap().next().unwrap().unwrap().path();
    assert_eq!(json(&cell.join("run.json"))["settings"]["clip_skip"], 1);
    assert_eq!(
        fs::read(cell.join("trace.safetensors")).unwrap(),
        fs::read(at.join("traced/trace.safetensors")).unwrap()
    );

    // An axis, and what is not there.
    let gallery = ["gallery", "--prompt", "a frog", "--seeds", "1", "--out", "cells"];
    succeeds(at, &[&gallery[..], &["--clip-skip", "0,1"], &few[..]].concat());
    let page = fs::read_to_string(at.join("cells/index.html")).unwrap();
    assert!(page.contains("clip_skip"), "the axis is on the page");
    let most = "2 can be left out at most";
    refused(&attnmap(at, &[&["generate", "x", "--clip-skip", "3"], &few[..]].concat()), 2, &["--clip-skip", most]);
    refused(
        &attnmap(at, &["trace", "run/image.png", "x", "--no-metadata", "--model", &model, "--clip-skip", "3"]),
        2,
        &["--clip-skip", most],
    );
    let gallery = ["gallery", "--prompt", "x", "--seeds", "1", "--out", "none", "--clip-skip", "3"];
    refused(&attnmap(at, &[&gallery[..], &few[..]].concat()), 2, &["--clip-skip", most]);
    let output = attnmap(at, &["generate", "x", "--model", &flux, "--size", "32x32", "--clip-skip", "1"]);
    refused(&output, 2, &["--clip-skip", "not read by CLIP"]);
}

#[test]
fn a_file_is_explained_as_a_prompt() {
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("prompt.txt"), "an apple\n").unwrap();
    let model = fixture("tiny-sd1");
    let more = ["--model", &model, "--steps", "2", "--size", "64x64"];
    succeeds(folder.path(), &[&["explain", "--prompt-file", "prompt.txt"], &more[..]].concat());
    assert_eq!(json(&folder.path().join("outputs/an-apple-0/run.json"))["prompt"], "an apple");
}

#[test]
fn by_tag_and_words_are_heard_or_it_is_said_that_they_are_not() {
    let folder = TempDir::new().unwrap();
    let model = fixture("tiny-sd1");
    let more = ["--model", &model, "--steps", "1", "--size", "64x64"];
    let prompt = "a red apple, a green frog";
    let lens = ["lens", prompt, "--by", "tag", "--every", "99", "--out", "lens", "--json"];
    let lens: Value = serde_json::from_slice(&succeeds(folder.path(), &[&lens[..], &more].concat())).unwrap();
    let words = lens["stops"][0]["words"].as_array().unwrap();
    let words: Vec<&str> = words.iter().map(|word| word[0].as_str().unwrap()).collect();
    assert_eq!(words, ["a red apple", "a green frog"]);
    for (run, by) in [("words", "word"), ("tags", "tag"), ("more-tags", "tag")] {
        succeeds(folder.path(), &[&["generate", prompt, "--by", by, "--out", run], &more[..]].concat());
    }
    let compare =
        |runs: [&str; 2]| attnmap(folder.path(), &["compare", runs[0], runs[1], "--by", "tag", "--out", "a.html"]);
    refused(&compare(["tags", "words"]), 2, &["--by", "words is a run by word", "`attnmap view words --by tag`"]);
    assert!(compare(["tags", "more-tags"]).status.success());
    // Facts are of all words; --words adds probes.
    let said = attnmap(folder.path(), &["facts", "words", "--words", "frog"]).stderr;
    let said = String::from_utf8(said).unwrap();
    assert!(said.contains("--words has no effect here") && said.contains("leave it out"), "{said}");
}
