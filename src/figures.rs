//! How a figure is written for people, alike in tables, sentences, pictures and pages; and the
//! largest of several.

use bytesize::ByteSize;

/// A share (1 for the whole) as per cent with two significant digits: `71 %`, `4.2 %`, `0.31 %`,
/// `0.004 %`; never `0 %` for what is not. The page writes it alike (`percent` in
/// `report/assets/dom.js`). Takes shares below 0, and anything that is no number is `-`.
pub fn percent(share: impl Into<f64>) -> String {
    let value = 100.0 * share.into();
    match value.abs() {
        0.0 => "0 %".into(),
        size if size >= 9.95 => format!("{value:.0} %"),
        size if size >= 0.995 => format!("{value:.1} %"),
        size if size >= 0.0995 => format!("{value:.2} %"),
        size if size >= 0.0005 => format!("{value:.3} %"),
        size if size > 0.0 => "< 0.001 %".into(),
        _ => "-".into(),
    }
}

/// `share` as [`percent`] writes it, with as many more digits as tell it from `bound`: what falls
/// short of a bound by little must not read as if it reached it.
pub(crate) fn percent_beside(share: impl Into<f64>, bound: impl Into<f64>) -> String {
    let (share, bound) = (share.into(), bound.into());
    let plain = percent(share);
    if share == bound || plain != percent(bound) {
        return plain;
    }
    let written = |value: f64, digits: usize| format!("{:.digits$} %", 100.0 * value);
    let told = (1..6).find(|&digits| written(share, digits) != written(bound, digits));
    told.map_or(plain, |digits| written(share, digits))
}

/// `bytes` in units of 10^9: `13.9 GB`.
pub(crate) fn gigabytes(bytes: u64) -> String {
    format!("{:.1} GB", ByteSize(bytes).as_gb())
}

/// The largest of `values`; 0 where none is above it. Passes over NaN.
pub(crate) fn largest<T: Default + PartialOrd>(values: impl IntoIterator<Item = T>) -> T {
    values.into_iter().fold(T::default(), |most, value| if value > most { value } else { most })
}

/// Lengths of runs of pixels that are out and in by turns; the first is out and may be 0.
pub(crate) fn run_lengths(pixels: impl IntoIterator<Item = bool>) -> Vec<usize> {
    let (mut runs, mut length, mut inside) = (Vec::new(), 0, false);
    for pixel in pixels {
        if pixel != inside {
            runs.push(length);
            (length, inside) = (0, pixel);
        }
        length += 1;
    }
    runs.push(length);
    runs
}

#[cfg(test)]
mod tests {
    use super::{gigabytes, largest, percent, percent_beside};

    #[test]
    fn two_digits_tell_and_nothing_small_is_nought() {
        let told = [1.0, 0.71, 0.0995, 0.09949, 0.042, 0.00995, 0.0031, 0.00042, 0.00004, 1e-7, 0.0];
        let said =
            ["100 %", "71 %", "10 %", "9.9 %", "4.2 %", "1.0 %", "0.31 %", "0.042 %", "0.004 %", "< 0.001 %", "0 %"];
        assert_eq!(told.map(percent), said);
        assert_eq!(
            (percent(-0.042), percent(0.5_f32), percent(f64::NAN)),
            ("-4.2 %".into(), "50 %".into(), "-".into())
        );
    }

    #[test]
    fn what_falls_short_of_a_bound_does_not_read_as_the_bound() {
        let told = [(0.0997, 0.1), (0.1, 0.1), (0.42, 0.1), (0.4998, 0.5), (0.3296, 0.33), (0.5 - 1e-12, 0.5)];
        let said = ["9.97 %", "10 %", "42 %", "49.98 %", "32.96 %", "50 %"];
        assert_eq!(told.map(|(share, bound)| percent_beside(share, bound)), said);
    }

    #[test]
    fn the_largest_is_no_nan_and_bytes_have_one_digit_behind_the_point() {
        assert_eq!((largest([0.5_f32, f32::NAN, 2.0, 1.0]), largest([-1.0_f64]), largest::<f32>([])), (2.0, 0.0, 0.0));
        assert_eq!((gigabytes(13_949_000_000), gigabytes(0)), ("13.9 GB".into(), "0.0 GB".into()));
    }
}
