//! `attnmap view`: a run drawn again by the real binary, and every choice that it refuses.

use crate::cli::{attnmap, generate, refused};
use serde_json::Value;
use std::fs;
use std::path::Path;

#[test]
fn view_makes_a_run_again_with_other_choices() {
    let (made, _folder, run) = generate("a red apple and a red frog", &["--trace-negative", "--negative", "beach"]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let read = |name: &str| fs::read(run.join(name)).unwrap();
    let (image, trace, maps) = (read("image.png"), read("trace.safetensors"), read("heatmaps.safetensors"));
    let path = run.to_str().unwrap();
    let view = |more: &[&str]| {
        let output = attnmap(&[&["view", path, "--json"], more].concat());
        assert!(output.status.success(), "{more:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };

    // The same choices give the same bytes.
    view(&[]);
    assert_eq!(maps, read("heatmaps.safetensors"));

    let facts = view(&["--words", "red apple,red#2,<start>", "--style", "contour", "--steps-window", "1-1"]);
    let words: Vec<_> = facts["words"].as_array().unwrap().iter().map(|word| word["text"].as_str().unwrap()).collect();
    assert_eq!(words, ["red apple", "red", "<start>"]);
    assert_eq!(facts["aggregate"], "compete, steps 1-1");
    assert_eq!(facts["display"]["style"], "contour");
    let mut overlays: Vec<_> = fs::read_dir(run.join("overlays"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    overlays.sort();
    assert_eq!(overlays, ["00-red-apple.png", "01-red-2.png", "02-start.png"]);
    assert_eq!(facts, serde_json::from_slice::<Value>(&read("run.json")).unwrap());

    assert_eq!(view(&["--half", "unconditional"])["words"][0]["text"], "beach");
    let page = run.join("compared.html");
    let compared = attnmap(&["compare", path, path, "--out", page.to_str().unwrap()]);
    refused(
        &compared,
        2,
        &["run: it has no maps of its prompt", "--half unconditional", "make them with `attnmap view`"],
    );
    assert_eq!(view(&["--layers", "up", "--heads", "0"])["aggregate"], "all, layers up, heads 0");
    assert_eq!((image, trace), (read("image.png"), read("trace.safetensors")), "only the pictures change");
}

#[test]
fn view_refuses_in_one_line_and_changes_nothing() {
    let (made, folder, run) = generate("a red apple", &["--no-step-maps"]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let before = fs::read(run.join("run.json")).unwrap();
    let path = run.to_str().unwrap();
    let refuse =
        |more: &[&str], code, parts: &[&str]| refused(&attnmap(&[&["view", path], more].concat()), code, parts);
    refuse(&["--words", "pear"], 2, &["--words", "\"pear\" is not in the prompt", "apple"]);
    refuse(&["--heads", "0-99"], 2, &["--heads", "99 does not exist"]);
    refuse(&["--heads", "0", "--steps-window", "1-1"], 2, &["cannot be combined with --heads"]);
    refuse(&["--steps-window", "1-1"], 2, &["no single steps"]);
    refuse(&["--resolution", "999"], 2, &["--resolution", "no layer has a grid of 999; this run has"]);
    refuse(&["--half", "unconditional"], 2, &["no unconditional half"]);
    refuse(&["--opacity", "2"], 2, &["--opacity", "from 0 to 1"]);
    refuse(&["--overlay-size", "0"], 2, &["--overlay-size", "64 to 4096"]);
    refuse(&["--colormap", "jet"], 2, &["--colormap", "magma"]);
    refuse(&["--out", path], 2, &["--out", "--force"]);
    assert_eq!(before, fs::read(run.join("run.json")).unwrap());

    let nowhere = folder.path().join("nowhere");
    refused(&attnmap(&["view", nowhere.to_str().unwrap()]), 1, &["nowhere", "no such folder"]);
    fs::write(run.join("trace.safetensors"), b"cut short").unwrap();
    refuse(&[], 1, &["trace.safetensors", "make the run again"]);
}

#[test]
fn the_way_to_the_other_half_is_one_that_works() {
    let (made, _folder, run) = generate("a red apple", &["--guidance", "1"]);
    assert!(made.status.success());
    let view = |run: &std::path::Path| attnmap(&["view", &run.display().to_string(), "--half", "unconditional"]);
    refused(&view(&run), 2, &["--half", "--guidance above 1 and --trace-negative"]);
    let (looked, image) = (run.with_file_name("looked"), run.join("image.png").display().to_string());
    let fixture =
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiny-sd1").display().to_string();
    let out = looked.display().to_string();
    assert!(attnmap(&["trace", &image, "an apple", "--model", &fixture, "--out", &out]).status.success());
    refused(&view(&looked), 2, &["--half", "a look at a picture has no unconditional half"]);
}

/// Maps of the negative prompt are not taken for the prompt's where both have as many tokens.
#[test]
fn maps_of_the_other_half_are_not_compared() {
    let (output, _folder, run) = generate("a frog", &["--negative", "a box", "--trace-negative"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let path = run.to_str().unwrap();
    let page = run.join("compared.html");
    let compare = || attnmap(&["compare", path, path, "--force", "--out", page.to_str().unwrap()]);
    assert!(compare().status.success());
    assert!(attnmap(&["view", path, "--half", "unconditional"]).status.success());
    refused(&compare(), 2, &["it has no maps of its prompt"]);
}

/// What differs between two kinds of maps is nothing that a run did.
#[test]
fn words_of_different_kinds_of_maps_are_not_compared() {
    let (output, folder, run) = generate("a frog", &[]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let (path, other, page) = (run.to_str().unwrap(), folder.path().join("other"), folder.path().join("page.html"));
    let (other, page) = (other.to_str().unwrap(), page.to_str().unwrap());
    assert!(attnmap(&["view", path, "--aggregate", "daam", "--out", other]).status.success());
    let said = |more: &[&str]| {
        let output = attnmap(&[&["compare", path, other, "--force", "--out", page], more].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let text = said(&[]);
    assert!(text.contains("maps compete in A, daam in B") && text.contains("words are not compared"), "{text}");
    assert!(!text.contains("looked at"), "{text}");
    assert!(!said(&["--aggregate", "daam"]).contains("not compared"));
}

#[test]
fn regions_go_out_as_masks_outlines_and_coco() {
    let (made, _folder, run) = generate("a red apple and a red frog", &["--size", "128x64"]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let path = run.to_str().unwrap();
    let output = attnmap(&["view", path, "--words", "apple,red#2", "--masks", "--outline", "svg", "--json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let record: Value = serde_json::from_slice(&output.stdout).unwrap();
    for word in record["words"].as_array().unwrap() {
        let (places, otsu) = (word["places"].as_array().unwrap(), word["otsu"].as_f64().unwrap());
        assert!(!places.is_empty() && (0.0..1.0).contains(&otsu), "{word}");
        let shares: Vec<f64> = places.iter().map(|place| place["share"].as_f64().unwrap()).collect();
        assert!(shares.iter().sum::<f64>() < 1.0001 && shares.is_sorted_by(|a, b| a >= b), "{shares:?}");
    }
    let mut names: Vec<_> = fs::read_dir(run.join("regions")).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["00-apple.png", "00-apple.svg", "01-red-2.png", "01-red-2.svg", "coco.json"]);
    let coco: Value = serde_json::from_slice(&fs::read(run.join("regions/coco.json")).unwrap()).unwrap();
    assert_eq!((&coco["images"][0]["width"], &coco["images"][0]["height"]), (&128.into(), &64.into()));
    let names: Vec<_> = coco["categories"].as_array().unwrap().iter().map(|word| word["name"].clone()).collect();
    assert_eq!(names, ["apple", "red#2"]);
    let annotations = coco["annotations"].as_array().unwrap();
    for (word, file) in ["00-apple", "01-red-2"].into_iter().enumerate() {
        let mask = image::open(run.join(format!("regions/{file}.png"))).unwrap().into_luma8();
        assert_eq!(mask.dimensions(), (128, 64));
        let columns: Vec<u8> =
            (0..128).flat_map(|x| (0..64).map(move |y| (x, y))).map(|(x, y)| mask.get_pixel(x, y).0[0]).collect();
        // A place each: parts of the mask by run lengths, column by column, and apart from each
        // other.
        let places: Vec<_> = annotations.iter().filter(|entry| entry["category_id"] == word + 1).collect();
        assert_eq!(coco["categories"][word]["places"], places.len());
        assert_eq!(record["words"][word]["places"].as_array().unwrap().is_empty(), places.is_empty());
        let mut seen = vec![0u8; columns.len()];
        for place in places {
            let counts = place["segmentation"]["counts"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap());
            let bits: Vec<u8> = counts.enumerate().flat_map(|(at, n)| vec![255 * (at % 2) as u8; n as usize]).collect();
            assert!(bits.iter().zip(&columns).all(|(place, all)| place & all == *place), "within the mask");
            assert!(bits.iter().zip(&seen).all(|(place, other)| place & other == 0), "apart");
            seen.iter_mut().zip(&bits).for_each(|(seen, bit)| *seen |= bit);
            let inside: Vec<usize> = (0..bits.len()).filter(|&at| bits[at] > 0).collect();
            assert_eq!(place["area"], inside.len());
            let ends = |of: fn(usize) -> usize| {
                let all = || inside.iter().map(|&at| of(at));
                (all().min().unwrap(), all().max().unwrap() + 1)
            };
            let ((left, right), (top, bottom)) = (ends(|at| at / 64), ends(|at| at % 64));
            assert_eq!(place["bbox"], serde_json::json!([left, top, right - left, bottom - top]));
        }
        assert!(
            fs::read_to_string(run.join(format!("regions/{file}.svg"))).unwrap().contains("viewBox=\"0 0 128 64\"")
        );
    }

    let share = |more: &[&str]| {
        let output = attnmap(&[&["view", path, "--words", "apple", "--outline", "json"], more].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(String::from_utf8_lossy(&output.stdout).contains("outlines.json"));
        let all: Value = serde_json::from_slice(&fs::read(run.join("regions/outlines.json")).unwrap()).unwrap();
        assert!(!all["words"][0]["outlines"].as_array().unwrap().is_empty());
        (all["words"][0]["threshold"].as_f64().unwrap(), all["words"][0]["area"].as_f64().unwrap())
    };
    let (usual, high, otsu) = (share(&[]), share(&["--threshold", "0.9"]), share(&["--otsu"]));
    assert!((usual.0 - 0.4).abs() < 1e-6 && high.1 < usual.1 && otsu.0 != usual.0, "{usual:?} {high:?} {otsu:?}");
    refused(&attnmap(&["view", path, "--otsu"]), 2, &["--otsu", "add --masks or --outline svg"]);

    // The same files with the run itself.
    let masked = ["--size", "128x64", "--words", "apple,red#2", "--masks", "--outline", "svg"];
    let (output, _other, beside) = generate("a red apple and a red frog", &masked);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stdout).contains("regions (each word's region"));
    for file in ["00-apple.png", "01-red-2.svg", "coco.json"] {
        let [a, b] = [&run, &beside].map(|run| fs::read(run.join("regions").join(file)).unwrap());
        assert_eq!(a, b, "{file}");
    }
    let picture = run.join("image.png").display().to_string();
    let look = beside.with_file_name("look").display().to_string();
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiny-sd1").display().to_string();
    let traced = attnmap(&["trace", &picture, "an apple", "--model", &model, "--masks", "--out", &look]);
    assert!(traced.status.success(), "{}", String::from_utf8_lossy(&traced.stderr));
    assert!(Path::new(&look).join("regions/coco.json").is_file());
    let (output, _none, _) = generate("an apple", &["--otsu"]);
    refused(&output, 2, &["--otsu", "add --masks or --outline svg"]);
}

#[test]
fn what_an_animation_or_a_question_cannot_heed_is_refused() {
    let (made, _folder, run) = generate("a red apple and a frog", &[]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let path = run.to_str().unwrap();
    for (option, value) in [("--heads", "0"), ("--steps-window", "1-1")] {
        assert!(attnmap(&["view", path, option, value]).status.success());
        // Also where the run's own maps are of them.
        refused(&attnmap(&["animate", path, "--words", "frog", option, value]), 2, &[option, "every step"]);
        assert!(attnmap(&["animate", path, "--words", "frog"]).status.success());
    }
    // One line: before any word is tested.
    refused(&attnmap(&["ask", path, "--versus", "frog,frog"]), 2, &["--versus", "both are the same word"]);
    assert!(!run.join("evidence.json").exists());
}

#[test]
fn pages_are_made_of_all_runs_that_are_named() {
    let (made, folder, run) = generate("a red apple", &["--size", "64x64"]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    fs::remove_file(run.join("report.html")).unwrap();
    // A sweep or a gallery beside the runs is none.
    let other = folder.path().join("a-sweep");
    fs::create_dir(&other).unwrap();
    let in_run = run.join("run.json");
    let output = attnmap(&["report", other.to_str().unwrap(), in_run.to_str().unwrap(), "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let written: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(written[0]["run"], run.to_str().unwrap());
    assert!(run.join("report.html").is_file());
    assert!(String::from_utf8_lossy(&output.stderr).contains("a-sweep"));
}

#[test]
fn check_reads_what_was_found_later() {
    let (made, _folder, run) = generate("a red apple", &["--size", "64x64", "--steps", "2"]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let explained = attnmap(&["explain", run.to_str().unwrap(), "--words", "apple", "--quiet"]);
    assert!(explained.status.success(), "{}", String::from_utf8_lossy(&explained.stderr));
    let faults = || -> Vec<String> {
        let output = attnmap(&["check", run.to_str().unwrap(), "--json"]);
        let checked: Value = serde_json::from_slice(&output.stdout).unwrap();
        let faults = checked[0]["faults"].as_array().unwrap();
        assert_eq!(output.status.success(), faults.is_empty());
        faults.iter().map(|fault| fault["file"].as_str().unwrap().to_owned()).collect()
    };
    assert!(faults().is_empty());
    let evidence: Value = serde_json::from_slice(&std::fs::read(run.join("evidence.json")).unwrap()).unwrap();
    let picture = evidence["figures"][0]["file"].as_str().unwrap().to_owned();
    std::fs::write(run.join(&picture), "no PNG").unwrap();
    assert_eq!(faults(), [picture]);
    std::fs::create_dir_all(run.join("why")).unwrap();
    let files = ["evidence.json", "why/apple.json", "attribution.json", "components.json"];
    files.iter().for_each(|file| std::fs::write(run.join(file), "{").unwrap());
    assert_eq!(faults(), files);
}

#[test]
fn what_was_checked_is_told_beside_what_is_no_run() {
    let (made, _folder, run) = generate("a red apple", &["--size", "64x64"]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let output = attnmap(&["check", "nowhere", run.to_str().unwrap(), "elsewhere", "--json"]);
    assert!(!output.status.success());
    let checked: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((checked.as_array().unwrap().len(), &checked[0]["faults"]), (1, &serde_json::json!([])));
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(told.lines().count() == 2 && told.contains("nowhere") && told.contains("elsewhere"), "{told}");
}
