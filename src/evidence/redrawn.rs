//! The same seed with a word changed: left out, or its values scaled in cross-attention; and where
//! the image differs.

use super::causal::{Cut, Row, replay};
use super::figure::{Figure, JSON};
use super::pixels::{Changed, area, changed, difference};
use crate::argument::{CUT, RUN, WEIGHT};
use crate::heatmap::{Bounds, ConnectedRegion};
use crate::pipeline::{Options, Pipeline};
use crate::prompt::{Prompt, WordWeights};
use crate::render::{Typesetter, strip, write_png};
use crate::run::{distinct_slug, slug};
use crate::trace::{PromptInfo, WordInfo, only};
use crate::{Error, Result, percent};
use image::RgbImage;
use serde::{Deserialize, Serialize};
use std::ops::ControlFlow;
use std::path::Path;

/// The folder of a run that holds causal maps as pictures.
pub const CAUSAL: &str = "causal";

/// The folders of a run that hold the pictures of an explanation.
pub const FOLDERS: [&str; 3] = ["counterfactual", "weights", CAUSAL];

/// A word that changes less of the image than this when what it adds is taken away has other ways
/// into it.
const LITTLE: f64 = 0.05;

/// The largest weight: far beyond it every image is noise.
const MOST: f32 = 100.0;

/// A picture for the run's folder: its path in it, and its description.
#[derive(Debug)]
pub struct Picture {
    pub(super) file: String,
    pub(super) about: String,
    pub(super) image: RgbImage,
}

/// The same seed without a word.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Counterfactual {
    /// The word.
    pub word: String,
    /// The image, from the run folder. The others are named after it.
    pub image: String,
    /// The absolute difference from the run's image, channel by channel.
    pub difference: String,
    /// The region that changed: white where a channel differs by [`CHANGED`](super::CHANGED) or
    /// more. A picture for `attnmap ask --region`.
    pub region: String,
    /// Original, without, difference and region side by side.
    pub strip: String,
    /// Mean absolute difference of all channels, 0 to 1.
    pub mean: f64,
    /// Share of the image that changed, 0 to 1.
    pub area: f64,
    /// The box around the places that changed, in shares of the image's sides; absent when nothing
    /// changed.
    pub bounds: Option<Bounds>,
    /// The separate places that changed, largest first, specks left out; absent in files of
    /// versions that did not tell them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub places: Option<Vec<ConnectedRegion>>,
}

/// A word whose values are to be scaled.
#[derive(Debug, Clone, PartialEq)]
pub struct Reweight {
    /// The word or phrase.
    pub word: WordInfo,
    /// The weights, 0 to 100, one after the other.
    pub weights: Vec<f32>,
}

/// The same seed with a word's values scaled. In every cross-attention of the conditional half each
/// of the word's tokens adds its probability times its value times the weight. The probabilities
/// stay as they are. 1 is the run itself, 0 the cut [`Cut::Mask`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reweighted {
    /// The word.
    pub word: String,
    /// The weights.
    pub weights: Vec<f32>,
    /// The images, from the run folder, in the order of the weights.
    pub images: Vec<String>,
    /// All of them side by side.
    pub strip: String,
    /// Mean absolute difference of each image from the run's own, 0 to 1.
    pub means: Vec<f64>,
    /// Share of the image that changes at each weight, 0 to 1; empty in evidence of versions that
    /// did not measure it.
    #[serde(default)]
    pub areas: Vec<f64>,
}

/// The tags of a prompt without which next to nothing changes, one by one, and the same seed
/// without all of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Dead {
    /// The tags, in prompt order.
    pub tags: Vec<String>,
    /// How many tags were tested.
    pub tested: usize,
    /// The prompt without the dead ones and their commas.
    pub prompt: String,
    /// Share of the image that changes with that prompt, 0 to 1; absent where it was not drawn.
    pub changed: Option<f64>,
    /// The run, the image without them, and the difference, from the run folder; absent where it
    /// was not drawn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strip: Option<String>,
}

