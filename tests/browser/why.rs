//! The section "Why is it there?" of a run's page: the sentence, the pictures, the table, and what
//! is said beside it.

use crate::chrome::Look;
use crate::sample::{Plan, sample};
use crate::{browser, clean, scratch, write};
use attnmap::report::{ImageData, WhyAnswer};
use serde_json::json;

/// So many pictures side by side, with room for a caption below, as `why` leaves them.
fn strip(pictures: u32) -> ImageData {
    let shade = |x: u32, y: u32| image::Rgb([(40 * (x / 256)) as u8, (y / 2) as u8, 120]);
    let image = image::RgbImage::from_fn(256 * pictures, 300, shade);
    let mut bytes = std::io::Cursor::new(Vec::new());
    image.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    ImageData { mime: "image/png", bytes: bytes.into_inner(), width: 0, height: 0 }
}

fn answer() -> WhyAnswer {
    let row = |cells: [&str; 4]| cells.map(str::to_owned);
    let sentence = "“frog” may lie where it does because of the words and the noise: turning “left of” to “right of” \
                    moves it by 31 % to the left, over 9 seeds it scatters by 16 %; it was settled after 4 of 25 \
                    steps.";
    WhyAnswer {
        word: "frog".into(),
        sentence: sentence.into(),
        rows: vec![
            row(["fresh noise", "9", "16 %", "drawn in 9 of 9"]),
            row(["noise under it swapped with the other side's", "1", "8.2 %", "follows 12 %"]),
            row(["“left of” turned to “right of”", "6", "31 %", "gone in 17 %"]),
            row(["without “apple”", "2", "–", ""]),
            row(["fresh noise after step 4", "4", "–", "stays in 4 of 4"]),
        ],
        notes: vec!["Not tested for want of runs: without “green”; a larger --budget tests them.".into()],
        figures: vec![
            ("“frog”: fresh noise".into(), strip(5)),
            ("“frog”: the same noise, another prompt".into(), strip(3)),
        ],
    }
}

#[test]
fn an_answer_stands_with_its_pictures_and_its_table() {
    let Some(mut chrome) = browser() else { return };
    let (mut data, answer) = (sample(&Plan::default()), answer());
    data.why = vec![answer.clone()];
    let file = write("why.html", &data);
    let narrow = Look { width: 390, height: 844, ..Look::default() };
    for (name, look) in [
        ("1280", Look::default()),
        ("390", narrow),
        ("1280-dark", Look { dark: true, ..Look::default() }),
        ("390-dark", Look { dark: true, ..narrow }),
    ] {
        chrome.open(&file, "#w=9", look);
        assert_eq!(chrome.text("#why h2"), "Why is it there?", "{name}");
        assert_eq!(chrome.text("#why .why > p"), answer.sentence, "{name}");
        let rows = chrome.eval(
            "[...document.querySelectorAll('#why tbody tr')].map((row) => [...row.children].map((e) => e.textContent))",
        );
        assert_eq!(rows, json!(answer.rows), "{name}");
        let notes = chrome.eval("[...document.querySelectorAll('#why .remarks li')].map((e) => e.textContent)");
        assert_eq!(notes, json!(answer.notes), "{name}");
        // Pictures are loaded when they come into sight; each is within the window.
        let strips = chrome.eval(
            "Promise.all([...document.querySelectorAll('#why .strip')].map(async (figure) => { \
             const picture = figure.querySelector('img'); picture.loading = 'eager'; await picture.decode(); \
             const { left, right } = picture.getBoundingClientRect(); \
             const whole = left >= 0 && right <= innerWidth && right - left > 200; \
             return [figure.querySelector('figcaption').textContent, picture.naturalWidth, whole]; }))",
        );
        let expected = [("“frog”: fresh noise", 1280, true), ("“frog”: the same noise, another prompt", 768, true)];
        assert_eq!(strips, json!(expected), "{name}");
        // What is written can be told from what it stands on.
        let colours = chrome.eval(
            "[getComputedStyle(document.querySelector('#why .why > p')).color, \
             getComputedStyle(document.body).backgroundColor]",
        );
        assert_ne!(colours[0], colours[1], "{name}");
        assert_eq!(chrome.overflow(), json!([]), "{name}");
        chrome.screenshot(true).save(scratch(&format!("why-{name}.png"))).unwrap();
        clean(&mut chrome);
    }
    // Where nothing was asked there is no such section.
    chrome.open(&write("why-unasked.html", &sample(&Plan::default())), "", Look::default());
    assert_eq!(chrome.eval("document.querySelectorAll('#why').length"), json!(0));
    clean(&mut chrome);
}
