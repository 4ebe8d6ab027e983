//! Text and image as one sequence of tokens: attention in which the image's queries are shown, and
//! patches of a latent as tokens.

use crate::model::layers::{JointAttention, JointKeys};
use crate::trace::{AttentionObserver, Site};
use crate::{Error, Result};
use candle_core::{DType, Tensor};
use std::ops::Range;

/// What an observer wants to be shown of one joint attention, and what it is shown.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// Positions among the text's tokens whose queries are shown, too.
    text_queries: Vec<Range<usize>>,
    of_image: Option<Tensor>,
    of_text: Option<Tensor>,
}

impl Watch {
    /// What `observer` wants of `site`; `None` where that is nothing.
    pub(super) fn of(observer: &dyn AttentionObserver, site: &Site) -> Option<Self> {
        let wanted = observer.wants(site);
        wanted.then(|| Self { text_queries: observer.text_queries(site), ..Self::default() })
    }

    /// Whether any of the text's queries are asked about.
    pub(super) fn asks_text(&self) -> bool {
        !self.text_queries.is_empty()
    }

    /// Tells `observer` what was seen at `site`.
    pub(super) fn tell(self, site: &Site, observer: &mut dyn AttentionObserver) -> Result<()> {
        if let Some(seen) = self.of_image {
            observer.observe(site, &seen)?;
        }
        if let Some(seen) = self.of_text {
            observer.observe_text(site, &seen)?;
        }
        Ok(())
    }

    /// What of the text's keys the image's queries saw; it replaces what was seen.
    pub(super) fn replace(&mut self, of_image: impl FnOnce(&Tensor) -> Result<Tensor>) -> Result<()> {
        if let Some(seen) = self.of_image.take() {
            self.of_image = Some(of_image(&seen)?);
        }
        Ok(())
    }
}

/// Queries and keys of one sequence, and what is said of its keys.
pub(super) struct Sequence<'a> {
    /// The queries of the image's cells.
    pub(super) cells: Range<usize>,
    /// The keys that are no cells of the image.
    pub(super) others: Range<usize>,
    /// The text's tokens, some or all of the others.
    pub(super) text: Range<usize>,
    /// f32 `[batch, tokens]`, added to all scores.
    pub(super) bias: Option<&'a Tensor>,
    /// What the values of the text's keys are multiplied by, `[batch, text, 1]`.
    pub(super) value_weights: Option<&'a Tensor>,
}

impl<'a> Sequence<'a> {
    /// One that nobody is shown anything of.
    pub(super) fn unseen(bias: Option<&'a Tensor>) -> Self {
        Self { cells: 0..0, others: 0..0, text: 0..0, bias, value_weights: None }
    }

    /// `keys` and `values` `[batch, tokens, width]` made ready, the text's values times their
    /// factors.
    pub(super) fn keys(&self, attention: &JointAttention, keys: &Tensor, values: &Tensor) -> Result<JointKeys> {
        let Some(weights) = self.value_weights else { return attention.keys(keys, values) };
        let part = |range: Range<usize>| values.narrow(1, range.start, range.len());
        let text = part(self.text.clone())?.broadcast_mul(weights)?;
        let mut parts = vec![part(0..self.text.start)?, text, part(self.text.end..values.dim(1)?)?];
        parts.retain(|part| part.elem_count() > 0);
        attention.keys(keys, &Tensor::cat(&parts, 1)?)
    }

    /// What all `queries` `[batch, tokens, width]` see of `keys`. `watch` is shown what those of
    /// the cells pay to the keys in `others`. It is also shown what the text's queries that it
    /// names pay to the cells.
    pub(super) fn attend(
        &self,
        attention: &JointAttention,
        queries: &Tensor,
        keys: &JointKeys,
        watch: Option<&mut Watch>,
    ) -> Result<Tensor> {
        let Some(watch) = watch else { return attention.attend(queries, keys, self.bias, None) };
        let part = |range: Range<usize>| -> Result<Option<Tensor>> {
            if range.is_empty() {
                return Ok(None);
            }
            let queries = queries.narrow(1, range.start, range.len())?.contiguous()?;
            Ok(Some(attention.attend(&queries, keys, self.bias, None)?))
        };
        let own = queries.narrow(1, self.cells.start, self.cells.len())?.contiguous()?;
        let seen = self.cells_attend(attention, &own, keys, watch)?;
        let text = queries.narrow(1, self.text.start, self.text.len())?;
        self.text_attend(attention, &text, keys, watch)?;
        let parts = [part(0..self.cells.start)?, Some(seen), part(self.cells.end..queries.dim(1)?)?];
        Ok(Tensor::cat(&parts.into_iter().flatten().collect::<Vec<_>>(), 1)?)
    }

