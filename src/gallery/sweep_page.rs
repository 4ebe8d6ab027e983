//! The page of a sweep: whether each word has a habit, where it lands on the mean image, and the
//! image of every seed.

use crate::facts::lexicon::Role;
use crate::facts::sweep::{StatedSweep, Sweep, WordSweep};
use crate::plural;
use crate::report::sweep_document;
use crate::trace::Grid;
use html_escape::{encode_double_quoted_attribute, encode_text};

/// The mean image's file in the sweep's folder.
pub(super) const MEAN: &str = "mean.png";

/// The file of a seed's image in the sweep's folder.
pub(super) fn seed_file(seed: u64) -> String {
    format!("seeds/{seed}.png")
}

/// What the page shows beside what was found.
pub(super) struct Around<'a> {
    /// Width and height of the images in pixels.
    pub size: (u32, u32),
    /// The command line that makes the run of a seed; its seed is the first.
    pub command: &'a str,
    /// The page of the run of each seed, where one lies beside the sweep.
    pub runs: &'a [Option<String>],
}

/// The whole page.
pub(super) fn page(found: &Sweep, around: &Around) -> String {
    let (prompt, drawn) = (encode_text(&found.about.prompt), plural(found.seeds.len(), "seed"));
    let told = || found.words.iter().filter(|word| word.role != Role::Filler);
    let item = |text: String| format!("<li>{}</li>", encode_text(&text));
    let habits: String = told().filter(|word| word.has_a_place()).filter_map(WordSweep::sentence).map(item).collect();
    let stated: String = found.stated.iter().filter_map(StatedSweep::sentence).map(item).collect();
    let expected: String = found.expectations.iter().map(|expected| item(expected.to_string())).collect();
    let plots: String = told().map(|word| plot(word, found, around)).collect();
    let seeds: String =
        found.seeds.iter().zip(around.runs).map(|(seed, run)| thumbnail(*seed, run.as_deref(), around)).collect();
    let rows: String = found.words.iter().map(|word| row(word, around)).collect();
    let body = format!(
        "<main class=\"page\"><header class=\"masthead\"><p class=\"meta\"><span class=\"mark\">attnmap</span>\
         <span>{drawn} · {checkpoint} · {width}×{height}</span></p><h1 dir=\"auto\">{prompt}</h1></header>\n\
         <section><h2>A habit of the prompt, or an accident of the seed</h2><ul \
class=\"habits\">{expected}{habits}{stated}</ul>\
         <p class=\"note\">A word has a habit where its map lies on one side more often than chance would put it there \
         (sign test, 5 %). Seeds that probably did not draw it do not count. Attention shows where the model looked, \
         not why.</p></section>\n\
         <section><h2>Where each word lands</h2><div class=\"plots\">{plots}</div>\
         <p class=\"note\">A dot a seed: the centre of the word’s map. The ring is their mean. Behind them the mean \
         of all images.</p></section>\n\
         <section><h2>The seeds</h2><ul class=\"seeds\">{seeds}</ul>\
         <p class=\"note\">To see the maps of one seed, make its run; give another --seed for another:</p>\
         <p class=\"command\"><code>{command}</code></p></section>\n\
         <section><h2>In numbers</h2><div class=\"scroller\" tabindex=\"0\" role=\"region\" aria-label=\"Words in \
         numbers\"><table>\
         <caption>Means over the seeds; centres in pixels from the top left, scatter in per cent of the image’s \
         sides</caption>\
         <thead><tr><th scope=\"col\">Word</th><th scope=\"col\">peak</th><th scope=\"col\">centre x, y</th>\
         <th scope=\"col\">scatter</th><th scope=\"col\">probably not drawn</th></tr></thead>\
         <tbody>{rows}</tbody></table></div></section>\n\
         <section><h2>The mean maps</h2><img class=\"sheet\" src=\"sweep.png\" alt=\"The mean image and, over it, \
         the mean map of each word\"></section>\n\
         <footer class=\"note\">attnmap {version}</footer></main>\n",
        checkpoint = encode_text(&found.about.checkpoint.id),
        width = around.size.0,
        height = around.size.1,
        command = encode_text(around.command),
        version = env!("CARGO_PKG_VERSION"),
    );
    sweep_document(&format!("{} · {drawn} · attnmap", found.about.prompt), &body)
}

/// One word's centres over the mean image.
fn plot(word: &WordSweep, found: &Sweep, around: &Around) -> String {
    let name = encode_double_quoted_attribute(&word.word);
    let (width, height) = (f64::from(around.size.0), f64::from(around.size.1));
    let unit = width.min(height) / 100.0;
    let circle = |x: f32, y: f32, class: &str, radius: f64, title: &str| {
        let (x, y) = (width * f64::from(x), height * f64::from(y));
        format!("<circle{class} cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius:.2}\"><title>{title}</title></circle>")
    };
    let dots: String = word
        .centroids
        .iter()
        .zip(&found.seeds)
        .filter_map(|(point, &seed)| {
            let dot = point.map(|at| circle(at.x, at.y, "", 1.8 * unit, &format!("seed {seed}")))?;
            Some(format!("<a href=\"{}\" aria-label=\"The image of seed {seed}\">{dot}</a>", seed_file(seed)))
        })
        .collect();
    let mean = word.mean.map_or_else(String::new, |at| circle(at.x, at.y, " class=\"mean\"", 4.0 * unit, "mean"));
    let scatter = word.scatter.map_or_else(String::new, |scatter| format!(", scatter {}", crate::percent(scatter)));
    let absent = word.absent().map_or_else(String::new, |absent| format!(", probably not drawn {absent}"));
    format!(
        "<figure class=\"plot\"><div class=\"frame\"><img src=\"{MEAN}\" alt=\"\"><svg viewBox=\"0 0 {width} \
        {height}\" role=\"group\" \
         aria-label=\"Where {name} lands\">{dots}{mean}</svg></div><figcaption><b \
         dir=\"auto\">{name}</b>{scatter}{absent}</figcaption></figure>"
    )
}

fn thumbnail(seed: u64, run: Option<&str>, around: &Around) -> String {
    let (file, (width, height)) = (seed_file(seed), around.size);
    let image = format!(
        "<img src=\"{file}\" width=\"{width}\" height=\"{height}\" loading=\"lazy\" alt=\"The image of seed {seed}\">"
    );
    let page =
        run.map_or_else(String::new, |run| format!(" · <a href=\"{}\">maps</a>", encode_double_quoted_attribute(run)));
    format!("<li><a href=\"{file}\">{image}</a><span>seed {seed}{page}</span></li>")
}

fn row(word: &WordSweep, around: &Around) -> String {
    let [name, cells @ ..] = word.cells(Grid::new(around.size.1 as usize, around.size.0 as usize));
    let cells: String = cells.iter().map(|cell| format!("<td>{cell}</td>")).collect();
    let little = if word.role == Role::Filler { " class=\"little\"" } else { "" };
    format!("<tr{little}><th scope=\"row\" dir=\"auto\">{}</th>{cells}</tr>", encode_text(&name))
}
