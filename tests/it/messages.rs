//! What the binary says on stderr: one line, in the user's own words, of what the user gave, with a
//! way out that works.

use crate::cli::{attnmap, generate, refused};
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn copy(from: &Path, to: &Path) {
    for file in crate::cli::walk(from) {
        let target = to.join(file.strip_prefix(from).unwrap());
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::copy(&file, target).unwrap();
    }
}

fn stderr(output: &std::process::Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("stderr is UTF-8")
}

/// Every option whose value stands in its refusal, with texts that escapes would make unreadable.
#[test]
fn messages_show_the_users_text_and_never_escapes_or_control_characters() {
    let options = [
        "--words",
        "--scheduler",
        "--spacing",
        "--colormap",
        "--style",
        "--scale",
        "--aggregate",
        "--layers",
        "--resolution",
        "--heads",
        "--steps-window",
        "--size",
        "--dtype",
        "--device",
        "--variant",
        "--prediction",
        "--self-attention",
        "--steps",
        "--lora",
        "--embedding",
        "--latents",
        "--init",
    ];
    for text in ["सेव", "café", "蛙", "ضفدع", "🐸", "a\u{1b}[31mb"] {
        for option in options {
            let given = format!("{option}={text}");
            let (output, folder, _) = generate("a red apple", &[&given]);
            let told = stderr(&output);
            assert!(matches!(output.status.code(), Some(1 | 2)), "{given}: {told}");
            assert!(!told.contains("\\u{"), "{given}: {told}");
            assert!(text.contains('\u{1b}') || told.contains(text), "{given}: {told}");
            assert!(!told.trim_end().chars().any(char::is_control), "{given}: {told:?}");
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        }
    }
}

/// The library's names of arguments are written as options; what a user typed is not, whatever it
/// looks like.
#[test]
fn arguments_are_named_as_options_and_the_users_text_is_left_alone() {
    let strength = ["--init", "`steps`.png", "--strength", "0.01", "--steps", "4"];
    let (output, ..) = generate("a `steps` frog", &strength);
    refused(&output, 2, &["--init: `steps`.png: no such file"]);
    let (output, ..) = generate("a `steps` frog", &["--words", "`guidance`"]);
    refused(&output, 2, &["--words: \"`guidance`\" is not in the prompt", "it has: a, steps, frog"]);
    let (output, ..) = generate("a frog", &["--heads", "0", "--steps-window", "0..0.5"]);
    refused(&output, 2, &["--steps-window: cannot be combined with --heads: "]);
    let (output, _folder, _) = generate("a (`emphasis`) frog", &["--steps", "1", "--size", "64x64", "-q"]);
    let told = stderr(&output);
    let unread = "\"(`emphasis`)\" has brackets, which are plain text; --emphasis reads them as weights";
    assert!(output.status.success() && told.contains(unread), "{told}");
}

#[test]
fn words_are_found_in_whatever_unicode_form_they_are_typed() {
    let same = [
        ("a cafe\u{301} here", "caf\u{e9}"),
        ("a caf\u{e9} here", "CAFE\u{301}"),
        ("\u{1109}\u{1161}\u{1100}\u{116a} on a beach", "\u{c0ac}\u{acfc}"),
        ("\u{c0ac}\u{acfc} on a beach", "\u{1109}\u{1161}\u{1100}\u{116a}"),
        ("a \u{2764}\u{fe0f} here", "\u{2764}"),
        ("a \u{2764} here", "\u{2764}\u{fe0f}"),
        ("a \u{39f}\u{394}\u{39f}\u{3a3} here", "\u{3bf}\u{3b4}\u{3bf}\u{3c2}"),
    ];
    for (prompt, word) in same {
        let (made, folder, run) = generate(prompt, &["--words", word]);
        assert!(made.status.success(), "{prompt} {word}: {}", stderr(&made));
        let run = run.display().to_string();
        let bind = format!("{word}:{word}");
        let pair = format!("{word}=0.5");
        let out = folder.path().join("animation").display().to_string();
        for arguments in [
            vec!["ask", &run, "--at", "3,3", "--words", word],
            vec!["view", &run, "--words", word],
            vec!["animate", &run, "--words", word, "--out", &out],
            vec!["facts", &run, "--words", word],
            vec!["facts", &run, "--bind", &bind],
            vec!["explain", &run, "--words", word, "--weight", &pair, "-q"],
        ] {
            let output = attnmap(&arguments);
            assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
        }
        let gallery = folder.path().join("gallery").display().to_string();
        let replace = format!("{word}=apple");
        let model = fixture("tiny-sd1").display().to_string();
        let output = attnmap(&[
            "gallery",
            "--prompt",
            prompt,
            "--replace",
            &replace,
            "--seeds",
            "0",
            "--steps",
            "1",
            "--size",
            "64x64",
            "--model",
            &model,
            "--out",
            &gallery,
            "-q",
        ]);
        assert!(output.status.success(), "{}", stderr(&output));
    }
    // A letter without its accent is another letter.
    let (output, ..) = generate("a cafe\u{301} here", &["--words", "cafe"]);
    refused(&output, 2, &["--words", "\"cafe\" is not in the prompt", "cafe\u{301}"]);
}

