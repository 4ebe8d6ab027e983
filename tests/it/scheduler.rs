//! Noise and schedulers against numbers made by torch and diffusers.

use attnmap::Error;
use attnmap::checkpoint::SchedulerConfig;
use attnmap::scheduler::{SchedulerKind, TorchGenerator, as_stable_diffusion, build, randn_tensor};
use candle_core::{DType, Device, Tensor};
use serde::Deserialize;
use serde_json::json;
use sha2::{Digest, Sha256};
use std::path::Path;

#[derive(Deserialize)]
struct NoiseFile {
    cases: Vec<Case>,
    batch: Batch,
}

#[derive(Deserialize)]
struct Case {
    seed: String,
    draws: Vec<Draw>,
}

#[derive(Deserialize)]
struct Batch {
    seeds: Vec<String>,
    draws: Vec<Draw>,
}

#[derive(Deserialize)]
struct Draw {
    shape: Vec<usize>,
    dtype: String,
    bits: Option<Vec<u32>>,
    sha256: Option<String>,
}

impl Draw {
    fn dtype(&self) -> DType {
        match self.dtype.as_str() {
            "float32" => DType::F32,
            "float16" => DType::F16,
            "bfloat16" => DType::BF16,
            other => panic!("{other}"),
        }
    }

    #[track_caller]
    fn check(&self, drawn: &Tensor) {
        assert_eq!(drawn.dims(), self.shape);
        let drawn = drawn.flatten_all().unwrap();
        let bits: Vec<u32> = match drawn.dtype() {
            DType::F32 => drawn.to_vec1::<f32>().unwrap().iter().map(|v| v.to_bits()).collect(),
            DType::F16 => drawn.to_vec1::<half::f16>().unwrap().iter().map(|v| v.to_bits().into()).collect(),
            _ => drawn.to_vec1::<half::bf16>().unwrap().iter().map(|v| v.to_bits().into()).collect(),
        };
        if let Some(expected) = &self.bits {
            assert_eq!(&bits, expected);
        }
        if let Some(expected) = &self.sha256 {
            let width = drawn.dtype().size_in_bytes();
            let bytes: Vec<u8> = bits.iter().flat_map(|b| b.to_le_bytes()[..width].to_vec()).collect();
            let digest: String = Sha256::digest(&bytes).iter().map(|b| format!("{b:02x}")).collect();
            assert_eq!(&digest, expected);
        }
    }
}

/// Every draw equal to torch's in every bit: small, large, uneven, mixed, large seeds, half
/// precision, one generator per row.
#[test]
fn noise_is_torchs_bit_for_bit() {
    let file: NoiseFile = serde_json::from_str(include_str!("../fixtures/noise.json")).unwrap();
    for case in &file.cases {
        let mut generator = TorchGenerator::new(case.seed.parse().unwrap());
        for draw in &case.draws {
            draw.check(&generator.randn_tensor(draw.shape.clone(), draw.dtype(), &Device::Cpu).unwrap());
        }
    }
    let mut generators: Vec<_> = file.batch.seeds.iter().map(|s| TorchGenerator::new(s.parse().unwrap())).collect();
    for draw in &file.batch.draws {
        draw.check(&randn_tensor(draw.shape.clone(), &mut generators, draw.dtype(), &Device::Cpu).unwrap());
    }
}

#[test]
fn noise_for_a_batch_needs_one_generator_or_one_a_row() {
    let mut two = [TorchGenerator::new(1), TorchGenerator::new(2)];
    let error = randn_tensor((3, 4, 2, 2), &mut two, DType::F32, &Device::Cpu).unwrap_err().to_string();
    assert!(error.contains("2 noise generators given for a batch of 3"), "{error}");
    assert!(TorchGenerator::new(0).randn_tensor((4, 4), DType::U8, &Device::Cpu).is_err());
    assert!(TorchGenerator::new(0).randn(&[0]).is_empty());
}

#[derive(Deserialize)]
struct Run {
    config: serde_json::Value,
    kind: Option<SchedulerKind>,
    steps: usize,
    seeds: Vec<u64>,
    start: usize,
    shape: Vec<usize>,
    /// Timesteps of the whole run.
    calls: usize,
}

impl Run {
    fn config(&self) -> SchedulerConfig {
        config(&self.config)
    }
}

