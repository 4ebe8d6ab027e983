//! Everything that is drawn from a trace: maps, overlays and the contact sheet, for `generate` and
//! `view` alike.

use super::record::overlay_file;
use super::save_heatmaps;
use crate::figures::largest;
use crate::heatmap::{Aggregate, Encoder, Heatmaps, Measure, QuerySource, aggregate};
use crate::render::{Base, Display, Scale, Sheet, Tile, Typesetter, contact_sheet, overlay, percent, write_png};
use crate::trace::{Half, Trace, WordInfo};
use crate::{Error, Result};
use image::RgbImage;
use rayon::prelude::*;
use std::path::Path;

/// What is drawn of a trace.
#[derive(Debug, Clone)]
pub struct Pictures<'a> {
    /// The trace.
    pub trace: &'a Trace,
    /// The image that was made with it.
    pub image: &'a RgbImage,
    /// How the maps are made.
    pub aggregate: &'a Aggregate,
    /// How they are drawn.
    pub display: &'a Display,
    /// The words, phrases and probes to show; all words of the prompt and all probes when `None`.
    pub words: Option<&'a [WordInfo]>,
}

/// Draws everything into `folder`, which must be there: `heatmaps.safetensors`,
/// `overlays/NN-word.png` and `words.png`. The sheet also has the negative prompt's words, on a
/// scale of their own, where both halves were recorded and the maps are the prompt's. They are left
/// out where that half has nothing of what the maps are made of. Returns the maps.
///
/// # Errors
/// As [`aggregate`]; [`Error::Argument`] when a display value is out of range; [`Error::Io`] when a
/// file cannot be written.
pub fn render_run(folder: &Path, pictures: &Pictures) -> Result<Heatmaps> {
    let Pictures { trace, image, aggregate: how, display, words } = *pictures;
    display.check()?;
    let prompt = match trace.half(how.half) {
        Some((_, prompt)) => prompt,
        None => &trace.about.prompt,
    };
    let base = Base::new(image, display.overlay_size)?;
    let every = trace.words(how.half);
    let chosen = words.unwrap_or(&every);
    let (maps, shared, mut drawn) = draw_words(trace, how, display, &base, chosen)?;
    save_heatmaps(&folder.join("heatmaps.safetensors"), &maps, &how.to_string(), prompt)?;

    let negative = trace.words(Half::Unconditional);
    let beside = how.half == Half::Conditional && how.is_of_places() && !negative.is_empty();
    if beside {
        let how = Aggregate { half: Half::Unconditional, ..how.clone() };
        let (_, _, others) = draw_words(trace, &how, display, &base, &negative)?;
        drawn.extend(others.into_iter().map(|word| DrawnWord { label: format!("negative: {}", word.label), ..word }));
    }
    let tiles: Vec<Tile> = drawn.iter().map(DrawnWord::tile).collect();
    let own = &tiles[..chosen.len()];

    let subfolder = folder.join("overlays");
    std::fs::create_dir_all(&subfolder).map_err(Error::io(&subfolder))?;
    let (written, sheet) = rayon::join(
        || {
            own.par_iter().enumerate().try_for_each(|(index, tile)| {
                let path = folder.join(overlay_file(index, own.len(), tile.label));
                write_png(&path, tile.overlay, &[("Title", tile.label), ("Description", &prompt.text)], true)
            })
        },
        || {
            let (subtitle, mut note) = words_about(trace, &maps, how, display, shared);
            if chosen.iter().any(|word| prompt.is_probe(word)) {
                note += PROBES;
            }
            if beside {
                note += NEGATIVE;
            }
            let sheet = Sheet { title: &prompt.text, subtitle: &subtitle, note: &note };
            let sheet = contact_sheet(&base, &tiles, &sheet, display, &mut Typesetter::new());
            write_png(&folder.join("words.png"), &sheet, &[("Description", &prompt.text)], true)
        },
    );
    written.and(sheet)?;
    Ok(maps)
}

/// A word as it was drawn; values are mean attention probabilities of a step.
struct DrawnWord {
    label: String,
    overlay: RgbImage,
    top: f32,
    peak: f32,
    share: f32,
}

impl DrawnWord {
    fn tile(&self) -> Tile<'_> {
        Tile { label: &self.label, overlay: &self.overlay, top: self.top, peak: self.peak, share: self.share }
    }
}

