//! The comparison of two made-up runs.

use crate::chrome::Look;
use crate::sample::{Plan, sample};
use crate::{browser, clean, scratch};
use attnmap::report::compare_page;
use serde_json::json;

#[test]
fn words_are_linked_and_maps_subtracted() {
    let Some(mut chrome) = browser() else { return };
    let a = sample(&Plan::default());
    let b = sample(&Plan { prompt: "a red apple to the right of a big green frog".into(), ..Plan::default() });
    let file = scratch("compare.html");
    std::fs::write(&file, compare_page(&a, &b, [Some("run-a/report.html"), None]).unwrap()).unwrap();
    for (width, dark) in [(400, false), (1280, false), (1920, true)] {
        chrome.open(&file, "#pair=2", Look { width, dark, ..Look::default() });
        chrome.screenshot(true).save(scratch(&format!("compare-{width}.png"))).unwrap();
        assert_eq!(chrome.overflow(), json!([]), "at {width} px");
    }
    chrome.open(&file, "", Look::default());
    let kinds = chrome.eval(
        "[...document.querySelectorAll('.pairs tbody tr[data-pair]')].map((r) => r.querySelector('td').textContent)",
    );
    let count = |kind: &str| kinds.as_array().unwrap().iter().filter(|k| *k == kind).count();
    // left -> right; big is new; on the beach is gone.
    assert_eq!((count("replaced"), count("only in A"), count("only in B")), (1, 3, 1), "{kinds}");
    // Hovering a word in one prompt lights it in the other.
    chrome.hover(".line:nth-of-type(2) .word:nth-of-type(3)");
    assert_eq!(chrome.eval("document.querySelectorAll('.word.lit').length"), json!(2));
    assert!(chrome.text(".picture.b figcaption").contains("“apple”"));
    // The change of shares equals the one computed here.
    let share =
        |data: &attnmap::report::ReportData, word: usize| f64::from(data.official.as_ref().unwrap().shares[word + 1]);
    let change = chrome.eval("Number(document.querySelector('tr[data-pair=\"2\"] [data-value]').dataset.value)");
    assert!((change.as_f64().unwrap() - (share(&b, 2) - share(&a, 2))).abs() < 1e-6, "{change}");
    // A locked word goes into the address, a word of one side says that there is nothing to
    // subtract.
    chrome.click(".word.onlya");
    assert!(chrome.text(".picture.difference figcaption").contains("nothing to subtract"));
    assert!(chrome.eval("location.hash").as_str().unwrap().starts_with("#pair="));
    chrome.key("Escape", false);
    assert_eq!(chrome.eval("location.hash"), json!(""));
    clean(&mut chrome);
}

#[test]
fn words_from_right_to_left_keep_their_order_beside_an_arrow() {
    let Some(mut chrome) = browser() else { return };
    let a = sample(&Plan { prompt: "\u{5ea}\u{5e4}\u{5d5}\u{5d7} apple".into(), ..Plan::default() });
    let b = sample(&Plan { prompt: "\u{5d0}\u{5d3}\u{5d5}\u{5dd} apple".into(), ..Plan::default() });
    let file = scratch("compare-rtl.html");
    std::fs::write(&file, compare_page(&a, &b, [None, None]).unwrap()).unwrap();
    chrome.open(&file, "", Look { width: 390, height: 844, ..Look::default() });
    assert_eq!(chrome.overflow(), json!([]));
    // Where the first letters of both words of the first pair stand, from the left.
    let places = chrome.eval(
        "(() => { const text = document.querySelector('tr[data-pair=\"0\"] th').firstChild, range = new Range(); \
         return [0, text.data.lastIndexOf(' ') + 1].map((at) => { \
         range.setStart(text, at); range.setEnd(text, at + 1); \
         return range.getBoundingClientRect().x; }); })()",
    );
    let [old, new] = [0, 1].map(|at: usize| places[at].as_f64().unwrap());
    assert!(old < new, "{places}: what was comes before what is");
    clean(&mut chrome);
}

