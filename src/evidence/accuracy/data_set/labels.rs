//! A picture with a class for every pixel, and the scene that it makes.

use super::super::scene::{Object, Scene};
use crate::argument::SCENES;
use crate::trace::Grid;
use crate::{Error, picture};
use image::RgbImage;
use std::path::Path;

/// A pixel of no class.
pub(super) const BACKGROUND: u16 = 0;

/// A pixel that counts for nothing: a border, or a crowd.
pub(super) const VOID: u16 = u16::MAX;

/// The class of every pixel, row by row: [`BACKGROUND`], [`VOID`], or 1 and the place of its name.
#[derive(Debug, Clone)]
pub(super) struct Labels {
    pub grid: Grid,
    pub classes: Vec<u16>,
}

impl Labels {
    /// At another size: each pixel has the class at its own middle.
    fn resized(&self, grid: Grid) -> Self {
        let from = |at: usize, size: usize, other: usize| (2 * at + 1) * other / (2 * size);
        let pixel = |at: usize| {
            let row = from(at / grid.width, grid.height, self.grid.height);
            self.classes[row * self.grid.width + from(at % grid.width, grid.width, self.grid.width)]
        };
        Self { grid, classes: (0..grid.cells()).map(pixel).collect() }
    }

    /// The scene of `picture`, of the labels' size, brought to `size`: an object for each class of
    /// `names` that it shows. The caption is their names with commas between.
    pub fn scene(&self, name: String, picture: &RgbImage, names: &[String], size: Grid) -> Scene {
        let labels = self.resized(size);
        let mut scene = Scene {
            name,
            image: picture::resize(picture, size.width as u32, size.height as u32),
            caption: String::new(),
            objects: Vec::new(),
            ignored: labels.classes.iter().map(|&class| class == VOID).collect(),
        };
        for (index, word) in names.iter().enumerate() {
            let mask: Vec<bool> = labels.classes.iter().map(|&class| usize::from(class) == index + 1).collect();
            if !mask.contains(&true) {
                continue;
            }
            if !scene.caption.is_empty() {
                scene.caption += ", ";
            }
            let start = scene.caption.len();
            scene.caption += word;
            scene.objects.push(Object { word: word.clone(), range: start..scene.caption.len(), mask });
        }
        scene
    }
}

/// What is wrong with `file`.
pub(super) fn wrong(file: &Path, reason: impl std::fmt::Display) -> Error {
    Error::argument(SCENES, format!("{}: {reason}", file.display()))
}
