//! `scheduler/scheduler_config.json`, kept as the file has it: what a field means is the
//! scheduler's business.
//!
//! Field names follow diffusers' `schedulers/scheduling_*.py` (0.42). Defaults differ between
//! classes (`beta_start` of LCM, `timestep_spacing` of Euler). A config may be read by another
//! class than its writer's (`--scheduler`). So an absent field stays `None` here, and each
//! scheduler supplies its own class's default, as diffusers' `from_config` does.

use super::fields::Fields;
use crate::Result;
use serde::Serialize;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

macro_rules! scheduler_config {
    ($($(#[$doc:meta])* $name:ident: $type:ty,)*) => {
        /// The union of the fields of the classes that attnmap has.
        ///
        /// `None` means absent (or null, which diffusers writes for its own `None`).
        #[derive(Debug, Clone, PartialEq, Default, Serialize)]
        pub struct SchedulerConfig {
            /// diffusers' class, e.g. `PNDMScheduler`; may be one that attnmap does not have.
            pub class_name: String,
            /// Where this was read from, for errors about a value.
            #[serde(skip)]
            pub file: PathBuf,
            /// Where the class was read from: `model_index.json`, or the same file.
            #[serde(skip)]
            pub class_file: PathBuf,
            $($(#[$doc])* #[serde(skip_serializing_if = "Option::is_none")] pub $name: Option<$type>,)*
        }

        impl SchedulerConfig {
            fn read(fields: &mut Fields, class_name: String) -> Result<Self> {
                Ok(Self {
                    class_name,
                    file: fields.file().to_path_buf(),
                    class_file: fields.file().to_path_buf(),
                    $($name: fields.take(stringify!($name), None)?,)*
                })
            }
        }
    };
}

scheduler_config! {
    /// Timesteps that the model was trained with.
    num_train_timesteps: usize,
    /// First beta.
    beta_start: f64,
    /// Last beta.
    beta_end: f64,
    /// `linear`, `scaled_linear`, `squaredcos_cap_v2`, `sigmoid`.
    beta_schedule: String,
    /// Betas given outright.
    trained_betas: Vec<f64>,
    /// `epsilon`, `v_prediction`, `sample`.
    prediction_type: String,
    /// `leading`, `trailing`, `linspace`.
    timestep_spacing: String,
    /// Added to every timestep under leading spacing.
    steps_offset: usize,
    /// Whether the betas are rescaled so that the last timestep holds no signal.
    rescale_betas_zero_snr: bool,
    /// Whether the denoised sample is clipped (DDIM, DDPM, LCM, Heun).
    clip_sample: bool,
    /// To which range.
    clip_sample_range: f64,
    /// Whether the cumulative alpha before the first timestep is 1 or that of timestep 0 (DDIM,
    /// PNDM, LCM).
    set_alpha_to_one: bool,
    /// Dynamic thresholding of the denoised sample (for pixel models).
    thresholding: bool,
    /// Its quantile.
    dynamic_thresholding_ratio: f64,
    /// Its largest range.
    sample_max_value: f64,
    /// PNDM without its Runge-Kutta warm-up.
    skip_prk_steps: bool,
    /// Euler: `linear` or `log_linear` between sigmas.
    interpolation_type: String,
    /// Karras et al.'s sigma spacing (all that work in sigmas but Euler ancestral).
    use_karras_sigmas: bool,
    /// Exponential sigma spacing.
    use_exponential_sigmas: bool,
    /// Beta-distributed sigma spacing.
    use_beta_sigmas: bool,
    /// Smallest sigma of those spacings.
    sigma_min: f64,
    /// Largest sigma of those spacings.
    sigma_max: f64,
    /// Euler: `discrete` or `continuous`.
    timestep_type: String,
    /// `zero` or `sigma_min`.
    final_sigmas_type: String,
    /// DPM-Solver, DEIS, UniPC: 1, 2 or 3.
    solver_order: usize,
    /// DPM-Solver: `dpmsolver++` and others; DEIS: `deis`.
    algorithm_type: String,
    /// DPM-Solver: `midpoint` or `heun`; DEIS: `logrho`; UniPC: `bh1` or `bh2`.
    solver_type: String,
    /// DPM-Solver, DEIS: lower order in the last steps of a short run; UniPC: of any.
    lower_order_final: bool,
    /// DPM-Solver: first order in the last step.
    euler_at_final: bool,
    /// DPM-Solver: Lu et al.'s lambda spacing.
    use_lu_lambdas: bool,
    /// DPM-Solver, DEIS, UniPC: sigmas of flow matching.
    use_flow_sigmas: bool,
    /// DPM-Solver, DEIS, UniPC: shift of those.
    flow_shift: f64,
    /// DPM-Solver, DEIS, UniPC: `exponential`.
    time_shift_type: String,
    /// DPM-Solver, DEIS, UniPC: shift by resolution.
    use_dynamic_shifting: bool,
    /// DPM-Solver: the lower bound on lambda; negative infinity for none.
    lambda_min_clipped: Number,
    /// DPM-Solver: whether the model predicts a variance too; DDPM: which variance is used
    /// (`fixed_small` ...).
    variance_type: String,
    /// UniPC: whether the integral is over the denoised sample and not over the noise.
    predict_x0: bool,
    /// UniPC: indices of the steps whose result is not corrected.
    disable_corrector: Vec<usize>,
    /// UniPC: another scheduler as the predictor.
    solver_p: Value,
    /// TCD's gamma, 0 to 1: 0 is deterministic, 1 fully stochastic. In diffusers it is an argument
    /// of the call and not in the config. Its pipelines' default is 0.
    eta: f64,
    /// LCM, TCD: steps of the solver that the model was distilled from.
    original_inference_steps: usize,
    /// LCM: factor on the timestep in the boundary condition.
    timestep_scaling: f64,
    /// Flow matching: how far the noise levels are shifted to the noisy end.
    shift: f64,
    /// Flow matching, shift by resolution: its logarithm at the least number of image tokens.
    base_shift: f64,
    /// The same at the largest number.
    max_shift: f64,
    /// Flow matching: the least number of image tokens.
    base_image_seq_len: usize,
    /// Flow matching: the largest number of image tokens.
    max_image_seq_len: usize,
    /// Flow matching: noise levels from 0 to 1 in place of 1 to 0 (Mochi).
    invert_sigmas: bool,
    /// Flow matching: the noise level that the last step starts from.
    shift_terminal: f64,
    /// Flow matching: fresh noise in each step.
    stochastic_sampling: bool,
}

/// A number that may be infinite: Python writes `-Infinity`, which JSON does not have.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Number(pub f64);

impl<'de> serde::Deserialize<'de> for Number {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::Number(number) => number.as_f64().map(Number),
            Value::String(text) if text == "-Infinity" => Some(Number(f64::NEG_INFINITY)),
            Value::String(text) if text == "Infinity" => Some(Number(f64::INFINITY)),
            _ => None,
        }
        .ok_or_else(|| serde::de::Error::custom("a number is expected"))
    }
}

impl Serialize for Number {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            number if number.is_finite() => serializer.serialize_f64(number),
            number => serializer.serialize_str(if number > 0.0 { "Infinity" } else { "-Infinity" }),
        }
    }
}