#[test]
fn the_images_are_compared_in_one_place() {
    let Some(mut chrome) = browser() else { return };
    let a = sample(&Plan::default());
    let mut b = sample(&Plan::default());
    let mut other = image::load_from_memory(&b.image.bytes).unwrap().to_rgb8();
    for y in 0..64 {
        for x in 0..64 {
            other.put_pixel(x, y, image::Rgb([0, 0, 0]));
        }
    }
    let mut bytes = std::io::Cursor::new(Vec::new());
    other.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    b.image.bytes = bytes.into_inner();
    let file = scratch("compare-images.html");
    std::fs::write(&file, compare_page(&a, &b, [Some("run-a/report.html"), None]).unwrap()).unwrap();
    // What differs between the images is what the page opens with: the quarter that was blackened.
    chrome.open(&file, "", Look::default());
    let caption = chrome.text(".picture.difference figcaption");
    assert!(caption.contains("25 % of the image changed"), "{caption}");
    let lit = "(() => { const c = document.querySelector('.picture.difference canvas'), d = c.getContext('2d'); \
               return [[0.2, 0.2], [0.8, 0.8]].map(([x, y]) => { const p = d.getImageData(x * c.width, y * c.height, \
1, 1).data; return p[0] + p[1] + p[2]; }); })()";
    let lit = chrome.eval(lit);
    assert!(lit[0].as_f64().unwrap() > 4.0 * lit[1].as_f64().unwrap(), "{lit}");
    chrome.click(".over label:nth-of-type(3)");
    assert_eq!(chrome.eval("location.hash"), json!("#show=slider"));
    let middle = chrome.centre(".picture.difference .frame");
    let left = chrome.eval(
        "(() => { const r = document.querySelector('.picture.difference \
    .frame').getBoundingClientRect(); return r.x + 0.25 * r.width; })()",
    );
    chrome.drag(middle, (left.as_f64().unwrap(), middle.1));
    assert_eq!(chrome.eval("location.hash"), json!("#show=slider&split=25"));
    let clip = "getComputedStyle(document.querySelectorAll('.picture.difference img')[1]).clipPath";
    assert_eq!(chrome.eval(clip), json!("inset(0px 0px 0px 25%)"));
    chrome.click(".over label:nth-of-type(4)");
    let through = "getComputedStyle(document.querySelectorAll('.picture.difference img')[1]).opacity";
    assert_eq!(chrome.eval(through), json!("0.25"));
    // The runs' own pages are linked where there are some; each prompt is one tab stop, arrows go
    // along it.
    let links = chrome.eval("[...document.querySelectorAll('figcaption a')].map((a) => a.getAttribute('href'))");
    assert_eq!(links, json!(["run-a/report.html"]));
    assert_eq!(chrome.eval("document.querySelectorAll('.word[tabindex=\"0\"]').length"), json!(2));
    chrome.eval("document.querySelector('.word').focus()");
    chrome.key("ArrowRight", false);
    assert_eq!(chrome.eval("document.activeElement.dataset.pair"), json!("1"));
    clean(&mut chrome);
}

#[test]
fn a_run_compared_with_itself_has_no_difference() {
    let Some(mut chrome) = browser() else { return };
    let data = sample(&Plan { prompt: "<script>alert(1)</script> & \"frog\"".into(), ..Plan::default() });
    let file = scratch("compare-same.html");
    std::fs::write(&file, compare_page(&data, &data, [None, None]).unwrap()).unwrap();
    chrome.open(&file, "#pair=0", Look::default());
    let changes = chrome.eval("[...document.querySelectorAll('[data-value]')].map((e) => Number(e.dataset.value))");
    assert!(changes.as_array().unwrap().iter().all(|change| change == 0.0), "{changes}");
    clean(&mut chrome);
}

/// The example LoRA on the default checkpoint: the page says in words what it moved.
#[test]
fn what_a_lora_moved_is_said() {
    let Some(mut chrome) = browser() else { return };
    let folder = tempfile::tempdir().unwrap();
    let attnmap = |args: &[&str]| {
        let done = std::process::Command::new(env!("CARGO_BIN_EXE_attnmap"))
            .args(args)
            .current_dir(folder.path())
            .output()
            .unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    };
    let lora = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/lora/stand-left.safetensors");
    attnmap(&["generate", "a penguin on the grass", "--seed", "3", "--out", "plain"]);
    attnmap(&["generate", "a penguin on the grass", "--seed", "3", "--lora", lora, "--out", "left"]);
    attnmap(&["compare", "plain", "left", "--out", "page.html"]);
    let page = folder.path().join("page.html");
    for (width, dark) in [(400, true), (1280, false), (1920, true)] {
        chrome.open(&page, "#pair=1", Look { width, dark, ..Look::default() });
        chrome.screenshot(true).save(scratch(&format!("lora-{width}.png"))).unwrap();
        assert_eq!(chrome.overflow(), json!([]), "at {width} px");
    }
    let said = chrome.text(".differs");
    assert!(said.contains("LoRA none in A, stand-left.safetensors at 1 in B"), "{said}");
    // As far as run.json has it.
    let centre = |run: &str| {
        let record = std::fs::read(folder.path().join(run).join("run.json")).unwrap();
        let record: serde_json::Value = serde_json::from_slice(&record).unwrap();
        record["words"][1]["centroid"]["x"].as_f64().unwrap()
    };
    let (before, after) = (centre("plain"), centre("left"));
    assert!(before - after > 0.2);
    let moved = format!("“penguin” moved left by {:.0} px", 128.0 * (before - after));
    assert!(said.contains(&moved), "{said} {moved}");
    let rows = chrome.eval("[...document.querySelectorAll('.settings .differs th')].map((th) => th.textContent)");
    assert_eq!(rows, json!(["digest", "LoRA"]));
    clean(&mut chrome);
}

