//! `report.html` on a made-up run.

use crate::chrome::{Chrome, Look};
use crate::sample::{Plan, sample, with_negative};
use crate::truth::{Tolerance, check};
use crate::{browser, clean, scratch, write};
use attnmap::report::page;
use serde_json::json;
use std::path::PathBuf;

const FROG: usize = 9;
const APPLE: usize = 2;

/// Shares as the table holds them, by entry (words, then start, end, padding).
pub(crate) fn table(chrome: &mut Chrome) -> Vec<f64> {
    let values = chrome.eval(
        "(() => { const out = []; for (const row of document.querySelectorAll('.ranking tr[data-entry]')) \
         out[row.dataset.entry] = Number(row.querySelector('td.number').dataset.value); return out; })()",
    );
    values.as_array().unwrap().iter().map(|v| v.as_f64().unwrap_or(f64::NAN)).collect()
}

/// Mean over a box in image pixels of a latent-grid map, cells weighted by how much of them the box
/// covers.
fn box_mean(map: &[f32], side: usize, pixels: usize, [x, y, w, h]: [f64; 4]) -> f64 {
    let scale = side as f64 / pixels as f64;
    let overlap = |from: f64, len: f64, cell: usize| {
        (((from + len) * scale).min(cell as f64 + 1.0) - (from * scale).max(cell as f64)).max(0.0)
    };
    let (mut sum, mut area) = (0.0, 0.0);
    for row in 0..side {
        for column in 0..side {
            let part = overlap(y, h, row) * overlap(x, w, column);
            sum += part * f64::from(map[row * side + column]);
            area += part;
        }
    }
    sum / area
}

/// How bright the overlay is at a place of the image, 0 to 255; 0 where nothing is painted. Read
/// from a copy, so that the page's own canvas stays as it is.
fn brightness(chrome: &mut Chrome, x: f64, y: f64) -> f64 {
    let read = format!(
        "(() => {{ const from = document.querySelector('.overlay'), to = document.createElement('canvas'); \
         [to.width, to.height] = [from.width, from.height]; const c = to.getContext('2d', {{willReadFrequently: \
true}}); \
         c.drawImage(from, 0, 0); const [r, g, b] = c.getImageData({x} * to.width, {y} * to.height, 1, 1).data; \
         return 0.2126 * r + 0.7152 * g + 0.0722 * b; }})()"
    );
    chrome.eval(&read).as_f64().unwrap()
}

fn assert_shares(seen: &[f64], expected: &[f64], tolerance: f64) {
    for (entry, want) in expected.iter().enumerate() {
        assert!((seen[entry] - want).abs() <= tolerance * want.max(1e-3), "entry {entry}: {} but {want}", seen[entry]);
    }
}

#[test]
fn every_width_and_both_themes_fit() {
    let Some(mut chrome) = browser() else { return };
    let file = write("looks.html", &sample(&Plan::default()));
    for (width, height) in [(400, 900), (1280, 800), (1920, 1080), (3840, 2160)] {
        for dark in [false, true] {
            chrome.open(&file, "#w=9", Look { width, height, dark, still: true });
            let name = format!("looks-{width}-{}.png", if dark { "dark" } else { "light" });
            chrome.screenshot(true).save(scratch(&name)).unwrap();
            assert_eq!(chrome.overflow(), json!([]), "at {width} px");
            let paper = chrome.eval("getComputedStyle(document.body).backgroundColor");
            assert_eq!(paper, json!(if dark { "rgb(22, 21, 18)" } else { "rgb(251, 250, 247)" }));
            clean(&mut chrome);
        }
    }
    // What answers the first question stands on the first screen: image, table, small multiples.
    chrome.open(&file, "", Look::default());
    for part in [".frame", ".caption", ".ranking", ".multiples"] {
        let bottom = chrome.eval(&format!("document.querySelector('{part}').getBoundingClientRect().bottom"));
        if part != ".ranking" {
            assert!(bottom.as_f64().unwrap() <= 800.0, "{part} ends at {bottom}");
        }
    }
}

