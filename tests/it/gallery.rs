//! Galleries made by the real binary with a tiny checkpoint: killed, continued, split, and with
//! cells that fail.

use crate::folder::{assert_equal, files};
use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

const PROMPTS: &str = "a frog on a hat\n# not this\n<script>alert(1)</script> & ../../etc/passwd\n";

fn command(folder: &Path, more: &[&str]) -> Command {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let mut command = Command::new(env!("CARGO_BIN_EXE_attnmap"));
    command.env("NO_COLOR", "1").env("HF_HUB_OFFLINE", "1").current_dir(folder).args(["gallery", "--model"]);
    command.arg(fixtures.join("tiny-sd1")).args(["--steps", "2", "--size", "64x64", "--batch", "2", "--threads", "2"]);
    command.args(["--overlay-size", "64"]).args(more);
    command
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn killed_at_any_moment_and_split_over_shards_it_is_the_same_gallery() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    fs::write(at.join("prompts.txt"), PROMPTS).unwrap();
    let axes = ["prompts.txt", "--seeds", "0..3", "--replace", "frog=cat"];
    let whole = command(at, &axes).args(["--out", "whole"]).output().unwrap();
    assert!(whole.status.success(), "{}", text(&whole));
    assert!(text(&whole).contains("9 made, 0 kept, 0 failed"), "{}", text(&whole));
    let names: Vec<String> = files(&at.join("whole")).into_keys().collect();
    assert_eq!(names.iter().filter(|name| name.ends_with("/report.html")).count(), 9);
    assert!(names.iter().all(|name| !name.contains("..") && !name.contains("partial")), "{names:?}");

    // Killed (not asked to stop) after ever longer times, then left to finish.
    let mut finished = false;
    for round in 0..40u64 {
        let mut child =
            command(at, &axes).args(["--out", "killed"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(20 + 60 * round));
        let done = child.try_wait().unwrap().is_some();
        child.kill().ok();
        child.wait().unwrap();
        if done {
            finished = true;
            break;
        }
        // Whatever is there is complete.
        for entry in fs::read_dir(at.join("killed/cells")).into_iter().flatten() {
            let cell = entry.unwrap().path();
            assert!(cell.join("run.json").is_file() && cell.join("report.html").is_file(), "{}", cell.display());
        }
    }
    if !finished {
        assert!(command(at, &axes).args(["--out", "killed"]).output().unwrap().status.success());
    }
    assert_equal(&at.join("whole"), &at.join("killed"));

    for shard in ["2/3", "1/3", "3/3"] {
        let part = command(at, &axes).args(["--out", "split", "--shard", shard]).output().unwrap();
        assert!(part.status.success(), "{}", text(&part));
    }
    assert_equal(&at.join("whole"), &at.join("split"));
    fs::remove_file(at.join("split/index.html")).unwrap();
    let index = Command::new(env!("CARGO_BIN_EXE_attnmap")).args(["gallery", "--index"]).arg(at.join("split")).output();
    assert!(index.unwrap().status.success());
    assert_equal(&at.join("whole"), &at.join("split"));
}

/// A command of `examples/cluster/` as its scheduler would run it, in `folder`.
fn recipe(folder: &Path, shell: &[&str], environment: &[(&str, &str)]) -> Output {
    let binary = Path::new(env!("CARGO_BIN_EXE_attnmap")).parent().unwrap();
    let path = format!("{}:{}", binary.display(), std::env::var("PATH").unwrap());
    let mut command = Command::new(shell[0]);
    command.current_dir(folder).env("PATH", path).args(&shell[1..]).envs(environment.iter().copied());
    command.output().unwrap()
}

#[test]
fn both_cluster_recipes_make_the_same_shards() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    fs::write(at.join("prompts.txt"), "a frog on the beach\n").unwrap();
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/cluster");

    let script = examples.join("slurm.sh");
    let slurm = ["bash", script.to_str().unwrap(), "prompts.txt", "--seeds", "0..64", "--out", "slurm"];
    let task = [("SLURM_ARRAY_TASK_ID", "3"), ("SLURM_ARRAY_TASK_COUNT", "16"), ("SLURM_CPUS_PER_TASK", "2")];
    let output = recipe(at, &slurm, &task);
    assert!(output.status.success(), "{}", text(&output));
    assert!(text(&output).contains("4 made, 0 kept, 0 failed"), "{}", text(&output));

    let manifest = fs::read_to_string(examples.join("kubernetes.yaml")).unwrap();
    let number =
        |key: &str| manifest.lines().find_map(|line| line.trim().strip_prefix(key)?.trim().parse::<u32>().ok());
    assert_eq!(number("completions:"), Some(16));
    let lines = manifest.lines().skip_while(|line| line.trim() != "- >-").skip(1);
    let folded: Vec<&str> = lines.take_while(|line| !line.contains("resources:")).map(str::trim).collect();
    let line = folded.join(" ").replace("/shared/night", "kubernetes").replace("/shared/", "");
    // Pods count from 0: the third part.
    let output = recipe(at, &["sh", "-c", &line], &[("JOB_COMPLETION_INDEX", "2")]);
    assert!(output.status.success(), "{line}: {}", text(&output));
    assert_equal(&at.join("slurm"), &at.join("kubernetes"));

    // One part again on its own, of as many as before.
    let alone = [("SLURM_ARRAY_TASK_ID", "3"), ("SLURM_ARRAY_TASK_COUNT", "1"), ("SHARDS", "16")];
    let output = recipe(at, &slurm, &alone);
    assert!(text(&output).contains("0 made, 4 kept, 0 failed"), "{}", text(&output));
}

