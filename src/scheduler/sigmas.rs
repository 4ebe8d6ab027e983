//! Other ways to space the noise levels of a run (Karras, exponential, beta), for the samplers that
//! work in sigmas.
//!
//! Source: `EulerDiscreteScheduler` and `DPMSolverMultistepScheduler` of diffusers 0.42, which
//! share these.

use super::refuse::config_error;
use super::schedule::linspace;
use crate::argument::STEPS;
use crate::checkpoint::SchedulerConfig;
use crate::{Error, Result};

/// The spacing that a config asks for in place of the one of the timesteps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SigmaSpacing {
    /// `use_karras_sigmas`: even in sigma^(1/7) (Karras et al. 2022, equation 5).
    Karras,
    /// `use_exponential_sigmas`: even in log sigma.
    Exponential,
    /// `use_beta_sigmas`: quantiles of the Beta(0.6, 0.6) distribution (Lee et al. 2024, "Beta
    /// Sampling is All You Need").
    Beta,
}

impl SigmaSpacing {
    /// Reads the three flags.
    ///
    /// # Errors
    /// [`Error::Config`] where more than one is set.
    pub(super) fn new(config: &SchedulerConfig) -> Result<Option<Self>> {
        let flags = [
            (config.use_karras_sigmas, Self::Karras),
            (config.use_exponential_sigmas, Self::Exponential),
            (config.use_beta_sigmas, Self::Beta),
        ];
        let mut set = flags.into_iter().filter(|(flag, _)| flag.unwrap_or(false)).map(|(_, spacing)| spacing);
        let first = set.next();
        if set.next().is_some() {
            return Err(config_error(
                config,
                "only one of `use_karras_sigmas`, `use_exponential_sigmas`, `use_beta_sigmas` can be true",
            ));
        }
        Ok(first)
    }

    /// `steps` sigmas from `largest` down to `smallest`.
    pub(super) fn spread(self, largest: f64, smallest: f64, steps: usize) -> Vec<f64> {
        match self {
            Self::Karras => {
                const RHO: f64 = 7.0;
                let (from, to) = (largest.powf(1.0 / RHO), smallest.powf(1.0 / RHO));
                linspace(0.0, 1.0, steps).into_iter().map(|x| (from + x * (to - from)).powf(RHO)).collect()
            }
            Self::Exponential => linspace(largest.ln(), smallest.ln(), steps).into_iter().map(f64::exp).collect(),
            Self::Beta => linspace(0.0, 1.0, steps)
                .into_iter()
                .map(|x| smallest + beta_quantile(1.0 - x) * (largest - smallest))
                .collect(),
        }
    }
}

/// The timestep, between two of training, whose log sigma is that of `sigma`.
pub(super) fn timestep_of_sigma(sigma: f64, log_sigmas: &[f32]) -> f64 {
    let log_sigma = sigma.max(1e-10).ln();
    let low = log_sigmas.iter().rposition(|&log| log_sigma >= f64::from(log)).unwrap_or(0);
    let low = low.min(log_sigmas.len().saturating_sub(2));
    let (Some(&below), Some(&above)) = (log_sigmas.get(low), log_sigmas.get(low + 1)) else { return 0.0 };
    let weight = ((f64::from(below) - log_sigma) / f64::from(below - above)).clamp(0.0, 1.0);
    (1.0 - weight) * low as f64 + weight * (low + 1) as f64
}

/// Refuses sigmas that do not fall strictly: more steps than the schedule has room for.
pub(super) fn check_falling(sigmas: &[f32], steps: usize) -> Result<()> {
    let falls = sigmas.windows(2).all(|pair| pair[1] < pair[0]);
    if falls && sigmas.iter().all(|sigma| sigma.is_finite()) {
        return Ok(());
    }
    let reason =
        format!("{steps} steps do not fit this sampler's noise levels, two of which would be the same; use fewer");
    Err(Error::argument(STEPS, reason))
}

/// The quantile function of the Beta(0.6, 0.6) distribution.
///
/// The distribution function rises from 0 to 1 and is symmetric, so the lower half is found by
/// bisection on it.
fn beta_quantile(p: f64) -> f64 {
    if p <= 0.0 || p >= 1.0 {
        return p.clamp(0.0, 1.0);
    }
    if p > 0.5 {
        return 1.0 - beta_quantile(1.0 - p);
    }
    let (mut low, mut high) = (0.0, 0.5);
    // 0.5 / 2^80 is far below one part in 10^16 of any quantile that matters here.
    for _ in 0..80 {
        let middle = 0.5 * (low + high);
        if beta_cdf_lower(middle) < p { low = middle } else { high = middle }
    }
    0.5 * (low + high)
}

/// The distribution function of Beta(a, a), a = 0.6, for `x` up to 1/2. It is x^a / (a B(a, a))
/// times the hypergeometric series 2F1(a, 1 - a; a + 1; x) (Abramowitz and Stegun 26.5.4 and
/// 6.6.8).
fn beta_cdf_lower(x: f64) -> f64 {
    const A: f64 = 0.6;
    let series = |x: f64| {
        let (mut term, mut sum) = (1.0, 1.0);
        for n in 0..200 {
            let n = f64::from(n);
            term *= (A + n) * (1.0 - A + n) / ((A + 1.0 + n) * (n + 1.0)) * x;
            sum += term;
            if term < sum * 1e-17 {
                break;
            }
        }
        x.powf(A) * sum
    };
    // Symmetry makes the value at 1/2 one half, which gives the constant.
    0.5 * series(x) / series(0.5)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `scipy.stats.beta.ppf(p, 0.6, 0.6)` of scipy 1.17.
    #[test]
    fn beta_quantiles_are_scipys() {
        for (p, expected) in BETA_QUANTILES {
            assert!((beta_quantile(p) - expected).abs() <= 2e-15, "{p}: {} {expected}", beta_quantile(p));
        }
    }

    const BETA_QUANTILES: [(f64, f64); 7] = [
        (0.0, 0.0),
        (0.0001, 3.998377158137721e-07),
        (0.05, 0.012554456873611399),
        (0.3333333333333333, 0.2754132907776234),
        (0.5, 0.5000000000000001),
        (0.9, 0.9604155944112192),
        (1.0, 1.0),
    ];
}
