//! Points and weights of the integral over a straight line.

use std::f64::consts::PI;

/// The Gauss-Legendre rule of `count` points on 0 to 1: `(point, weight)`, ascending; the weights
/// sum to 1. It is exact for polynomials up to degree `2 count - 1` (captum's `gausslegendre`).
pub fn gauss_legendre(count: usize) -> Vec<(f64, f64)> {
    let n = count as f64;
    let root = |index: usize| {
        // Newton's method on the Legendre polynomial, from Tricomi's estimate of its root.
        let mut x = (PI * (index as f64 + 0.75) / (n + 0.5)).cos();
        let mut slope = 1.0;
        for _ in 0..100 {
            let (mut before, mut value) = (1.0, x);
            for degree in 2..=count {
                let k = degree as f64;
                (before, value) = (value, ((2.0 * k - 1.0) * x * value - (k - 1.0) * before) / k);
            }
            slope = n * (x * value - before) / (x * x - 1.0);
            let step = value / slope;
            x -= step;
            if step.abs() < 1e-15 {
                break;
            }
        }
        ((1.0 - x) / 2.0, 1.0 / ((1.0 - x * x) * slope * slope))
    };
    (0..count).map(root).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn polynomials_are_exact() {
        for count in [1, 2, 5, 32] {
            let rule = gauss_legendre(count);
            assert!(rule.is_sorted_by(|a, b| a.0 < b.0) && rule.iter().all(|(x, w)| *x > 0.0 && *x < 1.0 && *w > 0.0));
            for power in 0..2 * count as i32 {
                let sum: f64 = rule.iter().map(|(x, w)| w * x.powi(power)).sum();
                assert!((sum - 1.0 / f64::from(power + 1)).abs() < 1e-12, "{count} points, x^{power}: {sum}");
            }
        }
    }

    /// numpy 2: `numpy.polynomial.legendre.leggauss(3)`, from -1..1 to 0..1.
    #[test]
    fn three_points_are_numpys() {
        let [first, middle, _] = gauss_legendre(3)[..] else { panic!("three points") };
        assert!((first.0 - 0.1127016653792583).abs() < 1e-14 && (first.1 - 5.0 / 18.0).abs() < 1e-14);
        assert!((middle.0 - 0.5).abs() < 1e-14 && (middle.1 - 4.0 / 9.0).abs() < 1e-14);
    }
}