#[test]
fn a_gallery_goes_on_as_it_was_begun() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    fs::write(at.join("prompts.txt"), "a frog\n").unwrap();
    let begun = command(at, &["prompts.txt", "--seeds", "0..2", "--out", "g"]).output().unwrap();
    assert!(begun.status.success(), "{}", text(&begun));
    let other = command(at, &["prompts.txt", "--seeds", "0..4", "--out", "g", "--batch", "4"]).output().unwrap();
    assert_eq!(other.status.code(), Some(2), "{}", text(&other));
    assert!(text(&other).contains("begun with 2 seeds a pass"), "{}", text(&other));
    let longer = command(at, &["prompts.txt", "--seeds", "0..4", "--out", "g"]).output().unwrap();
    assert!(text(&longer).contains("2 made, 2 kept, 0 failed"), "{}", text(&longer));

    // What a killed process left half made goes when the next begins, wherever it lay.
    #[cfg(target_os = "linux")]
    {
        let mut killed = command(at, &["prompts.txt", "--seeds", "0..64", "--out", "g"]);
        let mut killed = killed.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        being_made(&at.join("g"), &mut killed);
        killed.kill().unwrap();
        killed.wait().unwrap();
        let again = command(at, &["prompts.txt", "--seeds", "0..4", "--out", "g"]).output().unwrap();
        assert!(again.status.success(), "{}", text(&again));
        let hidden: Vec<_> =
            files(&at.join("g")).into_keys().filter(|name| name.contains("/.") || name.starts_with('.')).collect();
        assert!(hidden.is_empty(), "{hidden:?}");
    }
}

