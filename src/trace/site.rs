//! Where attention happens ([`Site`]) and who is told about it ([`AttentionObserver`]).

use crate::Result;
use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// The part of the network that a site lies in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// `down_blocks.*`
    Down,
    /// `mid_block`
    Mid,
    /// `up_blocks.*`
    Up,
    /// A block of a diffusion transformer, which has no stages: [`Site::depth`] says where it
    /// stands.
    Transformer,
}

/// What the queries of a site attend to. Traces of format 1 call it `attends`, with `prompt` and
/// `itself`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AttentionKind {
    /// The prompt's tokens alone (`attn2` in diffusers).
    #[serde(alias = "prompt")]
    Cross,
    /// The site's own grid alone (`attn1` in diffusers).
    #[serde(rename = "self", alias = "itself")]
    SelfAttention,
    /// The prompt's tokens and the site's own grid in one softmax, as in SD 3, FLUX or Z-Image.
    Joint,
}

/// One attention layer of the denoiser at one size of the latent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Site {
    /// The diffusers weight path, e.g. `down_blocks.0.attentions.1.transformer_blocks.0.attn2`.
    pub path: String,
    /// Which part of the network.
    pub stage: Stage,
    /// Where it stands between the first layer and the last, above 0 and below 1: `(index + 0.5) /
    /// count`. Traces of format 1 do not have it; it is filled in when they are read.
    #[serde(default)]
    pub depth: f32,
    /// What its queries attend to.
    #[serde(alias = "attends")]
    pub kind: AttentionKind,
    /// Position in network order, counted over the sites of the same kind.
    pub index: usize,
    /// Number of attention heads.
    pub heads: usize,
    /// Rows of the site grid.
    pub height: usize,
    /// Columns of the site grid.
    pub width: usize,
}

impl Site {
    /// `sites` of one kind, in network order, with their [`depth`](Self::depth) filled in where it
    /// is not known.
    pub fn with_depths(mut sites: Vec<Self>) -> Vec<Self> {
        let count = sites.len();
        for (index, site) in sites.iter_mut().enumerate().filter(|(_, site)| site.depth == 0.0) {
            site.depth = (index as f32 + 0.5) / count as f32;
        }
        sites
    }

    /// Channels of a recording of `tokens` tokens here: the tokens and the padding, and for joint
    /// attention the image. They add up to 1 per step.
    pub fn channels(&self, tokens: usize) -> usize {
        tokens + 1 + usize::from(self.kind == AttentionKind::Joint)
    }
}

/// The denoising step that the following observations belong to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    /// 0-based call of the denoiser; PNDM makes one call more than it was asked steps.
    pub index: usize,
    /// Number of calls of the denoiser in the run.
    pub count: usize,
    /// The scheduler's timestep, in training steps (0 to 999 for most checkpoints).
    pub timestep: f64,
    /// Images in the batch.
    pub images: usize,
    /// Whether the batch holds an unconditional half first (classifier-free guidance).
    pub guided: bool,
}

impl Step {
    /// Rows of the batch that were given the prompt: the second half under guidance, else all.
    pub fn conditional_rows(&self) -> std::ops::Range<usize> {
        if self.guided { self.images..2 * self.images } else { 0..self.images }
    }
}

/// Someone who watches attention while the denoiser runs: asked first, then told.
///
/// It is passed down the network by reference; there are no global hooks. A site that nobody wants
/// takes the fast path, which never forms its probabilities.
pub trait AttentionObserver {
    /// Whether the probabilities of `site` should be formed and passed to
    /// [`observe`](Self::observe). Asked at every call.
    fn wants(&self, site: &Site) -> bool;

    /// The attention probabilities of `site`: f32, `[batch, heads, height * width, keys]`, each row
    /// summing to 1 over text and padding. `batch` holds the unconditional rows first, then the
    /// conditional ones (see [`Step::conditional_rows`]).
    ///
    /// Of a [joint](AttentionKind::Joint) site the queries are the image's and the keys the text's.
    /// There a row sums to less than 1: the rest, `1 - sum`, is what the image's own keys got.
    fn observe(&mut self, site: &Site, probabilities: &Tensor) -> Result<()>;

    /// Called after `observe` when the run has probes
    /// ([`PreparedPrompt::with_probes`](crate::model::PreparedPrompt::with_probes)).
    /// `probabilities` is the attention that the same queries would give to words absent from the
    /// prompt. It is f32 `[conditional rows, heads, height * width, tokens of all probes]`. Each
    /// probe's tokens compete with the prompt's alone.
    fn observe_probes(&mut self, _site: &Site, _probabilities: &Tensor) -> Result<()> {
        Ok(())
    }

    /// Which of the text's tokens are asked what they look at in the image, as positions among the
    /// text's keys. Asked after [`wants`](Self::wants) at joint sites that it said yes to.
    fn text_queries(&self, _site: &Site) -> Vec<Range<usize>> {
        Vec::new()
    }

    /// What the tokens of [`text_queries`](Self::text_queries) give to the image's places: f32
    /// `[batch, heads, tokens, height * width]`. The rest of each row, up to 1, is what they give
    /// to text.
    fn observe_text(&mut self, _site: &Site, _probabilities: &Tensor) -> Result<()> {
        Ok(())
    }

