//! `model_index.json`: which pipeline a folder is and which parts it has.

use super::fields::Fields;
use crate::argument::MODEL;
use crate::checkpoint::part::Part;
use crate::{Error, Result};
use serde::Serialize;
use serde_json::{Value, json};
use std::path::Path;

/// A pipeline that attnmap can run, and what its index says beside the parts' own files.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ModelIndex {
    /// The pipeline's class: `StableDiffusionPipeline`, or one that has the same parts.
    pub class_name: String,
    /// The family that the class belongs to.
    pub family: Family,
    /// The scheduler's class, e.g. `PNDMScheduler`; whether attnmap has it is decided when the
    /// scheduler is built.
    pub scheduler_class: String,
    /// SDXL: whether an empty negative prompt stands for zeros in place of the encoders' states.
    pub force_zeros_for_empty_prompt: bool,
    /// Parts in the folder that attnmap does not use: the safety checker, its feature extractor, an
    /// image encoder.
    pub ignored_parts: Vec<String>,
    /// Stable Diffusion 3: whether it has T5, its third text encoder.
    pub t5: bool,
    /// Whether the first text encoder has a projection of its own.
    pub first_projects: bool,
}

/// A family of pipelines: which parts there are and how a prompt and a guidance scale reach the
/// denoiser.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Family {
    /// Stable Diffusion 1 and 2: one text encoder.
    StableDiffusion,
    /// Latent consistency models of that shape: the guidance scale is embedded, or there is none.
    LatentConsistency,
    /// SDXL: two text encoders, size and crop conditions.
    StableDiffusionXl,
    /// Stable Diffusion 3 and 3.5: a transformer with joint attention, two CLIPs and T5, flow
    /// matching.
    StableDiffusion3,
    /// FLUX.1 dev and schnell: T5's states in joint attention, CLIP's pooled one beside, flow
    /// matching.
    Flux,
    /// Z-Image and Z-Image-Turbo: Qwen3's states in joint attention, flow matching.
    ZImage,
}

impl Family {
    /// Whether the network predicts the velocity of flow matching, and no noise.
    pub fn flows(self) -> bool {
        matches!(self, Self::StableDiffusion3 | Self::Flux | Self::ZImage)
    }
}

/// Pipelines whose folder holds exactly a model of a family.
const SUPPORTED: [(&str, Family); 17] = [
    ("StableDiffusionPipeline", Family::StableDiffusion),
    ("StableDiffusionImg2ImgPipeline", Family::StableDiffusion),
    ("StableDiffusionInpaintPipeline", Family::StableDiffusion),
    ("LatentConsistencyModelPipeline", Family::LatentConsistency),
    ("LatentConsistencyModelImg2ImgPipeline", Family::LatentConsistency),
    ("StableDiffusionXLPipeline", Family::StableDiffusionXl),
    ("StableDiffusionXLImg2ImgPipeline", Family::StableDiffusionXl),
    ("StableDiffusionXLInpaintPipeline", Family::StableDiffusionXl),
    ("StableDiffusion3Pipeline", Family::StableDiffusion3),
    ("StableDiffusion3Img2ImgPipeline", Family::StableDiffusion3),
    ("StableDiffusion3InpaintPipeline", Family::StableDiffusion3),
    ("FluxPipeline", Family::Flux),
    ("FluxImg2ImgPipeline", Family::Flux),
    ("FluxInpaintPipeline", Family::Flux),
    ("ZImagePipeline", Family::ZImage),
    ("ZImageImg2ImgPipeline", Family::ZImage),
    ("ZImageInpaintPipeline", Family::ZImage),
];

/// Parts that are used, with the classes that they may have.
const PARTS: [(&str, &[&str]); 4] = [
    ("text_encoder", &["CLIPTextModel"]),
    ("tokenizer", &["CLIPTokenizer", "CLIPTokenizerFast"]),
    ("unet", &["UNet2DConditionModel"]),
    ("vae", &["AutoencoderKL"]),
];

/// What SDXL has beside those.
const SECOND_PARTS: [(&str, &[&str]); 2] =
    [("text_encoder_2", &["CLIPTextModelWithProjection"]), ("tokenizer_2", &["CLIPTokenizer", "CLIPTokenizerFast"])];

/// The parts of Stable Diffusion 3.
const PARTS_OF_3: [(&str, &[&str]); 6] = [
    // Without one it stands for a projection that changes nothing, as in single files.
    ("text_encoder", &["CLIPTextModelWithProjection", "CLIPTextModel"]),
    ("tokenizer", &["CLIPTokenizer", "CLIPTokenizerFast"]),
    ("text_encoder_2", &["CLIPTextModelWithProjection"]),
    ("tokenizer_2", &["CLIPTokenizer", "CLIPTokenizerFast"]),
    ("transformer", &["SD3Transformer2DModel"]),
    ("vae", &["AutoencoderKL"]),
];

/// Classes of T5's tokenizer. A folder may have been written with a general one, which reads the
/// same files.
const T5_TOKENIZERS: &[&str] = &["T5TokenizerFast", "T5Tokenizer", "PreTrainedTokenizerFast", "TokenizersBackend"];

