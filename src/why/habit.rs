//! The third experiment: what is left when neither words nor noise move the thing, and whether a
//! LoRA puts it there.

use super::bench::{Bench, Drawn};
use super::noise::fresh;
use crate::pipeline::Pipeline;
use crate::{Error, Result};
use std::ops::ControlFlow;

/// Most seeds that are drawn without the LoRAs.
pub const SEEDS: usize = 4;

/// The run's prompt without its LoRAs, with the noise of `seeds`; `plain` is the checkpoint without
/// them.
///
/// # Errors
/// Those of the tokenizer and of [`Bench::draw`].
pub fn without_loras(
    bench: &Bench,
    plain: &Pipeline,
    seeds: &[u64],
    progress: &mut dyn FnMut(usize) -> ControlFlow<()>,
) -> Result<Vec<Drawn>> {
    let prompt = plain.prompt(&bench.prompt.text, &bench.options)?;
    if prompt.ids != bench.prompt.ids {
        return Err(Error::bug("a checkpoint without its LoRAs reads the prompt otherwise"));
    }
    let bench = Bench {
        pipeline: plain,
        options: bench.options.clone(),
        prompt,
        aggregate: bench.aggregate.clone(),
        thing: bench.thing.clone(),
        by: bench.by,
        batch: bench.batch,
    };
    fresh(&bench, &bench.prompt, seeds, progress)
}
