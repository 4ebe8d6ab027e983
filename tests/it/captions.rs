//! `attnmap trace FOLDER`: captioned pictures as a gallery with a table of which words have a
//! place.

use std::fs;
use std::path::Path;
use std::process::Output;

use attnmap::facts::{Coverage, Facts};
use serde_json::{Value, json};

use crate::cli::{attnmap, refused};
use crate::pipeline::fixtures;

fn trace(pictures: &Path, out: &Path, more: &[&str]) -> Output {
    let model = fixtures().join("tiny-sd1").display().to_string();
    let (pictures, out) = (pictures.display().to_string(), out.display().to_string());
    let fixed = ["trace", &pictures, "--model", &model, "--out", &out, "--levels", "300", "--size", "64x64"];
    attnmap(&[&fixed[..], &["--overlay-size", "64"], more].concat())
}

fn json_of(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)))
}

#[test]
fn captioned_pictures_become_a_gallery_that_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join("set").join(name);
    fs::create_dir(folder.path().join("set")).unwrap();
    let out = folder.path().join("found");
    let picture = |name: &str, red: u8| {
        image::RgbImage::from_fn(70, 60, |x, y| image::Rgb([red, 3 * x as u8, 4 * y as u8])).save(at(name)).unwrap();
    };
    picture("one.png", 10);
    picture("two.webp", 90);
    fs::write(at("one.txt"), "a red apple and a frog").unwrap();
    fs::write(at("two.txt"), "Frog, on the beach").unwrap();
    // Its own metadata says what it shows.
    fs::copy(fixtures().join("metadata/comfyui.png"), at("three.png")).unwrap();
    let output = trace(&folder.path().join("set"), &out, &["--json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let told = json_of(&output);
    assert_eq!(told["facts"], json!({"made": 3, "kept": 0, "failed": 0}));
    let words = told["coverage"]["words"].as_array().unwrap();
    let frog = &words[0];
    assert_eq!((frog["word"].as_str().map(str::to_lowercase), &frog["captions"]), (Some("frog".into()), &json!(3)));
    let numbers = ["judged", "found"].map(|name| frog[name].as_u64().unwrap());
    assert_eq!(numbers[0] - numbers[1], frog["missing"].as_array().unwrap().len() as u64);
    let beach = words.iter().find(|word| word["word"] == "beach").unwrap();
    assert_eq!((&beach["captions"], &beach["judged"]), (&json!(2), &json!(0)), "a scene is not judged");
    assert!(words.iter().all(|word| word["word"] != "and"));
    // The table is of the cells' own facts.
    let cells: Vec<_> = fs::read_dir(out.join("cells")).unwrap().map(|cell| cell.unwrap().path()).collect();
    let name = |cell: &Path| cell.file_name().unwrap().to_str().unwrap().to_owned();
    let facts: Vec<(String, Facts)> = cells
        .iter()
        .map(|cell| {
            let run: Value = serde_json::from_slice(&fs::read(cell.join("run.json")).unwrap()).unwrap();
            assert!(cell.join("report.html").is_file() && run["kind"] == "trace");
            (name(cell), serde_json::from_value(run["facts"].clone()).unwrap())
        })
        .collect();
    let again = Coverage::of(facts.iter().map(|(name, facts)| (name.as_str(), facts)));
    assert_eq!(again.words.len(), words.len());
    assert_eq!(again.words[0].found as u64, numbers[1]);
    let page = fs::read_to_string(out.join("coverage.html")).unwrap();
    assert!(page.contains("Where caption words are looked for") && page.contains("index.html"));
    assert!(fs::read_to_string(out.join("index.html")).unwrap().contains("coverage.html"));
    // What it links to is packed with it.
    let (whole, lean) = (out.display().to_string(), folder.path().join("lean").display().to_string());
    assert!(attnmap(&["gallery", &whole, "--pack", &lean]).status.success());
    assert_eq!(fs::read_to_string(Path::new(&lean).join("coverage.html")).unwrap(), page);

    // What is there is kept; a changed picture, or caption, is another cell; what has no caption is
    // told and the rest made.
    picture("two.webp", 200);
    picture("four.png", 5);
    let output = trace(&folder.path().join("set"), &out, &[]);
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("1 made, 2 kept, 1 failed"), "{text} {errors}");
    assert!(errors.contains("four.png: no caption: no .txt file lies beside it"), "{errors}");
    assert_eq!(output.status.code(), Some(1));
    // The command of a cell looks at its picture alone, here at one that has not changed since.
    let runs = cells.iter().map(|cell| serde_json::from_slice(&fs::read(cell.join("run.json")).unwrap()).unwrap());
    let run: Value = runs.into_iter().find(|run: &Value| run["prompt"] == "a red apple and a frog").unwrap();
    let command = shlex::split(run["command"].as_str().unwrap()).unwrap();
    let alone = folder.path().join("alone").display().to_string();
    let command: Vec<&str> = command.iter().skip(1).map(String::as_str).chain(["--out", &alone]).collect();
    assert!(attnmap(&command).status.success(), "{command:?}");
    let other: Value = serde_json::from_slice(&fs::read(Path::new(&alone).join("run.json")).unwrap()).unwrap();
    assert_eq!((&other["words"], &other["prompt"]), (&run["words"], &run["prompt"]));
}