/// The parts of FLUX.1.
const PARTS_OF_FLUX: [(&str, &[&str]); 6] = [
    ("text_encoder", &["CLIPTextModel"]),
    ("tokenizer", &["CLIPTokenizer", "CLIPTokenizerFast"]),
    ("text_encoder_2", &["T5EncoderModel"]),
    ("tokenizer_2", T5_TOKENIZERS),
    ("transformer", &["FluxTransformer2DModel"]),
    ("vae", &["AutoencoderKL"]),
];

/// The parts of Z-Image.
const PARTS_OF_Z_IMAGE: [(&str, &[&str]); 4] = [
    ("text_encoder", &["Qwen3Model", "Qwen3ForCausalLM"]),
    ("tokenizer", &["Qwen2Tokenizer", "Qwen2TokenizerFast", "PreTrainedTokenizerFast", "TokenizersBackend"]),
    ("transformer", &["ZImageTransformer2DModel"]),
    ("vae", &["AutoencoderKL"]),
];

/// What Stable Diffusion 3 has beside those, or does without.
const T5_PARTS: [(&str, &[&str]); 2] = [("text_encoder_3", &["T5EncoderModel"]), ("tokenizer_3", T5_TOKENIZERS)];

/// Parts that are knowingly left alone: they judge or condition on images, and no prompt passes
/// through them.
const IGNORED: [&str; 3] = ["safety_checker", "feature_extractor", "image_encoder"];

impl ModelIndex {
    /// Reads the bytes of a `model_index.json`; `file` is named in errors.
    ///
    /// # Errors
    /// [`Error::Unsupported`] naming a pipeline of another kind; [`Error::Config`] for anything
    /// malformed or unknown.
    pub fn from_json(json: &[u8], file: &Path) -> Result<Self> {
        let mut fields = Fields::parse(file, json)?;
        let class_name: String = fields.required("_class_name")?;
        let Some((_, family)) = SUPPORTED.iter().find(|(name, _)| *name == class_name).copied() else {
            return Err(unsupported_pipeline(&class_name, file));
        };
        let (first, more): (&[(&str, &[&str])], &[_]) = match family {
            Family::StableDiffusion | Family::LatentConsistency => (&PARTS, &[]),
            Family::StableDiffusionXl => (&PARTS, &SECOND_PARTS),
            Family::StableDiffusion3 => (&PARTS_OF_3, &[]),
            Family::Flux => (&PARTS_OF_FLUX, &[]),
            Family::ZImage => (&PARTS_OF_Z_IMAGE, &[]),
        };
        let mut first_projects = false;
        for &(name, classes) in first.iter().chain(more) {
            let value = fields.take_value(name);
            first_projects |=
                name == "text_encoder" && part_class(value.as_ref()) == Some("CLIPTextModelWithProjection");
            match part_class(value.as_ref()) {
                Some(class) if classes.contains(&class) => {}
                Some(class) => return Err(fields.unsupported(name, &json!(class), &classes.join(" or "))),
                None if family == Family::StableDiffusionXl && name == "text_encoder" => return Err(refiner(file)),
                None => return Err(fields.refuse(format!("the part `{name}` is missing"))),
            }
        }
        let t5 = family == Family::StableDiffusion3 && read_t5(&mut fields)?;
        // Whether attnmap has the class is decided when the scheduler is built: `--scheduler` may
        // name another.
        let scheduler = fields.take_value("scheduler");
        let Some(scheduler_class) = part_class(scheduler.as_ref()).map(String::from) else {
            return Err(fields.refuse("the part `scheduler` is missing"));
        };
        let mut ignored_parts = Vec::new();
        for name in IGNORED {
            if part_class(fields.take_value(name).as_ref()).is_some() {
                ignored_parts.push(name.to_string());
            }
        }
        let mut force_zeros_for_empty_prompt = false;
        if family == Family::StableDiffusionXl {
            force_zeros_for_empty_prompt = fields.take("force_zeros_for_empty_prompt", Some(true))?.unwrap_or(true);
            fields.only("requires_aesthetics_score", &[json!(false), Value::Null])?;
            // An invisible mark that diffusers puts into the image where a library for it is
            // installed.
            fields.inert(&["add_watermarker"]);
        }
        fields.inert(&["requires_safety_checker"]);
        fields.finish()?;
        Ok(Self {
            class_name,
            family,
            scheduler_class,
            force_zeros_for_empty_prompt,
            ignored_parts,
            t5,
            first_projects,
        })
    }

    /// The parts with weights.
    pub fn parts(&self) -> &'static [Part] {
        match self.family {
            Family::StableDiffusion | Family::LatentConsistency => &[Part::TextEncoder, Part::Unet, Part::Vae],
            Family::StableDiffusionXl => &[Part::TextEncoder, Part::TextEncoder2, Part::Unet, Part::Vae],
            Family::StableDiffusion3 if self.t5 => {
                &[Part::TextEncoder, Part::TextEncoder2, Part::TextEncoder3, Part::Transformer, Part::Vae]
            }
            Family::ZImage => &[Part::TextEncoder, Part::Transformer, Part::Vae],
            Family::StableDiffusion3 | Family::Flux => {
                &[Part::TextEncoder, Part::TextEncoder2, Part::Transformer, Part::Vae]
            }
        }
    }
}

