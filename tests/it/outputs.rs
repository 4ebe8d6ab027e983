//! Where outputs go: what attnmap did not write is never overwritten, names that it gives count up,
//! and names of the user's ask.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

use crate::cli::{refused, walk};

fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_attnmap"));
    command.current_dir(folder).args(arguments).env("NO_COLOR", "1").env("HF_HUB_OFFLINE", "1");
    command
}

fn attnmap(folder: &Path, arguments: &[&str]) -> Output {
    command(folder, arguments).output().unwrap()
}

#[track_caller]
fn succeeds(folder: &Path, arguments: &[&str]) -> String {
    let output = attnmap(folder, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

const QUICK: [&str; 4] = ["--steps", "1", "--overlay-size", "64"];

fn generate(folder: &Path, more: &[&str]) -> String {
    succeeds(folder, &[&["generate", "a red apple"], &QUICK[..], more].concat())
}

fn record(run: &Path) -> Value {
    serde_json::from_slice(&fs::read(run.join("run.json")).unwrap()).unwrap()
}

/// Runs a recorded command line in a shell, with `more` after it.
#[track_caller]
fn again(folder: &Path, line: &str, more: &str) {
    let binary = Path::new(env!("CARGO_BIN_EXE_attnmap")).parent().unwrap();
    let path = format!("{}:{}", binary.display(), std::env::var("PATH").unwrap());
    let line = format!("{line}{more}");
    let shell = Command::new("bash").args(["-c", &line]).current_dir(folder).env("PATH", path).output().unwrap();
    assert!(shell.status.success(), "{line}: {}", String::from_utf8_lossy(&shell.stderr));
}

/// Names in `folder`, sorted.
fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn names_that_attnmap_gives_count_up() {
    let folder = TempDir::new().unwrap();
    let at = folder.path();
    for _ in 0..3 {
        generate(at, &["-q"]);
    }
    assert_eq!(names(&at.join("outputs")), ["a-red-apple-0", "a-red-apple-0-2", "a-red-apple-0-3", "index.html"]);
    generate(at, &["--force"]);
    succeeds(at, &["trace", "outputs/a-red-apple-0/image.png", "an apple", "--levels", "300"]);
    succeeds(at, &["trace", "outputs/a-red-apple-0/image.png", "an apple", "--levels", "300"]);
    let sweep = ["sweep", "a red apple", "--seeds", "0", "--steps", "1"];
    succeeds(at, &sweep);
    succeeds(at, &sweep);
    let expected = [
        "a-red-apple-0",
        "a-red-apple-0-2",
        "a-red-apple-0-3",
        "a-red-apple-sweep",
        "a-red-apple-sweep-2",
        "index.html",
    ];
    assert_eq!(names(&at.join("outputs")), [&expected[..], &["trace-an-apple-0", "trace-an-apple-0-2"]].concat());

    // Runs are found by their age, and two of them are compared.
    succeeds(at, &["compare"]);
    fs::write(at.join("outputs/compare-2.html"), "mine").unwrap();
    let page = succeeds(at, &["compare", "outputs/a-red-apple-0", "last"]);
    assert!(page.contains("compare-3.html"), "{page}");
    let run = "outputs/a-red-apple-0";
    for _ in 0..2 {
        succeeds(at, &["animate", run, "--words", "apple", "--overlay-size", "64"]);
    }
    let animations = ["02-apple-2-steps.png", "02-apple-2.apng", "02-apple-steps.png", "02-apple.apng"];
    assert_eq!(names(&at.join(run).join("animations")), animations);
    succeeds(at, &["animate", run, "--words", "apple", "--overlay-size", "64", "--force"]);
    assert_eq!(names(&at.join(run).join("animations")), animations);
    // Replacing the run takes what was made of it too.
    fs::write(at.join(run).join("animations/mine.txt"), "").unwrap();
    generate(at, &["--force"]);
    assert_eq!(names(&at.join(run).join("animations")), ["mine.txt"]);
}

#[test]
fn what_attnmap_did_not_write_is_never_overwritten() {
    let folder = TempDir::new().unwrap();
    let at = folder.path();
    fs::create_dir(at.join("site")).unwrap();
    for name in ["index.html", "sweep.json", "sweep.png", "run.json", "01-red.apng", "pixel-9-9.json"] {
        fs::write(at.join("site").join(name), "MY HOMEPAGE").unwrap();
    }
    let mine = || {
        fs::read_dir(at.join("site")).unwrap().flatten().all(|file| fs::read(file.path()).unwrap() == b"MY HOMEPAGE")
    };
    generate(at, &["--out", "run", "--self-attention=16"]);
    let page = ["compare", "run", "run", "--out", "site/index.html"];
    let quick = |arguments: &[&'static str]| [arguments, &["--steps", "1", "--out", "site"]].concat();
    for force in [&[][..], &["--force"]] {
        for (arguments, part) in [
            (quick(&["sweep", "a red apple", "--seeds", "0"]), "other things in it"),
            (quick(&["generate", "a red apple"]), "other things in it"),
            (vec!["view", "run", "--out", "site"], "other things in it"),
            (vec!["trace", "run/image.png", "an apple", "--no-metadata", "--out", "site"], "other things in it"),
            (vec!["animate", "run", "--words", "red", "--out", "site"], "01-red.apng is there and not attnmap's"),
            (
                vec!["self-attention", "run", "--at", "9,9", "--out", "site"],
                "pixel-9-9.json is there and not attnmap's",
            ),
            (page.to_vec(), "site/index.html is there and not attnmap's"),
        ] {
            let output = attnmap(at, &[&arguments[..], force].concat());
            refused(&output, 2, &["--out", part]);
            assert!(mine() && names(&at.join("site")).len() == 6, "{arguments:?}");
        }
    }
    refused(
        &attnmap(at, &quick(&["gallery", "--prompt", "a frog", "--seeds", "0"])),
        2,
        &["--out", "other things in it"],
    );
    // Somebody's folder called `cells` makes no gallery of the folder around it.
    fs::create_dir_all(at.join("lab/cells")).unwrap();
    fs::write(at.join("lab/index.html"), "MY HOMEPAGE").unwrap();
    let gallery = ["gallery", "--prompt", "a frog", "--seeds", "0", "--steps", "1", "--out", "lab"];
    refused(&attnmap(at, &gallery), 2, &["--out", "other things in it"]);
    refused(&attnmap(at, &["gallery", "--index", "lab"]), 2, &["index.html is not attnmap's"]);
    assert_eq!(names(&at.join("lab")), ["cells", "index.html"]);
    // A page in a run's folder.
    fs::write(at.join("run/report.html"), "MY PAGE").unwrap();
    refused(&attnmap(at, &["report", "run"]), 2, &["run/report.html is not attnmap's"]);
    assert_eq!(fs::read(at.join("run/report.html")).unwrap(), b"MY PAGE");
}

#[test]
fn explain_names_what_is_in_the_way_before_it_works_and_its_advice_is_good() {
    let folder = TempDir::new().unwrap();
    let at = folder.path();
    generate(at, &["--out", "run"]);
    let explain = ["explain", "run", "--words", "apple", "--no-counterfactual"];
    fs::create_dir_all(at.join("run/causal")).unwrap();
    fs::write(at.join("run/causal/02-apple.png"), "mine").unwrap();
    let output = attnmap(at, &explain);
    refused(&output, 2, &["RUN", "causal/02-apple.png is not attnmap's"]);
    assert!(!String::from_utf8_lossy(&output.stderr).contains("about"), "before it says how long it takes");
    fs::remove_file(at.join("run/causal/02-apple.png")).unwrap();
    succeeds(at, &explain);
    fs::write(at.join("run/evidence.json"), "{").unwrap();
    refused(
        &attnmap(at, &["ask", "run", "--at", "1,1"]),
        1,
        &["evidence.json", "`attnmap explain run --force` makes it again"],
    );
    succeeds(at, &[&explain[..], &["--force"]].concat());
    succeeds(at, &["ask", "run", "--at", "1,1"]);
    let twice = attnmap(at, &["explain", "run", "--weight", "apple=0..2", "--weight", "apple=0.5"]);
    refused(&twice, 2, &["--weight", "apple is given twice"]);
}

#[test]
fn with_force_only_what_attnmap_wrote_is_replaced() {
    let folder = TempDir::new().unwrap();
    let at = folder.path();
    generate(at, &["--out", "run"]);
    let sweep = ["sweep", "a red apple", "--seeds", "0", "--steps", "1", "--out", "swept"];
    succeeds(at, &sweep);
    refused(&attnmap(at, &sweep), 2, &["--out", "swept holds a sweep already", "--force"]);
    refused(
        &attnmap(at, &[&sweep[..6], &["--out", "run", "--force"]].concat()),
        2,
        &["run is a folder with other things"],
    );
    for (place, name) in
        [("run", "notes.txt"), ("run/overlays", "mine.png"), ("run/mine", "a.txt"), ("swept", "notes.txt")]
    {
        fs::create_dir_all(at.join(place)).unwrap();
        fs::write(at.join(place).join(name), "my notes").unwrap();
    }
    let stay = || {
        for file in ["run/notes.txt", "run/overlays/mine.png", "run/mine/a.txt", "swept/notes.txt"] {
            assert_eq!(fs::read_to_string(at.join(file)).unwrap(), "my notes", "{file}");
        }
    };
    generate(at, &["--out", "run", "--seed", "5", "--force"]);
    assert_eq!(record(&at.join("run"))["settings"]["seed"], 5);
    stay();
    succeeds(at, &["view", "run", "--words", "apple", "--overlay-size", "64"]);
    assert_eq!(names(&at.join("run/overlays")), ["00-apple.png", "mine.png"]);
    stay();
    // Into itself: the page is made again.
    fs::remove_file(at.join("run/report.html")).unwrap();
    succeeds(at, &["view", "run", "--out", "run", "--force", "--aggregate", "daam", "--overlay-size", "64"]);
    stay();
    let page = fs::read_to_string(at.join("run/report.html")).unwrap();
    assert!(page.contains("daam") && record(&at.join("run"))["aggregate"].as_str().unwrap().contains("daam"));
    succeeds(at, &["trace", "run/image.png", "an apple", "--levels", "300", "--out", "run", "--force"]);
    stay();
    succeeds(at, &[&sweep[..], &["--force"]].concat());
    stay();
    // A copy has what is attnmap's, and nothing else.
    succeeds(at, &["view", "run", "--out", "copy", "--overlay-size", "64"]);
    let copied: Vec<PathBuf> = walk(&at.join("copy"));
    assert!(copied.iter().all(|path| !path.ends_with("notes.txt") && !path.ends_with("mine.png")), "{copied:?}");
    assert!(at.join("copy/report.html").is_file());
    // Files of the same names in another place ask, too.
    succeeds(at, &["animate", "copy", "--words", "apple", "--overlay-size", "64", "--out", "moving"]);
}

/// What a run is made of is attnmap's own, but no other command's to replace.
#[test]
fn a_part_of_a_run_stays_whatever_is_forced() {
    let folder = TempDir::new().unwrap();
    let at = folder.path();
    generate(at, &["--out", "run"]);
    let files = ["image.png", "run.json", "words.png", "report.html"].map(|name| at.join("run").join(name));
    let before = files.each_ref().map(|file| fs::read(file).unwrap());
    let forced = |arguments: &[&str], parts: &[&str]| {
        refused(&attnmap(at, &[arguments, &["--force"]].concat()), 2, parts);
        assert!(files.each_ref().map(|file| fs::read(file).unwrap()) == before, "{arguments:?}");
    };
    for name in ["run/image.png", "run/report.html"] {
        forced(&["compare", "run", "run", "--out", name], &["--out", name, "is a part of a run"]);
    }
    forced(&["lens", "a red apple", "--steps", "1", "--out", "run/words"], &["--out", "words.png is a part of a run"]);
    let gallery = ["gallery", "--prompt", "a frog", "--seeds", "0", "--steps", "1", "--out", "g", "--sheet"];
    forced(&[&gallery[..], &["run/run.json"]].concat(), &["--sheet", "run.json is a part of a run"]);
    succeeds(at, &["compare", "run", "run", "--out", "new/page.html"]);
    forced(&[&gallery[..], &["new/page.html"]].concat(), &["--sheet", "page.html is there and not a picture"]);
    assert!(!at.join("g/cells").exists(), "before any cell is made");
    succeeds(at, &["compare", "run", "run", "--out", "new/page.html", "--force"]);
    succeeds(at, &[&gallery[..], &["sheets/s.png"]].concat());
}

#[test]
fn what_is_asked_of_a_prompt_is_looked_for_before_its_run_is_made() {
    let folder = TempDir::new().unwrap();
    let at = folder.path();
    for (option, value) in [("--words", "zebra"), ("--weight", "zebra=1")] {
        let output = attnmap(at, &["explain", "a red apple", "--steps", "1", option, value]);
        refused(&output, 2, &[option, "zebra"]);
        assert!(!at.join("outputs").exists(), "{option}");
    }
    succeeds(at, &["explain", "a red apple, a frog", "--by", "tag", "--steps", "1", "--no-counterfactual"]);
    let made = record(&at.join("outputs/a-red-apple-a-frog-0"));
    assert!(made["command"].as_str().unwrap().contains(" --by tag"), "the same words again: {}", made["command"]);
}

/// A mask that the user keeps beside the run would be in the way of the run's own.
#[test]
fn a_file_that_is_in_the_way_is_named_before_the_work() {
    let folder = TempDir::new().unwrap();
    let at = folder.path();
    generate(at, &["--out", "run"]);
    fs::copy(at.join("run/image.png"), at.join("run/mask.png")).unwrap();
    let more = ["--init", "run/image.png", "--mask", "run/mask.png", "--out", "run", "--force"];
    let output = attnmap(at, &[&["generate", "a red apple"], &QUICK[..], &more].concat());
    refused(&output, 2, &["run/mask.png is not attnmap's and stays"]);
}

#[test]
fn a_recorded_command_makes_the_same_run_again() {
    let folder = TempDir::new().unwrap();
    let at = folder.path();
    fs::create_dir(at.join("a folder")).unwrap();
    fs::write(at.join("a folder/prompt.txt"), "-a red apple,\n\"on\" the beach\n").unwrap();
    fs::write(at.join("plain.txt"), "a frog").unwrap();
    let cases: [&[&str]; 9] = [
        &["generate", "--out", "run", "--", "--apple on the beach"],
        &["generate", "it's a \"red\" $apple `id` \\ !", "--negative=-rain"],
        &[
            "generate",
            "a red apple\non the beach",
            "--seed=3",
            "--words",
            "apple",
            "--style",
            "contour",
            "--masks",
            "--outline=svg",
            "-q",
            "--json",
        ],
        &["generate", "--prompt-file", "a folder/prompt.txt", "--keep-steps"],
        &["generate", "--prompt-file=plain.txt", "--self-attention", "--no-step-maps"],
        &["generate", "a frog", "--seed", "4", "--self-attention=8,16", "--steps-window", "0..1", "--threads", "1"],
        &["generate", "a frog", "--seed=-1", "--trace-negative", "--negative", "a (box"],
        &["generate", "a frog", "--seed", "random", "--layers", "up", "--opacity", "0.5", "--guidance=-1"],
        &["generate", "--prompt=-frog", "--probe", "shadow,sand"],
    ];
    for (index, arguments) in cases.into_iter().enumerate() {
        let place = at.join(format!("case-{index}"));
        fs::create_dir(&place).unwrap();
        for file in ["a folder", "plain.txt"] {
            let target = place.join(file);
            if at.join(file).is_dir() {
                fs::create_dir(&target).unwrap();
                fs::copy(at.join(file).join("prompt.txt"), target.join("prompt.txt")).unwrap();
            } else {
                fs::copy(at.join(file), target).unwrap();
            }
        }
        let arguments = [&arguments[..1], &["--steps", "1"], &arguments[1..]].concat();
        succeeds(&place, &arguments);
        let runs = || -> Vec<PathBuf> {
            walk(&place)
                .into_iter()
                .filter(|file| file.ends_with("run.json"))
                .map(|file| file.parent().unwrap().into())
                .collect()
        };
        let [run] = runs().try_into().unwrap();
        let line = record(&run)["command"].as_str().unwrap().to_owned();
        again(&place, &line, " --out again");
        same(&run, &place.join("again"), &line);
        again(&place, &line, " --force");
        assert_eq!(runs().len(), 2, "{line}: it is made where it was");
    }
    // A caption, and pictures that have odd names; several images, each in its own place.
    let picture = at.join("case-0/run/image.png");
    fs::copy(&picture, at.join("it's.png")).unwrap();
    succeeds(at, &["trace", "--levels", "300,450", "--out", "looked", "--", "it's.png", "-an apple"]);
    let line = record(&at.join("looked"))["command"].as_str().unwrap().to_owned();
    again(at, &line, " --out again");
    same(&at.join("looked"), &at.join("again"), &line);
    // Concepts are named behind an equals sign.
    let model = crate::pipeline::fixtures().join("tiny-sd3").display().to_string();
    generate(at, &["--model", &model, "--concepts=apple,red", "--out", "concepts"]);
    let line = record(&at.join("concepts"))["command"].as_str().unwrap().to_owned();
    again(at, &line, " --out concepts-again");
    same(&at.join("concepts"), &at.join("concepts-again"), &line);
    generate(at, &["--images", "2", "--seed", "8", "--out", "many"]);
    let run = at.join("many/a-red-apple-9");
    let line = record(&run)["command"].as_str().unwrap().to_owned();
    assert!(line.contains("--out many/a-red-apple-9 --seed 9") && !line.contains("--images"), "{line}");
    again(at, &line, " --force");
}

/// The same files with the same bytes, but for how long they took and where they lie.
#[track_caller]
fn same(a: &Path, b: &Path, line: &str) {
    let inside = |folder: &Path| -> Vec<PathBuf> {
        let mut files: Vec<PathBuf> =
            walk(folder).iter().map(|file| file.strip_prefix(folder).unwrap().into()).collect();
        files.sort();
        files
    };
    assert_eq!(inside(a), inside(b), "{line}");
    for file in inside(a).iter().filter(|file| !file.ends_with("run.json") && !file.ends_with("report.html")) {
        assert!(fs::read(a.join(file)).unwrap() == fs::read(b.join(file)).unwrap(), "{line}: {}", file.display());
    }
    let plain = |run: &Path| {
        let mut record = record(run);
        for field in ["command", "timings"] {
            record.as_object_mut().unwrap().remove(field);
        }
        record
    };
    assert_eq!(plain(a), plain(b), "{line}");
}

#[test]
fn a_drawn_seed_is_told_and_recorded() {
    let folder = TempDir::new().unwrap();
    let at = folder.path();
    let output = attnmap(at, &[&["generate", "a frog", "--seed", "random"], &QUICK[..]].concat());
    let said = String::from_utf8(output.stderr).unwrap();
    let [run, list] = names(&at.join("outputs")).try_into().unwrap();
    assert_eq!(list, "index.html");
    let record = record(&at.join("outputs").join(run));
    let seed = record["settings"]["seed"].as_u64().unwrap();
    assert!(said.contains(&format!("drew {seed}")), "{said}");
    assert!(record["command"].as_str().unwrap().ends_with(&format!("--seed {seed}")), "{}", record["command"]);
    refused(&attnmap(at, &["generate", "a frog", "--seed", "-2"]), 2, &["--seed", "random"]);
}

#[test]
fn a_prompt_without_quotes_is_answered_with_them() {
    let folder = TempDir::new().unwrap();
    for (typed, meant) in [
        (&["generate", "a", "red", "apple"][..], "put the prompt in quotes: attnmap generate \"a red apple\""),
        (&["generate", "--steps", "5", "a", "red", "apple"], "attnmap generate \"a red apple\" --steps 5"),
        (&["sweep", "a", "$5", "apple", "--seeds", "0..2"], "attnmap sweep 'a $5 apple' --seeds 0..2"),
        (&["explain", "a", "red", "apple"], "attnmap explain \"a red apple\""),
        (&["trace", "photo.png", "a", "red", "apple"], "attnmap trace photo.png \"a red apple\""),
        (&["a red apple"], "attnmap generate 'a red apple'"),
    ] {
        refused(&attnmap(folder.path(), typed), 2, &[meant]);
    }
    refused(&attnmap(folder.path(), &["generate", "a red apple", "--sed", "1"]), 2, &["--sed"]);
}

#[test]
fn runs_that_were_there_before_a_sweep_link_to_it() {
    let folder = TempDir::new().unwrap();
    let at = folder.path();
    generate(at, &["--seed", "0"]);
    generate(at, &["--seed", "1"]);
    generate(at, &["--seed", "2", "--guidance", "2"]);
    let page = |seed: u64| at.join(format!("outputs/a-red-apple-{seed}/report.html"));
    let linked = |seed: u64| fs::read_to_string(page(seed)).unwrap().contains("../a-red-apple-sweep/index.html");
    let sweep = ["sweep", "a red apple", "--seeds", "0-2", "--steps", "1"];
    // Elsewhere, or under another name, no page would find it.
    succeeds(at, &[&sweep[..], &["--out", "outputs/other"]].concat());
    assert_eq!([0, 1, 2].map(linked), [false; 3]);
    fs::write(page(1), "MY HOMEPAGE").unwrap();
    let output = attnmap(at, &sweep);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}");
    assert_eq!(said.matches("a run's page has no link to the sweep").count(), 1, "{said}");
    assert_eq!([0, 1, 2].map(linked), [true, false, false], "the last run has other settings");
    assert_eq!(fs::read(page(1)).unwrap(), b"MY HOMEPAGE");
}

#[test]
fn a_sweep_tells_places_in_pixels_and_counts_what_was_not_drawn() {
    let folder = TempDir::new().unwrap();
    let at = folder.path();
    let table = succeeds(at, &["sweep", "a red apple", "--seeds", "0..3", "--steps", "1", "--out", "swept"]);
    let head: Vec<&str> = table.lines().next().unwrap().split("  ").filter(|cell| !cell.is_empty()).collect();
    assert_eq!(
        head.iter().map(|cell| cell.trim()).collect::<Vec<_>>(),
        ["word", "peak", "centre", "scatter", "probably not drawn"]
    );
    let found: Value = serde_json::from_slice(&fs::read(at.join("swept/sweep.json")).unwrap()).unwrap();
    let apple = &found["words"][2];
    let pixel = |axis: &str| (apple["mean"][axis].as_f64().unwrap() as f32 * 128.0).floor();
    let centre = format!("{},{}", pixel("x"), pixel("y"));
    let not_drawn = format!("in {:.0} of 3", 3.0 * apple["neglected"].as_f64().unwrap());
    let row = table.lines().find(|line| line.starts_with("apple ")).unwrap();
    assert!(row.contains(&centre) && row.ends_with(&not_drawn), "{row}: {centre}, {not_drawn}");
    let page = fs::read_to_string(at.join("swept/index.html")).unwrap();
    assert!(page.contains(&format!("<td>{centre}</td>")) && page.contains(&format!("<td>{not_drawn}</td>")));
    assert!(page.contains(">probably not drawn</th>") && !page.contains("neglected"));
}

#[test]
fn what_is_given_twice_counts_once() {
    let folder = TempDir::new().unwrap();
    let at = folder.path();
    let output = attnmap(at, &["sweep", "a frog", "--seeds", "0,0,0,1", "--steps", "1", "--out", "swept"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(said.matches("--seeds: given more than once, counted once: 0").count(), 1, "{said}");
    let found: Value = serde_json::from_slice(&fs::read(at.join("swept/sweep.json")).unwrap()).unwrap();
    assert_eq!(found["seeds"], serde_json::json!([0, 1]));
    let gallery = [
        "gallery", "--prompt", "a frog", "--prompt", "a frog", "--seeds", "0..2,1", "--steps", "1,1", "--model",
        "embedded",
    ];
    let output = attnmap(at, &[&gallery[..], &["--model", "embedded", "--lora", "none", "--lora", "none"]].concat());
    let said = String::from_utf8(output.stderr).unwrap();
    for option in ["--seeds", "--steps", "--model", "--lora", "--prompt"] {
        assert_eq!(said.matches(&format!("{option}: given more than once")).count(), 1, "{option}: {said}");
    }
    assert!(String::from_utf8(output.stdout).unwrap().contains("2 made"));
    generate(at, &["--out", "run"]);
    succeeds(at, &["view", "run", "--words", "apple,apple,red", "--overlay-size", "64"]);
    assert_eq!(names(&at.join("run/overlays")), ["00-apple.png", "01-red.png"]);
}

#[cfg(all(unix, not(target_os = "macos")))]
#[test]
fn the_page_is_opened_without_a_shell() {
    use std::os::unix::fs::PermissionsExt;
    let folder = TempDir::new().unwrap();
    let at = folder.path();
    let desktop = at.join("bin/xdg-open");
    fs::create_dir(at.join("bin")).unwrap();
    fs::write(&desktop, "#!/bin/sh\nprintf '%s\\n' \"$@\" >> opened\n").unwrap();
    fs::set_permissions(&desktop, fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", at.join("bin").display(), std::env::var("PATH").unwrap());
    let made = [&["generate", "a frog", "--out", "it's $(here)", "--open"], &QUICK[..]].concat();
    for arguments in [&made[..], &["report", "it's $(here)", "--open"]] {
        assert!(command(at, arguments).env("PATH", &path).status().unwrap().success());
    }
    let opened = fs::read_to_string(at.join("opened")).unwrap();
    let page = at.canonicalize().unwrap().join("it's $(here)/report.html").display().to_string();
    assert_eq!(opened.lines().collect::<Vec<_>>(), [page.as_str(), page.as_str()]);
    let output = command(at, &["report", "it's $(here)", "--open"]).env("PATH", at.join("none")).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        output.status.success() && said.contains("no browser could be opened here") && said.lines().count() == 1,
        "{said}"
    );
}

/// A place that cannot be had is told before the work: the image would be lost.
#[test]
fn a_place_that_cannot_be_made_is_told_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    fs::write(at.join("file"), "mine").unwrap();
    #[cfg(unix)]
    std::os::unix::fs::symlink("nowhere/disk", at.join("link")).unwrap();
    // Far more steps than can be made meanwhile.
    let long = ["--steps", "1000"];
    for (out, told) in [("file/run", "file is no folder"), ("link/run", "link is a link to a place that is not there")]
    {
        for line in [&["generate", "a frog"][..], &["sweep", "a frog", "--seeds", "0..2"]] {
            let output = attnmap(at, &[line, &long, &["--out", out]].concat());
            let errors = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.code() == Some(2) && errors.contains(told), "{line:?} {out}: {errors}");
            assert!(!errors.contains("1/1000"), "{errors}");
        }
    }
    // What attnmap names itself.
    fs::write(at.join("outputs"), "mine").unwrap();
    let output = attnmap(at, &[&["generate", "a frog"][..], &long].concat());
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(2) && errors.contains("outputs is no folder"), "{errors}");
    assert_eq!(names(at).iter().filter(|name| name.starts_with('.')).count(), 0);
}

/// Files of the user's under names that attnmap gives, and links that lead out of a run.
#[test]
fn files_of_the_users_own_stay_whatever_they_are_called() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    generate(at, &["--out", "run"]);
    let run = at.join("run");
    let mine = ["evidence.safetensors", "attribution.json", "components.json", "cell.json", "maps.png"];
    mine.iter().for_each(|name| fs::write(run.join(name), "mine").unwrap());
    fs::create_dir(run.join("private")).unwrap();
    fs::write(run.join("private/notes.txt"), "mine").unwrap();
    for (line, name) in [
        (&["explain", "run", "--words", "apple", "--no-counterfactual"][..], "evidence.safetensors"),
        (&["attribute", "run", "--at", "1,1", "--method", "occlusion", "--test-steps", "1"], "attribution.json"),
        (&["components", "run"], "components.json"),
    ] {
        let output = attnmap(at, line);
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(2) && errors.contains(name) && errors.contains("stays"), "{errors}");
    }
    #[cfg(unix)]
    for (target, link) in [("..", "up"), (".", "self"), ("/", "root")] {
        std::os::unix::fs::symlink(target, run.join(link)).unwrap();
    }
    // Both move what is not theirs into the new folder, and follow no link.
    succeeds(at, &["view", "run", "--words", "apple"]);
    generate(at, &["--out", "run", "--force"]);
    for name in mine.iter().copied().chain(["private/notes.txt"]) {
        assert_eq!(fs::read_to_string(run.join(name)).unwrap(), "mine", "{name}");
    }
    #[cfg(unix)]
    assert!(run.join("root").is_symlink());
}

/// A damaged file of attnmap's own is made again all the same.
#[test]
fn a_damaged_file_of_its_own_is_no_file_of_the_users() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    generate(at, &["--out", "run"]);
    let explain = ["explain", "run", "--words", "apple", "--no-counterfactual", "--test-steps", "1"];
    succeeds(at, &explain);
    for name in ["evidence.safetensors", "evidence.json"] {
        let bytes = fs::read(at.join("run").join(name)).unwrap();
        fs::write(at.join("run").join(name), &bytes[..bytes.len() / 3]).unwrap();
        succeeds(at, &[&explain[..], &["--force"]].concat());
        assert_eq!(fs::read(at.join("run").join(name)).unwrap(), bytes, "{name}");
    }
}
