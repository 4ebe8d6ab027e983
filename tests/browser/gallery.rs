//! A gallery's page with thousands of made-up cells.

use crate::chrome::Look;
use crate::{browser, clean, scratch};
use attnmap::gallery::{Cell, CellFacts, Failure, IndexCell, IndexWord, index_page};
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
        steps: Some(25),
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
    let facts = CellFacts { cell, top: 0.3, map: Grid::new(16, 16) };
    IndexCell { name: format!("cell-{order}"), facts, size: (128, 128), numbers, expected: Vec::new(), words }
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
    let html = index_page(&cells, &failures);
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
    chrome.eval("(() => { const s = document.querySelectorAll('.tools select')[2]; s.value = 'w:share'; s.dispatchEvent(new Event('change')); })()");
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
    chrome.eval("(() => { const f = document.querySelector('input[type=search]'); f.value = 'blue 98'; f.dispatchEvent(new Event('input')); })()");
    chrome.settle();
    assert_eq!(chrome.text(".meta span:nth-child(2)"), "50 of 5000 images");
    chrome.eval("(() => { const f = document.querySelector('input[type=search]'); f.value = 'zebra'; f.dispatchEvent(new Event('input')); })()");
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
    clean(&mut chrome);
}
