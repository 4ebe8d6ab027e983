//! What is handed down the transformer in one forward pass.

use super::super::sequence::Sequence;
use super::prompt::Sd3Prompt;
use crate::model::interrupt::Interrupt;
use crate::trace::{AttentionObserver, Site};
use candle_core::Tensor;

/// What is handed down the network in one forward pass.
pub(super) struct Pass<'a> {
    /// SiLU of the embedding of timestep and pooled prompt, `[batch, width]`.
    pub(super) time: &'a Tensor,
    pub(super) prompt: &'a Sd3Prompt,
    /// Of every joint attention: keys of the image, then of the text.
    pub(super) sequence: Sequence<'a>,
    pub(super) joint_sites: &'a [Site],
    pub(super) self_sites: &'a [Site],
    pub(super) observer: &'a mut dyn AttentionObserver,
    /// Asked before every block.
    pub(super) interrupt: &'a Interrupt,
}