    /// What the cells' own `queries` see, shown to `watch`.
    pub(super) fn cells_attend(
        &self,
        attention: &JointAttention,
        queries: &Tensor,
        keys: &JointKeys,
        watch: &mut Watch,
    ) -> Result<Tensor> {
        let mut shown = |seen: &Tensor| {
            watch.of_image = Some(seen.clone());
            Ok(())
        };
        attention.attend(queries, keys, self.bias, Some((self.others.clone(), &mut shown)))
    }

    /// Shows `watch` what those of the text's `queries` `[batch, text, width]` that it names pay to
    /// the cells.
    pub(super) fn text_attend(
        &self,
        attention: &JointAttention,
        queries: &Tensor,
        keys: &JointKeys,
        watch: &mut Watch,
    ) -> Result<()> {
        if watch.text_queries.is_empty() {
            return Ok(());
        }
        let run = |run: &Range<usize>| queries.narrow(1, run.start, run.len());
        let runs = watch.text_queries.iter().map(run).collect::<candle_core::Result<Vec<_>>>()?;
        let queries = Tensor::cat(&runs, 1)?.contiguous()?;
        let mut shown = |seen: &Tensor| {
            watch.of_text = Some(seen.clone());
            Ok(())
        };
        attention.attend(&queries, keys, self.bias, Some((self.cells.clone(), &mut shown)))?;
        Ok(())
    }
}

/// The order of the numbers of a patch in its token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PatchOrder {
    /// Channel, row, column: FLUX.1 (diffusers `_pack_latents`).
    ChannelsFirst,
    /// Row, column, channel: Z-Image (diffusers `_patchify_image`).
    ChannelsLast,
}

/// `[batch, channels, height, width]` to tokens `[batch, patches, channels * patch * patch]`, row
/// by row.
///
/// # Errors
/// [`Error::Unsupported`] for a latent that is no whole patches.
pub(super) fn patches_of(latent: &Tensor, patch: usize, order: PatchOrder) -> Result<Tensor> {
    let (batch, channels, height, width) = latent.dims4()?;
    let (rows, columns) = (height / patch, width / patch);
    if rows * patch != height || columns * patch != width || rows.min(columns) == 0 {
        return Err(Error::Unsupported {
            what: format!("a latent of {width}x{height} cells"),
            way_out: format!("sides must be multiples of {patch}"),
        });
    }
    let apart = latent.reshape(&[batch, channels, rows, patch, columns, patch])?;
    let apart = match order {
        PatchOrder::ChannelsFirst => apart.permute([0, 2, 4, 1, 3, 5])?,
        PatchOrder::ChannelsLast => apart.permute([0, 2, 4, 3, 5, 1])?,
    };
    Ok(apart.contiguous()?.reshape((batch, rows * columns, channels * patch * patch))?)
}

/// What [`patches_of`] takes apart, put together again: f32 `[batch, channels, height, width]`.
///
/// # Errors
/// When the tokens are not those of such a latent.
pub(super) fn latent_of(
    tokens: &Tensor,
    patch: usize,
    order: PatchOrder,
    [height, width]: [usize; 2],
) -> Result<Tensor> {
    let (batch, _, values) = tokens.dims3()?;
    let channels = values / (patch * patch);
    let (rows, columns) = (height / patch, width / patch);
    let together = match order {
        PatchOrder::ChannelsFirst => {
            tokens.reshape(&[batch, rows, columns, channels, patch, patch])?.permute([0, 3, 1, 4, 2, 5])?
        }
        PatchOrder::ChannelsLast => {
            tokens.reshape(&[batch, rows, columns, patch, patch, channels])?.permute([0, 5, 1, 3, 2, 4])?
        }
    };
    Ok(together.contiguous()?.reshape((batch, channels, height, width))?.to_dtype(DType::F32)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn patches_are_put_together_as_they_were() {
        let latent = Tensor::arange(0f32, 2.0 * 3.0 * 4.0 * 6.0, &Device::Cpu).unwrap().reshape((2, 3, 4, 6)).unwrap();
        for order in [PatchOrder::ChannelsFirst, PatchOrder::ChannelsLast] {
            let tokens = patches_of(&latent, 2, order).unwrap();
            assert_eq!(tokens.dims(), [2, 6, 12]);
            let back = latent_of(&tokens, 2, order, [4, 6]).unwrap();
            assert_eq!(
                back.flatten_all().unwrap().to_vec1::<f32>().unwrap(),
                latent.flatten_all().unwrap().to_vec1::<f32>().unwrap()
            );
        }
        // The second patch of the first row begins at column 2; its numbers are of channel 0 first,
        // or row 0.
        let second =
            |order| patches_of(&latent, 2, order).unwrap().get(0).unwrap().get(1).unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(second(PatchOrder::ChannelsFirst)[..5], [2.0, 3.0, 8.0, 9.0, 26.0]);
        assert_eq!(second(PatchOrder::ChannelsLast)[..5], [2.0, 26.0, 50.0, 3.0, 27.0]);
        assert!(patches_of(&latent, 4, PatchOrder::ChannelsLast).is_err());
    }
}
