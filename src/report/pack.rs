//! Maps made small for the page. Each plane (one token's map at one site, head or step) becomes
//! 8-bit numbers with a scale of its own. Large grids are averaged down and neighbouring steps
//! merged until the page fits its budget.

use super::data::{ReportData, SiteData};
use crate::figures::largest;
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use flate2::{Compression, write::ZlibEncoder};
use half::slice::HalfFloatSliceExt;
use serde::Serialize;
use std::io::Write;

/// Planes of one size inside the packed bytes, all little-endian. At `at` lie `planes` f32 scales
/// (value of one unit), then `planes * height * width` unsigned integers of `bits` bits.
#[derive(Debug, Clone, Serialize)]
pub struct PlaneBlock {
    /// Offset in the packed bytes.
    pub at: usize,
    /// Number of planes.
    pub planes: usize,
    /// Rows of a plane.
    pub height: usize,
    /// Columns of a plane.
    pub width: usize,
    /// 8 or 16.
    pub bits: u8,
}

/// What the page holds of one site.
#[derive(Debug, Clone, Serialize)]
pub struct PackedSite {
    /// Mean over heads and steps, at the site's own grid: `[channels]` planes, 16 bits where the
    /// run's own maps use the site.
    pub mean: PlaneBlock,
    /// Mean over the steps: `[heads, channels]` planes.
    pub by_head: PlaneBlock,
    /// Mean over the heads: `[step groups, channels]` planes.
    pub by_step: Option<PlaneBlock>,
}

/// What was left out to keep the page small.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Detail {
    /// Largest number of cells of a head's plane.
    pub head_cells: usize,
    /// Largest number of cells of a step's plane.
    pub step_cells: usize,
    /// Steps merged into one.
    pub merge_steps: usize,
}

/// From everything to little: the first that fits the budget is taken.
const DETAILS: [Detail; 11] = [
    Detail { head_cells: usize::MAX, step_cells: usize::MAX, merge_steps: 1 },
    Detail { head_cells: usize::MAX, step_cells: 1024, merge_steps: 1 },
    Detail { head_cells: 1024, step_cells: 1024, merge_steps: 1 },
    Detail { head_cells: 1024, step_cells: 256, merge_steps: 1 },
    Detail { head_cells: 256, step_cells: 256, merge_steps: 1 },
    Detail { head_cells: 256, step_cells: 256, merge_steps: 2 },
    Detail { head_cells: 256, step_cells: 256, merge_steps: 5 },
    Detail { head_cells: 64, step_cells: 64, merge_steps: 1 },
    Detail { head_cells: 64, step_cells: 64, merge_steps: 2 },
    Detail { head_cells: 64, step_cells: 64, merge_steps: 5 },
    Detail { head_cells: 64, step_cells: 64, merge_steps: 10 },
];

/// Bytes that the maps of a run at `image_pixels` may take, compressed and in base64. It is 6.4 MB
/// up to 768x768, so that the page of 50 steps of SD 1.5 stays below 8 MB with its images. Beyond
/// it is 12.8 MB, where SDXL has 70 sites.
pub fn budget(image_pixels: usize) -> usize {
    if image_pixels <= 589_824 { 6_400_000 } else { 12_800_000 }
}

/// Cells of the largest grid whose self-attention the page of a run at `image_pixels` holds: cells
/// squared bytes before compression.
fn most_cells(image_pixels: usize) -> usize {
    if image_pixels <= 65_536 { 256 } else { 1024 }
}

