//! Queries and keys for the page: half-precision numbers within a budget. The queries of large
//! grids are averaged down, since the mean of the queries has the mean of the scores.

use super::data::ReportData;
use crate::trace::{EncoderQueries, Queries, QueriesKeys, SiteQueries};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use flate2::{Compression, write::ZlibEncoder};
use half::f16;
use half::slice::HalfFloatSliceExt;
use rayon::prelude::*;
use serde_json::{Value, json};
use std::io::Write;

/// Bytes of numbers that the page of a run at `image_pixels` holds, before compression and base64.
/// Compression takes off a tenth to a fifth, base64 adds a third.
pub fn budget(image_pixels: usize) -> usize {
    if image_pixels <= 589_824 { 6_000_000 } else { 12_000_000 }
}

/// Cells below which no grid is averaged down; rather a layer is left out.
const LEAST_CELLS: usize = 16;

/// The queries and keys of a page.
#[derive(Debug, Clone)]
pub struct PackedQueries {
    /// zlib-compressed bytes in base64. Of each list of f16 numbers come all low bytes, then all
    /// high ones.
    pub base64: String,
    /// Where what lies in them, as the page's script takes it.
    pub about: Value,
}

/// One site on the page.
struct ShownSite<'a> {
    own: &'a SiteQueries,
    /// Its position among the page's sites.
    position: usize,
    used: bool,
    /// Rows and columns that become one.
    factor: usize,
}

impl ShownSite<'_> {
    fn grid(&self) -> [usize; 2] {
        [self.own.site.height.div_ceil(self.factor), self.own.site.width.div_ceil(self.factor)]
    }

    fn cells(&self) -> usize {
        self.grid().iter().product()
    }

    /// Bytes with keys of `tokens` tokens and a sum of exponentials for each head and cell.
    fn bytes(&self, tokens: usize) -> usize {
        let layer = &self.own.layer;
        2 * (self.cells() + tokens) * layer.heads * layer.head_dim + 4 * layer.heads * self.cells()
    }
}

/// Packs `queries` into at most `budget` bytes before compression. Of two layers, that with the
/// finer grid is averaged down first. At equal grids it is the layer that the run's maps do not
/// use.
pub fn pack(queries: &Queries, data: &ReportData, budget: usize) -> PackedQueries {
    let tokens: Vec<usize> = queries.tokens.iter().cloned().flatten().collect();
    let mut left_out = Vec::new();
    let numbers = |encoder: &EncoderQueries| -> usize {
        2 * encoder.layers.iter().map(|layer| layer.queries.len() + layer.keys.len()).sum::<usize>()
    };
    let mut encoders: Vec<&EncoderQueries> = queries.encoders.iter().collect();
    while encoders.iter().map(|encoder| numbers(encoder)).sum::<usize>() > budget / 2 {
        let largest = (0..encoders.len()).max_by_key(|&at| numbers(encoders[at])).unwrap_or(0);
        left_out.push(format!("the text encoder {}", encoders.remove(largest).name));
    }
    let mut sites: Vec<ShownSite> = queries
        .sites
        .iter()
        .filter_map(|own| {
            let position = data.sites.iter().position(|site| site.path == own.site.path)?;
            Some(ShownSite { own, position, used: data.sites[position].used, factor: 1 })
        })
        .collect();
    let most = budget - encoders.iter().map(|encoder| numbers(encoder)).sum::<usize>();
    while sites.iter().map(|site| site.bytes(tokens.len())).sum::<usize>() > most {
        let finest = sites.iter_mut().filter(|site| site.cells() > LEAST_CELLS);
        match finest.max_by_key(|site| (site.cells(), !site.used)) {
            Some(site) => site.factor *= 2,
            None => {
                let last = (0..sites.len()).max_by_key(|&at| (!sites[at].used, sites[at].bytes(tokens.len()), at));
                let Some(last) = last else { break };
                left_out.push(format!("layer {}", sites.remove(last).position + 1));
            }
        }
    }

    let mut bytes = Vec::new();
    let shrunk: Vec<(Vec<f16>, Vec<f32>)> =
        sites.par_iter().map(|site| reduced(&site.own.layer, site, queries.key_count)).collect();
    let sites: Vec<Value> = sites
        .iter()
        .zip(shrunk)
        .map(|(site, (own, sums))| {
            let (layer, [height, width]) = (&site.own.layer, site.grid());
            let keys: Vec<f16> = (0..layer.heads)
                .flat_map(|head| tokens.iter().map(move |key| (head * queries.key_count + key) * layer.head_dim))
                .flat_map(|at| layer.keys[at..][..layer.head_dim].iter().copied())
                .collect();
            json!({
                "site": site.position, "height": height, "width": width, "factor": site.factor,
                "headDim": layer.head_dim, "query": add(&mut bytes, &own), "key": add(&mut bytes, &keys),
                "logSum": add_f32(&mut bytes, &sums),
            })
        })
        .collect();
    let encoders: Vec<Value> = encoders
        .iter()
        .filter_map(|encoder| {
            let first = encoder.layers.first()?;
            let matrix = data.matrices.iter().position(|matrix| {
                matrix.name == encoder.name && (matrix.layers, matrix.heads) == (encoder.layers.len(), first.heads)
            })?;
            let all = |own: fn(&QueriesKeys) -> &[f16]| -> Vec<f16> {
                encoder.layers.iter().flat_map(|layer| own(layer).iter().copied()).collect()
            };
            Some(json!({
                "matrix": matrix, "headDim": first.head_dim, "query": add(&mut bytes, &all(|layer| &layer.queries)),
                "key": add(&mut bytes, &all(|layer| &layer.keys)),
            }))
        })
        .collect();
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::new(7));
    let packed = encoder.write_all(&bytes).and_then(|()| encoder.finish()).expect("writing to memory does not fail");
    let about = json!({"steps": queries.steps, "sites": sites, "encoders": encoders, "leftOut": left_out});
    PackedQueries { base64: BASE64.encode(packed), about }
}

