//! Queries and keys of a run: which sites can be kept within a budget, and the text encoders' own.

use super::encode::EncoderPass;
use super::load::Pipeline;
use super::options::Options;
use crate::argument::KEEP_QUERIES;
use crate::prompt::{Joined, Prompt};
use crate::trace::{EncoderQueries, QueryNeed, QueryPlan, Site};
use crate::{Error, Result};

impl Pipeline {
    /// The sites of a run with `options` whose queries can be kept, those alone that `wanted`
    /// takes.
    ///
    /// # Errors
    /// [`Error::Argument`] when `wanted` takes none, or in joint attention.
    pub fn query_sites(&self, options: &Options, wanted: Option<&dyn Fn(&Site) -> bool>) -> Result<Vec<Site>> {
        let all = self.sites(options.height, options.width);
        if self.denoiser.head_dims().is_none() {
            let reason = "in joint attention the text's keys are others at every step, and the mean of the queries \
                          has not the mean of the scores; leave it out, or take a checkpoint of Stable Diffusion 1, 2 \
                          or XL";
            return Err(Error::argument(KEEP_QUERIES, reason));
        }
        let sites: Vec<Site> = all.iter().filter(|site| wanted.is_none_or(|wanted| wanted(site))).cloned().collect();
        if sites.is_empty() {
            let mut grids: Vec<String> = all.iter().map(|site| format!("{}x{}", site.width, site.height)).collect();
            let mut seen = std::collections::HashSet::new();
            grids.retain(|grid| seen.insert(grid.clone()));
            let reason = format!("no layer of this run has that grid; it has {}", grids.join(", "));
            return Err(Error::argument(KEEP_QUERIES, reason));
        }
        Ok(sites)
    }

    /// What keeping the queries of `sites` takes in a run of `prompt` with `options`.
    ///
    /// # Errors
    /// As [`QueryPlan::new`].
    pub fn plan_queries(&self, prompt: &Prompt, options: &Options, sites: &[Site], budget: u64) -> Result<QueryPlan> {
        let images = options.seeds.len();
        let rows = if self.guided(options) { 2 * images } else { images };
        let own = [Some(prompt), prompt.reading(Joined::Channels)];
        let encoders = [self.text_encoder.as_ref(), self.second.as_ref().map(|second| &second.text_encoder)];
        let mut text = 0;
        for (encoder, prompt) in encoders.into_iter().zip(own) {
            if let (Some(encoder), Some(prompt)) = (encoder, prompt) {
                text += 2 * encoder.layers() * encoder.width()? * prompt.tokens.len();
            }
        }
        let need = QueryNeed { keys: prompt.key_count(), text, images, rows };
        QueryPlan::new(&self.with_head_dims(sites), need, budget)
    }

    /// `sites` with the channels of their heads.
    pub(super) fn with_head_dims(&self, sites: &[Site]) -> Vec<(Site, usize)> {
        let dims = self.denoiser.head_dims().unwrap_or_default();
        sites.iter().filter_map(|site| Some((site.clone(), *dims.get(site.index)?))).collect()
    }

    /// Queries and keys of the text encoders' layers for `prompt`, as a run with `options` reads
    /// it.
    pub(super) fn encoder_queries(&self, prompt: &Prompt, options: &Options) -> Result<Vec<EncoderQueries>> {
        let encoding = self.encode(&[prompt], EncoderPass::of(options))?;
        let second = self.second.as_ref().map(|second| &second.text_encoder);
        let encoders = self.text_encoder.iter().chain(second).zip(encoding.outputs());
        let own = std::iter::once(prompt).chain(prompt.reading(Joined::Channels));
        let named = ["text", "text_2"].into_iter().zip(own).zip(encoders);
        let queries = named.map(|((name, prompt), (encoder, output))| {
            let chunks: Vec<usize> = prompt.keys().iter().map(ExactSizeIterator::len).collect();
            EncoderQueries::from_chunks(name, &encoder.queries_keys(output)?, &chunks)
        });
        queries.collect()
    }
}