/// The packed maps of a run.
#[derive(Debug, Clone)]
pub struct PackedMaps {
    /// zlib-compressed bytes in base64.
    pub base64: String,
    /// Where each site's planes lie in the uncompressed bytes.
    pub sites: Vec<PackedSite>,
    /// The run's own maps, 16 bits: one plane per word, then one per probe.
    pub official: Option<PlaneBlock>,
    /// The negative prompt's maps, 16 bits: one plane per word.
    pub negative: Option<PlaneBlock>,
    /// The causal maps, 16 bits: one plane per map of [`ReportData::causal`].
    pub causal: Option<PlaneBlock>,
    /// Self-attention of each grid in [`ReportData::self_attention`]: `[cells]` planes, one per
    /// place; `None` where it is too large for the page.
    pub self_attention: Vec<Option<PlaneBlock>>,
    /// Each of [`ReportData::matrices`]: `[layers, heads]` planes of `tokens x tokens`.
    pub matrices: Vec<PlaneBlock>,
    /// First and last step of each group.
    pub step_groups: Vec<(usize, usize)>,
    /// What was done to fit.
    pub detail: Detail,
    /// What was done to fit, in sentences for the page; empty when nothing was left out.
    pub notes: Vec<String>,
}

/// Packs the maps of `data` into at most `budget` base64 characters where any of the known
/// reductions can do so.
pub fn pack(data: &ReportData, budget: usize) -> PackedMaps {
    // A cheap bound first: no need to compress what cannot fit even at 2:1 on top of base64's 4:3.
    for (index, detail) in DETAILS.iter().enumerate() {
        let last = index + 1 == DETAILS.len();
        if !last && raw_size(data, *detail) * 4 / 3 / 2 > budget {
            continue;
        }
        let packed = pack_with(data, *detail);
        if last || packed.base64.len() <= budget {
            return packed;
        }
    }
    unreachable!("the last detail always returns")
}

fn reduced(height: usize, width: usize, cells: usize) -> usize {
    let mut factor = 1;
    while height.div_ceil(factor) * width.div_ceil(factor) > cells && factor < height.max(width) {
        factor *= 2;
    }
    factor
}

fn raw_size(data: &ReportData, detail: Detail) -> usize {
    let channels = data.channels();
    let groups = data.timesteps.len().div_ceil(detail.merge_steps);
    let plane = |site: &SiteData, cells| {
        let factor = reduced(site.height, site.width, cells);
        site.height.div_ceil(factor) * site.width.div_ceil(factor) + 4
    };
    data.sites
        .iter()
        .map(|site| {
            let steps = if site.by_step.is_none() { 0 } else { groups };
            channels
                * (plane(site, usize::MAX)
                    + site.heads * plane(site, detail.head_cells)
                    + steps * plane(site, detail.step_cells))
        })
        .sum()
}

