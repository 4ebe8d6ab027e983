//! How the page of a run is used: pointing, keeping, the causal test on the image, steps. Also how
//! it fares on paper, without colours of its own, without scripts, by touch and in narrow windows.

use crate::chrome::{Chrome, Look};
use crate::sample::{Plan, place, sample};
use crate::{browser, clean, scratch, write};
use attnmap::render::{Base, Colormap, Display, Style, overlay};
use attnmap::report::{CausalMap, ReportData, StepImage, SweepLink, Verdict, Without};
use attnmap::trace::Grid;
use serde_json::{Value, json};

const RED: usize = 1;
const APPLE: usize = 2;
const FROG: usize = 9;

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap()
}

/// Left, top, width and height of an element in the window.
fn place_of(chrome: &mut Chrome, selector: &str) -> [f64; 4] {
    let at = chrome.eval(&format!(
        "(() => {{ const r = document.querySelector('{selector}').getBoundingClientRect(); return [r.x, r.y, \
        r.width, r.height]; }})()"
    ));
    [0, 1, 2, 3].map(|i| number(&at[i]))
}

/// The point of the window that shows a place of the image, in shares of its sides.
fn on_image(chrome: &mut Chrome, x: f64, y: f64) -> (f64, f64) {
    let [left, top, width, height] = place_of(chrome, ".frame");
    (left + x * width, top + y * height)
}

/// Red, green and blue of every pixel of the overlay as it is painted.
pub(crate) fn overlay_pixels(chrome: &mut Chrome) -> image::RgbImage {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let url = chrome.eval(
        "(() => { const from = document.querySelector('.overlay'), to = document.createElement('canvas'); \
         [to.width, to.height] = [from.width, from.height]; to.getContext('2d').drawImage(from, 0, 0); return \
to.toDataURL('image/png'); })()",
    );
    let png = STANDARD.decode(url.as_str().unwrap().split_once(',').unwrap().1).unwrap();
    image::load_from_memory(&png).unwrap().to_rgb8()
}

/// The run with what a causal test leaves: the frog was tested and left out.
fn tested() -> ReportData {
    let mut data = sample(&Plan::default());
    let (x, y, _) = place("apple").unwrap(); // elsewhere than its attention, to be told apart
    let at = |i: usize| (i as f32 + 0.5) / 16.0;
    let value = |i: usize| 0.5 * (-40.0 * ((at(i % 16) - x).powi(2) + (at(i / 16) - y).powi(2))).exp();
    data.causal = vec![CausalMap { word: FROG, map: (0..256).map(value).collect() }];
    let mut other = image::load_from_memory(&data.image.bytes).unwrap().to_rgb8();
    image::imageops::colorops::invert(&mut other);
    let mut bytes = std::io::Cursor::new(Vec::new());
    other.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    let image = attnmap::report::ImageData { bytes: bytes.into_inner(), ..data.image.clone() };
    data.without = vec![Without { word: FROG, image, area: 0.23, middle: Some(30.0) }];
    data
}

