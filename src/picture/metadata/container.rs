//! The texts that a picture file holds beside the picture: PNG's text chunks, and EXIF.

use exif::{In, Tag, Value};
use image::{ImageDecoder, ImageFormat, ImageReader};
use std::collections::BTreeMap;
use std::io::Cursor;

/// Bytes of one text beyond which it is left out.
const LARGEST_TEXT: usize = 1 << 23;

/// Bytes that reading a PNG's chunks may take.
const LARGEST_CHUNKS: usize = 1 << 26;

/// The key under which [`texts`] has EXIF's `UserComment`.
pub(super) const USER_COMMENT: &str = "UserComment";

/// The texts by the keyword of their chunk, the first of each. EXIF's is [`USER_COMMENT`]; what
/// ComfyUI writes there as `KEYWORD:text` has that keyword.
pub(super) type Texts = BTreeMap<String, String>;

/// The texts in `bytes`, a whole picture file.
///
/// # Errors
/// In a line, why the metadata of a PNG cannot be read.
pub(super) fn texts(bytes: &[u8]) -> Result<Texts, String> {
    let mut found = Texts::new();
    let reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format();
    let format = reader.as_ref().ok().and_then(ImageReader::format);
    if format == Some(ImageFormat::Png) {
        png_texts(bytes, &mut found).map_err(|error| {
            format!("the picture's metadata cannot be read ({})", crate::printable(error.to_string().trim_end()))
        })?;
    }
    let known = matches!(format, Some(ImageFormat::Png | ImageFormat::Jpeg | ImageFormat::WebP));
    let decoder = reader.ok().filter(|_| known).and_then(|reader| reader.into_decoder().ok());
    if let Some(Some(raw)) = decoder.and_then(|mut decoder| decoder.exif_metadata().ok()) {
        exif_texts(raw, &mut found);
    }
    Ok(found)
}

fn png_texts(bytes: &[u8], found: &mut Texts) -> Result<(), png::DecodingError> {
    let limits = png::Limits { bytes: LARGEST_CHUNKS };
    let mut reader = png::Decoder::new_with_limits(Cursor::new(bytes), limits).read_info()?;
    // Text chunks may follow the picture.
    reader.finish()?;
    let mut add = |keyword: &str, text: String| {
        if text.len() <= LARGEST_TEXT {
            found.entry(keyword.to_owned()).or_insert(text);
        }
    };
    // What cannot be unpacked, or is too large, is no text.
    for chunk in &reader.info().utf8_text {
        let mut chunk = chunk.clone();
        if chunk.decompress_text_with_limit(LARGEST_TEXT).is_ok() {
            chunk.get_text().into_iter().for_each(|text| add(&chunk.keyword, text));
        }
    }
    for chunk in &reader.info().uncompressed_latin1_text {
        add(&chunk.keyword, unmixed(&chunk.text));
    }
    for chunk in &reader.info().compressed_latin1_text {
        let mut chunk = chunk.clone();
        if chunk.decompress_text_with_limit(LARGEST_TEXT).is_ok() {
            chunk.get_text().into_iter().for_each(|text| add(&chunk.keyword, unmixed(&text)));
        }
    }
    Ok(())
}

/// The text of a Latin-1 chunk. Many programs write UTF-8 there; Latin-1 text is rarely valid as
/// such.
fn unmixed(text: &str) -> String {
    let bytes: Option<Vec<u8>> = text.chars().map(|c| u8::try_from(u32::from(c)).ok()).collect();
    bytes.and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_else(|| text.to_owned())
}

