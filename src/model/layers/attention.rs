//! Multi-head attention: probabilities formed only for whoever asked.

use super::builder::{Builder, MemoryOrder};
use super::fast;
use super::linear::Linear;
use super::tracked;
use crate::kernels::attention::PackedKeys;
use crate::kernels::gemm::Format;
use crate::{Error, Result};
use candle_core::{D, DType, Device, Tensor};
use candle_nn::VarBuilder;
use std::collections::HashMap;
use std::sync::Arc;

/// Someone who is shown the probabilities, f32 `[batch, heads, queries, keys]`, of one attention.
pub type Tap<'a> = &'a mut dyn FnMut(&Tensor) -> Result<()>;

/// Multi-head attention of tokens to a context (diffusers `Attention`: `to_q`, `to_k`, `to_v`,
/// `to_out.0`).
#[derive(Debug, Clone)]
pub struct Attention {
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: Linear,
    heads: usize,
    upcast: bool,
    fast: bool,
    /// Storage format of self-attention keys. Prompt keys are always f32, because their
    /// probabilities are shown.
    format: Format,
    widths: Widths,
}

/// The sizes that an [`Attention`] was made with.
#[derive(Debug, Clone, Copy)]
struct Widths {
    channels: usize,
    context: usize,
    bias: bool,
}

/// Gives so many standard normal numbers.
pub type Draw<'a> = &'a mut dyn FnMut(usize) -> Vec<f32>;

/// Keys and values of a context, split into heads: computed once for a prompt, used at every step.
#[derive(Debug, Clone)]
pub struct KeysValues(KeysValuesForm);

#[derive(Debug, Clone)]
enum KeysValuesForm {
    Plain { keys: Tensor, values: Tensor },
    Fast(Arc<PackedKeys>),
}

impl KeysValues {
    /// The keys, f32 `[batch, heads, tokens, head_dim]`, not scaled.
    ///
    /// # Errors
    /// Those of the tensors.
    pub fn keys(&self) -> Result<Tensor> {
        match &self.0 {
            KeysValuesForm::Plain { keys, .. } => Ok(keys.to_dtype(DType::F32)?),
            KeysValuesForm::Fast(context) => {
                let shape = (context.batch(), context.heads(), context.tokens(), context.width());
                fast::tensor(context.keys(), shape)
            }
        }
    }

    /// The same keys, and values times `weights` (f32, `[batch, tokens]`).
    ///
    /// # Errors
    /// When the shapes do not meet.
    pub fn weighted(&self, weights: &Tensor) -> Result<Self> {
        let (batch, tokens) = weights.dims2()?;
        Ok(Self(match &self.0 {
            KeysValuesForm::Plain { keys, values } => {
                let weights = weights.to_device(values.device())?.to_dtype(values.dtype())?;
                let values = values.broadcast_mul(&weights.reshape((batch, 1, tokens, 1))?)?;
                KeysValuesForm::Plain { keys: keys.clone(), values }
            }
            KeysValuesForm::Fast(context) => {
                if (batch, tokens) != (context.batch(), context.tokens()) {
                    let reason = format!("weights of {batch} rows and {tokens} tokens for another prompt");
                    return Err(Error::bug(reason));
                }
                KeysValuesForm::Fast(Arc::new(context.weighted(&weights.flatten_all()?.to_vec1::<f32>()?)))
            }
        }))
    }
}

impl Attention {
    /// `channels` of the queries and the output, `context` channels of what is attended to; `bias`
    /// on the three input projections. `upcast` forms the scores in f32 whatever the dtype.
    ///
    /// # Errors
    /// When the weights are not there in these shapes.
    pub fn new(channels: usize, context: usize, heads: usize, bias: bool, upcast: bool, b: &Builder) -> Result<Self> {
        let input = |width, name| {
            if bias {
                Linear::new(width, channels, &b.pp(name))
            } else {
                Linear::without_bias(width, channels, &b.pp(name))
            }
        };
        Ok(Self {
            to_q: input(channels, "to_q")?,
            to_k: input(context, "to_k")?,
            to_v: input(context, "to_v")?,
            to_out: Linear::new(channels, channels, &b.pp("to_out").pp(0))?,
            heads,
            upcast,
            fast: fast::applies(b.layout(), b.device()),
            format: if upcast { Format::F32 } else { b.format() },
            widths: Widths { channels, context, bias },
        })
    }

