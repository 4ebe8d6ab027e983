//! Two answers about a word, from thresholds found where the truth is known: did it matter, and
//! does its map show where.

use super::scores::{Agreement, centre_blob, edges};
use crate::figures::largest;
use crate::heatmap::Heatmaps;
use crate::percent;
use crate::trace::Grid;
use image::RgbImage;
use serde::{Deserialize, Serialize};

// `cargo run --release --example verdicts -- scenes tests/data/scenes/select ...` finds those of
// the prediction and of the maps. It substitutes each word of the captions of rendered scenes, and
// takes maps by `compete`. There it is known that the articles (`a`, `an`, `the`, `of`) draw
// nothing. A noun's own map belongs to its cut, the map of the scene's other noun does not. `--
// prompts` says what held-out prompts would choose for the picture. ACCURACY.md has the rates of
// error on what chose none of them.

/// Below this share of the prediction that the cut moved, the word did not matter: what parts
/// articles from nouns with the fewest errors.
const LEAST_EFFECT: f64 = 8.3e-3;

/// From this share of the prediction on, the word mattered much: nine tenths of the nouns do.
const MUCH_EFFECT: f64 = 4.2e-2;

/// Below this share of the image that changes without the word, it did not matter. It lies below
/// what parts articles from things with the fewest errors, 2.4 %, so that "not at all" is rare.
pub const LEAST_CHANGED: f64 = 0.003;

/// From this share of the image on, the word mattered much. It lies below what nine tenths of the
/// things of held-out prompts change, 6.2 %.
const MUCH_CHANGED: f64 = 0.04;

/// From this IoU of the highest fifths on, a map that also beats its controls shows where. It parts
/// the nouns' own maps from swapped ones with the fewest errors.
pub const SHOWN: f64 = 0.325;

/// Below this IoU of the highest fifths a map does not show where: nine tenths of the swapped maps
/// lie below.
const PARTLY: f64 = 0.209;

/// What decides both answers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Thresholds {
    /// Below this share of the prediction that the cut moved, a word did not matter.
    pub least_effect: f64,
    /// From this share of the prediction on, it mattered much.
    #[serde(default)]
    pub much_effect: f64,
    /// Below this share of the image that changes without it, a word did not matter.
    #[serde(default)]
    pub least_changed: f64,
    /// From this share of the image on, it mattered much.
    #[serde(default)]
    pub much_changed: f64,
    /// As [`SHOWN`].
    #[serde(alias = "supported")]
    pub shown: f64,
    /// Below this IoU of the highest fifths a map does not show where.
    pub partly: f64,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            least_effect: LEAST_EFFECT,
            much_effect: MUCH_EFFECT,
            least_changed: LEAST_CHANGED,
            much_changed: MUCH_CHANGED,
            shown: SHOWN,
            partly: PARTLY,
        }
    }
}

impl Thresholds {
    /// Whether a word mattered, by the share of the image that `changed` without it. Where the
    /// image was not drawn without it, by the `effect` on the prediction.
    pub fn mattered(&self, effect: f64, changed: Option<f64>) -> Mattered {
        let (value, least, much) = match changed {
            Some(changed) => (changed, self.least_changed, self.much_changed),
            None => (effect, self.least_effect, self.much_effect),
        };
        if value < least {
            Mattered::NotAtAll
        } else if value < much {
            Mattered::ALittle
        } else {
            Mattered::Much
        }
    }

    /// Whether the map of a word that mattered so shows where, from its IoU with the causal map and
    /// that of the best control.
    pub fn shows(&self, mattered: Mattered, iou: f64, control: f64) -> Shows {
        if mattered == Mattered::NotAtAll {
            Shows::Nothing
        } else if iou < self.partly {
            Shows::No
        } else if iou >= self.shown && iou > control {
            Shows::Yes
        } else {
            Shows::Partly
        }
    }
}

/// Whether a word mattered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Mattered {
    /// Without it next to nothing changes.
    #[serde(rename = "not at all")]
    NotAtAll,
    /// Without it a little changes.
    #[serde(rename = "a little")]
    ALittle,
    /// Without it much changes.
    #[serde(rename = "much")]
    Much,
}

impl Mattered {
    /// As shown.
    pub fn name(self) -> &'static str {
        match self {
            Self::NotAtAll => "not at all",
            Self::ALittle => "a little",
            Self::Much => "much",
        }
    }
}

