//! LoRA files: small files of low-rank changes to a checkpoint's layers, merged into the weights as
//! they are read.
//!
//! Each layer's weight becomes `W + weight * alpha / rank * up down` (Hu et al. 2021). Namings are
//! those of kohya's scripts, diffusers and PEFT, as diffusers' `loaders/lora_conversion_utils.py`
//! (0.42) reads them.

mod keys;
mod layers;
mod peft;

use super::adapter::{self, PEFT_CONFIG, PEFT_FILE};
use super::weights::{LowRank, TensorChange, WeightFile};
use crate::Result;
use crate::argument::LORA;
use keys::{FactorRole, Layer, Meaning};
use layers::Home;
pub(super) use layers::Layers;
use peft::PeftSettings;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

/// A LoRA that the user names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Lora {
    /// The safetensors file, a folder that holds one, or one on the hub (see
    /// [`Source`](super::Source)).
    pub file: PathBuf,
    /// How strongly it is applied: 1 as it was trained, 0 not at all, below 0 the other way.
    pub weight: f64,
}

impl FromStr for Lora {
    type Err = String;

    /// `FILE` or `FILE:WEIGHT`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (file, weight) = match text.rsplit_once(':').map(|(file, weight)| (file, weight.parse::<f64>())) {
            Some((file, Ok(weight))) => (file, weight),
            Some((file, Err(_))) if file.ends_with(".safetensors") => {
                return Err("what follows the colon must be a number, as in style.safetensors:0.8".into());
            }
            _ => (text, 1.0),
        };
        match (file.is_empty(), weight.is_finite()) {
            (true, _) => Err("write FILE or FILE:WEIGHT, e.g. style.safetensors:0.8".into()),
            (_, false) => Err("the weight must be a finite number".into()),
            _ => Ok(Self { file: file.into(), weight }),
        }
    }
}

impl fmt::Display for Lora {
    /// As [`FromStr`] reads it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.weight)
    }
}

/// The tensors of one layer's change, by their names in the file.
#[derive(Debug, Default)]
struct LayerFactors {
    up: Option<String>,
    down: Option<String>,
    mid: Option<String>,
    alpha: Option<String>,
    /// The other kind of adapter that the layer has a tensor of: without that its factors do not
    /// make the change.
    other: Option<&'static str>,
    /// That tensor.
    first: Option<String>,
}

/// A layer of a file, or a tensor, that is left out.
#[derive(Debug)]
struct Misfit {
    /// The tensor's name.
    name: String,
    why: Why,
}

