//! Pictures against truth images (tests/truth/). `ATTNMAP_BLESS=1 cargo test --release render`
//! makes the truth images again: look at them before committing.

use attnmap::heatmap::Aggregate;
use attnmap::render::{
    Base, Display, Scale, Sheet, Style, Tile, Typesetter, contact_sheet, overlay, png_text, write_png,
};
use attnmap::run::{Pictures, render_run};
use attnmap::trace::{
    About, AttentionKind, CheckpointInfo, Grid, HalfMaps, PromptInfo, Recording, Site, SiteMaps, Stage, TokenInfo,
    TokenKind, Trace, WordInfo,
};
use image::{Rgb, RgbImage};
use std::path::{Path, PathBuf};

const GRID: Grid = Grid { height: 12, width: 16 };
const STEPS: usize = 2;

/// A sky, a sun and a field: light and dark, strong and weak colours.
pub fn picture() -> RgbImage {
    RgbImage::from_fn(64, 48, |x, y| {
        let sun = ((x as f32 - 46.0).powi(2) + (y as f32 - 12.0).powi(2)).sqrt() < 8.0;
        match (sun, y < 30) {
            (true, _) => Rgb([255, 220, 90]),
            (_, true) => Rgb([(90 + y * 4) as u8, (150 + y * 3) as u8, 235]),
            (_, false) => Rgb([40, (150 - y) as u8, (30 + x / 2) as u8]),
        }
    })
}

/// A round spot, highest `height`, in the middle of the cell at (`row`, `column`).
fn spot(row: f32, column: f32, height: f32) -> Vec<f32> {
    let value = |cell: usize| {
        let (y, x) = ((cell / GRID.width) as f32, (cell % GRID.width) as f32);
        height * (-((y - row).powi(2) + (x - column).powi(2)) / 8.0).exp()
    };
    (0..GRID.cells()).map(value).collect()
}

/// A trace of a prompt of `words`, each of which looks at a spot of its own, the later the weaker.
pub fn trace(words: &[&str]) -> Trace {
    let tokens = words.len() + 2;
    let mut sum = vec![0.0f32; (tokens + 1) * GRID.cells()];
    for index in 0..words.len() {
        let (row, column) = ((index * 5 + 3) % GRID.height, (index * 7 + 4) % GRID.width);
        let map = spot(row as f32, column as f32, 0.3 * STEPS as f32 / (1 + index) as f32);
        sum[(index + 1) * GRID.cells()..][..GRID.cells()].copy_from_slice(&map);
    }
    for cell in 0..GRID.cells() {
        let rest = STEPS as f32 - (1..tokens).map(|token| sum[token * GRID.cells() + cell]).sum::<f32>();
        sum[cell] = 0.9 * rest; // the start token; padding holds what is left
        sum[tokens * GRID.cells() + cell] = 0.1 * rest;
    }
    let text = words.join(" ");
    let token = |kind, start, end| TokenInfo { id: 0, text: String::new(), kind, start, end };
    let mut infos: Vec<WordInfo> = Vec::new();
    let mut all = vec![token(TokenKind::Start, 0, 0)];
    let mut start = 0;
    for (index, word) in words.iter().enumerate() {
        let end = start + word.len();
        let occurrence = 1 + infos.iter().filter(|info| info.text == *word).count();
        infos.push(WordInfo { text: word.to_string(), start, end, tokens: vec![index + 1], occurrence });
        all.push(token(TokenKind::Text, start, end));
        start = end + 1;
    }
    all.push(token(TokenKind::End, text.len(), text.len()));
    let site = Site {
        path: "up_blocks.0.attentions.0.transformer_blocks.0.attn2".into(),
        stage: Stage::Up,
        depth: 0.0,
        kind: AttentionKind::Cross,
        index: 0,
        heads: 1,
        height: GRID.height,
        width: GRID.width,
    };
    let recording = Recording {
        sites: vec![site],
        timesteps: vec![900.0, 400.0],
        conditional: HalfMaps { tokens, sites: vec![SiteMaps { sum: sum.into(), steps: None }] },
        unconditional: None,
        probes: None,
        self_attention: vec![],
        text: Vec::new(),
        text_2: Vec::new(),
        text_queries: None,
        concepts: None,
        goca: None,
    };
    let about = About {
        prompt: PromptInfo { text, tokens: all, words: infos },
        latent: GRID,
        image: Grid::new(48, 64),
        checkpoint: CheckpointInfo { id: "synthetic".into(), digest: String::new() },
        settings: serde_json::json!({ "seed": 7 }),
        ..About::default()
    };
    let trace = Trace::new(about, recording).unwrap();
    trace.verify().unwrap();
    trace
}

fn draw(folder: &Path, words: &[&str], display: &Display) -> RgbImage {
    let (trace, image, aggregate) = (trace(words), picture(), Aggregate::named("all").unwrap());
    let pictures = Pictures { trace: &trace, image: &image, aggregate: &aggregate, display, words: None };
    render_run(folder, &pictures).unwrap();
    image::open(folder.join("words.png")).unwrap().to_rgb8()
}

