//! Changes that are made to tensors as they are read: a LoRA's product is added, an embedding's
//! rows are put below.

use super::convert::to_tensor;
use super::file::WeightFile;
use super::problem::Problem;
use crate::argument::DTYPE;
use candle_core::{DType, Device, Shape, Tensor};
use std::sync::Arc;

/// A change to one tensor.
#[derive(Debug, Clone)]
pub(crate) enum TensorChange {
    /// `W + scale * up (mid) down` (Hu et al. 2021; with `mid` in LyCORIS' Tucker form).
    LowRank(LowRank),
    /// More rows below the table's own.
    Rows(Rows),
}

/// The factors of a LoRA for one layer, where they lie in its file.
#[derive(Debug, Clone)]
pub(crate) struct LowRank {
    /// The LoRA.
    pub(crate) file: Arc<WeightFile>,
    /// Names in it: up `[out, rank]`, down `[rank, in, ...]` and, in Tucker form, the core `[rank,
    /// rank, ...]`.
    pub(crate) up: String,
    pub(crate) down: String,
    pub(crate) mid: Option<String>,
    /// The user's weight times alpha over rank.
    pub(crate) scale: f64,
    /// Which rows of `up` the layer takes, where the file's layer is several in one.
    pub(crate) rows: Option<RowsOf>,
    /// Whether the halves of the rows of `up` have changed places.
    pub(crate) swapped: bool,
}

/// Rows of a tensor in which several lie one below the other, in equal shares of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RowsOf {
    /// The first share.
    pub(crate) first: usize,
    /// How many shares.
    pub(crate) count: usize,
    /// Of how many.
    pub(crate) of: usize,
}

impl RowsOf {
    /// The third with this index, from 0.
    pub(crate) fn third(index: usize) -> Self {
        Self { first: index, count: 1, of: 3 }
    }
}

/// Rows of an embedding.
#[derive(Debug, Clone)]
pub(crate) struct Rows {
    /// The file that they lie in.
    pub(crate) file: Arc<WeightFile>,
    /// Their name in it; `[width]` for one row, `[rows, width]` for more.
    pub(crate) name: String,
    /// How many.
    pub(crate) count: usize,
}

/// `base` after `changes`, as `wanted` asks for it; the error says so where the changes made
/// numbers that are not finite.
pub(super) fn apply_all(
    base: Tensor,
    changes: &[TensorChange],
    wanted: Shape,
    dtype: DType,
    device: &Device,
) -> Result<Tensor, Problem> {
    let changed = changes.iter().try_fold(base, |tensor, change| change.apply(tensor))?;
    let changed = changed.reshape(wanted)?.to_dtype(dtype)?;
    let finite = changed.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?.iter().all(|value| value.is_finite());
    if !finite {
        return Err(Problem::Content(format!("is out of range once changed; lower the weight, or use {DTYPE} f32")));
    }
    Ok(changed.to_device(device)?)
}

impl TensorChange {
    /// The tensor after this change; f32 on the CPU, like `base`.
    pub(super) fn apply(&self, base: Tensor) -> Result<Tensor, Problem> {
        match self {
            Self::LowRank(low_rank) => Ok((&base + low_rank.delta(base.dims())?)?),
            Self::Rows(rows) => {
                let width = base.dim(1)?;
                let below = factor(&rows.file, &rows.name, &[rows.count, width])?;
                Ok(Tensor::cat(&[&base, &below], 0)?)
            }
        }
    }

    /// Rows that the tensor has more after this change.
    pub(super) fn added_rows(&self) -> usize {
        match self {
            Self::LowRank(_) => 0,
            Self::Rows(rows) => rows.count,
        }
    }

    /// Why this change does not fit a tensor of `shape`, if it does not.
    pub(crate) fn misfit(&self, shape: &[usize]) -> Option<String> {
        match self {
            Self::LowRank(low_rank) => low_rank.misfit(shape),
            Self::Rows(_) => None,
        }
    }
}

impl LowRank {
    fn shape(&self, name: &str) -> &[usize] {
        self.file.info(name).map_or(&[], |info| &info.shape)
    }

    fn misfit(&self, shape: &[usize]) -> Option<String> {
        let (up, down) = (self.shape(&self.up), self.shape(&self.down));
        let rank = down.first().copied().unwrap_or(0);
        let elements = |shape: &[usize]| shape.iter().product::<usize>();
        // Each row of `down` spans what one output channel sees; in Tucker form its kernel is the
        // core's.
        let kernel = self.mid.as_ref().map_or(1, |mid| self.shape(mid).iter().skip(2).product());
        let columns = elements(down).checked_div(rank).unwrap_or(0) * kernel;
        let rows = shape.first().map(|rows| self.rows.map_or(*rows, |own| rows * own.of / own.count));
        let fits = rank > 0
            && rows.is_some_and(|rows| elements(up) == rows * rank)
            && up.first().copied() == rows
            && shape[0] * columns == elements(shape)
            && self.mid.as_ref().is_none_or(|mid| self.shape(mid).starts_with(&[rank, rank]));
        let reason = || format!("is {up:?} times {down:?}, which does not make the layer's {shape:?}");
        (!fits).then(reason)
    }

    /// What is added to a tensor of `shape`.
    fn delta(&self, shape: &[usize]) -> Result<Tensor, Problem> {
        let down_shape = self.shape(&self.down);
        let (out, rank) = (shape[0], down_shape[0]);
        let up = match self.rows {
            Some(RowsOf { first, count, of }) => {
                let share = out / count;
                factor(&self.file, &self.up, &[of * share, rank])?.narrow(0, first * share, out)?
            }
            None => factor(&self.file, &self.up, &[out, rank])?,
        };
        let up = match self.swapped {
            true => Tensor::cat(&up.chunk(2, 0)?.iter().rev().collect::<Vec<_>>(), 0)?,
            false => up,
        };
        let down = factor(&self.file, &self.down, &[rank, down_shape.iter().skip(1).product()])?;
        let down = match &self.mid {
            None => down,
            Some(mid) => {
                // As A1111's `rebuild_cp_decomposition`: the core mixes rows of `down`, at each
                // place of the kernel on its own.
                let kernel = self.shape(mid).iter().skip(2).product::<usize>();
                let core = factor(&self.file, mid, &[rank, rank, kernel])?.permute((0, 2, 1))?.contiguous()?;
                let mixed = core.reshape((rank * kernel, rank))?.matmul(&down)?;
                mixed.reshape((rank, kernel, ()))?.permute((0, 2, 1))?.contiguous()?.flatten_from(1)?
            }
        };
        Ok((up.matmul(&down)? * self.scale)?.reshape(shape)?)
    }
}

fn factor(file: &WeightFile, name: &str, shape: &[usize]) -> Result<Tensor, Problem> {
    let Some((info, bytes)) = file.tensor(name) else {
        return Err(Problem::Content(format!("is changed by {}, which lacks {name}", file.path().display())));
    };
    to_tensor(bytes, info.encoding, &info.scale, Shape::from(shape), DType::F32, &Device::Cpu).map_err(|problem| {
        match problem {
            Problem::Content(reason) => {
                Problem::Content(format!("is changed by {}, whose tensor `{name}` {reason}", file.path().display()))
            }
            candle => candle,
        }
    })
}
