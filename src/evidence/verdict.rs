//! Whether a map can be believed: a verdict in a sentence, from thresholds calibrated where the truth is known.

use super::scores::{Agreement, centre_blob, edges};
use crate::heatmap::Heatmaps;
use crate::trace::Grid;
use image::RgbImage;
use serde::{Deserialize, Serialize};

// Calibrated on the default checkpoint with the rendered scenes of `tests/data/scenes/select`, each word of their captions substituted, maps by
// `compete`: `cargo run --release --example verdicts -- scenes tests/data/scenes/select ...` prints what it gives and the rates of error
// on other scenes, which ACCURACY.md has. The truth that is known there: the articles (`a`, `an`, `the`, `of`) draw nothing; a noun's own map
// belongs to its cut, the map of the scene's other noun does not.

/// Below this effect (share of the prediction that the cut moved) cutting the word changed nothing worth speaking of: what parts articles
/// from nouns with the fewest errors.
pub const LEAST_EFFECT: f64 = 1.6e-4;

/// From this IoU of the highest fifths on, a map that also beats its controls is supported: what parts the nouns' own maps from swapped ones
/// with the fewest errors.
pub const SUPPORTED: f64 = 0.38;

/// Below this IoU of the highest fifths a map is not supported: nine tenths of the swapped maps lie below.
pub const PARTLY: f64 = 0.27;

/// What decides a verdict.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Thresholds {
    /// As [`LEAST_EFFECT`].
    pub least_effect: f64,
    /// As [`SUPPORTED`].
    pub supported: f64,
    /// As [`PARTLY`].
    pub partly: f64,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self { least_effect: LEAST_EFFECT, supported: SUPPORTED, partly: PARTLY }
    }
}

impl Thresholds {
    /// The verdict for an effect, the map's IoU with the causal map and that of the best control.
    pub fn decide(&self, effect: f64, iou: f64, control: f64) -> Verdict {
        if effect < self.least_effect || iou < self.partly {
            Verdict::NotSupported
        } else if iou >= self.supported && iou > control {
            Verdict::Supported
        } else {
            Verdict::Partly
        }
    }
}

/// Whether the map lights what the word moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Verdict {
    /// It does, and better than maps that know nothing of the word.
    #[serde(rename = "supported")]
    Supported,
    /// It does to a degree, or no better than its controls.
    #[serde(rename = "partly")]
    Partly,
    /// It does not.
    #[serde(rename = "not supported")]
    NotSupported,
}

impl Verdict {
    /// As shown.
    pub fn name(self) -> &'static str {
        match self {
            Self::Supported => "supported",
            Self::Partly => "partly",
            Self::NotSupported => "not supported",
        }
    }
}

/// The scores of maps that know nothing of the word, in the place of its map.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Controls {
    /// A blob in the middle of the image.
    pub centre_blob: Agreement,
    /// The map of the next word that could be drawn; absent when there is none.
    pub other_word: Option<Agreement>,
    /// The map of the token, not of this word, whose share of attention is nearest to the word's.
    pub equal_mass_token: Option<Agreement>,
    /// The image's edges.
    pub edges: Agreement,
}

impl Controls {
    /// The best IoU of the highest fifths among them.
    pub fn best_iou(&self) -> f64 {
        let all = [Some(self.centre_blob), self.other_word, self.equal_mass_token, Some(self.edges)];
        all.into_iter().flatten().map(|agreement| agreement.iou_top).fold(0.0, f64::max)
    }
}

/// All scores of one word, with the verdict.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WordEvidence {
    /// The word, `apple#2` where the prompt repeats it.
    pub word: String,
    /// The verdict's name.
    pub verdict: Verdict,
    /// The verdict in a sentence.
    pub sentence: String,
    /// Share of the prediction that the cut moved, mean over the tested steps.
    pub effect: f64,
    /// The attention map against the causal map.
    pub attention: Agreement,
    /// The same scores of the controls.
    pub controls: Controls,
}

/// Judges word `index` of `maps` by its causal map. `other` is another word of `maps` to compare with.
pub fn judge(
    maps: &Heatmaps,
    index: usize,
    other: Option<usize>,
    causal: &[f32],
    effect: f64,
    image: &RgbImage,
) -> WordEvidence {
    let word = crate::facts::label(&maps.chosen[index]);
    let attention = Agreement::of(maps.word(index), causal);
    let own = &maps.chosen[index].tokens;
    let share = maps.share(&maps.chosen[index]);
    let nearest = (0..maps.token_count())
        .filter(|token| !own.contains(token))
        .min_by(|&a, &b| (maps.shares[a] - share).abs().total_cmp(&(maps.shares[b] - share).abs()));
    let size = Grid::new(image.height() as usize, image.width() as usize);
    let luminance: Vec<f32> = image.pixels().map(|pixel| luminance(pixel.0)).collect();
    let controls = Controls {
        centre_blob: Agreement::of(&centre_blob(maps.grid), causal),
        other_word: other.map(|other| Agreement::of(maps.word(other), causal)),
        equal_mass_token: nearest.map(|token| Agreement::of(maps.token(token), causal)),
        edges: Agreement::of(&edges(&luminance, size, maps.grid), causal),
    };
    let verdict = Thresholds::default().decide(effect, attention.iou_top, controls.best_iou());
    let sentence = sentence(&word, verdict, effect, &attention, &controls);
    WordEvidence { word, verdict, sentence, effect, attention, controls }
}

fn sentence(word: &str, verdict: Verdict, effect: f64, attention: &Agreement, controls: &Controls) -> String {
    let (inside, iou) = (100.0 * attention.drop, attention.iou_top);
    match verdict {
        Verdict::NotSupported if effect < LEAST_EFFECT => {
            format!("Not supported: cutting {word:?} changes next to nothing anywhere, whatever its map lights.")
        }
        Verdict::NotSupported => format!(
            "Not supported: cutting {word:?} changes the prediction, but elsewhere: the fifth of the image that its map lights \
             holds {inside:.0} % of the change (overlap {iou:.2})."
        ),
        Verdict::Supported => format!(
            "Supported: where the map of {word:?} is highest, cutting the word changes the prediction most: that fifth of the \
             image holds {inside:.0} % of the change (overlap {iou:.2})."
        ),
        Verdict::Partly if iou >= SUPPORTED => format!(
            "Partly: cutting {word:?} changes the prediction where its map is high (overlap {iou:.2}), but a control that knows \
             nothing of the word fits as well ({:.2}).",
            controls.best_iou()
        ),
        Verdict::Partly => format!(
            "Partly: the fifth of the image that the map of {word:?} lights holds {inside:.0} % of what cutting the word changes \
             (overlap {iou:.2}); the rest lies elsewhere."
        ),
    }
}

/// Rec. 709 weights on the stored values, 0 to 1.
fn luminance([red, green, blue]: [u8; 3]) -> f32 {
    (0.2126 * f32::from(red) + 0.7152 * f32::from(green) + 0.0722 * f32::from(blue)) / 255.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_need_effect_overlap_and_better_than_controls() {
        assert_eq!(Thresholds::default().decide(0.0, 1.0, 0.0), Verdict::NotSupported);
        assert_eq!(Thresholds::default().decide(0.1, 0.1, 0.0), Verdict::NotSupported);
        assert_eq!(Thresholds::default().decide(0.1, 0.9, 0.3), Verdict::Supported);
        assert_eq!(Thresholds::default().decide(0.1, 0.9, 0.95), Verdict::Partly);
        assert_eq!(Thresholds::default().decide(0.1, (SUPPORTED + PARTLY) / 2.0, 0.0), Verdict::Partly);
    }
}
