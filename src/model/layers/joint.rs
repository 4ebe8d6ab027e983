//! Attention whose keys are text and image at once: the probabilities of some keys alone,
//! normalised over all.

use std::ops::Range;

use candle_core::{D, DType, Tensor};

use super::attention::{Tap, merge_heads, split_heads};
use super::builder::Builder;
use super::fast;
use crate::Result;
use crate::kernels::attention::PackedKeys;
use crate::kernels::gemm::Format;

/// Some keys of a joint attention, and who is shown the probabilities that queries give them: f32
/// `[batch, heads, queries, keys of the range]`.
pub type Columns<'a> = (Range<usize>, Tap<'a>);

/// How a joint attention is computed: its heads, and the kernels of the device.
#[derive(Debug, Clone)]
pub struct JointAttention {
    heads: usize,
    fast: bool,
    format: Format,
}

/// Keys and values of one joint attention at one step.
#[derive(Debug)]
pub struct JointKeys(Keys);

#[derive(Debug)]
enum Keys {
    /// `[batch, heads, keys, width]`
    Plain {
        keys: Tensor,
        values: Tensor,
    },
    Fast(PackedKeys),
}

impl JointAttention {
    /// Attention of `heads` heads where the layers of `b` run.
    pub fn new(heads: usize, b: &Builder) -> Self {
        Self { heads, fast: fast::applies(b.layout(), b.device()), format: b.format() }
    }

    /// The keys and values `[batch, keys, heads * width]` of text and image, in whichever order.
    ///
    /// # Errors
    /// When the shapes differ.
    pub fn keys(&self, keys: &Tensor, values: &Tensor) -> Result<JointKeys> {
        if !self.fast {
            let (keys, values) = (split_heads(keys, self.heads)?, split_heads(values, self.heads)?);
            return Ok(JointKeys(Keys::Plain { keys, values }));
        }
        let (batch, tokens, channels) = keys.dims3()?;
        if values.dims() != keys.dims() || channels % self.heads != 0 {
            return Err(fast::mismatch("a joint attention", channels, values));
        }
        let (keys, values) = (fast::ready(keys)?, fast::ready(values)?);
        let packed =
            |[keys, values]: [&[f32]; 2]| PackedKeys::new_as(self.format, keys, values, batch, tokens, self.heads);
        Ok(JointKeys(Keys::Fast(fast::read([&keys, &values], packed)?)))
    }

    /// What `queries` `[batch, queries, heads * width]` see of all keys, of the same shape. `bias`
    /// `[batch, keys]`, f32, is added to the scores. The probabilities of `columns` are formed
    /// where somebody is to be shown them, and no others.
    ///
    /// # Errors
    /// When shapes do not meet, or the tap's own.
    pub fn attend(
        &self,
        queries: &Tensor,
        keys: &JointKeys,
        bias: Option<&Tensor>,
        columns: Option<Columns>,
    ) -> Result<Tensor> {
        match &keys.0 {
            Keys::Plain { keys, values } => {
                let queries = split_heads(queries, self.heads)?;
                merge_heads(&attend(scores_at_once(&queries), &queries, keys, values, bias, columns)?)
            }
            Keys::Fast(keys) => self.attend_fast(queries, keys, bias, columns),
        }
    }

    fn attend_fast(
        &self,
        queries: &Tensor,
        keys: &PackedKeys,
        bias: Option<&Tensor>,
        columns: Option<Columns>,
    ) -> Result<Tensor> {
        let (batch, count, channels) = queries.dims3()?;
        if batch != keys.batch() || channels != keys.channels() {
            return Err(fast::mismatch("a joint attention", keys.channels(), queries));
        }
        let bias = bias.map(fast::to_vec).transpose()?;
        let bias = bias.as_deref();
        let queries = fast::ready(queries)?;
        let Some((range, tap)) = columns else {
            let seen = fast::read([&queries], |[queries]| keys.attend(queries, bias))?;
            return fast::tensor(seen, (batch, count, channels));
        };
        let (seen, probabilities) =
            fast::read([&queries], |[queries]| keys.attend_with_probabilities(queries, bias, range.clone()))?;
        tap(&fast::tensor(probabilities, (batch, self.heads, count, range.len()))?)?;
        fast::tensor(seen, (batch, count, channels))
    }
}

