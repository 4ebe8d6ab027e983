//! Run folders: opened, drawn again, and refused when they are something else.

use crate::render::{picture, trace};
use attnmap::files::Target;
use attnmap::heatmap::Aggregate;
use attnmap::render::{Display, Style, write_png};
use attnmap::run::{FORMAT_VERSION, Remake, Run, RunRecord, Settings, remake};
use attnmap::trace::WordInfo;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

const WORDS: [&str; 3] = ["apple", "and", "frog"];

/// A run folder as `generate` leaves it, but for the pictures.
fn make(folder: &Path) {
    let trace = trace(&WORDS);
    let record = RunRecord {
        by: Default::default(),
        format_version: FORMAT_VERSION,
        attnmap: "0.1.0".into(),
        kind: Default::default(),
        command: "attnmap generate 'apple and frog'".into(),
        prompt: trace.about.prompt.text.clone(),
        negative: None,
        checkpoint: trace.about.checkpoint.clone(),
        settings: Settings { seed: 18_446_744_073_709_551_615, ..Settings::default() },
        latent: trace.about.latent,
        image: trace.about.image,
        tokens: Vec::new(),
        encoders: Vec::new(),
        padding_share: 0.0,
        image_share: None,
        words: Vec::new(),
        probes: Vec::new(),
        cut_off: Vec::new(),
        warnings: Vec::new(),
        aggregate: "daam".into(),
        maps: None,
        display: Display::default(),
        facts: None,
        expectations: Vec::new(),
        sites: trace.recording.sites.clone(),
        timesteps: trace.recording.timesteps.clone(),
        timings: BTreeMap::from([("steps".to_string(), 1.5)]),
    };
    fs::create_dir_all(folder).unwrap();
    trace.save(&folder.join("trace.safetensors")).unwrap();
    write_png(&folder.join("image.png"), &picture(), &[], false).unwrap();
    record.write(folder).unwrap();
}

/// Every file below `folder`, with its bytes.
fn content(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_string();
        if path.is_dir() {
            files.extend(content(&path).into_iter().map(|(inner, bytes)| (format!("{name}/{inner}"), bytes)));
        } else {
            files.insert(name, fs::read(path).unwrap());
        }
    }
    files
}

fn view(folder: &Path, words: Option<&[WordInfo]>, out: Option<&Path>, force: bool) -> attnmap::Result<RunRecord> {
    let run = Run::open(folder)?;
    let (aggregate, (trace, image)) = (Aggregate::named("all")?, run.read()?);
    let display = Display { overlay_size: 64, style: Style::Mask, ..Display::default() };
    let target = out.map(|out| Target::named(out, force));
    let choices = Remake { aggregate: &aggregate, display: &display, words, asked: None };
    Ok(remake(&run, (&trace, &image), &choices, target.as_ref(), |_, _| Ok(()))?.1)
}

#[test]
fn a_run_is_drawn_again_in_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().join("run");
    make(&folder);
    let before = content(&folder);
    let record = view(&folder, None, None, false).unwrap();
    assert_eq!(record, RunRecord::read(&folder).unwrap());
    assert_eq!(record.settings.seed, u64::MAX);
    let names: Vec<_> = record.words.iter().map(|word| (word.word.text.as_str(), word.overlay.as_str())).collect();
    assert_eq!(
        names,
        [("apple", "overlays/00-apple.png"), ("and", "overlays/01-and.png"), ("frog", "overlays/02-frog.png")]
    );
    let shares = record.tokens.iter().map(|token| token.share).sum::<f32>() + record.padding_share;
    assert!((shares - 1.0).abs() < 1e-4, "{shares}");

    // Fewer words: the overlays of the others are gone, and nothing hidden is left.
    let frog = trace(&WORDS).about.prompt.select("frog").unwrap();
    view(&folder, Some(&frog), None, false).unwrap();
    let after = content(&folder);
    let names: Vec<_> = after.keys().map(String::as_str).collect();
    let expected =
        ["heatmaps.safetensors", "image.png", "overlays/00-frog.png", "run.json", "trace.safetensors", "words.png"];
    assert_eq!(names, expected);
    assert_eq!(
        (&before["image.png"], &before["trace.safetensors"]),
        (&after["image.png"], &after["trace.safetensors"])
    );
}

#[test]
fn heatmaps_hold_the_tokens_and_the_chosen_words() {
    let folder = tempfile::tempdir().unwrap();
    make(folder.path());
    let phrase = trace(&WORDS).about.prompt.select("apple and,frog").unwrap();
    view(folder.path(), Some(&phrase), None, false).unwrap();
    let device = candle_core::Device::Cpu;
    let maps = candle_core::safetensors::load(folder.path().join("heatmaps.safetensors"), &device).unwrap();
    let (tokens, words) = (maps["tokens"].to_vec3::<f32>().unwrap(), maps["words"].to_vec3::<f32>().unwrap());
    assert_eq!((tokens.len(), words.len()), (5, 2));
    assert_eq!(words[1], tokens[3]);
    // Attention to a word is the sum over its tokens.
    let sum = tokens[1][3][4] + tokens[2][3][4];
    assert!((words[0][3][4] - sum).abs() < 1e-6, "{} for {sum}", words[0][3][4]);
}

