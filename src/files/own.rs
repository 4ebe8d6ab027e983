//! Which files attnmap wrote: those that carry its mark.
//!
//! Every file says `attnmap VERSION`. A picture has it in the PNG text `Software`, a page in `<meta
//! name="generator">`, an SVG in `<metadata>`, a zip file in its comment. A JSON file that may lie
//! among the user's files has it in its field `attnmap`. A file without the mark is the user's,
//! whatever its name is.

use std::fs::{self, File};
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

/// The mark, `attnmap VERSION`.
pub const MARK: &str = concat!("attnmap ", env!("CARGO_PKG_VERSION"));

/// The mark as it stands at the beginning of every page.
pub(crate) fn page_mark() -> String {
    format!("<meta name=\"generator\" content=\"{MARK}\">\n")
}

/// What every mark begins with, whatever version wrote it.
const ANY: &str = "attnmap ";

/// Bytes at the beginning of a page in which its mark stands.
const HEAD: u64 = 4096;

/// Whether the file at `path` carries attnmap's mark. What cannot be read, a folder, a link and a
/// device do not.
pub fn is_own(path: &Path) -> bool {
    let regular = fs::symlink_metadata(path).is_ok_and(|found| found.is_file());
    regular && has_mark(path).unwrap_or(false)
}

fn has_mark(path: &Path) -> io::Result<bool> {
    let mut file = BufReader::new(File::open(path)?);
    let mut head = Vec::new();
    (&mut file).take(HEAD).read_to_end(&mut head)?;
    if head.starts_with(PNG) {
        file.seek(SeekFrom::Start(PNG.len() as u64))?;
        return png_mark(&mut file);
    }
    if head.starts_with(b"{") {
        file.rewind()?;
        return Ok(serde_json::from_reader::<_, Marked>(file).is_ok_and(|json| !json.attnmap.is_empty()));
    }
    if head.starts_with(b"PK") {
        let end = file.seek(SeekFrom::End(0))?.saturating_sub(64);
        file.seek(SeekFrom::Start(end))?;
        let mut tail = Vec::new();
        file.read_to_end(&mut tail)?;
        return Ok(zip_comment(&tail).is_some_and(|comment| comment.starts_with(ANY.as_bytes())));
    }
    let head = String::from_utf8_lossy(&head);
    if head.starts_with("<svg ") {
        return Ok(head.contains(&format!("<metadata>{ANY}")));
    }
    // Pages of before there was a mark end their title with the name.
    let marks = [&format!("<meta name=\"generator\" content=\"{ANY}"), "· attnmap</title>"];
    Ok(head.starts_with("<!doctype html>") && marks.into_iter().any(|mark| head.contains(mark)))
}

/// A form of file that attnmap writes under a name of the user's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// A page.
    Page,
    /// A PNG.
    Picture,
}

impl Form {
    /// What messages call it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Page => "a page",
            Self::Picture => "a picture",
        }
    }

    /// Whether the file at `path` begins as every file of this form does.
    pub(super) fn is_of(self, path: &Path) -> bool {
        let begin: &[u8] = match self {
            Self::Page => b"<!doctype html>",
            Self::Picture => PNG,
        };
        let mut head = Vec::new();
        let read = File::open(path).and_then(|file| file.take(begin.len() as u64).read_to_end(&mut head));
        read.is_ok() && head == begin
    }
}

/// A JSON file of attnmap, whatever else it holds.
#[derive(serde::Deserialize)]
struct Marked {
    attnmap: String,
}

/// The comment of the zip file that ends with `tail`: what stands behind its end record, as long as
/// that says (APPNOTE.TXT 4.3.16).
fn zip_comment(tail: &[u8]) -> Option<&[u8]> {
    const RECORD: usize = 22;
    let begins = |at: &usize| tail[*at..].starts_with(b"PK\x05\x06");
    let ends = |at: &usize| {
        let length = usize::from(u16::from_le_bytes([tail[at + RECORD - 2], tail[at + RECORD - 1]]));
        at + RECORD + length == tail.len()
    };
    let last = tail.len().checked_sub(RECORD)?;
    (0..=last).rev().filter(begins).find(ends).map(|at| &tail[at + RECORD..])
}

/// Whether the JSON file at `path` is an object with all of `fields`, as one of attnmap's without a
/// mark is. One that is damaged counts: it begins as such a file does.
pub(crate) fn has_fields(path: &Path, fields: &[&str]) -> bool {
    let Ok(bytes) = super::read(path) else { return false };
    match serde_json::from_slice::<serde_json::Value>(&bytes) {
        Ok(value) => fields.iter().all(|field| value.get(field).is_some()),
        Err(_) => bytes.starts_with(b"{"),
    }
}

/// Whether the safetensors file at `path` has `field` in its metadata.
pub(crate) fn has_metadata(path: &Path, field: &str) -> bool {
    // As long as the format allows.
    const LONGEST: u64 = 100_000_000;
    let header = || -> io::Result<serde_json::Value> {
        let mut file = File::open(path)?;
        let mut length = [0; 8];
        file.read_exact(&mut length)?;
        let mut header = Vec::new();
        file.take(u64::from_le_bytes(length).min(LONGEST)).read_to_end(&mut header)?;
        Ok(serde_json::from_slice(&header)?)
    };
    header().is_ok_and(|header| header["__metadata__"][field].is_string())
}

