//! Inputs and outputs of single blocks, made by diffusers (`tests/fixtures/make_numbers.py`); for
//! unit tests.

use super::layers::{Builder, FeatureMap, MemoryOrder};
use crate::checkpoint::{Checkpoint, OpenOptions, Part, Source};
use candle_core::{DType, Device, Tensor};
use std::collections::HashMap;
use std::path::Path;

pub(super) const CHECKPOINTS: [&str; 2] = ["tiny-sd1", "tiny-sd2"];
pub(super) const LAYOUTS: [MemoryOrder; 2] = [MemoryOrder::Nchw, MemoryOrder::Nhwc];

/// A tiny checkpoint and what diffusers' blocks made of some inputs.
pub(super) struct Fixture {
    pub(super) checkpoint: Checkpoint,
    numbers: HashMap<String, Tensor>,
}

impl Fixture {
    pub(super) fn new(name: &str) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
        let checkpoint = Checkpoint::open(&Source::Folder(folder.join(name)), &OpenOptions::default()).unwrap();
        let file = folder.join(format!("model/{name}.safetensors"));
        Self { checkpoint, numbers: candle_core::safetensors::load(file, &Device::Cpu).unwrap() }
    }

    pub(super) fn builder(&self, part: Part, layout: MemoryOrder) -> Builder<'static> {
        let weights = self.checkpoint.weights(part).unwrap();
        Builder::with_layout(weights.var_builder(DType::F32, &Device::Cpu), layout)
    }

    /// The tensor that diffusers' block `name` was given or gave, e.g. `unet-block/mid_block/in/0`.
    pub(super) fn get(&self, name: &str) -> Tensor {
        self.numbers.get(name).unwrap_or_else(|| panic!("no {name}")).clone()
    }

    pub(super) fn grid(&self, name: &str, layout: MemoryOrder) -> FeatureMap {
        FeatureMap::from_nchw(&self.get(name), layout).unwrap()
    }

    #[track_caller]
    pub(super) fn assert_gives(&self, name: &str, output: &Tensor) {
        let truth = self.get(name);
        assert_eq!(output.dims(), truth.dims(), "{name}");
        let norm = |x: &Tensor| x.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap().sqrt();
        let error = norm(&(output - &truth).unwrap()) / norm(&truth);
        println!("{name}: {error:.1e}");
        assert!(error <= 5e-6, "{name}: relative error {error:.2e}");
    }
}
