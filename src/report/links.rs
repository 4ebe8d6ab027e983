//! Addresses from one page to another: relative, so that folders can be moved together.

use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use std::path::{Component, Path};

/// What means something in an address, or cannot stand in one. Letters of any script are written as
/// they are by browsers' rules.
const ESCAPED: &AsciiSet =
    &CONTROLS.add(b' ').add(b'"').add(b'#').add(b'%').add(b'<').add(b'>').add(b'?').add(b'`').add(b'\\').add(b':');

/// The address of the file `to` from a page in the folder `from`. `None` where either is missing or
/// they have no root in common.
pub fn relative_address(from: &Path, to: &Path) -> Option<String> {
    let from = if from.as_os_str().is_empty() { Path::new(".") } else { from };
    let (from, to) = (from.canonicalize().ok()?, to.canonicalize().ok()?);
    let (from, to): (Vec<Component>, Vec<Component>) = (from.components().collect(), to.components().collect());
    let common = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
    if common == 0 {
        return None;
    }
    let up = from[common..].iter().map(|_| Some("..".to_owned()));
    let down =
        to[common..].iter().map(|part| Some(utf8_percent_encode(part.as_os_str().to_str()?, ESCAPED).to_string()));
    Some(up.chain(down).collect::<Option<Vec<_>>>()?.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_go_up_and_down_and_escape_what_means_something() {
        let folder = tempfile::tempdir().unwrap();
        let run = folder.path().join("a run #1?/ü");
        std::fs::create_dir_all(&run).unwrap();
        std::fs::create_dir_all(folder.path().join("pages/deep")).unwrap();
        std::fs::write(run.join("report.html"), "").unwrap();
        let from = folder.path().join("pages/deep");
        let address = relative_address(&from, &run.join("report.html"));
        assert_eq!(address.as_deref(), Some("../../a%20run%20%231%3F/%C3%BC/report.html"));
        assert_eq!(relative_address(&run, &run.join("report.html")).as_deref(), Some("report.html"));
        assert_eq!(relative_address(&from, &run.join("none.html")), None);
    }
}
