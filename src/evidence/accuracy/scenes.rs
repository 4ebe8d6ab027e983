//! Accuracy on scenes whose masks are known: noised to several levels, traced, and judged under
//! many aggregates.

use super::against_mask::{Accuracy, Interval, bootstrap, to_image};
use super::classes::{ClassIou, Classes};
use super::data_set::DataSet;
use super::scene::{Object, Scene, TIMESTEPS};
use crate::heatmap::{Aggregate, Measure, Resolution, SiteFilter, aggregate};
use crate::pipeline::{LookOptions, Noised, Pipeline, RecordOptions};
use crate::trace::{Grid, PromptInfo, Site, Trace, WordInfo, normalized};
use crate::{Error, Result};
use serde::Serialize;
use std::collections::BTreeMap;
use std::ops::{ControlFlow, Range};

/// Seed of the confidence intervals.
const SEED: u32 = 5;

/// A way to make a map that is measured.
#[derive(Debug, Clone)]
pub struct Rule {
    /// Its name in the table.
    pub name: String,
    /// What it takes.
    pub aggregate: Aggregate,
}

/// The figures of one rule or baseline.
#[derive(Debug, Clone, Serialize)]
pub struct Figures {
    /// Means over all (scene, noise level, word).
    #[serde(flatten)]
    pub mean: Accuracy,
    /// 95 % interval of the mean IoU at 0.4 of the maximum, from drawing scenes anew.
    #[serde(rename = "iou_0.4_interval")]
    pub interval: [f64; 2],
    /// Mean IoU at 0.4 of the maximum at each noise level.
    #[serde(rename = "iou_0.4_at_timestep", skip_serializing_if = "BTreeMap::is_empty")]
    pub by_timestep: BTreeMap<usize, f64>,
    /// Mean IoU at 0.4 of the maximum of each word.
    #[serde(rename = "iou_0.4_of_word")]
    pub by_word: BTreeMap<String, f64>,
    /// The IoU over classes, where words stand for them.
    #[serde(flatten)]
    pub classes: ClassIou,
    /// Number of (scene, noise level, word) that were measured.
    pub count: usize,
}

/// What [`measure`] found. The order is that of the rules, baselines in the order of the docs of
/// [`measure`].
#[derive(Debug, Clone)]
pub struct Evaluation {
    /// Number of scenes.
    pub scenes: usize,
    /// Number of objects in them.
    pub objects: usize,
    /// The rules with their figures.
    pub rules: Vec<(String, Figures)>,
    /// The baselines with theirs.
    pub baselines: Vec<(String, Figures)>,
}

/// What one scene gave: (timestep, word, figures). A baseline that does not depend on the noise has
/// no timestep.
type OfScene = Vec<(Option<usize>, String, Accuracy)>;

/// All figures of one rule.
#[derive(Debug, Clone, Default)]
struct Measured {
    /// One group per scene.
    groups: Vec<OfScene>,
    classes: Classes,
}

impl Measured {
    fn figures(&self) -> Figures {
        let all: Vec<Accuracy> = self.groups.iter().flatten().map(|(.., accuracy)| *accuracy).collect();
        let of = |values: Vec<f64>| values.iter().sum::<f64>() / values.len().max(1) as f64;
        let (mut by_timestep, mut by_word) = (BTreeMap::<_, Vec<f64>>::new(), BTreeMap::<_, Vec<f64>>::new());
        for (timestep, word, accuracy) in self.groups.iter().flatten() {
            if let Some(timestep) = timestep {
                by_timestep.entry(*timestep).or_default().push(accuracy.iou_04);
            }
            by_word.entry(normalized(word)).or_default().push(accuracy.iou_04);
        }
        let groups = self.groups.iter().map(|scene| scene.iter().map(|(.., accuracy)| accuracy.iou_04).collect());
        let Interval { low, high, .. } = bootstrap(&groups.collect::<Vec<_>>(), SEED);
        Figures {
            mean: Accuracy::mean(&all),
            interval: [low, high],
            by_timestep: by_timestep.into_iter().map(|(timestep, values)| (timestep, of(values))).collect(),
            by_word: by_word.into_iter().map(|(word, values)| (word, of(values))).collect(),
            classes: self.classes.iou(),
            count: all.len(),
        }
    }
}

/// The rules that are always measured: the named aggregates, and each resolution that DAAM's rule
/// takes on its own.
pub fn standard_rules(sites: &[Site], latent: Grid) -> Vec<Rule> {
    let named = crate::heatmap::NAMED.iter().filter_map(|named| Aggregate::named(named.name).ok());
    // Not every trace holds what these are made of.
    let named = named.filter(|aggregate| aggregate.measure != Measure::Goca);
    let mut rules: Vec<Rule> = named.map(|aggregate| Rule { name: aggregate.name.clone(), aggregate }).collect();
    let daam = || Aggregate::named("daam").expect("daam is in the table");
    let mut grids: Vec<Grid> = Vec::new();
    for index in daam().choose(sites, latent).unwrap_or_default() {
        let grid = Grid::new(sites[index].height, sites[index].width);
        if !grids.contains(&grid) {
            grids.push(grid);
        }
    }
    grids.sort_by_key(|grid| std::cmp::Reverse(grid.cells()));
    rules.extend(grids.iter().map(|&grid| Rule {
        name: format!("resolution {}x{}", grid.width, grid.height),
        aggregate: daam().narrowed(SiteFilter::Resolutions(vec![Resolution::Exact(grid)])),
    }));
    rules.retain(|rule| rule.aggregate.choose(sites, latent).is_ok());
    rules
}