    /// Re-initialises weights and biases: N(0, 1/(3 * inputs)), the variance of
    /// `torch.nn.Linear.reset_parameters`, which draws them uniformly.
    ///
    /// # Errors
    /// Those of the tensors.
    pub fn redraw(&mut self, draw: Draw, layout: MemoryOrder, dtype: DType, device: &Device) -> Result<()> {
        let Widths { channels, context, bias } = self.widths;
        let mut weights = HashMap::new();
        for (name, input) in [("to_q", channels), ("to_k", context), ("to_v", context), ("to_out.0", channels)] {
            let deviation = 1.0 / (3.0 * input as f32).sqrt();
            let mut drawn = |name: String, shape: &[usize]| -> Result<()> {
                let values: Vec<f32> =
                    draw(shape.iter().product()).into_iter().map(|value| value * deviation).collect();
                weights.insert(name, Tensor::from_vec(values, shape, device)?);
                Ok(())
            };
            drawn(format!("{name}.weight"), &[channels, input])?;
            if bias || name == "to_out.0" {
                drawn(format!("{name}.bias"), &[channels])?;
            }
        }
        let b = Builder::with_layout(VarBuilder::from_tensors(weights, dtype, device), layout);
        *self = Self::new(channels, context, self.heads, bias, self.upcast, &b)?;
        Ok(())
    }

    /// Keys and values of `context` `[batch, keys, width]`.
    ///
    /// # Errors
    /// When the width is not the layer's.
    pub fn keys_values(&self, context: &Tensor) -> Result<KeysValues> {
        self.keys_values_as(Format::F32, context)
    }

    fn keys_values_as(&self, format: Format, context: &Tensor) -> Result<KeysValues> {
        let (keys, values) = (self.to_k.forward(context)?, self.to_v.forward(context)?);
        Ok(KeysValues(if self.fast {
            let (batch, tokens, _) = keys.dims3()?;
            let packed =
                |[keys, values]: [&[f32]; 2]| PackedKeys::new_as(format, keys, values, batch, tokens, self.heads);
            KeysValuesForm::Fast(Arc::new(fast::read([&keys, &values], packed)?))
        } else {
            KeysValuesForm::Plain { keys: split_heads(&keys, self.heads)?, values: split_heads(&values, self.heads)? }
        }))
    }

    /// `x` `[batch, queries, channels]` attending to `context`, plus `residual` of the same shape.
    ///
    /// `bias` is added to the scores before the softmax: f32, of a shape that broadcasts to
    /// `[batch, heads, queries, keys]`.
    ///
    /// # Errors
    /// When shapes do not meet, or the tap's own.
    pub fn forward(
        &self,
        x: &Tensor,
        context: &KeysValues,
        bias: Option<&Tensor>,
        tap: Option<Tap>,
        residual: &Tensor,
    ) -> Result<Tensor> {
        let queries = self.to_q.forward(x)?;
        let seen = match &context.0 {
            KeysValuesForm::Fast(context) => self.attend_fast(&queries, context, bias, tap)?,
            KeysValuesForm::Plain { keys, values } => {
                merge_heads(&attend(&split_heads(&queries, self.heads)?, keys, values, bias, self.upcast, tap)?)?
            }
        };
        self.to_out.forward_plus(&seen, residual)
    }

    /// The queries of `x` `[batch, queries, channels]`, `[batch, heads, queries, head_dim]`, not
    /// scaled.
    ///
    /// # Errors
    /// When shapes do not meet.
    pub fn queries(&self, x: &Tensor) -> Result<Tensor> {
        split_heads(&self.to_q.forward(x)?, self.heads)
    }

    /// What each head gives to the output for `x` `[batch, queries, channels]` attending to
    /// `context`. It is the product of its part and the whole, divided by the sum over the heads,
    /// as f32 `[batch, heads, queries]`. It is below 0 where a head works against the others. The
    /// output's bias is no head's.
    ///
    /// # Errors
    /// When shapes do not meet.
    pub fn head_shares(&self, x: &Tensor, context: &KeysValues, bias: Option<&Tensor>) -> Result<Tensor> {
        let queries = self.to_q.forward(x)?;
        let seen = match &context.0 {
            KeysValuesForm::Fast(context) => self.attend_fast(&queries, context, bias, None)?,
            KeysValuesForm::Plain { keys, values } => {
                merge_heads(&attend(&split_heads(&queries, self.heads)?, keys, values, bias, self.upcast, None)?)?
            }
        };
        let (batch, count, channels) = seen.dims3()?;
        let width = channels / self.heads;
        let none = self.to_out.forward(&Tensor::zeros((1, 1, channels), seen.dtype(), seen.device())?)?;
        let none = none.to_dtype(DType::F32)?;
        let part = |head: usize| -> Result<Tensor> {
            let own = seen.narrow(2, head * width, width)?;
            let zeros = |channels| Tensor::zeros((batch, count, channels), seen.dtype(), seen.device());
            let alone = Tensor::cat(&[&zeros(head * width)?, &own, &zeros(channels - (head + 1) * width)?], 2)?;
            Ok(self.to_out.forward(&alone.contiguous()?)?.to_dtype(DType::F32)?.broadcast_sub(&none)?)
        };
        let parts = (0..self.heads).map(part).collect::<Result<Vec<_>>>()?;
        let mut whole = parts[0].clone();
        for part in &parts[1..] {
            whole = (whole + part)?;
        }
        let products = parts.iter().map(|part| Ok((part * &whole)?.sum(D::Minus1)?)).collect::<Result<Vec<_>>>()?;
        let products = Tensor::stack(&products, 1)?;
        // The sum of the products is the square of the whole.
        let square = products.sum_keepdim(1)?.maximum(f64::from(f32::MIN_POSITIVE))?;
        Ok(products.broadcast_div(&square)?)
    }