#[test]
fn the_image_is_large_and_stays_in_sight() {
    let Some(mut chrome) = browser() else { return };
    let words: Vec<String> = (0..60).map(|i| format!("longish{i}")).collect();
    let many = sample(&Plan { prompt: words.join(" "), ..Plan::default() });
    for (name, data) in [("size-few.html", sample(&Plan::default())), ("size-many.html", many)] {
        let file = write(name, &data);
        for (width, height) in [(1280, 720), (1366, 768), (1920, 950), (2560, 1440)] {
            chrome.open(&file, "", Look { width, height, ..Look::default() });
            if height < 800 {
                let [_, caption, ..] = place_of(&mut chrome, ".caption");
                assert!(caption + 19.0 <= f64::from(height), "{name} {width}x{height}: the caption is at {caption}");
            }
            let [_, _, w, h] = place_of(&mut chrome, ".frame");
            let (across, down) = (w / f64::from(width), h / f64::from(height));
            assert!(
                across >= 0.45 || down >= 0.6,
                "{name} {width}x{height}: {across:.2} of the width, {down:.2} of the height"
            );
        }
    }
    // While layers and heads are chosen, the whole image is in the window; on a phone too.
    for (width, height) in [(1280, 720), (390, 844)] {
        chrome.open(&scratch("size-few.html"), "", Look { width, height, ..Look::default() });
        chrome.eval("document.querySelector('.heads').scrollIntoView({block: 'end', behavior: 'instant'})");
        chrome.settle();
        let [_, top, _, h] = place_of(&mut chrome, ".frame");
        assert!(top >= 0.0 && top + h <= f64::from(height), "{width}: from {top}, {h} high");
    }
    // A section that is jumped to is not under the image.
    for (width, height) in [(390, 844), (844, 390)] {
        chrome.open(&scratch("size-few.html"), "", Look { width, height, ..Look::default() });
        chrome.eval("document.getElementById('evidence').scrollIntoView({block: 'start', behavior: 'instant'})");
        chrome.settle();
        let ([_, top, _, h], [_, section, ..]) = (place_of(&mut chrome, ".frame"), place_of(&mut chrome, "#evidence"));
        assert!(
            section >= -0.5 && (section >= top + h - 0.5 || top + h <= 0.0),
            "{width}: {section} under {top} + {h}"
        );
        assert!(section <= f64::from(height) / 2.0 + 20.0, "{width}: the section is at {section}");
    }
    // What a tile shows is seen on pointing at it, and gone again.
    chrome.open(&scratch("size-few.html"), "#w=9", Look::default());
    let before = overlay_pixels(&mut chrome);
    chrome.hover(".heads tbody tr:nth-child(2) td:nth-of-type(3) .tile");
    assert!(chrome.text(".layers .chosen").contains("layer 2"), "{}", chrome.text(".layers .chosen"));
    assert!(overlay_pixels(&mut chrome) != before);
    chrome.mouse("mouseMoved", (5.0, 5.0), false);
    assert!(overlay_pixels(&mut chrome) == before);
    assert_eq!(chrome.eval("location.hash"), json!("#w=9"), "pointing chooses nothing");
    clean(&mut chrome);
}

#[test]
fn the_page_paints_as_the_command_line_does() {
    let Some(mut chrome) = browser() else { return };
    let data = sample(&Plan::default());
    let file = write("styles.html", &data);
    let picture = image::load_from_memory(&data.image.bytes).unwrap().to_rgb8();
    let base = Base::new(&picture, 512).unwrap();
    let maps: Vec<&[f32]> = data.official.as_ref().unwrap().words.chunks_exact(256).collect();
    let highest = |map: &[f32]| map.iter().copied().fold(0.0, f32::max);
    let top = maps[..data.words.len()].iter().map(|map| highest(map)).fold(0.0, f32::max);
    for (name, style) in Style::NAMED.into_iter().filter(|&(_, style)| style != Style::Contour) {
        for (palette, colormap) in [("magma", Colormap::Magma), ("turbo", Colormap::Turbo), ("grey", Colormap::Grey)] {
            let display = Display { style, colormap, ..Display::default() };
            let want = overlay(&base, maps[FROG], Grid::new(16, 16), top, &display);
            chrome.open(&file, &format!("#w=9&style={name}&map={palette}"), Look::default());
            let seen = overlay_pixels(&mut chrome);
            assert_eq!(seen.dimensions(), want.dimensions());
            let apart = seen.as_raw().iter().zip(want.as_raw()).map(|(a, b)| f64::from(a.abs_diff(*b))).sum::<f64>();
            let mean = apart / seen.as_raw().len() as f64;
            // The browser enlarges the picture in its own way, and a mask has its line on another
            // layer.
            assert!(mean < 3.0, "{name} in {palette}: {mean:.2} of 255 apart");
        }
    }
    // A run that was drawn in another way opens in it.
    let mut drawn = data;
    drawn.display = Display { style: Style::Mask, colormap: Colormap::Turbo, ..Display::default() };
    let file = write("styles-own.html", &drawn);
    chrome.open(&file, "#w=9", Look::default());
    let chosen = chrome.eval(
        "[document.querySelector('.toolbar input[name=style]:checked').value, \
    document.querySelector('.toolbar select').value]",
    );
    assert_eq!(chosen, json!(["mask", "turbo"]));
    clean(&mut chrome);
}