impl Dead {
    /// What it says; `least` is the share of the image below which nothing changed.
    pub fn sentences(&self, least: f64) -> Vec<String> {
        let (count, tested) = (self.tags.len(), self.tested);
        if count == 0 {
            let all = if tested == 1 { "the one tested".to_owned() } else { format!("each of the {tested} tested") };
            return vec![format!("No tag is dead: {all} mattered.")];
        }
        let names = self.tags.iter().map(crate::in_quotes).collect::<Vec<_>>().join(", ");
        let them = if count == 1 { "it" } else { "them" };
        let said = match self.changed {
            Some(changed) if changed < least => {
                let share = percent(changed);
                match count {
                    1 => format!("Cut 1 of {tested} tags: nothing changes ({share} of the image): {names}."),
                    _ => format!(
                        "Cut these {count} of {tested} tags: nothing changes ({share} of the image without all \
                        of them): {names}."
                    ),
                }
            }
            Some(changed) => {
                let share = percent(changed);
                match count {
                    1 => format!(
                        "Tested in its place, 1 of {tested} tags changes nothing: {names}. With the prompt without it \
                        {share} of the image changes, so that it cannot be cut."
                    ),
                    _ => format!(
                        "One by one, {count} of {tested} tags change nothing: {names}. Without all of them at once \
                        {share} of the image \
                         changes, so that not all can be cut."
                    ),
                }
            }
            // Each alone may have been left out of an image all the same.
            None => format!(
                "{count} of {tested} tags may be dead: {names}. The image of the prompt without {them} was not drawn."
            ),
        };
        vec![said, format!("The prompt without {them}: {}", self.prompt)]
    }

    /// For the report.
    pub fn figure(&self) -> Option<Figure> {
        let (file, share) = (self.strip.clone()?, percent(self.changed?));
        let caption = format!("The same seed without {}: {share} of the image changes.", dead_tags(self.tags.len()));
        Some(Figure { caption, file })
    }
}

/// So many dead tags, in words.
fn dead_tags(count: usize) -> String {
    if count == 1 { "the dead tag".to_owned() } else { format!("the {count} dead tags") }
}

/// The same seed with `prompt`, that of `found`, which it is added to.
///
/// # Errors
/// As [`replay`].
pub fn without_dead(
    pipeline: &Pipeline,
    prompt: &Prompt,
    options: &Options,
    mut found: Dead,
    image: &RgbImage,
    progress: &mut dyn FnMut() -> ControlFlow<()>,
) -> Result<(Dead, Picture)> {
    let other = replay(pipeline, prompt, options, progress)?.generation.image;
    let (difference, _) = difference(image, &other);
    let share = area(&difference);
    let without = dead_tags(found.tags.len());
    let about = format!("The same seed without {without}");
    let parts = [
        (image, "the run".into()),
        (&other, format!("without {without}")),
        (&difference, format!("difference ({} changed)", percent(share))),
    ];
    let strip = strip(&parts, &about, &mut Typesetter::new());
    let file = "counterfactual/without-dead-tags.png".to_owned();
    (found.changed, found.strip) = (Some(share), Some(file.clone()));
    Ok((found, Picture { file, about, image: strip }))
}

impl Reweight {
    /// What `asked` says of a word or phrase of `prompt`.
    ///
    /// # Errors
    /// [`Error::Argument`] on `weight` for a weight out of range, or a word that the prompt lacks
    /// or has several times.
    pub fn of(asked: &WordWeights, prompt: &PromptInfo) -> Result<Self> {
        if let Some(wrong) = asked.weights.iter().find(|weight| !(0.0..=MOST).contains(*weight)) {
            return Err(Error::argument(WEIGHT, format!("must be 0 to {MOST}; {wrong} given")));
        }
        let name = &asked.word;
        let words = prompt.select(name).map_err(|error| error.named(WEIGHT))?;
        let word = only(name, words).map_err(|reason| Error::argument(WEIGHT, reason))?;
        Ok(Self { word, weights: asked.weights.clone() })
    }
}

