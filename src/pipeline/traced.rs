//! A run with its attention recorded: what most callers want of a pipeline.

use std::ops::ControlFlow;

use candle_core::DType;

use super::generation::{Event, Generation, TextAttentions, Timings};
use super::goca::GocaRecorder;
use super::load::Pipeline;
use super::options::Options;
use crate::argument::{Argument, DTYPE, EMBEDDING, EMPHASIS, GUIDANCE, LORA};
use crate::checkpoint::Part;
use crate::heatmap::{Aggregate, Measure};
use crate::prompt::{Joined, Prompt};
use crate::trace::{
    About, AttentionObserver, Both, CheckpointInfo, EncoderInfo, Grid, PromptInfo, Queries, QueryRecorder, Recorder,
    RecordingPlan, SelfAttentionPlan, Site, Trace, Unobserved,
};
use crate::{Error, Result};

/// What is recorded beside the sums over the steps.
#[derive(Debug, Clone, PartialEq)]
pub struct RecordOptions {
    /// A head-mean map for every step (needed for step windows and animations).
    pub per_step: bool,
    /// The unconditional half of the guidance batch too, so that the negative prompt's words have
    /// maps.
    pub unconditional: bool,
    /// What the prompt's own tokens look at in the image too, where attention is joint.
    pub text_queries: bool,
    /// What GoCA's maps are made of ([`Pipeline::plan_goca`]).
    pub goca: bool,
    /// Self-attention sites whose ties are kept: those of a [`SelfAttentionPlan`]
    /// ([`Pipeline::plan_self_attention`]).
    pub self_attention: Vec<Site>,
    /// Sites whose queries and keys are kept ([`Pipeline::query_sites`]), and with them those of
    /// the text encoders.
    pub queries: Vec<Site>,
}

impl Default for RecordOptions {
    fn default() -> Self {
        Self {
            per_step: true,
            unconditional: false,
            text_queries: false,
            goca: false,
            self_attention: Vec::new(),
            queries: Vec::new(),
        }
    }
}

impl RecordOptions {
    /// What `how` is made of beside the sums: what GoCA's maps need, where it is theirs.
    pub fn for_maps(how: &Aggregate) -> Self {
        Self { goca: how.measure == Measure::Goca, ..Self::default() }
    }
}

/// An image and what was seen while it was made.
#[derive(Debug, Clone)]
pub struct Traced {
    /// The image.
    pub generation: Generation,
    /// The attention of every cross-attention site.
    pub trace: Trace,
    /// Its queries and keys, where they were asked for.
    pub queries: Option<Queries>,
}

impl Pipeline {
    /// Which self-attention a run with `options` can keep within `budget` bytes; see
    /// [`SelfAttentionPlan::new`].
    ///
    /// # Errors
    /// As there.
    pub fn plan_self_attention(
        &self,
        options: &Options,
        wanted: Option<&dyn Fn(&Site) -> bool>,
        budget: u64,
    ) -> Result<SelfAttentionPlan> {
        let latent = self.latent_grid(options);
        let images = options.seeds.len();
        let rows = if self.guided(options) { 2 * images } else { images };
        SelfAttentionPlan::new(&self.denoiser.self_sites(latent.height, latent.width), wanted, images, rows, budget)
    }

    /// Generates as [`generate`](Self::generate) and records every cross-attention site, with the
    /// probes where there are any.
    ///
    /// # Errors
    /// As [`generate`](Self::generate).
    pub fn trace(
        &self,
        prompt: &Prompt,
        options: &Options,
        keep: RecordOptions,
        progress: &mut dyn FnMut(Event) -> ControlFlow<()>,
    ) -> Result<(Vec<Traced>, Timings)> {
        self.trace_with(prompt, options, keep, &mut Unobserved, progress)
    }

