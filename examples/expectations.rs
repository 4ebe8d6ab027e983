//! How often expectations are judged wrongly: the table of ACCURACY.md, with the default
//! checkpoint.
//!
//! `cargo run --release --example expectations -- tests/data/scenes/select tests/data/scenes/final`
//!
//! The scenes have masks, which say what is there and where. Some expectations are met by the masks
//! and some are not. They are judged by the maps of a look with the scene's caption. Those of
//! presence are judged by a look for the thing alone. For each folder it also prints a gain: with
//! the fewest errors it parts the words that are there from those that are not. The first folder's
//! gain is the bound in use.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;

use attnmap::checkpoint::{Checkpoint, OpenOptions, Source};
use attnmap::evidence::accuracy::{Object, TIMESTEPS, read_scenes};
use attnmap::facts::expect::{Expectations, Sighting};
use attnmap::heatmap::{Aggregate, THRESHOLD};
use attnmap::pipeline::{LoadOptions, LookOptions, Pipeline, RecordOptions};
use attnmap::trace::{Grid, Trace};
use attnmap::{Error, Result};
use image::RgbImage;

/// Kinds of words that the default checkpoint knows and that are no things.
const NO_THINGS: [&str; 5] = ["colours", "sizes", "places", "relations", "numbers"];

/// Centres of masks nearer than this to each other, or to the middle, are on no side.
const CLEAR: f64 = 0.1;

/// Judged as met: of what is so, and of what is not.
#[derive(Debug, Clone, Copy, Default)]
struct Count {
    met: usize,
    so: usize,
    met_wrongly: usize,
    not_so: usize,
}

#[derive(Default)]
struct Found {
    counts: BTreeMap<&'static str, Count>,
    /// Gains of sightings: of things that are there, and of others.
    gains: [Vec<f32>; 2],
}

fn main() -> Result<()> {
    let checkpoint = Checkpoint::open(&Source::Embedded, &OpenOptions::default())?;
    let pipeline = Pipeline::load(&checkpoint, &LoadOptions::default())?;
    let kinds = checkpoint.defaults.kinds.iter().flatten().filter(|(kind, _)| !NO_THINGS.contains(&kind.as_str()));
    let known: Vec<&str> = kinds.flat_map(|(_, words)| words.iter().map(String::as_str)).collect();
    let folders: Vec<String> = std::env::args().skip(1).collect();
    if folders.is_empty() {
        return Err(Error::input("expectations", "give folders of scenes, such as tests/data/scenes/final"));
    }
    for folder in folders {
        let mut found = Found::default();
        for (index, scene) in read_scenes(Path::new(&folder))?.iter().enumerate() {
            let places = found.places(&pipeline, index, &scene.image, &scene.caption, &scene.objects);
            places.and_then(|()| {
                found.presence(&pipeline, index, (&scene.image, &scene.caption), &scene.objects, &known)
            })?;
        }
        println!("{folder}\n| expectation | not met, of what is so | met, of what is not |\n| --- | --- | --- |");
        let share =
            |part: usize, all: usize| format!("{part} of {all} ({:.1} %)", 100.0 * part as f64 / all.max(1) as f64);
        for (name, Count { met, so, met_wrongly, not_so }) in &found.counts {
            println!("| {name} | {} | {} |", share(so - met, *so), share(*met_wrongly, *not_so));
        }
        let [there, not] = &found.gains;
        let errors = |at: f32| {
            let share = |values: &[f32], wrong: &dyn Fn(f32) -> bool| {
                values.iter().filter(|value| wrong(**value)).count() as f64 / values.len().max(1) as f64
            };
            share(there, &|value| value < at) + share(not, &|value| value >= at)
        };
        let all: Vec<f32> = there.iter().chain(not).copied().collect();
        let least = all.iter().map(|&at| errors(at)).fold(f64::INFINITY, f64::min);
        let best: Vec<f32> = all.into_iter().filter(|&at| errors(at) <= least).collect();
        let ends = best.iter().fold([f32::INFINITY, 0.0], |[low, high], &at| [low.min(at), high.max(at)]);
        println!(
            "gain that parts what is there from what is not: {ends:.2?} (both errors together {:.1} %)\n",
            100.0 * least
        );
    }
    Ok(())
}

/// What the network makes of `image` with `caption`.
fn look(pipeline: &Pipeline, index: usize, image: &RgbImage, caption: &str) -> Result<Trace> {
    let look = LookOptions { levels: TIMESTEPS.to_vec(), seed: index as u64, ..LookOptions::default() };
    let keep = RecordOptions { per_step: false, ..RecordOptions::default() };
    pipeline.trace_picture(image, &pipeline.tokenize(caption)?, &look, &keep, &mut || ControlFlow::Continue(()))
}

