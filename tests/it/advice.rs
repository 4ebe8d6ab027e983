//! The way out that a message names works when it is followed, each tried on the real binary.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

/// A folder with a run, a look at its picture and what else the cases name.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(TempDir::new().unwrap());
        place.works("generate 'a red apple' {small} --out run");
        place.works("generate 'a red apple' {small} --out plain --no-step-maps");
        place.works("generate 'a red apple' {small} --out tagged");
        place.works("view tagged --by tag");
        place.works("trace run/image.png 'a red apple' --model {sd1} --out look");
        fs::copy(place.path("run/image.png"), place.path("bare.png")).unwrap();
        let stripped = image::open(place.path("bare.png")).unwrap();
        stripped.save(place.path("bare.png")).unwrap();
        fs::write(place.path("notes.txt"), "mine").unwrap();
        fs::create_dir(place.path("mine")).unwrap();
        fs::write(place.path("mine/letter.txt"), "mine").unwrap();
        fs::copy(fixture("adapters/kohya-sd1.safetensors"), place.path("lora.safetensors")).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Runs a command line as a shell splits it, with `{small}` and `{sd1}` filled in.
    fn run(&self, line: &str) -> Output {
        let sd1 = fixture("tiny-sd1").display().to_string();
        let line = line.replace("{small}", "--model {sd1} --steps 2 --size 64x64 -q").replace("{sd1}", &sd1);
        let line = line.replace("{fixtures}", &fixture("").display().to_string());
        Command::new(env!("CARGO_BIN_EXE_attnmap"))
            .args(shlex::split(&line).unwrap())
            .current_dir(&self.0)
            .env("NO_COLOR", "1")
            .env("HF_HUB_OFFLINE", "1")
            .output()
            .unwrap()
    }

    #[track_caller]
    fn works(&self, line: &str) -> String {
        let output = self.run(line);
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{line}: {told}");
        told
    }
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// A command line that is refused, what its message advises, and a command line that follows it.
const REFUSED: &[(&str, &str, &str)] = &[
    // Where things are written.
    ("generate 'a frog' {small} --out run", "--force replaces it", "generate 'a frog' {small} --out forced --force"),
    ("generate 'a frog' {small} --out run", "--out DIR writes elsewhere", "generate 'a frog' {small} --out other"),
    ("generate 'a frog' {small} --out notes.txt", "choose another", "generate 'a frog' {small} --out other-2"),
    (
        "sweep 'a frog' {small} --seeds 0,1 --out mine",
        "choose another",
        "sweep 'a red apple' {small} --seeds 0,1 --out swept",
    ),
    // What the run does not hold.
    ("view plain --steps-window 0..0.5", "make the run again without --no-step-maps", "view run --steps-window 0..0.5"),
    (
        "view run --half unconditional",
        "make the run again with --trace-negative",
        "generate 'a frog' {small} --out halves --trace-negative",
    ),
    (
        "self-attention run --at 3,3",
        "make the run again with --self-attention",
        "generate 'a frog' {small} --out tied --self-attention",
    ),
    ("self-attention look --at 3,3", "`generate --self-attention`", "self-attention tied --at 3,3"),
    (
        "generate 'a red apple' {small} --self-attention 8x8 --out tied-2",
        "--self-attention=8x8",
        "generate 'a red apple' {small} --self-attention=8x8 --out tied-2",
    ),
    ("explain run --shapley 3", "--shapley takes no value; leave 3 out", "explain run --shapley"),
    (
        "generate 'a frog' {small} --self-attention --self-memory 1KB --out tied-3",
        "allow more",
        "generate 'a frog' {small} --self-attention --self-memory 64MB --out tied-3",
    ),
    ("why look --word apple", "`attnmap generate` and ask about that", "why run --word apple --budget 20"),
    // Words and places.
    ("explain run --words frog", "it has: a, red, apple", "explain run --words apple"),
    ("view tagged --words apple", "read words with --by word", "view tagged --by word --words apple"),
    ("ask run", "--at X,Y", "ask run --at 3,3"),
    ("ask run", "--box X,Y,W,H", "ask run --box 3,3,20,20"),
    ("ask run", "--region FILE", "ask run --region run/image.png"),
    ("attribute run", "--word WORD", "attribute run --word apple --method occlusion"),
    ("facts run --bind red", "write red:apple", "facts run --bind red:apple"),
    ("explain run --weight apple", "frog=0..2/9", "explain run --words apple --weight apple=0..2/2"),
    ("explain run --seed 3", "is for prompts", "explain 'a red apple' --seed 3 {small} --words apple"),
    ("generate a red apple {small}", "put the prompt in quotes", "generate 'a red apple' {small}"),
    ("'a red apple'", "attnmap generate 'a red apple'", "generate 'a red apple' {small}"),
    // Checkpoints, LoRAs and embeddings.
    ("generate 'a frog' --model run", "`attnmap view run` shows", "view run"),
    (
        "generate 'a frog' --model lora.safetensors",
        "give it with --lora, and with --model the checkpoint",
        "generate 'a frog' {small} --lora lora.safetensors --out merged",
    ),
    ("generate 'a frog' --model {sd1} --variant fp16", "leave --variant out", "generate 'a frog' {small} --out whole"),
    ("generate 'a frog' --model {sd1} --config {sd1}", "leave --config out", "generate 'a frog' {small} --out whole-2"),
    ("generate 'a frog' --variant fp16", "leave --variant out", "generate 'a frog' --steps 1 -q --out whole-3"),
    (
        "generate 'a frog' {small} --device cuda --out gpu",
        "or use cpu",
        "generate 'a frog' {small} --device cpu --out cpu",
    ),
    (
        "generate 'a frog' {small} --lora lora.safetensors:1e30 --out nan",
        "lower the weight",
        "generate 'a frog' {small} --lora lora.safetensors:1 --out finite",
    ),
    // Pictures to start from.
    (
        "generate 'a frog' {small} --strength 0.5",
        "--init <IMAGE>",
        "generate 'a frog' {small} --init bare.png --strength 0.5",
    ),
    (
        "generate 'a frog' {small} --init bare.png --strength 0.1 --out weak",
        "raise it",
        "generate 'a frog' {small} --init bare.png --strength 0.6 --out weak",
    ),
    (
        "generate 'a frog' {small} --init bare.png --strength 0.1 --out weak-2",
        "or --steps",
        "generate 'a frog' {small} --init bare.png --strength 0.1 --steps 10 --out weak-2",
    ),
    (
        "generate 'a frog' --model {fixtures}/tiny-inpaint --steps 2",
        "give the picture with --init and, with --mask",
        "generate 'a frog' --model {fixtures}/tiny-inpaint --steps 2 --size 64x64 --init bare.png --mask bare.png \
         --out painted",
    ),
    (
        "trace bare.png --model {sd1} --out looked",
        "attnmap trace bare.png \"",
        "trace bare.png 'a frog' --model {sd1} --out looked",
    ),
    (
        "trace missing.png 'a frog'",
        "give a picture (png, jpeg or webp)",
        "trace bare.png 'a frog' --model {sd1} --out looked-2",
    ),
    // Galleries.
    ("gallery", "use --prompt", "gallery --prompt 'a frog' --seeds 0 {small} --out g1"),
    (
        "gallery --prompt 'a frog (up)' --weight frog=0.5 --seeds 0 {small} --out g2",
        "read all as weights with --emphasis",
        "gallery --prompt 'a frog (up)' --weight frog=0.5 --seeds 0 {small} --out g2 --emphasis",
    ),
    (
        "gallery --prompt 'a frog' --seeds 0 --strength 0.5 {small} --out g3",
        "--init <IMAGE>",
        "gallery --prompt 'a frog' --seeds 0 --strength 0.5 --init bare.png {small} --out g3",
    ),
    ("gallery run", "give a list of prompts (.txt", "gallery notes.txt --seeds 0 {small} --out g4"),
    ("facts run --sweep run", "make one with `attnmap sweep PROMPT`", "facts run --sweep swept"),
];