#[test]
fn a_click_keeps_a_place_and_a_second_frees_it() {
    let Some(mut chrome) = browser() else { return };
    let file = write("keep.html", &sample(&Plan::default()));
    chrome.open(&file, "", Look::default());
    let click = |chrome: &mut Chrome, at: (f64, f64)| {
        chrome.mouse("mouseMoved", at, false);
        chrome.mouse("mousePressed", at, true);
        chrome.mouse("mouseReleased", at, false);
    };
    let frog = on_image(&mut chrome, 0.72, 0.62);
    chrome.mouse("mouseMoved", frog, false);
    // The words that lead there stand at the pointer, with their shares of the attention there.
    let chip = chrome.eval("[...document.querySelectorAll('.chip div span')].map((e) => e.textContent)");
    assert_eq!((&chip[0], chip.as_array().unwrap().len()), (&json!("frog"), 3), "{chip}");
    click(&mut chrome, frog);
    chrome.mouse("mouseMoved", (5.0, 5.0), false);
    assert_eq!(chrome.eval("location.hash"), json!("#box=92,79,1,1"));
    assert_eq!(chrome.text("#ranking-title"), "Words at pixel 92, 79");
    click(&mut chrome, frog);
    chrome.mouse("mouseMoved", (5.0, 5.0), false);
    assert_eq!(chrome.eval("location.hash"), json!(""));

    // A box is moved by dragging it and resized by its corners; pointing elsewhere leaves its
    // numbers alone.
    let (from, to) = (on_image(&mut chrome, 0.125, 0.125), on_image(&mut chrome, 0.37, 0.37));
    chrome.drag(from, to);
    assert_eq!(chrome.eval("location.hash"), json!("#box=16,16,32,32"));
    let title = chrome.text("#ranking-title");
    let elsewhere = on_image(&mut chrome, 0.9, 0.9);
    chrome.mouse("mouseMoved", elsewhere, false);
    assert_eq!(chrome.text("#ranking-title"), title);
    let (inside, there) = (on_image(&mut chrome, 0.25, 0.25), on_image(&mut chrome, 0.5, 0.25));
    chrome.drag(inside, there);
    assert_eq!(chrome.eval("location.hash"), json!("#box=48,16,32,32"));
    let corner = chrome.centre(".handle[data-x=\"1\"][data-y=\"1\"]");
    let further = on_image(&mut chrome, 0.8, 0.7);
    chrome.drag(corner, further);
    let stretched = chrome.eval("location.hash");
    assert!(stretched.as_str().unwrap().starts_with("#box=48,16,55,7"), "{stretched}");
    click(&mut chrome, there);
    assert_eq!(chrome.eval("location.hash"), json!(""), "a click in it frees it");

    // The same by touch.
    chrome.open(&file, "", Look { width: 390, height: 844, ..Look::default() });
    let frog = on_image(&mut chrome, 0.72, 0.62);
    chrome.tap(frog);
    chrome.wait("location.hash.startsWith('#box=')");
    assert!(chrome.text("#ranking-title").starts_with("Words at pixel"));
    assert_eq!(chrome.eval("document.querySelector('.chip').hidden"), json!(false));
    chrome.tap(frog);
    chrome.wait("location.hash === ''");
    clean(&mut chrome);
}