/// Whether a map shows where its word mattered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Shows {
    /// It lights what the word moves, and better than maps that know nothing of the word.
    #[serde(rename = "yes")]
    Yes,
    /// To a degree, or no better than its controls.
    #[serde(rename = "partly")]
    Partly,
    /// It lights other places.
    #[serde(rename = "no")]
    No,
    /// The word did not matter: there is nothing that a map could show.
    #[serde(rename = "nothing to show")]
    Nothing,
}

impl Shows {
    /// As shown.
    pub fn name(self) -> &'static str {
        match self {
            Self::Yes => "yes",
            Self::Partly => "partly",
            Self::No => "no",
            Self::Nothing => "nothing to show",
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
        largest(all.into_iter().flatten().map(|agreement| agreement.iou_top))
    }
}

/// All scores of one word, with both answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WordEvidence {
    /// The word, `apple#2` where the prompt repeats it.
    pub word: String,
    /// Whether it mattered.
    #[serde(default = "not_at_all")]
    pub mattered: Mattered,
    /// Share of the image that changes without it, 0 to 1, where the image was drawn without it.
    #[serde(default)]
    pub changed: Option<f64>,
    /// Whether its map shows where.
    #[serde(default = "nothing")]
    pub shows: Shows,
    /// Both in words.
    pub sentence: String,
    /// Share of the prediction that the cut moved, mean over the tested steps.
    pub effect: f64,
    /// The attention map against the causal map.
    pub attention: Agreement,
    /// The same scores of the controls.
    pub controls: Controls,
    /// The causal map over the run's image, from the run folder; absent in evidence of versions
    /// that drew none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub picture: Option<String>,
}

// Formats that had neither are answered anew when they are read.
fn not_at_all() -> Mattered {
    Mattered::NotAtAll
}

fn nothing() -> Shows {
    Shows::Nothing
}

/// What a map is to one that a control shows as well.
const NO_BETTER: &str = "no better than another word's map, or one that knows of no word";

impl WordEvidence {
    /// Answers both questions by the present thresholds, given the share of the image that
    /// `changed` where it was drawn without the word.
    pub fn answer(&mut self, changed: Option<f64>) {
        let limits = Thresholds::default();
        self.changed = changed;
        self.mattered = limits.mattered(self.effect, changed);
        // Of a map that is the same everywhere no fifth is the highest.
        let iou = if self.is_flat() { 0.0 } else { self.attention.iou_top };
        self.shows = limits.shows(self.mattered, iou, self.controls.best_iou());
        self.sentence = self.in_words();
    }

    /// Both answers and what was measured, in words.
    fn in_words(&self) -> String {
        let (changes, how) = (self.changes(), self.mattered.name());
        let lights = || format!("the fifth of the image that it lights {}", self.holds());
        let map = match self.shows {
            Shows::Nothing => "There is nothing that its map could show.".to_owned(),
            Shows::Yes => format!("Its map shows where: {}.", lights()),
            Shows::No if self.is_flat() => "Its map does not show where: it is the same everywhere.".to_owned(),
            Shows::No => format!("Its map does not show where: {}.", lights()),
            Shows::Partly if self.is_matched() => format!("Its map shows where {NO_BETTER}."),
            Shows::Partly => format!("Its map shows a part of where: {}.", lights()),
        };
        format!("{changes}: it mattered {how}. {map}")
    }

    /// What was measured, in words, for where both answers stand beside it.
    pub fn measured(&self) -> String {
        let map = match self.shows {
            Shows::Nothing => String::new(),
            _ if self.is_flat() => " The map is the same everywhere.".to_owned(),
            Shows::Partly if self.is_matched() => format!(" The map does {NO_BETTER}."),
            _ => format!(" The fifth of the image that its map lights {}.", self.holds()),
        };
        format!("{}.{map}", self.changes())
    }

    fn changes(&self) -> String {
        let word = crate::in_quotes(&self.word);
        match self.changed {
            Some(changed) => format!("Without {word} {} of the image changes", percent(changed)),
            None => format!("Cutting {word} moves {} of the prediction", percent(self.effect)),
        }
    }

    fn holds(&self) -> String {
        format!("holds {} of the change", percent(self.attention.drop))
    }

    /// Whether its map is the same everywhere, as that of a prompt's only word is once the words
    /// compete.
    fn is_flat(&self) -> bool {
        self.attention.spearman.is_none()
    }

    /// Whether its map alone reaches [`SHOWN`]. Where it shows only partly, a control does as well.
    fn is_matched(&self) -> bool {
        self.attention.iou_top >= SHOWN
    }
}