impl Counterfactual {
    /// For the report.
    pub fn figure(&self) -> Figure {
        let share = percent(self.area);
        let caption = format!("The same seed without {}: {share} of the image changes.", crate::in_quotes(&self.word));
        Figure { caption, file: self.strip.clone() }
    }
}

impl Reweighted {
    /// For the report.
    pub fn figure(&self) -> Figure {
        let caption = self.in_words();
        Figure { caption, file: self.strip.clone() }
    }

    /// What came of it: one figure per picture, and why a weight of 0 may leave the thing in the
    /// picture.
    fn in_words(&self) -> String {
        let weights = written(&self.weights);
        let changes = weights.iter().zip(&self.areas);
        let changes: Vec<String> =
            changes.map(|(weight, &area)| format!("x{weight} changes {} of the image", percent(area))).collect();
        let word = crate::in_quotes(&self.word);
        let mut text = format!("What {word} adds in cross-attention, scaled; 1 is the run itself");
        if !changes.is_empty() {
            text += &format!(": {}", changes.join(", "));
        }
        let none = self.weights.iter().zip(&self.areas).any(|(&weight, &area)| weight == 0.0 && area < LITTLE);
        if none {
            text += &format!(
                ". The word may reach the picture through the words beside it; `{CUT:#} substitute` takes it out \
            of those too"
            );
        }
        text + "."
    }

    /// Whether this is what `asked` asks for.
    pub fn answers(&self, asked: &Reweight) -> bool {
        self.word == asked.word.label() && self.weights == asked.weights
    }
}

/// Generates the same seed without each word, which comes with its place in the prompt.
///
/// # Errors
/// As [`replay`].
#[allow(clippy::too_many_arguments)]
pub fn without(
    pipeline: &Pipeline,
    prompt: &Prompt,
    options: &Options,
    words: &[(usize, WordInfo)],
    rows: &[Row],
    cut: Cut,
    image: &RgbImage,
    progress: &mut dyn FnMut() -> ControlFlow<()>,
) -> Result<Vec<(Counterfactual, Vec<Picture>)>> {
    let mut all = Vec::with_capacity(words.len());
    for ((index, word), row) in words.iter().zip(rows) {
        let weights = (cut == Cut::Mask).then(|| scaled(prompt, row.without().iter().copied(), 0.0));
        let options = Options { value_weights: weights, ..options.clone() };
        let other = replay(pipeline, row.prompt(), &options, progress)?.generation.image;
        let (difference, mean) = difference(image, &other);
        let changed = changed(&difference);
        let (area, bounds) = (changed.area, changed.bounds());
        let Changed { region, places, .. } = changed;
        let name = word.label();
        let [image_file, difference_file, region_file, strip_file] = files_without(*index, &name);
        let how = if cut == Cut::default() { String::new() } else { format!(" ({})", cut.name()) };
        let title = format!("The same seed without {}{how}", crate::in_quotes(&name));
        let strip = strip(
            &[
                (image, "the run".into()),
                (&other, format!("without {}", crate::in_quotes(&name))),
                (&difference, format!("difference (mean {})", percent(mean))),
                (&region, format!("changed ({})", percent(area))),
            ],
            &title,
            &mut Typesetter::new(),
        );
        let found = Counterfactual {
            word: name.clone(),
            image: image_file,
            difference: difference_file,
            region: region_file,
            strip: strip_file,
            mean,
            area,
            bounds,
            places: Some(places),
        };
        let picture = |file: &String, image| Picture { file: file.clone(), about: title.clone(), image };
        let pictures = vec![
            picture(&found.image, other),
            picture(&found.difference, difference),
            picture(&found.region, region),
            picture(&found.strip, strip),
        ];
        all.push((found, pictures));
    }
    Ok(all)
}