/// Packs at a stated detail, whatever the size.
fn pack_with(data: &ReportData, detail: Detail) -> PackedMaps {
    let mut bytes = Vec::new();
    let channels = data.channels();
    let steps = data.timesteps.len();
    let merge = detail.merge_steps.max(1);
    let step_groups: Vec<(usize, usize)> =
        (0..steps).step_by(merge).map(|first| (first, (first + merge).min(steps) - 1)).collect();
    let mut heads_shrunk = false;
    let mut steps_shrunk = false;
    let sites = data
        .sites
        .iter()
        .map(|site| {
            let (height, width) = (site.height, site.width);
            let plane = height * width;
            let per_step = 1.0 / steps.max(1) as f32;
            let mut mean = mean_of(&site.by_head, site.heads, channels * plane);
            mean.iter_mut().for_each(|value| *value *= per_step);
            // Shares of a place are read from these.
            let mean = write_planes(&mut bytes, &mean, height, width, if site.used { 16 } else { 8 });
            let factor = reduced(height, width, detail.head_cells);
            heads_shrunk |= factor > 1;
            let (mut small, h, w) = shrink(&site.by_head, height, width, factor);
            small.iter_mut().for_each(|value| *value *= per_step);
            let by_head = write_planes(&mut bytes, &small, h, w, 8);
            let kept = site.by_step.as_ref().filter(|kept| kept.len() == steps * channels * plane && steps > 0);
            let by_step = kept.map(|kept| {
                let factor = reduced(height, width, detail.step_cells);
                steps_shrunk |= factor > 1;
                let merged: Vec<f32> = step_groups
                    .iter()
                    .flat_map(|&(first, last)| {
                        let group = kept[first * channels * plane..(last + 1) * channels * plane].to_f32_vec();
                        mean_of(&group, last + 1 - first, channels * plane)
                    })
                    .collect();
                let (small, h, w) = shrink(&merged, height, width, factor);
                write_planes(&mut bytes, &small, h, w, 8)
            });
            PackedSite { mean, by_head, by_step }
        })
        .collect();
    let official = data.official.as_ref().map(|o| write_planes(&mut bytes, &o.words, o.height, o.width, 16));
    let (height, width) = data.latent;
    let negative = data.negative_words.as_ref().map(|n| write_planes(&mut bytes, &n.maps, height, width, 16));
    let causal: Vec<f32> = data.causal.iter().flat_map(|causal| causal.map.iter().copied()).collect();
    let causal = (!causal.is_empty()).then(|| write_planes(&mut bytes, &causal, height, width, 16));
    let matrices = data.matrices.iter();
    let matrices = matrices.map(|m| write_planes(&mut bytes, &m.values, m.tokens.len(), m.tokens.len(), 8)).collect();

    let most = most_cells(data.image.width * data.image.height);
    let mut self_attention_left_out = false;
    let self_attention = data.self_attention.iter().map(|kept| {
        let fits = kept.height * kept.width <= most;
        self_attention_left_out |= !fits;
        fits.then(|| write_planes(&mut bytes, &kept.mean.to_f32_vec(), kept.height, kept.width, 8))
    });
    let self_attention = self_attention.collect();

    let call = if data.noise.is_some() { "noise level" } else { "step" };
    let mut notes = Vec::new();
    if self_attention_left_out {
        notes.push(format!(
            "Self-attention of grids of more than {most} cells is left out; `attnmap self-attention` shows it."
        ));
    }
    if heads_shrunk {
        notes.push(format!("Single heads are kept at {} cells at most (averaged down).", detail.head_cells));
    }
    if steps_shrunk {
        notes.push(format!("Single {call}s are kept at {} cells at most (averaged down).", detail.step_cells));
    }
    if merge > 1 {
        notes.push(format!("Every {merge} neighbouring {call}s are averaged into one."));
    }
    let base64 = BASE64.encode(compress(&bytes));
    PackedMaps { base64, sites, official, negative, causal, self_attention, matrices, step_groups, detail, notes }
}

/// Planes of several pictures written one after the other; for pages that hold few.
#[derive(Debug, Default)]
pub(super) struct Planes(Vec<u8>);

impl Planes {
    /// Appends `values` as planes of `height x width`.
    pub(super) fn add(&mut self, values: &[f32], height: usize, width: usize, bits: u8) -> PlaneBlock {
        write_planes(&mut self.0, values, height, width, bits)
    }

    /// Everything, compressed, in base64.
    pub(super) fn base64(&self) -> String {
        BASE64.encode(compress(&self.0))
    }
}

fn compress(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::with_capacity(bytes.len() / 2), Compression::new(7));
    encoder.write_all(bytes).and_then(|()| encoder.finish()).expect("writing to memory does not fail")
}

/// The mean of `count` consecutive arrays of `len` values; zeros when `values` is short (a damaged
/// trace is refused on reading).
fn mean_of(values: &[f32], count: usize, len: usize) -> Vec<f32> {
    let mut mean = vec![0f32; len];
    for array in values.chunks_exact(len.max(1)).take(count) {
        for (sum, value) in mean.iter_mut().zip(array) {
            *sum += value;
        }
    }
    mean.iter_mut().for_each(|sum| *sum /= count.max(1) as f32);
    mean
}

