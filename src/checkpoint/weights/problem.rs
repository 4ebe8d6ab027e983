//! Why a tensor of a weight file cannot be read.

/// Why a tensor could not be made.
pub(super) enum Problem {
    /// The tensor itself is at fault; reads on from its name.
    Content(String),
    /// candle failed.
    Candle(candle_core::Error),
}

impl From<candle_core::Error> for Problem {
    fn from(error: candle_core::Error) -> Self {
        Self::Candle(error)
    }
}
