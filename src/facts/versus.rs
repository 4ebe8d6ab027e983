//! One word against another: where the model looked more for the one or for the other, and what
//! cutting each changes there.

use super::region::{Place, shares_in};
use crate::argument::VERSUS;
use crate::figures::largest;
use crate::heatmap::{self, Aggregate};
use crate::trace::{Grid, Trace, WordInfo};
use crate::{Error, Result};
use serde::Serialize;

/// Two words of a run held against each other.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Versus {
    /// Both words, the first and the second.
    pub words: [String; 2],
    /// The latent grid.
    pub grid: Grid,
    /// `[height, width]`: the map of the first word minus that of the second, in mean attention
    /// probability per step. Above 0 the model looked more for the first.
    pub map: Vec<f32>,
    /// `[height, width]`: what cutting the first changes minus what cutting the second does, in
    /// shares of the mean square of the prediction. It is absent where one of them was not tested.
    pub change: Option<Vec<f32>>,
    /// Both words where each of them prevails, or in the place that was asked about.
    pub places: Vec<VersusPlace>,
}

/// Both words in one place.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct VersusPlace {
    /// What the place is.
    pub place: String,
    /// Its share of the image, 0 to 1.
    pub area: f64,
    /// The share of the attention there that goes to each word, 0 to 1, as in
    /// [`rank`](super::region::rank): before words compete.
    pub attention: [f64; 2],
    /// How much cutting each word changes the prediction there. It is the mean of its causal map,
    /// in shares of the mean square of the whole prediction. It is absent for a word that was not
    /// tested.
    pub change: [Option<f64>; 2],
    /// The share of all that cutting each word changes that lies there, 0 to 1.
    pub share_of_change: [Option<f64>; 2],
}

/// Holds `words` against each other in `place`, which has a name, by maps that are made as `how`
/// says. Without a place it does so in the cells where the difference reaches `threshold` of its
/// highest, for each of the two. `causal` are their causal maps where they have one.
///
/// # Errors
/// [`Error::Argument`] on `versus` when both are the same word; as [`heatmap::aggregate`].
pub fn versus(
    trace: &Trace,
    how: &Aggregate,
    words: &[WordInfo; 2],
    place: Option<(String, &Place)>,
    causal: [Option<&[f32]>; 2],
    threshold: f32,
) -> Result<Versus> {
    if words[0] == words[1] {
        return Err(Error::argument(VERSUS, "both are the same word; name two, such as red,green"));
    }
    let maps = heatmap::aggregate(trace, how, words)?;
    let both = maps.words_per_step();
    let each = [0, 1].map(|word| both[word * maps.grid.cells()..][..maps.grid.cells()].to_vec());
    let minus = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a - b).collect::<Vec<f32>>();
    let map = minus(&each[0], &each[1]);
    let names = [words[0].label(), words[1].label()];
    let prevails = |word: usize| {
        let sign: f32 = if word == 0 { 1.0 } else { -1.0 };
        let top = largest(map.iter().map(|value| sign * value));
        let inside = map.iter().map(|value| top > 0.0 && sign * value >= threshold * top).collect();
        (format!("more to {}", names[word]), Place::Mask(inside, maps.grid))
    };
    let asked = match place {
        Some((name, place)) => vec![(name, place.clone())],
        None => [0, 1].map(prevails).into(),
    };
    let mut places = Vec::new();
    for (name, place) in asked {
        let Some(region) = place.on(maps.grid) else { continue };
        let here = shares_in(trace, how, &place)?;
        let weights = region.weights();
        places.push(VersusPlace {
            place: name,
            area: weights.iter().map(|&part| f64::from(part)).sum::<f64>() / weights.len().max(1) as f64,
            attention: words.each_ref().map(|word| f64::from(here.of(&word.tokens))),
            change: causal.map(|map| Some(region.mean(map?))),
            share_of_change: causal.map(|map| Some(region.share(map?))),
        });
    }
    let change = causal[0].zip(causal[1]).map(|(a, b)| minus(a, b));
    Ok(Versus { words: names, grid: maps.grid, map, change, places })
}
