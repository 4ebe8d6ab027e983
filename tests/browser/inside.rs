//! *Inside one score*: what the page shows of queries and keys against the run's own file.

use crate::chrome::{Chrome, Look};
use crate::report::generate_with;
use crate::{browser, clean, scratch};
use attnmap::trace::Queries;
use serde_json::json;

/// A number that the page keeps at an element.
fn number(chrome: &mut Chrome, selector: &str, name: &str) -> f32 {
    let read = format!("document.querySelector('{selector}').dataset.{name}");
    let text = chrome.eval(&read);
    text.as_str().unwrap_or_else(|| panic!("{selector} has no {name}")).parse().unwrap()
}

/// The sum of the column *gives* of the table of channels.
fn sum_of_table(chrome: &mut Chrome, within: &str) -> f32 {
    let sum = format!(
        "(() => {{ const part = document.querySelector('{within}'); part.querySelector('details').open = true; \
         return new Promise((done) => setTimeout(() => done([...part.querySelectorAll('tbody td:last-child')]\
         .reduce((sum, cell) => sum + Number(cell.textContent.replace('−', '-')), 0)), 100)); }})()"
    );
    chrome.eval(&sum).as_f64().unwrap() as f32
}

#[test]
fn products_of_the_channels_sum_to_the_score() {
    let Some(mut chrome) = browser() else { return };
    let folder = tempfile::tempdir().unwrap();
    let out = generate_with("tiny-sdxl", folder.path(), &["--keep-queries"]);
    let page = out.join("report.html");
    let queries = Queries::load(&out.join("queries.safetensors")).unwrap();

    // Layer 2, head 1, the word apple, which is token 3, at the pixel 50, 20 of 96x64.
    chrome.open(&page, "#w=2&at=1:1&box=50,20,1,1", Look::default());
    let own = &queries.sites[1];
    let cell = (20 * own.site.height / 64) * own.site.width + 50 * own.site.width / 96;
    let score = own.layer.score(1, cell, 3);
    let says = ".panel.inside .inside-says";
    let shown = number(&mut chrome, says, "score");
    assert!((shown - score).abs() < 1e-4, "{shown} on the page, {score} in the file");
    let all = own.layer.log_sum_exp(1, cell, 0..queries.key_count);
    let probability = number(&mut chrome, says, "probability");
    assert!((probability - (score - all).exp()).abs() < 1e-5, "{probability}");
    let summed = sum_of_table(&mut chrome, ".panel.inside");
    assert!((summed - score).abs() < 0.0006 * own.layer.head_dim as f32, "{summed} and {score}");
    let bars = "document.querySelectorAll('.panel.inside .product rect.bar').length";
    assert_eq!(chrome.eval(bars), json!(own.layer.head_dim));
    assert_eq!(chrome.eval("location.hash"), json!("#w=2&at=1:1&box=50,20,1,1"));

    // A channel is read with the keyboard, by its number.
    chrome.eval("document.querySelector('.panel.inside .channel-rows').focus()");
    chrome.key("ArrowLeft", false);
    chrome.settle();
    let read = chrome.eval("document.querySelector('.panel.inside .channel-rows').getAttribute('aria-valuetext')");
    let products = own.layer.products(1, cell, 3);
    let most = (0..products.len()).max_by(|&a, &b| products[a].total_cmp(&products[b])).unwrap();
    assert!(read.as_str().unwrap().starts_with(&format!("channel {most}: query ")), "{read}");
    assert_eq!(chrome.eval("document.querySelectorAll('.panel.inside rect.lit').length"), json!(3));

    // Two tokens of the second encoder: the third token looks at the first of the text.
    chrome.open(&page, "#matrix=2.1.1&pair=3.1&sorted=0", Look::default());
    let encoder = &queries.encoders[1];
    let score = encoder.layers[2].score(1, 3, 1);
    let part = "[data-encoder=text_2] .inside";
    let shown = number(&mut chrome, &format!("{part} .inside-says"), "score");
    assert!((shown - score).abs() < 1e-4, "{shown} on the page, {score} in the file");
    let summed = sum_of_table(&mut chrome, part);
    assert!((summed - score).abs() < 0.0006 * products.len().max(8) as f32, "{summed} and {score}");
    chrome.click("[data-encoder=text_2] .matrix td[data-i=\"2\"][data-j=\"1\"]");
    assert_eq!(chrome.eval("location.hash"), json!("#matrix=2.1.1&pair=2.1&sorted=0"));

    // With colours that the reader's system chooses, both signs are still told from the ground, and
    // from each other.
    for dark in [false, true] {
        chrome.open(&page, "#w=2&at=1:1&box=50,20,1,1", Look { width: 390, height: 844, dark, ..Look::default() });
        let scheme = ("prefers-color-scheme", if dark { "dark" } else { "light" });
        chrome.emulate("screen", &[("forced-colors", "active"), scheme]);
        let fill = |of: &str| {
            format!("getComputedStyle(document.querySelector('.panel.inside rect.{of}') || document.body).fill")
        };
        let ground = chrome.eval("getComputedStyle(document.querySelector('.panel.inside .bars-of')).backgroundColor");
        let [plus, minus, zero] = ["plus", "minus", "zero"].map(|of| chrome.eval(&fill(of)));
        assert!(plus != ground && minus != ground && zero != ground && plus != minus, "{plus} {minus} {ground}");
        assert_eq!(chrome.overflow(), json!([]));
        chrome.screenshot(true).save(scratch(&format!("inside-forced-{dark}.png"))).unwrap();
    }

    for (width, height, dark) in [(390, 844, true), (390, 844, false), (1280, 800, false), (2560, 1440, true)] {
        chrome.open(&page, "#w=2&at=1:1&box=50,20,1,1&pair=3.1", Look { width, height, dark, still: true });
        let name = format!("inside-{width}-{}.png", if dark { "dark" } else { "light" });
        chrome.screenshot(true).save(scratch(&name)).unwrap();
        assert_eq!(chrome.overflow(), json!([]), "at {width} px");
    }
    clean(&mut chrome);
}