fn exif_texts(raw: Vec<u8>, found: &mut Texts) {
    // WebP files of some programs have JPEG's marker before the TIFF header.
    let raw = raw.strip_prefix(b"Exif\0\0").map(<[u8]>::to_vec).unwrap_or(raw);
    if raw.len() > LARGEST_TEXT {
        return;
    }
    let Ok(exif) = exif::Reader::new().read_raw(raw) else { return };
    // Undefined is its type by the standard; Pillow writes it as bytes.
    let comment = exif.get_field(Tag::UserComment, In::PRIMARY).map(|field| &field.value);
    if let Some(Value::Undefined(comment, _) | Value::Byte(comment)) = comment
        && let Some(text) = user_comment(comment, exif.little_endian())
    {
        found.entry(USER_COMMENT.to_owned()).or_insert(text);
    }
    for tag in [Tag::Model, Tag::Make, Tag::ImageDescription] {
        let Some(Value::Ascii(lines)) = exif.get_field(tag, In::PRIMARY).map(|field| &field.value) else { continue };
        let text = String::from_utf8_lossy(lines.first().map_or(&[][..], Vec::as_slice)).into_owned();
        if let Some((keyword @ ("prompt" | "Prompt"), text)) = text.split_once(':') {
            found.entry(keyword.to_lowercase()).or_insert_with(|| text.to_owned());
        }
    }
}

/// The text of a `UserComment`: eight bytes name its encoding (EXIF 2.3, section 4.6.5). UTF-16 has
/// the file's byte order by the standard and the other one in many files.
fn user_comment(bytes: &[u8], little_endian: bool) -> Option<String> {
    let (code, text) = bytes.split_at_checked(8).unwrap_or((&[], bytes));
    let text = match code {
        b"UNICODE\0" => utf_16(text, little_endian),
        b"ASCII\0\0\0" | b"\0\0\0\0\0\0\0\0" => String::from_utf8_lossy(text).into_owned(),
        b"JIS\0\0\0\0\0" => return None,
        _ => String::from_utf8_lossy(bytes).into_owned(),
    };
    let text = text.trim_matches(['\0', ' ']);
    (!text.is_empty()).then(|| text.to_owned())
}

fn utf_16(bytes: &[u8], little_endian: bool) -> String {
    let zeros = |odd: usize| bytes.iter().skip(odd).step_by(2).filter(|byte| **byte == 0).count();
    let (even, odd) = (zeros(0), zeros(1));
    // Most letters of a prompt are ASCII, whose high byte is zero.
    let little_endian = match bytes {
        [0xff, 0xfe, ..] => true,
        [0xfe, 0xff, ..] => false,
        _ if even != odd => odd > even,
        _ => little_endian,
    };
    let unit = |pair: &[u8]| match little_endian {
        true => u16::from_le_bytes([pair[0], pair[1]]),
        false => u16::from_be_bytes([pair[0], pair[1]]),
    };
    let units: Vec<u16> = bytes.chunks_exact(2).map(unit).collect();
    String::from_utf16_lossy(&units).trim_start_matches('\u{feff}').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_in_every_encoding() {
        let both = |text: &str, unit: fn(u16) -> [u8; 2]| -> Vec<u8> {
            [b"UNICODE\0".to_vec(), text.encode_utf16().flat_map(unit).collect()].concat()
        };
        for text in ["a red apple", "ein Käfer, 青蛙 und so", "青蛙"] {
            for little in [false, true] {
                let unit = if little { u16::to_le_bytes } else { u16::to_be_bytes };
                assert_eq!(user_comment(&both(text, unit), little).as_deref(), Some(text));
            }
        }
        // The other byte order than the file's, as piexif writes it.
        assert_eq!(user_comment(&both("a frog", u16::to_be_bytes), true).as_deref(), Some("a frog"));
        assert_eq!(user_comment(b"ASCII\0\0\0a frog\0", true).as_deref(), Some("a frog"));
        assert_eq!(user_comment(b"a frog", true).as_deref(), Some("a frog"));
        assert_eq!(user_comment(b"UNICODE\0\xd8", true), None);
        assert_eq!(user_comment(b"", true), None);
    }

    #[test]
    fn utf_8_in_a_chunk_of_latin_1_is_read_as_what_it_is() {
        let mixed: String = "Käfer 青".bytes().map(char::from).collect();
        assert_eq!((unmixed(&mixed), unmixed("Käfer")), ("Käfer 青".to_owned(), "Käfer".to_owned()));
    }
}
