//! Rotary embedding of places (Su et al. 2021): pairs of channels turned by angles that grow with
//! the place.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Device, Tensor};

use crate::Result;

/// How places become angles.
#[derive(Debug, Clone, PartialEq)]
pub struct RotaryAxes {
    /// The base of the frequencies.
    pub theta: f64,
    /// Channels of a head that each axis of a place turns; each is even.
    pub channels: Vec<usize>,
    /// Whether angles are rounded to f32 before their sine is taken.
    pub rounded: bool,
}

/// Sines and cosines for each token of a sequence.
#[derive(Debug, Clone)]
pub struct Rotary {
    /// `[tokens, heads * width / 2]`, or one per row of the batch, `[batch, tokens, ..]`.
    cos: Tensor,
    sin: Tensor,
}

impl Rotary {
    /// For the tokens at `places` (one entry per token and axis) of each row of a batch, in an
    /// attention of `heads` heads. One row serves every batch.
    ///
    /// # Errors
    /// When the device is out of memory.
    pub fn new(axes: &RotaryAxes, rows: &[Vec<[u32; 3]>], heads: usize, device: &Device) -> Result<Self> {
        let tokens = rows.iter().map(Vec::len).max().unwrap_or(0);
        let half: usize = axes.channels.iter().map(|channels| channels / 2).sum();
        let count = rows.len() * tokens * heads * half;
        let (mut cos, mut sin) = (Vec::with_capacity(count), Vec::with_capacity(count));
        for places in rows {
            for token in 0..tokens {
                // Tokens beyond the end of a row are not turned; they are hidden by a bias.
                let place = places.get(token).copied().unwrap_or_default();
                let (sines, cosines): (Vec<f32>, Vec<f32>) =
                    axes.angles(place).iter().map(|angle| (angle.sin() as f32, angle.cos() as f32)).unzip();
                for _ in 0..heads {
                    cos.extend_from_slice(&cosines);
                    sin.extend_from_slice(&sines);
                }
            }
        }
        let shape = match rows.len() {
            0 | 1 => vec![tokens, heads * half],
            count => vec![count, tokens, heads * half],
        };
        let tensor = |values: Vec<f32>| Tensor::from_vec(values, shape.as_slice(), &Device::Cpu)?.to_device(device);
        Ok(Self { cos: tensor(cos)?, sin: tensor(sin)? })
    }

    /// `x` `[batch, tokens, heads * width]`, each head turned; the same shape.
    ///
    /// # Errors
    /// When `x` has more tokens, or other channels.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        // Neighbouring channels are turned as a pair, so that all heads can be one.
        let values = x.to_dtype(DType::F32)?.unsqueeze(1)?.contiguous()?;
        let turned = candle_nn::rotary_emb::rope_i(&values, &self.cos, &self.sin)?;
        Ok(turned.squeeze(1)?.to_dtype(x.dtype())?)
    }
}

/// Where each token of each row of a batch stands.
type TokenPlaces = Vec<Vec<[u32; 3]>>;

/// The [`Rotary`] of one network. The last ones are kept: all steps of a run stand at the same
/// places. A clone has the same ones.
#[derive(Debug, Clone)]
pub struct RotaryTables {
    axes: RotaryAxes,
    heads: usize,
    device: Device,
    /// How many are kept: those of one step.
    most: usize,
    /// The one that was asked for last is at the end.
    kept: Arc<Mutex<VecDeque<(TokenPlaces, Rotary)>>>,
}

impl RotaryTables {
    /// For attentions of `heads` heads on `device`; `most` tables are kept.
    pub fn new(axes: RotaryAxes, heads: usize, device: &Device, most: usize) -> Self {
        Self { axes, heads, device: device.clone(), most, kept: Arc::default() }
    }

