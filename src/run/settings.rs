//! What an image was made with, as `run.json` and the trace say it.

use super::Sampling;
use crate::checkpoint::Changes;
use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// What an image was made with. In [`sampling`](Self::sampling) everything has a value that a run
/// always has; the negative prompt stands in `run.json` itself, and the sampler in
/// [`scheduler`](Self::scheduler).
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct Settings {
    /// Seed of the noise.
    pub seed: u64,
    /// The sampler that ran: its name on the command line, or its class where another program made
    /// the run. Empty for a look at a picture.
    #[serde(default)]
    pub scheduler: String,
    /// Number type of the networks.
    #[serde(default)]
    pub dtype: String,
    /// Where the networks ran.
    #[serde(default)]
    pub device: String,
    /// Steps, guidance, size and so on; a look has its levels as steps.
    #[serde(flatten)]
    pub sampling: Sampling,
    /// What was chosen and changed of the checkpoint.
    #[serde(flatten)]
    pub changes: Changes,
    /// Tokens of one chunk of the prompt, start and end among them.
    #[serde(default)]
    pub max_length: Option<usize>,
    /// The weight files, where a variant was chosen among several.
    #[serde(default)]
    pub weights: Option<Vec<String>>,
    /// What the picture was called that the run set out from.
    #[serde(default)]
    pub init: Option<String>,
    /// Whether only a part of that picture was drawn anew.
    #[serde(default)]
    pub masked: bool,
    /// `given`, where the first sample was not the seed's own.
    #[serde(default)]
    pub latents: Option<String>,
    /// The file of a picture that the network was shown.
    #[serde(default)]
    pub picture: Option<String>,
    /// The noise levels at which it was shown.
    #[serde(flatten)]
    pub look: Option<NoiseLevels>,
    /// What other programs and later versions say beside it.
    #[serde(flatten)]
    pub more: BTreeMap<String, Value>,
}

/// The noise levels at which a picture was shown to the network.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct NoiseLevels {
    /// Timesteps of training.
    pub levels: Vec<usize>,
    /// The share of noise at each, 0 to 1; absent where the scheduler does not tell it.
    #[serde(default)]
    pub noise: Option<Vec<f64>>,
}

impl Settings {
    /// Steps that were asked for. PNDM makes one call of the denoiser more.
    pub fn steps(&self) -> usize {
        self.sampling.steps.unwrap_or_default()
    }

    /// Weight of classifier-free guidance; 1 or less is no guidance.
    pub fn guidance(&self) -> f64 {
        self.sampling.guidance.unwrap_or_default()
    }

    /// Height and width of the image in pixels.
    pub fn size(&self) -> [usize; 2] {
        self.sampling.size.unwrap_or_default()
    }

    /// What few runs have, by its name in `run.json`.
    pub fn further(&self) -> BTreeMap<String, Value> {
        let mut further = self.more.clone();
        further.extend(self.changes.record());
        let mut add = |name: &str, value: Option<Value>| {
            further.extend(value.map(|value| (name.to_owned(), value)));
        };
        for name in ["spacing", "original_size", "crop"] {
            add(name, self.sampling.get(name).map(Value::String));
        }
        add("clip_skip", self.sampling.clip_skip.filter(|layers| *layers > 0).map(Value::from));
        add("emphasis", self.sampling.emphasis.filter(|on| *on).map(Value::Bool));
        add("long", self.sampling.long.filter(|on| *on).map(Value::Bool));
        add("strength", self.sampling.strength.map(Value::from));
        add("max_length", self.max_length.map(Value::from));
        add("weights", self.weights.as_ref().map(|files| json!(files)));
        add("init", self.init.as_ref().map(|name| json!(name)));
        add("masked", self.masked.then_some(Value::Bool(true)));
        add("latents", self.latents.as_ref().map(|given| json!(given)));
        add("picture", self.picture.as_ref().map(|file| json!(file)));
        add("levels", self.look.as_ref().map(|look| json!(look.levels)));
        add("noise", self.look.as_ref().map(|look| json!(look.noise)));
        further
    }
}

impl Serialize for Settings {
    /// What every run has first, then the rest in the order of the names.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let [height, width] = self.size();
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("seed", &self.seed)?;
        map.serialize_entry("steps", &self.steps())?;
        map.serialize_entry("guidance_scale", &self.guidance())?;
        map.serialize_entry("scheduler", &self.scheduler)?;
        map.serialize_entry("width", &width)?;
        map.serialize_entry("height", &height)?;
        map.serialize_entry("dtype", &self.dtype)?;
        map.serialize_entry("device", &self.device)?;
        for (name, value) in self.further() {
            map.serialize_entry(&name, &value)?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_is_written_again_to_the_byte() {
        for text in [
            r#"{"seed":18446744073709551615,"steps":25,"guidance_scale":7.5,"scheduler":"ddim","width":640,"height":512,"dtype":"f32","device":"cpu","clip_skip":1,"crop":"40,16","embeddings":[{"file":"cat.safetensors","word":"<cat>"}],"emphasis":true,"init":"a.png","latents":"given","long":true,"loras":[{"file":"style.safetensors","weight":0.7}],"masked":true,"max_length":77,"original_size":"1024x768","prediction":"v_prediction","spacing":"trailing","strength":0.8,"variant":"fp16","weights":["unet/x.fp16.safetensors"]}"#,
            r#"{"seed":0,"steps":3,"guidance_scale":1.0,"scheduler":"","width":64,"height":64,"dtype":"f32","device":"cpu","levels":[600,300],"max_length":77,"noise":[0.9,0.4],"picture":"p.png"}"#,
            r#"{"seed":0,"steps":3,"guidance_scale":1.0,"scheduler":"UniPCMultistepScheduler","width":64,"height":64,"dtype":"f32","device":"cuda","heads":"mean","later":[1],"max_length":512,"strength":0.5}"#,
        ] {
            let settings: Settings = serde_json::from_str(text).unwrap();
            assert_eq!(serde_json::to_string(&settings).unwrap(), text);
        }
    }
}