/// Why a layer is left out.
#[derive(Debug)]
enum Why {
    /// The checkpoint has no such layer.
    Absent,
    /// The checkpoint's layer has another shape; reads on from the tensor's name.
    Shape(String),
    /// It is of another kind of adapter.
    Other(&'static str),
    /// The name says nothing.
    Unknown,
}

impl Misfit {
    /// The tensor and why it is left out, where the checkpoint is called `id`.
    fn told(&self, id: &str) -> String {
        let name = &self.name;
        match &self.why {
            Why::Absent => format!("`{name}` (not in {id})"),
            Why::Shape(reason) => format!("`{name}` ({reason})"),
            Why::Other(kind) => format!("`{name}` ({kind}, which is not supported)"),
            Why::Unknown => format!("`{name}` (no part of a LoRA that attnmap knows)"),
        }
    }
}

/// Whether the tensor `name` is a difference of a bias or a norm, all of it zeros. Some programs
/// write such for every layer.
fn changes_nothing(file: &WeightFile, name: &str) -> Result<bool> {
    if !keys::is_added(name) || file.info(name).is_none_or(|info| info.shape.len() > 1) {
        return Ok(false);
    }
    Ok(super::weights::values(file, name)?.is_some_and(|values| values.iter().all(|value| *value == 0.0)))
}

/// The layers of `file` with their tensors, and the tensors that belong to none.
fn read_layers(file: &WeightFile) -> Result<(BTreeMap<Layer, LayerFactors>, Vec<Misfit>)> {
    let mut layers: BTreeMap<Layer, LayerFactors> = BTreeMap::new();
    let mut misfits = Vec::new();
    for name in file.names() {
        if changes_nothing(file, name)? {
            continue;
        }
        let (layer, role) = match keys::parse(name) {
            Meaning::Factor(layer, role) => (layer, role),
            Meaning::Other(Some(layer), kind) => {
                let factors = layers.entry(layer).or_default();
                factors.other.get_or_insert(kind);
                factors.first.get_or_insert_with(|| name.to_string());
                continue;
            }
            Meaning::Other(None, kind) => {
                misfits.push(Misfit { name: name.to_string(), why: Why::Other(kind) });
                continue;
            }
            Meaning::Unknown => {
                misfits.push(Misfit { name: name.to_string(), why: Why::Unknown });
                continue;
            }
        };
        let factors = layers.entry(layer).or_default();
        let place = match role {
            FactorRole::Up => &mut factors.up,
            FactorRole::Down => &mut factors.down,
            FactorRole::Mid => &mut factors.mid,
            FactorRole::Alpha => &mut factors.alpha,
        };
        if let Some(before) = place.replace(name.to_string()) {
            return Err(file.fault(format!("tensors `{before}` and `{name}` are the same factor of one layer")));
        }
    }
    Ok((layers, misfits))
}

/// Why a file of which most does not fit is refused, by what most of that is.
fn refusal(misfits: &[Misfit], layers: usize, checkpoint: &str, file: &WeightFile) -> String {
    let of = |wanted: fn(&Why) -> bool| {
        let mut found = misfits.iter().filter(|misfit| wanted(&misfit.why));
        let first = found.next();
        (found.count() + usize::from(first.is_some()), first)
    };
    let groups = [
        of(|why| matches!(why, Why::Other(_))),
        of(|why| matches!(why, Why::Absent)),
        of(|why| matches!(why, Why::Shape(_))),
        of(|why| matches!(why, Why::Unknown)),
    ];
    let Some((count, Some(first))) = groups.into_iter().max_by_key(|(count, _)| *count) else { return String::new() };
    let name = &first.name;
    match &first.why {
        Why::Other(kind) => {
            format!("tensor `{name}` is {kind}, which is not supported; plain LoRA (with or without convolutions) is")
        }
        Why::Absent => format!(
            "{count} of {layers} layers, such as `{name}`, {} not in {}; it is for {}",
            if count == 1 { "is" } else { "are" },
            checkpoint,
            made_for(file).unwrap_or("another kind of checkpoint"),
        ),
        Why::Shape(reason) => format!(
            "{count} of {layers} layers do not fit {}: `{name}` {reason}; the LoRA is for another kind of checkpoint",
            checkpoint
        ),
        Why::Unknown => {
            let whose = made_for(file).map_or_else(String::new, |whose| format!("; it is for {whose}"));
            format!("tensor `{name}` is no part of a LoRA that attnmap knows{whose}")
        }
    }
}

/// Changes by the part's folder and the tensor's current name.
pub(super) type WeightDeltas = BTreeMap<&'static str, BTreeMap<String, Vec<TensorChange>>>;

/// A LoRA that has been added to the changes of a checkpoint.
pub(super) struct AppliedLora {
    pub(super) file: Arc<WeightFile>,
    /// The settings of its one model, which its scale hangs on; empty where there are none.
    pub(super) settings: Vec<u8>,
    /// What was left out because it does not fit, and what had to be assumed.
    pub(super) warnings: Vec<String>,
}

impl Lora {
    /// Adds what this LoRA changes of the layers `known` of the checkpoint named `checkpoint` to
    /// `changes`.
    ///
    /// # Errors
    /// [`Error::Weights`](crate::Error::Weights) naming what is not a LoRA's, what is not whole,
    /// and layers that do not fit, where these are most of the file.
    pub(super) fn changes(&self, known: &Layers, checkpoint: &str, changes: &mut WeightDeltas) -> Result<AppliedLora> {
        let file = adapter::open(&self.file, adapter::LORA.argument)?;
        let fault = |reason: String| file.fault(reason);
        let (layers, mut misfits) = read_layers(&file)?;
        if file.names().next().is_none() {
            return Err(fault("holds no tensor; fetch it again".into()));
        }
        let settings = PeftSettings::of(&file).map_err(fault)?;
        // How many layers read the prompt's states, and how many of those are of another width.
        let (mut readers, mut strangers) = (0, 0);
        let mut fitting: Vec<Vec<(&'static str, String, TensorChange)>> = Vec::new();
        let by_own_name: HashSet<&str> =
            layers.keys().filter_map(|layer| known.find_by_own_name(layer)).map(|home| home.name.as_str()).collect();
        let with_dots: HashSet<(&str, &str)> = layers
            .keys()
            .filter(|layer| layer.path.contains('.'))
            .filter_map(|layer| known.find_by_own_name(layer))
            .map(|home| (home.part, home.name.as_str()))
            .collect();
        for (layer, factors) in &layers {
            let name = factors.any().to_string();
            if let Some(kind) = factors.other {
                misfits.push(Misfit { name, why: Why::Other(kind) });
                continue;
            }
            if factors.up.is_none() && factors.down.is_none() {
                misfits.push(Misfit { name, why: Why::Unknown });
                continue;
            }
            let homes = known.find(layer);
            if homes.is_empty() {
                misfits.push(Misfit { name, why: Why::Absent });
                continue;
            }
            // Anime-Z's trainer writes joined layers once more beside the split ones. Other files
            // have each layer in two namings, of which diffusers takes its own.
            let again = match known.find_by_own_name(layer) {
                Some(home) => !layer.path.contains('.') && with_dots.contains(&(home.part, home.name.as_str())),
                None => homes.iter().all(|home| by_own_name.contains(&*home.name)),
            };
            if again {
                continue;
            }
            let low_rank = self.low_rank(&file, layer, factors, &settings)?;
            let reads =
                |home: &Home| home.name.ends_with(".attn2.to_k.weight") || home.name.ends_with(".attn2.to_v.weight");
            // In a UNet's transformers that is the attention to the prompt.
            let reads = known.reads_by_attn2 && homes.iter().any(reads);
            readers += usize::from(reads);
            let change = |home: &Home| {
                TensorChange::LowRank(LowRank { rows: home.rows, swapped: home.swapped, ..low_rank.clone() })
            };
            match homes.iter().find_map(|home| change(home).misfit(&home.shape)) {
                Some(reason) => {
                    strangers += usize::from(reads);
                    misfits.push(Misfit { name, why: Why::Shape(reason) });
                }
                None => fitting.push(homes.iter().map(|home| (home.part, home.name.clone(), change(home))).collect()),
            }
        }
        if misfits.len() > fitting.len() || (strangers > 1 && strangers == readers) {
            return Err(fault(refusal(&misfits, layers.len(), checkpoint, &file)));
        }
        let mut warnings = Vec::new();
        if !misfits.is_empty() {
            warnings.push(self.warning(&misfits, fitting.len(), checkpoint));
        }
        if file.path().ends_with(PEFT_FILE)
            && settings.is_empty()
            && layers.values().all(|factors| factors.alpha.is_none())
        {
            let file = self.file.display();
            warnings.push(format!("{LORA:#} {file}: {PEFT_CONFIG} is not beside it, so its scale counts as 1"));
        }
        for (part, home, change) in fitting.into_iter().flatten() {
            changes.entry(part).or_default().entry(home).or_default().push(change);
        }
        Ok(AppliedLora { file, settings: settings.of_one_model(), warnings })
    }

    /// What is said of the layers that are left out.
    fn warning(&self, misfits: &[Misfit], applied: usize, checkpoint: &str) -> String {
        const SHOWN: usize = 3;
        let total = applied + misfits.len();
        let mut named: Vec<String> = misfits.iter().take(SHOWN).map(|misfit| misfit.told(checkpoint)).collect();
        if misfits.len() > SHOWN {
            named.push(format!("and {} more", misfits.len() - SHOWN));
        }
        let verb = if misfits.len() == 1 { "layers does not fit and is" } else { "layers do not fit and are" };
        format!(
            "{LORA:#} {}: {} of {total} {verb} left out: {}; the rest is applied",
            self.file.display(),
            misfits.len(),
            named.join(", ")
        )
    }

    fn low_rank(
        &self,
        file: &Arc<WeightFile>,
        layer: &Layer,
        factors: &LayerFactors,
        settings: &PeftSettings,
    ) -> Result<LowRank> {
        let (Some(up), Some(down)) = (&factors.up, &factors.down) else {
            let other = if factors.up.is_none() { "up" } else { "down" };
            return Err(
                file.fault(format!("`{}` has no {other} factor beside it; fetch the file again", factors.any()))
            );
        };
        let rank = file.info(down).and_then(|info| info.shape.first()).copied().unwrap_or(0).max(1) as f64;
        let scale = match &factors.alpha {
            None => settings.scale(layer, rank).map_err(|reason| file.fault(reason))?,
            Some(name) => match super::weights::scalar(file, name)? {
                Some(alpha) if alpha.is_finite() => alpha / rank,
                _ => return Err(file.fault(format!("tensor `{name}` is not one number"))),
            },
        };
        let (up, down, mid) = (up.clone(), down.clone(), factors.mid.clone());
        let scale = self.weight * scale;
        Ok(LowRank { file: file.clone(), up, down, mid, scale, rows: None, swapped: false })
    }
}

impl LayerFactors {
    /// One of the names, for messages.
    fn any(&self) -> &str {
        [&self.first, &self.down, &self.up, &self.mid, &self.alpha]
            .into_iter()
            .flatten()
            .next()
            .map_or("", String::as_str)
    }
}

/// Whose LoRA it may be, where the layers' names show it.
fn made_for(file: &WeightFile) -> Option<&'static str> {
    let any = |parts: &[&str]| file.names().any(|name| parts.iter().any(|part| name.contains(part)));
    if any(&["double_blocks", "single_blocks", "single_transformer_blocks"]) {
        Some("Flux")
    } else if any(&["joint_blocks", "lora_te3_", "text_encoder_3."]) {
        Some("Stable Diffusion 3")
    } else if any(&["lora_prior_"]) {
        Some("Stable Cascade")
    } else if file.names().any(|name| name.starts_with("transformer.")) {
        Some("a diffusion transformer (Stable Diffusion 3, Flux or another)")
    } else if any(&["lora_te2_", "lora_te1_", "text_encoder_2."]) {
        Some("SDXL")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_weight_may_follow_the_file() {
        let parse = |text: &str| text.parse::<Lora>();
        let lora = |file: &str, weight| Ok(Lora { file: file.into(), weight });
        assert_eq!(parse("a.safetensors"), lora("a.safetensors", 1.0));
        assert_eq!(parse("a.safetensors:-0.5"), lora("a.safetensors", -0.5));
        assert_eq!(parse("c:/a.safetensors"), lora("c:/a.safetensors", 1.0));
        assert!(parse("").is_err() && parse(":1").is_err() && parse("a:inf").is_err());
        assert!(parse("style.safetensors:strong").unwrap_err().contains("must be a number"));
    }
}
