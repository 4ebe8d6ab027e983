//! Components of a run's attention: its heads' maps as one matrix, and what each component is.

use std::collections::BTreeMap;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::nmf::{self, Matrix};
use crate::argument::{K, WORDS};
use crate::figures::largest;
use crate::heatmap::{Filter, Resampler};
use crate::trace::{Grid, Half, Trace, WordInfo};
use crate::{Error, Result};

/// The most components that are made.
pub const MOST: usize = 12;

/// A map of every head and word on the latent grid.
#[derive(Debug, Clone)]
pub struct Maps {
    /// One row per head and word, one column per cell of the latent grid. The values are attention
    /// probabilities, mean over the steps.
    pub matrix: Matrix,
    /// Of each row: the site by position in the trace, the head, the word by position in `words`.
    pub rows: Vec<(usize, usize, usize)>,
    /// The words.
    pub words: Vec<WordInfo>,
    /// The latent grid.
    pub grid: Grid,
}

/// The maps of `words` in every head of the conditional half of `trace`. Sites are resized to the
/// latent grid with torch's bicubic and clamped at 0, as maps are.
///
/// # Errors
/// [`Error::Argument`] when there are no words; [`Error::Trace`] when the trace holds NaN.
pub fn head_maps(trace: &Trace, words: &[WordInfo]) -> Result<Maps> {
    if words.is_empty() {
        return Err(Error::argument(WORDS, "the prompt has no words, whose maps could fall into components"));
    }
    let (grid, steps) = (trace.about.latent, trace.steps().max(1) as f32);
    let stored = trace.half(Half::Conditional).ok_or_else(|| trace.error("it has no conditional half"))?.0;
    let sites = &trace.recording.sites;
    let heads = sites.iter().enumerate().flat_map(|(site, stored)| (0..stored.heads).map(move |head| (site, head)));
    let heads: Vec<(usize, usize)> = heads.collect();
    let of_head = |&(index, head): &(usize, usize)| -> Vec<f32> {
        let site = &sites[index];
        let cells = site.height * site.width;
        let of_head = &stored.sites[index].sum[head * site.channels(stored.tokens) * cells..];
        let resampler = Resampler::new(Grid::new(site.height, site.width), grid, Filter::Bicubic);
        let of_word = |word: &WordInfo| {
            let mut sum = vec![0.0f32; cells];
            for token in &word.tokens {
                sum.iter_mut().zip(&of_head[token * cells..][..cells]).for_each(|(sum, value)| *sum += value / steps);
            }
            resampler.resize(&sum).into_iter().map(|value| value.max(0.0)).collect::<Vec<f32>>()
        };
        words.iter().flat_map(of_word).collect()
    };
    let values: Vec<f32> = heads.par_iter().map(of_head).collect::<Vec<_>>().concat();
    if values.iter().any(|value| !value.is_finite()) {
        return Err(trace.error("a head's map holds NaN or infinity; make the run again"));
    }
    let rows = heads.iter().flat_map(|&(site, head)| (0..words.len()).map(move |word| (site, head, word)));
    let rows: Vec<_> = rows.collect();
    let matrix = Matrix { rows: rows.len(), columns: grid.cells(), values };
    Ok(Maps { matrix, rows, words: words.to_vec(), grid })
}

/// One pattern of attention.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Component {
    /// The word that it follows most, numbered where several components follow the same one.
    pub name: String,
    /// Its share of all the attention that the components make, 0 to 1.
    pub share: f64,
    /// Each word's share of the component, in prompt order: how much of its attention is the
    /// word's.
    pub words: Vec<(String, f64)>,
    /// Each head's share of the component, largest first: weight path of the site, head, share.
    pub heads: Vec<(String, usize, f64)>,
    /// `[height, width]` on the latent grid; the largest is 1.
    pub map: Vec<f32>,
}

/// The components of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Components {
    /// The version of attnmap that made them.
    pub attnmap: String,
    /// The latent grid.
    pub grid: Grid,
    /// The share of the maps' squares that k components explain, for k from 1.
    pub explained: Vec<f64>,
    /// The components, largest share first.
    pub components: Vec<Component>,
}

/// Writes `maps` as sums of `count` components. `sites` are the weight paths of the trace's sites.
/// `progress` is told of each number of components that has been tried.
///
/// # Errors
/// [`Error::Argument`] when `count` is 0, above [`MOST`], or more than there are maps or cells.
pub fn factorise(maps: &Maps, sites: &[String], count: usize, progress: &mut dyn FnMut()) -> Result<Components> {
    let Maps { matrix, rows, words, grid } = maps;
    let most = MOST.min(matrix.rows).min(matrix.columns);
    if count == 0 || count > most {
        return Err(Error::argument(K, format!("must be 1 to {most}; {count} given")));
    }
    let mut explained = Vec::with_capacity(most);
    let mut chosen = None;
    for k in 1..=most {
        let factors = nmf::factorise(matrix, k)?;
        explained.push(1.0 - nmf::error(matrix, &factors)?);
        if k == count {
            chosen = Some(factors);
        }
        progress();
    }
    let factors = chosen.ok_or_else(|| Error::bug("no components"))?;
    let of = |at: usize| -> (Component, f64) {
        let map = &factors.h[at * matrix.columns..][..matrix.columns];
        let mass: f64 = map.iter().sum();
        let (mut by_word, mut by_head) = (vec![0.0; words.len()], BTreeMap::<(usize, usize), f64>::new());
        for (&(site, head, word), row) in rows.iter().zip(factors.w.chunks_exact(count)) {
            by_word[word] += row[at];
            *by_head.entry((site, head)).or_default() += row[at];
        }
        let whole: f64 = by_word.iter().sum();
        let share = |part: f64| if whole > 0.0 { part / whole } else { 0.0 };
        let mut heads: Vec<_> =
            by_head.into_iter().map(|((site, head), part)| (sites[site].clone(), head, share(part))).collect();
        // A stable order where shares are equal.
        heads.sort_by(|a, b| b.2.total_cmp(&a.2));
        let top = largest(map.iter().copied());
        let map = map.iter().map(|value| if top > 0.0 { (value / top) as f32 } else { 0.0 }).collect();
        let words: Vec<_> = words.iter().zip(&by_word).map(|(word, &part)| (word.label(), share(part))).collect();
        let most = words.iter().fold(&words[0], |most, word| if word.1 > most.1 { word } else { most });
        (Component { name: most.0.clone(), share: 0.0, words, heads, map }, mass * whole)
    };
    let mut found: Vec<(Component, f64)> = (0..count).map(of).collect();
    found.sort_by(|a, b| b.1.total_cmp(&a.1));
    let all: f64 = found.iter().map(|(_, attention)| attention).sum();
    let mut seen = BTreeMap::<String, usize>::new();
    let components = found.into_iter().map(|(component, attention)| {
        let times = seen.entry(component.name.clone()).or_default();
        *times += 1;
        let name = if *times > 1 { format!("{} ({times})", component.name) } else { component.name.clone() };
        Component { name, share: if all > 0.0 { attention / all } else { 0.0 }, ..component }
    });
    let components = components.collect();
    Ok(Components { attnmap: env!("CARGO_PKG_VERSION").to_owned(), grid: *grid, explained, components })
}