#[test]
fn another_folder_becomes_a_run_of_its_own() {
    let place = tempfile::tempdir().unwrap();
    let (folder, out) = (place.path().join("run"), place.path().join("other"));
    make(&folder);
    let before = content(&folder);
    view(&folder, None, Some(&out), false).unwrap();
    assert_eq!(before, content(&folder));
    view(&out, None, None, false).unwrap();
    assert!(view(&folder, None, Some(&out), false).unwrap_err().to_string().contains("`force`"));
    view(&folder, None, Some(&out), true).unwrap();
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 2);
}

#[test]
fn masks_of_other_maps_do_not_go_with_a_run() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("run");
    make(&folder);
    view(&folder, None, None, false).unwrap();
    fs::create_dir(folder.join("regions")).unwrap();
    fs::write(folder.join("regions/coco.json"), r#"{"attnmap": "0.1.0"}"#).unwrap();
    let beside = |name: &str, words: Option<&[WordInfo]>| {
        let out = place.path().join(name);
        view(&folder, words, Some(&out), false).unwrap();
        out.join("regions/coco.json").is_file()
    };
    assert!(beside("same", None), "those of the same maps do");
    let trace = trace(&WORDS);
    assert!(!beside("other", Some(&trace.about.prompt.words[..1])));

    // In place they are gone once the maps are made another way, and the user's own files are not.
    fs::write(folder.join("regions/notes.txt"), "mine").unwrap();
    let again = |aggregate: &Aggregate| {
        let run = Run::open(&folder).unwrap();
        let (trace, image) = run.read().unwrap();
        let choices = Remake { aggregate, display: &Display::default(), words: None, asked: None };
        remake(&run, (&trace, &image), &choices, None, |_, _| Ok(())).unwrap();
    };
    let left = |name: &str| folder.join("regions").join(name).is_file();
    let all = Aggregate::named("all").unwrap();
    again(&all);
    assert!(left("coco.json"));
    again(&Aggregate { compete: Some(0.5), ..all });
    assert!(!left("coco.json") && left("notes.txt"));
}

#[test]
fn an_error_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    make(folder.path());
    view(folder.path(), None, None, false).unwrap();
    fs::write(folder.path().join("image.png"), b"no picture").unwrap();
    let before = content(folder.path());
    let error = view(folder.path(), None, None, false).unwrap_err().to_string();
    assert!(error.contains("image.png: not a readable PNG"), "{error}");
    assert_eq!(before, content(folder.path()));
}

#[test]
fn what_is_no_run_is_refused() {
    let place = tempfile::tempdir().unwrap();
    let error = |path: &Path| Run::open(path).unwrap_err().to_string();
    assert!(error(&place.path().join("nowhere")).contains("no such folder"));
    assert!(error(place.path()).contains("no run.json"));
    let file = place.path().join("run.json");
    for (content, expected) in [
        ("", "not JSON"),
        ("[]", "no format_version"),
        ("{\"format_version\": 1}", "not a run of attnmap: missing field"),
        ("{\"format_version\": 99}", "newer than this attnmap reads"),
    ] {
        fs::write(&file, content).unwrap();
        let error = error(place.path());
        assert!(error.contains(expected) && error.contains("run.json") && !error.contains('\n'), "{error}");
    }
    make(place.path());
    assert_eq!(Run::open(&file).unwrap().folder, place.path(), "a file of the run names it too");
}