const PNG: &[u8] = b"\x89PNG\r\n\x1a\n";

/// Whether a text before the picture says that attnmap is the software.
fn png_mark(file: &mut (impl Read + Seek)) -> io::Result<bool> {
    loop {
        let mut begin = [0; 8];
        file.read_exact(&mut begin)?;
        let [a, b, c, d, kind @ ..] = begin;
        let length = u64::from(u32::from_be_bytes([a, b, c, d]));
        match &kind {
            b"IDAT" | b"IEND" => return Ok(false),
            b"tEXt" | b"iTXt" => {
                let mut text = Vec::new();
                file.take(length).read_to_end(&mut text)?;
                if text.starts_with(b"Software\0") && text.windows(ANY.len()).any(|part| part == ANY.as_bytes()) {
                    return Ok(true);
                }
                file.seek(SeekFrom::Current(4))?;
            }
            _ => {
                file.seek(SeekFrom::Current(length as i64 + 4))?;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_ours_by_what_it_says() {
        let folder = tempfile::tempdir().unwrap();
        let own = |name: &str, content: &[u8]| {
            let path = folder.path().join(name);
            fs::write(&path, content).unwrap();
            is_own(&path)
        };
        assert!(own("a.html", b"<!doctype html>\n<html><head><meta name=\"generator\" content=\"attnmap 0.1.0\">"));
        assert!(own("b.html", "<!doctype html>\n<html><head><title>a frog · attnmap</title>".as_bytes()));
        assert!(!own("c.html", b"<!doctype html>\n<html><head><meta name=\"generator\" content=\"Hugo 0.1\">attnmap "));
        assert!(!own("d.html", b"MY HOMEPAGE"));
        assert!(own("a.svg", b"<svg xmlns=\"x\">\n<metadata>attnmap 0.1.0</metadata>") && !own("b.svg", b"<svg >"));
        assert!(own("a.json", b"{\"x\": [1, 2], \"attnmap\": \"0.1.0\"}"));
        for other in [&b"{\"attnmap\": 3}"[..], b"{\"inner\": {\"attnmap\": \"0.1.0\"}}", b"{", b"", b"[]", PNG] {
            assert!(!own("other", other), "{other:?}");
        }
        assert!(!is_own(folder.path()) && !is_own(&folder.path().join("none")));
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink(folder.path().join("a.json"), folder.path().join("link.json")).unwrap();
            assert!(!is_own(&folder.path().join("link.json")), "a link is the user's");
        }
    }

    #[test]
    fn a_zip_file_says_it_in_its_comment_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.zip");
        let zip = |name: &str, comment: &str| {
            let mut end = b"PK\x05\x06".to_vec();
            end.extend([0; 16]);
            end.extend((comment.len() as u16).to_le_bytes());
            [&b"PK\x03\x04"[..], &[0; 40], name.as_bytes(), &end, comment.as_bytes()].concat()
        };
        for (name, comment, own) in [
            ("thesis.txt", MARK, true),
            ("attnmap notes.txt", "", false),
            ("attnmap notes.txt", "mine, of attnmap 1", false),
        ] {
            fs::write(&path, zip(name, comment)).unwrap();
            assert_eq!(is_own(&path), own, "{name}: {comment}");
        }
        fs::write(&path, &zip("a", MARK)[..60]).unwrap();
        assert!(!is_own(&path), "cut short");
    }

    #[test]
    fn files_without_a_mark_are_known_by_what_they_hold() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("evidence.json");
        for (content, own) in [
            (&br#"{"format_version": 2, "cut": "mask"}"#[..], true),
            (br#"{"format_version": 2, "#, true),
            (br#"{"mine": 1}"#, false),
            (b"my notes", false),
            (b"[1]", false),
            (b"", false),
        ] {
            fs::write(&path, content).unwrap();
            assert_eq!(has_fields(&path, &["format_version", "cut"]), own, "{content:?}");
        }
        let header = br#"{"__metadata__": {"cut": "mask"}}"#;
        fs::write(&path, [&(header.len() as u64).to_le_bytes()[..], header].concat()).unwrap();
        assert!(has_metadata(&path, "cut") && !has_metadata(&path, "words"));
        fs::write(&path, b"my notes").unwrap();
        assert!(!has_metadata(&path, "cut"));
    }

    #[test]
    fn pictures_say_it_in_a_text() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        for (keyword, text, own) in
            [("Software", MARK, true), ("Software", "GIMP 3.0", false), ("Description", MARK, false)]
        {
            let mut bytes = Vec::new();
            let mut encoder = png::Encoder::new(&mut bytes, 1, 1);
            encoder.add_itxt_chunk("Title".into(), "é".into()).unwrap();
            encoder.add_itxt_chunk(keyword.into(), text.into()).unwrap();
            let mut writer = encoder.write_header().unwrap();
            writer.write_image_data(&[0]).unwrap();
            writer.finish().unwrap();
            fs::write(&path, &bytes).unwrap();
            assert_eq!(is_own(&path), own, "{keyword}: {text}");
            fs::write(&path, &bytes[..40]).unwrap();
            assert!(!is_own(&path), "cut short");
        }
    }
}