/// Generates the same seed with the values of a word scaled by each weight.
///
/// # Errors
/// As [`replay`].
pub fn reweighted(
    pipeline: &Pipeline,
    prompt: &Prompt,
    options: &Options,
    asked: &Reweight,
    image: &RgbImage,
    progress: &mut dyn FnMut() -> ControlFlow<()>,
) -> Result<(Reweighted, Vec<Picture>)> {
    let (name, weights) = (asked.word.label(), asked.weights.clone());
    let mut images = Vec::with_capacity(weights.len());
    for &weight in &weights {
        let options = Options { value_weights: Some(weights_of(prompt, &asked.word, weight)), ..options.clone() };
        images.push(replay(pipeline, prompt, &options, progress)?.generation.image);
    }
    let captions = images.iter().zip(written(&weights)).map(|(image, weight)| (image, format!("{name} x {weight}")));
    let title = format!("What {} adds in cross-attention, scaled", crate::in_quotes(&name));
    let strip_image = strip(&captions.collect::<Vec<_>>(), &title, &mut Typesetter::new());
    let mut files = files_scaled(&name, &weights);
    let strip_file = files.pop().unwrap_or_default();
    let differences = images.iter().map(|other| difference(image, other));
    let (means, areas) = differences.map(|(difference, mean)| (mean, area(&difference))).unzip();
    let found = Reweighted { images: files, strip: strip_file, means, areas, word: name.clone(), weights };
    let files = found.images.iter().chain([&found.strip]);
    let pictures = files.zip(images.into_iter().chain([strip_image]));
    let pictures = pictures.map(|(file, image)| Picture { file: file.clone(), about: title.clone(), image });
    let pictures = pictures.collect();
    Ok((found, pictures))
}

/// The files of the same seed without the word `name` at `place` of the prompt: image, difference,
/// region, all side by side.
pub(super) fn files_without(place: usize, name: &str) -> [String; 4] {
    ["", "-difference", "-region", "-strip"]
        .map(|part| format!("counterfactual/{place:02}-without-{}{part}.png", slug(name)))
}

/// The files of a word scaled: one for each weight, and all side by side at the end.
pub(super) fn files_scaled(name: &str, weights: &[f32]) -> Vec<String> {
    let parts = written(weights).into_iter().map(|weight| format!("-x{weight}")).chain([String::new()]);
    parts.map(|part| format!("weights/{}{part}.png", distinct_slug(name))).collect()
}

/// Weights as they are shown and as files are named: with two digits behind the point, or as many
/// more as tell them apart.
fn written(weights: &[f32]) -> Vec<String> {
    let with = |digits: usize| weights.iter().map(|weight| format!("{weight:.digits$}")).collect::<Vec<String>>();
    let tells = |texts: &Vec<String>| {
        let same = |at: usize, other: usize| texts[at] == texts[other] && weights[at] != weights[other];
        (0..texts.len()).all(|at| (0..at).all(|other| !same(at, other)))
    };
    (2..10).map(with).find(tells).unwrap_or_else(|| with(2))
}

/// Whether none of the user's files in the run `folder` has one of these names.
///
/// # Errors
/// [`Error::Argument`] naming the file that is in the way.
pub(super) fn check_room(folder: &Path, files: &[String]) -> Result<()> {
    // Pictures of before they had a mark are named by the evidence.
    let known = crate::files::read(&folder.join(JSON)).unwrap_or_default();
    let known = String::from_utf8(known).unwrap_or_default();
    let unknown = files.iter().filter(|file| !known.contains(&format!("\"{file}\"")));
    unknown.into_iter().try_for_each(|file| crate::files::check_own(&folder.join(file), RUN))
}

/// Writes pictures into the run folder.
///
/// # Errors
/// [`Error::Argument`] when one of the user's files has the name of a picture; [`Error::Io`].
pub fn write(folder: &Path, pictures: &[Picture]) -> Result<()> {
    let files: Vec<String> = pictures.iter().map(|picture| picture.file.clone()).collect();
    check_room(folder, &files)?;
    for picture in pictures {
        let path = folder.join(&picture.file);
        crate::files::make_folder_of(&path)?;
        write_png(&path, &picture.image, &[("Description", picture.about.as_str())], false)?;
    }
    Ok(())
}

