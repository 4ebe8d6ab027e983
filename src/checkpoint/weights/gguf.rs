//! The header of a GGUF file: names, shapes, kinds and places of its tensors.
//!
//! The layout is that of GGML's `docs/gguf.md`, versions 2 and 3. The reader of candle is not used
//! on files that strangers made. It divides by an alignment of 0, multiplies dimensions unchecked,
//! and keeps every element of every array of the metadata. Here nothing is kept that is not needed,
//! and nothing is believed that the length of the file does not bear out.

use super::entry::{Encoding, Entry};
use candle_core::quantized::GgmlDType;
use safetensors::Dtype;
use std::collections::BTreeMap;

/// What a file begins with.
pub(super) const MAGIC: &[u8] = b"GGUF";

/// Where tensors begin, unless the file says otherwise.
const ALIGNMENT: u64 = 32;
/// GGML has no tensors of more axes.
const MOST_AXES: u32 = 4;
/// Arrays of the metadata may hold arrays; nobody writes more than one in another.
const DEEPEST: usize = 4;
/// The longest text of the metadata that is kept.
const LONGEST_NOTE: usize = 256;

/// What the header says.
pub(super) struct Header {
    pub(super) entries: BTreeMap<String, Entry>,
    /// Short texts of the metadata.
    pub(super) notes: BTreeMap<String, String>,
}

/// Reads the header of the file `bytes`; the error reads on from the file's name.
pub(super) fn read(bytes: &[u8]) -> Result<Header, String> {
    let mut reader = HeaderReader { bytes, at: MAGIC.len() };
    let version = reader.u32()?;
    if ![2, 3].contains(&version) {
        let order = if version.swap_bytes() <= 3 { ", in big-endian order" } else { "" };
        return Err(format!(
            "is GGUF of version {version}{order}; only versions 2 and 3 in little-endian order are read"
        ));
    }
    let (tensors, pairs) = (reader.u64()?, reader.u64()?);
    let mut alignment = ALIGNMENT;
    let mut notes = BTreeMap::new();
    for _ in 0..pairs {
        let key = reader.text()?;
        match (key, reader.value()?) {
            ("general.alignment", Value::Integer(own)) => alignment = own,
            (key, Value::Text(text)) if text.len() <= LONGEST_NOTE => drop(notes.insert(key.into(), text.into())),
            _ => {}
        }
    }
    if !alignment.is_power_of_two() || !(8..=1 << 20).contains(&alignment) {
        return Err(format!("has an alignment of {alignment}, which is no power of two from 8 on; fetch it again"));
    }
    let mut found: Vec<(String, Encoding, Vec<usize>, u64)> = Vec::new();
    for _ in 0..tensors {
        let name = reader.text()?;
        found.push(reader.tensor(name)?);
    }
    let data = (reader.at as u64).checked_next_multiple_of(alignment).ok_or("is damaged; fetch it again")?;
    let mut entries = BTreeMap::new();
    for (name, encoding, shape, offset) in found {
        if !offset.is_multiple_of(alignment) {
            return Err(format!(
                "has tensor `{name}` at {offset}, which is no multiple of {alignment}; fetch it again"
            ));
        }
        let size = size(encoding, &shape)
            .ok_or_else(|| format!("has tensor `{name}` of shape {shape:?}, which {} cannot be", encoding.name()))?;
        let start = data.checked_add(offset).and_then(|start| usize::try_from(start).ok());
        let range = start.and_then(|start| Some(start..start.checked_add(size)?));
        let Some(range) = range.filter(|range| range.end <= bytes.len()) else {
            return Err(format!(
                "is truncated ({} bytes, and tensor `{name}` ends beyond them); fetch it again",
                bytes.len()
            ));
        };
        if entries.insert(name.clone(), Entry { encoding, shape, range, scale: Vec::new() }).is_some() {
            return Err(format!("has tensor `{name}` twice; fetch it again"));
        }
    }
    Ok(Header { entries, notes })
}

/// Bytes of a tensor; `None` where its rows are no whole blocks, or where no memory is that large.
fn size(encoding: Encoding, shape: &[usize]) -> Option<usize> {
    let elements = shape.iter().try_fold(1usize, |all, side| all.checked_mul(*side))?;
    match encoding {
        Encoding::Plain(dtype) => elements.checked_mul(dtype.bitsize() / 8),
        Encoding::Blocks(kind) => {
            let row = shape.last().copied().unwrap_or(1);
            if !row.is_multiple_of(kind.block_size()) {
                return None;
            }
            (elements / kind.block_size()).checked_mul(kind.type_size())
        }
    }
}