/// Compares with `tests/truth/NAME.png`, or makes it when ATTNMAP_BLESS is set. Single pixels may
/// differ by rounding.
#[track_caller]
fn assert_truth(name: &str, ours: &RgbImage) {
    let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/truth")).join(format!("{name}.png"));
    if std::env::var_os("ATTNMAP_BLESS").is_some() {
        return write_png(&path, ours, &[], false).unwrap();
    }
    let truth = image::open(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).to_rgb8();
    assert_eq!(ours.dimensions(), truth.dimensions(), "{name}");
    let differences = || ours.as_raw().iter().zip(truth.as_raw()).map(|(a, b)| a.abs_diff(*b));
    let worst = differences().max().unwrap_or(0);
    let mean = differences().map(u64::from).sum::<u64>() as f64 / ours.as_raw().len() as f64;
    if worst > 3 || mean > 0.05 {
        let actual = std::env::temp_dir().join(format!("attnmap-{name}.png"));
        write_png(&actual, ours, &[], false).unwrap();
        panic!("{name} differs from the truth image by up to {worst}, {mean:.3} on average; see {}", actual.display());
    }
}

#[test]
fn overlays_of_every_style() {
    let base = Base::new(&picture(), 96).unwrap();
    assert_eq!(base.image.dimensions(), (128, 96));
    for (name, style) in Style::NAMED {
        let display = Display { style, ..Display::default() };
        assert_truth(&format!("overlay-{name}"), &overlay(&base, &spot(7.0, 5.0, 0.3), GRID, 0.32, &display));
    }
}

#[test]
fn an_empty_map_is_drawn_as_nothing() {
    let base = Base::new(&picture(), 96).unwrap();
    let display = Display { style: Style::Contour, ..Display::default() };
    assert_eq!(overlay(&base, &vec![0.0; GRID.cells()], GRID, 0.0, &display), base.image);
}

#[test]
fn a_sheet_in_several_scripts() {
    let folder = tempfile::tempdir().unwrap();
    let words = ["apple", "हिन्दी", "تفاحة", "Donaudampfschifffahrtsgesellschaftskapitän", "яблоко", "apple"];
    let display = Display { overlay_size: 128, ..Display::default() };
    assert_truth("sheet", &draw(folder.path(), &words, &display));
    let names = |folder: &Path| {
        let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = entries.collect();
        names.sort();
        names
    };
    assert_eq!(names(folder.path()), ["heatmaps.safetensors", "overlays", "words.png"]);
    assert_eq!(
        names(&folder.path().join("overlays")),
        [
            "00-apple.png",
            "01-हिन्दी.png",
            "02-تفاحة.png",
            "03-donaudampfschifffahrtsgesellschaftskapitän.png",
            "04-яблоко.png",
            "05-apple-2.png",
        ]
    );
}

#[test]
fn a_word_scale_is_marked_on_the_sheet() {
    let folder = tempfile::tempdir().unwrap();
    let display = Display { overlay_size: 128, scale: Scale::Word, ..Display::default() };
    assert_truth("sheet-word-scale", &draw(folder.path(), &["frog", "on", "a"], &display));
}

#[test]
fn one_word_and_many() {
    let folder = tempfile::tempdir().unwrap();
    let display = Display { overlay_size: 64, ..Display::default() };
    let one = draw(folder.path(), &["frog"], &display);
    let words: Vec<String> = (0..75).map(|index| format!("word{index}")).collect();
    let many = draw(folder.path(), &words.iter().map(String::as_str).collect::<Vec<_>>(), &display);
    assert!(many.width() > 3 * one.width() && many.height() > 3 * one.height());
    assert!(many.width() < 3 * many.height() && many.height() < 3 * many.width());
}

#[test]
fn strange_words_are_drawn_and_name_no_other_folder() {
    let folder = tempfile::tempdir().unwrap();
    let words = [
        "../../etc/passwd",
        "🐸",
        "中文",
        "a\u{202e}b",
        "\u{0}\u{7}\n",
        "<script>",
        "\u{200d}",
        "e\u{301}\u{301}\u{301}",
    ];
    draw(folder.path(), &words, &Display { overlay_size: 64, ..Display::default() });
    let overlays = std::fs::read_dir(folder.path().join("overlays")).unwrap().count();
    assert_eq!((overlays, std::fs::read_dir(folder.path()).unwrap().count()), (words.len(), 3));
}

#[test]
fn a_sheet_of_no_words_is_the_image() {
    let folder = tempfile::tempdir().unwrap();
    assert!(draw(folder.path(), &[], &Display { overlay_size: 64, ..Display::default() }).width() > 64);
}