/// Waits for the hidden folder in which `child` makes the cells of the gallery `folder`.
#[cfg(target_os = "linux")]
fn being_made(folder: &Path, child: &mut std::process::Child) -> std::path::PathBuf {
    loop {
        let mut entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
        let hidden = |path: &std::path::PathBuf| path.file_name().unwrap().to_string_lossy().starts_with(".making");
        if let Some(found) = entries.find(hidden) {
            return found;
        }
        assert!(child.try_wait().unwrap().is_none(), "so many cells take longer");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The same command in two windows, or one job started twice.
#[cfg(target_os = "linux")]
#[test]
fn two_processes_in_one_gallery_leave_each_other_alone() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let mut first = command(at, &["--prompt", "a frog", "--seeds", "0..4000", "--out", "g"]);
    let mut first = first.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let hidden = being_made(&at.join("g"), &mut first);
    fs::write(hidden.join("half made"), "x").unwrap();
    let second = command(at, &["--prompt", "a frog", "--seeds", "0..2", "--out", "g"]).output().unwrap();
    let still = hidden.join("half made").is_file();
    let working = first.try_wait().unwrap().is_none();
    first.kill().unwrap();
    first.wait().unwrap();
    assert!(second.status.success(), "{}", text(&second));
    assert!(still && working, "what the first was making is gone");
}

#[test]
fn cells_that_are_there_take_the_place_that_a_longer_list_gives_them() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let make = |seeds: &str| {
        let axes = ["--prompt", "a frog", "--prompt", "a fox", "--seeds", seeds, "--out", "g"];
        let made = command(at, &axes).output().unwrap();
        assert!(made.status.success(), "{}", text(&made));
    };
    make("0..1");
    make("0..3");
    let told = |record: &serde_json::Value| {
        (record["prompt"].as_str().unwrap().to_owned(), record["settings"]["seed"].as_u64().unwrap())
    };
    let found: Vec<_> = cells(&at.join("g")).iter().map(|(_, record)| told(record)).collect();
    let expected = ["a frog", "a fox"].into_iter().flat_map(|prompt| (0..3).map(move |seed| (prompt.to_owned(), seed)));
    assert_eq!(found, expected.collect::<Vec<_>>());
}

#[test]
fn cells_that_are_there_are_told_as_they_are_asked_for_now() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let make = |axes: &[&str]| {
        let made = command(at, &[axes, &["--seeds", "0", "--out", "g"]].concat()).output().unwrap();
        assert!(made.status.success(), "{}", text(&made));
        text(&made)
    };
    make(&["--prompt", "a frog", "--prompt", "a fox"]);
    make(&["--prompt", "a frog", "--replace", "frog=fox"]);
    let second = fs::read(cells(&at.join("g"))[1].0.join("cell.json")).unwrap();
    let second = serde_json::from_slice::<serde_json::Value>(&second).unwrap();
    let told = ["prompt", "base", "replaced"].map(|name| second["cell"][name].as_str().unwrap().to_owned());
    assert_eq!(told, ["a fox", "a frog", "frog=fox"]);
    // What was a prompt of its own is now another without a word.
    let said = make(&["--prompt", "a red frog", "--without", "each"]);
    assert!(said.contains("2 made, 1 kept") && said.contains("without red  "), "{said}");
}

#[test]
fn without_a_name_the_same_gallery_goes_on_and_another_has_a_folder_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    fs::write(at.join("night.txt"), "a frog\n").unwrap();
    let made = |axes: &[&str]| {
        let output = command(at, &[axes, &["--json"]].concat()).output().unwrap();
        assert!(output.status.success(), "{}", text(&output));
        let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let facts = &said["facts"];
        (said["page"].as_str().unwrap().to_owned(), facts["made"].as_u64().unwrap(), facts["kept"].as_u64().unwrap())
    };
    let page = |folder: &str| format!("outputs/{folder}/index.html");
    assert_eq!(made(&["night.txt", "--seeds", "0,1"]), (page("night-gallery"), 2, 0));
    assert_eq!(made(&["night.txt", "--seeds", "0,1"]), (page("night-gallery"), 0, 2));
    assert_eq!(made(&["night.txt", "--seeds", "0..3"]), (page("night-gallery"), 1, 2), "more of the same");
    assert_eq!(made(&["night.txt", "--seeds", "5"]), (page("night-gallery-2"), 1, 0));
    assert_eq!(made(&["night.txt", "--seeds", "5", "--style", "contour"]), (page("night-gallery-3"), 1, 0));
    assert_eq!(made(&["night.txt", "--seeds", "5", "--style", "contour"]), (page("night-gallery-3"), 0, 1));
    assert_eq!(made(&["--prompt", "a red frog", "--seeds", "0"]), (page("a-red-frog-gallery"), 1, 0));
}

