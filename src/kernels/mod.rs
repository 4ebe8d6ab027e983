//! Fast CPU operators, each beside the plain candle form that is its GPU path and its test oracle.