#[test]
fn a_word_lights_up_locks_and_lets_go() {
    let Some(mut chrome) = browser() else { return };
    let file = write("words.html", &sample(&Plan::default()));
    chrome.open(&file, "", Look::default());
    let frog = format!(".word[data-entry=\"{FROG}\"]");
    // The page opens with a word that names something, its map as plain as on the sheet of words:
    // bright there, dark elsewhere.
    let opened = chrome.text(".caption");
    assert!(
        opened.starts_with("Where the model looked for “frog”. ")
            && (opened.contains("a click keeps it") || opened.contains("Tap a word")),
        "{opened}"
    );
    assert_eq!(chrome.eval("document.querySelectorAll('.word.lit').length"), json!(1));
    assert!(brightness(&mut chrome, 0.72, 0.62) > 2.0 * brightness(&mut chrome, 0.1, 0.1));
    chrome.hover(&format!(".word[data-entry=\"{APPLE}\"]"));
    let caption = chrome.text(".caption");
    assert!(caption.contains("Where the model looked for “apple”: share "), "{caption}");
    assert!(caption.contains(", peak ") && caption.contains(" %, area "), "{caption}");
    assert!(brightness(&mut chrome, 0.28, 0.60) > 2.0 * brightness(&mut chrome, 0.72, 0.62));
    chrome.mouse("mouseMoved", (5.0, 790.0), false);

    chrome.click(&frog);
    chrome.click(&format!(".word[data-entry=\"{APPLE}\"]"));
    chrome.mouse("mouseMoved", (5.0, 790.0), false);
    assert_eq!(chrome.eval("location.hash"), json!("#w=9,2"));
    assert!(chrome.text(".caption").contains("“frog” and “apple”"));
    let pressed = chrome.eval(
        "[...document.querySelectorAll('.word[aria-pressed=true]')].map((b) => b.style.getPropertyValue('--hue'))",
    );
    assert_eq!(pressed.as_array().unwrap().len(), 2);
    assert_ne!(pressed[0], pressed[1], "distinct hues");
    chrome.key("Escape", false);
    assert_eq!(chrome.eval("location.hash"), json!(""));
    // The image alone is a choice of its own.
    chrome.key("i", false);
    assert_eq!(chrome.eval("location.hash"), json!("#show=image"));
    assert_eq!(brightness(&mut chrome, 0.72, 0.62), 0.0, "nothing is painted");
    chrome.key("i", false);

    // Special tokens are folded, with the share that they hold, and unfold.
    assert!(chrome.text(".fold").contains("start, end, padding hold 74 %"), "{}", chrome.text(".fold"));
    assert_eq!(chrome.eval("document.querySelector('#specials').offsetParent === null"), json!(true));
    chrome.click(".fold");
    assert_eq!(chrome.eval("document.querySelectorAll('#specials .word').length"), json!(3));
    assert_eq!(chrome.eval("document.querySelectorAll('.ranking tbody tr').length"), json!(8));
    // Little words are folded, with what they hold together.
    assert!(chrome.text(".rank .fold").contains("little words hold"), "{}", chrome.text(".rank .fold"));
    chrome.click(".rank .fold");
    assert_eq!(chrome.eval("document.querySelectorAll('.ranking tbody tr').length"), json!(16));
    assert_eq!(chrome.eval("location.hash"), json!("#little=1&special=1"));
    clean(&mut chrome);
}

#[test]
fn a_box_and_a_pixel_rank_the_words_as_computed_here() {
    let Some(mut chrome) = browser() else { return };
    let data = sample(&Plan::default());
    let file = write("box.html", &data);
    chrome.open(&file, "#little=1&special=1", Look::default());
    let maps = data.official.as_ref().unwrap();
    let whole: Vec<f64> = maps.shares.iter().map(|&share| f64::from(share)).collect();
    let by_entry = |tokens: &[f64]| -> Vec<f64> {
        let words = data.words.iter().map(|w| w.tokens.iter().map(|&t| tokens[t]).sum());
        words.chain([tokens[0], tokens[data.tokens.len() - 1], tokens[data.tokens.len()]]).collect()
    };
    assert_shares(&table(&mut chrome), &by_entry(&whole), 1e-5);

    let cells = 16 * 16;
    let expect = |region: [f64; 4]| {
        // Of the run's own sites, all channels of every head.
        let own: Vec<_> = data.sites.iter().filter(|site| site.used).collect();
        let heads = || own.iter().flat_map(|site| site.by_head.chunks_exact(data.channels() * cells));
        let mean = |channel: usize| {
            let planes = heads().map(|head| box_mean(&head[channel * cells..][..cells], 16, 128, region));
            planes.sum::<f64>() / (heads().count() * data.timesteps.len()) as f64
        };
        let tokens: Vec<f64> = (0..data.channels()).map(mean).collect();
        by_entry(&tokens)
    };
    let frame = chrome.eval(
        "(() => { const r = document.querySelector('.frame').getBoundingClientRect(); return \
    [r.x, r.y, r.width, r.height]; })()",
    );
    let at = |x: f64, y: f64| {
        let f = |i: usize| frame[i].as_f64().unwrap();
        (f(0) + x / 128.0 * f(2), f(1) + y / 128.0 * f(3))
    };
    chrome.mouse("mouseMoved", at(92.5, 79.5), false);
    assert_eq!(chrome.text("#ranking-title"), "Words at pixel 92, 79");
    assert_shares(&table(&mut chrome), &expect([92.0, 79.0, 1.0, 1.0]), 2e-3);
    chrome.drag(at(10.5, 50.5), at(60.5, 101.5));
    chrome.mouse("mouseMoved", (5.0, 790.0), false);
    assert_eq!(chrome.eval("location.hash"), json!("#box=10,50,51,52&little=1&special=1"));
    assert_shares(&table(&mut chrome), &expect([10.0, 50.0, 51.0, 52.0]), 2e-3);
    let first = chrome.text(".ranking tbody tr:nth-child(3) th");
    assert_eq!(first, "apple", "start and end first, then the word of what stands there");
    clean(&mut chrome);
}

