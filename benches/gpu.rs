//! What a GPU gives: whether every tiny checkpoint's run there equals that of the CPU, how long a
//! step takes, and what recording costs.
//!
//! ```text
//! cargo bench --features cuda --bench gpu -- parity [--device cuda]
//! cargo bench --features cuda --bench gpu -- steps DIR [--device cuda] [--dtype f16] [--size 512] [--steps 20]
//! ```
//! `benches/gpu.sh` runs both beside diffusers. Nothing is asserted but that runs end; `--device
//! cpu` tries the bench itself.

use attnmap::checkpoint::{Checkpoint, OpenOptions, Source};
use attnmap::heatmap::{Aggregate, aggregate};
use attnmap::pipeline::{Init, LoadOptions, Options, Pipeline, RecordOptions, Traced, device_named, dtype_named};
use attnmap::trace::{Half, Unobserved};
use candle_core::{DType, Device};
use image::{GrayImage, Luma, Rgb, RgbImage};
use std::error::Error;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

const PROMPT: &str = "a red apple to the left of a blue heart on the beach";
/// Rows and columns in pixels of the runs that are compared.
const SIDE: u32 = 64;
const USAGE: &str = "gpu parity | steps DIR  [--device cuda] [--dtype f16] [--size 512] [--steps 20]";

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    attnmap::kernels::threads::init(None)?;
    let (mut device, mut dtype, mut size, mut steps) = ("cuda".to_owned(), "f16".to_owned(), 512, 20);
    let mut words = Vec::new();
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or(USAGE);
        match argument.as_str() {
            "--device" => device = value()?,
            "--dtype" => dtype = value()?,
            "--size" => size = value()?.parse()?,
            "--steps" => steps = value()?.parse()?,
            _ => words.push(argument),
        }
    }
    match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["parity"] => parity(&device),
        ["steps", folder] => time(Path::new(folder), (&device, &dtype), size, steps),
        // `cargo bench` runs every bench; this one needs to be told what to do.
        _ => {
            println!("{USAGE}");
            Ok(())
        }
    }
}

fn open(folder: &Path, device: Device, dtype: DType) -> Result<Pipeline> {
    let checkpoint = Checkpoint::open(&Source::Folder(folder.to_owned()), &OpenOptions::default())?;
    Ok(Pipeline::load(&checkpoint, &LoadOptions { device, dtype, ..LoadOptions::default() })?)
}

fn run(pipeline: &Pipeline, options: &Options) -> Result<Traced> {
    let prompt = pipeline.tokenize(PROMPT)?;
    let go_on = &mut |_: attnmap::pipeline::Event<'_>| ControlFlow::Continue(());
    Ok(pipeline.trace(&prompt, options, RecordOptions::default(), go_on)?.0.swap_remove(0))
}

/// What a checkpoint that inpaints is given: a picture of soft colours whose right half is drawn
/// anew.
fn half_of_a_picture() -> Init {
    let image = RgbImage::from_fn(SIDE, SIDE, |x, y| Rgb([(3 * x) as u8, (2 * y + 40) as u8, (200 - x - y) as u8]));
    let mask = GrayImage::from_fn(SIDE, SIDE, |x, _| Luma([if x < SIDE / 2 { 0 } else { 255 }]));
    Init { image, name: "picture".into(), strength: 1.0, mask: Some(mask) }
}

/// Every tiny checkpoint of the tests, two steps: latents, image and maps against the CPU's in f32.
fn parity(device: &str) -> Result<()> {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let mut folders: Vec<PathBuf> = std::fs::read_dir(fixtures)?.flatten().map(|entry| entry.path()).collect();
    folders.retain(|folder| folder.join("model_index.json").is_file());
    folders.sort();
    for folder in folders {
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let truth = open(&folder, Device::Cpu, DType::F32)?;
        // A checkpoint's own size may be 1024x1024 however few weights it has.
        let (height, width) = (SIDE as usize, SIDE as usize);
        let init = truth.inpaints().then(half_of_a_picture);
        let options = Options { steps: 2, seeds: vec![1], height, width, init, ..truth.default_options() };
        let truth = match run(&truth, &options) {
            Ok(truth) => truth,
            Err(reason) => {
                println!("parity: {name}: FAILED on the CPU: {reason}");
                continue;
            }
        };
        for dtype in ["f32", "f16", "bf16"] {
            let found = open(&folder, device_named(device)?, dtype_named(dtype)?);
            let found = match found.and_then(|pipeline| run(&pipeline, &options)) {
                Ok(found) => found,
                // The other formats and checkpoints are measured all the same.
                Err(reason) => {
                    println!("parity: {name} {device} {dtype}: FAILED: {reason}");
                    continue;
                }
            };
            let values = |of: &Traced| -> Result<Vec<f32>> {
                Ok(of.generation.latent.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?)
            };
            let latents = largest(&values(&truth)?, &values(&found)?);
            let pixels = truth.generation.image.as_raw().iter().zip(found.generation.image.as_raw());
            let pixels = pixels.map(|(a, b)| a.abs_diff(*b)).max().unwrap_or(0);
            let maps = |of: &Traced| -> Result<Vec<f32>> {
                let words = of.trace.words(Half::Conditional);
                // Every network has some site.
                Ok(aggregate(&of.trace, &Aggregate::named("all")?, &words)?.tokens)
            };
            let maps = largest(&maps(&truth)?, &maps(&found)?);
            println!("parity: {name} {device} {dtype}: latents {latents:.1e}, image {pixels}/255, maps {maps:.1e}");
        }
    }
    Ok(())
}

fn largest(truth: &[f32], found: &[f32]) -> f32 {
    truth.iter().zip(found).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// Seconds per step and per run, unobserved and recorded, in turn; the first round only warms up.
fn time(folder: &Path, (device, dtype): (&str, &str), size: usize, steps: usize) -> Result<()> {
    let pipeline = open(folder, device_named(device)?, dtype_named(dtype)?)?;
    let prompt = pipeline.tokenize(PROMPT)?;
    let options = Options { steps, height: size, width: size, seeds: vec![1], ..pipeline.default_options() };
    let go_on = &mut |_: attnmap::pipeline::Event<'_>| ControlFlow::Continue(());
    // Of a step, and of a whole run.
    let (mut plain, mut recorded) = ([f64::INFINITY; 2], [f64::INFINITY; 2]);
    let mut calls = steps;
    for round in 0..3 {
        let start = Instant::now();
        let done = pipeline.generate(&prompt, &options, &mut Unobserved, go_on)?;
        calls = done.timesteps.len().max(1);
        let once = [done.timings.steps / calls as f64, start.elapsed().as_secs_f64()];
        let start = Instant::now();
        let (_traced, timings) = pipeline.trace(&prompt, &options, RecordOptions::default(), go_on)?;
        let traced = [timings.steps / calls as f64, start.elapsed().as_secs_f64()];
        if round > 0 {
            plain = [0, 1].map(|at| plain[at].min(once[at]));
            recorded = [0, 1].map(|at| recorded[at].min(traced[at]));
        }
    }
    println!(
        "steps: {device} {dtype} {size}x{size}: {:.4} s per step, recorded {:.4}; a run of {calls} steps {:.3} s, \
        recorded {:.3}",
        plain[0], recorded[0], plain[1], recorded[1]
    );
    Ok(())
}