#[test]
fn cells_keep_what_a_run_can_keep() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let keep = ["--probe", "shadow", "--negative", "rain", "--trace-negative", "--keep-steps", "1"];
    let made = command(at, &[&["--prompt", "a frog", "--seeds", "0..3", "--out", "g"], &keep[..]].concat()).output();
    let made = made.unwrap();
    assert!(made.status.success(), "{}", text(&made));
    let cells = cells(&at.join("g"));
    assert_eq!(cells.len(), 3);
    let mut estimates: Vec<Vec<u8>> = Vec::new();
    for (cell, record) in &cells {
        assert_eq!(record["probes"][0]["text"], "probe:shadow");
        // PNDM calls the network once more than there are steps.
        let steps: Vec<_> =
            ["01", "02", "03"].map(|step| fs::read(cell.join(format!("steps/{step}.png"))).unwrap()).into();
        assert!(steps[0] != steps[2] && !estimates.contains(&steps[0]), "each cell has its own");
        estimates.push(steps[0].clone());
        let run = cell.display().to_string();
        let out = at.join("negative").display().to_string();
        let view = ["view", &run, "--half", "unconditional", "--out", &out, "--force"];
        assert!(crate::cli::attnmap(&view).status.success());
        let command = record["command"].as_str().unwrap();
        assert!(command.contains("--probe shadow") && command.contains("--trace-negative --keep-steps 1"), "{command}");
    }
    // The image is that of a gallery that keeps nothing beside.
    let plain = command(at, &["--prompt", "a frog", "--seeds", "0..3", "--out", "h", "--negative", "rain"]).output();
    assert!(plain.unwrap().status.success());
    let images = |gallery: &str| -> Vec<Vec<u8>> {
        let mut cells = self::cells(&at.join(gallery));
        cells.sort_by_key(|(_, record)| record["settings"]["seed"].as_u64());
        cells.iter().map(|(cell, _)| fs::read(cell.join("image.png")).unwrap()).collect()
    };
    let pixels = |bytes: &[u8]| image::load_from_memory(bytes).unwrap().to_rgb8();
    for (with, without) in images("g").iter().zip(images("h")) {
        assert_eq!(pixels(with), pixels(&without));
    }
}

#[test]
fn what_was_begun_otherwise_is_not_mixed() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let picture =
        |name: &str, grey: u8| image::GrayImage::from_pixel(64, 64, image::Luma([grey])).save(at.join(name)).unwrap();
    picture("init.png", 80);
    picture("mask.png", 255);
    let make = |seeds: &str, more: &[&str]| {
        let axes = ["--prompt", "a frog", "--init", "init.png", "--mask", "mask.png", "--out", "g", "--seeds", seeds];
        command(at, &axes).args(more).output().unwrap()
    };
    let begun = make("0..1", &["--threshold", "0.3"]);
    assert!(text(&begun).contains("1 made, 0 kept, 0 failed"), "{}", text(&begun));
    let before = files(&at.join("g"));
    let refused = |seeds: &str, more: &[&str], needle: &str| {
        let output = make(seeds, more);
        assert_eq!(output.status.code(), Some(2), "{}", text(&output));
        assert!(text(&output).contains(needle) && text(&output).contains("another --out"), "{}", text(&output));
        assert_eq!(text(&output).lines().count(), 1, "{}", text(&output));
        assert!(files(&at.join("g")) == before, "nothing is touched");
    };
    // Its maps.
    refused("0..2", &[], "--threshold: g was begun with 0.3, now 0.");
    refused("0..2", &["--threshold", "0.3", "--aggregate", "daam"], "--aggregate: g was begun with the maps ");
    // Its pictures, also for seeds none of which were made.
    picture("mask.png", 0);
    refused("1..2", &["--threshold", "0.3"], "--mask: mask.png is not the picture");
    picture("mask.png", 255);
    picture("init.png", 81);
    refused("0..2", &["--threshold", "0.3"], "--init: init.png is not the picture");
    picture("init.png", 80);
    let longer = make("0..2", &["--threshold", "0.3"]);
    assert!(text(&longer).contains("1 made, 1 kept, 0 failed"), "{}", text(&longer));
}

#[test]
fn layers_that_no_checkpoint_has_bind_no_folder() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    for (more, needle) in [
        (["--layers", "upp"], "no layer is called upp"),
        (["--resolution", "17"], "no layer has a grid of 17"),
        (["--aggregate", "seg4diff"], "takes no layer"),
        (["--heads", "9"], "heads"),
    ] {
        let output = command(at, &["--prompt", "a frog", "--seeds", "0", "--out", "g"]).args(more).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{}", text(&output));
        assert!(text(&output).contains(needle) && !at.join("g").exists(), "{}", text(&output));
    }
}