/// The kind of numbers that GGML's `ggml_type` stands for; the error is the name of one that is
/// not read.
fn encoding(number: u32) -> Result<Encoding, String> {
    let blocks = |kind| Ok(Encoding::Blocks(kind));
    match number {
        0 => Ok(Encoding::Plain(Dtype::F32)),
        1 => Ok(Encoding::Plain(Dtype::F16)),
        2 => blocks(GgmlDType::Q4_0),
        3 => blocks(GgmlDType::Q4_1),
        6 => blocks(GgmlDType::Q5_0),
        7 => blocks(GgmlDType::Q5_1),
        8 => blocks(GgmlDType::Q8_0),
        9 => blocks(GgmlDType::Q8_1),
        10 => blocks(GgmlDType::Q2K),
        11 => blocks(GgmlDType::Q3K),
        12 => blocks(GgmlDType::Q4K),
        13 => blocks(GgmlDType::Q5K),
        14 => blocks(GgmlDType::Q6K),
        15 => blocks(GgmlDType::Q8K),
        28 => Ok(Encoding::Plain(Dtype::F64)),
        30 => Ok(Encoding::Plain(Dtype::BF16)),
        16 => Err("IQ2_XXS".into()),
        17 => Err("IQ2_XS".into()),
        18 => Err("IQ3_XXS".into()),
        19 => Err("IQ1_S".into()),
        20 => Err("IQ4_NL".into()),
        21 => Err("IQ3_S".into()),
        22 => Err("IQ2_S".into()),
        23 => Err("IQ4_XS".into()),
        24..=27 => Err("integers".into()),
        29 => Err("IQ1_M".into()),
        34 => Err("TQ1_0".into()),
        35 => Err("TQ2_0".into()),
        39 => Err("MXFP4".into()),
        other => Err(format!("kind {other}")),
    }
}

/// A value of the metadata, as far as one is of use here.
enum Value<'a> {
    Integer(u64),
    Text(&'a str),
    Other,
}

/// Goes through the header; each step checks that the file has that many bytes.
struct HeaderReader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> HeaderReader<'a> {
    fn take(&mut self, count: u64) -> Result<&'a [u8], String> {
        let end = usize::try_from(count).ok().and_then(|count| self.at.checked_add(count));
        let taken = end.and_then(|end| self.bytes.get(self.at..end));
        let taken = taken.ok_or_else(|| {
            format!("is truncated ({} bytes end within its header); fetch it again", self.bytes.len())
        })?;
        self.at += taken.len();
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N as u64)?);
        Ok(array)
    }

    fn u32(&mut self) -> Result<u32, String> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, String> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn text(&mut self) -> Result<&'a str, String> {
        let length = self.u64()?;
        let text = self.take(length)?;
        std::str::from_utf8(text).map_err(|_| "has a name that is no UTF-8 text; fetch it again".into())
    }

    /// A value with its kind in front.
    fn value(&mut self) -> Result<Value<'a>, String> {
        let kind = self.u32()?;
        match kind {
            // A text of the metadata may be anything; one that is no UTF-8 is of no use.
            8 => {
                let length = self.u64()?;
                Ok(std::str::from_utf8(self.take(length)?).map_or(Value::Other, Value::Text))
            }
            9 => self.skip_array(0).map(|()| Value::Other),
            4 => Ok(Value::Integer(self.u32()?.into())),
            10 => Ok(Value::Integer(self.u64()?)),
            kind => {
                self.take(width(kind)?)?;
                Ok(Value::Other)
            }
        }
    }

    fn skip_array(&mut self, depth: usize) -> Result<(), String> {
        let (kind, count) = (self.u32()?, self.u64()?);
        match kind {
            8 => {
                for _ in 0..count {
                    let length = self.u64()?;
                    self.take(length)?;
                }
            }
            9 if depth < DEEPEST => {
                for _ in 0..count {
                    self.skip_array(depth + 1)?;
                }
            }
            9 => return Err("has lists in lists in lists in its header; fetch it again".into()),
            kind => {
                let length = width(kind)?.checked_mul(count).ok_or("is damaged; fetch it again")?;
                self.take(length)?;
            }
        }
        Ok(())
    }

    /// What follows a tensor's name.
    fn tensor(&mut self, name: &str) -> Result<(String, Encoding, Vec<usize>, u64), String> {
        let axes = self.u32()?;
        if axes > MOST_AXES {
            return Err(format!("has tensor `{name}` of {axes} axes, and GGML knows {MOST_AXES}; fetch it again"));
        }
        // GGML's first axis is the one whose elements lie side by side.
        let mut shape = Vec::new();
        for _ in 0..axes {
            let side = usize::try_from(self.u64()?);
            shape.insert(0, side.map_err(|_| format!("has tensor `{name}` beyond any memory; fetch it again"))?);
        }
        let encoding = encoding(self.u32()?).map_err(|kind| {
            format!(
                "has tensor `{name}` in {kind}, which is not read; take a file in Q8_0, Q6_K, Q5_K, Q5_0, Q4_K or Q4_0"
            )
        })?;
        Ok((name.into(), encoding, shape, self.u64()?))
    }
}