#[test]
fn a_head_alone_and_a_step_alone() {
    let Some(mut chrome) = browser() else { return };
    let data = sample(&Plan::default());
    let file = write("heads.html", &data);
    chrome.open(&file, "#w=9&little=1&special=1", Look { height: 1600, ..Look::default() });
    let channels = data.channels();
    let plane_means = |values: &[f32]| -> Vec<f64> {
        values
            .chunks_exact(values.len() / channels)
            .map(|p| p.iter().map(|&v| f64::from(v)).sum::<f64>() / p.len() as f64)
            .collect()
    };
    let by_entry = |tokens: &[f64]| -> Vec<f64> {
        data.words
            .iter()
            .map(|w| w.tokens.iter().map(|&t| tokens[t]).sum())
            .chain([tokens[0], tokens[14], tokens[15]])
            .collect()
    };

    // Layer 9 (position 8), head 1.
    chrome.click(".heads tbody tr:nth-child(9) td:nth-of-type(3) .tile");
    assert_eq!(chrome.eval("location.hash"), json!("#w=9&at=8:1&little=1&special=1"));
    assert!(
        chrome.text(".layers .chosen").contains("layer 9 (up, 16×16), head 1; steps 1–25"),
        "{}",
        chrome.text(".layers .chosen")
    );
    let site = &data.sites[8];
    let head = &site.by_head[channels * 256..2 * channels * 256];
    let tokens: Vec<f64> = plane_means(head).iter().map(|sum| sum / 25.0).collect();
    assert_shares(&table(&mut chrome), &by_entry(&tokens), 0.01);

    // Dragging averages: heads 1 and 2 of layers 9 and 10.
    chrome.centre(".heads tbody tr:nth-child(10) td:nth-of-type(4) .tile"); // scrolls, before the places are taken
    let from = chrome.centre(".heads tbody tr:nth-child(9) td:nth-of-type(3) .tile");
    let to = chrome.centre(".heads tbody tr:nth-child(10) td:nth-of-type(4) .tile");
    chrome.drag(from, to);
    assert_eq!(chrome.eval("location.hash"), json!("#w=9&at=8:1.2,9:1.2&little=1&special=1"));
    assert!(
        chrome.text(".layers .chosen").contains("up blocks, 16×16, heads 1–2; steps 1–25"),
        "{}",
        chrome.text(".layers .chosen")
    );

    // A step: all heads again, said so.
    chrome.eval("document.querySelector('input[aria-label=\"Single step\"]').focus()");
    chrome.key("ArrowLeft", false);
    assert_eq!(chrome.eval("location.hash"), json!("#w=9&at=8,9&steps=24-24&little=1&special=1"));
    assert!(chrome.text(".notice").contains("all heads of the chosen layers are shown"));
    let mut tokens = vec![0.0; channels];
    for site in &data.sites[8..10] {
        let step = &site.by_step.as_ref().unwrap()[23 * channels * 256..24 * channels * 256];
        let step: Vec<f32> = step.iter().map(|v| v.to_f32()).collect();
        tokens.iter_mut().zip(plane_means(&step)).for_each(|(sum, mean)| *sum += mean / 2.0);
    }
    assert_shares(&table(&mut chrome), &by_entry(&tokens), 0.01);

    // Play runs to the end and stops.
    chrome.key("]", false);
    assert!(chrome.text(".says").starts_with("step 25 of 25"));
    chrome.eval("location.hash = '#w=9&steps=23-23'");
    chrome.settle();
    chrome.key("p", false);
    chrome.wait(
        "document.querySelector('.says').textContent.startsWith('step 25') && \
    document.querySelector('.play').textContent === 'Play'",
    );
    clean(&mut chrome);
}

#[test]
fn everything_can_be_done_with_keys() {
    let Some(mut chrome) = browser() else { return };
    let file = write("keys.html", &sample(&Plan::default()));
    chrome.open(&file, "", Look::default());
    chrome.key("Tab", false);
    assert_eq!(chrome.eval("document.activeElement.dataset.entry"), json!("0"), "the first stop is the first word");
    let outline = chrome.eval("getComputedStyle(document.activeElement).outlineStyle");
    assert_eq!(outline, json!("solid"), "focus can be seen");
    for _ in 0..FROG {
        chrome.key("ArrowRight", false);
    }
    assert!(chrome.text(".caption").contains("“frog”"), "focus lights up like the pointer");
    chrome.key("Enter", false);
    assert_eq!(chrome.eval("location.hash"), json!("#w=9"));
    let label = chrome.eval("document.activeElement.getAttribute('aria-label')");
    assert!(label.as_str().unwrap().starts_with("frog: share "), "{label}");
    // Specials button, then the image: move, stretch, pin.
    for _ in 0..2 {
        chrome.key("Tab", false);
    }
    assert_eq!(chrome.eval("document.activeElement.className"), json!("frame"));
    chrome.key("ArrowRight", false);
    assert_eq!(chrome.text("#ranking-title"), "Words at pixel 72, 64");
    for _ in 0..2 {
        chrome.key("ArrowRight", true);
        chrome.key("ArrowDown", true);
    }
    chrome.key("Enter", false);
    assert_eq!(chrome.eval("location.hash"), json!("#w=9&box=72,64,17,17"));
    // Every control from here to the end is reachable, and the focus never gets lost.
    let mut seen = Vec::new();
    for _ in 0..60 {
        chrome.key("Tab", false);
        let stop = chrome.eval(
            "document.activeElement.closest('section, figure, details')?.className + ' ' + \
        document.activeElement.tagName",
        );
        if stop.as_str().is_some_and(|s| s.contains("BODY")) {
            break;
        }
        seen.push(stop.as_str().unwrap().to_string());
    }
    for part in [
        "stage INPUT",
        "more SUMMARY",
        "steps BUTTON",
        "layers BUTTON",
        "prompt-matrix SELECT",
        "evidence",
        "settings BUTTON",
    ] {
        assert!(seen.iter().any(|stop| stop.contains(part)), "no stop in {part}: {seen:?}");
    }
    // Escape lets go of one thing after another: the place, then the word.
    chrome.key("Escape", false);
    assert_eq!(chrome.eval("location.hash"), json!("#w=9"));
    chrome.key("Escape", false);
    assert_eq!(chrome.eval("location.hash"), json!(""));
    clean(&mut chrome);
}