#[test]
fn what_mattered_and_the_image_without_a_word_are_seen_on_the_image() {
    let Some(mut chrome) = browser() else { return };
    let file = write("mattered.html", &tested());
    chrome.open(&file, "#w=9", Look::default());
    let looked = overlay_pixels(&mut chrome);
    chrome.click(".modes label:nth-of-type(2)");
    chrome.mouse("mouseMoved", (5.0, 5.0), false);
    assert_eq!(chrome.eval("location.hash"), json!("#w=9&show=mattered"));
    let mattered = overlay_pixels(&mut chrome);
    let bright = |image: &image::RgbImage, word: &str| {
        let (x, y, _) = place(word).unwrap();
        image.get_pixel((x * 512.0) as u32, (y * 512.0) as u32).0.iter().map(|&v| u32::from(v)).sum::<u32>()
    };
    assert!(
        bright(&looked, "frog") > bright(&mattered, "frog") && bright(&mattered, "apple") > bright(&looked, "apple")
    );
    assert!(chrome.text(".caption").starts_with("Where “frog” mattered"), "{}", chrome.text(".caption"));
    // The scale's end is the highest change, 0.5.
    assert!(chrome.text(".ticks span:last-child").starts_with("50"), "{}", chrome.text(".ticks"));
    // A word that was not tested says so, with the command.
    chrome.open(&file, "#w=2&show=mattered", Look::default());
    assert!(chrome.text(".missing").contains("“apple” has not been tested"), "{}", chrome.text(".missing"));
    assert!(chrome.text(".missing code").ends_with(" --words apple"));

    // Without the word: both images in one place, divided through what changes until the slider, a
    // key or the pointer moves it.
    chrome.open(&file, "#w=9&show=without", Look::default());
    let clip = "getComputedStyle(document.querySelector('.without')).clipPath";
    assert_eq!(chrome.eval(clip), json!("inset(0px 0px 0px 30%)"));
    assert!(chrome.text(".caption").contains("23 % of the image changed"), "{}", chrome.text(".caption"));
    // Arrows on the image set out from where the border stands, also before it was ever moved.
    chrome.eval("document.querySelector('.frame').focus()");
    chrome.key("ArrowRight", false);
    assert_eq!(chrome.eval(clip), json!("inset(0px 0px 0px 32%)"));
    let at = on_image(&mut chrome, 0.25, 0.5);
    let from = on_image(&mut chrome, 0.5, 0.5);
    chrome.drag(from, at);
    assert_eq!(chrome.eval("location.hash"), json!("#w=9&show=without&split=25"));
    chrome.eval("document.querySelector('.split').focus()");
    chrome.key("ArrowRight", false);
    assert_eq!(chrome.eval(clip), json!("inset(0px 0px 0px 26%)"));
    let [_, _, width, _] = place_of(&mut chrome, ".without");
    let [_, bottom_of, frame, height] = place_of(&mut chrome, ".frame");
    let [_, slider, ..] = place_of(&mut chrome, ".split");
    assert!(
        (width - frame).abs() < 1.0 && slider - (bottom_of + height) < 60.0,
        "as large as the image, the slider below it"
    );
    chrome.click(".ab .check");
    assert_eq!(chrome.eval("document.querySelector('.without').hidden"), json!(true));
    // All of an inverted image differs, most where it was darkest or brightest.
    assert!(overlay_pixels(&mut chrome).as_raw().iter().any(|&v| v > 200));
    chrome.open(&file, "#w=9&show=without&differ=1", Look { width: 390, height: 844, dark: true, ..Look::default() });
    assert_eq!(chrome.overflow(), json!([]));
    chrome.screenshot(true).save(scratch("without-390.png")).unwrap();
    clean(&mut chrome);
}

#[test]
fn what_was_tested_is_marked_explained_and_opened() {
    let Some(mut chrome) = browser() else { return };
    let mut data = tested();
    let without = data.without[0].clone();
    data.without.push(Without { word: RED, area: 0.41, ..without });
    data.causal.push(CausalMap { word: RED, ..data.causal[0].clone() });
    let verdict = |word: usize, mattered: &'static str, changed: f64, verdict: &str, measured: &str| Verdict {
        word,
        mattered,
        changed: Some(changed),
        effect: 0.01,
        shows: "yes",
        verdict: verdict.into(),
        sentence: format!("{verdict}: {measured}"),
        measured: measured.into(),
    };
    data.verdicts = vec![
        verdict(
            FROG,
            "much",
            0.23,
            "mattered much, its map shows where: yes",
            "Without \"frog\" 23 % of the image changes.",
        ),
        verdict(
            RED,
            "a little",
            0.41,
            "mattered a little, its map shows where: partly",
            "Without \"red\" 41 % of the image changes.",
        ),
    ];
    let file = write("marked.html", &data);
    chrome.open(&file, "", Look { width: 390, height: 844, ..Look::default() });
    // Marks have a legend that needs no pointer, and words say by name what their marks mean.
    let [left, _, width, height] = place_of(&mut chrome, ".mark-legend");
    assert!(left >= 0.0 && left + width <= 390.0 && height > 0.0);
    let legend = chrome.text(".mark-legend");
    assert_eq!(legend, "Did it matter?● full circle: much◐ half circle: a little○ empty circle: not at all");
    let name = |word: usize| format!("document.querySelectorAll('.prompt .word')[{word}].getAttribute('aria-label')");
    let named = chrome.eval(&name(FROG));
    assert!(named.as_str().unwrap().ends_with(", tested: mattered much"), "{named}");
    assert!(!chrome.eval(&name(APPLE)).as_str().unwrap().contains("tested"));
    assert_eq!(chrome.overflow(), json!([]));
    // The sentence has what was measured; the answers are the badge's.
    let said = chrome.eval("[...document.querySelectorAll('.verdicts .soft')].map((e) => e.textContent.trim())");
    assert_eq!(said, json!(data.verdicts.iter().map(|verdict| &verdict.measured).collect::<Vec<_>>()));

    // Asked for, the image without a word is that of a tested one. It is the lit word, else a kept
    // one, else the word without which most changes.
    let cases =
        [("", "“frog”", ""), ("#w=2", "“red”", "#w=1&show=without"), ("#w=9,2", "“frog”", "#w=2,9&show=without")];
    for (hash, word, after) in cases {
        chrome.open(&file, hash, Look::default());
        chrome.click(".modes label:nth-of-type(3)");
        chrome.mouse("mouseMoved", (5.0, 5.0), false);
        let caption = chrome.text(".caption");
        assert!(caption.starts_with(&format!("The same seed without {word}")), "{hash}: {caption}");
        if !after.is_empty() {
            assert_eq!(chrome.eval("location.hash"), json!(after));
        }
    }
    // In a low window it is said right below the image, whatever is shown.
    for show in ["", "#show=without", "#show=without&differ=1", "#show=mattered"] {
        chrome.open(&file, show, Look { width: 1280, height: 720, ..Look::default() });
        let [_, top, ..] = place_of(&mut chrome, ".caption");
        assert!(top + 19.0 <= 720.0, "{show}: the caption begins at {top}");
        let [_, _, width, height] = place_of(&mut chrome, ".frame");
        assert!(width >= 0.45 * 1280.0 || height >= 0.6 * 720.0, "{show}: {width} x {height}");
    }
    clean(&mut chrome);
    // Without a test there is no legend.
    chrome.open(&write("unmarked.html", &sample(&Plan::default())), "", Look::default());
    assert_eq!(chrome.eval("document.querySelector('.mark-legend')"), Value::Null);
}