    /// The probabilities with which `x` `[batch, queries, channels]` attends to each of `contexts`,
    /// with its bias. One f32 `[batch, heads, queries, keys]` per context. Only the looking is
    /// computed; what would be seen goes nowhere.
    ///
    /// # Errors
    /// When shapes do not meet.
    pub fn probabilities(&self, x: &Tensor, contexts: &[(&KeysValues, Option<&Tensor>)]) -> Result<Vec<Tensor>> {
        let queries = self.to_q.forward(x)?;
        let mut told = Vec::with_capacity(contexts.len());
        for (context, bias) in contexts {
            let mut tap = |probabilities: &Tensor| {
                told.push(probabilities.clone());
                Ok(())
            };
            match &context.0 {
                KeysValuesForm::Fast(context) => drop(self.attend_fast(&queries, context, *bias, Some(&mut tap))?),
                KeysValuesForm::Plain { keys, values } => {
                    let queries = split_heads(&queries, self.heads)?;
                    drop(attend(&queries, keys, values, *bias, self.upcast, Some(&mut tap))?);
                }
            }
        }
        Ok(told)
    }

    fn attend_fast(
        &self,
        queries: &Tensor,
        keys: &PackedKeys,
        bias: Option<&Tensor>,
        tap: Option<Tap>,
    ) -> Result<Tensor> {
        let (batch, count, channels) = queries.dims3()?;
        let tokens = keys.tokens();
        if batch != keys.batch() || channels != keys.channels() {
            return Err(fast::mismatch("an attention", keys.channels(), queries));
        }
        let bias = match bias {
            Some(bias) => Some(fast::to_vec(&bias.broadcast_as((batch, 1, 1, tokens))?)?),
            None => None,
        };
        let bias = bias.as_deref();
        let Some(tap) = tap else {
            let seen = fast::read([queries], |[queries]| keys.attend(queries, bias))?;
            return fast::tensor(seen, (batch, count, channels));
        };
        let (seen, probabilities) =
            fast::read([queries], |[queries]| keys.attend_with_probabilities(queries, bias, 0..tokens))?;
        tap(&fast::tensor(probabilities, (batch, self.heads, count, tokens))?)?;
        fast::tensor(seen, (batch, count, channels))
    }

    /// `x` `[batch, queries, channels]` attending to itself, plus `residual` of the same shape.
    ///
    /// # Errors
    /// When shapes do not meet, or the tap's own.
    pub fn forward_self(&self, x: &Tensor, tap: Option<Tap>, residual: &Tensor) -> Result<Tensor> {
        self.forward(x, &self.keys_values_as(self.format, x)?, None, tap, residual)
    }
}

/// `[batch, tokens, heads * width]` to `[batch, heads, tokens, width]`, contiguous.
///
/// # Errors
/// When `heads` does not divide the channels.
pub fn split_heads(x: &Tensor, heads: usize) -> Result<Tensor> {
    let (batch, tokens, channels) = x.dims3()?;
    Ok(x.reshape((batch, tokens, heads, channels / heads))?.transpose(1, 2)?.contiguous()?)
}

/// `[batch, heads, tokens, width]` to `[batch, tokens, heads * width]`.
///
/// # Errors
/// When `x` has not four dimensions.
pub fn merge_heads(x: &Tensor) -> Result<Tensor> {
    let (batch, heads, tokens, width) = x.dims4()?;
    Ok(x.transpose(1, 2)?.reshape((batch, tokens, heads * width))?)
}

/// `softmax(q k^T / sqrt(width) + bias) v`, all `[batch, heads, tokens, width]`.
///
/// With a `tap` the probabilities of all queries are formed in f32 and shown to it. Without one,
/// some queries at a time are computed, so that memory stays bounded however large the grid.
/// `upcast` forms the scores in f32 in any case.
///
/// # Errors
/// When shapes do not meet, or the tap's own.
pub fn attend(
    queries: &Tensor,
    keys: &Tensor,
    values: &Tensor,
    bias: Option<&Tensor>,
    upcast: bool,
    tap: Option<Tap>,
) -> Result<Tensor> {
    attend_within(scores_at_once(queries.device()), queries, keys, values, bias, upcast, tap)
}

