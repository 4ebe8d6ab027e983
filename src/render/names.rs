//! Settings that are chosen by name.

use crate::argument::Argument;
use crate::{Error, Result};

/// The value of that name, or an error listing the names.
pub(super) fn by_name<T: Copy>(argument: Argument, text: &str, names: &[(&str, T)]) -> Result<T> {
    match names.iter().find(|(name, _)| *name == text) {
        Some(&(_, value)) => Ok(value),
        None => {
            let names: Vec<_> = names.iter().map(|&(name, _)| name).collect();
            Err(Error::argument(
                argument,
                format!("{} is unknown; choose from {}", crate::in_quotes(text), names.join(", ")),
            ))
        }
    }
}