/// Whether there is a T5 with its tokenizer; neither may be alone.
fn read_t5(fields: &mut Fields) -> Result<bool> {
    let mut there = Vec::new();
    for (name, classes) in T5_PARTS {
        let value = fields.take_value(name);
        match part_class(value.as_ref()) {
            Some(class) if !classes.contains(&class) => {
                return Err(fields.unsupported(name, &json!(class), &classes.join(" or ")));
            }
            class => there.push(class.is_some()),
        }
    }
    match there.as_slice() {
        [encoder, tokenizer] if encoder == tokenizer => Ok(*encoder),
        // diffusers leaves the tokenizer in place where the encoder was left out.
        [false, true] => Ok(false),
        _ => Err(fields.refuse("the part `tokenizer_3` is missing, which `text_encoder_3` needs")),
    }
}

/// The class in a `["library", "Class"]` entry; `None` for an absent part, which diffusers writes
/// as nulls.
fn part_class(value: Option<&Value>) -> Option<&str> {
    value?.as_array()?.get(1)?.as_str()
}

/// The refusal of SDXL's second stage, which has no first text encoder.
fn refiner(file: &Path) -> Error {
    Error::Unsupported {
        what: format!("{}: an SDXL refiner (it has no `text_encoder`)", file.display()),
        way_out: format!(
            "it only finishes images of a base model; give the base: {MODEL} stabilityai/stable-diffusion-xl-base-1.0"
        ),
    }
}

/// Beginnings of pipelines that `python/attnmap` records and attnmap itself does not run.
const RECORDED: [&str; 6] = ["QwenImage", "Chroma", "Flux2Klein", "Lumina2", "PixArt", "HunyuanDiTPipeline"];

/// Names the family of a pipeline of another kind, so that the reader knows what they have.
fn unsupported_pipeline(class: &str, file: &Path) -> Error {
    // The first that fits is named.
    const FAMILIES: [(&str, &str); 36] = [
        ("Onnx", "weights for ONNX Runtime"),
        ("ORT", "weights for ONNX Runtime"),
        ("OVStable", "weights for OpenVINO"),
        ("OVLatent", "weights for OpenVINO"),
        ("ControlNet", "ControlNet"),
        ("StableDiffusion3", "Stable Diffusion 3 with another guidance"),
        ("FluxFill", "FLUX.1 Fill, which is shown a masked picture"),
        ("FluxKontext", "FLUX.1 Kontext, which is shown a picture"),
        ("FluxControl", "FLUX.1 Canny or Depth, which is shown a picture"),
        ("FluxPriorRedux", "FLUX.1 Redux, which is shown a picture"),
        ("Flux2", "FLUX.2"),
        ("Flux", "another kind of FLUX.1"),
        ("ZImageOmni", "Z-Image Omni, which is shown pictures"),
        ("ZImage", "Z-Image"),
        ("QwenImage", "Qwen-Image"),
        ("Chroma", "Chroma"),
        ("Lumina", "Lumina"),
        ("HunyuanVideo", "HunyuanVideo, a video model"),
        ("CogVideo", "CogVideoX, a video model"),
        ("Wan", "Wan, a video model"),
        ("LTX", "LTX, a video model"),
        ("Mochi", "Mochi, a video model"),
        ("Video", "a video model"),
        ("AnimateDiff", "AnimateDiff, a video model"),
        ("Sana", "Sana"),
        ("HunyuanDiT", "HunyuanDiT"),
        ("Kolors", "Kolors"),
        ("Adapter", "T2I-Adapter"),
        ("Inpaint", "inpainting"),
        ("InstructPix2Pix", "InstructPix2Pix"),
        ("Upscale", "the upscaler"),
        ("Depth2Img", "depth-to-image"),
        ("StableCascade", "Stable Cascade"),
        ("PixArt", "PixArt"),
        ("Kandinsky", "Kandinsky"),
        ("IF", "DeepFloyd IF"),
    ];
    let family =
        FAMILIES.iter().find(|(part, _)| class.contains(part)).map_or("a model of another kind", |(_, name)| name);
    let recorded = RECORDED.iter().any(|known| class.starts_with(known)) && !class.contains("ControlNet");
    let record = match recorded {
        true => "; its pipeline in diffusers is recorded by the Python package (docs/PYTHON.md)",
        false => "",
    };
    let way_out = format!(
        "Stable Diffusion 1.x, 2.x, 3, 3.5, SDXL, LCM, FLUX.1 and Z-Image checkpoints are; e.g. {MODEL} \
         stable-diffusion-v1-5/stable-diffusion-v1-5{record}"
    );
    Error::Unsupported { what: format!("{}: {family} ({class})", file.display()), way_out }
}