/// Left, top, right and bottom of what is in `mask`, and its centre, in shares of the sides.
fn extent(mask: &[bool], image: Grid) -> ([f64; 4], [f64; 2]) {
    let (mut bounds, mut sum, mut count) = ([1.0, 1.0, 0.0, 0.0f64], [0.0; 2], 0.0);
    for (pixel, _) in mask.iter().enumerate().filter(|(_, inside)| **inside) {
        let (x, y) = ((pixel % image.width) as f64, (pixel / image.width) as f64);
        let (w, h) = (image.width as f64, image.height as f64);
        bounds = [
            f64::min(bounds[0], x / w),
            f64::min(bounds[1], y / h),
            f64::max(bounds[2], (x + 1.0) / w),
            f64::max(bounds[3], (y + 1.0) / h),
        ];
        sum = [sum[0] + (x + 0.5) / w, sum[1] + (y + 0.5) / h];
        count += 1.0;
    }
    (bounds, sum.map(|sum| sum / f64::max(count, 1.0)))
}

impl Found {
    /// Judges one expectation, whose truth is known. Returns the figure that decided.
    fn judge(
        &mut self,
        name: &'static str,
        (trace, seen): (&Trace, &[Sighting]),
        expectation: &str,
        so: bool,
    ) -> Result<Option<f32>> {
        let expect: Expectations = expectation.parse()?;
        let outcome = expect.check(trace, &Aggregate::default(), THRESHOLD, seen)?.remove(0);
        let met = outcome.met == Some(true);
        let count = self.counts.entry(name).or_default();
        match so {
            true => (count.so, count.met) = (count.so + 1, count.met + usize::from(met)),
            false => (count.not_so, count.met_wrongly) = (count.not_so + 1, count.met_wrongly + usize::from(met)),
        }
        Ok(outcome.figure.map(|figure| figure.value))
    }

    /// Relations, sides and boxes, as the masks have them and as they do not.
    fn places(
        &mut self,
        pipeline: &Pipeline,
        index: usize,
        image: &RgbImage,
        caption: &str,
        objects: &[Object],
    ) -> Result<()> {
        let size = Grid::new(image.height() as usize, image.width() as usize);
        let trace = look(pipeline, index, image, caption)?;
        let extents: Vec<_> = objects.iter().map(|object| (object.word.as_str(), extent(&object.mask, size))).collect();
        let of_box = |[left, top, right, bottom]: [f64; 4]| format!("{left},{top},{},{}", right - left, bottom - top);
        let axes = [["left", "right"], ["top", "bottom"]];
        let relations = [["left of", "right of"], ["above", "below"]];
        for (at, (word, (bounds, centre))) in extents.iter().enumerate() {
            for axis in 0..2 {
                let off = centre[axis] - 0.5;
                if off.abs() >= CLEAR {
                    let side = usize::from(off > 0.0);
                    self.judge("THING@SIDE", (&trace, &[]), &format!("{word}@{}", axes[axis][side]), true)?;
                    self.judge("THING@SIDE", (&trace, &[]), &format!("{word}@{}", axes[axis][1 - side]), false)?;
                }
            }
            self.judge("THING@X,Y,W,H", (&trace, &[]), &format!("{word}@{}", of_box(*bounds)), true)?;
            for (other, (other_bounds, other_centre)) in &extents[at + 1..] {
                self.judge("THING@X,Y,W,H", (&trace, &[]), &format!("{word}@{}", of_box(*other_bounds)), false)?;
                self.judge("THING@X,Y,W,H", (&trace, &[]), &format!("{other}@{}", of_box(*bounds)), false)?;
                for axis in 0..2 {
                    let off = centre[axis] - other_centre[axis];
                    if off.abs() >= CLEAR {
                        let says = |side: usize| format!("{word} {} {other}", relations[axis][side]);
                        let side = usize::from(off > 0.0);
                        self.judge("THING RELATION THING", (&trace, &[]), &says(side), true)?;
                        self.judge("THING RELATION THING", (&trace, &[]), &says(1 - side), false)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Whether things are there: words of the caption, and words that it lacks, of those `known`.
    fn presence(
        &mut self,
        pipeline: &Pipeline,
        index: usize,
        (image, caption): (&RgbImage, &str),
        objects: &[Object],
        known: &[&str],
    ) -> Result<()> {
        let there: Vec<&str> = objects.iter().map(|object| object.word.as_str()).collect();
        let others: Vec<&str> = known.iter().copied().filter(|thing| !there.contains(thing)).collect();
        let [Some(_), Some(_)] = [there.first(), others.first()] else {
            return Ok(());
        };
        // As many things that are there as are not; the caption takes no part in it.
        let trace = look(pipeline, index, image, caption)?;
        let not: Vec<&str> = (0..there.len()).map(|at| others[(index + at) % others.len()]).collect();
        for (things, is_there) in [(&there, true), (&not, false)] {
            let things: Vec<String> = things.iter().map(|thing| (*thing).to_owned()).collect();
            let seen = pipeline.look_for(image, &things)?;
            for thing in things {
                let name = "no THING";
                let gain = self.judge(name, (&trace, &seen), &format!("no {thing}"), !is_there)?;
                self.gains[usize::from(!is_there)].extend(gain);
            }
        }
        Ok(())
    }
}
