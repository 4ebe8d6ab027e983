//! Files that are read: ordinary ones alone, as a pipe or a device may never come to an end.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

/// Opens the ordinary file at `path` for reading. Links are followed.
///
/// # Errors
/// As [`File::open`]. Also, at once, for a folder, a pipe, a device or a socket, named as what it
/// is.
pub fn open(path: &Path) -> io::Result<File> {
    // Before it is opened: to open a pipe waits for its other end, and to open a device may change
    // it.
    check_ordinary(&fs::metadata(path)?)?;
    let file = open_without_waiting(path)?;
    // Another thing may have taken its place in between.
    check_ordinary(&file.metadata()?)?;
    Ok(file)
}

/// The bytes of the ordinary file at `path`.
///
/// # Errors
/// As [`open`].
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = open(path)?;
    let mut bytes = Vec::with_capacity(file.metadata().map_or(0, |found| found.len() as usize));
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn check_ordinary(found: &fs::Metadata) -> io::Result<()> {
    match kind(found) {
        None => Ok(()),
        Some("folder") => Err(io::Error::new(io::ErrorKind::IsADirectory, "a folder, where a file is needed")),
        Some(kind) => Err(io::Error::new(io::ErrorKind::InvalidInput, format!("a {kind}, where a file is needed"))),
    }
}

/// What is no ordinary file, in words.
#[cfg(unix)]
fn kind(found: &fs::Metadata) -> Option<&'static str> {
    use std::os::unix::fs::FileTypeExt;
    let kind = found.file_type();
    match () {
        () if kind.is_file() => None,
        () if kind.is_dir() => Some("folder"),
        () if kind.is_fifo() => Some("pipe"),
        () if kind.is_socket() => Some("socket"),
        () => Some("device"),
    }
}

/// What is no ordinary file, in words.
#[cfg(not(unix))]
fn kind(found: &fs::Metadata) -> Option<&'static str> {
    match () {
        () if found.is_file() => None,
        () if found.is_dir() => Some("folder"),
        () => Some("device"),
    }
}

#[cfg(unix)]
fn open_without_waiting(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)
}

#[cfg(not(unix))]
fn open_without_waiting(path: &Path) -> io::Result<File> {
    File::open(path)
}

/// `bytes` as the text of a file that a person wrote; `None` where they are not UTF-8.
///
/// UTF-16 without a mark at its beginning is valid UTF-8, with a NUL beside each letter. No text
/// holds one.
pub fn text(bytes: Vec<u8>) -> Option<String> {
    String::from_utf8(bytes).ok().filter(|text| !text.contains('\0'))
}

/// The lines of `text`, whichever line ends it has: those of Unix, of Windows, or the lone returns
/// of old spreadsheets.
pub fn lines(text: &str) -> impl Iterator<Item = &str> {
    let returns = !text.contains('\n');
    text.split_terminator(move |c| c == '\n' || returns && c == '\r').map(|line| line.trim_end_matches('\r'))
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn lines_end_as_any_system_ends_them() {
        for text in ["a frog\na cat\n", "a frog\r\na cat\r\n", "a frog\ra cat\r", "a frog\na cat"] {
            assert_eq!(lines(text).collect::<Vec<_>>(), ["a frog", "a cat"], "{text:?}");
        }
        assert_eq!(lines("a\n\nb").count(), 3);
        assert_eq!(lines("").count(), 0);
    }

    #[test]
    fn only_ordinary_files_are_opened_and_nothing_waits() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let pipe = std::ffi::CString::new(path("pipe").to_str().unwrap()).unwrap();
        // SAFETY: a C string that lives on, and no pointer is kept.
        assert_eq!(unsafe { libc::mkfifo(pipe.as_ptr(), 0o600) }, 0);
        let _socket = std::os::unix::net::UnixListener::bind(path("socket")).unwrap();
        fs::write(path("file"), "text").unwrap();
        std::os::unix::fs::symlink(path("file"), path("link")).unwrap();
        std::os::unix::fs::symlink(path("pipe"), path("link to a pipe")).unwrap();
        assert_eq!((read(&path("file")).unwrap(), read(&path("link")).unwrap()), (b"text".to_vec(), b"text".to_vec()));
        let refused = [
            (path("pipe"), "a pipe"),
            (path("link to a pipe"), "a pipe"),
            (path("socket"), "a socket"),
            (folder.path().into(), "a folder"),
            ("/dev/zero".into(), "a device"),
        ];
        for (path, expected) in refused {
            let error = read(&path).unwrap_err().to_string();
            assert_eq!(error, format!("{expected}, where a file is needed"), "{}", path.display());
        }
        assert_eq!(read(&path("missing")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