#[test]
fn a_failing_cell_is_recorded_and_the_rest_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    fs::write(at.join("p.csv"), "prompt,size\na frog,64x64\na cat,10x10\na dog,64x64\n").unwrap();
    let output = command(at, &["p.csv", "--seeds", "5", "--out", "g"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(text(&output).contains("2 made, 0 kept, 1 failed"), "{}", text(&output));
    let failures: Vec<_> = fs::read_dir(at.join("g/failures")).unwrap().collect();
    assert_eq!(failures.len(), 1);
    assert!(fs::read_to_string(at.join("g/index.html")).unwrap().contains("multiple of"));
}

/// The `run.json` of each cell of the gallery `folder`, by place.
/// A damaged cell stops no other, is named, and is made again; what lay in it is set aside.
#[test]
fn a_damaged_cell_is_made_again_and_stops_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let frogs = ["--prompt", "a frog", "--seeds", "0..3", "--out", "g"];
    assert!(command(at, &frogs).output().unwrap().status.success());
    let made: Vec<std::path::PathBuf> = cells(&at.join("g")).into_iter().map(|(path, _)| path).collect();
    let whole: Vec<_> = made.iter().map(|cell| fs::read(cell.join("image.png")).unwrap()).collect();
    fs::write(made[0].join("run.json"), "{").unwrap();
    fs::write(made[0].join("notes.txt"), "mine").unwrap();
    fs::write(made[1].join("image.png"), &whole[1][..whole[1].len() / 2]).unwrap();
    fs::write(made[2].join("cell.json"), "{}").unwrap();
    let index = command(at, &["--index", "g"]).output().unwrap();
    assert!(
        index.status.success() && text(&index).matches("is damaged, and left out").count() == 3,
        "{}",
        text(&index)
    );
    let more = [&frogs[..], &["--prompt", "a hat"]].concat();
    let again = command(at, &more).output().unwrap();
    assert!(again.status.success() && text(&again).contains("6 made, 0 kept, 0 failed"), "{}", text(&again));
    assert!(!text(&again).contains("damaged"), "{}", text(&again));
    for (cell, image) in made.iter().zip(&whole) {
        assert!(fs::read(cell.join("image.png")).unwrap() == *image, "{}", cell.display());
    }
    let aside = fs::read_dir(at.join("g/cells")).unwrap().map(|entry| entry.unwrap().path().join("notes.txt"));
    assert_eq!(aside.filter(|notes| notes.is_file()).count(), 1, "what the user had there stays");
}

/// What is expected of a gallery is checked before it is made, and judged where it can be.
#[test]
fn expectations_of_a_gallery_are_of_whole_words_and_lose_no_image() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    for (expect, told) in [("fro@left", "stands in no prompt"), ("no red", "maps do not tell whether")] {
        let refused = command(at, &["--prompt", "a frog", "--seeds", "0", "--expect", expect, "--out", "g"]);
        let refused = { refused }.output().unwrap();
        assert!(refused.status.code() == Some(2) && text(&refused).contains(told), "{}", text(&refused));
    }
    assert!(!at.join("g").exists());
    let prompts = ["--prompt", "a frog and a frog", "--prompt", "a green frog", "--seeds", "0"];
    let asked = [&prompts[..], &["--probe", "fox", "--expect", "frog@left, fox@top", "--out", "g"]].concat();
    let made = command(at, &asked).output().unwrap();
    assert!(text(&made).contains("2 made, 0 kept, 0 failed"), "{}", text(&made));
    let judged: Vec<Vec<bool>> = cells(&at.join("g"))
        .iter()
        .map(|(_, run)| run["expectations"].as_array().unwrap().iter().map(|one| one["met"].is_boolean()).collect())
        .collect();
    assert!(judged.contains(&vec![false, true]) && judged.contains(&vec![true, true]), "{judged:?}");
}

