//! What a checkpoint of full size costs on this machine: start-up, recording, memory, and the error
//! of the fast ways.
//!
//! ```text
//! python tests/fixtures/make_full_size.py sd15 DIR --f32
//! cargo bench --bench full_size -- DIR load recording memory error bf16 [--steps N] [--rounds N] [--size PIXELS]
//! ```
//! Each line says what it measured and how. Nothing is asserted.

use attnmap::checkpoint::{Checkpoint, OpenOptions, Source};
use attnmap::pipeline::{Generation, LoadOptions, Options, Pipeline, RecordOptions};
use attnmap::trace::Unobserved;
use candle_core::{DType, Device, Tensor};
use std::error::Error;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

const PROMPT: &str = "a red apple to the left of a blue heart on the beach";
const USAGE: &str = "full_size DIR [load] [recording] [memory] [error] [bf16] [--steps N] [--rounds N] [--size PIXELS]";

type Result<T> = std::result::Result<T, Box<dyn Error>>;

struct Asked {
    folder: PathBuf,
    steps: usize,
    rounds: usize,
    size: usize,
}

fn main() -> Result<()> {
    attnmap::kernels::threads::init(None)?;
    let mut asked = Asked { folder: PathBuf::new(), steps: 4, rounds: 3, size: 512 };
    let mut words = Vec::new();
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    while let Some(argument) = arguments.next() {
        let mut number = || arguments.next().and_then(|text| text.parse().ok()).ok_or(USAGE);
        match argument.as_str() {
            "--steps" => asked.steps = number()?,
            "--rounds" => asked.rounds = number()?,
            "--size" => asked.size = number()?,
            _ => words.push(argument),
        }
    }
    let Some((folder, words)) = words.split_first() else {
        // `cargo bench` runs every bench; this one needs a checkpoint.
        println!("{USAGE}");
        return Ok(());
    };
    asked.folder = folder.into();
    for word in words {
        match word.as_str() {
            "load" => load(&asked)?,
            "recording" => recording(&asked)?,
            "memory" => memory(&asked)?,
            "error" => error(&asked)?,
            "bf16" => bf16(&asked)?,
            // What `error` runs of itself, the plain layers asked for.
            "latents" => latents(&asked)?,
            _ => return Err(USAGE.into()),
        }
    }
    Ok(())
}

impl Asked {
    fn open(&self, dtype: DType) -> Result<Pipeline> {
        let checkpoint = Checkpoint::open(&Source::Folder(self.folder.clone()), &OpenOptions::default())?;
        Ok(Pipeline::load(&checkpoint, &LoadOptions { dtype, ..LoadOptions::default() })?)
    }

    fn options(&self, pipeline: &Pipeline) -> Options {
        let (height, width) = (self.size, self.size);
        Options { steps: self.steps, height, width, seeds: vec![1], ..pipeline.default_options() }
    }

    fn run(&self, pipeline: &Pipeline) -> Result<Generation> {
        let prompt = pipeline.tokenize(PROMPT)?;
        let options = self.options(pipeline);
        let done = pipeline.generate(&prompt, &options, &mut Unobserved, &mut |_| ControlFlow::Continue(()))?;
        Ok(done.images.into_iter().next().ok_or("no image")?)
    }
}

/// Loading and encoding the prompt, against reading the same files into fresh memory, in turn.
fn load(asked: &Asked) -> Result<()> {
    let mut files = Vec::new();
    for part in ["text_encoder", "unet", "vae"] {
        for entry in std::fs::read_dir(asked.folder.join(part))? {
            let path = entry?.path();
            if path.extension().is_some_and(|kind| kind == "safetensors") {
                files.push(path);
            }
        }
    }
    let (mut reads, mut loads) = (Vec::new(), Vec::new());
    let mut bytes = 0;
    // The first round only warms the disk cache.
    for round in 0..=asked.rounds {
        let start = Instant::now();
        let held = files.iter().map(std::fs::read).collect::<std::io::Result<Vec<_>>>()?;
        bytes = held.iter().map(Vec::len).sum();
        let read = start.elapsed().as_secs_f64();
        drop(held);
        let start = Instant::now();
        let pipeline = asked.open(DType::F32)?;
        let prompt = pipeline.tokenize(PROMPT)?;
        let options = asked.options(&pipeline);
        // The first event comes when the prompt is encoded and the first step begins.
        let _ = pipeline.generate(&prompt, &options, &mut Unobserved, &mut |_| ControlFlow::Break(()));
        if round > 0 {
            reads.push(read);
            loads.push(start.elapsed().as_secs_f64());
        }
    }
    println!("load: reading {:.2} GB into memory {}", bytes as f64 / 1e9, spread(&mut reads, "s"));
    println!("load: start to first step {}", spread(&mut loads, "s"));
    println!("load: ratio {:.2}", median(&mut loads) / median(&mut reads));
    Ok(())
}