/// The `run.json` of every cell in `out`.
fn runs(out: &Path) -> Vec<Value> {
    let cells = fs::read_dir(out.join("cells")).unwrap().map(|cell| cell.unwrap().path());
    cells.map(|cell| serde_json::from_slice(&fs::read(cell.join("run.json")).unwrap()).unwrap()).collect()
}

#[test]
fn a_picture_that_says_its_caption_says_its_seed_too() {
    let folder = tempfile::tempdir().unwrap();
    let (set, out) = (folder.path().join("set"), folder.path().join("out"));
    fs::create_dir(&set).unwrap();
    for name in ["own.png", "said.png"] {
        fs::copy(fixtures().join("metadata/a1111.png"), set.join(name)).unwrap();
    }
    fs::write(set.join("said.txt"), "a frog").unwrap();
    let output = trace(&set, &out, &[]);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{errors}");
    assert!(errors.contains("from the pictures' metadata: 1 caption, 1 seed; "), "{errors}");
    assert_eq!(errors.matches("not taken: ").count(), 1, "{errors}");
    assert!(errors.contains("LoRA style (give it with --lora FILE:0.8) (1 picture); "), "{errors}");
    let (own, said): (Vec<Value>, Vec<Value>) = runs(&out).into_iter().partition(|run| run["prompt"] != "a frog");
    let [own, said] = [&own[0], &said[0]];
    assert_eq!((&own["settings"]["seed"], &own["settings"]["emphasis"]), (&json!(3_735_928_559_u32), &json!(true)));
    assert_eq!(own["negative"], "blurry, [text]\nlow quality");
    assert_eq!(own["settings"]["metadata"]["program"], "AUTOMATIC1111");
    assert_eq!(own["settings"]["metadata"]["not_taken"].as_array().map(Vec::len), Some(5));
    // What lies beside a picture says nothing of a seed.
    assert_eq!((&said["settings"]["seed"], &said["negative"]), (&json!(0), &Value::Null));
    assert_eq!(said["settings"]["metadata"], Value::Null);
    // The command of a cell takes and records the same.
    let command = shlex::split(own["command"].as_str().unwrap()).unwrap();
    let alone = folder.path().join("alone").display().to_string();
    let command: Vec<&str> = command.iter().skip(1).map(String::as_str).chain(["--out", &alone]).collect();
    assert!(attnmap(&command).status.success(), "{command:?}");
    let other: Value = serde_json::from_slice(&fs::read(Path::new(&alone).join("run.json")).unwrap()).unwrap();
    assert_eq!((&other["words"], &other["negative"]), (&own["words"], &own["negative"]));
    assert_eq!(other["settings"]["metadata"], own["settings"]["metadata"]);
    assert_eq!(other["settings"]["seed"], own["settings"]["seed"]);
    // What is given comes first, and what is there is kept.
    assert!(String::from_utf8_lossy(&trace(&set, &out, &[]).stdout).contains("0 made, 2 kept, 0 failed"));
    let given = folder.path().join("given");
    let output = trace(&set, &given, &["--seed", "5"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("from the pictures' metadata: 1 caption; "));
    assert!(runs(&given).iter().all(|run| run["settings"]["seed"] == 5));
}

#[test]
fn each_of_many_pictures_is_judged_and_gets_its_regions() {
    let folder = tempfile::tempdir().unwrap();
    let (set, out) = (folder.path().join("set"), folder.path().join("out"));
    fs::create_dir(&set).unwrap();
    for (name, caption) in [("one", "a red apple and a frog"), ("two", "a hat on the beach")] {
        let bright = name.len() as u8 * 20 + caption.len() as u8;
        image::RgbImage::from_fn(64, 64, |x, y| image::Rgb([bright, x as u8, y as u8]))
            .save(set.join(format!("{name}.png")))
            .unwrap();
        fs::write(set.join(format!("{name}.txt")), caption).unwrap();
    }
    assert!(trace(&set, &out, &[]).status.success());
    // What is there already is judged, and given its files.
    let output = trace(&set, &out, &["--expect", "frog@0,0,1,1", "--masks", "--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(
        json_of(&output)["facts"],
        json!({"made": 0, "kept": 2, "failed": 0, "expected": {"met": 1, "unmet": 0, "without": 1}})
    );
    let output = trace(&set, &out, &["--expect", "frog@0.9,0.9,0.1,0.1", "--outline", "svg"]);
    assert_eq!(output.status.code(), Some(3), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stdout).contains("0 as expected, 1 not, 1 without those words"));
    for cell in fs::read_dir(out.join("cells")).unwrap() {
        let cell = cell.unwrap().path();
        let run: Value = serde_json::from_slice(&fs::read(cell.join("run.json")).unwrap()).unwrap();
        let met = run["prompt"].as_str().unwrap().contains("frog").then_some(false);
        assert_eq!(run["expectations"][0]["met"].as_bool(), met, "{run}");
        assert!(cell.join("regions/coco.json").is_file());
        let kinds = |end: &str| {
            let files = fs::read_dir(cell.join("regions")).unwrap();
            files.filter(|file| file.as_ref().unwrap().path().extension().is_some_and(|kind| kind == end)).count()
        };
        assert_eq!((kinds("svg"), kinds("png")), (run["words"].as_array().unwrap().len(), kinds("svg")));
    }
    refused(&trace(&set, &out, &["--expect", "panda@left"]), 2, &["--expect", "stands in no prompt"]);
    refused(&trace(&set, &out, &["--otsu"]), 2, &["--otsu", "--masks"]);
}

#[test]
fn what_is_for_one_picture_is_refused_for_many() {
    let folder = tempfile::tempdir().unwrap();
    let (set, out) = (folder.path().join("set"), folder.path().join("out"));
    fs::create_dir(&set).unwrap();
    refused(&trace(&set, &out, &[]), 2, &["IMAGE", "no png, jpeg or webp file"]);
    image::RgbImage::new(64, 64).save(set.join("a.png")).unwrap();
    refused(&trace(&set, &out, &[]), 2, &["IMAGE", "no picture has a caption"]);
    fs::write(set.join("a.txt"), "a frog").unwrap();
    refused(&trace(&set, &out, &["a frog"]), 2, &["IMAGE", "leave CAPTION out"]);
    refused(&trace(&set, &out, &["--probe", "tail"]), 2, &["--probe", "one picture"]);
    refused(&trace(&set, &out, &["--words", "frog"]), 2, &["--words", "every word"]);
    refused(&trace(&set, &out, &["--force"]), 2, &["--force", "kept"]);
    fs::write(folder.path().join("list.jsonl"), "{}").unwrap();
    refused(&trace(&folder.path().join("list.jsonl"), &out, &[]), 2, &["IMAGE", "list.jsonl", "line 1", "file_name"]);
    refused(&trace(&folder.path().join("none.csv"), &out, &[]), 2, &["IMAGE", "none.csv", "no such file"]);
    fs::create_dir(&out).unwrap();
    fs::write(out.join("mine.txt"), "x").unwrap();
    refused(&trace(&set, &out, &[]), 2, &["--out", "other things in it"]);
}

#[test]
fn a_picture_counts_once_and_a_failure_goes_once_it_is_mended() {
    let folder = tempfile::tempdir().unwrap();
    let (set, out) = (folder.path().join("set"), folder.path().join("out"));
    fs::create_dir(&set).unwrap();
    for (name, red) in [("one.png", 10), ("two.png", 90), ("three.png", 170)] {
        image::RgbImage::from_fn(64, 64, |x, y| image::Rgb([red, x as u8, y as u8])).save(set.join(name)).unwrap();
    }
    let list = set.join("list.csv");
    // Two captions of one picture are two looks.
    fs::write(&list, "file_name,text\none.png,a frog\none.png,a frog\none.png,a fox\n").unwrap();
    let output = trace(&list, &out, &["--json"]);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(errors.matches("given more than once, counted once: ").count(), 1, "{errors}");
    let told = json_of(&output);
    assert_eq!((&told["facts"]["made"], &told["coverage"]["pictures"]), (&json!(2), &json!(2)), "{told}");

    let failures = || fs::read_dir(out.join("failures")).map_or(0, |files| files.count());
    fs::write(set.join("one.txt"), "a frog").unwrap();
    assert_eq!(trace(&set, &out, &[]).status.code(), Some(1));
    assert_eq!(failures(), 2);
    // One gets its caption, the other goes.
    fs::write(set.join("two.txt"), "a red apple").unwrap();
    fs::remove_file(set.join("three.png")).unwrap();
    let output = trace(&set, &out, &[]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(failures(), 0);
}

#[test]
fn pictures_of_two_folders_of_one_name_have_a_gallery_each() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let look = |place: &str| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_attnmap"));
        command.current_dir(at).env("HF_HUB_OFFLINE", "1").args(["trace", place, "--levels", "300", "--json"]);
        command.args(["--size", "64x64", "--overlay-size", "64", "--model"]).arg(fixtures().join("tiny-sd1"));
        let told = json_of(&command.output().unwrap());
        (told["page"].as_str().unwrap().to_owned(), told["facts"]["kept"].as_u64().unwrap())
    };
    for (place, red) in [("a/set", 10), ("b/set", 90)] {
        fs::create_dir_all(at.join(place)).unwrap();
        image::RgbImage::from_pixel(64, 64, image::Rgb([red, 0, 0])).save(at.join(place).join("one.png")).unwrap();
        fs::write(at.join(place).join("one.txt"), "a frog").unwrap();
    }
    let page = |folder: &str| format!("outputs/{folder}/coverage.html");
    assert_eq!(look("a/set"), (page("trace-set"), 0));
    assert_eq!(look("b/set"), (page("trace-set-2"), 0));
    assert_eq!(look("a/set"), (page("trace-set"), 1), "the same pictures go on");
    assert_eq!(look("b/set"), (page("trace-set-2"), 1));
}

/// JSON holds text alone, and a file's name need not be text.
#[cfg(target_os = "linux")]
#[test]
fn a_picture_whose_name_is_no_text_is_looked_at() {
    use std::os::unix::ffi::OsStrExt;
    let folder = tempfile::tempdir().unwrap();
    let (set, out) = (folder.path().join("set"), folder.path().join("out"));
    fs::create_dir(&set).unwrap();
    let named = |ending: &[u8]| set.join(std::ffi::OsStr::from_bytes(&[&b"b\xff."[..], ending].concat()));
    image::RgbImage::from_pixel(64, 64, image::Rgb([90, 0, 0])).save(set.join("one.png")).unwrap();
    fs::rename(set.join("one.png"), named(b"png")).unwrap();
    fs::write(named(b"txt"), "a frog").unwrap();
    let look = || json_of(&trace(&set, &out, &["--json"]))["facts"].clone();
    assert_eq!(look(), json!({"made": 1, "kept": 0, "failed": 0}));
    assert_eq!(look(), json!({"made": 0, "kept": 1, "failed": 0}));
}
