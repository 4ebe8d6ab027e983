//! One of the two runs that are compared: its image, and the maps of its words for a choice of
//! layers and steps.

use super::live::map_bytes;
use crate::heatmap::{Aggregate, SiteFilter, StepWindow, aggregate};
use crate::report::{ImageData, data_url};
use crate::run::RunRecord;
use crate::trace::{Grid, Half, Trace, WordInfo};
use crate::{Error, Result};
use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::{ExtendedColorType, ImageEncoder, RgbImage};
use serde::Deserialize;
use serde_json::{Value, json};

/// How the maps of a run were made, as its page shows them.
pub(super) fn own_maps(record: &RunRecord) -> Aggregate {
    // Of a version that knows other aggregates: the default.
    let own = record.how().unwrap_or_default();
    // Words here are the prompt's, also where `view` last showed the other half.
    Aggregate { half: Half::Conditional, ..own }
}

/// Which maps of a run are shown; the run's own, where nothing is chosen.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct SideChoice {
    /// `down`, `mid`, `up` or the path of a layer.
    pub layers: Option<String>,
    /// The first and last step, from 1.
    pub steps: Option<[usize; 2]>,
}

/// A run with its maps.
#[derive(Debug)]
pub(super) struct Side {
    pub image: RgbImage,
    /// The prompt's words as written, with how often each stood before it, and each one's share of
    /// all attention.
    pub words: Vec<SideWord>,
    /// How the maps were made.
    pub how: Aggregate,
    prompt: String,
    /// The latent grid.
    grid: Grid,
    /// `[words, height, width]`, mean probability per step.
    maps: Vec<f32>,
    /// The paths of the layers, in network order.
    layers: Vec<String>,
    steps: usize,
}

/// A word of a side.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct SideWord {
    pub text: String,
    pub occurrence: usize,
    pub share: f32,
}

impl SideWord {
    /// `frog`, or `frog#2` for the second.
    pub fn label(&self) -> String {
        WordInfo::label_of(&self.text, self.occurrence)
    }
}

impl SideChoice {
    /// As the library makes maps, for a run whose `own` are made so.
    fn aggregate(&self, own: &Aggregate) -> Result<Aggregate> {
        let mut how = match &self.layers {
            Some(layers) => Aggregate::named("all")?.narrowed(SiteFilter::Layers(vec![layers.parse()?])),
            None => own.clone(),
        };
        if let Some([from, to]) = self.steps {
            if from > to {
                return Err(Error::input(
                    "steps",
                    format!("{from} comes after {to}; give the first and the last step"),
                ));
            }
            how.steps = Some(StepWindow::Numbers(from, to));
        }
        Ok(how)
    }
}

impl Side {
    /// The run with this trace and image, whose `own` maps are made so.
    ///
    /// # Errors
    /// As [`aggregate`]: a layer or a step that the run does not have.
    pub fn of(trace: &Trace, image: &RgbImage, own: &Aggregate, choice: &SideChoice) -> Result<Self> {
        let words = trace.words(Half::Conditional);
        let how = choice.aggregate(own)?;
        let maps = aggregate(trace, &how, &words)?;
        let word = |word: &WordInfo| SideWord {
            text: word.text.clone(),
            occurrence: word.occurrence,
            share: maps.share(word),
        };
        Ok(Self {
            image: image.clone(),
            words: words.iter().map(word).collect(),
            how,
            prompt: trace.about.prompt.text.clone(),
            grid: maps.grid,
            maps: maps.words_per_step(),
            layers: trace.recording.sites.iter().map(|site| site.path.clone()).collect(),
            steps: trace.steps(),
        })
    }

    /// For a page, with the picture where that is asked for.
    ///
    /// # Errors
    /// [`Error::Bug`] where the picture cannot be written.
    pub fn json(&self, run: Option<&str>, with_image: bool) -> Result<Value> {
        let words: Vec<Value> = self
            .words
            .iter()
            .map(|word| json!({"text": word.text, "label": word.label(), "share": word.share}))
            .collect();
        let image = match with_image {
            true => Some(picture_url(&self.image)?),
            false => None,
        };
        Ok(json!({
            "run": run, "prompt": self.prompt, "words": words, "image": image,
            "width": self.image.width(), "height": self.image.height(),
            "grid": [self.grid.height, self.grid.width], "maps": map_bytes(&self.maps),
            "aggregate": self.how.to_string(), "layers": self.layers, "steps": self.steps,
        }))
    }
}

/// A picture as an address that holds it, quickly made.
///
/// # Errors
/// [`Error::Bug`] where it cannot be written.
pub(super) fn picture_url(image: &RgbImage) -> Result<String> {
    let mut bytes = Vec::new();
    let encoder = PngEncoder::new_with_quality(&mut bytes, CompressionType::Fast, FilterType::Adaptive);
    encoder
        .write_image(image.as_raw(), image.width(), image.height(), ExtendedColorType::Rgb8)
        .map_err(|error| Error::bug(format!("a picture could not be written: {error}")))?;
    let (width, height) = (image.width() as usize, image.height() as usize);
    Ok(data_url(&ImageData { mime: "image/png", bytes, width, height }))
}