#[test]
fn a_link_reproduces_the_view() {
    let Some(mut chrome) = browser() else { return };
    let file = write("link.html", &sample(&Plan::default()));
    chrome.open(&file, "", Look::default());
    chrome.click(&format!(".word[data-entry=\"{FROG}\"]"));
    chrome.click(".more summary");
    chrome.click(".toolbar .choice label:nth-of-type(2)");
    chrome.click(".fold");
    chrome.click(".thumb:nth-child(3)");
    chrome.mouse("mouseMoved", (5.0, 790.0), false);
    chrome.eval("document.activeElement.blur()");
    let fragment = chrome.eval("location.hash").as_str().unwrap().to_string();
    assert_eq!(fragment, "#w=9&steps=5-5&style=contour&special=1");
    let by_hand = chrome.screenshot(true);
    chrome.open(&file, &fragment, Look::default());
    let by_link = chrome.screenshot(true);
    by_hand.save(scratch("link-by-hand.png")).unwrap();
    by_link.save(scratch("link-by-link.png")).unwrap();
    // The browser draws in tiles, whose edges may round a pixel's colour the other way.
    assert_eq!(by_hand.dimensions(), by_link.dimensions());
    let apart = by_hand.as_raw().iter().zip(by_link.as_raw()).map(|(a, b)| a.abs_diff(*b)).max();
    assert!(apart.unwrap() <= 1, "the same view looks different, by {apart:?} of 255");
    // A window that was another size before is no other window.
    let stage = "document.querySelector('.frame').offsetWidth";
    let width = chrome.eval(stage);
    for (other_width, other_height) in [(1900, 1200), (700, 500), (1000, 1300)] {
        chrome.look(Look { width: other_width, height: other_height, ..Look::default() });
        chrome.settle();
        assert_ne!(chrome.eval(stage), width);
        chrome.look(Look::default());
        chrome.settle();
        assert_eq!(chrome.eval(stage), width, "after {other_width}x{other_height}");
    }
    // Nonsense in a link is ignored.
    chrome.open(
        &file,
        "#w=99,x&steps=70-0&at=99:5,q&box=1,2,3&map=constructor&matrix=9.9&style=<b>&opacity=NaN",
        Look::default(),
    );
    assert!(chrome.text(".layers .chosen").contains("up blocks"));
    clean(&mut chrome);
}

#[test]
fn hostile_and_foreign_prompts_are_only_text() {
    let Some(mut chrome) = browser() else { return };
    for (name, prompt) in [
        (
            "hostile",
            "<script>alert(1)</script> \"quotes\" & </style> ../../etc/passwd </script><img src=x onerror=alert(2)> \
            <!-- {{x}}",
        ),
        ("hindi", "समुद्र तट पर एक हरा मेंढक"),
        ("arabic", "تفاحة حمراء على الشاطئ"),
    ] {
        let mut data = sample(&Plan { prompt: prompt.into(), ..Plan::default() });
        data.name = prompt.into();
        data.cut_off = vec![prompt.into()];
        data.settings.push((prompt.into(), prompt.into()));
        // Its bullet stands on the other side where it is read from right to left.
        data.remarks.push(format!("{prompt}, probably not drawn"));
        let file = write(&format!("{name}.html"), &data);
        chrome.open(&file, "#w=0,1", Look::default());
        let words = chrome.eval("[...document.querySelectorAll('.prompt .word .text')].map((e) => e.textContent)");
        let typed: Vec<&str> = prompt.split(' ').collect();
        assert_eq!(words, json!(typed));
        assert_eq!(
            chrome.eval("document.querySelectorAll('main script, main img:not(.frame img), main style').length"),
            json!(0)
        );
        chrome.screenshot(true).save(scratch(&format!("{name}.png"))).unwrap();
        assert_eq!(chrome.overflow(), json!([]));
        chrome.look(Look { width: 390, height: 844, ..Look::default() });
        chrome.settle();
        assert_eq!(chrome.overflow(), json!([]), "{name} in a narrow window");
        let direction = chrome.eval("getComputedStyle(document.querySelector('.prompt')).direction");
        assert_eq!(direction, json!(if name == "arabic" { "rtl" } else { "ltr" }));
        clean(&mut chrome);
    }
}

#[test]
fn the_causal_test_is_offered_for_the_folder_that_the_page_lies_in() {
    let Some(mut chrome) = browser() else { return };
    let folder = scratch("it's moved & renamed सेब");
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join("report.html");
    std::fs::write(&file, page(&sample(&Plan::default()))).unwrap();
    chrome.open(&file, "#w=1", Look::default());
    let command = chrome.text(".evidence code");
    let folder = folder.canonicalize().unwrap();
    assert_eq!(command, format!("attnmap explain {}", attnmap::run::quoted(folder.to_str().unwrap())));
    assert!(command.ends_with("it'\\''s moved & renamed सेब'"), "{command}");
    clean(&mut chrome);
}

