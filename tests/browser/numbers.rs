//! The page's numbers against those of the command line, on a run of the built-in checkpoint. They
//! are of a point, a box, a mask, everything, a layer and a window of steps.

use crate::chrome::{Chrome, Look};
use crate::program::{attnmap, json};
use crate::report::{generate_with, table};
use crate::view::overlay_pixels;
use crate::{browser, clean};
use serde_json::Value;
use std::path::Path;

/// `unicorn` is two tokens.
const PROMPT: &str = "a unicorn and a green frog on the beach";

/// The shares of the page's table at `hash` by the names of `words`, and of start, end and padding
/// after them.
fn shown(chrome: &mut Chrome, page: &Path, hash: &str) -> Vec<f64> {
    chrome.open(page, hash, Look::default());
    table(chrome)
}

/// What `ask` says, in the order of the page's entries.
fn asked(folder: &Path, words: &[String], more: &[&str]) -> Vec<f64> {
    let parts = json(folder, &[&["ask", "run", "--json"], more].concat());
    let of = |name: &str| {
        let part = parts.as_array().unwrap().iter().find(|part| part["word"] == name);
        part.unwrap_or_else(|| panic!("no {name} in {parts}"))["share"].as_f64().unwrap()
    };
    words.iter().map(String::as_str).chain(["<start>", "<end>", "<padding>"]).map(of).collect()
}

#[track_caller]
fn same(page: &[f64], command: &[f64], tolerance: f64, what: &str) {
    assert_eq!(page.len(), command.len(), "{what}");
    for (entry, (page, command)) in page.iter().zip(command).enumerate() {
        assert!((page - command).abs() <= tolerance, "{what}, entry {entry}: the page has {page}, ask {command}");
    }
    assert!((page.iter().sum::<f64>() - 1.0).abs() < 0.02, "{what}: they make a whole");
}

#[test]
fn the_page_and_the_command_line_say_the_same() {
    let Some(mut chrome) = browser() else { return };
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    attnmap(folder, &["generate", PROMPT, "--out", "run", "--steps", "6"]);
    let page = folder.join("run/report.html");
    let record: Value = serde_json::from_slice(&std::fs::read(folder.join("run/run.json")).unwrap()).unwrap();
    let list = |value: &Value| value.as_array().unwrap().clone();
    let name = |word: &Value| {
        let (text, occurrence) = (word["text"].as_str().unwrap(), word["occurrence"].as_u64().unwrap());
        if occurrence > 1 { format!("{text}#{occurrence}") } else { text.to_owned() }
    };
    let words: Vec<String> = list(&record["words"]).iter().map(name).collect();
    assert!(list(&record["words"])[1]["tokens"].as_array().unwrap().len() > 1, "a word of several tokens");

    // The whole image: run.json, facts, ask of everything, and the page with and without a box
    // round everything.
    let shares = |words: &Value| list(words).iter().map(|word| word["share"].as_f64().unwrap()).collect::<Vec<f64>>();
    let facts = json(folder, &["facts", "run", "--json"]);
    assert_eq!(shares(&facts["words"]), shares(&record["words"]));
    let whole = asked(folder, &words, &["--box", "0,0,128,128"]);
    for (ask, run) in whole.iter().zip(shares(&record["words"])) {
        assert!((ask - run).abs() < 1e-6, "ask has {ask} of everything, run.json {run}");
    }
    same(&shown(&mut chrome, &page, "#little=1&special=1"), &whole, 1e-4, "the whole image");
    same(&shown(&mut chrome, &page, "#little=1&special=1&box=0,0,128,128"), &whole, 1e-4, "a box round everything");
    let lifts = json(folder, &["ask", "run", "--json", "--box", "0,0,128,128"]);
    assert!(list(&lifts).iter().all(|part| (part["lift"].as_f64().unwrap() - 1.0).abs() < 1e-6), "{lifts}");

    // A box, a mask of the same pixels, a point.
    let boxed = asked(folder, &words, &["--box", "69,49,40,31"]);
    same(&shown(&mut chrome, &page, "#little=1&special=1&box=69,49,40,31"), &boxed, 1e-3, "a box");
    let inside = |x: u32, y: u32| (69..109).contains(&x) && (49..80).contains(&y);
    let mask = image::GrayImage::from_fn(128, 128, |x, y| image::Luma([if inside(x, y) { 255 } else { 0 }]));
    mask.save(folder.join("mask.png")).unwrap();
    same(&asked(folder, &words, &["--region", "mask.png"]), &boxed, 1e-6, "a mask");
    let point = asked(folder, &words, &["--at", "92,79"]);
    same(&shown(&mut chrome, &page, "#little=1&special=1&box=92,79,1,1"), &point, 1e-3, "a point");

    // One layer, and a window of steps: planes of 256 levels.
    let site = record["sites"].as_array().unwrap().len() - 2;
    let path = record["sites"][site]["path"].as_str().unwrap();
    let layer = asked(folder, &words, &["--layers", path, "--box", "69,49,40,31"]);
    same(
        &shown(&mut chrome, &page, &format!("#little=1&special=1&at={site}&box=69,49,40,31")),
        &layer,
        4e-3,
        "a layer",
    );
    let window = asked(folder, &words, &["--steps-window", "2-4", "--box", "69,49,40,31"]);
    same(&shown(&mut chrome, &page, "#little=1&special=1&steps=2-4&box=69,49,40,31"), &window, 4e-3, "steps");

    // Another choice of maps: the page, run.json, facts and ask follow.
    attnmap(folder, &["view", "run", "--aggregate", "daam"]);
    let daam = asked(folder, &words, &["--box", "69,49,40,31"]);
    assert!(daam.iter().zip(&boxed).any(|(a, b)| (a - b).abs() > 0.01), "DAAM takes other layers");
    same(&shown(&mut chrome, &page, "#little=1&special=1&box=69,49,40,31"), &daam, 1e-3, "daam");
    clean(&mut chrome);
}

