//! Keys and values as the blocks of attention read them.

use super::super::buffer::{Aligned, SharedMut};
use super::super::machine::shape;
use super::super::packed::{Format, pair};
use super::super::{gemm_bf16, threads};

/// Keys and values of some rows and heads, packed for this machine.
#[derive(Debug, Clone)]
pub struct PackedKeys {
    /// `[batch, heads][panel of keys][width of a head][keys of the panel]`, scaled by `1 /
    /// sqrt(width)`.
    pub(super) keys: Aligned,
    /// `[batch, heads][key][width, rounded up to whole vectors]`.
    pub(super) values: Aligned,
    /// Both are pairs of bf16: of a head's width in `keys`, of two keys in `values`.
    pub(super) halved: bool,
    pub(super) batch: usize,
    pub(super) heads: usize,
    pub(super) tokens: usize,
    pub(super) width: usize,
}

impl PackedKeys {
    /// Packs `keys` and `values`, both `[batch, tokens, heads * width]`.
    ///
    /// # Panics
    /// When the lengths are not those of `batch`, `tokens` and `heads`.
    pub fn new(keys: &[f32], values: &[f32], batch: usize, tokens: usize, heads: usize) -> Self {
        Self::new_as(Format::F32, keys, values, batch, tokens, heads)
    }

    /// [`new`](Self::new) in a format of the caller's choice. [`Format::Bf16`] rounds queries,
    /// keys, values and weights to bf16 where the processor multiplies it and a head's width is
    /// even. Otherwise f32: these keys live for one step, so their size does not matter.
    ///
    /// # Panics
    /// As `new`.
    pub fn new_as(format: Format, keys: &[f32], values: &[f32], batch: usize, tokens: usize, heads: usize) -> Self {
        let channels = keys.len() / (batch * tokens).max(1);
        assert!(keys.len() == batch * tokens * channels && values.len() == keys.len(), "keys and values of one shape");
        assert!(heads > 0 && channels.is_multiple_of(heads), "heads divide the channels");
        let width = channels / heads;
        let (lanes, _) = shape();
        let (panel, padded) = (2 * lanes, width.next_multiple_of(lanes));
        let whole = tokens.next_multiple_of(panel);
        let halved = format == Format::Bf16 && width.is_multiple_of(2) && gemm_bf16::available();
        let share = if halved { 2 } else { 1 };
        let (key_values, value_values) = (whole * width / share, whole * padded / share);
        let mut packed = Self {
            keys: Aligned::zeros(batch * heads * key_values),
            values: Aligned::zeros(batch * heads * value_values),
            halved,
            batch,
            heads,
            tokens,
            width,
        };
        let (to_keys, to_values) = (SharedMut(packed.keys.as_mut_ptr()), SharedMut(packed.values.as_mut_ptr()));
        let scale = (1.0 / (width as f64).sqrt()) as f32;
        threads::each(batch * heads, 2 * keys.len(), |task| {
            let (row, head) = (task / heads, task % heads);
            // SAFETY: each task writes its own row and head.
            let (to_keys, to_values) = unsafe {
                (
                    std::slice::from_raw_parts_mut(to_keys.get().add(task * key_values), key_values),
                    std::slice::from_raw_parts_mut(to_values.get().add(task * value_values), value_values),
                )
            };
            for token in 0..tokens {
                let at = (row * tokens + token) * channels + head * width;
                if halved {
                    let to = &mut to_keys[token / panel * panel * width / 2 + token % panel..];
                    for (to, key) in to.iter_mut().step_by(panel).zip(keys[at..][..width].chunks_exact(2)) {
                        *to = pair(key[0] * scale, key[1] * scale);
                    }
                    if token % 2 == 0 {
                        let to = &mut to_values[token / 2 * padded..][..width];
                        let next = (token + 1 < tokens).then(|| &values[at + channels..][..width]);
                        for (column, to) in to.iter_mut().enumerate() {
                            *to = pair(values[at + column], next.map_or(0.0, |next| next[column]));
                        }
                    }
                    continue;
                }
                let to = &mut to_keys[token / panel * panel * width + token % panel..];
                for (to, key) in to.iter_mut().step_by(panel).zip(&keys[at..][..width]) {
                    *to = key * scale;
                }
                to_values[token * padded..][..width].copy_from_slice(&values[at..][..width]);
            }
        });
        packed
    }

    /// The same keys, and the values of every token times its weight in `weights`, `[batch,
    /// tokens]`.
    ///
    /// # Panics
    /// When `weights` has another length.
    pub fn weighted(&self, weights: &[f32]) -> Self {
        assert_eq!(weights.len(), self.batch * self.tokens, "a weight for every token of the batch");
        assert!(!self.halved, "weights are for what is read by others, which is kept in f32");
        let mut values = self.values.clone();
        let tasks = self.batch * self.heads;
        let padded = self.width.next_multiple_of(shape().0);
        let per_task = values.len() / tasks.max(1);
        for task in 0..tasks {
            let row = &weights[task / self.heads * self.tokens..][..self.tokens];
            for (token, weight) in row.iter().enumerate() {
                values[task * per_task + token * padded..][..padded].iter_mut().for_each(|value| *value *= weight);
            }
        }
        Self { keys: self.keys.clone(), values, ..*self }
    }

    /// The keys as they were given, `[batch, heads, tokens, width]`, within rounding.
    ///
    /// # Panics
    /// When they were packed as bf16, which only keys of one step are.
    pub fn keys(&self) -> Vec<f32> {
        assert!(!self.halved, "keys that are shown are kept in f32");
        let panel = 2 * shape().0;
        let scale = (self.width as f64).sqrt() as f32;
        let per_task = self.keys.len() / (self.batch * self.heads).max(1);
        let mut keys = Vec::with_capacity(self.batch * self.heads * self.tokens * self.width);
        for task in 0..self.batch * self.heads {
            for token in 0..self.tokens {
                let at = task * per_task + token / panel * panel * self.width + token % panel;
                let own = self.keys[at..].iter().step_by(panel).take(self.width);
                keys.extend(own.map(|key| key * scale));
            }
        }
        keys
    }

    /// Rows of the batch.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Channels of queries, keys and values: heads times the width of one.
    pub fn channels(&self) -> usize {
        self.heads * self.width
    }

    /// Attention heads.
    pub fn heads(&self) -> usize {
        self.heads
    }

    /// Channels of one head.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Tokens that can be attended to.
    pub fn tokens(&self) -> usize {
        self.tokens
    }
}
