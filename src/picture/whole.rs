//! Whether a picture file is whole: its own structure is walked to its end.
//!
//! Decoders stop at the first picture, and JPEG's fills what is missing with grey. Bytes behind the
//! end are no fault: cameras and editors leave previews and notes there.

use image::ImageFormat;

/// Whether `bytes`, of the kind `format`, hold the file's end. Kinds that [`read`](super::read)
/// does not take count as whole.
pub(super) fn is_whole(bytes: &[u8], format: ImageFormat) -> bool {
    match format {
        ImageFormat::Png => png(bytes),
        ImageFormat::Jpeg => jpeg(bytes),
        ImageFormat::WebP => webp(bytes),
        _ => true,
    }
}

/// Chunks of a length, a name, their data and a checksum, the last called `IEND` (PNG
/// specification, section 5.3). An animation's frames are chunks like others.
fn png(bytes: &[u8]) -> bool {
    let mut at = 8;
    loop {
        let Some(&[a, b, c, d, ref name @ ..]) = bytes.get(at..).and_then(|rest| rest.first_chunk::<8>()) else {
            return false;
        };
        let Some(next) = at.checked_add(12 + u32::from_be_bytes([a, b, c, d]) as usize) else { return false };
        if next > bytes.len() {
            return false;
        }
        if name == b"IEND" {
            return true;
        }
        at = next;
    }
}

/// A `RIFF` chunk that says how long it is (WebP container specification). A last byte that only
/// fills up to an even length may be missing.
fn webp(bytes: &[u8]) -> bool {
    let Some(&[_, _, _, _, a, b, c, d]) = bytes.first_chunk::<8>() else { return false };
    let length = u32::from_le_bytes([a, b, c, d]) as usize;
    let mut at = 12;
    // The size may be wrong by itself: the chunks within must be there too.
    while at + 8 <= length + 8 {
        let Some(&[_, _, _, _, a, b, c, d]) = bytes.get(at..).and_then(|rest| rest.first_chunk::<8>()) else {
            return false;
        };
        let end = at + 8 + u32::from_le_bytes([a, b, c, d]) as usize;
        if end > bytes.len() {
            return false;
        }
        at = end.next_multiple_of(2);
    }
    bytes.len() + 1 >= length + 8
}

/// Markers, segments of a length, and after each start of scan the coded picture up to the next
/// marker. The last marker is `EOI` (ITU-T T.81, annex B).
fn jpeg(bytes: &[u8]) -> bool {
    const EOI: u8 = 0xd9;
    const SOS: u8 = 0xda;
    /// Markers that have no segment: `TEM`, the restarts and `SOI`.
    fn is_alone(marker: u8) -> bool {
        matches!(marker, 0x01 | 0xd0..=0xd8)
    }
    let mut at = 2;
    loop {
        // To the next marker; what lies before it is coded picture, or to spare. A zero says that
        // 0xff is data.
        let found = bytes.get(at..).unwrap_or_default().windows(2);
        let Some(skipped) = found.clone().position(|pair| pair[0] == 0xff && !matches!(pair[1], 0x00 | 0xff)) else {
            return false;
        };
        let marker = bytes[at + skipped + 1];
        at += skipped + 2;
        if marker == EOI {
            return true;
        }
        if is_alone(marker) {
            continue;
        }
        let Some(&[high, low]) = bytes.get(at..).and_then(|rest| rest.first_chunk::<2>()) else { return false };
        at += usize::from(u16::from_be_bytes([high, low]));
        if marker == SOS && at >= bytes.len() {
            return false;
        }
    }
}
