//! A gallery's page with thousands of made-up cells.

use crate::chrome::Look;
use crate::{browser, clean, scratch};
use attnmap::gallery::{Cell, CellFacts, Failure, IndexCell, IndexWord, index_page};
use attnmap::run::Sampling;
use attnmap::trace::Grid;
use serde_json::json;
use std::path::PathBuf;

const PROMPTS: usize = 100;
const SEEDS: usize = 50;

fn cell(order: usize) -> Cell {
    let (prompt, seed) = (order / SEEDS, order % SEEDS);
    let prompt = match prompt {
        0 => "<script>alert(1)</script> \"frog\" & </style> ../../etc/passwd".to_string(),
        1 => "समुद्र तट पर एक हरा मेंढक".to_string(),
        2 => "تفاحة حمراء على الشاطئ".to_string(),
        n => format!("a {} apple and frog number {n}", ["red", "green", "blue"][n % 3]),
    };
    Cell {
        base: prompt.clone(),
        prompt,
        model: "embedded".into(),
        sampling: Sampling { steps: Some(25), ..Sampling::default() },
        seed: seed as u64,
        order,
        ..Cell::default()
    }
}

fn index_cell(order: usize) -> IndexCell {
    let cell = cell(order);
    let words = cell.prompt.split(' ').enumerate();
    let words = words.map(|(i, word)| {
        let share = 0.01 + 0.001 * ((order * 31 + i * 17) % 97) as f64;
        let numbers = [("area", 0.2), ("entropy", 0.8), ("peak", 3.0 * share), ("peak x", 0.5), ("share", share)];
        let numbers = numbers.map(|(name, number)| (name.to_string(), number)).into();
        IndexWord { name: word.to_lowercase(), numbers }
    });
    let words: Vec<IndexWord> = words.collect();
    let numbers = vec![("start token share".to_string(), 0.6 + 0.0001 * (order * 7 % 1000) as f64)];
    // A note in every tenth cell, of two kinds.
    let notes = match order % 20 {
        3 => vec![(0, "the prompt says apple left of frog; the maps have apple right of frog".to_owned())],
        13 => vec![(1, "<b>frog</b> was probably not drawn".to_owned())],
        _ => Vec::new(),
    };
    let facts = CellFacts { cell, top: 0.3, map: Grid::new(16, 16) };
    IndexCell {
        name: format!("cell-{order}"),
        facts,
        size: (128, 128),
        numbers,
        expected: Vec::new(),
        left_out: Vec::new(),
        words,
        notes,
    }
}

/// What cannot be shown without the folder of the cells is said.
#[test]
fn a_page_without_its_cells_says_so() {
    let Some(mut chrome) = browser() else { return };
    let file = scratch("gallery-alone.html");
    let cells: Vec<IndexCell> = (0..4).map(index_cell).collect();
    std::fs::write(&file, index_page(&cells, &[], Some(9))).unwrap();
    chrome.open(&file, "", Look::default());
    chrome.settle();
    assert!(chrome.text(".missing").contains("--pack"));
    assert_eq!(chrome.eval("document.querySelector('.missing').hidden"), json!(false));
    assert_eq!(chrome.text(".meta span:nth-child(2)"), "4 images so far of 9");
}

/// A gallery's folder of which every picture is the same two files.
fn gallery(count: usize) -> PathBuf {
    let folder = scratch("gallery");
    std::fs::remove_dir_all(&folder).ok();
    std::fs::create_dir_all(folder.join("cells")).unwrap();
    let thumb = image::RgbImage::from_fn(128, 128, |x, y| image::Rgb([x as u8 * 2, 140, y as u8 * 2]));
    thumb.save(folder.join("thumb.jpg")).unwrap();
    // Eight maps of a disc, each with its border rows doubled.
    let maps = image::RgbaImage::from_fn(16, 18 * 8, |x, y| {
        let (dx, dy) = (x as f32 - 7.5, (y % 18) as f32 - 8.5);
        image::Rgba([213, 94, 0, (255.0 * (-(dx * dx + dy * dy) / 12.0).exp()) as u8])
    });
    maps.save(folder.join("maps.png")).unwrap();
    for order in 0..count {
        let cell = folder.join("cells").join(format!("cell-{order}"));
        std::fs::create_dir(&cell).unwrap();
        for name in ["thumb.jpg", "maps.png"] {
            std::fs::hard_link(folder.join(name), cell.join(name)).unwrap();
        }
    }
    let cells: Vec<IndexCell> = (0..count).map(index_cell).collect();
    let failures = vec![Failure { cell: cell(3), error: "out of <b>memory</b>".into() }];
    let html = index_page(&cells, &failures, None);
    println!("index of {count} cells: {} kB", html.len() / 1000);
    std::fs::write(folder.join("index.html"), html).unwrap();
    folder.join("index.html")
}