#[test]
fn png_text_keeps_every_character() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.png");
    let prompt = "हिन्दी 🐸 \"quotes\" <script>\nline two";
    write_png(&path, &picture(), &[("Description", prompt), ("Comment", "a\0b")], false).unwrap();
    assert_eq!(png_text(&path, "Description").unwrap().as_deref(), Some(prompt));
    assert_eq!(png_text(&path, "Comment").unwrap().as_deref(), Some("a\u{fffd}b"));
    assert_eq!(png_text(&path, "Author").unwrap(), None);
    assert_eq!(image::open(&path).unwrap().to_rgb8(), picture());
}

#[test]
fn very_thin_pictures_have_overlays_of_a_bounded_size() {
    let display = Display::default();
    for (size, expected) in [
        ((8, 1024), (32, 4096)),
        ((1024, 8), (4096, 32)),
        ((64, 16384), (16, 4096)),
        ((1, 40000), (1, 4096)),
        // Less thin ones as ever: the short side says.
        ((64, 1024), (512, 8192)),
        ((640, 10000), (640, 10000)),
    ] {
        let base = Base::new(&RgbImage::from_pixel(size.0, size.1, Rgb([9, 99, 199])), display.overlay_size).unwrap();
        assert_eq!(base.image.dimensions(), expected, "{size:?}");
    }
    // The words of a sheet can be read however thin its tiles are.
    for size in [(8, 1024), (1024, 8)] {
        let (image, trace) = (RgbImage::from_pixel(size.0, size.1, Rgb([9, 99, 199])), trace(&["apple", "frog"]));
        let base = Base::new(&image, 512).unwrap();
        let overlay = overlay(&base, &spot(5.0, 5.0, 0.3), GRID, 0.3, &display);
        let tile = |label| Tile { label, overlay: &overlay, top: 0.3, peak: 0.3, share: 0.1 };
        let sheet = Sheet { title: &trace.about.prompt.text, subtitle: "", note: "" };
        let tiles = [tile("apple"), tile("frog")];
        let drawn = contact_sheet(&base, &tiles, &sheet, &display, &mut Typesetter::embedded());
        let (width, height) = drawn.dimensions();
        let inked = drawn.pixels().filter(|pixel| pixel.0 == [0xf2, 0xf0, 0xec]).count();
        assert!(inked > 100 && width < 6000 && height < 6000, "{width}x{height}, {inked} pixels of words");
    }
}

#[test]
fn the_scale_of_a_sheet_is_of_the_words_on_it() {
    let (all, few) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (trace, image, aggregate) = (trace(&["apple", "and", "frog"]), picture(), Aggregate::named("all").unwrap());
    let display = Display { overlay_size: 64, ..Display::default() };
    let draw = |folder: &Path, words: Option<&[WordInfo]>| {
        let pictures = Pictures { trace: &trace, image: &image, aggregate: &aggregate, display: &display, words };
        render_run(folder, &pictures).unwrap();
        let name = if words.is_some() { "overlays/00-frog.png" } else { "overlays/02-frog.png" };
        image::open(folder.join(name)).unwrap().to_rgb8()
    };
    let dim = draw(all.path(), None);
    let lit = draw(few.path(), Some(&trace.about.prompt.select("frog").unwrap()));
    // Its peak is a third of the first word's, and the top of a scale of its own.
    let top = display.colormap.at(1.0);
    let near = |image: &RgbImage| {
        let distance = |pixel: &Rgb<u8>| pixel.0.iter().zip(top).map(|(a, b)| u32::from(a.abs_diff(b))).sum::<u32>();
        image.pixels().map(distance).min().unwrap()
    };
    assert!(near(&lit) + 60 < near(&dim), "{} and {}", near(&lit), near(&dim));
}

#[test]
fn scales_show_what_the_style_shows() {
    let trace = trace(&["apple"]);
    let bar = |style: Style| {
        let display = Display { style, overlay_size: 256, ..Display::default() };
        let base = Base::new(&picture(), 256).unwrap();
        let overlay = overlay(&base, &spot(5.0, 5.0, 0.3), GRID, 0.3, &display);
        let tiles = [Tile { label: "apple", overlay: &overlay, top: 0.3, peak: 0.3, share: 0.1 }];
        let sheet = Sheet { title: &trace.about.prompt.text, subtitle: "", note: "" };
        let drawn = contact_sheet(&base, &tiles, &sheet, &display, &mut Typesetter::embedded());
        // Colours below the last tile, where the scale is.
        let below = drawn.enumerate_pixels().filter(|(_, y, _)| y * 3 > drawn.height() * 2).map(|(.., pixel)| pixel.0);
        below.filter(|[r, _, b]| r.abs_diff(*b) > 60).collect::<std::collections::HashSet<_>>().len()
    };
    assert!(bar(Style::Heat) > 50, "all colours");
    assert!((3..40).contains(&bar(Style::Contour)), "the lines' colours: {}", bar(Style::Contour));
    assert_eq!((bar(Style::Mask), bar(Style::Spotlight)), (0, 0), "colours that the pictures do not use");
}