/// [`attend`] with at most `limit` scores at once where there is no tap.
fn attend_within(
    limit: usize,
    queries: &Tensor,
    keys: &Tensor,
    values: &Tensor,
    bias: Option<&Tensor>,
    upcast: bool,
    tap: Option<Tap>,
) -> Result<Tensor> {
    let (batch, heads, count, width) = queries.dims4()?;
    let scale = 1.0 / (width as f64).sqrt();
    let dtype = queries.dtype();
    let scored = if upcast || tap.is_some() { DType::F32 } else { dtype };
    let keys = keys.to_dtype(scored)?.t()?;
    let probabilities = |queries: &Tensor, bias: Option<&Tensor>| -> Result<Tensor> {
        let scores = (queries.to_dtype(scored)? * scale)?.matmul(&keys)?.to_dtype(DType::F32)?;
        let scores = match bias {
            Some(bias) => scores.broadcast_add(bias)?,
            None => scores,
        };
        Ok(tracked::softmax(&scores)?)
    };
    if let Some(tap) = tap {
        let probabilities = probabilities(queries, bias)?;
        tap(&probabilities)?;
        return Ok(probabilities.to_dtype(dtype)?.matmul(values)?);
    }
    let row = batch * heads * keys.dim(D::Minus1)?;
    let chunk = (limit / row.max(1)).clamp(1, count.max(1));
    if chunk >= count {
        return Ok(probabilities(queries, bias)?.to_dtype(dtype)?.matmul(values)?);
    }
    let mut parts = Vec::with_capacity(count.div_ceil(chunk));
    for start in (0..count).step_by(chunk) {
        let length = chunk.min(count - start);
        let bias = match bias {
            Some(bias) if bias.dim(2)? > 1 => Some(bias.narrow(2, start, length)?),
            other => other.cloned(),
        };
        let some = queries.narrow(2, start, length)?.contiguous()?;
        parts.push(probabilities(&some, bias.as_ref())?.to_dtype(dtype)?.matmul(values)?);
    }
    Ok(Tensor::cat(&parts, 2)?)
}

/// How many scores [`attend`] keeps at once: 64 MiB of them on a CPU, 1 GiB elsewhere.
fn scores_at_once(device: &Device) -> usize {
    if device.is_cpu() { 1 << 24 } else { 1 << 28 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(shape: (usize, usize, usize, usize)) -> Tensor {
        Tensor::randn(0f32, 1.0, shape, &Device::Cpu).unwrap()
    }

    fn largest_difference(a: &Tensor, b: &Tensor) -> f32 {
        (a - b).unwrap().abs().unwrap().max_all().unwrap().to_scalar().unwrap()
    }

    #[test]
    fn some_queries_at_a_time_give_what_all_at_once_give() {
        let (queries, keys, values) = (random((2, 3, 11, 4)), random((2, 3, 5, 4)), random((2, 3, 5, 6)));
        for bias in [None, Some(random((2, 1, 1, 5))), Some(random((1, 1, 11, 5)))] {
            let mut shown = Vec::new();
            let mut tap = |probabilities: &Tensor| {
                shown.push(probabilities.clone());
                Ok(())
            };
            let whole = attend(&queries, &keys, &values, bias.as_ref(), false, Some(&mut tap)).unwrap();
            assert_eq!(shown.len(), 1);
            assert!(largest_difference(&shown[0].matmul(&values).unwrap(), &whole) < 1e-6);
            // One query at a time, three, and all.
            for limit in [0, 3 * 2 * 3 * 5, 1 << 20] {
                let parts = attend_within(limit, &queries, &keys, &values, bias.as_ref(), false, None).unwrap();
                assert!(largest_difference(&parts, &whole) < 1e-6);
            }
        }
    }

    #[test]
    fn heads_are_neighbouring_channels() {
        let x = Tensor::arange(0f32, 24.0, &Device::Cpu).unwrap().reshape((1, 3, 8)).unwrap();
        let split = split_heads(&x, 2).unwrap();
        assert_eq!(split.dims(), [1, 2, 3, 4]);
        let second_head = split.get(0).unwrap().get(1).unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(second_head, [[4.0, 5.0, 6.0, 7.0], [12.0, 13.0, 14.0, 15.0], [20.0, 21.0, 22.0, 23.0]]);
        assert_eq!(largest_difference(&merge_heads(&split).unwrap(), &x), 0.0);
    }
}