#[test]
fn pages_are_small_and_open_quickly() {
    let default = page(&sample(&Plan::default()));
    assert!(default.len() <= 2_000_000, "{} bytes", default.len());
    let large = page(&sample(&Plan::sd15()));
    assert!(large.len() <= 8_000_000, "{} bytes", large.len());
    let negative: Vec<String> = (0..30).map(|word| format!("word{word}")).collect();
    let negative: Vec<&str> = negative.iter().map(String::as_str).collect();
    let larger = page(&with_negative(sample(&Plan::sd15()), &negative));
    assert!(larger.len() <= 8_000_000, "{} bytes", larger.len());
    let kilobytes = [&default, &large, &larger].map(|page| page.len() / 1000);
    println!("default run, SD 1.5 in 50 steps, and with 30 words of a negative prompt: {kilobytes:?} kB");
    let Some(mut chrome) = browser() else { return };
    for (name, html) in
        [("size-default.html", &default), ("size-sd15.html", &large), ("size-negative-sd15.html", &larger)]
    {
        let file = scratch(name);
        std::fs::write(&file, html).unwrap();
        chrome.open(&file, "#w=9", Look::default());
        let opened: f64 = chrome.eval("Number(document.documentElement.dataset.opened)").as_f64().unwrap();
        println!("{name} opened in {opened} ms");
        assert!(opened < 5000.0, "{name}: {opened} ms"); // a second on a quiet machine; tests share theirs
        if name.contains("sd15") {
            assert!(chrome.text(".settings").contains("To keep this page small"), "what was left out is said");
        }
        clean(&mut chrome);
    }
}

#[test]
fn looks_as_it_did() {
    let Some(mut chrome) = browser() else { return };
    let file = write("truth.html", &sample(&Plan::default()));
    let drawing = Tolerance { mean: 2.0, outliers: 0.01 };
    for (name, fragment) in [
        ("heat", "#w=9"),
        ("contour", "#w=9&style=contour"),
        ("hues", "#w=2,9"),
        ("cells", "#w=12&cells=1&map=viridis"),
    ] {
        chrome.open(&file, fragment, Look::default());
        let frame = chrome.eval(
            "(() => { const r = document.querySelector('.frame').getBoundingClientRect(); \
        return [r.x, r.y, r.width, r.height].map(Math.round); })()",
        );
        let f = |i: usize| frame[i].as_u64().unwrap() as u32;
        let window = chrome.screenshot(false);
        let part = image::imageops::crop_imm(&window, f(0), f(1), f(2), f(3)).to_image();
        check(&format!("frame-{name}"), &part, 256, &drawing);
    }
    let text = Tolerance { mean: 6.0, outliers: 0.04 };
    for dark in [false, true] {
        chrome.open(&file, "#w=9", Look { dark, ..Look::default() });
        chrome.set_in_the_embedded_font();
        check(if dark { "window-dark" } else { "window-light" }, &chrome.screenshot(false), 320, &text);
    }
}

#[test]
fn words_of_the_negative_prompt_have_a_scale_of_their_own() {
    let Some(mut chrome) = browser() else { return };
    let plain = sample(&Plan::default());
    let file = write("positive.html", &plain);
    chrome.open(&file, "#little=1&special=1", Look::default());
    let shares = table(&mut chrome);
    let data = with_negative(plain, &["rain", "fog", "blurry"]);
    let file = write("negative.html", &data);
    chrome.open(&file, "#w=n0&little=1&special=1", Look::default());
    let text = |chrome: &mut Chrome, part: &str| {
        chrome.eval(&format!("document.querySelector('{part}').textContent")).as_str().unwrap().to_owned()
    };
    let figure = text(&mut chrome, ".stage");
    assert!(figure.contains("Words of the negative prompt on a scale of their own"), "{figure}");
    assert!(figure.contains("in the half that was given the negative prompt"), "{figure}");
    // The scale ends at the highest of the negative prompt's words; the prompt's own rows are what
    // they were without them.
    let negative = data.negative_words.as_ref().unwrap();
    let top = |values: &[f32]| f64::from(values.iter().copied().fold(0.0, f32::max));
    let end = percents(&text(&mut chrome, ".ticks span:last-child"));
    assert!((end - 100.0 * top(&negative.maps)).abs() < 0.06, "{end}");
    let seen = table(&mut chrome);
    assert_eq!(seen[..shares.len()], shares[..]);
    let expected: Vec<f64> = negative.shares.iter().map(|&share| share.into()).collect();
    assert_shares(&seen[shares.len()..], &expected, 1e-5);
    let order = chrome.eval("[...document.querySelectorAll('.ranking tbody')].map((b) => b.rows.length)");
    assert_eq!(order, json!([shares.len(), 4]), "apart from the prompt's, under a line that says so");

    // By layer and head, and by step, as the prompt's words are.
    let channels = data.channels();
    let mean = |values: &[f32], group: usize, word: usize, cells: usize| {
        let plane = &values[(group * channels + channels - 3 + word) * cells..][..cells];
        f64::from(plane.iter().sum::<f32>()) / cells as f64
    };
    chrome.open(&file, "#w=n1&at=8:1&little=1&special=1", Look::default());
    let by_head = &data.sites[8].by_head;
    let expected: Vec<f64> = (0..3).map(|word| mean(by_head, 1, word, 256) / 25.0).collect();
    assert_shares(&table(&mut chrome)[shares.len()..], &expected, 0.01);
    assert!(text(&mut chrome, ".layers").contains("“fog (negative)”"));
    chrome.open(&file, "#w=n1&at=8&steps=12-12&little=1&special=1", Look::default());
    let by_step: Vec<f32> = data.sites[8].by_step.as_ref().unwrap().iter().map(|value| value.to_f32()).collect();
    let expected: Vec<f64> = (0..3).map(|word| mean(&by_step, 11, word, 256)).collect();
    assert_shares(&table(&mut chrome)[shares.len()..], &expected, 0.01);
    assert!(text(&mut chrome, ".steps").contains("“fog (negative)” at single steps"));
    chrome.screenshot(true).save(scratch("negative.png")).unwrap();
    // A word of each half: no common scale, and the figures under the bar are of each word's own.
    chrome.open(&file, "#w=n0,9", Look { width: 400, ..Look::default() });
    assert!(text(&mut chrome, ".ticks span:last-child").starts_with("100"));
    assert_eq!(chrome.overflow(), json!([]));
    clean(&mut chrome);
}

