//! What is handed down a UNet in one forward pass, the observer among it.

use super::prompt::Probe;
use crate::Result;
use crate::model::Interrupt;
use crate::model::layers::{Attention, KeysValues};
use crate::trace::{AttentionKind, AttentionObserver, Site};
use candle_core::{D, Tensor};

/// What is handed down the network in one forward pass.
pub(super) struct Pass<'a> {
    /// SiLU of the timestep embedding, `[1 or batch, width]`.
    pub(super) time: &'a Tensor,
    /// Keys and values of the prompt, one entry per transformer block.
    pub(super) prompt: &'a [KeysValues],
    /// Added to the cross-attention scores, `[batch, 1, 1, tokens]`.
    pub(super) key_bias: Option<&'a Tensor>,
    /// Other words that the last rows of the batch are asked about; see
    /// [`super::UnetPrompt::with_probes`].
    pub(super) probes: &'a [Probe],
    pub(super) cross_sites: Vec<Site>,
    pub(super) self_sites: Vec<Site>,
    pub(super) observer: &'a mut dyn AttentionObserver,
    /// Asked before every attention.
    pub(super) interrupt: &'a Interrupt,
}

impl Pass<'_> {
    /// Runs `attend` on the site of kind `kind` of transformer block `index`, with a tap if the
    /// observer wants one.
    pub(super) fn observed<T>(
        &mut self,
        kind: AttentionKind,
        index: usize,
        attend: impl FnOnce(Option<&mut dyn FnMut(&Tensor) -> Result<()>>) -> Result<T>,
    ) -> Result<T> {
        self.interrupt.check()?;
        let site = match kind {
            AttentionKind::Cross | AttentionKind::Joint => &self.cross_sites[index],
            AttentionKind::SelfAttention => &self.self_sites[index],
        };
        let observer = &mut *self.observer;
        if observer.wants(site) {
            attend(Some(&mut |probabilities: &Tensor| observer.observe(site, probabilities)))
        } else {
            attend(None)
        }
    }

    /// Shows the observer the queries of `x` `[batch, places, channels]` and the prompt's keys,
    /// where it wants those of the site. `index` is the transformer block. The network is not
    /// changed by it.
    pub(super) fn queried(&mut self, index: usize, attention: &Attention, x: &Tensor) -> Result<()> {
        let site = &self.cross_sites[index];
        if !self.observer.wants_queries(site) {
            return Ok(());
        }
        self.observer.observe_queries(site, &attention.queries(x)?, &self.prompt[index].keys()?)
    }

    /// Shows the observer what each head gives to the output for `x` `[batch, places, channels]`,
    /// where it wants to know of the site. `index` is the transformer block. The network is not
    /// changed by it.
    pub(super) fn shared(&mut self, index: usize, attention: &Attention, x: &Tensor) -> Result<()> {
        let site = &self.cross_sites[index];
        if !self.observer.wants_head_shares(site) {
            return Ok(());
        }
        self.observer.observe_head_shares(site, &attention.head_shares(x, &self.prompt[index], self.key_bias)?)
    }

    /// Shows the observer how the queries of `x` `[batch, places, channels]` would attend to the
    /// probes. `index` is the transformer block. Nothing happens without probes, or where the
    /// observer does not want the site. The network is not changed by it.
    pub(super) fn probed(&mut self, index: usize, attention: &Attention, x: &Tensor) -> Result<()> {
        let site = &self.cross_sites[index];
        let Some(first) = self.probes.first().filter(|_| self.observer.wants(site)) else { return Ok(()) };
        let rows = first.beside.batch;
        let asked = x.narrow(0, x.dim(0)? - rows, rows)?.contiguous()?;
        let contexts: Vec<_> = self
            .probes
            .iter()
            .map(|probe| (&probe.beside.keys_values[index], probe.beside.key_bias.as_ref()))
            .collect();
        let told = attention.probabilities(&asked, &contexts)?;
        let own = told
            .iter()
            .zip(self.probes)
            .map(|(told, probe)| told.narrow(D::Minus1, probe.beside.tokens - probe.tokens, probe.tokens));
        let own = Tensor::cat(&own.collect::<candle_core::Result<Vec<_>>>()?, D::Minus1)?;
        self.observer.observe_probes(site, &own)
    }
}