fn config(json: &serde_json::Value) -> SchedulerConfig {
    SchedulerConfig::from_json(json.to_string().as_bytes(), Path::new("scheduler_config.json")).unwrap()
}

/// The fixture's stand-in for a UNet.
fn model(x: &Tensor, t: f64) -> Tensor {
    let values = x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let output = values.iter().map(|&x| (0.8 * f64::from(x) + 0.2 * (3.0 * f64::from(x) + t / 200.0).sin()) as f32);
    Tensor::from_vec(output.collect(), x.shape(), x.device()).unwrap()
}

fn relative_l2(a: &Tensor, b: &[f32]) -> f64 {
    let a = a.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    assert_eq!(a.len(), b.len());
    let difference: f64 = a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum();
    let length: f64 = b.iter().map(|b| f64::from(*b).powi(2)).sum();
    (difference / length).sqrt()
}

/// The runs recorded in a file of `make_schedulers.py`: what they were, and their numbers.
macro_rules! recorded {
    ($file:literal) => {
        (
            include_str!(concat!("../fixtures/", $file, ".json")),
            include_bytes!(concat!("../fixtures/", $file, ".safetensors")).as_slice(),
        )
    };
}

/// Every sampler, spacing, prediction and option over full runs, next to diffusers; those that came
/// later have files of their own.
#[test]
fn schedulers_are_diffusers() {
    runs_are_diffusers(recorded!("schedulers"));
}

#[test]
fn dpm_solver_sde_is_diffusers() {
    runs_are_diffusers(recorded!("schedulers/dpm-sde"));
}

#[test]
fn dpm_solver_singlestep_is_diffusers() {
    runs_are_diffusers(recorded!("schedulers/dpm-singlestep"));
}

#[test]
fn deis_is_diffusers() {
    runs_are_diffusers(recorded!("schedulers/deis"));
}

#[test]
fn unipc_is_diffusers() {
    runs_are_diffusers(recorded!("schedulers/unipc"));
}

#[test]
fn lms_is_diffusers() {
    runs_are_diffusers(recorded!("schedulers/lms"));
}

#[test]
fn heun_is_diffusers() {
    runs_are_diffusers(recorded!("schedulers/heun"));
}

#[test]
fn dpm_solver_2_is_diffusers() {
    runs_are_diffusers(recorded!("schedulers/dpm2"));
}

#[test]
fn tcd_is_diffusers() {
    runs_are_diffusers(recorded!("schedulers/tcd"));
}

#[track_caller]
fn runs_are_diffusers((runs, numbers): (&str, &[u8])) {
    let runs: Vec<Run> = serde_json::from_str(runs).unwrap();
    let file = candle_core::safetensors::load_buffer(numbers, &Device::Cpu);
    let numbers = file.unwrap()["numbers"].to_vec1::<f32>().unwrap();
    let mut numbers = numbers.as_slice();
    let mut take = |count: usize| {
        let (taken, rest) = numbers.split_at(count);
        numbers = rest;
        taken
    };
    let mut worst = (0.0, String::new());
    for run in &runs {
        let (name, count) =
            (format!("{:?} {} steps of {}", run.kind, run.steps, run.config), run.shape.iter().product());
        let (timesteps, middle, last) = (take(run.calls), take(count), take(count));
        let mut scheduler = build(&run.config(), run.kind, run.steps).unwrap();
        let ours: Vec<f32> = scheduler.timesteps().iter().map(|&t| t as f32).collect();
        assert_eq!(ours.len(), timesteps.len(), "{name}");
        // The lower level of an ancestral step is a difference that cancels. The timestep of the
        // call at it is what rounding (of torch's square roots too) leaves of the next one.
        let kind = run.kind.unwrap_or_else(|| SchedulerKind::of_config(&run.config()).unwrap());
        let ancestral = kind == SchedulerKind::Kdpm2Ancestral;
        for (ours, theirs) in ours.iter().zip(timesteps) {
            let slack = if ancestral { 1e-4 * theirs.max(1.0) } else { 1e-6 * theirs.abs() };
            assert!((ours - theirs).abs() <= slack, "{name}: timestep {ours}, expected {theirs}");
        }

        let mut generators: Vec<_> = run.seeds.iter().map(|&seed| TorchGenerator::new(seed)).collect();
        let noise = randn_tensor(run.shape.as_slice(), &mut generators, DType::F32, &Device::Cpu).unwrap();
        let mut sample = if run.start == 0 {
            (noise * scheduler.init_noise_sigma()).unwrap()
        } else {
            let ramp = (0..count).map(|i| (2.0 * i as f64 / (count - 1) as f64 - 1.0) as f32).collect();
            let clean = Tensor::from_vec(ramp, noise.shape(), &Device::Cpu).unwrap();
            scheduler.add_noise(&clean, &noise, run.start).unwrap()
        };
        for (index, &t) in timesteps.iter().enumerate().skip(run.start) {
            let output = model(&scheduler.scale_model_input(&sample, index).unwrap(), t.into());
            sample = scheduler.step(&output, index, &sample, &mut generators).unwrap().previous;
            for (at, expected) in [(run.start + (run.calls - run.start) / 2, middle), (run.calls - 1, last)] {
                if index == at {
                    let error = relative_l2(&sample, expected);
                    // 1e-6 is usual. torch takes square roots from MKL, 1 ulp off now and then. A
                    // zero-SNR run of Euler begins with a sigma of 4096 that cancels.
                    assert!(error <= 2e-5, "{name}: relative error {error:.1e} at {index}");
                    if error > worst.0 {
                        worst = (error, name.clone());
                    }
                }
            }
        }
    }
    assert!(numbers.is_empty());
    println!("worst of {}: {:.1e} for {}", runs.len(), worst.0, worst.1);
}