/// One rule per site, named by its path.
pub fn site_rules(sites: &[Site]) -> Vec<Rule> {
    let rule = |site: &Site| {
        let path = site.path.trim_end_matches(".transformer_blocks.0.attn2");
        let pattern = site.path.parse().ok()?;
        let aggregate = Aggregate::named("all").ok()?.narrowed(SiteFilter::Layers(vec![pattern]));
        Some(Rule { name: path.to_string(), aggregate })
    };
    sites.iter().filter_map(rule).collect()
}

/// A scene seen by the network at one noise level.
#[derive(Debug, Clone)]
pub struct Look {
    /// Which level.
    pub timestep: usize,
    /// The attention of the single call.
    pub trace: Trace,
    /// The scene's objects as words of the prompt, in order.
    pub words: Vec<WordInfo>,
}

/// What competes with the things for each place where attention is joint, so that a lone thing does
/// not have all places. These are the words of ConceptAttention's experiments on VOC (its authors'
/// code, `experiments/pascal_voc_segmentation`).
const BACKGROUNDS: [&str; 5] = ["background", "floor", "grass", "tree", "sky"];

/// As [`look_at`] at [`TIMESTEPS`].
///
/// # Errors
/// As [`look_at`].
pub fn look(pipeline: &Pipeline, scene: &Scene, index: usize) -> Result<Vec<Look>> {
    look_at(pipeline, scene, index, &TIMESTEPS, false)
}

/// Noises `scene`, the `index`-th of its set, to each of `levels` and traces one call of the
/// denoiser with the caption alone. `goca` keeps what GoCA's maps are made of.
///
/// The noise of level t is `torch.randn` with a CPU generator seeded with 1000 x index + t.
///
/// # Errors
/// [`Error::Argument`] when an object's bytes are no word of the caption; those of the networks.
pub fn look_at(pipeline: &Pipeline, scene: &Scene, index: usize, levels: &[usize], goca: bool) -> Result<Vec<Look>> {
    let keep = RecordOptions { per_step: false, goca, ..RecordOptions::default() };
    let prompt = pipeline.tokenize(&scene.caption)?;
    let info = PromptInfo::from(&prompt);
    let words = scene.objects.iter().map(|object| word_at(&info, object, &scene.name)).collect::<Result<Vec<_>>>()?;
    // Where attention is joint, the things and backgrounds are the concepts that share each place
    // out.
    let joint = pipeline.has_joint_attention();
    let concepts: Vec<String> = scene.objects.iter().filter(|_| joint).map(|object| object.word.clone()).collect();
    let is_new = |name: &&&str| joint && !concepts.iter().any(|word| normalized(word) == **name);
    let probes = BACKGROUNDS.iter().filter(is_new).map(|name| (*name).to_owned()).collect();
    let seed = index as u64;
    let options = LookOptions { levels: levels.to_vec(), seed, concepts, probes, ..LookOptions::default() };
    let run = pipeline.look_run(Grid::new(scene.image.height() as usize, scene.image.width() as usize), &options);
    let look = |noised: &Noised| -> Result<Look> {
        let once = std::slice::from_ref(noised);
        let trace = pipeline.trace_noised(&prompt, once, &run, &keep, &mut || ControlFlow::Continue(()))?;
        Ok(Look { timestep: noised.timestep, trace, words: words.clone() })
    };
    pipeline.noise_picture(&scene.image, &options)?.iter().map(look).collect()
}

/// The object's tokens: those whose bytes lie in its range.
fn word_at(prompt: &PromptInfo, object: &Object, scene: &str) -> Result<WordInfo> {
    let Range { start, end } = object.range;
    let tokens = prompt.tokens_within(&object.range);
    if tokens.is_empty() {
        let reason = format!(
            "{} at bytes {start} to {end} is no word of the caption {}",
            crate::in_quotes(&object.word),
            crate::in_quotes(&prompt.text)
        );
        return Err(Error::input(scene, reason));
    }
    Ok(WordInfo { text: object.word.clone(), start, end, tokens, occurrence: 1 })
}

/// What of a data set is measured.
#[derive(Debug, Clone)]
pub struct Extent {
    /// The timesteps of training that its pictures are noised to.
    pub levels: Vec<usize>,
    /// The first so many pictures alone.
    pub pictures: usize,
}