/// A number of per cent as the page writes it.
fn percents(text: &str) -> f64 {
    text.trim_end_matches(['%', ' ', '\u{a0}', '\u{202f}']).parse().unwrap()
}

/// A run of the real binary on a tiny checkpoint, in `run` of `folder`.
fn generate(folder: &std::path::Path, more: &[&str]) -> PathBuf {
    generate_with("tiny-sd1", folder, more)
}

/// The same on the tiny checkpoint of that name.
pub(crate) fn generate_with(checkpoint: &str, folder: &std::path::Path, more: &[&str]) -> PathBuf {
    let out = folder.join("run");
    let fixture = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(checkpoint);
    let made = std::process::Command::new(env!("CARGO_BIN_EXE_attnmap"))
        .args(["generate", "a red apple", "--steps", "2", "--size", "96x64", "--model"])
        .arg(fixture)
        .arg("--out")
        .arg(&out)
        .args(more)
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    out
}

#[test]
fn the_page_shows_what_a_place_is_tied_to() {
    let Some(mut chrome) = browser() else { return };
    let folder = tempfile::tempdir().unwrap();
    let out = generate(folder.path(), &["--self-attention"]);
    let page = out.join("report.html");
    chrome.open(&page, "#ties=1&box=50,20,1,1", Look::default());
    let caption = "document.querySelector('.caption').textContent";
    let seen = chrome.eval(caption);
    assert!(seen.as_str().unwrap().starts_with("What pixel 50, 20 is tied to. Self-attention at 12×8"), "{seen}");
    // The end of the scale is the highest value of the place's row, as the command gives it.
    let shown = std::process::Command::new(env!("CARGO_BIN_EXE_attnmap"))
        .args(["self-attention", &out.display().to_string(), "--at", "50,20", "--json"])
        .output()
        .unwrap();
    let shown: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
    let top = shown["maps"][1]["map"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).fold(0.0, f64::max);
    let end = chrome.eval("document.querySelector('.ticks').lastChild.textContent");
    let end = percents(end.as_str().unwrap());
    assert!((end - 100.0 * top).abs() <= 0.06 * end.max(1.0), "{end} % and {top}");
    let painted = "(() => { const c = document.querySelector('.overlay'), d = c.getContext('2d').getImageData(0, 0, \
    c.width, c.height).data; \
                   let n = 0; for (let i = 3; i < d.length; i += 4) n += d[i] > 0; return n; })()";
    assert!(chrome.eval(painted).as_f64().unwrap() > 100.0);
    chrome.screenshot(true).save(scratch("ties.png")).unwrap();
    assert_eq!(chrome.overflow(), json!([]));
    // A click pins another place; Escape lets go of it, and the mode stays.
    chrome.click(".frame");
    assert!(chrome.eval("location.hash").as_str().unwrap().contains("ties=1"));
    assert_ne!(chrome.eval(caption), seen);
    chrome.key("Escape", false);
    chrome.mouse("mouseMoved", (5.0, 790.0), false);
    assert_eq!(chrome.eval("location.hash"), json!("#ties=1"));
    assert_eq!(
        chrome.eval("document.querySelector('.ticks').lastChild.textContent"),
        json!(""),
        "nothing is pointed at"
    );
    clean(&mut chrome);
}

/// A run of the real binary with words that are not in its prompt.
#[test]
fn probes_stand_apart_from_the_prompt() {
    let Some(mut chrome) = browser() else { return };
    let folder = tempfile::tempdir().unwrap();
    let out = generate(folder.path(), &["--probe", "frog,dark shadow"]);
    chrome.open(&out.join("report.html"), "", Look::default());
    let count = |chrome: &mut Chrome, what: &str| chrome.eval(&format!("document.querySelectorAll('{what}').length"));
    let visible = "[...document.querySelectorAll('#probes .word')].filter((b) => b.offsetParent !== null).length";
    assert_eq!((chrome.eval(visible), count(&mut chrome, ".prompt .word")), (json!(0), json!(3)));
    chrome.click("[aria-controls=probes]");
    assert_eq!(chrome.eval(visible), json!(2));
    let label = "document.querySelector('#probes .word').getAttribute('aria-label')";
    assert!(chrome.eval(label).as_str().unwrap().starts_with("probe:frog, not in the prompt: share"));
    // Shares of the run's own maps are those of run.json.
    let record: serde_json::Value = serde_json::from_slice(&std::fs::read(out.join("run.json")).unwrap()).unwrap();
    let share = table(&mut chrome);
    let entry = share.len() - 2;
    for (seen, probe) in share[entry..].iter().zip(record["probes"].as_array().unwrap()) {
        let want = probe["share"].as_f64().unwrap();
        assert!((seen - want).abs() < 0.01 * want, "{seen} {want}");
    }
    chrome.click("#probes .word");
    let caption = chrome.eval("document.querySelector('.caption').textContent");
    let caption = caption.as_str().unwrap();
    assert!(caption.contains("would look for “probe:frog”") && caption.contains("not in the prompt"), "{caption}");
    assert_eq!(chrome.eval("location.hash"), json!("#w=q0&probes=1"));
    // Single layers and steps have the probe's maps too.
    chrome.open(&out.join("report.html"), "#w=q1&steps=1-1&at=0", Look::default());
    chrome.screenshot(true).save(scratch("probes.png")).unwrap();
    assert_eq!(chrome.eval(visible), json!(2), "a locked probe is unfolded");
    assert_eq!(chrome.overflow(), json!([]));
    clean(&mut chrome);
}

