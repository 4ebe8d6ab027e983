//! The examples of every `--help`, run as they stand where README's first command was run before.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::time::SystemTime;

const RUN: &str = "outputs/a-red-apple-to-the-left-of-a-blue-heart-on-the-beach-0";

const FIRST: &str = "attnmap generate \"a red apple to the left of a blue heart on the beach\"";

/// What a reader must have of their own: a checkpoint, or a shell's folder. Such lines need only be
/// understood.
const OWN: [&str; 4] = ["attnmap eval", "./", "stable-diffusion", "~/.local"];

fn shell(folder: &Path, line: &str) -> Output {
    let binary = Path::new(env!("CARGO_BIN_EXE_attnmap")).parent().unwrap();
    let path = format!("{}:{}", binary.display(), std::env::var("PATH").unwrap());
    let mut command = Command::new("bash");
    command.args(["-c", line]).current_dir(folder).env("PATH", path).env("NO_COLOR", "1").env("HF_HUB_OFFLINE", "1");
    // Nothing is opened where tests run.
    command
        .env("HOME", folder)
        .env_remove("DISPLAY")
        .env_remove("WAYLAND_DISPLAY")
        .env("BROWSER", "true")
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn help(command: &str) -> String {
    text(&shell(Path::new("."), &format!("attnmap {command} --help")).stdout)
}

/// The subcommands that the main help lists.
fn commands() -> Vec<String> {
    let help = help("");
    let list = help.split("Commands:").nth(1).unwrap().split("\n\n").next().unwrap();
    let name = |line: &str| line.strip_prefix("  ")?.split_whitespace().next().map(str::to_owned);
    list.lines()
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(name)
        .filter(|name| name != "help")
        .collect()
}

#[test]
fn every_range_says_whether_its_end_is_included() {
    for (command, option, values) in [
        ("sweep", "--seeds", &["0..32 (32 left out)", "0-31 (both ends included)"][..]),
        ("gallery", "--seeds", &["0..8 (8 left out)", "0-7 (both ends included)"]),
        ("gallery", "--weight", &["0..2/5 (both ends included)"]),
        ("explain", "--weight", &["0..2 (both ends included)"]),
        ("view", "--heads", &["0-3,7 (both ends included)", "0..4 (4 left out)"]),
        ("view", "--steps-window", &["0.2..0.8 or steps like 1-20 (both ends included)"]),
    ] {
        let short = text(&shell(Path::new("."), &format!("attnmap {command} -h")).stdout);
        let said = short.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(short.lines().count() < 120, "{command}");
        let about = said.split(&format!("{option} <")).nth(1).unwrap().split(" --").next().unwrap();
        assert!(values.iter().all(|value| about.contains(value)), "{command} {option}: {about}");
    }
}

#[test]
fn every_example_of_the_help_works_after_the_first_command() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let first = shell(at, FIRST);
    assert!(first.status.success(), "{}", text(&first.stderr));
    let commands = commands();
    assert!(commands.len() > 12, "{commands:?}");
    for (name, blue) in [("photo.png", 90), ("photo.jpg", 90), ("white-where-the-heart-goes.png", 255)] {
        let picture = image::RgbImage::from_fn(96, 96, |x, _| image::Rgb([160 + x as u8, blue, blue]));
        picture.save(at.join(name)).unwrap();
    }
    fs::write(at.join("scene.txt"), "a red apple on the beach\n").unwrap();
    fs::write(at.join("prompts.txt"), "a red apple\n").unwrap();
    fs::write(at.join("prompts.csv"), "prompt,seeds\na red apple,0\n").unwrap();
    // A question takes many runs, which need few steps here.
    let few = shell(at, &format!("{FIRST} --steps 2 --out few"));
    assert!(few.status.success(), "{}", text(&few.stderr));
    let mut run = 0;
    for command in [vec![String::new()], commands].concat() {
        let help = help(&command);
        for line in help.lines().map(str::trim).filter(|line| line.starts_with("attnmap ")) {
            let own = OWN.iter().any(|own| line.contains(own));
            // The run of the first command is the newest one before each of them.
            let trace = at.join(RUN).join("trace.safetensors");
            fs::File::options().write(true).open(trace).unwrap().set_modified(SystemTime::now()).unwrap();
            let line = line.replace(" /shared/", " shared/").replace("attnmap why last", "attnmap why few");
            let line = match line.split_once("attnmap attribute ") {
                Some((_, rest)) => format!("attnmap attribute few --test-steps 1 {}", rest.trim_start_matches("last ")),
                None => line.replace("attnmap explain last", "attnmap explain few"),
            };
            // Tokens would take ever more points, until their values add up.
            let line = if line.contains("--input tokens") { line + " --points 4" } else { line };
            let many = ["attnmap sweep", "attnmap gallery", "attnmap lens", "attnmap explain \""];
            let quick = many.iter().any(|many| line.contains(many));
            let quick = if quick && !line.contains("--index") && !line.contains("--steps") { " --steps 2" } else { "" };
            let sweeps = line.contains("attnmap sweep") && !line.contains("--seeds");
            let quick = if sweeps { " --steps 2 --seeds 0..4" } else { quick };
            // A page that is served ends when it is told to.
            let serves = line.starts_with("attnmap serve");
            let until = if serves { "timeout --signal=INT 5 " } else { "" };
            let ended = shell(at, &format!("{until}{line}{quick}"));
            let said = text(&ended.stderr);
            assert!(!said.contains("(see --help)") && !said.contains("panicked"), "{line}: {said}");
            if !own {
                // What is expected need not be so.
                let unmet = line.contains("--expect") && ended.status.code() == Some(3);
                let stopped = serves && ended.status.code() == Some(124);
                assert!(ended.status.success() || unmet || stopped, "{command}: {line}: {said}");
                run += 1;
            }
        }
    }
    assert!(run > 25, "{run} examples were run");
}
