//! The size at which a picture is shown to a checkpoint.

use crate::argument::{Argument, SIZE};
use crate::trace::Grid;
use crate::{Error, Result};

/// How many times longer than wide (or wider than long) a picture may be for [`fit`].
const THINNEST: usize = 8;

/// The size in pixels at which a picture is shown to a checkpoint. `usual` is the checkpoint's own
/// size, and its VAE has `factor` pixels per latent cell.
///
/// A picture stays as it is when its sides are multiples of the factor and its area is near the
/// usual one. Near is between half of it and twice it. Any other keeps its shape and is brought to
/// the usual area, each side rounded to the nearest multiple of the factor.
///
/// # Errors
/// [`Error::Argument`] for a picture more than eight times as long as wide, which has no useful
/// size near the usual one.
pub fn fit(picture: Grid, usual: Grid, factor: usize, argument: Argument) -> Result<Grid> {
    let Grid { height, width } = picture;
    if height.min(width) * THINNEST < height.max(width) || height.min(width) == 0 {
        let reason =
            format!("{width}x{height} pixels are too long and thin to be shown whole; choose a size with {SIZE}");
        return Err(Error::argument(argument, reason));
    }
    let whole = height % factor == 0 && width % factor == 0;
    if whole && picture.cells() * 2 >= usual.cells() && picture.cells() <= usual.cells() * 2 {
        return Ok(picture);
    }
    let scale = (usual.cells() as f64 / picture.cells() as f64).sqrt();
    let side = |pixels: usize| ((pixels as f64 * scale / factor as f64).round() as usize).max(1) * factor;
    Ok(Grid::new(side(height), side(width)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::argument::INIT;
    use proptest::prelude::*;

    #[test]
    fn pictures_of_a_good_size_stay_and_others_keep_their_shape() {
        let fit = |width, height| {
            let size = fit(Grid::new(height, width), Grid::new(512, 512), 8, INIT).unwrap();
            (size.width, size.height)
        };
        assert_eq!(fit(512, 512), (512, 512));
        assert_eq!(fit(640, 512), (640, 512));
        assert_eq!(fit(4000, 3000), (592, 440));
        assert_eq!(fit(300, 400), (440, 592));
        assert_eq!(fit(641, 512), (576, 456));
    }

    #[test]
    fn very_thin_pictures_are_refused() {
        let error = fit(Grid::new(10, 81), Grid::new(512, 512), 8, INIT).unwrap_err();
        assert!(error.to_string().contains("81x10") && error.to_string().contains("`size`"), "{error}");
    }

    proptest! {
        #[test]
        fn sizes_are_multiples_near_the_usual_area(height in 1usize..5000, width in 1usize..5000) {
            let usual = Grid::new(512, 768);
            if let Ok(size) = fit(Grid::new(height, width), usual, 8, INIT) {
                prop_assert!(size.height % 8 == 0 && size.width % 8 == 0);
                let share = size.cells() as f64 / usual.cells() as f64;
                prop_assert!((0.49..=2.01).contains(&share), "{size:?}");
                let turned = (size.height as f64 / size.width as f64) / (height as f64 / width as f64);
                prop_assert!((0.9..1.1).contains(&turned), "{size:?}");
            }
        }
    }
}