    /// As [`trace`](Self::trace), with a further observer of the same attention.
    ///
    /// # Errors
    /// As [`generate`](Self::generate), and the observer's own.
    pub fn trace_with(
        &self,
        prompt: &Prompt,
        options: &Options,
        keep: RecordOptions,
        observer: &mut dyn AttentionObserver,
        progress: &mut dyn FnMut(Event) -> ControlFlow<()>,
    ) -> Result<(Vec<Traced>, Timings)> {
        let (prompt, negative) = self.prompts(prompt, options)?;
        let negative = negative.filter(|_| keep.unconditional);
        let plan = RecordingPlan {
            tokens: prompt.tokens.len(),
            unconditional_tokens: negative.as_ref().map(|negative| negative.tokens.len()),
            images: options.seeds.len(),
            per_step: keep.per_step,
        };
        let probes = self.probe_infos(&options.probes)?;
        let concepts = self.concepts(&prompt, options)?;
        let mut recorder = Recorder::new(&self.sites(options.height, options.width), plan)
            .with_keys(&prompt.keys(), &negative.as_ref().map(Prompt::keys).unwrap_or_default())
            .with_probes(self.key_probes(&probes))
            .with_concepts(concepts.len())
            .with_self_attention(&keep.self_attention);
        if keep.text_queries {
            self.check_joint(false, true)?;
            recorder = recorder.with_text_queries();
        }
        let kept = self.with_head_dims(&keep.queries);
        let mut queries = (!kept.is_empty()).then(|| QueryRecorder::new(&kept, options.seeds.len()));
        let latent = self.latent_grid(options);
        if keep.goca {
            self.plan_goca(options, u64::MAX)?;
        }
        let mut goca = keep.goca.then(|| self.goca_recorder(&prompt, latent, options.seeds.len())).transpose()?;
        let mut nobody = [Unobserved; 2];
        let [first, second] = &mut nobody;
        let of_queries: &mut dyn AttentionObserver = match &mut queries {
            Some(queries) => queries,
            None => first,
        };
        let of_goca: &mut dyn AttentionObserver = match &mut goca {
            Some(goca) => goca,
            None => second,
        };
        let mut both = Both(of_goca, observer);
        let mut both = Both(of_queries, &mut both);
        let made = self.generate(&prompt, options, &mut Both(&mut recorder, &mut both), progress);
        let generations = made.map_err(|error| self.blame(error, &prompt, options))?;

        let mut traced = Vec::with_capacity(generations.images.len());
        // What overflows in a late step shows here.
        let recordings = recorder.finish().map_err(|error| self.blame(error, &prompt, options))?;
        let mut queries = match queries {
            Some(queries) => queries.finish(&prompt.text, &prompt.keys(), &self.encoder_queries(&prompt, options)?)?,
            None => Vec::new(),
        }
        .into_iter();
        let mut goca = goca.map_or_else(|| Ok(Vec::new()), GocaRecorder::finish)?.into_iter();
        for (generation, mut recording) in generations.images.into_iter().zip(recordings) {
            let TextAttentions { first, second } = generations.text.clone();
            (recording.text, recording.text_2) = (first, second);
            recording.goca = goca.next();
            let negative = recording.unconditional.as_ref().and(negative.as_ref());
            let about = About {
                prompt: PromptInfo::from(&prompt),
                negative: negative.map(PromptInfo::from),
                probes: probes.clone(),
                concepts: concepts.clone(),
                encoders: encoders(&prompt),
                latent: self.latent_grid(options),
                image: Grid::new(options.height, options.width),
                checkpoint: self.checkpoint_info(),
                settings: serde_json::to_value(self.settings(options, generation.seed)).unwrap_or_default(),
            };
            traced.push(Traced { trace: Trace::new(about, recording)?, generation, queries: queries.next() });
        }
        Ok((traced, generations.timings))
    }

    /// [`Error::NotANumber`] as an error of the option that most likely led to it, where one was
    /// given.
    pub(super) fn blame(&self, error: Error, prompt: &Prompt, options: &Options) -> Error {
        const MUCH: f64 = 100.0;
        let Error::NotANumber { site } = &error else { return error };
        let blamed = |argument: Argument, way_out: &str| {
            Error::argument(
                argument,
                format!("the network gave NaN ({site}), and no image can come of that; {way_out}"),
            )
        };
        let stressed = prompt.weights.iter().any(|weight| f64::from(weight.abs()) > MUCH);
        let changes = self.changes();
        if options.guidance_scale.abs() > MUCH && self.guided(options) {
            blamed(GUIDANCE, "lower it; 1 to 20 are usual")
        } else if stressed {
            blamed(EMPHASIS, "the prompt has a weight beyond 100; 0.5 to 1.5 are usual")
        } else if !changes.loras.is_empty() {
            blamed(LORA, "lower the weight, which is the first thing to try")
        } else if !changes.embeddings.is_empty() {
            blamed(EMBEDDING, "leave it out, or take another file")
        } else if self.options.dtype != DType::F32 {
            blamed(DTYPE, "calculate with f32")
        } else {
            error
        }
    }

    /// What a trace says of the checkpoint.
    pub(super) fn checkpoint_info(&self) -> CheckpointInfo {
        CheckpointInfo { id: self.id().to_owned(), digest: self.digest().to_owned() }
    }
}

/// The text encoders of a prompt whose states lie side by side.
pub(super) fn encoders(prompt: &Prompt) -> Vec<EncoderInfo> {
    let Some(second) = prompt.reading(Joined::Channels) else { return Vec::new() };
    let encoder = |name: Part, prompt: &Prompt| {
        let own = prompt.own_tokens().len();
        let mut tokens = PromptInfo::from(prompt).tokens;
        tokens.truncate(own);
        EncoderInfo { name: name.folder().to_owned(), tokens, padding: prompt.ids.get(own).copied() }
    };
    vec![encoder(Part::TextEncoder, prompt), encoder(Part::TextEncoder2, second)]
}