/// An existing picture traced by the real binary has noise levels where a run has steps.
#[test]
fn a_look_has_noise_levels_and_no_steps() {
    let Some(mut chrome) = browser() else { return };
    let folder = tempfile::tempdir().unwrap();
    let drawn = generate(folder.path(), &[]);
    let out = folder.path().join("look");
    let attnmap = |args: &[&std::ffi::OsStr]| {
        let done = std::process::Command::new(env!("CARGO_BIN_EXE_attnmap")).args(args).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    };
    let fixture = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/tiny-sd1");
    let picture = drawn.join("image.png");
    let mut args: Vec<&std::ffi::OsStr> = vec!["trace".as_ref(), picture.as_ref()];
    args.extend(["a red apple", "--levels", "200,700", "--model", fixture, "--out"].map(std::ffi::OsStr::new));
    args.push(out.as_ref());
    attnmap(&args);
    chrome.open(&out.join("report.html"), "#w=2", Look::default());
    let words = |chrome: &mut Chrome| {
        let all = chrome.eval(
            "document.querySelector('main').innerText + [...document.querySelectorAll('main [title], main \
            [aria-label], main [aria-valuetext]')]\
             .flatMap((e) => ['title', 'aria-label', 'aria-valuetext'].map((a) => e.getAttribute(a))).join(' | ')",
        );
        all.as_str().unwrap().replace(['\u{a0}', '\u{202f}'], " ")
    };
    // tiny-sd1's schedule is Stable Diffusion 1's; 1 - alphas_cumprod[700] and [200] in diffusers
    // are 0.9175 and 0.2463.
    let seen = words(&mut chrome);
    assert!(seen.contains("all 2 noise levels t = 700 to 200, 92 % to 25 % noise"), "{seen}");
    assert!(seen.contains("Noise level t = 200, 25 % noise: apple, peak"), "{seen}");
    let steps: Vec<&str> =
        seen.split('|').flat_map(str::lines).filter(|line| line.to_lowercase().contains("step")).collect();
    // What the picture's own metadata says of its making is shown as it stands there.
    let steps: Vec<&str> = steps.into_iter().filter(|line| !line.starts_with("attnmap: seed")).collect();
    assert!(steps.is_empty(), "{steps:?}");
    chrome.click(".thumb:nth-child(2)");
    let caption = chrome.text(".caption").replace(['\u{a0}', '\u{202f}'], " ");
    assert!(caption.contains("noise level t = 200, 25 % noise."), "{caption}");
    assert_eq!(chrome.text(".thumb:nth-child(2) span"), "t 200");
    for width in [400, 1280, 1920] {
        chrome.open(&out.join("report.html"), "#w=2&steps=1-1", Look { width, dark: width == 1920, ..Look::default() });
        chrome.screenshot(true).save(scratch(&format!("look-{width}.png"))).unwrap();
        assert_eq!(chrome.overflow(), json!([]));
    }
    clean(&mut chrome);
}

/// SDXL's two text encoders, each with its own attention.
#[test]
fn both_text_encoders_have_a_matrix() {
    let Some(mut chrome) = browser() else { return };
    let folder = tempfile::tempdir().unwrap();
    let out = generate_with("tiny-sdxl", folder.path(), &[]);
    let page = out.join("report.html");
    let trace = attnmap::trace::Trace::load(&out.join("trace.safetensors")).unwrap();
    assert_eq!((trace.recording.text.len(), trace.recording.text_2.len()), (3, 4));
    chrome.open(&page, "", Look::default());
    let names = "[...document.querySelectorAll('.prompt-matrix [data-encoder]')].map((e) => [e.dataset.encoder, \
    e.offsetParent !== null])";
    assert_eq!(chrome.eval(names), json!([["text", true], ["text_2", false]]));
    for (encoder, layers) in [(0, &trace.recording.text), (1, &trace.recording.text_2)] {
        chrome.open(&page, &format!("#matrix=2.1{}", ["", ".1"][encoder]), Look::default());
        let seen = chrome.eval(
            "[...document.querySelectorAll('.prompt-matrix [data-encoder]')].find((e) => e.offsetParent !== null)\
             .querySelector('tr:nth-child(4) td[data-j=\"1\"]').textContent",
        );
        // Row 3 (apple), column 1 (a) of layer 3, head 1.
        let value = layers[2].probabilities[(5 + 3) * 5 + 1].to_f32();
        assert_eq!(seen, json!(format!("{}", (100.0 * value).round())), "encoder {encoder}: {value}");
        assert_eq!(chrome.eval("location.hash"), json!(format!("#matrix=2.1{}", ["", ".1"][encoder])));
    }
    assert!(chrome.text(".prompt-matrix").contains("The second text encoder’s self-attention"));
    chrome.eval(
        "(() => { const s = document.querySelector('.prompt-matrix header select'); s.value = '0'; \
    s.dispatchEvent(new Event('change')); })()",
    );
    chrome.settle();
    assert_eq!(chrome.eval(names), json!([["text", true], ["text_2", false]]));
    assert_eq!(chrome.eval("location.hash"), json!(""), "a choice of encoder is one of all its layers");
    for (width, dark) in [(400, true), (1280, false), (1920, true)] {
        chrome.open(&page, "#matrix=-1.-1.1", Look { width, dark, ..Look::default() });
        chrome.screenshot(true).save(scratch(&format!("sdxl-{width}.png"))).unwrap();
        assert_eq!(chrome.overflow(), json!([]));
    }
    clean(&mut chrome);
}

