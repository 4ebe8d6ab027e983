//! The real binary: its main job, its files, and one clear line for everything that can be wrong.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

pub fn attnmap(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_attnmap"))
        .args(arguments)
        .env("NO_COLOR", "1")
        .env("HF_HUB_OFFLINE", "1")
        .output()
        .expect("the binary starts")
}

fn tiny() -> String {
    fixtures().join("tiny-sd1").display().to_string()
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

/// Runs with the tiny checkpoint and a fresh `--out`, two steps on a small image.
pub fn generate(prompt: &str, more: &[&str]) -> (Output, TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let model = tiny();
    let mut arguments = vec!["generate", prompt, "--model", &model, "--steps", "2", "--size", "64x64", "--out"];
    let path = out.display().to_string();
    arguments.push(&path);
    arguments.extend(more);
    (attnmap(&arguments), folder, out)
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// One line on stderr with all of `parts`, this exit code, nothing on stdout.
#[track_caller]
pub fn refused(output: &Output, code: i32, parts: &[&str]) {
    let text = stderr(output);
    assert_eq!(output.status.code(), Some(code), "{text}");
    let lines: Vec<_> = text.lines().filter(|line| !line.contains("warning:")).collect();
    assert_eq!(lines.len(), 1, "one line, but: {text}");
    for part in parts {
        assert!(text.contains(part), "{part:?} is missing in: {text}");
    }
    assert!(output.stdout.is_empty(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[track_caller]
fn nothing_left(folder: &TempDir) {
    let left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.is_empty(), "left behind: {left:?}");
}

#[test]
fn a_run_writes_the_files_that_the_design_lists() {
    let (output, folder, out) = generate("a red apple and an apple", &[]);
    assert!(output.status.success(), "{}", stderr(&output));
    for file in ["image.png", "words.png", "heatmaps.safetensors", "trace.safetensors", "run.json"] {
        assert!(out.join(file).is_file(), "{file} is missing");
    }
    let mut overlays: Vec<_> =
        fs::read_dir(out.join("overlays")).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    overlays.sort();
    assert_eq!(overlays.len(), 6, "one a word: {overlays:?}");
    assert!(overlays[1].contains("red") && overlays[2].contains("apple"), "prompt order: {overlays:?}");
    let entries = fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(entries, 1, "no temporary folder stays");

    let table = String::from_utf8(output.stdout).unwrap();
    for word in ["red", "apple", "apple#2"] {
        assert!(table.contains(word), "{word} is missing in the table:\n{table}");
    }
    assert!(table.contains("words.png"), "the table says where the files are:\n{table}");
}

#[test]
fn json_on_stdout_is_the_runs_facts() {
    let (output, _folder, out) = generate("a red apple", &["--json"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let printed: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let saved: serde_json::Value = serde_json::from_slice(&fs::read(out.join("run.json")).unwrap()).unwrap();
    let printed = if printed.is_array() { printed[0].clone() } else { printed };
    assert_eq!(printed["prompt"], saved["prompt"]);
    assert_eq!(printed["words"], saved["words"]);
}

#[test]
fn an_existing_run_is_kept_unless_forced() {
    let (first, _folder, out) = generate("an apple", &[]);
    assert!(first.status.success(), "{}", stderr(&first));
    let before = fs::read(out.join("image.png")).unwrap();
    let again = |more: &[&str]| {
        let model = tiny();
        let path = out.display().to_string();
        let mut arguments = vec![
            "generate", "an apple", "--model", &model, "--steps", "2", "--size", "64x64", "--seed", "5", "--out", &path,
        ];
        arguments.extend(more);
        attnmap(&arguments)
    };
    refused(&again(&[]), 2, &["--force"]);
    assert_eq!(fs::read(out.join("image.png")).unwrap(), before);
    let forced = again(&["--force"]);
    assert!(forced.status.success(), "{}", stderr(&forced));
    assert_ne!(fs::read(out.join("image.png")).unwrap(), before);
}

#[test]
fn several_images_get_a_folder_each() {
    let (output, folder, _) = generate("an apple", &["--images", "2", "--seed", "7"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let images = walk(folder.path()).into_iter().filter(|path| path.ends_with("image.png")).count();
    assert_eq!(images, 2);
}

pub fn walk(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(walk(&path)) } else { files.push(path) }
    }
    files
}

#[test]
fn wrong_values_are_usage_errors() {
    let cases: &[(&[&str], &str)] = &[
        (&["--size", "0x64"], "--size"),
        (&["--size", "65x64"], "64"),
        (&["--size", "64"], "--size"),
        (&["--steps", "0"], "steps"),
        (&["--steps", "100000"], "steps"),
        (&["--scheduler", "plms"], "euler"),
        (&["--words", "giraffe"], "giraffe"),
        (&["--images", "0"], "images"),
        (&["--guidance", "NaN"], "guidance"),
        (&["--latents", "no-such-file.safetensors"], "no-such-file"),
        (&["--colormap", "beige"], "viridis"),
        (&["--layers", "attic"], "attic"),
        (&["--resolution", "12345"], "12345"),
        (&["--heads", "99"], "99"),
        (&["--opacity", "7"], "opacity"),
        (&["--aggregate", "best"], "daam"),
        (&["--no-such-flag"], "--no-such-flag"),
    ];
    for (more, part) in cases {
        let (output, folder, _) = generate("a red apple", more);
        let text = stderr(&output);
        assert!(matches!(output.status.code(), Some(1 | 2)), "{more:?}: {text}");
        assert!(text.contains(part), "{more:?}: {part:?} is missing in: {text}");
        assert!(!text.contains("panicked"), "{more:?}: {text}");
        assert!(
            text.lines().filter(|line| line.starts_with("attnmap:") || line.starts_with("error:")).count() == 1,
            "{text}"
        );
        nothing_left(&folder);
    }
}

#[test]
fn files_that_are_not_there_are_named_with_their_option() {
    let (made, folder, run) = generate("a red apple", &["--self-attention"]);
    assert!(made.status.success(), "{}", stderr(&made));
    let (run, folder) = (run.display().to_string(), folder.path().display().to_string());
    let refused = |arguments: &[&str], parts: &[&str]| refused(&attnmap(arguments), 2, parts);
    for command in ["self-attention", "ask"] {
        for option in ["--region", "--mask"] {
            refused(&[command, &run, option, "nope.png"], &[option, "nope.png", "no such file"]);
        }
    }
    refused(&["generate", "--prompt-file", &folder], &["--prompt-file", "is a folder"]);
    refused(
        &["gallery", "nope.csv", "--out", &format!("{folder}/gallery")],
        &["PROMPTS", "nope.csv is no file", "--prompt"],
    );
    refused(&["gallery", &folder, "--out", &format!("{folder}/gallery")], &["PROMPTS", "is a folder"]);
}

#[test]
fn shares_are_no_places() {
    let (made, _folder, run) = generate("a red apple", &["--self-attention"]);
    assert!(made.status.success(), "{}", stderr(&made));
    let run = run.display().to_string();
    let middle = "places are pixels: the middle of this 64x64 image is 32,32";
    for command in ["ask", "self-attention", "attribute"] {
        for at in ["0.5,0.5", "0,0.5", "0.5,1"] {
            refused(&attnmap(&[command, &run, "--at", at]), 2, &["--at", at, middle]);
        }
        let whole = "places are pixels: the whole of this 64x64 image is 0,0,64,64";
        refused(&attnmap(&[command, &run, "--box", "0.5,0,0.5,1"]), 2, &["--box", "0.5,0,0.5,1", whole]);
    }
    for place in [["--at", "0,1"], ["--at", "0.5,40"], ["--at", "40.5,0.5"], ["--box", "0,0,1,1"]] {
        let asked = attnmap(&["ask", &run, place[0], place[1]]);
        assert!(asked.status.success(), "{}", stderr(&asked));
        let table = String::from_utf8(asked.stdout).unwrap();
        assert!(table.contains("× image") && !table.to_lowercase().contains("against the image"), "{table}");
    }
}

#[test]
fn a_prediction_that_a_sampler_cannot_take_is_named_by_its_option() {
    let given = &["--prediction", "sample", "--scheduler", "dpm2"];
    let (output, folder, _) = generate("a red apple", given);
    refused(&output, 2, &["--prediction: sample does not go with --scheduler dpm2", "choose another of either"]);
    nothing_left(&folder);
}

#[test]
fn too_little_strength_for_lcm_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let (picture, out) = (folder.path().join("picture.png"), folder.path().join("run"));
    image::RgbImage::new(64, 64).save(&picture).unwrap();
    let [picture, out] = [&picture, &out].map(|path| path.display().to_string());
    let lcm = fixtures().join("tiny-lcm").display().to_string();
    let given = [
        "generate",
        "an apple",
        "--model",
        &lcm,
        "--init",
        &picture,
        "--strength",
        "0.01",
        "--steps",
        "40",
        "--out",
        &out,
    ];
    refused(&attnmap(&given), 2, &["40 is more than the 0 steps", "at --strength 0.01; raise --strength"]);
}

#[test]
fn an_empty_prompt_is_refused() {
    for prompt in ["", "   ", "\n\t"] {
        let (output, folder, _) = generate(prompt, &[]);
        refused(&output, 2, &["prompt"]);
        nothing_left(&folder);
    }
}

#[test]
fn odd_prompts_run() {
    let script = "<script>alert(1)</script> \"quotes\" & </style> ../../etc/passwd";
    for prompt in [
        "🐸 on a 🏖️",
        "एक लाल सेब",
        "一个红苹果",
        "تفاحة حمراء",
        "a\u{1}red\u{1b}[31m\u{7f}apple",
        script,
        "%s $HOME `id`",
    ] {
        let (output, folder, out) = generate(prompt, &[]);
        assert!(output.status.success(), "{prompt:?}: {}", stderr(&output));
        assert!(out.join("words.png").is_file(), "{prompt:?}");
        assert!(!output.stdout.contains(&0x1b), "{prompt:?}: an escape sequence reached the terminal");
        for file in walk(folder.path()) {
            assert!(file.starts_with(&out), "{prompt:?} wrote {}", file.display());
        }
    }
}

#[test]
fn a_long_prompt_warns_and_names_what_was_cut() {
    let prompt = format!("a red apple {} giraffe", "and a frog ".repeat(40));
    let (output, ..) = generate(&prompt, &[]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stderr(&output).contains("giraffe"), "{}", stderr(&output));
    let start = Instant::now();
    let (output, ..) = generate(&"word ".repeat(10_000), &[]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stderr(&output).len() < 2_000, "the warning is short");
    assert!(start.elapsed() < Duration::from_secs(20));
}

#[test]
fn broken_checkpoints_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let copy = |name: &str| {
        let to = folder.path().join(name);
        for file in walk(&fixtures().join("tiny-sd1")) {
            let target = to.join(file.strip_prefix(fixtures().join("tiny-sd1")).unwrap());
            fs::create_dir_all(target.parent().unwrap()).unwrap();
            fs::copy(&file, target).unwrap();
        }
        to
    };
    let run = |model: &Path| {
        attnmap(&["generate", "an apple", "--model", &model.display().to_string(), "--out", "/nowhere/run"])
    };

    let model = copy("no-index");
    fs::remove_file(model.join("model_index.json")).unwrap();
    refused(&run(&model), 1, &["model_index.json"]);

    let model = copy("truncated");
    let weights = model.join("unet/diffusion_pytorch_model.safetensors");
    let bytes = fs::read(&weights).unwrap();
    fs::write(&weights, &bytes[..bytes.len() / 2]).unwrap();
    refused(&run(&model), 1, &["diffusion_pytorch_model.safetensors"]);

    for (class, name) in
        [("StableDiffusionXLPipeline", "XL"), ("FluxPipeline", "Flux"), ("StableDiffusion3Pipeline", "3")]
    {
        let model = copy(class);
        let index = model.join("model_index.json");
        let text = fs::read_to_string(&index).unwrap().replace("StableDiffusionPipeline", class);
        fs::write(&index, text).unwrap();
        refused(&run(&model), 1, &[name]);
    }

    let missing = folder.path().join("missing").display().to_string();
    refused(&attnmap(&["generate", "an apple", "--model", &missing]), 2, &["missing"]);
    refused(&attnmap(&["generate", "an apple", "--model", "./weights.ckpt"]), 2, &["pickle"]);
}

#[test]
fn an_output_folder_that_cannot_be_written_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "in the way").unwrap();
    let out = file.join("run").display().to_string();
    let output =
        attnmap(&["generate", "an apple", "--model", &tiny(), "--steps", "1", "--size", "64x64", "--out", &out]);
    refused(&output, 2, &["--out", "file is no folder"]);
}

#[cfg(unix)]
#[test]
fn ctrl_c_ends_with_130_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run").display().to_string();
    let mut child = Command::new(env!("CARGO_BIN_EXE_attnmap"))
        .args(["generate", "an apple", "--model", &tiny(), "--steps", "900", "--size", "256x256", "--out", &out])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_millis(1500));
    assert!(child.try_wait().unwrap().is_none(), "still running");
    let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(killed.success());
    let start = Instant::now();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", stderr(&output));
    assert!(start.elapsed() < Duration::from_secs(10));
    nothing_left(&folder);
}

#[test]
fn help_teaches_and_completions_are_scripts() {
    for command in [vec!["--help"], vec!["generate", "--help"], vec!["view", "--help"], vec!["models", "--help"]] {
        let output = attnmap(&command);
        assert!(output.status.success());
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains("Example"), "{command:?} shows examples:\n{text}");
        assert!(!text.contains('\u{1b}'), "NO_COLOR is honoured");
    }
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let output = attnmap(&["completions", shell]);
        assert!(output.status.success() && output.stdout.len() > 1_000, "{shell}");
    }
}
