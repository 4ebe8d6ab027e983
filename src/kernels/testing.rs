//! What the kernels' tests share.

/// Repeatable values, about normal.
pub fn noise(len: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    let mut uniform = || {
        // Marsaglia 2003, xorshift32.
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        f64::from(state) / f64::from(u32::MAX)
    };
    (0..len).map(|_| ((0..12).map(|_| uniform()).sum::<f64>() - 6.0) as f32).collect()
}

/// Relative L2 distance; infinite when the lengths differ.
pub fn relative(got: &[f32], want: &[f32]) -> f64 {
    if got.len() != want.len() {
        return f64::INFINITY;
    }
    let square = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>();
    let distance = square(&mut got.iter().zip(want).map(|(g, w)| f64::from(*g) - f64::from(*w)));
    (distance / square(&mut want.iter().map(|w| f64::from(*w))).max(1e-30)).sqrt()
}
