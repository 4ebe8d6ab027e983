//! Where a tensor lies in its file: as a whole, as some rows of another, or turned.

use super::convert;
use super::entry::Entry;
use super::problem::Problem;
use candle_core::{DType, Device, Shape, Tensor};
use std::ops::Range;

/// Where a tensor lies.
#[derive(Debug, Clone)]
pub(crate) struct TensorLocation {
    /// Index into the files.
    pub(super) file: usize,
    /// The name in that file.
    pub(super) name: String,
    /// Which rows of that tensor's first axis, where it is not all.
    rows: Option<RowSelection>,
    /// Whether the file has its two axes the other way round.
    transposed: bool,
    /// Whether the file has the two halves of its first axis the other way round.
    swapped: bool,
}

/// Some rows of a tensor's first axis.
#[derive(Debug, Clone, PartialEq)]
enum RowSelection {
    /// The third with this index, from 0.
    Third(usize),
    /// These.
    Range(Range<usize>),
}

impl TensorLocation {
    /// The whole tensor `name` of the file with this index.
    pub(crate) fn new(file: usize, name: &str) -> Self {
        Self { file, name: name.into(), rows: None, transposed: false, swapped: false }
    }

    /// Third `index` (from 0) of its first axis, if one is named.
    pub(crate) fn third(self, index: Option<usize>) -> Self {
        Self { rows: index.map(RowSelection::Third), ..self }
    }

    /// These rows of its first axis.
    pub(crate) fn rows(self, rows: Range<usize>) -> Self {
        Self { rows: Some(RowSelection::Range(rows)), ..self }
    }

    /// With its two axes the other way round, if so.
    pub(crate) fn transposed(self, transposed: bool) -> Self {
        Self { transposed, ..self }
    }

    /// With the halves of its first axis the other way round, if so.
    pub(crate) fn swapped(self, swapped: bool) -> Self {
        Self { swapped, ..self }
    }

    /// Whether the elements lie in the file as they are wanted.
    pub(super) fn in_order(&self) -> bool {
        !self.transposed && !self.swapped
    }

    /// The rows that are meant of a tensor that has so many.
    fn range(&self, count: usize) -> Range<usize> {
        match &self.rows {
            None => 0..count,
            Some(RowSelection::Third(index)) => index * (count / 3)..(index + 1) * (count / 3),
            Some(RowSelection::Range(range)) => range.start.min(count)..range.end.min(count),
        }
    }

    /// The shape of this part of a tensor that has shape `whole`.
    pub(super) fn shape(&self, whole: &[usize]) -> Vec<usize> {
        let mut shape = whole.to_vec();
        if let Some(rows) = shape.first_mut() {
            *rows = self.range(*rows).len();
        }
        if self.transposed {
            shape.reverse();
        }
        shape
    }

    /// The tensor of `shape` in a whole that has these bytes.
    pub(super) fn read(
        &self,
        whole: &[u8],
        entry: &Entry,
        shape: Shape,
        dtype: DType,
        device: &Device,
    ) -> Result<Tensor, Problem> {
        let Some(bytes) = self.bytes(whole, &entry.shape) else {
            return Err(Problem::Content(format!("has shape {:?}, which has no such rows", entry.shape)));
        };
        let scale = match entry.scale.len() {
            0 | 1 => &entry.scale[..],
            count => &entry.scale[self.range(count)],
        };
        if self.in_order() {
            return convert::to_tensor(bytes, entry.encoding, scale, shape, dtype, device);
        }
        let mut dims = shape.dims().to_vec();
        if self.transposed {
            dims.reverse();
        }
        let tensor = convert::to_tensor(bytes, entry.encoding, scale, Shape::from(dims), dtype, device)?;
        let tensor = if self.transposed { tensor.t()?.contiguous()? } else { tensor };
        if !self.swapped {
            return Ok(tensor);
        }
        let halves = tensor.chunk(2, 0)?;
        Ok(Tensor::cat(&halves.iter().rev().collect::<Vec<_>>(), 0)?)
    }

    /// The shape that the file's tensor would have if this part of it had `shape`.
    pub(super) fn shape_in_file(&self, shape: &[usize]) -> Vec<usize> {
        let mut whole = shape.to_vec();
        if self.transposed {
            whole.reverse();
        }
        if let (Some(RowSelection::Third(_)), Some(rows)) = (&self.rows, whole.first_mut()) {
            *rows *= 3;
        }
        whole
    }

    /// The bytes of this part of a tensor with these bytes and this shape; `None` where its rows
    /// are no equal shares of the bytes.
    pub(super) fn bytes<'a>(&self, whole: &'a [u8], shape: &[usize]) -> Option<&'a [u8]> {
        if self.rows.is_none() {
            return Some(whole);
        }
        let count = shape.first().copied().unwrap_or(1).max(1);
        let row = whole.len() / count;
        let range = self.range(count);
        if row * count != whole.len() {
            return None;
        }
        whole.get(range.start * row..range.end * row)
    }
}

#[cfg(test)]
mod tests {
    use super::super::entry::Encoding;
    use super::*;
    use safetensors::Dtype;

    #[test]
    fn rows_thirds_and_halves_are_found() {
        let values: Vec<u8> = (0..12u8).flat_map(|value| f32::from(value).to_le_bytes()).collect();
        let entry = Entry { encoding: Encoding::Plain(Dtype::F32), shape: vec![6, 2], range: 0..48, scale: Vec::new() };
        let read = |place: TensorLocation| {
            let shape = Shape::from(place.shape(&entry.shape));
            let tensor = place.read(&values, &entry, shape, DType::F32, &Device::Cpu);
            tensor.unwrap_or_else(|_| panic!("{place:?}")).flatten_all().unwrap().to_vec1::<f32>().unwrap()
        };
        let whole = || TensorLocation::new(0, "a");
        assert_eq!(read(whole().third(Some(1))), [4.0, 5.0, 6.0, 7.0]);
        assert_eq!(read(whole().rows(5..6)), [10.0, 11.0]);
        assert_eq!(read(whole().swapped(true))[..8], [6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 0.0, 1.0]);
        assert_eq!(read(whole().transposed(true))[..7], [0.0, 2.0, 4.0, 6.0, 8.0, 10.0, 1.0]);
        assert_eq!(whole().rows(5..9).shape(&[6, 2]), [1, 2]);
    }

    #[test]
    fn each_row_has_its_factor() {
        let bytes = [0x38u8, 0x40, 0x38, 0x40]; // 1, 2 in e4m3
        let encoding = Encoding::Plain(Dtype::F8_E4M3);
        for (scale, expected) in [(vec![3.0], [3.0, 6.0]), (vec![3.0, 0.5], [0.5, 1.0])] {
            let entry = Entry { encoding, shape: vec![2, 2], range: 0..4, scale };
            let place = TensorLocation::new(0, "a").rows(1..2);
            let tensor = place.read(&bytes, &entry, Shape::from((1, 2)), DType::F32, &Device::Cpu);
            let tensor = tensor.unwrap_or_else(|_| panic!("not read"));
            assert_eq!(tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap(), expected);
        }
    }
}
