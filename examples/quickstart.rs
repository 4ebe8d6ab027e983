//! The main job from Rust: an image, and where each word of its prompt looked.
//!
//! `cargo run --release --example quickstart`

use std::ops::ControlFlow;

use attnmap::checkpoint::{Checkpoint, OpenOptions, Source};
use attnmap::heatmap::{self, Aggregate};
use attnmap::pipeline::{LoadOptions, Pipeline, RecordOptions};

fn main() -> attnmap::Result<()> {
    let checkpoint = Checkpoint::open(&Source::Embedded, &OpenOptions::default())?;
    let pipeline = Pipeline::load(&checkpoint, &LoadOptions::default())?;
    let prompt = pipeline.tokenize("a red apple to the left of a blue heart on the beach")?;
    let options = pipeline.default_options();
    let (runs, _) = pipeline.trace(&prompt, &options, RecordOptions::default(), &mut |_| ControlFlow::Continue(()))?;
    let trace = &runs[0].trace;
    let maps = heatmap::aggregate(trace, &Aggregate::default(), &trace.about.prompt.words)?;

    for (index, word) in maps.chosen.iter().enumerate() {
        let layout = maps.layout(index, heatmap::THRESHOLD);
        println!("{:10} {:5.1} % of the attention, peak at {:?}", word.text, 100.0 * layout.share, layout.peak);
    }
    Ok(())
}
