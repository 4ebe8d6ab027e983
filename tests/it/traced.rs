//! A fixture's checkpoint, opened, and its runs with all that they record.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use attnmap::checkpoint::{Checkpoint, OpenOptions, Source};
use attnmap::pipeline::{Event, LoadOptions, Options, Pipeline, RecordOptions, Traced};

pub fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

/// The pipeline of the checkpoint that is the folder `name` of the fixtures.
pub fn load(name: &str) -> Pipeline {
    let checkpoint = Checkpoint::open(&Source::Folder(fixtures().join(name)), &OpenOptions::default()).unwrap();
    Pipeline::load(&checkpoint, &LoadOptions::default()).unwrap()
}

/// The images of `prompt` and their traces with what `keep` names.
pub fn traced(pipeline: &Pipeline, prompt: &str, options: &Options, keep: RecordOptions) -> Vec<Traced> {
    let quiet = &mut |_: Event| ControlFlow::Continue(());
    pipeline.trace(&pipeline.tokenize(prompt).unwrap(), options, keep, quiet).unwrap().0
}