fn cells(folder: &Path) -> Vec<(std::path::PathBuf, serde_json::Value)> {
    let read = |path: &Path| -> serde_json::Value { serde_json::from_slice(&fs::read(path).unwrap()).unwrap() };
    let paths = fs::read_dir(folder.join("cells")).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<_> = paths.map(|path| (read(&path.join("cell.json"))["cell"]["order"].as_u64(), path)).collect();
    found.sort();
    found.into_iter().map(|(_, path)| (path.clone(), read(&path.join("run.json")))).collect()
}

#[test]
fn loras_stand_beside_each_other_and_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    for name in ["kohya-sd1", "peft"] {
        fs::copy(fixtures.join(format!("adapters/{name}.safetensors")), at.join(format!("{name}.safetensors")))
            .unwrap();
    }
    let axes = |seeds: &'static str, weight: &'static str| {
        ["--prompt", "a frog", "--seeds", seeds, "--lora", "none", "--lora", weight, "--out", "g"]
    };
    let both = "kohya-sd1.safetensors:0.7+peft.safetensors";
    let made = command(at, &axes("3", both)).output().unwrap();
    assert!(text(&made).contains("2 made, 0 kept, 0 failed"), "{}", text(&made));
    let found = cells(&at.join("g"));
    assert_eq!(found[0].1["settings"]["loras"], serde_json::Value::Null);
    assert_eq!(found[1].1["settings"]["loras"][0], serde_json::json!({"file": "kohya-sd1.safetensors", "weight": 0.7}));
    // Each cell is the run that its command makes.
    for (index, (path, record)) in found.iter().enumerate() {
        let binary = Path::new(env!("CARGO_BIN_EXE_attnmap")).parent().unwrap();
        let search = format!("{}:{}", binary.display(), std::env::var("PATH").unwrap());
        let line = format!("{} --overlay-size 64 --out again-{index}", record["command"].as_str().unwrap());
        let shell = Command::new("sh").args(["-c", &line]).current_dir(at).env("PATH", search).output().unwrap();
        assert!(shell.status.success(), "{line}: {}", text(&shell));
        let image = |path: &Path| image::open(path.join("image.png")).unwrap().to_rgb8();
        assert_eq!(image(path), image(&at.join(format!("again-{index}"))), "{line}");
    }
    assert_ne!(fs::read(found[0].0.join("image.png")).unwrap(), fs::read(found[1].0.join("image.png")).unwrap());
    let page = fs::read_to_string(at.join("g/index.html")).unwrap();
    assert!(page.contains(r#"{"name":"lora","texts":["","kohya-sd1:0.7 + peft:1"]}"#), "the page names them");
    // Asked again nothing is made; another strength is another cell.
    let again = command(at, &axes("3", both)).output().unwrap();
    assert!(text(&again).contains("0 made, 2 kept, 0 failed"), "{}", text(&again));
    let other = command(at, &axes("3", "kohya-sd1.safetensors:0.2")).output().unwrap();
    assert!(text(&other).contains("1 made, 1 kept, 0 failed"), "{}", text(&other));
    // Another file of the same name is not taken for it.
    fs::copy(at.join("peft.safetensors"), at.join("kohya-sd1.safetensors")).unwrap();
    let changed = command(at, &axes("3..5", "kohya-sd1.safetensors:0.2")).output().unwrap();
    assert_eq!(changed.status.code(), Some(1));
    assert!(text(&changed).contains("were made with other weights"), "{}", text(&changed));
    assert!(text(&changed).contains("1 made, 2 kept, 1 failed"), "{}", text(&changed));
}

#[test]
fn lines_of_a_list_say_how_they_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    fs::write(at.join("p.csv"), "prompt,emphasis\na (red:1.4) frog,yes\na (red:1.4) frog,no\n").unwrap();
    let output = command(at, &["p.csv", "--seeds", "5", "--out", "g"]).output().unwrap();
    assert!(text(&output).contains("2 made"), "{}", text(&output));
    let found = cells(&at.join("g"));
    let words = |record: &serde_json::Value| record["words"].as_array().unwrap().len();
    assert_eq!((&found[0].1["settings"]["emphasis"], words(&found[0].1)), (&true.into(), 3));
    assert_eq!(&found[1].1["settings"]["emphasis"], &serde_json::Value::Null);
    assert!(words(&found[1].1) > 3, "brackets are words of plain text");
}