/// Judges word `index` of `maps` by its causal map, as long as the image was not drawn without it
/// ([`WordEvidence::answer`]). `other` is another word of `maps` to compare with.
pub fn judge(
    maps: &Heatmaps,
    index: usize,
    other: Option<usize>,
    causal: &[f32],
    effect: f64,
    image: &RgbImage,
) -> WordEvidence {
    let word = maps.chosen[index].label();
    let attention = Agreement::of(maps.word(index), causal);
    let own = &maps.chosen[index].tokens;
    let share = maps.share(&maps.chosen[index]);
    let nearest = (0..maps.token_count())
        .filter(|token| !own.contains(token) && !maps.is_silent(*token))
        .min_by(|&a, &b| (maps.shares[a] - share).abs().total_cmp(&(maps.shares[b] - share).abs()));
    let size = Grid::new(image.height() as usize, image.width() as usize);
    let luminance: Vec<f32> = image.pixels().map(|pixel| luminance(pixel.0)).collect();
    let controls = Controls {
        centre_blob: Agreement::of(&centre_blob(maps.grid), causal),
        other_word: other.map(|other| Agreement::of(maps.word(other), causal)),
        equal_mass_token: nearest.map(|token| Agreement::of(&maps.map_of_tokens(&[token]), causal)),
        edges: Agreement::of(&edges(&luminance, size, maps.grid), causal),
    };
    let (mattered, shows) = (not_at_all(), nothing());
    let (changed, sentence, picture) = (None, String::new(), None);
    let mut judged = WordEvidence { word, mattered, changed, shows, sentence, effect, attention, controls, picture };
    judged.answer(None);
    judged
}

/// Rec. 709 weights on the stored values, 0 to 1.
fn luminance([red, green, blue]: [u8; 3]) -> f32 {
    (0.2126 * f32::from(red) + 0.7152 * f32::from(green) + 0.0722 * f32::from(blue)) / 255.0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The only word of a prompt gets all of every place where the words compete.
    #[test]
    fn a_flat_map_lights_no_fifth() {
        let agreement = |spearman, iou_top| Agreement { spearman, iou_top, drop: 0.9 };
        let blob = agreement(Some(0.1), 0.1);
        let controls = Controls { centre_blob: blob, other_word: None, equal_mass_token: None, edges: blob };
        let judged = |word: &str, spearman| {
            let (word, picture, sentence) = (word.to_owned(), None, String::new());
            let (mattered, shows) = (not_at_all(), nothing());
            let attention = agreement(spearman, 0.9);
            let (changed, effect) = (None, 0.1);
            let mut one =
                WordEvidence { word, mattered, changed, shows, sentence, effect, attention, controls, picture };
            one.answer(None);
            one
        };
        let flat = judged("apple", None);
        assert_eq!(flat.shows, Shows::No);
        assert!(flat.sentence.ends_with("does not show where: it is the same everywhere."), "{}", flat.sentence);
        assert!(flat.measured().ends_with("The map is the same everywhere."), "{}", flat.measured());
        let other = judged("नमस्ते", Some(0.9));
        assert_eq!(other.shows, Shows::Yes);
        // A word is shown by its own characters.
        assert!(other.sentence.starts_with("Cutting \"नमस्ते\" moves 10 %"), "{}", other.sentence);
    }

    #[test]
    fn what_did_not_matter_has_nothing_to_show() {
        let limits = Thresholds::default();
        let both = |effect, changed, iou, control| {
            let mattered = limits.mattered(effect, changed);
            (mattered, limits.shows(mattered, iou, control))
        };
        use Mattered::{ALittle, Much, NotAtAll};
        assert_eq!(both(0.0, None, 1.0, 0.0), (NotAtAll, Shows::Nothing));
        // The picture that was drawn without the word decides, whatever the prediction did.
        assert_eq!(both(0.1, Some(0.0), 0.9, 0.3), (NotAtAll, Shows::Nothing));
        assert_eq!(both(1e-6, Some(0.73), 0.9, 0.3), (Much, Shows::Yes));
        assert_eq!(both(0.1, Some(0.03), 0.1, 0.0), (ALittle, Shows::No));
        assert_eq!(both(0.1, None, 0.9, 0.95), (Much, Shows::Partly));
        assert_eq!(both(1e-2, None, (SHOWN + PARTLY) / 2.0, 0.0), (ALittle, Shows::Partly));
    }
}