/// A run with every site, head and step recorded and the trace saved, against the same run
/// unobserved, in turn.
fn recording(asked: &Asked) -> Result<()> {
    let pipeline = asked.open(DType::F32)?;
    let prompt = pipeline.tokenize(PROMPT)?;
    let options = asked.options(&pipeline);
    let folder = tempfile::tempdir()?;
    let mut ratios = [Vec::new(), Vec::new()];
    let mut seconds = [Vec::new(), Vec::new()];
    for round in 0..=asked.rounds {
        let (start, busy) = (Instant::now(), processor());
        asked.run(&pipeline)?;
        let plain = [start.elapsed().as_secs_f64(), processor() - busy];
        let (start, busy) = (Instant::now(), processor());
        let (runs, _) =
            pipeline.trace(&prompt, &options, RecordOptions::default(), &mut |_| ControlFlow::Continue(()))?;
        runs[0].trace.save(&folder.path().join("trace.safetensors"))?;
        let traced = [start.elapsed().as_secs_f64(), processor() - busy];
        if round > 0 {
            (0..2).for_each(|of| ratios[of].push(traced[of] / plain[of]));
            seconds[0].push(plain[0]);
            seconds[1].push(traced[0]);
        }
    }
    let [plain, traced] = &mut seconds;
    println!("recording: {} steps unobserved {}", asked.steps, spread(plain, "s"));
    println!("recording: recorded and saved {}", spread(traced, "s"));
    let [wall, busy] = &mut ratios;
    println!("recording: ratio {}; of processor time {}", spread(wall, ""), spread(busy, ""));
    Ok(())
}

/// Peak memory of the command at two numbers of steps, with and without the maps of single steps.
fn memory(asked: &Asked) -> Result<()> {
    for maps in [true, false] {
        for steps in [asked.steps, 4 * asked.steps] {
            let folder = tempfile::tempdir()?;
            let mut command = Command::new(env!("CARGO_BIN_EXE_attnmap"));
            command.args(["generate", PROMPT, "--scheduler", "ddim", "--quiet", "--json"]);
            command.arg("--model").arg(&asked.folder).arg("--out").arg(folder.path().join("run"));
            command.args(["--steps", &steps.to_string(), "--size", &format!("{0}x{0}", asked.size)]);
            if !maps {
                command.arg("--no-step-maps");
            }
            let peak = peak_memory(&mut command)?;
            let kept = if maps { "with" } else { "without" };
            println!("memory: {steps} steps {kept} step maps: {peak:.0} MiB");
        }
    }
    Ok(())
}

/// The fast layers against the plain ones: final latents and image of the same run.
fn error(asked: &Asked) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("latents.safetensors");
    let status = Command::new(std::env::current_exe()?)
        .arg(&asked.folder)
        .args(["latents", "--steps", &asked.steps.to_string(), "--size", &asked.size.to_string()])
        .env("ATTNMAP_PLAIN", "1")
        .env("ATTNMAP_BENCH_OUT", &file)
        .status()?;
    if !status.success() {
        return Err("the plain run failed".into());
    }
    let plain = candle_core::safetensors::load(&file, &Device::Cpu)?;
    let fast = asked.run(&asked.open(DType::F32)?)?;
    compare("error: fast against plain", asked, (&plain["latents"], plain["image"].flatten_all()?.to_vec1()?), &fast)
}

