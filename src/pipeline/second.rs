//! SDXL's second text encoder.

use super::options::LoadOptions;
use crate::checkpoint::{self, Checkpoint, Part};
use crate::model::TextEncoder;
use crate::prompt::Tokenizer;
use crate::{Error, Result};

/// SDXL's second text encoder with the tokenizer that belongs to it.
pub(super) struct SecondEncoder {
    pub(super) tokenizer: Tokenizer,
    pub(super) text_encoder: TextEncoder,
    /// Whether an empty negative prompt stands for zeros.
    pub(super) force_zeros: bool,
}

impl SecondEncoder {
    pub(super) fn load(checkpoint: &Checkpoint, first: &Tokenizer, options: &LoadOptions) -> Result<Option<Self>> {
        let Some(checkpoint::SecondEncoderConfig { text_encoder, tokenizer: files }) = &checkpoint.second else {
            return Ok(None);
        };
        let tokenizer = Tokenizer::new(files)?.with_words(&checkpoint.added_words)?;
        if tokenizer.length() != first.length() {
            // Hidden states of the two are put side by side, position by position.
            return Err(Error::Config {
                file: files.folder.join("tokenizer_config.json"),
                reason: format!(
                    "`model_max_length` is {}, but the first tokenizer's is {}",
                    tokenizer.length(),
                    first.length()
                ),
            });
        }
        let weights = checkpoint.weights(Part::TextEncoder2)?;
        let text_encoder = weights.load(options.dtype, &options.device, |weights| match options.plain {
            false => TextEncoder::new(text_encoder, weights),
            true => TextEncoder::plain(text_encoder, weights),
        })?;
        let force_zeros = checkpoint.index.force_zeros_for_empty_prompt;
        Ok(Some(Self { tokenizer, text_encoder, force_zeros }))
    }
}