#[test]
fn thousands_of_cells_open_scroll_filter_and_sort() {
    let Some(mut chrome) = browser() else { return };
    let file = gallery(PROMPTS * SEEDS);
    chrome.open(&file, "", Look::default());
    let opened = chrome.eval("Number(document.documentElement.dataset.opened)").as_f64().unwrap();
    println!("5,000 cells opened in {opened} ms");
    // From the click on a word to the frame in which all cells in the window have its glow.
    let lit = chrome.eval(
        "new Promise((done) => { const b = document.querySelectorAll('.words button')[1], from = performance.now(); \
        b.click(); \
         requestAnimationFrame(() => requestAnimationFrame(() => { const t = performance.now() - from; b.click(); \
done(t); })); })",
    );
    println!("a word lit in all visible cells in {lit} ms");
    assert!(lit.as_f64().unwrap() < 100.0 * 4.0, "{lit} ms");
    assert!(opened < 3000.0 * 4.0, "{opened} ms"); // three seconds on a quiet machine; tests share theirs
    let drawn =
        |chrome: &mut crate::chrome::Chrome| chrome.eval("document.querySelectorAll('.cell').length").as_u64().unwrap();
    assert!((10..200).contains(&drawn(&mut chrome)), "only what is in the window is drawn");
    assert_eq!(chrome.eval("document.querySelectorAll('.left span').length > 1"), json!(true), "rows are named");

    // A word lights up in every cell that has it.
    chrome.eval("document.querySelector('.view').scrollTop = 1200");
    chrome.settle();
    let frog = "[...document.querySelectorAll('.words button')].find((b) => b.textContent.startsWith('frog '))";
    chrome.eval(&format!("{frog}.click()"));
    chrome.settle();
    assert_eq!(chrome.eval("document.querySelectorAll('.cell .lit:not([hidden])').length"), json!(drawn(&mut chrome)));
    chrome.screenshot(false).save(scratch("gallery-1280.png")).unwrap();
    assert!(chrome.eval("location.hash").as_str().unwrap().contains("word=frog"));

    // Sorted by the word's share: captions fall.
    chrome.eval(
        "(() => { const s = [...document.querySelectorAll('.tools select')].find((s) => \
    [...s.options].some((o) => o.value === 'w:share')); s.value = 'w:share'; s.dispatchEvent(new Event('change')); \
})()",
    );
    chrome.settle();
    chrome.eval("document.querySelector('.view').scrollTop = 0");
    chrome.settle();
    let shares = chrome.eval(
        "[...document.querySelectorAll('.cell')].map((c) => [c.style.transform, c.querySelector('small').textContent]) \
         .map(([t, s]) => [t.match(/-?[\\d.]+/g).map(Number), parseFloat(s)]) \
         .sort((p, q) => p[0][1] - q[0][1] || p[0][0] - q[0][0]).map((p) => p[1])",
    );
    let shares: Vec<f64> = shares.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
    assert!(shares.len() > 10 && shares.windows(2).all(|w| w[0] >= w[1]), "{shares:?}");

    // Scrolling to the end draws the last ones and forgets the first.
    chrome.eval("document.querySelector('.view').scrollTop = 1e9");
    chrome.settle();
    assert!(drawn(&mut chrome) < 200);

    // A filter, and nothing found.
    chrome.eval(
        "(() => { const f = document.querySelector('input[type=search]'); f.value = 'blue 98'; \
    f.dispatchEvent(new Event('input')); })()",
    );
    chrome.settle();
    assert_eq!(chrome.text(".meta span:nth-child(2)"), "50 of 5000 images");
    chrome.eval(
        "(() => { const f = document.querySelector('input[type=search]'); f.value = 'zebra'; \
    f.dispatchEvent(new Event('input')); })()",
    );
    chrome.settle();
    assert_eq!(chrome.eval("document.querySelector('.empty').hidden"), json!(false));

    // Keys move among cells; a link comes back to the same one.
    chrome.open(&file, "", Look::default());
    chrome.eval("document.querySelector('.view').focus()");
    for key in ["ArrowRight", "ArrowRight", "ArrowDown"] {
        chrome.key(key, false);
    }
    let fragment = chrome.eval("location.hash").as_str().unwrap().to_string();
    assert!(fragment.contains("at=cell-51"), "{fragment}");
    chrome.open(&file, "#at=cell-4949&word=apple", Look::default());
    assert_eq!(chrome.eval("document.querySelectorAll('.cell.at').length"), json!(1));
    assert!(chrome.text(".failures").contains("out of <b>memory</b>"));

    for (width, dark) in [(400, false), (1920, true)] {
        chrome.open(&file, "#word=frog&rows=none&columns=none", Look { width, dark, ..Look::default() });
        chrome.screenshot(false).save(scratch(&format!("gallery-{width}.png"))).unwrap();
        let wide = chrome.eval("document.documentElement.scrollWidth").as_u64().unwrap();
        assert!(wide <= u64::from(width), "page is {wide} wide at {width}");
    }

    // What stands out is a filter in plain words.
    chrome.open(&file, "#show=0", Look::default());
    assert_eq!(chrome.text(".meta span:nth-child(2)"), "250 of 5000 images");
    assert!(chrome.text(".tools").contains("a word may not have been drawn (250)"));

    // An image opens large; arrows go on, and the way back leads to where it was.
    chrome.open(&file, "", Look::default());
    chrome.eval("document.querySelector('.view').scrollTop = 5000");
    chrome.settle();
    chrome.eval("[...document.querySelectorAll('.cell a')].find((a) => a.getBoundingClientRect().top > 300).click()");
    chrome.settle();
    assert_eq!(chrome.eval("document.querySelector('dialog.large').open"), json!(true));
    let open =
        |chrome: &mut crate::chrome::Chrome| chrome.eval("decodeURIComponent(/open=([^&]*)/.exec(location.hash)[1])");
    let first = open(&mut chrome);
    chrome.key("ArrowRight", false);
    chrome.settle();
    assert_ne!(open(&mut chrome), first);
    chrome.screenshot(false).save(scratch("gallery-large.png")).unwrap();
    chrome.eval("history.back()");
    chrome.settle();
    chrome.settle();
    assert_eq!(chrome.eval("document.querySelector('dialog.large').open"), json!(false));
    assert!(chrome.eval("document.querySelector('.view').scrollTop").as_f64().unwrap() > 4000.0);
    // What was kept and lit while an image was large stays on the way back from it.
    chrome.eval("document.querySelector('.cell a').click()");
    chrome.settle();
    chrome.key("c", false);
    chrome.eval("document.querySelector('dialog.large .chips button').click()");
    chrome.settle();
    let kept = "document.querySelector('.basket').hidden === false && /word=.+&at=.+&kept=/.test(location.hash)";
    chrome.key("Escape", false);
    chrome.wait(kept);
    assert_eq!(chrome.eval("document.querySelector('dialog.large').open"), json!(false));

    // Two are compared on the spot.
    chrome.open(&file, "#kept=cell-3&open=cell-4&mode=slider&split=25", Look::default());
    let clip = "getComputedStyle(document.querySelectorAll('.stage .picture')[1]).clipPath";
    assert_eq!(chrome.eval(clip), json!("inset(0px 0px 0px 25%)"));
    assert!(chrome.text(".large .side").contains("seed 3 → seed 4"));
    assert!(chrome.text(".large table").contains("points"));

    // Labels tell all cells apart.
    chrome.open(&file, "", Look::default());
    let labels = chrome.eval("[...document.querySelectorAll('.cell a')].map((a) => a.getAttribute('aria-label'))");
    let labels: Vec<&str> = labels.as_array().unwrap().iter().map(|label| label.as_str().unwrap()).collect();
    let distinct: std::collections::BTreeSet<&&str> = labels.iter().collect();
    assert_eq!(distinct.len(), labels.len(), "{labels:?}");
    assert_eq!(chrome.eval("document.querySelectorAll('.words button[tabindex=\"0\"]').length"), json!(1));
    clean(&mut chrome);
}