/// Every way in which a run's parts can be damaged, and what all commands that read runs then say.
#[test]
fn what_is_damaged_is_refused_by_every_command_alike() {
    use crate::cli::{attnmap, generate, refused};
    let (made, _folder, run) = generate("a red apple", &["--self-attention", "--keep-steps"]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let place = tempfile::tempdir().unwrap();
    let page = place.path().join("compared.html").display().to_string();
    let out = place.path().join("out").display().to_string();
    let path = run.to_str().unwrap();
    let commands: [&[&str]; 7] = [
        &["view", path],
        &["report", path],
        &["compare", path, path, "--out", &page],
        &["animate", path, "--out", &out],
        &["self-attention", path, "--at", "9,9", "--out", &out],
        &["ask", path, "--at", "9,9"],
        &["facts", path],
    ];
    for command in commands {
        assert!(attnmap(command).status.success(), "{command:?}");
    }
    for made in [&page, &out] {
        fs::remove_file(made).or_else(|_| fs::remove_dir_all(made)).unwrap();
    }
    let bytes = |name: &str| fs::read(run.join(name)).unwrap();
    let (image, trace) = (bytes("image.png"), bytes("trace.safetensors"));
    let all_ones = |of: &[u8], at: usize, count: usize| {
        let mut changed = of.to_vec();
        changed[at..at + count].fill(0xff);
        changed
    };
    let (header, contents) = safetensors::SafeTensors::read_metadata(&trace).unwrap();
    let first = |prefix: &str| {
        let tensors = contents.tensors();
        let mut found: Vec<_> = tensors.iter().filter(|(name, _)| name.starts_with(prefix)).collect();
        found.sort_by_key(|(name, _)| name.as_str());
        (8 + header + found[0].1.data_offsets.0, found[0].0.clone())
    };
    let mut small = Vec::new();
    picture().write_to(&mut std::io::Cursor::new(&mut small), image::ImageFormat::Png).unwrap();
    let json = String::from_utf8(bytes("run.json")).unwrap();
    let (sum, step, own, text) = (first("sum/"), first("step/"), first("self/"), first("text/"));
    let damages: Vec<(&str, Vec<u8>, &str)> = vec![
        ("image.png", image[..image.len() / 2].to_vec(), "cut short"),
        ("image.png", small, "64x48 pixels, and run.json says 64x64"),
        ("trace.safetensors", trace[..trace.len() / 2].to_vec(), "damaged"),
        ("trace.safetensors", all_ones(&trace, sum.0, 4), &sum.1),
        ("trace.safetensors", all_ones(&trace, step.0, 2), &step.1),
        ("trace.safetensors", all_ones(&trace, own.0, 2), "sums to NaN"),
        ("trace.safetensors", all_ones(&trace, text.0, 2), &text.1),
        (
            "run.json",
            json.replacen("\"timesteps\": [", "\"timesteps\": [7.5,", 1).into_bytes(),
            "another list of timesteps",
        ),
    ];
    for (name, damaged, expected) in damages {
        let kept = bytes(name);
        assert!(damaged != kept, "{expected}");
        fs::write(run.join(name), damaged).unwrap();
        let before = content(&run);
        for command in commands {
            let said = if name == "run.json" { "trace.safetensors" } else { name };
            refused(&attnmap(command), 1, &[said, expected]);
            assert!(before == content(&run) && fs::read_dir(place.path()).unwrap().count() == 0, "{command:?}");
        }
        fs::write(run.join(name), kept).unwrap();
    }
    // A file that only some commands read.
    let (name, readers) = ("steps/01.png", &commands[1..4]);
    let kept = bytes(name);
    fs::write(run.join(name), &kept[..kept.len() - 4]).unwrap();
    for command in readers {
        refused(&attnmap(command), 1, &[name]);
    }
}

/// Files that earlier versions wrote: what is read of them says the same when it is written again.
#[test]
fn files_of_earlier_formats_are_read() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/records");
    let json =
        |name: &str| -> serde_json::Value { serde_json::from_slice(&fs::read(fixtures.join(name)).unwrap()).unwrap() };
    let folder = tempfile::tempdir().unwrap();
    for (name, steps, how) in [("run-1.json", 25, "compete"), ("run-2.json", 3, "all, layers up, heads 0-1")] {
        fs::copy(fixtures.join(name), folder.path().join("run.json")).unwrap();
        let record = RunRecord::read(folder.path()).unwrap();
        assert_eq!((record.settings.steps(), record.how().unwrap()), (steps, how.parse().unwrap()), "{name}");
        // As text: a value in memory has all digits of a single float.
        let written: serde_json::Value = serde_json::from_str(&serde_json::to_string(&record).unwrap()).unwrap();
        let old = json(name);
        assert_eq!(written["settings"], old["settings"], "{name}");
        let since_2: &[&str] = if name == "run-2.json" { &["words", "facts", "tokens"] } else { &[] };
        for field in ["command", "aggregate", "display"].iter().chain(since_2) {
            assert_eq!(written[field], old[field], "{name}: {field}");
        }
    }
    let text = fs::read_to_string(fixtures.join("cell.json")).unwrap();
    let cell: attnmap::gallery::CellFacts = serde_json::from_str(&text).unwrap();
    assert_eq!(serde_json::to_string_pretty(&cell).unwrap(), text, "its name is a digest of this");
    assert_eq!(cell.cell.name(), "a-red-apple-to-the-left-of-a-green-frog-on-the-beach-0-76a716ce");
    let sweep: attnmap::facts::sweep::Sweep = serde_json::from_value(json("sweep.json")).unwrap();
    assert_eq!((sweep.seeds, sweep.about.how.how().unwrap()), (vec![0, 1], "compete".parse().unwrap()));
    let evidence: attnmap::evidence::Evidence = serde_json::from_value(json("evidence.json")).unwrap();
    assert!(evidence.how.maps.is_none(), "it is of a version that said it in words alone");
    assert_eq!(evidence.how.how().unwrap(), "compete".parse().unwrap());
    let (written, old) = (serde_json::to_value(&evidence).unwrap(), json("evidence.json"));
    for field in ["format_version", "cut", "steps", "aggregate"] {
        assert_eq!(written[field], old[field], "{field}");
    }
}
