//! An observer of one's own: how sharply does each head look at the prompt?
//!
//! The entropy of a head's attention, in bits, averaged over grid cells and steps: 0 is one token
//! only, log2(tokens) is no preference at all.
//!
//! `cargo run --release --example custom_observer`

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use attnmap::Result;
use attnmap::checkpoint::{Checkpoint, OpenOptions, Source};
use attnmap::pipeline::{LoadOptions, Pipeline};
use attnmap::trace::{AttentionKind, AttentionObserver, Site, Step};
use candle_core::{D, IndexOp, Tensor};

/// Sums of each head's entropy, by site.
#[derive(Default)]
struct Entropy {
    step: Option<Step>,
    sums: BTreeMap<usize, (String, Vec<f32>)>,
}

impl AttentionObserver for Entropy {
    fn wants(&self, site: &Site) -> bool {
        site.kind == AttentionKind::Cross
    }

    fn begin_step(&mut self, step: &Step) -> Result<()> {
        self.step = Some(*step);
        Ok(())
    }

    fn observe(&mut self, site: &Site, probabilities: &Tensor) -> Result<()> {
        let Some(step) = self.step else { return Ok(()) };
        let rows = probabilities.i(step.conditional_rows())?;
        let bits = (&rows * (&rows + 1e-12)?.log()?)?.sum(D::Minus1)?.affine(-std::f64::consts::LOG2_E, 0.0)?;
        let heads = bits.mean(D::Minus1)?.mean(0)?.to_vec1::<f32>()?;
        let (_, sums) = self.sums.entry(site.index).or_insert_with(|| (site.path.clone(), vec![0.0; site.heads]));
        sums.iter_mut().zip(heads).for_each(|(sum, bits)| *sum += bits);
        Ok(())
    }
}

fn main() -> Result<()> {
    let checkpoint = Checkpoint::open(&Source::Embedded, &OpenOptions::default())?;
    let pipeline = Pipeline::load(&checkpoint, &LoadOptions::default())?;
    let prompt = pipeline.tokenize("a red apple to the left of a blue heart on the beach")?;
    let mut observer = Entropy::default();
    let run =
        pipeline.generate(&prompt, &pipeline.default_options(), &mut observer, &mut |_| ControlFlow::Continue(()))?;
    for (path, sums) in observer.sums.values() {
        let bits: Vec<_> = sums.iter().map(|sum| format!("{:.2}", sum / run.timesteps.len() as f32)).collect();
        println!("{path:70} {} bits a head", bits.join(" "));
    }
    Ok(())
}