#[track_caller]
fn refused(fields: serde_json::Value, kind: SchedulerKind, steps: usize) -> Error {
    let mut json = serde_json::json!({"_class_name": kind.class_name()});
    json.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    build(&config(&json), Some(kind), steps).map(|scheduler| format!("{scheduler:?}")).unwrap_err()
}

#[test]
fn step_counts_that_cannot_be_are_usage_errors() {
    for kind in SchedulerKind::ALL {
        for (steps, what) in [(0, "must be 1 or more"), (1001, "1001 is more than")] {
            let error = refused(json!({}), kind, steps);
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().starts_with("steps: ") && error.to_string().contains(what), "{kind}: {error}");
        }
    }
    // Possible counts whose timesteps or noise levels are not there.
    let ddim = refused(json!({"steps_offset": 1}), SchedulerKind::Ddim, 1000).to_string();
    assert!(ddim.contains("first timestep would be 1000"), "{ddim}");
    let dpm = refused(json!({}), SchedulerKind::DpmSolver, 1000).to_string();
    assert!(dpm.starts_with("steps: 1000 steps do not fit"), "{dpm}");
    let lcm = refused(json!({}), SchedulerKind::Lcm, 51).to_string();
    assert!(lcm.contains("51 is more than the 50 steps") && lcm.ends_with("; take fewer"), "{lcm}");
    let pndm = refused(json!({"skip_prk_steps": false}), SchedulerKind::Pndm, 3).to_string();
    assert!(pndm.contains("needs 4 steps or more; 3 given"), "{pndm}");
}