#[test]
fn steps_are_chosen_without_stumbling() {
    let Some(mut chrome) = browser() else { return };
    let mut data = sample(&Plan::default());
    for step in [5, 15] {
        let image = image::RgbImage::from_pixel(128, 128, image::Rgb([step as u8 * 10, 90, 90]));
        let mut bytes = std::io::Cursor::new(Vec::new());
        image.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
        data.estimates.push(StepImage {
            step,
            image: attnmap::report::ImageData { bytes: bytes.into_inner(), ..data.image.clone() },
        });
    }
    let file = write("window.html", &data);
    // Both ends at the last step, as after playing: each can be taken away from the other.
    chrome.open(&file, "#w=9&steps=25-25", Look { height: 1000, ..Look::default() });
    let at = |chrome: &mut Chrome, share: f64| {
        let [left, top, width, height] = place_of(chrome, ".window");
        (left + 7.0 + share * (width - 14.0), top + height / 2.0)
    };
    let (end, middle) = (at(&mut chrome, 1.0), at(&mut chrome, 0.5));
    chrome.drag(end, middle);
    assert_eq!(chrome.eval("location.hash"), json!("#w=9&steps=13-25"));
    // A press beside an end moves the nearer one.
    let (near, to) = (at(&mut chrome, 0.4), at(&mut chrome, 0.25));
    chrome.drag(near, to);
    assert_eq!(chrome.eval("location.hash"), json!("#w=9&steps=7-25"));
    chrome.key("Escape", false);
    assert_eq!(chrome.eval("location.hash"), json!("#w=9"), "Escape leaves a choice of steps");
    // The curve takes a click for one step and a drag for a window.
    let [left, top, width, height] = place_of(&mut chrome, ".curve");
    let on_curve = |share: f64| (left + share * width, top + height / 2.0);
    chrome.drag(on_curve(0.25), on_curve(0.5));
    assert_eq!(chrome.eval("location.hash"), json!("#w=9&steps=7-13"));
    let pressed = on_curve(2.0 / 24.0);
    chrome.mouse("mousePressed", pressed, true);
    chrome.mouse("mouseReleased", pressed, false);
    assert_eq!(chrome.eval("location.hash"), json!("#w=9&steps=3-3"));
    // The image forming: the nearest estimate that was kept.
    assert!(chrome.text(".caption").contains("estimate of the image at step 6"), "{}", chrome.text(".caption"));
    let seen = chrome.eval("document.querySelector('.frame img').src");
    assert_ne!(seen, json!(format!("data:image/png;base64,{}", base64_of(&data.image.bytes))));
    chrome.mouse("mouseMoved", (5.0, 5.0), false);
    // Nothing moves while steps and words change: the buttons and the words stay where they are.
    let spots =
        "[...document.querySelectorAll('.word, .transport button, .play')].map((e) => e.getBoundingClientRect().x)";
    let before = chrome.eval(spots);
    for fragment in ["#w=9&steps=1-1", "#w=9&steps=20-25", "#w=9&at=3:1", "#w=9"] {
        chrome.eval(&format!("location.hash = '{fragment}'"));
        chrome.settle();
        assert_eq!(chrome.eval(spots), before, "{fragment}");
    }
    // In a loop it goes on from the beginning.
    chrome.click(".transport.small .check");
    chrome.eval("location.hash = '#w=9&steps=24-24'");
    chrome.settle();
    chrome.key("p", false);
    chrome.wait("document.querySelector('.says').textContent.startsWith('step 2 ')");
    chrome.key("p", false);
    clean(&mut chrome);
    // A link has whether the image is shown as it was at the step.
    chrome.open(&file, "#w=9&steps=3-3&estimate=0", Look::default());
    assert!(!chrome.text(".caption").contains("estimate"), "{}", chrome.text(".caption"));
    assert_eq!(chrome.eval("location.hash"), json!("#w=9&steps=3-3&estimate=0"));
    clean(&mut chrome);
}