fn latents(asked: &Asked) -> Result<()> {
    let out = std::env::var_os("ATTNMAP_BENCH_OUT").ok_or(USAGE)?;
    let done = asked.run(&asked.open(DType::F32)?)?;
    let image = done.image.as_raw();
    let image = Tensor::from_slice(image, image.len(), &Device::Cpu)?;
    let tensors = [("latents", done.latent), ("image", image)];
    candle_core::safetensors::save(&tensors.into_iter().collect(), Path::new(&out))?;
    Ok(())
}

/// bf16 against f32: final latents, image, and time per step.
fn bf16(asked: &Asked) -> Result<()> {
    let mut done = Vec::new();
    for dtype in [DType::F32, DType::BF16] {
        let pipeline = asked.open(dtype)?;
        let mut steps = Vec::new();
        for _ in 0..asked.rounds {
            let prompt = pipeline.tokenize(PROMPT)?;
            let options = asked.options(&pipeline);
            let run = pipeline.generate(&prompt, &options, &mut Unobserved, &mut |_| ControlFlow::Continue(()))?;
            steps.push(run.timings.steps / run.timesteps.len() as f64);
            done.push(run.images.into_iter().next().ok_or("no image")?);
        }
        println!("bf16: a step in {dtype:?} {}", spread(&mut steps, "s"));
    }
    let whole = &done[0];
    compare("bf16: against f32", asked, (&whole.latent, whole.image.as_raw().clone()), &done[asked.rounds])
}

fn compare(what: &str, asked: &Asked, (latents, image): (&Tensor, Vec<u8>), other: &Generation) -> Result<()> {
    let norm = |x: &Tensor| -> Result<f64> { Ok(x.to_dtype(DType::F64)?.sqr()?.sum_all()?.to_scalar::<f64>()?.sqrt()) };
    let relative = norm(&(latents - &other.latent)?)? / norm(latents)?;
    let off: Vec<u8> = image.iter().zip(other.image.as_raw()).map(|(a, b)| a.abs_diff(*b)).collect();
    let mean = off.iter().map(|&v| f64::from(v)).sum::<f64>() / off.len() as f64;
    let beyond = off.iter().filter(|&&v| v > 2).count() as f64 / off.len() as f64;
    println!(
        "{what}: {} steps, {1}x{1}: latents {relative:.1e} relative L2; image: at most {2}/255, mean {mean:.3}, \
        beyond 2/255 {3:.4} %",
        asked.steps,
        asked.size,
        off.iter().max().unwrap_or(&0),
        100.0 * beyond
    );
    Ok(())
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn spread(values: &mut [f64], unit: &str) -> String {
    let middle = median(values);
    let (low, high) = (values.first().unwrap_or(&f64::NAN), values.last().unwrap_or(&f64::NAN));
    format!("{middle:.3} {unit} ({low:.3} to {high:.3})").replace("  ", " ")
}

/// Seconds of processor time that this process has used.
fn processor() -> f64 {
    usage(libc::RUSAGE_SELF).map_or(f64::NAN, |usage| seconds(usage.ru_utime) + seconds(usage.ru_stime))
}

fn seconds(time: libc::timeval) -> f64 {
    time.tv_sec as f64 + time.tv_usec as f64 / 1e6
}

fn usage(of: libc::c_int) -> Option<libc::rusage> {
    let mut usage = std::mem::MaybeUninit::uninit();
    // SAFETY: the system fills all of it where it answers 0.
    unsafe { (libc::getrusage(of, usage.as_mut_ptr()) == 0).then(|| usage.assume_init()) }
}

/// Peak resident memory of a command, in MiB.
// `wait4` waits for the child, and says what it used.
#[allow(clippy::zombie_processes)]
fn peak_memory(command: &mut Command) -> Result<f64> {
    let child = command.stdout(std::process::Stdio::null()).spawn()?;
    let (mut status, mut usage) = (0, std::mem::MaybeUninit::<libc::rusage>::uninit());
    // SAFETY: the child is ours and nobody else waits for it; the system fills `usage`.
    let waited = unsafe { libc::wait4(child.id() as libc::pid_t, &mut status, 0, usage.as_mut_ptr()) };
    if waited < 0 || status != 0 {
        return Err("the run failed".into());
    }
    // SAFETY: filled, as the child was waited for.
    Ok(unsafe { usage.assume_init() }.ru_maxrss as f64 / 1024.0)
}
