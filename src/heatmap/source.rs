//! What is averaged into a map: heads of sites, or their single steps, resized to the latent grid.

use super::{Aggregate, Filter, Resampler};
use crate::argument::{HEADS, NO_STEP_MAPS, STEPS_WINDOW};
use crate::trace::{Grid, Site, SiteMaps, Trace};
use crate::{Error, Result};
use half::slice::HalfFloatSliceExt;
use rayon::prelude::*;
use std::ops::Range;
use std::sync::Arc;

/// Why heads and a window of steps cannot both be chosen.
pub fn heads_and_steps() -> String {
    format!(
        "cannot be combined with {HEADS}: the trace keeps every head summed over the steps, and every step averaged \
         over the heads; give one of the two"
    )
}

/// One thing that is resized and averaged: a head of a site's sum, or a site's head mean over a
/// window of steps.
pub(super) struct MapSource<'a> {
    values: Values<'a>,
    channels: usize,
    pixels: usize,
    resampler: Resampler,
    weight: f32,
    /// `[pixels]`: how much of each cell lies in the region whose share is asked for.
    region: Arc<[f32]>,
    /// The sum of that.
    covered: f64,
}

enum Values<'a> {
    /// `[channels, pixels]`
    Head(&'a [f32]),
    /// `[steps, channels, pixels]`
    Steps(&'a [half::f16]),
}

/// Buffers that a thread reuses.
#[derive(Default)]
struct Scratch {
    window: WindowSum,
    resized: Vec<f32>,
    rows: Vec<f32>,
}

/// A channel summed over a window, and one step of it.
#[derive(Default)]
struct WindowSum {
    plane: Vec<f32>,
    step: Vec<f32>,
}

impl MapSource<'_> {
    /// One channel of the source, `[pixels]`, summed over the steps.
    fn plane<'a>(&'a self, channel: usize, window: &Range<usize>, scratch: &'a mut WindowSum) -> &'a [f32] {
        match self.values {
            Values::Head(values) => &values[channel * self.pixels..][..self.pixels],
            Values::Steps(values) => {
                let WindowSum { plane, step } = scratch;
                plane.clear();
                plane.resize(self.pixels, 0.0);
                step.resize(self.pixels, 0.0);
                for index in window.clone() {
                    values[(index * self.channels + channel) * self.pixels..][..self.pixels].convert_to_f32_slice(step);
                    plane.iter_mut().zip(&*step).for_each(|(sum, value)| *sum += value);
                }
                plane
            }
        }
    }
}

/// The steps that are summed.
pub(super) fn window(trace: &Trace, how: &Aggregate) -> Result<Range<usize>> {
    how.steps.as_ref().map_or(Ok(0..trace.steps()), |window| window.resolve(trace.steps()))
}

/// What the `chosen` sites give to the average: a head of each, or its mean over heads at single
/// steps where a part of the run is asked for. `region` is as [`shares`](super::shares) has it.
pub(super) fn sources<'a>(
    trace: &'a Trace,
    stored: &'a [SiteMaps],
    channels: &dyn Fn(&Site) -> usize,
    how: &Aggregate,
    chosen: &[usize],
    region: &dyn Fn(Grid) -> Vec<f32>,
) -> Result<Vec<MapSource<'a>>> {
    let (sites, latent) = (&trace.recording.sites, trace.about.latent);
    let pixels = |site: &Site| site.height * site.width;
    let resampler = |site: &Site| Resampler::new(Grid::new(site.height, site.width), latent, Filter::Bicubic);
    let region = |site: &Site| {
        let region: Arc<[f32]> = region(Grid::new(site.height, site.width)).into();
        let covered = region.iter().map(|&part| f64::from(part)).sum::<f64>();
        (region, covered)
    };
    // The sums are exact; single steps are only read where a part of the run is asked for.
    if how.steps.is_some() && window(trace, how)? != (0..trace.steps()) {
        if how.heads.is_some() {
            return Err(Error::argument(STEPS_WINDOW, heads_and_steps()));
        }
        let source = |&index: &usize| {
            let (site, values) = (&sites[index], &stored[index]);
            let Some(steps) = &values.steps else {
                let reason = format!("the trace has no single steps; make the run again without {NO_STEP_MAPS}");
                return Err(Error::argument(STEPS_WINDOW, reason));
            };
            let (pixels, channels, weight) = (pixels(site), channels(site), site.heads as f32);
            let (region, covered) = region(site);
            Ok(MapSource {
                values: Values::Steps(steps),
                channels,
                pixels,
                resampler: resampler(site),
                weight,
                region,
                covered,
            })
        };
        return chosen.iter().map(source).collect();
    }
    let mut sources = Vec::new();
    for &index in chosen {
        let (site, pixels, channels) = (&sites[index], pixels(&sites[index]), channels(&sites[index]));
        let (resampler, (region, covered)) = (resampler(site), region(site));
        let heads = stored[index].sum.chunks_exact(channels * pixels).enumerate();
        let wanted = heads.filter(|(head, _)| how.heads.as_ref().is_none_or(|heads| heads.contains(*head)));
        sources.extend(wanted.map(|(_, values)| MapSource {
            values: Values::Head(values),
            channels,
            pixels,
            resampler: resampler.clone(),
            weight: 1.0,
            region: region.clone(),
            covered,
        }));
    }
    Ok(sources)
}

/// The maps of the first `mapped` channels on the latent grid, `[mapped, height, width]`. With them
/// come the shares of all `channels` in the region that the sources were made for.
pub(super) fn averaged(
    trace: &Trace,
    sources: &[MapSource],
    window: &Range<usize>,
    mapped: usize,
    channels: usize,
) -> Result<(Vec<f32>, Vec<f32>)> {
    let weight: f32 = sources.iter().map(|source| source.weight).sum();

    let cells = trace.about.latent.cells();
    let mut maps = vec![0.0f32; mapped * cells];
    let mut shares = vec![0.0f64; channels];
    let add = |token: usize, out: &mut [f32], scratch: &mut Scratch| {
        let mut share = 0.0;
        for source in sources {
            let plane = source.plane(token, window, &mut scratch.window);
            let inside = plane.iter().zip(&*source.region).map(|(&value, &part)| f64::from(value) * f64::from(part));
            share += f64::from(source.weight) * inside.sum::<f64>() / source.covered;
            if out.is_empty() {
                continue; // padding has a share and no map
            }
            source.resampler.resize_into(plane, &mut scratch.resized, &mut scratch.rows);
            for (out, value) in out.iter_mut().zip(&scratch.resized) {
                *out += source.weight * value.max(0.0);
            }
        }
        out.iter_mut().for_each(|value| *value /= weight);
        share / f64::from(weight) / window.len().max(1) as f64
    };
    let init = || Scratch { resized: vec![0.0; cells], ..Scratch::default() };
    let (drawn, rest) = shares.split_at_mut(mapped);
    let maps_and_shares = maps.par_chunks_mut(cells).zip(drawn).enumerate();
    maps_and_shares.for_each_init(init, |scratch, (token, (out, share))| *share = add(token, out, scratch));
    rest.iter_mut().enumerate().for_each(|(at, share)| *share = add(mapped + at, &mut [], &mut init()));

    // `max` above would turn NaN into 0 and hide it; the shares are sums of the raw numbers.
    if let Some(token) = shares.iter().position(|share| !share.is_finite()) {
        return Err(trace.error(format!("token {token} holds NaN or infinity; make the run again")));
    }
    Ok((maps, shares.into_iter().map(|share| share as f32).collect()))
}
