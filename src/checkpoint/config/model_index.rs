//! `model_index.json`: which pipeline a folder is and which parts it has.

use super::fields::Fields;
use crate::{Error, Result};
use serde::Serialize;
use serde_json::{Value, json};
use std::path::Path;

/// A pipeline that attnmap can run, and what its index says beside the parts' own files.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ModelIndex {
    /// The pipeline's class: `StableDiffusionPipeline`, or one that has the same parts.
    pub class_name: String,
    /// Parts in the folder that attnmap does not use: the safety checker, its feature extractor, an image encoder.
    pub ignored_parts: Vec<String>,
}

/// Pipelines whose folder holds exactly a Stable Diffusion 1 or 2 model.
const SUPPORTED: [&str; 2] = ["StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline"];

/// Parts that are used, with the classes that they may have.
const PARTS: [(&str, &[&str]); 4] = [
    ("text_encoder", &["CLIPTextModel"]),
    ("tokenizer", &["CLIPTokenizer", "CLIPTokenizerFast"]),
    ("unet", &["UNet2DConditionModel"]),
    ("vae", &["AutoencoderKL"]),
];

/// Parts that are knowingly left alone: they judge or condition on images, and no prompt passes through them.
const IGNORED: [&str; 3] = ["safety_checker", "feature_extractor", "image_encoder"];

impl ModelIndex {
    /// Reads the bytes of a `model_index.json`; `file` is named in errors.
    ///
    /// # Errors
    /// [`Error::Unsupported`] naming a pipeline of another kind; [`Error::Config`] for anything malformed or unknown.
    pub fn from_json(json: &[u8], file: &Path) -> Result<Self> {
        let mut fields = Fields::parse(file, json)?;
        let class_name: String = fields.required("_class_name")?;
        if !SUPPORTED.contains(&class_name.as_str()) {
            return Err(unsupported_pipeline(&class_name, file));
        }
        for (name, classes) in PARTS {
            let value = fields.take_value(name);
            match part_class(value.as_ref()) {
                Some(class) if classes.contains(&class) => {}
                Some(class) => return Err(fields.unsupported(name, &json!(class), &classes.join(" or "))),
                None => return Err(fields.refuse(format!("the part `{name}` is missing"))),
            }
        }
        // Whether attnmap has the class is decided when the scheduler is built: `--scheduler` may name another.
        if part_class(fields.take_value("scheduler").as_ref()).is_none() {
            return Err(fields.refuse("the part `scheduler` is missing"));
        }
        let mut ignored_parts = Vec::new();
        for name in IGNORED {
            if part_class(fields.take_value(name).as_ref()).is_some() {
                ignored_parts.push(name.to_string());
            }
        }
        fields.inert(&["requires_safety_checker"]);
        fields.finish()?;
        Ok(Self { class_name, ignored_parts })
    }
}

/// The class in a `["library", "Class"]` entry; `None` for an absent part, which diffusers writes as nulls.
fn part_class(value: Option<&Value>) -> Option<&str> {
    value?.as_array()?.get(1)?.as_str()
}

/// Names the family of a pipeline that is not Stable Diffusion 1 or 2, so that the reader knows what they have.
fn unsupported_pipeline(class: &str, file: &Path) -> Error {
    const FAMILIES: [(&str, &str); 13] = [
        ("StableDiffusionXL", "SDXL"),
        ("StableDiffusion3", "Stable Diffusion 3"),
        ("Flux", "Flux"),
        ("ControlNet", "ControlNet"),
        ("Adapter", "T2I-Adapter"),
        ("Inpaint", "inpainting"),
        ("InstructPix2Pix", "InstructPix2Pix"),
        ("Upscale", "the upscaler"),
        ("Depth2Img", "depth-to-image"),
        ("LatentConsistencyModel", "LCM"),
        ("PixArt", "PixArt"),
        ("Kandinsky", "Kandinsky"),
        ("IF", "DeepFloyd IF"),
    ];
    let family =
        FAMILIES.iter().find(|(part, _)| class.contains(part)).map_or("a model of another kind", |(_, name)| name);
    Error::Unsupported {
        what: format!("{}: {family} ({class})", file.display()),
        way_out: "Stable Diffusion 1.x and 2.x text-to-image checkpoints are, so far; e.g. \
                  --model stable-diffusion-v1-5/stable-diffusion-v1-5"
            .into(),
    }
}