/// The queries of a site, averaged down, and the logarithm of the sum of the exponentials of each
/// head's and cell's scores over all keys.
fn reduced(layer: &QueriesKeys, site: &ShownSite, key_count: usize) -> (Vec<f16>, Vec<f32>) {
    let QueriesKeys { heads, head_dim, .. } = *layer;
    let ([rows, columns], [height, width]) = ([site.own.site.height, site.own.site.width], site.grid());
    let (queries, keys) = (layer.queries.to_f32_vec(), layer.keys.to_f32_vec());
    let scale = 1.0 / (head_dim as f32).sqrt();
    let (mut own, mut sums) = (Vec::new(), Vec::with_capacity(heads * height * width));
    for head in 0..heads {
        for (y, x) in (0..height).flat_map(|y| (0..width).map(move |x| (y, x))) {
            let mut mean = vec![0f32; head_dim];
            let down = y * site.factor..((y + 1) * site.factor).min(rows);
            let across = x * site.factor..((x + 1) * site.factor).min(columns);
            let count = (down.len() * across.len()) as f32;
            for (row, column) in down.flat_map(|row| across.clone().map(move |column| (row, column))) {
                let query = &queries[((head * rows + row) * columns + column) * head_dim..][..head_dim];
                mean.iter_mut().zip(query).for_each(|(mean, value)| *mean += value / count);
            }
            // What the page shows is what it has.
            let mean: Vec<f16> = mean.into_iter().map(f16::from_f32).collect();
            let query = mean.to_f32_vec();
            let scores: Vec<f32> = keys[head * key_count * head_dim..][..key_count * head_dim]
                .chunks_exact(head_dim)
                .map(|key| scale * key.iter().zip(&query).map(|(key, query)| key * query).sum::<f32>())
                .collect();
            let top = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            sums.push(top + scores.iter().map(|score| (score - top).exp()).sum::<f32>().ln());
            own.extend(mean);
        }
    }
    (own, sums)
}

/// Appends numbers, all low bytes first, which pack better apart; where they lie.
fn add(bytes: &mut Vec<u8>, values: &[f16]) -> Value {
    let at = bytes.len();
    for half in 0..2 {
        bytes.extend(values.iter().map(|value| value.to_le_bytes()[half]));
    }
    json!({"at": at, "count": values.len()})
}

fn add_f32(bytes: &mut Vec<u8>, values: &[f32]) -> usize {
    let at = bytes.len();
    bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    at
}