#[test]
fn mistakes_are_named_before_anything_is_made() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    fs::write(at.join("p.txt"), "a frog\n").unwrap();
    image::RgbImage::new(64, 64).save(at.join("init.png")).unwrap();
    fs::create_dir(at.join("full")).unwrap();
    fs::write(at.join("full/mine.txt"), "x").unwrap();
    for (arguments, needle) in [
        (&["p.txt", "--seeds", "3..1"][..], "--seeds"),
        (&["p.txt", "--replace", "apple=pear"], "stands in no prompt"),
        (&["--seeds", "1"], "no prompt"),
        (&["p.txt", "--out", "full"], "other things in it"),
        (&["p.txt", "--shard", "0/2"], "I/N"),
        (&["p.txt", "--pack", "full", "--out", "g"], "--pack: full is a folder with other things in it"),
        (&["p.txt", "--words", "frog"], "--words"),
        (&["p.txt", "--lora", "style.safetensors:NaN"], "--lora"),
        (&["p.txt", "--init", "none.png"], "--init"),
        (&["p.txt", "--weight", "frog=2", "--weight", "Frog=3"], "\"Frog\" is given twice"),
        (&["p.txt", "--weight", "frog=0.5", "--negative", "rain (bad)"], "\"rain (bad)\" has brackets that are text"),
    ] {
        let output = command(at, arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", text(&output));
        assert!(text(&output).contains(needle), "{arguments:?}: {}", text(&output));
    }
    for (arguments, needle) in [
        (&["--lora", "nope.safetensors"][..], "--lora: no file nope"),
        (&["--lora", "none", "--lora", "nope.safetensors"], "--lora: no file nope"),
        (&["--embedding", "nope.safetensors"], "--embedding: no file nope"),
        (&["--size", "100x100"], "--size: the width must be a multiple of 8"),
        (&["--guidance", "nan"], "--guidance: must be a finite number"),
        (&["--init", "init.png", "--strength", "2"], "--strength: must be above 0 and at most 1; 2 given"),
        (&["--crop", "1,1"], "--crop: only SDXL"),
        (&["--variant", "fp16"], "--variant: the embedded"),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_attnmap"));
        let output = command.current_dir(at).args(["gallery", "--prompt", "a frog"]).args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", text(&output));
        assert!(text(&output).contains(needle), "{arguments:?}: {}", text(&output));
        assert_eq!(text(&output).lines().count(), 1, "{arguments:?}: {}", text(&output));
    }
    assert!(!at.join("gallery").exists() && !at.join("g").exists());
}

/// Ctrl-C says how far it came, and the page is there already.
#[cfg(unix)]
#[test]
fn an_interrupted_gallery_can_be_looked_at() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let axes = ["--prompt", "a frog", "--seeds", "0..2000", "--out", "g"];
    let child = command(at, &axes).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let index = at.join("g/index.html");
    let began = std::time::Instant::now();
    while !index.is_file() {
        assert!(began.elapsed() < Duration::from_secs(120), "no page from the first cell");
        std::thread::sleep(Duration::from_millis(10));
    }
    // SAFETY: the child is ours and not yet waited for.
    assert_eq!(unsafe { libc::kill(child.id() as libc::pid_t, libc::SIGINT) }, 0);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", text(&output));
    let said = text(&output);
    let done: usize = said.split("interrupted: ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    assert!(said.contains(&format!("{done} of 2000 are done; the same command goes on")), "{said}");
    let cells = fs::read_dir(at.join("g/cells")).unwrap().count();
    let page = fs::read_to_string(&index).unwrap();
    assert!(done >= 2 && cells >= done, "{said} {cells}");
    assert!(page.contains("\"planned\":2000") && page.matches("a-frog-").count() >= done, "the page has every cell");
}

