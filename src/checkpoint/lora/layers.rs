//! The layers of a checkpoint that a LoRA can change, by every name that files have for them.

use super::keys::{self, Layer};
use crate::checkpoint::config::DenoiserConfig;
use crate::checkpoint::single::{self, UnetNames, sd3_originals};
use crate::checkpoint::weights::{RowsOf, flux_layers, z_image_layers};
use std::collections::{BTreeMap, HashMap};

/// A tensor that a layer of a LoRA changes, or changes a part of.
#[derive(Debug, Clone)]
pub(super) struct Home {
    /// The part's folder.
    pub(super) part: &'static str,
    /// The tensor's name.
    pub(super) name: String,
    pub(super) shape: Vec<usize>,
    /// Which of the LoRA's rows are its own, where the LoRA has several layers in one.
    pub(super) rows: Option<RowsOf>,
    /// Whether the halves of the LoRA's rows have changed places.
    pub(super) swapped: bool,
}

/// The layers that can be changed, by every name that a LoRA may call them.
#[derive(Default)]
pub(crate) struct Layers {
    /// By part and name.
    layers: HashMap<(&'static str, String), Vec<Home>>,
    /// Whether `attn2` reads the prompt's states.
    pub(super) reads_by_attn2: bool,
    /// Folder of the denoiser, which LoRAs call `unet` or `transformer`.
    denoiser: &'static str,
    /// Folder of T5, which kohya's scripts and ComfyUI call the third encoder wherever it is.
    t5: &'static str,
}

/// A layer in diffusers' naming, which rows of the authors' layer are its own, and whether the
/// halves of these have changed places.
type LayerPiece = (String, Option<RowsOf>, bool);

/// The layers of a transformer by its authors' names, with those of diffusers that each is made of.
fn originals(denoiser: &DenoiserConfig) -> Vec<(String, Vec<LayerPiece>)> {
    let layers = match denoiser {
        DenoiserConfig::Unet(_) => return Vec::new(),
        DenoiserConfig::Sd3(sd3) => {
            let piece = |piece: single::Piece| (piece.layer, piece.third.map(RowsOf::third), piece.swapped);
            let pieces = |pieces: Vec<single::Piece>| pieces.into_iter().map(piece).collect();
            return sd3_originals(sd3).into_iter().map(|(original, all)| (original, pieces(all))).collect();
        }
        DenoiserConfig::Flux(flux) => flux_layers(flux.num_layers, flux.num_single_layers),
        DenoiserConfig::ZImage(z_image) => z_image_layers(z_image.n_layers, z_image.n_refiner_layers),
    };
    let pieces = |pieces: Vec<(String, Option<RowsOf>)>| pieces.into_iter().map(|(layer, rows)| (layer, rows, false));
    let mut all: Vec<(String, Vec<LayerPiece>)> =
        layers.into_iter().map(|(original, all)| (original, pieces(all).collect())).collect();
    if let DenoiserConfig::Flux(_) = denoiser {
        // Scale and shift have changed places.
        all.push(("final_layer.adaLN_modulation.1".into(), vec![("norm_out.linear".into(), None, true)]));
    }
    all
}

impl Layers {
    /// The layers of `parts`: folders with the names and shapes of their tensors.
    pub(crate) fn new(
        denoiser: &DenoiserConfig,
        parts: impl Iterator<Item = (&'static str, BTreeMap<String, Vec<usize>>)>,
    ) -> Self {
        let mut layers: HashMap<(&'static str, String), Vec<Home>> = HashMap::new();
        let mut add = |part: &'static str, known: &str, homes: Vec<Home>| {
            layers.insert((part, known.replace('.', "_")), homes.clone());
            layers.insert((part, known.to_string()), homes);
        };
        let folder_of_denoiser = match denoiser {
            DenoiserConfig::Unet(_) => "unet",
            DenoiserConfig::Sd3(_) | DenoiserConfig::Flux(_) | DenoiserConfig::ZImage(_) => "transformer",
        };
        let t5 = match denoiser {
            DenoiserConfig::Flux(_) => keys::SECOND,
            DenoiserConfig::Unet(_) | DenoiserConfig::Sd3(_) | DenoiserConfig::ZImage(_) => keys::THIRD,
        };
        let originals = originals(denoiser);
        for (folder, shapes) in parts {
            let home = |layer: &str| {
                let name = format!("{layer}.weight");
                let shape = shapes.get(&name)?.clone();
                Some(Home { part: folder, name, shape, rows: None, swapped: false })
            };
            for layer in shapes.keys().filter_map(|name| name.strip_suffix(".weight")) {
                add(folder, layer, home(layer).into_iter().collect());
            }
            if let (DenoiserConfig::Unet(unet), "unet") = (denoiser, folder) {
                let names = UnetNames::new(unet);
                for layer in shapes.keys().filter_map(|name| name.strip_suffix(".weight")) {
                    if let Some(original) = names.original(layer) {
                        add(folder, &original, home(layer).into_iter().collect());
                    }
                }
            }
            for (original, pieces) in originals.iter().filter(|_| folder == "transformer") {
                let home = |&(ref layer, rows, swapped): &LayerPiece| Some(Home { rows, swapped, ..home(layer)? });
                // Not every block has every layer.
                if let Some(homes) = pieces.iter().map(home).collect::<Option<Vec<_>>>() {
                    add(folder, original, homes);
                }
            }
        }
        Self { layers, reads_by_attn2: denoiser.unet().is_some(), denoiser: folder_of_denoiser, t5 }
    }

    pub(super) fn find(&self, layer: &Layer) -> &[Home] {
        let part = match layer.part {
            keys::UNET if self.denoiser != keys::UNET => self.denoiser,
            keys::THIRD => self.t5,
            part => part,
        };
        let homes = |path: String| self.layers.get(&(part, path));
        // Some trainers write dots in place of a name's own underscores: `to.q`.
        let found = homes(layer.path.clone()).or_else(|| homes(layer.path.replace('.', "_")));
        found.map(Vec::as_slice).unwrap_or_default()
    }

    /// The one tensor that is named as `layer` is, with dots or underscores.
    pub(super) fn find_by_own_name(&self, layer: &Layer) -> Option<&Home> {
        let [home] = self.find(layer) else { return None };
        let own = home.name.strip_suffix(".weight")?;
        (own.replace('.', "_") == layer.path.replace('.', "_")).then_some(home)
    }
}
