//! The page of a sweep, made by the real binary on a tiny checkpoint.

use crate::chrome::Look;
use crate::{browser, clean, scratch};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;

fn attnmap(folder: &Path, args: &[&str]) {
    let fixture = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/tiny-sd1");
    let done = Command::new(env!("CARGO_BIN_EXE_attnmap"))
        .args(args)
        .args(["--steps", "2", "--size", "96x64", "--model", fixture])
        .current_dir(folder)
        .output()
        .unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

#[test]
fn habits_dots_and_seeds_are_shown_and_linked() {
    let Some(mut chrome) = browser() else { return };
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let prompt = "a red apple on the beach";
    // A run of one of the seeds lies beside the sweep: each links to the other.
    attnmap(at, &["generate", prompt, "--seed", "3"]);
    attnmap(at, &["sweep", prompt, "--seeds", "0..9"]);
    attnmap(at, &["generate", prompt, "--seed", "4"]);
    let sweep = at.join("outputs/a-red-apple-on-the-beach-sweep");
    let found: Value = serde_json::from_slice(&std::fs::read(sweep.join("sweep.json")).unwrap()).unwrap();
    let page = sweep.join("index.html");
    let wait = "document.readyState === 'complete' && [...document.images].every((image) => image.complete || \
    image.loading === 'lazy')";
    let open = |chrome: &mut crate::chrome::Chrome, look: Look| {
        chrome.look(look);
        chrome.call("Page.navigate", json!({"url": format!("file://{}", page.display())}));
        chrome.wait(wait);
    };
    for (width, dark) in [(390, true), (1280, false), (1920, true)] {
        open(&mut chrome, Look { width, dark, ..Look::default() });
        assert_eq!(chrome.overflow(), json!([]), "at {width}");
        chrome.screenshot(true).save(scratch(&format!("sweep-{width}.png"))).unwrap();
    }
    assert_eq!(chrome.text("h1"), prompt);
    // A sentence for each word that has a place of its own. This checkpoint draws no apple, and of
    // what was not drawn nothing else is said.
    let sentences = chrome.eval("[...document.querySelectorAll('.habits li')].map((e) => e.textContent)");
    assert_eq!((sentences.as_array().unwrap().len(), &found["words"][2]["neglected"]), (1, &json!(1.0)), "{sentences}");
    // Centres are pixels, and words that no test tells of have no count.
    let heads = chrome.eval("[...document.querySelectorAll('thead th')].map((e) => e.textContent)");
    assert_eq!(heads, json!(["Word", "peak", "centre x, y", "scatter", "probably not drawn"]));
    let cells = chrome.eval("[...document.querySelectorAll('tbody tr:nth-child(3) > *')].map((e) => e.textContent)");
    let [x, y] = ["x", "y"].map(|axis| found["words"][2]["mean"][axis].as_f64().unwrap() as f32);
    assert_eq!(cells[0], json!("apple"));
    assert_eq!(cells[2], json!(format!("{},{}", (x * 96.0).floor(), (y * 64.0).floor())));
    assert!(cells[4].as_str().unwrap().ends_with(" of 9"), "{cells}");
    // One dot per seed, where the word landed, over the mean image.
    let dots = chrome.eval(
        "[...document.querySelectorAll('.plot')].map((p) => \
    [p.querySelectorAll('circle:not(.mean)').length, p.querySelector('img').naturalWidth])",
    );
    assert_eq!(dots, json!([[9, 96], [9, 96], [9, 96]]));
    let apple = &found["words"][2]["centroids"][0];
    let first =
        chrome.eval("Number(document.querySelectorAll('.plot')[1].querySelector('circle').getAttribute('cx')) / 96");
    assert!((first.as_f64().unwrap() - apple["x"].as_f64().unwrap()).abs() < 0.001, "{first} {apple}");
    // The image of every seed opens; that of seed 3 has its page.
    let seeds = chrome.eval("[...document.querySelectorAll('.seeds > li > a')].map((a) => a.getAttribute('href'))");
    let expected: Vec<String> = (0..9).map(|seed| format!("seeds/{seed}.png")).collect();
    assert_eq!(seeds, json!(expected));
    for file in &expected {
        assert_eq!(image::open(sweep.join(file)).unwrap().width(), 96);
    }
    let runs = chrome.eval("[...document.querySelectorAll('.seeds span a')].map((a) => a.getAttribute('href'))");
    assert_eq!(runs, json!(["../a-red-apple-on-the-beach-3/report.html"]));
    chrome.click(".seeds span a");
    chrome.wait("document.documentElement?.dataset.ready === 'true'");
    // The sweep has written its link into the page of a run that was there before. A run that was
    // made after it has it too.
    assert!(chrome.text(".meta a").contains("9 seeds"));
    chrome.open(&at.join("outputs/a-red-apple-on-the-beach-4/report.html"), "", Look::default());
    assert!(chrome.text(".meta a").contains("9 seeds"));
    chrome.click(".meta a");
    chrome.wait("document.querySelectorAll('.seeds img').length === 9");
    clean(&mut chrome);
    // A sweep in its place with fewer seeds leaves no images of the others behind.
    attnmap(at, &["sweep", prompt, "--seeds", "0..2", "--out", sweep.to_str().unwrap(), "--force"]);
    assert_eq!(std::fs::read_dir(sweep.join("seeds")).unwrap().count(), 2);
}