/// Four processes make parts of one gallery at once: the page that is written last has every cell.
#[test]
fn many_writers_leave_one_whole_page() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let part = |shard: &str| {
        let axes =
            ["--prompt", "a frog", "--seeds", "0..8", "--batch", "1", "--threads", "1", "--out", "g", "--shard", shard];
        command(at, &axes).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let parts: Vec<_> = ["1/4", "2/4", "3/4", "4/4"].map(part).into_iter().collect();
    for part in parts {
        let output = part.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", text(&output));
    }
    let page = fs::read_to_string(at.join("g/index.html")).unwrap();
    assert!(page.contains("\"planned\":null"), "all cells are there");
    for cell in fs::read_dir(at.join("g/cells")).unwrap() {
        let name = cell.unwrap().file_name().into_string().unwrap();
        assert!(page.contains(&name), "{name} is left out");
    }
}

#[test]
fn settings_are_axes_and_a_gallery_is_shared() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let mut all = Command::new(env!("CARGO_BIN_EXE_attnmap"));
    all.current_dir(at).args(["gallery", "--steps", "2", "--overlay-size", "64"]);
    let axes = ["--prompt", "a zebra", "--seeds", "1", "--guidance", "1,3", "--weight", "zebra=1,1.5", "--out", "g"];
    let made = all.args(axes).args(["--pack", "g.zip", "--sheet", "g.png", "--json"]).output().unwrap();
    assert!(made.status.success(), "{}", text(&made));
    assert_eq!(text(&made).matches("never saw: zebra").count(), 1, "as generate warns, once: {}", text(&made));
    let said: serde_json::Value = serde_json::from_slice(&made.stdout).unwrap();
    assert_eq!(said["facts"]["made"], 4, "{said}");
    let found = cells(&at.join("g"));
    let told: Vec<_> = found
        .iter()
        .map(|(_, run)| (run["prompt"].as_str().unwrap(), run["settings"]["guidance_scale"].as_f64().unwrap()))
        .collect();
    assert_eq!(told, [("a zebra", 1.0), ("a zebra", 3.0), ("a (zebra:1.5)", 1.0), ("a (zebra:1.5)", 3.0)]);
    assert!(image::open(at.join("g.png")).is_ok());
    // What is packed is what the pages show, in a folder of its own, and little of the whole.
    let mut zip = zip::ZipArchive::new(fs::File::open(at.join("g.zip")).unwrap()).unwrap();
    let names: Vec<String> = zip.file_names().map(|name| name.unwrap().into_owned()).collect();
    assert_eq!(names.len(), 1 + 4 * 4, "{names:?}");
    assert!(names.contains(&"g/index.html".to_owned()) && names.iter().all(|name| name.starts_with("g/")), "{names:?}");
    let mut page = String::new();
    std::io::Read::read_to_string(&mut zip.by_name("g/index.html").unwrap(), &mut page).unwrap();
    assert_eq!(page, fs::read_to_string(at.join("g/index.html")).unwrap());
    // Again as it is, into a folder; what is there stays unless it is asked for.
    let share = |more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_attnmap"));
        command.current_dir(at).args(["gallery", "g", "--pack"]).args(more).output().unwrap()
    };
    assert!(share(&["lean"]).status.success());
    assert_eq!(files(&at.join("lean")).len(), 17);
    for place in ["lean", "g.zip", "g"] {
        let output = share(&[place]);
        assert_eq!(output.status.code(), Some(2), "{place}: {}", text(&output));
        assert!(text(&output).contains("--pack"), "{place}: {}", text(&output));
    }
    for place in ["lean", "g.zip"] {
        let output = share(&[place, "--force"]);
        assert!(output.status.success(), "{place}: {}", text(&output));
    }
    // A folder with a page of the user's own is none of ours.
    fs::create_dir_all(at.join("site/cells")).unwrap();
    fs::write(at.join("site/index.html"), "MY HOMEPAGE").unwrap();
    for more in [&["site"][..], &["site", "--force"]] {
        let output = share(more);
        assert_eq!(output.status.code(), Some(2), "{more:?}: {}", text(&output));
        assert!(text(&output).contains("other things in it"), "{}", text(&output));
    }
    assert_eq!(fs::read_to_string(at.join("site/index.html")).unwrap(), "MY HOMEPAGE");
}