/// `softmax(q k^T / sqrt(width) + bias) v`, all `[batch, heads, tokens, width]`, with at most
/// `limit` scores at once.
fn attend(
    limit: usize,
    queries: &Tensor,
    keys: &Tensor,
    values: &Tensor,
    bias: Option<&Tensor>,
    columns: Option<Columns>,
) -> Result<Tensor> {
    let (batch, heads, count, width) = queries.dims4()?;
    let scale = 1.0 / (width as f64).sqrt();
    let dtype = queries.dtype();
    // What is shown is formed in f32, as the softmax always is.
    let scored = if columns.is_some() { DType::F32 } else { dtype };
    let keys = keys.to_dtype(scored)?.t()?;
    let tokens = keys.dim(D::Minus1)?;
    let bias = match bias {
        Some(bias) => Some(bias.to_dtype(DType::F32)?.reshape((batch, 1, 1, tokens))?),
        None => None,
    };
    let chunk = (limit / (batch * heads * tokens).max(1)).clamp(1, count.max(1));
    let (mut seen, mut shown) = (Vec::new(), Vec::new());
    for start in (0..count).step_by(chunk) {
        let some = queries.narrow(2, start, chunk.min(count - start))?.contiguous()?;
        let mut scores = (some.to_dtype(scored)? * scale)?.matmul(&keys)?.to_dtype(DType::F32)?;
        if let Some(bias) = &bias {
            scores = scores.broadcast_add(bias)?;
        }
        let probabilities = candle_nn::ops::softmax_last_dim(&scores)?;
        if let Some((range, _)) = &columns {
            shown.push(probabilities.narrow(D::Minus1, range.start, range.len())?.contiguous()?);
        }
        seen.push(probabilities.to_dtype(dtype)?.matmul(values)?);
    }
    if let Some((_, tap)) = columns {
        tap(&Tensor::cat(&shown, 2)?)?;
    }
    Ok(Tensor::cat(&seen, 2)?)
}

/// How many scores exist at once: 64 MiB of them on a CPU, 1 GiB elsewhere.
fn scores_at_once(queries: &Tensor) -> usize {
    if queries.device().is_cpu() { 1 << 24 } else { 1 << 28 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::layers::MemoryOrder;
    use candle_core::Device;
    use candle_nn::VarBuilder;

    fn off(a: &Tensor, b: &Tensor) -> f32 {
        assert_eq!(a.dims(), b.dims());
        (a - b).unwrap().abs().unwrap().max_all().unwrap().to_scalar().unwrap()
    }

    #[test]
    fn columns_are_those_of_the_whole_softmax_in_every_form() {
        let random = |tokens| Tensor::randn(0f32, 1.0, (2, tokens, 12), &Device::Cpu).unwrap();
        let (queries, keys, values) = (random(11), random(19), random(19));
        let bias = Tensor::randn(0f32, 1.0, (2, 19), &Device::Cpu).unwrap();
        let heads = |x: &Tensor| split_heads(x, 3).unwrap();
        for bias in [None, Some(&bias)] {
            let mut scores = (heads(&queries).matmul(&heads(&keys).t().unwrap()).unwrap() / 2.0).unwrap();
            if let Some(bias) = bias {
                scores = scores.broadcast_add(&bias.reshape((2, 1, 1, 19)).unwrap()).unwrap();
            }
            let probabilities = candle_nn::ops::softmax_last_dim(&scores).unwrap();
            let truth = merge_heads(&probabilities.matmul(&heads(&values)).unwrap()).unwrap();
            let columns = probabilities.narrow(3, 13, 6).unwrap();
            for layout in [MemoryOrder::Nchw, MemoryOrder::Nhwc] {
                let weights = VarBuilder::zeros(DType::F32, &Device::Cpu);
                let attention = JointAttention::new(3, &Builder::with_layout(weights, layout));
                let packed = attention.keys(&keys, &values).unwrap();
                let mut shown = None;
                let mut tap = |seen: &Tensor| {
                    shown = Some(seen.clone());
                    Ok(())
                };
                let seen = attention.attend(&queries, &packed, bias, Some((13..19, &mut tap))).unwrap();
                assert!(off(&seen, &truth) < 1e-5 && off(&shown.unwrap(), &columns) < 1e-6, "{layout:?}");
                let unseen = attention.attend(&queries, &packed, bias, None).unwrap();
                assert!(off(&unseen, &truth) < 1e-5, "{layout:?}");
            }
            // A few queries at a time.
            let mut tap = |seen: &Tensor| {
                assert!(off(seen, &columns) < 1e-6);
                Ok(())
            };
            let (q, k, v) = (heads(&queries), heads(&keys), heads(&values));
            let parts = attend(2 * 3 * 19 * 4, &q, &k, &v, bias, Some((13..19, &mut tap))).unwrap();
            assert!(off(&merge_heads(&parts).unwrap(), &truth) < 1e-5);
        }
    }
}
