//! Truth images: what a part of the page looked like when someone last looked at it and found it
//! right.

use image::{RgbaImage, imageops};
use std::path::PathBuf;

/// How far a picture may be from its truth: fonts and browsers differ a little, drawings do not.
pub struct Tolerance {
    /// Mean absolute difference per channel, of 255.
    pub mean: f64,
    /// Share of pixels that may differ by more than 48 of 255 in some channel.
    pub outliers: f64,
}

/// Compares `picture`, shrunk to `width`, with `tests/browser/truth/NAME.png`; `ATTNMAP_BLESS=1`
/// writes it instead.
pub fn check(name: &str, picture: &RgbaImage, width: u32, tolerance: &Tolerance) {
    let height = (picture.height() * width).div_ceil(picture.width());
    let small = imageops::resize(picture, width, height, imageops::FilterType::Triangle);
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/browser/truth").join(format!("{name}.png"));
    if std::env::var_os("ATTNMAP_BLESS").is_some() {
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        image::DynamicImage::from(small).to_rgb8().save(&file).unwrap();
        return;
    }
    let truth = image::open(&file).unwrap_or_else(|e| panic!("{}: {e}; make it with ATTNMAP_BLESS=1", file.display()));
    let truth = truth.to_rgba8();
    assert_eq!(truth.dimensions(), small.dimensions(), "{name}: size");
    let (mut sum, mut far) = (0.0, 0usize);
    for (a, b) in truth.pixels().zip(small.pixels()) {
        let worst = (0..3).map(|c| a.0[c].abs_diff(b.0[c])).max().unwrap();
        sum += (0..3).map(|c| f64::from(a.0[c].abs_diff(b.0[c]))).sum::<f64>() / 3.0;
        far += usize::from(worst > 48);
    }
    let count = f64::from(truth.width() * truth.height());
    let (mean, outliers) = (sum / count, far as f64 / count);
    if mean > tolerance.mean || outliers > tolerance.outliers {
        let seen = crate::scratch(&format!("{name}-seen.png"));
        small.save(&seen).unwrap();
        panic!("{name}: mean difference {mean:.2}, {:.2} % far off; see {}", 100.0 * outliers, seen.display());
    }
}