/// The maps of `chosen`, words of the half that `how` names, the top of the scale that they share,
/// and their overlays.
fn draw_words(
    trace: &Trace,
    how: &Aggregate,
    display: &Display,
    base: &Base,
    chosen: &[WordInfo],
) -> Result<(Heatmaps, f32, Vec<DrawnWord>)> {
    let maps = aggregate(trace, how, chosen)?;
    let prompt = trace.half(how.half).map_or(&trace.about.prompt, |(_, prompt)| prompt);
    let steps = maps.steps.max(1) as f32;
    let shared = shared_top(&maps, |word| prompt.is_special(word)) / steps;
    let draw = |(map, word): (&[f32], &WordInfo)| {
        let map: Vec<f32> = map.iter().map(|value| value / steps).collect();
        let peak = largest(map.iter().copied());
        let top = if display.scale == Scale::Shared { shared } else { peak };
        let overlay = overlay(base, &map, maps.grid, top, display);
        DrawnWord { label: word.label(), overlay, top, peak, share: maps.share(word) }
    };
    let drawn = maps.words.par_chunks_exact(maps.grid.cells()).zip(chosen).map(draw).collect();
    Ok((maps, shared, drawn))
}

/// The upper end of the scale that all words of a sheet share: the highest value among them. Start
/// and end tokens are left out: they hold most of the attention and would leave every word dark. In
/// the unit of the maps.
fn shared_top(maps: &Heatmaps, special: impl Fn(&WordInfo) -> bool) -> f32 {
    let highest = |word: &WordInfo| largest(maps.map_of(word));
    let words = || maps.chosen.iter();
    let top = largest(words().filter(|word| !special(word)).map(highest));
    if top > 0.0 { top } else { largest(words().map(highest)) }
}

/// What a sheet with probes says of them.
const PROBES: &str = " A probe is a word that the model was not given: what its token would take from the prompt's.";

/// What a sheet with the negative prompt's words says of them.
const NEGATIVE: &str = " Words of the negative prompt are of the other half, on a colour scale of their own.";

/// The sheet's subtitle and note.
fn words_about(trace: &Trace, maps: &Heatmaps, how: &Aggregate, display: &Display, shared: f32) -> (String, String) {
    let about = &trace.about;
    let seed = about.settings.get("seed").map(|seed| format!("seed {seed}  ·  ")).unwrap_or_default();
    let call = trace.call();
    let levels = about.levels().filter(|_| maps.steps == trace.steps());
    let levels = levels.map(|levels| format!(" ({levels})")).unwrap_or_default();
    let subtitle = format!(
        "{seed}{}  ·  {} of {} {call}s{levels}  ·  {} of {} sites  ·  {how}",
        about.checkpoint.id,
        maps.steps,
        trace.steps(),
        maps.sites.len(),
        trace.recording.sites.len(),
    );
    let (start, padding) = (maps.shares.first().copied().unwrap_or(0.0), maps.shares.last().copied().unwrap_or(0.0));
    let scale = match display.scale {
        Scale::Shared if shared > 0.0 => display.style.shared_scale(),
        Scale::Shared => "no word has any attention",
        Scale::Word => "each word has its own colour scale, so colours cannot be compared between words",
    };
    let shared_out = match maps.competition {
        Some(_) => ", each place shared out among the words",
        None => "",
    };
    let image = match maps.image_share {
        0.0 => String::new(),
        share => format!(", the image itself {}", percent(share)),
    };
    let padded = match how.encoder {
        Encoder::Both => "padding",
        Encoder::Clip => "padding and T5's tokens",
        Encoder::T5 => "padding and CLIP's tokens",
    };
    let half = if how.half == Half::Unconditional { " Unconditional half." } else { "" };
    // T5 has no start token.
    let started =
        (how.encoder != Encoder::T5 || padding == 0.0).then(|| format!("the start token holds {}", percent(start)));
    let padded = (padding != 0.0).then(|| format!("{padded} {}", percent(padding)));
    let rest: Vec<String> = [started, padded].into_iter().flatten().collect();
    let holds = format!("; {}{image}", rest.join(", "));
    let mean = format!("mean over the {call}s");
    let right = match (how.measure, how.queries) {
        (Measure::Goca, _) => "its mean share of a place, with heads and layers weighted".to_owned(),
        (Measure::Concepts, _) => "its mean share of a place".to_owned(),
        (Measure::Attention, QuerySource::Text) => "what it gives to the image in all".to_owned(),
        (Measure::Attention, QuerySource::Image) => format!("its share of all attention{holds}"),
    };
    // A sheet speaks of any one place, the page of each that is pointed at.
    let colour = how.colour().replace('’', "'").replace("each place's", "a place's");
    let note = format!(
        "Colour: {colour}, {mean}{shared_out}; {scale}. Right of a word: {right}.{half} \
         Attention shows where the model looked, not why."
    );
    (subtitle, note)
}
