//! A picture with a caption, and the masks of the things in it.

use image::RgbImage;
use std::ops::Range;

/// The timesteps of training that scenes are noised to.
pub const TIMESTEPS: [usize; 3] = [300, 450, 600];

/// A picture with a caption and the masks of the things in it.
#[derive(Debug, Clone)]
pub struct Scene {
    /// Its name, for messages.
    pub name: String,
    /// The picture; each side a multiple of the VAE's factor.
    pub image: RgbImage,
    /// What it shows.
    pub caption: String,
    /// The things in it.
    pub objects: Vec<Object>,
    /// Which pixels count for nothing in the IoU over classes, row by row; none where empty.
    pub ignored: Vec<bool>,
}

/// A thing in a scene.
#[derive(Debug, Clone)]
pub struct Object {
    /// The word of the caption that names it.
    pub word: String,
    /// Its bytes in the caption.
    pub range: Range<usize>,
    /// Which pixels of the scene show it, row by row.
    pub mask: Vec<bool>,
}