/// Planes of `height x width` averaged over `factor x factor` cells; cells cut by the border
/// average what there is.
fn shrink(values: &[f32], height: usize, width: usize, factor: usize) -> (Vec<f32>, usize, usize) {
    if factor <= 1 {
        return (values.to_vec(), height, width);
    }
    let (h, w) = (height.div_ceil(factor), width.div_ceil(factor));
    let mut out = Vec::with_capacity(values.len() / (height * width) * h * w);
    for plane in values.chunks_exact(height * width) {
        for y in 0..h {
            for x in 0..w {
                let rows = y * factor..((y + 1) * factor).min(height);
                let columns = x * factor..((x + 1) * factor).min(width);
                let count = rows.len() * columns.len();
                let sum: f32 = rows.map(|r| plane[r * width..][columns.clone()].iter().sum::<f32>()).sum();
                out.push(sum / count as f32);
            }
        }
    }
    (out, h, w)
}

/// Appends planes as scales and integers: value = scale * integer, scale = the plane's maximum /
/// the largest integer. Negative values (bicubic undershoot is clamped upstream) and NaN become 0.
fn write_planes(bytes: &mut Vec<u8>, values: &[f32], height: usize, width: usize, bits: u8) -> PlaneBlock {
    let at = bytes.len();
    let plane = (height * width).max(1);
    let top = if bits == 16 { 65535.0 } else { 255.0 };
    let scales: Vec<f32> = values.chunks_exact(plane).map(|plane| largest(plane.iter().copied()) / top).collect();
    for scale in &scales {
        bytes.extend_from_slice(&scale.to_le_bytes());
    }
    for (plane, &scale) in values.chunks_exact(plane).zip(&scales) {
        for &value in plane {
            let unit = if scale > 0.0 { (value / scale).round().clamp(0.0, top) } else { 0.0 };
            if bits == 16 {
                bytes.extend_from_slice(&(unit as u16).to_le_bytes());
            } else {
                bytes.push(unit as u8);
            }
        }
    }
    PlaneBlock { at, planes: scales.len(), height, width, bits }
}

/// The planes of `block` as the page decodes them; for tests and for other readers of the page.
pub fn unpack(bytes: &[u8], block: &PlaneBlock) -> Vec<f32> {
    let plane = block.height * block.width;
    let width = usize::from(block.bits / 8);
    let units = block.at + 4 * block.planes;
    (0..block.planes * plane)
        .map(|i| {
            let at = block.at + 4 * (i / plane);
            let scale = f32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
            let at = units + i * width;
            let unit = if width == 2 { u16::from_le_bytes([bytes[at], bytes[at + 1]]) } else { bytes[at].into() };
            scale * f32::from(unit)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn planes_come_back_within_half_a_unit() {
        let values: Vec<f32> = (0..3 * 5 * 7).map(|i| ((i * 37 % 101) as f32 / 101.0).powi(3) * 0.3).collect();
        for bits in [8u8, 16] {
            let mut bytes = vec![9; 3]; // an offset that is no multiple of four
            let block = write_planes(&mut bytes, &values, 5, 7, bits);
            assert_eq!((block.at, block.planes), (3, 3));
            let back = unpack(&bytes, &block);
            let unit = 0.3 / if bits == 8 { 255.0 } else { 65535.0 };
            for (a, b) in values.iter().zip(&back) {
                assert!((a - b).abs() <= 0.5 * unit + 1e-9, "{a} came back as {b}");
            }
        }
    }

    #[test]
    fn an_empty_plane_and_one_with_nan_are_zero() {
        let mut bytes = Vec::new();
        let block = write_planes(&mut bytes, &[0.0, 0.0, f32::NAN, -1.0], 1, 2, 8);
        assert_eq!(unpack(&bytes, &block), [0.0; 4]);
    }

    #[test]
    fn shrinking_keeps_the_mean_and_handles_ragged_borders() {
        let (small, h, w) = shrink(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 2, 3, 2);
        assert_eq!((h, w), (1, 2));
        assert_eq!(small, [3.0, 4.5]);
    }

    #[test]
    fn grids_are_reduced_by_powers_of_two() {
        assert_eq!(reduced(64, 64, 1024), 2);
        assert_eq!(reduced(64, 96, 1024), 4);
        assert_eq!(reduced(16, 16, 256), 1);
        assert_eq!(reduced(1, 1, 0), 1);
    }
}
