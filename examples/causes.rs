//! How often the cause at a place is right: the figures of ACCURACY.md for `attnmap ask --cause`,
//! with the default checkpoint.
//!
//! `cargo run --release --example causes -- tests/data/scenes/final`
//!
//! Every object of the scenes is asked about by its mask, by the box around it and by its centre.
//! Every word of the caption that could be drawn is cut. The words are ranked by what that changes
//! in the place. The noun of the object should come first. Beside it: how often the noun has the
//! largest share of the attention there.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;

use attnmap::checkpoint::{Checkpoint, OpenOptions, Source};
use attnmap::evidence::accuracy::{TIMESTEPS, read_scenes};
use attnmap::evidence::{Cut, Row, changes};
use attnmap::facts::lexicon::{Role, role};
use attnmap::facts::region::{Place, by_cause, rank};
use attnmap::heatmap::{Aggregate, THRESHOLD};
use attnmap::pipeline::{LoadOptions, LookOptions, Pipeline};
use attnmap::trace::{Grid, PromptInfo, WordInfo};
use attnmap::{Error, Result};
use candle_core::Tensor;

/// Of so many objects, so many whose noun came first.
type Count = (usize, usize);

fn main() -> Result<()> {
    let checkpoint = Checkpoint::open(&Source::Embedded, &OpenOptions::default())?;
    let pipeline = Pipeline::load(&checkpoint, &LoadOptions::default())?;
    let folders: Vec<String> = std::env::args().skip(1).collect();
    if folders.is_empty() {
        return Err(Error::input("causes", "give folders of scenes, such as tests/data/scenes/final"));
    }
    for folder in folders {
        let mut counts: BTreeMap<String, Count> = BTreeMap::new();
        measure(&pipeline, Path::new(&folder), &mut counts)?;
        println!("{folder}: the noun of the object at the place comes first");
        for (name, (first, all)) in counts {
            println!("  {name}: {first} of {all} ({:.1} %)", 100.0 * first as f64 / all.max(1) as f64);
        }
    }
    Ok(())
}

fn measure(pipeline: &Pipeline, folder: &Path, counts: &mut BTreeMap<String, Count>) -> Result<()> {
    for (index, scene) in read_scenes(folder)?.iter().enumerate() {
        let prompt = pipeline.tokenize(&scene.caption)?;
        let info = PromptInfo::from(&prompt);
        let image = Grid::new(scene.image.height() as usize, scene.image.width() as usize);
        let look = LookOptions { levels: TIMESTEPS.to_vec(), seed: index as u64, ..LookOptions::default() };
        let options = pipeline.look_run(image, &look);
        let noised = pipeline.noise_picture(&scene.image, &look)?;
        let steps: Vec<(&Tensor, f64)> = noised.iter().map(|noised| (&noised.latent, noised.timestep as f64)).collect();
        let trace = pipeline.observe(&prompt, &options, &steps)?;
        let cut: Vec<&WordInfo> = info.words.iter().filter(|word| role(&word.text) != Role::Filler).collect();
        let rows = cut.iter().map(|word| Row::cut(pipeline, &prompt, &[word], Cut::Substitute));
        let rows = rows.collect::<Result<Vec<_>>>()?;
        let go = &mut || ControlFlow::Continue(());
        let found = changes(pipeline, &options, &Row::whole(&prompt), &rows, &steps, 8, go)?;
        let causal = |word: usize| {
            let place = cut.iter().position(|cut| **cut == info.words[word])?;
            Some(found[place].map.as_slice())
        };
        for object in &scene.objects {
            let Some(noun) = info.words.iter().find(|word| object.range == (word.start..word.end)) else { continue };
            let inside = || object.mask.iter().enumerate().filter(|(_, inside)| **inside);
            let ends = |of: &dyn Fn(usize) -> usize| {
                let all = || inside().map(|(pixel, _)| of(pixel));
                (all().min().unwrap_or(0) as f64, all().max().unwrap_or(0) as f64 + 1.0)
            };
            let ((left, right), (top, bottom)) =
                (ends(&|pixel| pixel % image.width), ends(&|pixel| pixel / image.width));
            let centre = [0.5 * (left + right), 0.5 * (top + bottom)];
            let places = [
                ("its mask", Place::Mask(object.mask.clone(), image)),
                ("the box around it", Place::Box([left, top, right, bottom], image)),
                ("the centre of that box", Place::Point(centre, image)),
            ];
            for (name, place) in places {
                let mut parts = rank(&trace, &Aggregate::default(), &info.words, &place, THRESHOLD, &causal)?;
                let by_attention = parts.iter().find(|part| role(&part.word) != Role::Filler);
                let attention = by_attention.is_some_and(|part| part.word == noun.text);
                by_cause(&mut parts, &info);
                let cause = parts.first().is_some_and(|part| part.word == noun.text);
                for (what, is_first) in [("by cause", cause), ("by attention, of words that could be drawn", attention)]
                {
                    let count = counts.entry(format!("{what}, {name}")).or_default();
                    count.0 += usize::from(is_first);
                    count.1 += 1;
                }
            }
        }
    }
    Ok(())
}
