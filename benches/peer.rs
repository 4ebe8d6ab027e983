//! What a Rust user would take otherwise: candle-transformers' Stable Diffusion on the same
//! weights, a step and a whole run.
//!
//! ```text
//! python tests/fixtures/make_full_size.py sd15 DIR --f32
//! cargo bench --bench peer -- DIR [--steps N] [--rounds N] [--size PIXELS]
//! ```
//! Both run in turn on the same threads, guided, in f32. Each line says what it measured and how.
//! Nothing is asserted.

use attnmap::checkpoint::{Checkpoint, OpenOptions, Part, Source};
use attnmap::model::layers::{Builder, MemoryOrder};
use attnmap::model::{Conditioning, TextEncoder, Unet};
use attnmap::pipeline::{LoadOptions, Options, Pipeline};
use attnmap::trace::Unobserved;
use candle_core::{DType, Device, Module, Tensor};
use candle_transformers::models::stable_diffusion::{StableDiffusionConfig, build_clip_transformer};
use std::error::Error;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Instant;

const PROMPT: &str = "a red apple to the left of a blue heart on the beach";
const USAGE: &str = "peer DIR [--steps N] [--rounds N] [--size PIXELS]";
/// Stable Diffusion 1.5's, of latents.
const SCALE: f64 = 0.18215;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    attnmap::kernels::threads::init(None)?;
    let (mut folder, mut steps, mut rounds, mut size) = (None, 4, 3, 512);
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    while let Some(argument) = arguments.next() {
        let mut number = || arguments.next().and_then(|text| text.parse().ok()).ok_or(USAGE);
        match argument.as_str() {
            "--steps" => steps = number()?,
            "--rounds" => rounds = number()?,
            "--size" => size = number()?,
            _ => folder = Some(PathBuf::from(argument)),
        }
    }
    let Some(folder) = folder else {
        // `cargo bench` runs every bench; this one needs a checkpoint.
        println!("{USAGE}");
        return Ok(());
    };

    let cpu = Device::Cpu;
    let config = StableDiffusionConfig::v1_5(None, Some(size), Some(size));
    let file = |part: &str| folder.join(part);
    let clip = build_clip_transformer(&config.clip, file("text_encoder/model.safetensors"), &cpu, DType::F32)?;
    let their_unet = config.build_unet(file("unet/diffusion_pytorch_model.safetensors"), &cpu, 4, false, DType::F32)?;
    let their_vae = config.build_vae(file("vae/diffusion_pytorch_model.safetensors"), &cpu, DType::F32)?;

    let checkpoint = Checkpoint::open(&Source::Folder(folder.clone()), &OpenOptions::default())?;
    let unet = checkpoint.weights(Part::Unet)?.load(DType::F32, &cpu, |weights| {
        Unet::build(
            checkpoint.denoiser.unet().expect("a UNet"),
            &Builder::with_layout(weights, MemoryOrder::best_on(&cpu)),
        )
    })?;
    let text = checkpoint
        .weights(Part::TextEncoder)?
        .load(DType::F32, &cpu, |weights| TextEncoder::new(checkpoint.text_encoder.as_ref().expect("CLIP"), weights))?;
    let pipeline = Pipeline::load(&checkpoint, &LoadOptions::default())?;
    let ids = |text: &str| -> Result<Tensor> { Ok(Tensor::new(pipeline.tokenize(text)?.ids, &cpu)?.unsqueeze(0)?) };
    let ids = Tensor::cat(&[ids("")?, ids(PROMPT)?], 0)?;

    let states = clip.forward(&ids)?;
    println!(
        "peer: text encoders differ by {:.1e} relative L2",
        relative(&text.forward(&ids)?.last_hidden_state, &states)?
    );
    let latent = Tensor::randn(0f32, 1f32, (2, 4, size / 8, size / 8), &cpu)?;
    let context = unet.prepare(&Conditioning::new(states.clone()))?;

    let mut ratios = [Vec::new(), Vec::new()];
    for round in 0..=rounds {
        let start = Instant::now();
        let own = unet.forward(&latent, 500.0, &context, &mut Unobserved)?;
        let here = start.elapsed().as_secs_f64();
        let start = Instant::now();
        let other = their_unet.forward(&latent, 500.0, &states)?;
        let there = start.elapsed().as_secs_f64();
        if round == 0 {
            println!("peer: UNets differ by {:.1e} relative L2", relative(&own, &other)?);
            continue;
        }
        println!("peer: a guided step at {size}x{size}: {here:.2} s here, {there:.2} s there");
        ratios[0].push(there / here);
    }
    drop(unet);

    let options = Options { steps, height: size, width: size, seeds: vec![1], ..pipeline.default_options() };
    for round in 0..=rounds {
        let start = Instant::now();
        let prompt = pipeline.tokenize(PROMPT)?;
        pipeline.generate(&prompt, &options, &mut Unobserved, &mut |_| ControlFlow::Continue(()))?;
        let here = start.elapsed().as_secs_f64();
        let start = Instant::now();
        let states = clip.forward(&ids)?;
        let mut scheduler = config.build_scheduler(steps)?;
        let mut latents = Tensor::randn(0f32, 1f32, (1, 4, size / 8, size / 8), &cpu)?;
        latents = (latents * scheduler.init_noise_sigma())?;
        for timestep in scheduler.timesteps().to_vec() {
            let input = scheduler.scale_model_input(Tensor::cat(&[&latents, &latents], 0)?, timestep)?;
            let noise = their_unet.forward(&input, timestep as f64, &states)?.chunk(2, 0)?;
            let guided = (&noise[0] + ((&noise[1] - &noise[0])? * options.guidance_scale)?)?;
            latents = scheduler.step(&guided, timestep, &latents)?;
        }
        their_vae.decode(&(latents / SCALE)?)?;
        let there = start.elapsed().as_secs_f64();
        if round > 0 {
            println!("peer: a run of {steps} steps at {size}x{size}: {here:.2} s here, {there:.2} s there");
            ratios[1].push(there / here);
        }
    }
    for (what, ratios) in ["a step", "a run"].into_iter().zip(&mut ratios) {
        ratios.sort_by(f64::total_cmp);
        let middle = ratios.get(ratios.len() / 2).unwrap_or(&f64::NAN);
        println!("peer: {what} takes {middle:.2} times as long there ({:?})", ratios);
    }
    Ok(())
}

/// The distance of `a` from `b` by the length of `b`.
fn relative(a: &Tensor, b: &Tensor) -> Result<f64> {
    let norm = |x: &Tensor| -> Result<f64> { Ok(x.to_dtype(DType::F64)?.sqr()?.sum_all()?.to_scalar::<f64>()?.sqrt()) };
    Ok(norm(&(a - b)?)? / norm(b)?)
}
