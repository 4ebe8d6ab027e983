//! Style and script of the pages, concatenated from the files in `assets/` when attnmap is
//! compiled.

use crate::render::{Colormap, Display, Style};
use std::fmt::Write;

/// The palette of signed differences: ColorBrewer's PuOr in 11 classes. Its own colours, as a
/// smooth curve through them would tint the middle, where nothing differs.
const DIFFERENCE: &str = "2d004b5427888073acb2abd2d8daebf7f7f7fee0b6fdb863e08214b358067f3b08";

/// Stops of a palette as it is sent to the page; the page interpolates between them.
const STOPS: usize = 64;

/// Style of a page that has its own part, and prints.
fn printed(own: &str) -> String {
    [include_str!("assets/base.css"), include_str!("assets/paper.css"), own].concat()
}

/// Style of `report.html`.
pub(super) fn report_style() -> String {
    printed(include_str!("assets/report.css"))
}

/// Script of `report.html`: one strict function scope, so that the page has no globals.
pub(super) fn report_script() -> String {
    wrap(&[
        include_str!("assets/dom.js"),
        include_str!("assets/resample.js"),
        include_str!("assets/color.js"),
        include_str!("assets/styles.js"),
        include_str!("assets/planes.js"),
        include_str!("assets/maps.js"),
        include_str!("assets/state.js"),
        include_str!("assets/words.js"),
        include_str!("assets/ties.js"),
        include_str!("assets/causal.js"),
        include_str!("assets/stage.js"),
        include_str!("assets/pointer.js"),
        include_str!("assets/toolbar.js"),
        include_str!("assets/export.js"),
        include_str!("assets/ranking.js"),
        include_str!("assets/window.js"),
        include_str!("assets/curve.js"),
        include_str!("assets/steps.js"),
        include_str!("assets/heads.js"),
        include_str!("assets/headview.js"),
        include_str!("assets/inside.js"),
        include_str!("assets/matrix.js"),
        include_str!("assets/attribution.js"),
        include_str!("assets/components.js"),
        include_str!("assets/facts.js"),
        include_str!("assets/why.js"),
        include_str!("assets/cell.js"),
        include_str!("assets/report.js"),
    ])
}

/// Style of the comparison of two runs.
pub(super) fn compare_style() -> String {
    printed(include_str!("assets/compare.css"))
}

/// Script of the comparison of two runs.
pub(super) fn compare_script() -> String {
    wrap(&[
        include_str!("assets/dom.js"),
        include_str!("assets/resample.js"),
        include_str!("assets/color.js"),
        include_str!("assets/styles.js"),
        include_str!("assets/planes.js"),
        include_str!("assets/compare.js"),
    ])
}

/// Style of the page of `attnmap serve` around its own part.
#[cfg(feature = "serve")]
pub(crate) fn served_style(own: &str) -> String {
    [include_str!("assets/base.css"), own].concat()
}

/// Script of the page of `attnmap serve` around its own parts.
#[cfg(feature = "serve")]
pub(crate) fn served_script(own: &[&str]) -> String {
    let shared = [
        include_str!("assets/dom.js"),
        include_str!("assets/resample.js"),
        include_str!("assets/color.js"),
        include_str!("assets/styles.js"),
        include_str!("assets/planes.js"),
    ];
    wrap(&[&shared, own].concat())
}

/// Style of a sweep's page.
pub(super) fn sweep_style() -> String {
    printed(include_str!("assets/sweep.css"))
}

/// Style of a gallery's page.
pub(super) fn gallery_style() -> String {
    printed(include_str!("assets/gallery.css"))
}

/// Script of a gallery's page.
pub(super) fn gallery_script() -> String {
    wrap(&[
        include_str!("assets/dom.js"),
        include_str!("assets/gallery_data.js"),
        include_str!("assets/gallery_layout.js"),
        include_str!("assets/gallery_large.js"),
        include_str!("assets/gallery.js"),
        include_str!("assets/gallery_print.js"),
    ])
}

/// Style of the list of runs.
pub(super) fn runs_style() -> String {
    [include_str!("assets/base.css"), include_str!("assets/runs.css")].concat()
}

/// Script of the list of runs.
pub(super) fn runs_script() -> String {
    wrap(&[include_str!("assets/dom.js"), include_str!("assets/runs.js")])
}

fn wrap(modules: &[&str]) -> String {
    let mut script = String::from("(() => {\n'use strict';\n");
    // The styles and colours of the command line, by its names.
    let styles = Style::NAMED.map(|(name, _)| format!("'{name}'")).join(",");
    let Display { opacity, threshold, .. } = Display::default();
    let _ =
        writeln!(script, "const STYLES = [{styles}], STYLE_DEFAULTS = {{opacity: {opacity}, threshold: {threshold}}};");
    script.push_str("const PALETTES = {");
    for (name, colormap) in Colormap::NAMED {
        let _ = write!(script, "{name}:'");
        for stop in 0..STOPS {
            let [r, g, b] = colormap.at(stop as f32 / (STOPS - 1) as f32);
            let _ = write!(script, "{r:02x}{g:02x}{b:02x}");
        }
        script.push_str("',");
    }
    let _ = writeln!(script, "difference:'{DIFFERENCE}'}};");
    for module in modules {
        script.push_str(module);
    }
    script.push_str("})();\n");
    script
}

#[cfg(test)]
mod tests {
    #[test]
    fn assets_hold_nothing_that_ends_their_element() {
        assert!(!super::report_script().contains("</script"));
        assert!(!super::report_script().contains("<!--"));
        assert!(!super::compare_script().contains("</script"));
        assert!(!super::gallery_script().contains("</script"));
        assert!(!super::runs_script().contains("</script") && !super::runs_style().contains("</style"));
        assert!(!super::gallery_style().contains("</style"));
        assert!(!super::report_style().contains("</style"));
        assert!(!super::sweep_style().contains("</style"));
        assert!(!super::compare_style().contains("</style"));
    }
}
