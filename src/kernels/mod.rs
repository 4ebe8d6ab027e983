//! Fast CPU operators, each beside the plain candle form that is its GPU path and its test oracle.
//!
//! Everything here works on f32 with channels last: a feature map is `[batch, height, width,
//! channels]`, tokens are `[rows, channels]`. The instruction set (AVX-512, AVX2 with FMA, NEON, or
//! plain code) is chosen at run time by `rten-simd`. Work is split over rayon's global pool, which
//! [`threads::init`] sizes once; small operators stay on the caller's thread.

// Register tiles are arrays walked by index: such loops unroll fully, and closures would lose the
// instruction set of their caller.
#![allow(clippy::needless_range_loop)]

pub mod activation;
pub mod attention;
pub(crate) mod buffer;
pub mod conv;
pub mod gemm;
mod gemm_bf16;
mod machine;
mod map;
pub mod norm;
mod packed;
#[cfg(test)]
mod testing;
pub mod threads;
mod tile;
mod winograd;