#[test]
fn more_than_two_runs_stand_in_a_strip_with_a_base() {
    let Some(mut chrome) = browser() else { return };
    let of = |prompt: &str, name: &str| attnmap::report::ReportData {
        name: name.into(),
        ..sample(&Plan { prompt: prompt.into(), ..Plan::default() })
    };
    let runs = [of("a red apple", "red"), of("a green apple", "green"), of("a green frog", "frog")];
    let listed: Vec<_> = runs.iter().map(|run| (run, None)).collect();
    let file = scratch("compare-three.html");
    std::fs::write(&file, attnmap::report::compare_runs(&listed, None).unwrap()).unwrap();
    for (width, dark) in [(400, false), (1280, true)] {
        chrome.open(&file, "", Look { width, dark, ..Look::default() });
        chrome.screenshot(true).save(scratch(&format!("compare-three-{width}.png"))).unwrap();
    }
    let meta = |chrome: &mut crate::chrome::Chrome| chrome.text(".masthead .meta span:nth-child(2)");
    chrome.open(&file, "", Look::default());
    assert_eq!(chrome.eval("document.querySelectorAll('.strip li').length"), json!(3));
    assert_eq!(meta(&mut chrome), "red  |  green");
    chrome.open(&file, "#base=3&with=2", Look::default());
    assert_eq!(meta(&mut chrome), "frog  |  green");
    assert!(chrome.text(".differs").contains("“frog” became “apple”"));
    assert!(attnmap::report::compare_runs(&listed[..1], None).is_err());
    // Of one word alone.
    let html = attnmap::report::compare_runs(&listed[..2], Some(&["apple".into()])).unwrap();
    std::fs::write(&file, html).unwrap();
    chrome.open(&file, "", Look::default());
    assert_eq!(chrome.eval("document.querySelectorAll('.pairs tbody tr[data-pair]').length"), json!(1));
    assert_eq!(chrome.eval("document.querySelectorAll('.strip').length"), json!(0));
    clean(&mut chrome);
}

#[test]
fn the_list_of_runs_compares_two() {
    let Some(mut chrome) = browser() else { return };
    let folder = scratch("runs");
    std::fs::remove_dir_all(&folder).ok();
    let records = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/records");
    for (at, (name, record)) in [("older", "run-1.json"), ("newer", "run-2.json")].into_iter().enumerate() {
        std::fs::create_dir_all(folder.join(name)).unwrap();
        std::fs::copy(records.join(record), folder.join(name).join("run.json")).unwrap();
        let picture = image::RgbImage::from_pixel(32, 32, image::Rgb([200, 90 * at as u8, 40]));
        picture.save(folder.join(name).join("image.png")).unwrap();
        let trace = std::fs::File::create(folder.join(name).join("trace.safetensors")).unwrap();
        let made = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000 * (at as u64 + 1));
        trace.set_modified(made).unwrap();
    }
    assert_eq!(attnmap::report::write_runs(&folder).unwrap(), 2);
    let file = folder.join("index.html");
    for (width, dark) in [(400, true), (1280, false)] {
        chrome.open(&file, "#a=older&b=newer", Look { width, dark, ..Look::default() });
        chrome.screenshot(true).save(scratch(&format!("runs-{width}.png"))).unwrap();
        let wide = chrome.eval("document.documentElement.scrollWidth").as_u64().unwrap();
        assert!(wide <= u64::from(width), "page is {wide} wide at {width}");
    }
    chrome.open(&file, "", Look::default());
    let names = chrome
        .eval("[...document.querySelectorAll('.card > a')].map((a) => decodeURIComponent(a.getAttribute('href')))");
    assert_eq!(names, json!(["newer/image.png", "older/image.png"]), "the newest first; neither has a page");
    chrome.click(".card:nth-child(1) button");
    chrome.click(".card:nth-child(2) button");
    assert!(chrome.text(".command code").contains("attnmap compare"), "{}", chrome.text(".pair"));
    assert!(chrome.text(".pair .note").contains("→"));
    // A link has where the slider stands.
    chrome.open(&file, "#a=older&b=newer&mode=slider&split=20", Look::default());
    assert_eq!(chrome.eval("document.querySelector('.pair input[type=range]').value"), json!("20"));
    assert!(chrome.eval("location.hash").as_str().unwrap().ends_with("&mode=slider&split=20"));
    chrome.eval(
        "(() => { const f = document.querySelector('input[type=search]'); f.value = 'beach'; \
    f.dispatchEvent(new Event('input')); })()",
    );
    chrome.settle();
    assert_eq!(chrome.text(".meta span:nth-child(2)"), "1 of 2 runs");
    std::fs::write(&file, "mine").unwrap();
    assert!(attnmap::report::write_runs(&folder).is_err(), "what attnmap did not write stays");
}