#[test]
fn a_gallery_of_tags_names_a_word_with_signs() {
    let Some(mut chrome) = browser() else { return };
    let mut data = sample(&Plan::default());
    data.words[FROG].text = "R&B".into();
    chrome.open(&write("signs.html", &data), "#word=r%26b", Look::default());
    assert!(chrome.text(".caption").contains("“R&B”"), "{}", chrome.text(".caption"));
    assert_eq!(chrome.eval("location.hash"), json!("#w=9"));
    clean(&mut chrome);
}

#[test]
fn a_gallery_names_a_word_however_it_was_typed() {
    let Some(mut chrome) = browser() else { return };
    for typed in ["\u{2764}\u{fe0f}", "CAFE\u{301}", "\u{39f}\u{394}\u{39f}\u{3a3}", "\u{3bf}\u{3b4}\u{3bf}\u{3c2}"] {
        let mut data = sample(&Plan::default());
        data.words[FROG].text = typed.into();
        let name = attnmap::trace::normalized(typed);
        chrome.open(&write("typed.html", &data), &format!("#word={name}"), Look::default());
        // A heart says little, so that the small words are shown with it.
        let hash = chrome.eval("location.hash.split('&')[0]");
        assert_eq!(hash, json!("#w=9"), "{typed}");
    }
    clean(&mut chrome);
}

fn base64_of(bytes: &[u8]) -> String {
    use base64::{Engine, engine::general_purpose::STANDARD};
    STANDARD.encode(bytes)
}

#[test]
fn links_and_commands_of_the_view_can_be_taken_along() {
    let Some(mut chrome) = browser() else { return };
    let mut data = sample(&Plan::default());
    data.sweep = Some(SweepLink { href: "../a-sweep/index.html".into(), seeds: 12 });
    let file = write("take.html", &data);
    chrome.open(&file, "#w=9,2&at=8:1.2,9:1.2&style=contour", Look::default());
    chrome.eval(
        "window.copied = ''; Object.defineProperty(navigator, 'clipboard', {value: {writeText: async (text) \
    => { window.copied = text; }}})",
    );
    chrome.click(".more summary");
    let copy = |chrome: &mut Chrome, button: &str| {
        chrome.eval(&format!(
            "[...document.querySelectorAll('.toolbar button')].find((b) => b.textContent === '{button}').click()"
        ));
        chrome.settle();
        chrome.eval("window.copied").as_str().unwrap().to_owned()
    };
    assert!(copy(&mut chrome, "Copy link").ends_with("take.html#w=9,2&at=8:1.2,9:1.2&style=contour"));
    let command = copy(&mut chrome, "Copy command");
    let layers =
        "up_blocks.8.attentions.0.transformer_blocks.0.attn2,up_blocks.9.attentions.0.transformer_blocks.0.attn2";
    assert!(command.starts_with("attnmap view "), "{command}");
    let rest = format!(" --words 'frog,apple' --layers '{layers}' --heads 1-2 --style contour").replace('\'', "");
    assert!(command.replace('\'', "").ends_with(&rest), "{command}");
    // The heading says the prompt, and the sweep beside the run is linked.
    assert!(chrome.text("h1").contains("a red apple to the left of a green frog"));
    assert_eq!(chrome.eval("document.querySelector('.meta a').getAttribute('href')"), json!("../a-sweep/index.html"));
    clean(&mut chrome);
}

