//! How often each kind of evidence names the thing that is there first: the table of ACCURACY.md,
//! with the default checkpoint.
//!
//! `cargo run --release --example attribution -- tests/data/scenes/final 40`
//!
//! The scenes have masks, which say where each thing lies. For every thing its mask is the region.
//! Each kind of evidence ranks the words of the caption that could be drawn. It is right where the
//! thing's own noun comes first. Chance is one over their number. The second argument says how many
//! scenes are taken, the first ones. Scenes are noised to timesteps 300, 450 and 600, as in
//! `attnmap eval`. `integrated` of token embeddings is left out: its integral needs hundreds of
//! points until it is complete. `attnmap attribute` takes them; over so many things they are days.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;

use attnmap::attribution::{Attribution, AttributionQuestion, AttributionTarget, Input, Inputs, Method, attribute};
use attnmap::checkpoint::{Checkpoint, OpenOptions, Source};
use attnmap::evidence::accuracy::{TIMESTEPS, bootstrap, read_scenes};
use attnmap::evidence::{Cut, Row, changes};
use attnmap::facts::lexicon::{Role, role};
use attnmap::facts::region::{Place, rank};
use attnmap::heatmap::{Aggregate, THRESHOLD};
use attnmap::pipeline::{LoadOptions, LookOptions, Pipeline};
use attnmap::trace::{Grid, PromptInfo};
use attnmap::{Error, Result};
use candle_core::Tensor;

/// How often each kind of evidence was right, one group per scene; and the gaps of the complete
/// methods.
#[derive(Default)]
struct Found {
    right: BTreeMap<String, Vec<Vec<f64>>>,
    gaps: Vec<f64>,
    chance: Vec<f64>,
}

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let folder = args.next().ok_or_else(|| Error::input("attribution", "give a folder of scenes"))?;
    let count = args.next().and_then(|count| count.parse().ok()).unwrap_or(usize::MAX);
    let checkpoint = Checkpoint::open(&Source::Embedded, &OpenOptions::default())?;
    let pipeline = Pipeline::load(&checkpoint, &LoadOptions { plain: true, ..LoadOptions::default() })?;
    let mut found = Found::default();
    for (index, scene) in read_scenes(Path::new(&folder))?.iter().take(count).enumerate() {
        let image = Grid::new(scene.image.height() as usize, scene.image.width() as usize);
        let look = LookOptions { levels: TIMESTEPS.to_vec(), seed: index as u64, ..LookOptions::default() };
        let options = pipeline.look_run(image, &look);
        let prompt = pipeline.prompt(&scene.caption, &options)?;
        let info = PromptInfo::from(&prompt);
        let noised = pipeline.noise_picture(&scene.image, &look)?;
        let steps: Vec<(Tensor, f64)> =
            noised.into_iter().map(|noised| (noised.latent, noised.timestep as f64)).collect();
        let calls: Vec<(&Tensor, f64)> = steps.iter().map(|(latent, timestep)| (latent, *timestep)).collect();
        let trace = pipeline.observe(&prompt, &options, &calls)?;
        let drawn: Vec<usize> =
            (0..info.words.len()).filter(|&word| role(&info.words[word].text) != Role::Filler).collect();
        let cut = |&word: &usize| Row::cut(&pipeline, &prompt, &[&info.words[word]], Cut::default());
        let rows = drawn.iter().map(cut).collect::<Result<Vec<_>>>()?;
        let whole = Row::whole(&prompt);
        let cuts = changes(&pipeline, &options, &whole, &rows, &calls, 8, &mut || ControlFlow::Continue(()))?;
        let inputs = [Input::States, Input::Tokens].map(|input| Inputs::new(&pipeline, &prompt, input, &options));
        let mut right: BTreeMap<String, Vec<f64>> = BTreeMap::new();
        for object in &scene.objects {
            let Some(own) = info.words.iter().position(|word| object.range == (word.start..word.end)) else { continue };
            let place = Place::Mask(object.mask.clone(), image);
            let Some(region) = place.on(trace.about.latent) else { continue };
            found.chance.push(1.0 / drawn.len() as f64);
            // The word with the largest value, of those that could be drawn.
            let mut tell = |kind: &str, value: &dyn Fn(usize) -> f64| {
                let first = drawn.iter().copied().max_by(|&a, &b| value(a).total_cmp(&value(b)));
                right.entry(kind.to_owned()).or_default().push(if first == Some(own) { 1.0 } else { 0.0 });
            };
            let parts = rank(&trace, &Aggregate::default(), &info.words, &place, THRESHOLD, &|_| None)?;
            let part = |word: usize| parts.iter().find(|part| part.word == info.words[word].label());
            tell("attention, share here", &|word| part(word).map_or(0.0, |part| part.share));
            tell("attention, × image", &|word| part(word).map_or(0.0, |part| part.lift));
            let change = |word: usize| cuts[drawn.iter().position(|&other| other == word).unwrap_or(0)].map.as_slice();
            tell("cut, change here", &|word| {
                let inside = change(word).iter().zip(region.weights());
                inside.map(|(change, weight)| f64::from(*change) * f64::from(*weight)).sum()
            });
            tell("cut, share of its change", &|word| region.share(change(word)));
            let target = AttributionTarget::new(&pipeline, &prompt, &options, &steps, &region)?;
            for (input, inputs) in [Input::States, Input::Tokens].into_iter().zip(&inputs) {
                let inputs = inputs.as_ref().map_err(|error| Error::bug(error.to_string()))?;
                for (_, method) in Method::NAMED {
                    if method == Method::Integrated && input == Input::Tokens {
                        continue;
                    }
                    let question = AttributionQuestion {
                        options: &options,
                        target: &target,
                        inputs,
                        method,
                        points: Some(32),
                        batch: 8,
                        players: &drawn,
                        budget: 64,
                    };
                    let Attribution { values, gap, .. } =
                        attribute(&pipeline, &question, &mut |_| ControlFlow::Continue(()))?;
                    tell(&format!("{method} of {input}"), &|word| values[word]);
                    found.gaps.extend(gap.filter(|_| method == Method::Integrated));
                }
            }
        }
        for (kind, own) in right {
            found.right.entry(kind).or_default().push(own);
        }
        eprint!("\r{} scenes, {} things", index + 1, found.chance.len());
    }
    eprintln!();
    println!("| evidence | the thing's own noun first | 95 % |\n| --- | --- | --- |");
    for (kind, groups) in &found.right {
        let all = bootstrap(groups, 5);
        let percent = |share: f64| format!("{:.1} %", 100.0 * share);
        println!("| {kind} | {} | {} to {} |", percent(all.mean), percent(all.low), percent(all.high));
    }
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len().max(1) as f64;
    let most = found.gaps.iter().copied().fold(0.0, f64::max);
    println!("\n{} things; chance {:.1} %.", found.chance.len(), 100.0 * mean(&found.chance));
    println!(
        "Completeness gap of `integrated`: mean {:.2} %, largest {:.2} %.",
        100.0 * mean(&found.gaps),
        100.0 * most
    );
    Ok(())
}
