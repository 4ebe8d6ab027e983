//! Where the words of a caption lie in an existing picture, from Rust.
//!
//! `cargo run --release --example trace_picture -- PICTURE "a red apple to the left of a blue heart
//! on the beach"`

use std::ops::ControlFlow;
use std::path::Path;

use attnmap::checkpoint::{Checkpoint, OpenOptions, Source};
use attnmap::heatmap::{self, Aggregate};
use attnmap::picture;
use attnmap::pipeline::{LoadOptions, LookOptions, Pipeline, RecordOptions};
use attnmap::trace::Grid;

fn main() -> attnmap::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (Some(path), Some(caption)) = (arguments.next(), arguments.next()) else {
        eprintln!("usage: trace_picture PICTURE CAPTION");
        std::process::exit(2);
    };
    let checkpoint = Checkpoint::open(&Source::Embedded, &OpenOptions::default())?;
    let pipeline = Pipeline::load(&checkpoint, &LoadOptions::default())?;

    let given = picture::read(Path::new(&path), attnmap::argument::IMAGE)?;
    let [height, width] = pipeline.defaults().size;
    let own = Grid::new(given.height() as usize, given.width() as usize);
    let size = picture::fit(own, Grid::new(height, width), pipeline.vae_factor(), attnmap::argument::IMAGE)?;
    let image = picture::resize(&given, size.width as u32, size.height as u32);

    let prompt = pipeline.tokenize(&caption)?;
    let options = LookOptions::default();
    let keep = RecordOptions { per_step: false, ..RecordOptions::default() };
    let trace = pipeline.trace_picture(&image, &prompt, &options, &keep, &mut || ControlFlow::Continue(()))?;
    let maps = heatmap::aggregate(&trace, &Aggregate::default(), &trace.about.prompt.words)?;
    for (index, word) in maps.chosen.iter().enumerate() {
        if let Some(peak) = maps.layout(index, heatmap::THRESHOLD).peak {
            println!("{:10} is at {:3.0}, {:3.0}", word.text, peak.x * size.width as f32, peak.y * size.height as f32);
        }
    }
    Ok(())
}