/// Stable Diffusion 3 reads a word with CLIP and with T5. Whose tokens count is chosen on the page
/// as `--encoder` chooses, and the address has it.
#[test]
fn the_page_shows_one_encoders_tokens_as_view_does() {
    let Some(mut chrome) = browser() else { return };
    let folder = tempfile::tempdir().unwrap();
    let page = generate_with("tiny-sd3", folder.path(), &[]).join("report.html");
    let words: Vec<String> = ["a", "red", "apple"].map(String::from).to_vec();
    let of_words = |parts: &[f64]| parts[..words.len()].to_vec();
    let picture = |chrome: &mut Chrome| overlay_pixels(chrome).pixels().map(|pixel| pixel.0).collect::<Vec<_>>();
    let mut switched = Vec::new();
    for (encoder, of) in [("clip", "CLIP"), ("t5", "T5")] {
        let parts = json(folder.path(), &["ask", "run", "--json", "--box", "0,0,96,64", "--encoder", encoder]);
        let share = |name: &String| {
            let part = parts.as_array().unwrap().iter().find(|part| part["word"] == name.as_str()).unwrap();
            part["share"].as_f64().unwrap()
        };
        let asked: Vec<f64> = words.iter().map(share).collect();
        let shown = shown(&mut chrome, &page, &format!("#encoder={encoder}&box=0,0,96,64&little=1&special=1"));
        for (page, command) in of_words(&shown).iter().zip(&asked) {
            assert!((page - command).abs() <= 1e-4, "{encoder}: the page has {shown:?}, ask {asked:?}");
        }
        assert!((shown.iter().sum::<f64>() - 1.0).abs() < 0.02, "{encoder}: {shown:?} make a whole");
        // Chosen by hand, the address says it, and the rest of the address stays.
        chrome.open(&page, "#w=2", Look::default());
        let opened = picture(&mut chrome);
        chrome.eval(&format!(
            "(() => {{ const s = [...document.querySelectorAll('.toolbar select')].find((s) => s.value === 'both'), \
             root = document.documentElement; root.dataset.left = 'true'; \
             setTimeout(() => {{ s.value = '{encoder}'; s.dispatchEvent(new Event('change')); }}); return true; }})()"
        ));
        let data = "document.documentElement?.dataset";
        chrome.wait(&format!("{data}.ready === 'true' && {data}.left === undefined"));
        chrome.settle();
        let hash = chrome.eval("location.hash");
        assert_eq!(hash, Value::from(format!("#w=2&encoder={encoder}")));
        assert!(chrome.text(".caption").contains(&format!("{of}’s tokens alone")), "{}", chrome.text(".caption"));
        assert!(picture(&mut chrome) != opened, "{encoder} has another map");
        switched.push((encoder, picture(&mut chrome)));
    }
    // `view` makes the same maps.
    for (encoder, switched) in switched {
        attnmap(folder.path(), &["view", "run", "--encoder", encoder]);
        chrome.open(&page, "#w=2", Look::default());
        assert!(chrome.text(".caption").contains("tokens alone"), "{}", chrome.text(".caption"));
        let viewed = picture(&mut chrome);
        let off: Vec<u8> =
            viewed.iter().flatten().zip(switched.iter().flatten()).map(|(a, b)| a.abs_diff(*b)).collect();
        let mean = off.iter().map(|off| f64::from(*off)).sum::<f64>() / off.len() as f64;
        // The page makes them of planes that are packed coarser than the run's own maps.
        println!("{encoder}: {mean:.1} of 255 levels off on average");
        assert!(mean < 5.0, "{encoder}: {mean} of 255 levels off on average");
    }
    clean(&mut chrome);
}
