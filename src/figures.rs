//! How a figure is written for people, alike in tables, sentences, pictures and pages.

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

#[cfg(test)]
mod tests {
    use super::percent;

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
}