/// Bytes of a value of the metadata that has a fixed width.
fn width(kind: u32) -> Result<u64, String> {
    match kind {
        0 | 1 | 7 => Ok(1),
        2 | 3 => Ok(2),
        4..=6 => Ok(4),
        10..=12 => Ok(8),
        other => Err(format!("has a value of an unknown kind ({other}) in its header; fetch it again")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file of one tensor, put together by hand from the specification.
    fn file(kind: u32, shape: &[u64], offset: u64, alignment: Option<u32>, data: usize) -> Vec<u8> {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(3u32.to_le_bytes());
        bytes.extend(1u64.to_le_bytes());
        bytes.extend((1 + u64::from(alignment.is_some())).to_le_bytes());
        let text = |bytes: &mut Vec<u8>, text: &str| {
            bytes.extend((text.len() as u64).to_le_bytes());
            bytes.extend(text.as_bytes());
        };
        text(&mut bytes, "general.architecture");
        bytes.extend(8u32.to_le_bytes());
        text(&mut bytes, "flux");
        if let Some(alignment) = alignment {
            text(&mut bytes, "general.alignment");
            bytes.extend(4u32.to_le_bytes());
            bytes.extend(alignment.to_le_bytes());
        }
        text(&mut bytes, "a.weight");
        bytes.extend((shape.len() as u32).to_le_bytes());
        shape.iter().for_each(|side| bytes.extend(side.to_le_bytes()));
        bytes.extend(kind.to_le_bytes());
        bytes.extend(offset.to_le_bytes());
        let aligned = bytes.len().next_multiple_of(alignment.unwrap_or(32).max(1) as usize);
        bytes.resize(aligned + data, 7);
        bytes
    }

    #[test]
    fn axes_are_turned_round_and_blocks_counted() {
        let bytes = file(8, &[64, 3], 0, None, 3 * 2 * 34);
        let header = read(&bytes).unwrap();
        let entry = &header.entries["a.weight"];
        assert_eq!((entry.encoding, &entry.shape[..]), (Encoding::Blocks(GgmlDType::Q8_0), &[3, 64][..]));
        assert_eq!((entry.range.len(), entry.range.end), (204, bytes.len()));
        assert_eq!(header.notes["general.architecture"], "flux");
    }

    #[test]
    fn headers_that_lie_are_refused() {
        let refused = |bytes: &[u8], part: &str| {
            let reason = read(bytes).err().unwrap_or_else(|| panic!("accepted, not refused for {part}"));
            assert!(reason.contains(part), "{reason}");
        };
        refused(&file(8, &[64, 3], 0, None, 203), "truncated");
        refused(&file(8, &[63], 0, None, 204), "Q8_0 cannot be");
        refused(&file(8, &[32, u64::MAX / 2, 4], 0, None, 204), "Q8_0 cannot be");
        refused(&file(8, &[64, 3], u64::MAX - 31, None, 204), "truncated");
        refused(&file(8, &[64, 3], 8, None, 300), "no multiple of 32");
        refused(&file(8, &[64, 3], 0, Some(0), 204), "alignment of 0");
        refused(&file(8, &[64, 3], 0, Some(4), 204), "alignment of 4");
        refused(&file(23, &[64, 3], 0, None, 204), "IQ4_XS, which is not read");
        refused(&file(0, &[1, 1, 1, 1, 1], 0, None, 4), "5 axes");
        // Every beginning of a file ends within its header, or its only tensor beyond it.
        let whole = file(8, &[64, 3], 0, None, 204);
        (4..whole.len()).for_each(|end| refused(&whole[..end], "truncated"));
        // Counts that no file of this length can hold are found out at once.
        for place in [8, 16] {
            let mut bytes = whole.clone();
            bytes[place..place + 8].copy_from_slice(&u64::MAX.to_le_bytes());
            assert!(read(&bytes).is_err());
        }
    }

    #[test]
    fn lists_in_lists_end() {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(3u32.to_le_bytes());
        bytes.extend(0u64.to_le_bytes());
        bytes.extend(1u64.to_le_bytes());
        bytes.extend(1u64.to_le_bytes());
        bytes.extend(b"a");
        bytes.extend(9u32.to_le_bytes());
        for _ in 0..100_000 {
            bytes.extend(9u32.to_le_bytes());
            bytes.extend(1u64.to_le_bytes());
        }
        assert!(read(&bytes).err().unwrap().contains("lists in lists"));
    }
}