#[test]
fn the_way_out_that_a_refusal_names_works() {
    let place = Place::new();
    let mut wrong = Vec::new();
    for (refused, advice, followed) in REFUSED {
        let output = place.run(refused);
        let told = String::from_utf8(output.stderr).unwrap();
        let one = told.lines().filter(|line| !line.contains("warning:")).count() == 1;
        if !one || !matches!(output.status.code(), Some(1 | 2)) || !told.contains(advice) {
            wrong.push(format!("{refused}\n  wants {advice:?}: {told}"));
        }
        let output = place.run(followed);
        if !output.status.success() {
            wrong.push(format!("{refused}\n  then {followed}: {}", String::from_utf8_lossy(&output.stderr)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(fs::read_to_string(place.path("notes.txt")).unwrap(), "mine");
    assert_eq!(fs::read_to_string(place.path("mine/letter.txt")).unwrap(), "mine");
}

/// A command line that warns, what the warning advises, and a command line without that warning.
const WARNED: &[(&str, &str, &str)] = &[
    (
        "generate 'a (red) apple' {small}",
        "--emphasis reads them as weights",
        "generate 'a (red) apple' {small} --emphasis",
    ),
    (
        "generate 'a frog <lora:x:1>' {small}",
        "--lora FILE:WEIGHT",
        "generate 'a frog' {small} --lora lora.safetensors:1",
    ),
    ("generate 'a frog BREAK a fox' {small}", "--long makes it begin", "generate 'a frog BREAK a fox' {small} --long"),
    ("generate 'a frog' {small} --keep-steps 9", "give a smaller number", "generate 'a frog' {small} --keep-steps 1"),
    ("models --variant fp16", "name that: attnmap models NAME", "models {sd1}"),
];

#[test]
fn the_way_out_that_a_warning_names_ends_it() {
    let place = Place::new();
    for (warned, advice, followed) in WARNED {
        let told = place.works(warned);
        assert!(told.contains("warning:") && told.contains(advice), "{warned}: {advice:?} is missing in: {told}");
        let told = place.works(followed);
        assert!(!told.contains(advice), "{followed}: {told}");
    }
}

/// A text that begins with a dash is no option, and the error says how it is written.
#[test]
fn a_text_with_a_dash_is_told_how_to_be_written() {
    let place = Place(TempDir::new().unwrap());
    for (line, advice) in [
        ("generate 'a frog' --negative '-rain, blurry'", "'--negative=-rain, blurry'"),
        ("generate 'a frog' --probe -hat", "--probe=-hat"),
        ("gallery --prompt -rain", "--prompt=-rain"),
        ("ask run --at -1,1", "--at=-1,1"),
        ("generate '-apple on a tree'", "-- '-apple on a tree'"),
    ] {
        let told = String::from_utf8(place.run(line).stderr).unwrap();
        assert!(told.contains(advice) && told.lines().count() == 1, "{line}: {told}");
    }
    let told = String::from_utf8(place.run("generate 'a frog' -x").stderr).unwrap();
    assert!(told.contains("unexpected argument '-x'"), "{told}");
}

#[test]
fn a_mistyped_option_is_not_called_a_value() {
    let place = Place(TempDir::new().unwrap());
    for line in ["view run --negative-maps", "generate 'a frog' --stps 3", "explain run --xyz=3"] {
        let told = String::from_utf8(place.run(line).stderr).unwrap();
        assert!(told.contains("unexpected argument") && !told.contains("as a value"), "{told}");
    }
}