/// Measures every rule on every scene that shows something, and the baselines beside them. These
/// are the whole image, and a disk in the middle with a quarter of the short side as radius.
/// Another word's map is one too, that of the next object under `last-up`, in scenes of several
/// objects. The last is the exact mask averaged over the cells of the latent grid, which no map of
/// that grid can be expected to exceed.
///
/// # Errors
/// Those of the data set, of [`look_at`] and of the aggregates; [`Error::Interrupted`] when
/// `progress`, told of every scene done, breaks.
pub fn measure(
    pipeline: &Pipeline,
    data: &DataSet,
    extent: &Extent,
    rules: &[Rule],
    progress: &mut dyn FnMut(usize) -> ControlFlow<()>,
) -> Result<Evaluation> {
    let mut measured = vec![Measured::default(); rules.len()];
    let names = ["whole image", "centre disk", "another word's map", "exact mask on the latent grid"];
    let mut baselines = vec![Measured::default(); names.len()];
    let other = Aggregate::named("last-up")?;
    let (mut scenes, mut objects) = (0, 0);
    let goca = rules.iter().any(|rule| rule.aggregate.measure == Measure::Goca);
    let own = pipeline.default_options();
    let size = Grid::new(own.height, own.width);
    for index in 0..extent.pictures.min(data.len()) {
        let scene = data.scene(index, size)?;
        if progress(index + 1).is_break() {
            return Err(Error::Interrupted);
        }
        if scene.objects.is_empty() {
            continue;
        }
        (scenes, objects) = (scenes + 1, objects + scene.objects.len());
        let image = Grid::new(scene.image.height() as usize, scene.image.width() as usize);
        let looks = look_at(pipeline, &scene, index, &extent.levels, goca)?;
        let latent = looks[0].trace.about.latent;
        let judge = |measured: &mut Measured, timestep: Option<usize>, maps: &[Vec<f32>]| {
            let one =
                |(map, object): (&Vec<f32>, &Object)| (timestep, object.word.clone(), Accuracy::of(map, &object.mask));
            measured.classes.add(&scene, maps);
            maps.iter().zip(&scene.objects).map(one).collect::<Vec<_>>()
        };
        for (rule, measured) in rules.iter().zip(&mut measured) {
            let mut group = Vec::new();
            for look in &looks {
                let maps = aggregate(&look.trace, &rule.aggregate, &look.words)?;
                let maps: Vec<_> =
                    (0..scene.objects.len()).map(|word| to_image(maps.word(word), latent, image)).collect();
                group.extend(judge(measured, Some(look.timestep), &maps));
            }
            measured.groups.push(group);
        }
        let everywhere = vec![vec![1.0; image.cells()]; scene.objects.len()];
        let middle = vec![disk(image); scene.objects.len()];
        let exact = |object: &Object| to_image(&cells(&object.mask, image, latent), latent, image);
        let exact: Vec<_> = scene.objects.iter().map(exact).collect();
        for (at, maps) in [(0, everywhere), (1, middle), (3, exact)] {
            let group = judge(&mut baselines[at], None, &maps);
            baselines[at].groups.push(group);
        }
        let mut group = Vec::new();
        for look in looks.iter().filter(|_| scene.objects.len() > 1) {
            let Ok(maps) = aggregate(&look.trace, &other, &look.words) else { continue };
            let next = |word: usize| to_image(maps.word((word + 1) % scene.objects.len()), latent, image);
            let maps: Vec<_> = (0..scene.objects.len()).map(next).collect();
            group.extend(judge(&mut baselines[2], Some(look.timestep), &maps));
        }
        baselines[2].groups.push(group);
    }
    let table = |names: &mut dyn Iterator<Item = String>, measured: &[Measured]| {
        names.zip(measured.iter().map(Measured::figures)).filter(|(_, figures)| figures.count > 0).collect()
    };
    Ok(Evaluation {
        scenes,
        objects,
        rules: table(&mut rules.iter().map(|rule| rule.name.clone()), &measured),
        baselines: table(&mut names.iter().map(|name| (*name).to_string()), &baselines),
    })
}

/// The share of each cell that a mask covers.
fn cells(mask: &[bool], image: Grid, grid: Grid) -> Vec<f32> {
    let (mut inside, mut all) = (vec![0.0f32; grid.cells()], vec![0.0f32; grid.cells()]);
    for (pixel, &on) in mask.iter().enumerate() {
        let (row, column) = (pixel / image.width, pixel % image.width);
        let cell = row * grid.height / image.height * grid.width + column * grid.width / image.width;
        all[cell] += 1.0;
        inside[cell] += f32::from(u8::from(on));
    }
    inside.iter().zip(all).map(|(inside, all)| inside / all.max(1.0)).collect()
}

/// A disk in the middle of the picture, a quarter of its short side in radius.
fn disk(image: Grid) -> Vec<f32> {
    let radius = image.height.min(image.width) as f32 / 4.0;
    let inside = |pixel: usize| {
        let y = (pixel / image.width) as f32 + 0.5 - image.height as f32 / 2.0;
        let x = (pixel % image.width) as f32 + 0.5 - image.width as f32 / 2.0;
        if y * y + x * x <= radius * radius { 1.0 } else { 0.0 }
    };
    (0..image.cells()).map(inside).collect()
}