#[test]
fn commands_draw_the_maps_that_the_page_shows() {
    let Some(mut chrome) = browser() else { return };
    let file = write("commands.html", &sample(&Plan::default()));
    let button = "[...document.querySelectorAll('.toolbar button')].find((b) => b.textContent === 'Copy command')";
    // The run's own maps at some steps are no average of chosen layers.
    for (fragment, end) in [
        ("#w=9&steps=2-3", " --words frog --steps-window 2-3"),
        ("#w=9&at=8&steps=2-3", " --layers up_blocks.8.attentions.0.transformer_blocks.0.attn2 --steps-window 2-3"),
        ("#w=s", " --words '<start>'"),
    ] {
        chrome.open(&file, fragment, Look::default());
        chrome.eval(
            "window.copied = ''; Object.defineProperty(navigator, 'clipboard', {value: {writeText: async (text) \
        => { window.copied = text; }}})",
        );
        chrome.eval(&format!("{button}.click()"));
        chrome.settle();
        let command = chrome.eval("window.copied");
        assert!(command.as_str().unwrap().ends_with(end), "{fragment}: {command}");
    }
    // `view` knows no word for the padding.
    chrome.open(&file, "#w=p", Look::default());
    assert_eq!(chrome.eval(&format!("{button}.disabled")), json!(true));
    clean(&mut chrome);
}

#[test]
fn steps_of_a_run_with_heads_of_its_own_are_said_to_be_of_all_heads() {
    let Some(mut chrome) = browser() else { return };
    let mut data = sample(&Plan::default());
    data.official.as_mut().unwrap().heads = Some(vec![0, 1]);
    let file = write("own-heads.html", &data);
    let chosen = "document.querySelector('.layers .chosen').textContent";
    chrome.open(&file, "#w=9", Look::default());
    chrome.key("]", false);
    assert_eq!(chrome.eval("location.hash"), json!("#w=9&at=8,9&steps=1-1"));
    let said = chrome.eval(chosen);
    assert!(said.as_str().unwrap().contains("all heads; step 1"), "{said}");
    // So does an address.
    chrome.open(&file, "#w=9&steps=2-2", Look::default());
    let said = chrome.eval(chosen);
    assert!(said.as_str().unwrap().contains("all heads; step 2"), "{said}");
    clean(&mut chrome);
}

#[test]
fn an_exported_picture_says_whose_scale_it_has() {
    let Some(mut chrome) = browser() else { return };
    let file = write("export.html", &sample(&Plan::default()));
    for (fragment, said) in [
        ("#w=9", ", one scale for all words. "),
        ("#w=9&scale=steps", ", one scale for all words and steps. "),
        ("#w=s", ", the token’s own scale. "),
        ("#w=9,s", "0 to the top of the scale of each, which are not the same. "),
        ("#w=9,2&scale=word", "0 to the top of the scale of each, which are not the same. "),
    ] {
        chrome.open(&file, fragment, Look::default());
        chrome.eval(
            "window.told = ''; \
             CanvasRenderingContext2D.prototype.fillText = (text) => { window.told += text + '|'; }; \
             HTMLCanvasElement.prototype.toBlob = () => {}",
        );
        chrome.key("e", false);
        let told = chrome.eval("window.told");
        assert!(told.as_str().unwrap().contains(said), "{fragment}: {told}");
    }
    clean(&mut chrome);
}

#[test]
fn the_matrix_says_what_the_chosen_head_gives_the_start_token() {
    let Some(mut chrome) = browser() else { return };
    let mut data = sample(&Plan::default());
    let matrix = &mut data.matrices[0];
    let count = matrix.tokens.len();
    for (at, value) in matrix.values[..count * count].iter_mut().enumerate() {
        *value = if at % count == 0 { 1.0 } else { 0.0 };
    }
    let file = write("sink.html", &data);
    let note = ".prompt-matrix .note";
    chrome.open(&file, "#matrix=0.0", Look::default());
    assert!(chrome.text(note).contains("On average a token gives 100 % to the start token"), "{}", chrome.text(note));
    chrome.open(&file, "", Look::default());
    assert!(!chrome.text(note).contains("gives 100 %"), "{}", chrome.text(note));
    clean(&mut chrome);
}

