//! A prompt swept over many seeds: the runs, what their maps have in common, and the folder that shows it.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use html_escape::encode_safe;
use image::RgbImage;
use serde_json::Value;

use crate::facts::label;
use crate::facts::lexicon::Role;
use crate::facts::sweep::{About, Collector, FILE, Sweep, WordSweep};
use crate::files::{Kind, Staging, Target, page_mark, write_file};
use crate::heatmap::{self, Aggregate};
use crate::pipeline::{Event, Keep, Options, Pipeline};
use crate::prompt::Prompt;
use crate::render::{Base, Display, Sheet, Tile, Typesetter, contact_sheet, overlay, write_png};
use crate::trace::{CheckpointInfo, PromptInfo, WordInfo};
use crate::{Error, Result};

/// A sweep's folder: one whose `sweep.json` reads as one.
pub const SWEEP: Kind = Kind {
    name: "a sweep",
    is: |folder| Sweep::read(folder).is_ok_and(|found| found.is_some()),
    owns: |_| Box::new(|path| [FILE, PICTURE, PAGE].iter().any(|own| path == Path::new(own))),
};

const PICTURE: &str = "sweep.png";
const PAGE: &str = "index.html";

/// A prompt over many seeds.
#[derive(Debug, Clone)]
pub struct Swept {
    /// What was found.
    pub found: Sweep,
    /// The mean of all images.
    pub mean: RgbImage,
    collector: Collector,
    /// Each word with its share of attention in the last run.
    words: Vec<(String, f32)>,
}

/// Runs `prompt` once a seed of `options` and collects where its words' maps lie, those of `words` alone where some are chosen. `progress`
/// is told of every finished seed.
///
/// # Errors
/// [`Error::Option`] for what [`Pipeline::check`] refuses; [`Error::Interrupted`] when `progress` breaks.
pub fn sweep(
    pipeline: &Pipeline,
    prompt: &Prompt,
    options: &Options,
    aggregate: &Aggregate,
    words: Option<&[WordInfo]>,
    progress: &mut dyn FnMut(u64) -> ControlFlow<()>,
) -> Result<Swept> {
    pipeline.check(options)?;
    aggregate.choose(&pipeline.sites(options.height, options.width), pipeline.latent_grid(options))?;
    let info = PromptInfo::from(prompt);
    let (chosen, words) = (words.is_some(), words.unwrap_or(&info.words));
    let mut collector = Collector::new(About {
        prompt: info.text.clone(),
        checkpoint: CheckpointInfo { id: pipeline.id().to_owned(), digest: pipeline.digest().to_owned() },
        aggregate: aggregate.to_string(),
        negative: options.negative.clone(),
        settings: settings(pipeline, options),
    });
    let (mut shares, mut sums) = (Vec::new(), Vec::<f32>::new());
    for &seed in &options.seeds {
        let one = Options { seeds: vec![seed], ..options.clone() };
        let keep = Keep { per_step: aggregate.steps.is_some(), ..Keep::default() };
        let (mut traced, _) = pipeline.trace(prompt, &one, keep, &mut |_: Event| ControlFlow::Continue(()))?;
        let traced = traced.swap_remove(0);
        let maps = heatmap::aggregate(&traced.trace, aggregate, words)?;
        let whole = match chosen {
            true => Some(heatmap::aggregate(&traced.trace, aggregate, &info.words)?),
            false => None,
        };
        collector.add(seed, &maps, whole.as_ref());
        let pixels = traced.generation.image.as_raw();
        sums.resize(pixels.len(), 0.0);
        sums.iter_mut().zip(pixels).for_each(|(sum, &value)| *sum += f32::from(value));
        shares = maps.chosen.iter().map(|word| (label(word), maps.share(word))).collect();
        if progress(seed).is_break() {
            return Err(Error::Interrupted);
        }
    }
    let count = options.seeds.len() as f32;
    let mean = sums.iter().map(|sum| (sum / count).round() as u8).collect();
    let mean = RgbImage::from_raw(options.width as u32, options.height as u32, mean).expect("three bytes a pixel");
    Ok(Swept { found: collector.finish(), mean, collector, words: shares })
}

/// What all runs were made with, as `run.json` says it; the seed is each run's own.
fn settings(pipeline: &Pipeline, options: &Options) -> Option<Value> {
    serde_json::to_value(pipeline.settings(options, 0)).ok()
}

impl Swept {
    /// Writes the folder `target` with `sweep.json`, `sweep.png` and `index.html`, whole or not at all, and returns its place.
    ///
    /// # Errors
    /// [`Error::Option`] when the target may not be replaced; [`Error::Io`].
    pub fn write(&self, target: &Target) -> Result<PathBuf> {
        let staging = Staging::new(target, &SWEEP)?;
        self.fill(staging.path()).map_err(|error| staging.in_place(error))?;
        staging.commit(|_, _| Ok(()))
    }

