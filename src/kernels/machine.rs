//! What this machine's vector unit looks like, found out once.

use rten_simd::ops::BitOps;
use rten_simd::{Isa, SimdOp};
use std::sync::OnceLock;

/// The largest number of rows of a register tile.
pub(super) const TILE: usize = 12;

/// Lanes of a vector on this machine, and rows of a register tile.
pub(crate) fn shape() -> (usize, usize) {
    struct Lanes;
    impl SimdOp for Lanes {
        type Output = usize;
        #[inline(always)]
        fn eval<I: Isa>(self, isa: I) -> usize {
            isa.f32().len()
        }
    }
    static SHAPE: OnceLock<(usize, usize)> = OnceLock::new();
    *SHAPE.get_or_init(|| {
        let lanes = Lanes.dispatch();
        (lanes, if lanes == 16 { 12 } else { 6 })
    })
}