#[test]
fn on_paper_without_colours_without_scripts_and_enlarged() {
    let Some(mut chrome) = browser() else { return };
    let file = write("paper.html", &tested());
    // Printed from a dark screen: dark on light, nothing that only a screen can use, nothing cut
    // off.
    chrome.open(&file, "#w=9", Look { width: 794, height: 1123, dark: true, still: true });
    chrome.emulate("print", &[("prefers-color-scheme", "dark")]);
    let colour = |chrome: &mut Chrome, what: &str, property: &str| {
        chrome.eval(&format!("getComputedStyle(document.querySelector('{what}')).{property}"))
    };
    assert_eq!(colour(&mut chrome, "body", "backgroundColor"), json!("rgb(255, 255, 255)"));
    assert_eq!(colour(&mut chrome, "h2", "color"), json!("rgb(28, 27, 25)"));
    assert_eq!(colour(&mut chrome, ".ranking .bars i", "printColorAdjust"), json!("exact"));
    let shown = chrome.eval(
        "[...document.querySelectorAll('button.quiet, .transport, .toolbar, .hint')].filter((e) \
    => e.offsetParent !== null).length",
    );
    assert_eq!(shown, json!(0), "no buttons on paper");
    let cut = "[...document.querySelectorAll('.scroller')].filter((e) => e.scrollHeight > e.clientHeight + 1 || \
    e.scrollWidth > e.clientWidth + 1).map((e) => e.parentElement.className)";
    assert_eq!(chrome.eval(cut), json!([]), "nothing is cut off");
    chrome.screenshot(true).save(scratch("paper.png")).unwrap();

    // With the reader's own colours bars and choices are still to be seen.
    chrome.open(&file, "#w=9", Look::default());
    chrome.emulate("screen", &[("forced-colors", "active")]);
    let paper = colour(&mut chrome, "body", "backgroundColor");
    for part in [".ranking tr.lit .bars i", ".window i", ".choice label:has(:checked)"] {
        assert_ne!(colour(&mut chrome, part, "backgroundColor"), paper, "{part}");
    }
    chrome.screenshot(false).save(scratch("forced.png")).unwrap();
    clean(&mut chrome);

    // A window of half the size, as at 200 %.
    for (width, height) in [(640, 360), (390, 844), (320, 640)] {
        chrome.open(&file, "#w=9&box=20,20,30,30", Look { width, height, ..Look::default() });
        assert_eq!(chrome.overflow(), json!([]), "{width}x{height}");
    }
    clean(&mut chrome);

    // Without scripts: the image, the prompt, the sheet of words.
    chrome.open_without_scripts(&file, Look::default());
    let seen = chrome.eval(
        "[...document.querySelectorAll('img')].map((e) => e.getBoundingClientRect().width > 50 && e.naturalWidth > 0)",
    );
    assert_eq!(seen, json!([true, true]));
    assert!(
        chrome.eval("document.body.innerText").as_str().unwrap().contains("a red apple to the left of a green frog")
    );
    chrome.screenshot(false).save(scratch("no-scripts.png")).unwrap();
}

#[test]
fn words_of_every_script_and_length_fit() {
    let Some(mut chrome) = browser() else { return };
    let long = "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft";
    for (name, prompt) in [
        ("long", format!("a {long} on the beach")),
        ("chinese", "一只 绿色的 青蛙 在 海滩 上".into()),
        ("emoji", "a 🐸 and a 👩‍👩‍👧‍👦 on the 🏖️ beach".into()),
        ("hebrew", "תפוח אדום משמאל לצפרדע ירוקה".into()),
    ] {
        let mut data = sample(&Plan { prompt: prompt.clone(), ..Plan::default() });
        data.settings.push((long.into(), long.into()));
        let file = write(&format!("script-{name}.html"), &data);
        for (width, height) in [(390, 844), (1280, 720)] {
            chrome.open(&file, "#w=1&box=20,20,30,30", Look { width, height, ..Look::default() });
            assert_eq!(chrome.overflow(), json!([]), "{name} at {width}");
            chrome.screenshot(true).save(scratch(&format!("script-{name}-{width}.png"))).unwrap();
        }
        clean(&mut chrome);
    }
}