#[test]
fn unsupported_values_are_refused_by_name() {
    use SchedulerKind::*;
    for (kind, fields, named) in [
        (Ddim, json!({"beta_schedule": "sigmoid"}), "`beta_schedule` is sigmoid"),
        (Euler, json!({"beta_schedule": "cosine"}), "`beta_schedule` is cosine"),
        (Ddim, json!({"timestep_spacing": "uniform"}), "`timestep_spacing` is uniform"),
        (Pndm, json!({"prediction_type": "sample"}), "`prediction_type` is sample"),
        (EulerAncestral, json!({"prediction_type": "sample"}), "`prediction_type` is sample"),
        (DpmSolver, json!({"prediction_type": "flow_prediction"}), "`prediction_type` is flow_prediction"),
        (Ddim, json!({"trained_betas": [0.1, 0.2]}), "`trained_betas` has 2 values"),
        (Ddim, json!({"beta_end": 2.0}), "`beta_end`"),
        (Ddim, json!({"beta_start": -0.5}), "`beta_start`"),
        (Lcm, json!({"rescale_betas_zero_snr": true, "beta_start": 0.0, "beta_end": 0.0}), "not all 0"),
        (Ddim, json!({"num_train_timesteps": 0}), "`num_train_timesteps` is 0"),
        (Ddim, json!({"thresholding": true, "dynamic_thresholding_ratio": 1.5}), "`dynamic_thresholding_ratio` is 1.5"),
        (Ddim, json!({"rescale_betas_zero_snr": true, "timestep_spacing": "trailing"}), "`rescale_betas_zero_snr`"),
        (Ddpm, json!({"variance_type": "learned"}), "`variance_type` is learned"),
        (Ddpm, json!({"variance_type": "fixed_large_log"}), "`variance_type` is fixed_large_log"),
        (Euler, json!({"use_karras_sigmas": true, "use_beta_sigmas": true}), "only one of `use_karras_sigmas`"),
        (Euler, json!({"interpolation_type": "cubic"}), "`interpolation_type` is cubic"),
        (Euler, json!({"timestep_type": "odd"}), "`timestep_type` is odd"),
        (Euler, json!({"final_sigmas_type": "one"}), "`final_sigmas_type` is one"),
        (DpmSolver, json!({"algorithm_type": "unipc"}), "`algorithm_type` is unipc"),
        (DpmSolver, json!({"algorithm_type": "dpmsolver"}), "`final_sigmas_type` zero does not go with"),
        (DpmSolver, json!({"solver_type": "rk4"}), "`solver_type` is rk4"),
        (DpmSolver, json!({"solver_order": 4}), "`solver_order` is 4"),
        (DpmSolver, json!({"use_flow_sigmas": true}), "`use_flow_sigmas` is true"),
        (DpmSolver, json!({"use_dynamic_shifting": true}), "`use_dynamic_shifting` is true"),
        (DpmSolver, json!({"variance_type": "learned_range"}), "`variance_type` is learned_range"),
        (DpmSolver, json!({"lambda_min_clipped": 20.0}), "`lambda_min_clipped`"),
        (DpmSolverSinglestep, json!({"algorithm_type": "sde-dpmsolver"}), "`algorithm_type` is sde-dpmsolver, "),
        (DpmSolverSinglestep, json!({"algorithm_type": "dpmsolver"}), "`final_sigmas_type` zero does not go with"),
        (DpmSolverSinglestep, json!({"solver_order": 4}), "`solver_order` is 4"),
        (DpmSolverSinglestep, json!({"lambda_min_clipped": 20.0}), "`lambda_min_clipped`"),
        (Deis, json!({"algorithm_type": "sde-dpmsolver++"}), "`algorithm_type` is sde-dpmsolver++"),
        (Deis, json!({"solver_type": "rk4"}), "`solver_type` is rk4"),
        (Deis, json!({"solver_order": 4}), "`solver_order` is 4"),
        (Deis, json!({"use_flow_sigmas": true}), "`use_flow_sigmas` is true"),
        (UniPc, json!({"solver_type": "rk4"}), "`solver_type` is rk4"),
        (UniPc, json!({"solver_order": 0}), "`solver_order` is 0"),
        (UniPc, json!({"solver_p": {}}), "`solver_p` is another scheduler"),
        (UniPc, json!({"use_flow_sigmas": true}), "`use_flow_sigmas` is true"),
        (UniPc, json!({"predict_x0": false}), "`final_sigmas_type` zero does not go with `predict_x0` false"),
        (UniPc, json!({"lower_order_final": false}), "zero does not go with `lower_order_final` false"),
        (UniPc, json!({"final_sigmas_type": "one"}), "`final_sigmas_type` is one"),
        (
            Heun,
            json!({"beta_schedule": "sigmoid"}),
            "`beta_schedule` is sigmoid, which is not supported: linear, scaled_linear, squaredcos_cap_v2, exp",
        ),
        (Kdpm2, json!({"prediction_type": "sample"}), "`prediction_type` is sample"),
        (Tcd, json!({"eta": 1.5}), "`eta` is 1.5"),
        (Tcd, json!({"original_inference_steps": 2000}), "`original_inference_steps` is 2000"),
        (Tcd, json!({"rescale_betas_zero_snr": true}), "`rescale_betas_zero_snr`"),
        (Lcm, json!({"original_inference_steps": 2000}), "`original_inference_steps` is 2000"),
    ] {
        let error = refused(fields, kind, 10);
        let text = error.to_string();
        assert_eq!(error.exit_code(), 1, "{text}");
        assert!(text.starts_with("scheduler_config.json: ") && text.contains(named), "{kind}: {text}");
    }
}

