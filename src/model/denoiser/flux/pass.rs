//! What is handed down the network in one forward pass.

use super::super::concepts::Concepts;
use super::super::sequence::Sequence;
use crate::model::Interrupt;
use crate::model::layers::Rotary;
use crate::trace::{AttentionObserver, Site};
use candle_core::Tensor;

/// Epsilon of every norm.
pub(super) const EPS: f64 = 1e-6;

/// What the blocks of one pass share.
pub(super) struct Pass<'a> {
    /// SiLU of the embedding of timestep, guidance and pooled prompt, `[batch, width]`.
    pub(super) time: &'a Tensor,
    pub(super) rotary: &'a Rotary,
    pub(super) sequence: Sequence<'a>,
    /// The concepts, and what [`time`](Self::time) is for them, `[1, width]`.
    pub(super) concepts: Option<(&'a Concepts, &'a Tensor)>,
    pub(super) sites: &'a [Site],
    pub(super) observer: &'a mut dyn AttentionObserver,
    pub(super) interrupt: &'a Interrupt,
}