/// The page of a cell has the word of the gallery, and the way back and on; the gallery knows what
/// comes next.
#[test]
fn the_page_of_a_cell_leads_back_and_on() {
    let Some(mut chrome) = browser() else { return };
    let folder = scratch("gallery-of-pages");
    std::fs::remove_dir_all(&folder).ok();
    let names = ["cell-150", "cell-151", "cell-152"];
    for name in names {
        let cell = folder.join("cells").join(name);
        std::fs::create_dir_all(&cell).unwrap();
        let data = attnmap::report::ReportData {
            cell: Some(name.into()),
            ..crate::sample::sample(&crate::sample::Plan::default())
        };
        std::fs::write(cell.join("report.html"), attnmap::report::page(&data)).unwrap();
    }
    let cells: Vec<IndexCell> = (150..153).map(index_cell).collect();
    std::fs::write(folder.join("index.html"), index_page(&cells, &[], None)).unwrap();
    chrome.open(&folder.join("cells/cell-150/report.html"), "#word=frog", Look::default());
    assert_eq!(chrome.eval("[...document.querySelectorAll('.word[aria-pressed=\"true\"]')].length > 0"), json!(true));
    let follow = |chrome: &mut crate::chrome::Chrome, link: usize, place: &str| {
        chrome.follow(&format!("document.querySelectorAll('nav.cells a')[{link}].click()"), place);
    };
    follow(&mut chrome, 2, "cell-151/report.html");
    assert!(chrome.eval("location.hash").as_str().unwrap().contains("w="), "the word goes with it");
    follow(&mut chrome, 2, "cell-152/report.html");
    follow(&mut chrome, 1, "cell-151/report.html");
    follow(&mut chrome, 0, "gallery-of-pages/index.html");
    let fragment = chrome.eval("location.hash").as_str().unwrap().to_owned();
    assert!(fragment.contains("word=frog") && fragment.contains("at=cell-151"), "{fragment}");
}
