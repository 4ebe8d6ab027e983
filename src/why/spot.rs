//! Where the thing of a word lies in one image, by its map.

use crate::Result;
use crate::facts::{contrast, of_its_things};
use crate::heatmap::{self, Aggregate, Bounds, Point, THRESHOLD};
use crate::trace::{Trace, WordInfo};
use serde::{Deserialize, Serialize};

/// A thing seems drawn where one place was looked at for it at least so many times as much as the
/// image on average. Set by hand, below the bound of `facts` ([`NEGLECT`](crate::facts::NEGLECT)).
/// A thing that is drawn but large, or drawn in few steps, may fall short of that. It is of
/// cross-attention alone: a [`Question`](super::Question) refuses runs of joint attention.
pub const DRAWN: f32 = 4.0;

/// Where a word's thing lies in an image. Lengths are shares of the image's sides, `y` from the
/// top.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Spot {
    /// The centre of the cells above [`THRESHOLD`] times the map's maximum, as in `run.json`;
    /// absent for an empty map.
    pub centre: Option<Point>,
    /// The box around those cells.
    pub bounds: Option<Bounds>,
    /// Whether the thing seems drawn, by [`DRAWN`].
    pub drawn: bool,
}

impl Spot {
    /// The spot of `word` in `trace`, and its map `[height, width]` on the latent grid. A phrase or
    /// a tag lies where its things do.
    ///
    /// # Errors
    /// As [`heatmap::aggregate`].
    pub fn of(trace: &Trace, how: &Aggregate, word: &WordInfo) -> Result<(Self, Vec<f32>)> {
        let word = &of_its_things(&trace.about.prompt, word);
        let maps = heatmap::aggregate(trace, how, std::slice::from_ref(word))?;
        let layout = maps.layout(0, THRESHOLD);
        let drawn = contrast(&maps, word).is_some_and(|contrast| contrast >= DRAWN);
        Ok((Self { centre: layout.centroid, bounds: layout.bounds, drawn }, maps.word(0).to_vec()))
    }

    /// Where the thing lies, if it seems drawn.
    pub fn place(&self) -> Option<[f64; 2]> {
        self.centre.filter(|_| self.drawn).map(|centre| [f64::from(centre.x), f64::from(centre.y)])
    }
}

/// Where the thing lies with the noise of one seed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct SeedSpot {
    /// The seed.
    pub seed: u64,
    /// Where the thing lies.
    #[serde(flatten)]
    pub spot: Spot,
}

/// The mean of places.
pub fn mean(places: &[[f64; 2]]) -> Option<[f64; 2]> {
    let count = places.len() as f64;
    let sum = |axis: usize| places.iter().map(|place| place[axis]).sum::<f64>();
    (!places.is_empty()).then(|| [sum(0) / count, sum(1) / count])
}

/// The distance between two places.
pub fn distance(a: [f64; 2], b: [f64; 2]) -> f64 {
    (a[0] - b[0]).hypot(a[1] - b[1])
}

/// Root mean square distance of places from their mean. As for a sample, the sum of squares is
/// divided by one less than the number of places. `None` for fewer than two.
pub fn scatter(places: &[[f64; 2]]) -> Option<f64> {
    let centre = mean(places).filter(|_| places.len() > 1)?;
    let squares: f64 = places.iter().map(|&place| distance(place, centre).powi(2)).sum();
    Some((squares / (places.len() - 1) as f64).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_have_a_mean_and_scatter() {
        let places = [[0.2, 0.5], [0.4, 0.5], [0.6, 0.5]];
        assert!(distance(mean(&places).unwrap(), [0.4, 0.5]) < 1e-12);
        // numpy.std([0.2, 0.4, 0.6], ddof=1)
        assert!((scatter(&places).unwrap() - 0.2).abs() < 1e-12);
        assert_eq!((mean(&[]), scatter(&places[..1])), (None, None));
    }
}
