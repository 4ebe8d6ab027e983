//! Outlines as SVG.

use crate::heatmap::Outline;
use crate::trace::Grid;
use html_escape::encode_text;
use std::fmt::Write;

/// An SVG picture of `outlines`, in pixels of an image of `size`: one path whose holes stay empty,
/// titled `title`.
pub fn outline_svg(outlines: &[Outline], size: Grid, title: &str) -> String {
    let mut path = String::new();
    for outline in outlines {
        for (index, [x, y]) in outline.points.iter().enumerate() {
            // Writing to a string does not fail.
            let _ = write!(path, "{}{x} {y}", if index == 0 { 'M' } else { 'L' });
        }
        path.push('Z');
    }
    let Grid { height, width } = size;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
        height=\"{height}\">\n\
         <metadata>{}</metadata><title>{}</title>\n\
         <path d=\"{path}\" fill=\"#f2f0ec\" fill-opacity=\"0.25\" fill-rule=\"evenodd\" \
         stroke=\"#f2f0ec\"/>\n</svg>\n",
        crate::files::MARK,
        encode_text(title)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_has_a_path_for_each_line() {
        let square =
            |from: f32, to: f32, hole| Outline { hole, points: vec![[from, from], [to, from], [to, to], [from, to]] };
        let svg = outline_svg(&[square(0.5, 7.5, false), square(2.5, 3.5, true)], Grid::new(8, 12), "a < b");
        assert!(svg.contains("viewBox=\"0 0 12 8\"") && svg.contains("<title>a &lt; b</title>"), "{svg}");
        assert!(svg.contains("d=\"M0.5 0.5L7.5 0.5L7.5 7.5L0.5 7.5ZM2.5 2.5L3.5 2.5L3.5 3.5L2.5 3.5Z\""), "{svg}");
    }
}