    /// How alike a joint site's outputs are for the image's places and for some concepts
    /// ([`PreparedPrompt::with_concepts`](crate::model::PreparedPrompt::with_concepts)): f32
    /// `[conditional rows, concepts, height * width]`, before any softmax.
    fn observe_concepts(&mut self, _site: &Site, _scores: &Tensor) -> Result<()> {
        Ok(())
    }

    /// Whether the queries and keys of `site` should be passed to
    /// [`observe_queries`](Self::observe_queries). Asked at every call. Networks with joint
    /// attention do not ask.
    fn wants_queries(&self, _site: &Site) -> bool {
        false
    }

    /// What the probabilities of `site` are made of: queries `[batch, heads, height * width,
    /// head_dim]` and keys `[batch, heads, keys, head_dim]`, rows as in
    /// [`observe`](Self::observe). A score is their product over the channels, divided by the root
    /// of `head_dim`.
    fn observe_queries(&mut self, _site: &Site, _queries: &Tensor, _keys: &Tensor) -> Result<()> {
        Ok(())
    }

    /// Whether what each head of `site` gives to its output should be passed to
    /// [`observe_head_shares`](Self::observe_head_shares). Asked at every call. Networks with joint
    /// attention do not ask.
    fn wants_head_shares(&self, _site: &Site) -> bool {
        false
    }

    /// What each head of `site` gives to its output, f32 `[batch, heads, height * width]`. It is
    /// the product of the head's part and the whole, divided by its sum over the heads. Called
    /// after [`observe`](Self::observe), rows as there.
    fn observe_head_shares(&mut self, _site: &Site, _shares: &Tensor) -> Result<()> {
        Ok(())
    }

    /// A step begins: the observations until the next call of this belong to it.
    fn begin_step(&mut self, _step: &Step) -> Result<()> {
        Ok(())
    }
}

/// The observer that wants nothing: the denoiser takes its fast path everywhere.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unobserved;

impl AttentionObserver for Unobserved {
    fn wants(&self, _site: &Site) -> bool {
        false
    }

    fn observe(&mut self, _site: &Site, _probabilities: &Tensor) -> Result<()> {
        Ok(())
    }
}

/// Two observers of the same attention: each is told of the sites that it wants.
pub struct Both<'a>(pub &'a mut dyn AttentionObserver, pub &'a mut dyn AttentionObserver);

impl AttentionObserver for Both<'_> {
    fn wants(&self, site: &Site) -> bool {
        self.0.wants(site) || self.1.wants(site)
    }

    fn observe(&mut self, site: &Site, probabilities: &Tensor) -> Result<()> {
        self.each(site, |observer| observer.observe(site, probabilities))
    }

    fn observe_probes(&mut self, site: &Site, probabilities: &Tensor) -> Result<()> {
        self.each(site, |observer| observer.observe_probes(site, probabilities))
    }

    /// Those of the first that asks about any: what two ask about cannot be told in one tensor.
    fn text_queries(&self, site: &Site) -> Vec<Range<usize>> {
        let asked = [&*self.0, &*self.1].into_iter().filter(|observer| observer.wants(site));
        asked.map(|observer| observer.text_queries(site)).find(|asked| !asked.is_empty()).unwrap_or_default()
    }

    fn observe_text(&mut self, site: &Site, probabilities: &Tensor) -> Result<()> {
        for observer in [&mut *self.0, &mut *self.1] {
            if observer.wants(site) && !observer.text_queries(site).is_empty() {
                return observer.observe_text(site, probabilities);
            }
        }
        Ok(())
    }

    fn wants_queries(&self, site: &Site) -> bool {
        self.0.wants_queries(site) || self.1.wants_queries(site)
    }

    fn observe_queries(&mut self, site: &Site, queries: &Tensor, keys: &Tensor) -> Result<()> {
        for observer in [&mut *self.0, &mut *self.1] {
            if observer.wants_queries(site) {
                observer.observe_queries(site, queries, keys)?;
            }
        }
        Ok(())
    }

    fn wants_head_shares(&self, site: &Site) -> bool {
        self.0.wants_head_shares(site) || self.1.wants_head_shares(site)
    }

    fn observe_head_shares(&mut self, site: &Site, shares: &Tensor) -> Result<()> {
        for observer in [&mut *self.0, &mut *self.1] {
            if observer.wants_head_shares(site) {
                observer.observe_head_shares(site, shares)?;
            }
        }
        Ok(())
    }

    fn observe_concepts(&mut self, site: &Site, scores: &Tensor) -> Result<()> {
        self.each(site, |observer| observer.observe_concepts(site, scores))
    }

    fn begin_step(&mut self, step: &Step) -> Result<()> {
        self.0.begin_step(step)?;
        self.1.begin_step(step)
    }
}

impl Both<'_> {
    /// Calls `tell` with the observers that want `site`.
    fn each(&mut self, site: &Site, tell: impl Fn(&mut dyn AttentionObserver) -> Result<()>) -> Result<()> {
        for observer in [&mut *self.0, &mut *self.1] {
            if observer.wants(site) {
                tell(observer)?;
            }
        }
        Ok(())
    }
}