#[test]
fn names_and_classes() {
    for kind in SchedulerKind::ALL {
        assert_eq!(kind.name().parse::<SchedulerKind>().unwrap(), kind);
        assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
    }
    let error = "plms".parse::<SchedulerKind>().unwrap_err();
    assert_eq!(error.exit_code(), 2);
    assert_eq!(
        error.to_string(),
        "scheduler: there is no scheduler \"plms\"; choose one of ddim, pndm, euler, euler-a, dpm++2m, \
        dpm++2m-karras, \
         dpm++2m-sde, dpm++2m-sde-karras, dpm++2s, deis, unipc, lms, heun, dpm2, dpm2-a, ddpm, lcm, tcd, \
         flow-euler"
    );
    let other = config(&json!({"_class_name": "SASolverScheduler"}));
    let error = build(&other, None, 10).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("SASolverScheduler") && error.contains("`scheduler`: ddim"), "{error}");
    assert_eq!(build(&other, Some(SchedulerKind::Euler), 10).unwrap().timesteps().len(), 10);
    for (karras, algorithm, kind) in [
        (false, "dpmsolver++", SchedulerKind::DpmSolver),
        (true, "dpmsolver++", SchedulerKind::DpmSolverKarras),
        (false, "sde-dpmsolver++", SchedulerKind::DpmSolverSde),
        (true, "sde-dpmsolver++", SchedulerKind::DpmSolverSdeKarras),
        // The older SDE algorithm has no name of its own: its config is read as it is.
        (false, "sde-dpmsolver", SchedulerKind::DpmSolver),
    ] {
        let class = "DPMSolverMultistepScheduler";
        let json = json!({"_class_name": class, "use_karras_sigmas": karras, "algorithm_type": algorithm});
        assert_eq!(SchedulerKind::of_config(&config(&json)).unwrap(), kind);
    }
}

/// What `StableDiffusionPipeline.__init__` does to the config of an early checkpoint.
#[test]
fn pipelines_of_stable_diffusion_override_two_fields() {
    let early = config(&json!({"_class_name": "DDIMScheduler", "steps_offset": 0}));
    let own = as_stable_diffusion(&early, None);
    assert_eq!((own.steps_offset, own.clip_sample), (Some(1), Some(false)));
    // What was absent from the file does not carry over to another class; what was there does, as
    // overridden.
    let other = as_stable_diffusion(&early, Some(SchedulerKind::Ddpm));
    assert_eq!((other.steps_offset, other.clip_sample), (Some(1), None));
}

#[test]
fn steps_keep_the_dtype_and_refuse_what_does_not_fit() {
    let tensor = |dims: &[usize], dtype| Tensor::ones(dims, dtype, &Device::Cpu).unwrap();
    let mut noise = [TorchGenerator::new(3)];
    for kind in SchedulerKind::ALL {
        let json = json!({"_class_name": kind.class_name(), "skip_prk_steps": true});
        let mut scheduler = build(&config(&json), Some(kind), 4).unwrap();
        for dtype in [DType::BF16, DType::F16, DType::F32] {
            let sample = tensor(&[1, 4, 2, 2], dtype);
            assert_eq!(scheduler.scale_model_input(&sample, 0).unwrap().dtype(), dtype);
            assert_eq!(scheduler.add_noise(&sample, &sample, 1).unwrap().dtype(), dtype);
        }
        let sample = tensor(&[1, 4, 2, 2], DType::F16);
        let stepped = scheduler.step(&sample, 0, &sample, &mut noise).unwrap();
        assert_eq!((stepped.previous.dtype(), stepped.denoised.dtype()), (DType::F16, DType::F16));
        let count = scheduler.timesteps().len();
        assert!(scheduler.step(&sample, count, &sample, &mut noise).is_err(), "{kind}");
        assert!(scheduler.step(&tensor(&[1, 4, 2, 3], DType::F16), 1, &sample, &mut noise).is_err(), "{kind}");
    }
}