#[test]
fn an_unquoted_prompt_is_answered_with_the_quotes() {
    for (typed, advice) in [
        (&["generate", "a", "red", "apple", "--steps", "3"][..], "attnmap generate \"a red apple\" --steps 3"),
        (&["generate", "--steps", "3", "a", "red", "apple"], "attnmap generate \"a red apple\" --steps 3"),
        (&["explain", "a", "red", "apple"], "attnmap explain \"a red apple\""),
        (&["trace", "picture.png", "a", "red", "apple"], "attnmap trace picture.png \"a red apple\""),
    ] {
        refused(&attnmap(typed), 2, &["put the prompt in quotes: ", advice]);
    }
}

#[test]
fn numbers_with_a_sign_are_values_that_their_option_refuses() {
    for option in ["--steps", "--images", "--keep-steps", "--threads", "--size", "--heads", "--overlay-size"] {
        let (output, ..) = generate("a frog", &[option, "-1"]);
        let told = stderr(&output);
        refused(&output, 2, &[option, "-1"]);
        assert!(!told.contains("tip:") && !told.contains("digit found"), "{told}");
    }
}

#[test]
fn sizes_that_no_run_can_have_are_refused_at_once() {
    for size in ["16x100000", "100000x16"] {
        let before = std::time::Instant::now();
        let (output, folder, _) = generate("a frog", &["--size", size]);
        refused(&output, 2, &["--size"]);
        assert!(before.elapsed().as_secs() < 10);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}

#[test]
fn what_makes_nan_is_named_and_nothing_else() {
    let folder = TempDir::new().unwrap();
    let shape = [1usize, 4, 16, 16];
    let save = |name: &str, value: f32| {
        let mut values = vec![0.5f32; 1024];
        values[7] = value;
        let tensor = candle_core::Tensor::from_vec(values, &shape, &candle_core::Device::Cpu).unwrap();
        let path = folder.path().join(name);
        candle_core::safetensors::save(&std::collections::HashMap::from([("latents", tensor)]), &path).unwrap();
        path.display().to_string()
    };
    let (nan, huge) = (save("nan.safetensors", f32::NAN), save("inf.safetensors", f32::INFINITY));
    for (given, parts) in [
        (["--guidance", "1e300"], ["--guidance", "1 to 20"]),
        (["--guidance", "-1e300"], ["--guidance", "1 to 20"]),
        (["--latents", &nan], ["--latents", "NaN"]),
        (["--latents", &huge], ["--latents", "inf"]),
    ] {
        let (output, ..) = generate("a frog", &given);
        refused(&output, 2, &parts);
        let told = stderr(&output);
        assert!(!told.contains("--lora") && !told.contains("--dtype"), "{told}");
    }
    // A LoRA's own weight.
    let lora = fixture("adapters/kohya-sd1.safetensors").display().to_string() + ":1e30";
    let (output, ..) = generate("a frog", &["--lora", &lora]);
    refused(&output, 2, &["--lora", "lower the weight"]);
}

#[test]
fn a_run_of_other_weights_is_told_by_what_was_given() {
    let folder = TempDir::new().unwrap();
    let model = folder.path().join("model");
    copy(&fixture("tiny-sd1"), &model);
    let (model_name, run) = (model.display().to_string(), folder.path().join("run").display().to_string());
    let lora = fixture("adapters/kohya-sd1.safetensors").display().to_string();
    let make = |more: &[&str], out: &str| {
        let given =
            ["generate", "a red apple", "--model", &model_name, "--steps", "2", "--size", "64x64", "--out", out];
        let output = attnmap(&[&given[..], more].concat());
        assert!(output.status.success(), "{}", stderr(&output));
    };
    make(&[], &run);
    let with = folder.path().join("with").display().to_string();
    make(&["--lora", &lora], &with);

    // A LoRA that the run had not: the advice, followed, works.
    let output = attnmap(&["explain", &run, "--words", "apple", "--lora", &lora]);
    refused(&output, 2, &["--lora", "the run was made without --lora", "leave it out"]);
    assert!(attnmap(&["explain", &run, "--words", "apple"]).status.success());
    // One with another weight.
    let output = attnmap(&["explain", &with, "--words", "apple", "--lora", &format!("{lora}:0.5")]);
    refused(&output, 2, &["--lora", "the run was made with --lora", ":0.5"]);

    // The checkpoint itself is another one now: no option is named that nobody gave.
    let weights = model.join("unet/diffusion_pytorch_model.safetensors");
    let old = fs::read(&weights).unwrap();
    let mut new = old.clone();
    let header = u64::from_le_bytes(old[..8].try_into().unwrap()) as usize;
    new.iter_mut().skip(8 + header).step_by(16).for_each(|byte| *byte ^= 1);
    fs::write(&weights, new).unwrap();
    let output = attnmap(&["explain", &run, "--words", "red"]);
    refused(&output, 1, &["its files are other ones than when the run was made", "put the old files back", "run.json"]);
    assert!(!stderr(&output).contains("--lora"), "{}", stderr(&output));
    let output = attnmap(&["explain", &with, "--words", "red"]);
    refused(&output, 1, &["its files, or those of --lora", "kohya-sd1"]);
    fs::write(&weights, old).unwrap();
    assert!(attnmap(&["explain", &run, "--words", "red"]).status.success());
}

#[test]
fn syntax_that_is_not_read_is_said_once_and_its_advice_works() {
    let warned = |prompt: &str, more: &[&str]| {
        let (output, ..) = generate(prompt, more);
        assert!(output.status.success(), "{}", stderr(&output));
        let told = stderr(&output);
        told.lines()
            .filter(|line| line.contains("warning:") && !line.contains("never saw"))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let told = warned("a (green frog:0.5) and (a) [fox]", &[]);
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("\"(green frog:0.5)\"") && told[0].contains("--emphasis"), "{told:?}");
    assert!(warned("a (green frog:0.5) and (a) [fox]", &["--emphasis"]).is_empty());
    let told = warned("a frog", &["--negative", "(rain:1.3)"]);
    assert!(told.len() == 1 && told[0].contains("(rain:1.3)"), "{told:?}");
    for more in [&[][..], &["--emphasis"]] {
        let told = warned("a [red:green:0.5] apple AND a [frog|fox] <lora:style:0.8>", more);
        assert_eq!(told.len(), 4, "{told:?}");
        assert!(told[3].contains("--lora FILE:WEIGHT"), "{told:?}");
    }
    let folder = TempDir::new().unwrap();
    let out = folder.path().join("gallery").display().to_string();
    let model = fixture("tiny-sd1").display().to_string();
    let list = folder.path().join("list.csv");
    fs::write(&list, "prompt,emphasis\n(a frog),no\n(a fox),no\n(an apple),yes\n").unwrap();
    let given =
        ["gallery", &list.display().to_string(), "--seeds", "0", "--steps", "1", "--size", "64x64", "--model", &model];
    let output = attnmap(&[&given[..], &["--out", &out]].concat());
    let told = stderr(&output);
    assert_eq!(told.matches("--emphasis").count(), 1, "{told}");
}

#[test]
fn a_weight_of_a_word_that_is_not_there_names_its_own_option() {
    let (made, _folder, run) = generate("a red apple", &[]);
    assert!(made.status.success());
    let output = attnmap(&["explain", &run.display().to_string(), "--weight", "dog=0..2"]);
    refused(&output, 2, &["--weight: \"dog\" is not in the prompt; it has: a, red, apple"]);
    let output = attnmap(&["view", &run.display().to_string(), "--layers", "foo"]);
    refused(&output, 2, &["--layers: no layer is called foo; this run has"]);
}

/// A checkpoint of a small world says which words it knows, by kind, and which stand for others.
#[test]
fn words_that_a_small_model_never_saw_are_named_with_the_nearest_that_it_knows() {
    let folder = TempDir::new().unwrap();
    let at = folder.path();
    copy(&fixture("tiny-sd1"), &at.join("model"));
    let settings = serde_json::json!({
        "description": "x", "steps": 2, "guidance_scale": 3.0, "size": [32, 32], "vocabulary": ["a", "cat", "umbrella"],
        "kinds": {"things": ["cat", "umbrella"], "numbers": ["a"]}, "near": {"kitten": "cat"},
    });
    fs::write(at.join("model/attnmap.json"), settings.to_string()).unwrap();
    // What is written here is what training writes.
    let export = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("training/export.py")).unwrap();
    let (_, written) = export.split_once("settings = {\n").unwrap();
    let (written, _) = written.split_once("\n    }").unwrap();
    let names: Vec<&str> =
        written.lines().filter_map(|line| line.trim().strip_prefix('"')?.split('"').next()).collect();
    assert_eq!(names, ["description", "steps", "guidance_scale", "size", "vocabulary", "kinds", "near"]);

    let model = at.join("model").display().to_string();
    let out = at.join("run").display().to_string();
    let made = attnmap(&["generate", "a kitten and an umbrela", "--model", &model, "--out", &out]);
    let said = stderr(&made);
    assert!(made.status.success(), "{said}");
    assert!(said.contains("(the nearest that it knows: cat for kitten, umbrella for umbrela)"), "{said}");
    let listed = String::from_utf8(attnmap(&["models", &model]).stdout).unwrap();
    assert!(listed.contains("things") && listed.contains("cat, umbrella") && listed.contains("numbers"), "{listed}");
}