/// 1 for every key of the prompt, `weight` for those of `word`.
fn weights_of(prompt: &Prompt, word: &WordInfo, weight: f32) -> Vec<f32> {
    let keys = word.tokens.iter().filter_map(|&token| prompt.tokens.get(token)).map(|token| token.position);
    scaled(prompt, keys, weight)
}

/// 1 for every key of the prompt, `weight` for `keys`.
fn scaled(prompt: &Prompt, keys: impl Iterator<Item = usize>, weight: f32) -> Vec<f32> {
    let mut weights = vec![1.0; prompt.key_count()];
    for key in keys {
        weights[key] = weight;
    }
    weights
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::PromptInfo;

    fn prompt() -> PromptInfo {
        let word = |text: &str, start: usize, token: usize, occurrence: usize| WordInfo {
            text: text.into(),
            start,
            end: start + text.len(),
            tokens: vec![token],
            occurrence,
        };
        PromptInfo {
            text: "frog cat frog".into(),
            words: vec![word("frog", 0, 1, 1), word("cat", 5, 2, 1), word("frog", 9, 3, 2)],
            ..PromptInfo::default()
        }
    }

    #[test]
    fn weights_are_of_one_word_and_within_their_range() {
        let of = |text: &str| Reweight::of(&text.parse().unwrap(), &prompt());
        let asked = of("frog#2=0.5..1/2,0").unwrap();
        assert_eq!((asked.word.start, asked.weights), (9, vec![0.5, 1.0, 0.0]));
        for wrong in ["cat=-1..1", "cat=0,101", "frog=0..2", "dog=0..2"] {
            assert_eq!(of(wrong).unwrap_err().exit_code(), 2, "{wrong}");
        }
    }

    #[test]
    fn each_weight_has_a_file_of_its_own() {
        let files = |weights: &[f32]| files_scaled("frog", weights);
        let at = |weight: &str| format!("weights/frog{weight}.png");
        assert_eq!(files(&[0.5, 2.0]), [at("-x0.50"), at("-x2.00"), at("")]);
        assert_eq!(files(&[0.501, 0.504]), [at("-x0.501"), at("-x0.504"), at("")]);
        assert_eq!(files(&[0.5, 0.5]), [at("-x0.50"), at("-x0.50"), at("")]);
    }

    #[test]
    fn of_dead_tags_no_more_is_said_than_was_drawn() {
        let dead = |tags: &[&str], tested, changed| {
            let tags = tags.iter().map(|tag| (*tag).to_owned()).collect();
            Dead { tags, tested, prompt: "a frog".into(), changed, strip: None }.sentences(0.003)
        };
        assert_eq!(dead(&[], 4, None), ["No tag is dead: each of the 4 tested mattered."]);
        assert_eq!(dead(&[], 1, None), ["No tag is dead: the one tested mattered."]);
        let one = dead(&["on the beach"], 4, None);
        assert!(one[0].ends_with("The image of the prompt without it was not drawn."), "{}", one[0]);
        assert_eq!(one[1], "The prompt without it: a frog");
        let two = dead(&["on the beach", "a"], 4, Some(0.5));
        assert!(two[0].starts_with("One by one, 2 of 4 tags change nothing"), "{}", two[0]);
        let shown = dead(&["a"], 4, Some(0.5));
        assert!(shown[0].contains("1 of 4 tags changes nothing") && shown[0].contains("50 %"), "{}", shown[0]);
    }

    #[test]
    fn a_word_is_shown_by_its_own_characters() {
        let (word, images, strip) = ("नमस्ते".to_owned(), Vec::new(), String::new());
        let found = Reweighted { word, weights: vec![0.5], images, strip, means: vec![0.1], areas: vec![0.1] };
        assert!(found.in_words().starts_with("What \"नमस्ते\" adds"), "{}", found.in_words());
    }
}
