//! The methods and the inputs that can be chosen, by name.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::argument::{INPUT, METHOD};
use crate::{Error, Result};

/// How a number is attributed to the tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// The gradient times the input (Shrikumar et al., 2016): what the target would lose if it were
    /// linear. Its sum is not the target.
    Gradient,
    /// Integrated gradients (Sundararajan et al., 2017) from the empty prompt. It is the mean
    /// gradient on the straight line from its input to the prompt's, times their difference. The
    /// values sum to what the prompt adds to the target.
    #[default]
    Integrated,
    /// What the target loses when the tokens of one word are replaced by the empty prompt's (Zeiler
    /// and Fergus, 2014). Its sum is not the target: words that say the same hide each other.
    Occlusion,
    /// Shapley values: the mean of what a word adds over all orders in which words join the empty
    /// prompt's tokens. The values sum to what the prompt adds to the target.
    Shapley,
}

impl Method {
    /// All of them with their names on the command line.
    pub const NAMED: [(&str, Self); 4] = [
        ("gradient", Self::Gradient),
        ("integrated", Self::Integrated),
        ("occlusion", Self::Occlusion),
        ("shapley", Self::Shapley),
    ];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        Self::NAMED.iter().find(|(_, method)| *method == self).map_or("", |(name, _)| name)
    }

    /// Whether the networks are differentiated, and so must be of plain layers.
    pub fn differentiates(self) -> bool {
        matches!(self, Self::Gradient | Self::Integrated)
    }

    /// Whether the values sum to what the prompt adds to the target.
    pub fn is_complete(self) -> bool {
        matches!(self, Self::Integrated | Self::Shapley)
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Method {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let found = Self::NAMED.iter().find(|(name, _)| *name == text).map(|(_, method)| *method);
        let reason = || format!("{} is unknown; choose {}", crate::in_quotes(text), list(&Self::NAMED.map(|(n, _)| n)));
        found.ok_or_else(|| Error::argument(METHOD, reason()))
    }
}

/// What the target is attributed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum Input {
    /// The text encoders' states, which cross-attention reads: what a token says there itself. What
    /// other tokens learnt of a word in the text encoder counts as theirs.
    #[default]
    States,
    /// The token embeddings, before the text encoders: all that a word does, also through other
    /// tokens.
    Tokens,
}

impl Input {
    /// Both with their names on the command line.
    pub const NAMED: [(&str, Self); 2] = [("states", Self::States), ("tokens", Self::Tokens)];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        Self::NAMED.iter().find(|(_, input)| *input == self).map_or("", |(name, _)| name)
    }
}

impl fmt::Display for Input {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Input {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let found = Self::NAMED.iter().find(|(name, _)| *name == text).map(|(_, input)| *input);
        let reason = || format!("{} is unknown; choose {}", crate::in_quotes(text), list(&Self::NAMED.map(|(n, _)| n)));
        found.ok_or_else(|| Error::argument(INPUT, reason()))
    }
}

/// `gradient, integrated, occlusion or shapley`.
fn list(names: &[&str]) -> String {
    match names {
        [all @ .., last] if !all.is_empty() => format!("{} or {last}", all.join(", ")),
        _ => names.concat(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for (name, method) in Method::NAMED {
            assert_eq!((name.parse::<Method>().unwrap(), method.to_string()), (method, name.to_owned()));
        }
        for (name, input) in Input::NAMED {
            assert_eq!((name.parse::<Input>().unwrap(), input.to_string()), (input, name.to_owned()));
        }
        let error = "saliency".parse::<Method>().unwrap_err().to_string();
        assert!(
            error.starts_with("method: ") && error.contains("gradient, integrated, occlusion or shapley"),
            "{error}"
        );
        assert_eq!("words".parse::<Input>().unwrap_err().exit_code(), 2);
    }
}