impl SchedulerConfig {
    /// Reads the bytes of a `scheduler_config.json`; `file` is named in errors.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) for anything malformed or unknown. Values are judged
    /// by the scheduler.
    pub fn from_json(json: &[u8], file: &Path) -> Result<Self> {
        let mut fields = Fields::parse(file, json)?;
        let class_name = fields.required("_class_name")?;
        Self::rest(fields, class_name)
    }

    /// As [`from_json`](Self::from_json) for a scheduler whose class `class_name` the file `index`
    /// says. As in diffusers' `from_pretrained`, the file's own class is passed over, and its
    /// options are read.
    ///
    /// # Errors
    /// As [`from_json`](Self::from_json).
    pub fn from_json_as(json: &[u8], file: &Path, class_name: &str, index: &Path) -> Result<Self> {
        let fields = Fields::parse(file, json)?;
        Ok(Self { class_file: index.to_path_buf(), ..Self::rest(fields, class_name.to_string())? })
    }

    fn rest(mut fields: Fields, class_name: String) -> Result<Self> {
        let config = Self::read(&mut fields, class_name)?;
        // `Scheduler.from_config(other.config)` leaves fields of the other class behind; no class
        // here reads these.
        fields.inert(&OTHER_CLASSES);
        // The way of 2022 to say that the prediction is not epsilon.
        fields.only("predict_epsilon", &[json!(true), Value::Null])?;
        fields.finish()?;
        Ok(config)
    }
}

/// Fields of schedulers for Stable Diffusion that attnmap does not have (SA, SDE).
const OTHER_CLASSES: [&str; 11] = [
    "clip_denoised",
    "corrector_order",
    "noise_sampler_seed",
    "predictor_order",
    "rho",
    "s_noise",
    "sigma_data",
    "sigma_schedule",
    "tau_func",
    "tensor_format",
    "timestep_values",
];
