//! How maps are drawn over an image: the settings, their defaults and their ranges.

use super::colormap::Colormap;
use super::names::by_name;
use super::styles::Style;
use crate::argument::{OPACITY, OVERLAY_SIZE, SCALE, THRESHOLD};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::str::FromStr;

/// Whether one colour scale serves all words or each has its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scale {
    /// One scale for all words of the prompt: a word that nobody used looks unused.
    #[default]
    Shared,
    /// Each word's own maximum is the top of its scale.
    Word,
}

impl Scale {
    /// Both with their names on the command line.
    pub const NAMED: [(&str, Self); 2] = [("shared", Self::Shared), ("word", Self::Word)];
}

impl FromStr for Scale {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        by_name(SCALE, text, &Self::NAMED)
    }
}

/// How maps are drawn over the image.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Display {
    /// Colours of the scale.
    pub colormap: Colormap,
    /// How the map is laid over the image.
    pub style: Style,
    /// 0 leaves the image as it is, 1 hides it where the style covers it.
    pub opacity: f32,
    /// One scale for all words, or one per word.
    pub scale: Scale,
    /// Pixels of the short side of overlays and of the sheet's tiles, at least; larger images keep
    /// their size.
    pub overlay_size: usize,
    /// Where `mask` cuts, as a share of the scale's top; also the threshold of the layout
    /// statistics.
    pub threshold: f32,
}

impl Default for Display {
    fn default() -> Self {
        Self {
            colormap: Colormap::default(),
            style: Style::default(),
            opacity: 0.65,
            scale: Scale::default(),
            overlay_size: 512,
            threshold: crate::heatmap::THRESHOLD,
        }
    }
}

impl Display {
    /// Whether every value can be used.
    ///
    /// # Errors
    /// [`Error::Argument`] naming the option and its range.
    pub fn check(&self) -> Result<()> {
        let share = 0.0..=1.0;
        if !share.contains(&self.opacity) {
            return Err(Error::argument(OPACITY, format!("must be from 0 to 1; {} given", self.opacity)));
        }
        if !share.contains(&self.threshold) {
            return Err(Error::argument(THRESHOLD, format!("must be from 0 to 1; {} given", self.threshold)));
        }
        if !(64..=4096).contains(&self.overlay_size) {
            let reason = format!("must be from 64 to 4096 pixels; {} given", self.overlay_size);
            return Err(Error::argument(OVERLAY_SIZE, reason));
        }
        Ok(())
    }
}
