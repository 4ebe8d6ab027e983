//! Config values that are a scalar for all blocks or a list with one entry per block.

use super::fields::Fields;
use crate::Result;
use serde::Deserialize;
use serde_json::Value;

/// A scalar for all blocks, or a list with one entry per block.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(untagged)]
pub(super) enum PerBlock<T> {
    // The list comes first: where `T` is itself a scalar or a list, a list of lists must not be
    // taken for one `T`.
    /// One value per block.
    Each(Vec<T>),
    /// One value for every block.
    All(T),
}

/// A named [`PerBlock`] that still has to be matched with the number of blocks.
pub(super) struct NamedPerBlock<'a> {
    name: &'a str,
    value: PerBlock<usize>,
}

impl PerBlock<usize> {
    /// Takes the field `name`.
    pub(super) fn take<'a>(fields: &mut Fields, name: &'a str, default: usize) -> Result<NamedPerBlock<'a>> {
        Ok(NamedPerBlock { name, value: fields.take(name, PerBlock::All(default))? })
    }
}

impl NamedPerBlock<'_> {
    /// One entry for each of `blocks` blocks.
    pub(super) fn expand(self, fields: &Fields, blocks: usize) -> Result<Vec<usize>> {
        match self.value {
            PerBlock::All(value) => Ok(vec![value; blocks]),
            PerBlock::Each(list) if list.len() == blocks => Ok(list),
            PerBlock::Each(list) => {
                Err(fields.refuse(format!("`{}` has {} entries for {blocks} blocks", self.name, list.len())))
            }
        }
    }
}

/// Takes a size that is one number for a square, or `[height, width]`, or null.
pub(super) fn pair(fields: &mut Fields, name: &str) -> Result<Option<[usize; 2]>> {
    let Some(value) = fields.take_value(name) else { return Ok(None) };
    let side = |value: &Value| value.as_u64().filter(|side| (1..=1 << 20).contains(side)).map(|side| side as usize);
    let pair = match &value {
        Value::Array(items) if items.len() == 2 => side(&items[0]).zip(side(&items[1])).map(|(h, w)| [h, w]),
        value => side(value).map(|side| [side, side]),
    };
    pair.map(Some).ok_or_else(|| fields.unsupported(name, &value, "a positive number or [height, width]"))
}