    /// As [`Rotary::new`] for the tokens at these places. Rows that stand alike share one.
    ///
    /// # Errors
    /// When the device is out of memory.
    pub fn of(&self, mut rows: TokenPlaces) -> Result<Rotary> {
        if rows.windows(2).all(|pair| pair[0] == pair[1]) {
            rows.truncate(1);
        }
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let (rows, rotary) = match kept.iter().position(|(places, _)| *places == rows).and_then(|at| kept.remove(at)) {
            Some(known) => known,
            None => {
                let rotary = Rotary::new(&self.axes, &rows, self.heads, &self.device)?;
                (rows, rotary)
            }
        };
        kept.push_back((rows, rotary.clone()));
        while kept.len() > self.most {
            kept.pop_front();
        }
        Ok(rotary)
    }

    /// The tables that are kept, by the identities of their cosines; for tests of the networks.
    #[cfg(test)]
    pub(crate) fn kept(&self) -> Vec<candle_core::TensorId> {
        self.kept.lock().unwrap().iter().map(|(_, rotary)| rotary.cos.id()).collect()
    }
}

impl RotaryAxes {
    /// The angle of each pair of channels at a place.
    fn angles(&self, place: [u32; 3]) -> Vec<f64> {
        let mut angles = Vec::new();
        for (axis, &channels) in self.channels.iter().enumerate() {
            let at = f64::from(place.get(axis).copied().unwrap_or(0));
            for channel in (0..channels).step_by(2) {
                let angle = at / self.theta.powf(channel as f64 / channels as f64);
                angles.push(if self.rounded { f64::from(angle as f32) } else { angle });
            }
        }
        angles
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_of_neighbours_are_turned_in_every_head_and_row() {
        let axes = RotaryAxes { theta: 100.0, channels: vec![2, 4], rounded: false };
        let rows = vec![vec![[0, 0, 0], [3, 2, 9]], vec![[1, 0, 0], [0, 5, 0]]];
        let x: Vec<f32> = (0..2 * 2 * 12).map(|index| (index as f32 * 0.7).sin()).collect();
        let tensor = Tensor::from_slice(&x, (2, 2, 12), &Device::Cpu).unwrap();
        let rotary = Rotary::new(&axes, &rows, 2, &Device::Cpu).unwrap();
        let turned = rotary.forward(&tensor).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        // The second axis has the frequencies 1 and 100^(-1/2).
        let angles = |[first, second, _]: [u32; 3]| [f64::from(first), f64::from(second), f64::from(second) / 10.0];
        for (token, place) in rows.iter().flatten().enumerate() {
            for head in 0..2 {
                for (pair, angle) in angles(*place).into_iter().enumerate() {
                    let at = token * 12 + head * 6 + pair * 2;
                    let (a, b) = (f64::from(x[at]), f64::from(x[at + 1]));
                    let (cos, sin) = (angle.cos(), angle.sin());
                    assert!((f64::from(turned[at]) - (a * cos - b * sin)).abs() < 1e-6);
                    assert!((f64::from(turned[at + 1]) - (b * cos + a * sin)).abs() < 1e-6);
                }
            }
        }
    }

    #[test]
    fn a_table_is_kept_until_others_push_it_out() {
        let axes = RotaryAxes { theta: 100.0, channels: vec![2, 4], rounded: false };
        let tables = RotaryTables::new(axes.clone(), 2, &Device::Cpu, 2);
        let places = |last: u32| vec![[0, 0, 0], [3, 2, last]];
        let id = |rows| tables.of(rows).unwrap().cos.id();
        let first = id(vec![places(1)]);
        // Rows that stand alike are one.
        assert_eq!(id(vec![places(1); 3]), first);
        let second = id(vec![places(1), places(2)]);
        assert!(second != first && id(vec![places(1)]) == first);
        // A clone knows them, and what was asked for last stays.
        assert_eq!(tables.clone().of(vec![places(1), places(2)]).unwrap().cos.id(), second);
        let third = id(vec![places(3)]);
        assert_eq!(tables.kept(), [second, third]);
        let again = tables.of(vec![places(1)]).unwrap();
        assert!(again.cos.id() != first);
        let made = Rotary::new(&axes, &[places(1)], 2, &Device::Cpu).unwrap();
        for (kept, made) in [(&again.cos, &made.cos), (&again.sin, &made.sin)] {
            assert_eq!(kept.to_vec2::<f32>().unwrap(), made.to_vec2::<f32>().unwrap());
        }
    }
}