    fn fill(&self, folder: &Path) -> Result<()> {
        let title = self.found.about.prompt.as_str();
        write_png(&folder.join(PICTURE), &self.picture()?, &[("Description", title)], true)?;
        write_file(&folder.join(PAGE), |file| file.write_all(page(&self.found).as_bytes()))?;
        write_file(&folder.join(FILE), |file| {
            serde_json::to_writer_pretty(&mut *file, &self.found)?;
            file.write_all(b"\n")
        })
    }

    /// The mean image and, over it, each word's mean map.
    fn picture(&self) -> Result<RgbImage> {
        let display = Display::default();
        let base = Base::new(&self.mean, display.overlay_size)?;
        let (maps, grid) = (self.collector.mean_maps(), self.collector.grid());
        let highest = |map: &[f32]| map.iter().copied().fold(0.0, f32::max);
        let top = highest(&maps);
        let maps: Vec<&[f32]> = maps.chunks_exact(grid.cells()).collect();
        let overlays: Vec<RgbImage> = maps.iter().map(|map| overlay(&base, map, grid, top, &display)).collect();
        let tiles = self.words.iter().zip(&overlays).zip(&maps);
        let tiles: Vec<Tile> = tiles
            .map(|(((label, share), overlay), map)| Tile { label, overlay, top, peak: highest(map), share: *share })
            .collect();
        let subtitle = format!("mean over {} seeds  ·  {}", self.found.seeds.len(), self.found.about.aggregate);
        let note = "Image and maps are means over all seeds; one colour scale for all words. Attention shows where the model looked, not why.";
        let sheet = Sheet { title: &self.found.about.prompt, subtitle: &subtitle, note };
        Ok(contact_sheet(&base, &tiles, &sheet, &display, &mut Typesetter::new()))
    }
}

/// One self-contained page: the scatter of each word's centroids, and the table.
fn page(found: &Sweep) -> String {
    let plots: String =
        found.words.iter().filter(|word| word.role != Role::Filler).map(|word| plot(word, found)).collect();
    let rows: String = found.words.iter().map(row).collect();
    let stated: String =
        found.stated.iter().map(|stated| format!("<p>{}</p>", encode_safe(&stated.to_string()))).collect();
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">{mark}<meta name=\"viewport\" content=\"width=device-width\">\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; img-src 'self'\">\
         <title>{title}</title><style>:root{{color-scheme:light dark}}body{{font:1rem system-ui;margin:1rem auto;max-width:70rem;\
         padding:0 1rem}}.plots{{display:flex;flex-wrap:wrap;gap:1rem}}figure{{margin:0;width:10rem}}.frame{{fill:none;\
         stroke:currentColor}}circle{{fill:#d55e00;opacity:.6}}img{{max-width:100%}}td,th{{padding:0 .7rem;text-align:right}}\
         td:first-child,th:first-child{{text-align:left}}</style></head><body>\
         <h1>{title}</h1><p>Where each word's attention lies, one dot a seed ({count} seeds).</p><div class=\"plots\">{plots}</div>\
         <table><thead><tr><th>word</th><th>peak</th><th>lands at x, y</th><th>scatter</th><th>neglected</th></tr></thead>\
         <tbody>{rows}</tbody></table>{stated}<img src=\"sweep.png\" alt=\"mean image and mean maps\"></body></html>\n",
        mark = page_mark(),
        title = encode_safe(&found.about.prompt),
        count = found.seeds.len(),
    )
}

/// One word's centroids.
fn plot(word: &WordSweep, found: &Sweep) -> String {
    let name = encode_safe(&word.word);
    let mut plot = format!("<figure><svg viewBox=\"0 0 100 100\" role=\"img\" aria-label=\"where {name} lands\">");
    plot += "<rect width=\"100\" height=\"100\" class=\"frame\"/>";
    for (point, seed) in word.centroids.iter().zip(&found.seeds) {
        if let Some(point) = point {
            let (x, y) = (100.0 * point.x, 100.0 * point.y);
            plot += &format!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2\"><title>seed {seed}</title></circle>");
        }
    }
    let scatter = word.scatter.map_or_else(String::new, |scatter| format!(", scatter {scatter:.2}"));
    plot + &format!("</svg><figcaption>{name}{scatter}</figcaption></figure>")
}

fn row(word: &WordSweep) -> String {
    let [name, cells @ ..] = word.cells();
    let cells: String = cells.iter().map(|cell| format!("<td>{cell}</td>")).collect();
    format!("<tr><td>{}</td>{cells}</tr>", encode_safe(&name))
}