/// Weights stand at their words, chunks are told apart, and the picture that a run set out from is
/// beside the image.
#[test]
fn weights_chunks_and_the_start_picture_are_shown() {
    let Some(mut chrome) = browser() else { return };
    let folder = tempfile::tempdir().unwrap();
    let [start, mask] = ["start.png", "mask.png"].map(|name| folder.path().join(name));
    image::RgbImage::from_fn(96, 64, |x, y| image::Rgb([x as u8 * 2, y as u8 * 3, 90])).save(&start).unwrap();
    image::GrayImage::from_fn(96, 64, |x, _| image::Luma([if x < 48 { 0 } else { 255 }])).save(&mask).unwrap();
    let prompt = folder.path().join("prompt.txt");
    std::fs::write(&prompt, "a (red:1.4) apple BREAK [frog]").unwrap();
    let run = folder.path().join("run");
    let text = |path: &std::path::Path| path.to_str().unwrap().to_owned();
    let done = std::process::Command::new(env!("CARGO_BIN_EXE_attnmap"))
        .args(["generate", "--emphasis", "--long", "--steps", "2", "--negative", "(rain:0.5)", "--trace-negative"])
        .args(["--strength", "0.5", "--size", "96x64", "--probe", "tail", "--model"])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/tiny-sd1"))
        .args(["--prompt-file", &text(&prompt), "--init", &text(&start), "--mask", &text(&mask), "--out", &text(&run)])
        .output()
        .unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let page = run.join("report.html");
    chrome.open(&page, "#probes=1", Look::default());
    let list = |chrome: &mut Chrome, what: &str| {
        chrome.eval(&format!("[...document.querySelectorAll('{what}')].map((e) => e.textContent)"))
    };
    assert_eq!(list(&mut chrome, ".prompt .word .text"), json!(["a", "red×1.4", "apple", "frog×0.91", "rain×0.5"]));
    let named = chrome.eval("document.querySelectorAll('.prompt .word')[1].getAttribute('aria-label')");
    assert!(named.as_str().unwrap().starts_with("red, weight 1.4: share"), "{named}");
    // The mark stands between apple and frog, behind the BREAK.
    assert_eq!(list(&mut chrome, ".prompt .chunk"), json!(["chunk 2"]));
    let line = chrome.eval("document.querySelector('.prompt').textContent");
    let line = line.as_str().unwrap();
    assert!(line.find("BREAK").unwrap() < line.find("chunk 2").unwrap(), "{line}");
    assert!(line.find("chunk 2").unwrap() < line.find("[").unwrap(), "{line}");
    // The encoder never saw apple and frog together: nothing to read there.
    let (frog, apple) = (6, 3);
    let cell =
        chrome.eval(&format!("document.querySelector('.matrix td[data-i=\"{frog}\"][data-j=\"{apple}\"]').title"));
    assert_eq!(cell, json!("cannot see another chunk"));
    assert!(chrome.text(".about-probes").contains("competes with the whole prompt"));
    // The start picture and the mask, as they were given.
    assert!(chrome.text(".begun").contains("Painted in a picture"));
    assert!(chrome.text(".begun figcaption").contains("strength 0.5"));
    let pixels = "(async () => { const out = []; for (const image of document.querySelectorAll('.begun img')) { \
    await image.decode(); \
                  const c = document.createElement('canvas'); c.width = image.naturalWidth; c.height = \
image.naturalHeight; \
                  const d = c.getContext('2d'); d.drawImage(image, 0, 0); out.push(image.naturalWidth, \
d.getImageData(10, 30, 1, 1).data[0], d.getImageData(80, 30, 1, 1).data[0]); } return out; })()";
    let pixels = chrome.eval(pixels);
    let at = |i: usize| pixels[i].as_i64().unwrap();
    assert_eq!((at(0), at(3), at(4), at(5)), (96, 96, 0, 255), "{pixels}");
    assert!((at(1) - 20).abs() < 12 && (at(2) - 160).abs() < 12, "{pixels}");
    // It can stand behind the maps in place of the image.
    let shown = "document.querySelector('.frame img').src.slice(0, 15)";
    assert_eq!(chrome.eval(shown), json!("data:image/png;"));
    chrome.open(&page, "#w=1&start=1", Look::default());
    assert_eq!(chrome.eval(shown), json!("data:image/jpeg"));
    assert!(chrome.text(".caption").contains("the picture that the run set out from"));
    for (width, dark) in [(400, true), (1280, false), (1920, true)] {
        chrome.open(&page, "#w=1&probes=1", Look { width, dark, ..Look::default() });
        chrome.screenshot(true).save(scratch(&format!("start-{width}.png"))).unwrap();
        assert_eq!(chrome.overflow(), json!([]), "at {width} px");
    }
    clean(&mut chrome);
}
