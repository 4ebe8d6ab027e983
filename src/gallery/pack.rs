//! A gallery to be sent to somebody: its pages with what they show, and nothing that only attnmap
//! reads.

use super::cell_files::{FILE, MAPS, THUMB};
use super::coverage_page::PAGE;
use super::folder::{CELLS, INDEX, is_gallery};
use super::index::write_index;
use crate::argument::PACK;
use crate::files::{Kind, MARK, Staging, Target, is_own, link, write_file};
use crate::{Error, Result};
use serde::Serialize;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use zip::write::{SimpleFileOptions, ZipWriter};

/// What a cell's pages show: the small picture and the maps of the index, the image that is opened
/// large, and its own page.
const SHOWN: [&str; 4] = [THUMB, MAPS, "image.png", "report.html"];

/// The pages in the gallery's folder; that of pictures that are looked at has a table too.
const PAGES: [&str; 2] = [INDEX, PAGE];

/// A gallery without what only attnmap reads.
const LEAN: Kind = Kind {
    name: "a gallery to be shared",
    // Many folders have a page of this name: the user's own site, a sweep, the list of runs.
    is: |folder| is_own(&folder.join(INDEX)) && folder.join(CELLS).is_dir() && !is_gallery(folder),
    owns: |_| Box::new(owns),
};

/// Whether `path`, from a lean folder, was put there by [`pack`].
fn owns(path: &Path) -> bool {
    let parts: Vec<_> = path.iter().filter_map(OsStr::to_str).collect();
    match parts.as_slice() {
        [file] => PAGES.contains(file),
        [cells, _, file] => *cells == CELLS && SHOWN.contains(file),
        _ => false,
    }
}

/// What was packed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PackedGallery {
    /// Where it is.
    #[serde(serialize_with = "crate::files::as_shown")]
    pub path: PathBuf,
    /// How many files it holds.
    pub files: usize,
    /// How many bytes they have together.
    pub bytes: u64,
    /// How many bytes the gallery has.
    pub of: u64,
}

/// Where [`pack`] writes to `path`, a zip file or a folder.
///
/// # Errors
/// [`Error::Argument`] when something is there that may not be replaced.
pub fn pack_place(path: &Path, force: bool) -> Result<PathBuf> {
    let target = Target::named(path, force);
    let place = match is_zip(path) {
        true => target.files([""]).map(|[file]| file),
        false => target.folder(&LEAN),
    };
    place.map_err(|error| error.named(PACK))
}

fn is_zip(path: &Path) -> bool {
    path.extension().is_some_and(|kind| kind.eq_ignore_ascii_case("zip"))
}

/// Packs the gallery in `folder` into `path`: a zip file where the name ends in `.zip`, else a
/// folder. Its page is written anew first. What is there stays, unless `force` says that what
/// attnmap made there may be replaced.
///
/// # Errors
/// Those of [`write_index`](super::write_index); [`Error::Argument`] when something is at `path`;
/// [`Error::Io`].
pub fn pack(folder: &Path, path: &Path, force: bool) -> Result<PackedGallery> {
    let place = pack_place(path, force)?;
    write_index(folder)?;
    let files = shown(folder)?;
    let mut bytes = 0;
    for file in &files {
        let file = folder.join(file);
        bytes += fs::metadata(&file).map_err(Error::io(&file))?.len();
    }
    if is_zip(path) {
        let name = path.file_stem().unwrap_or(OsStr::new("gallery")).to_string_lossy().into_owned();
        write_file(&place, |out| write_zip(out, folder, &files, &name))?;
    } else {
        let target = Target::named(path, force);
        let staging = Staging::new(&target, &LEAN).map_err(|error| error.named(PACK))?;
        for file in &files {
            let to = staging.path().join(file);
            let made = to.parent().map_or(Ok(()), fs::create_dir_all);
            made.and_then(|()| link(&folder.join(file), &to)).map_err(Error::io(&to))?;
        }
        staging.commit(|_, _| Ok(()))?;
    }
    Ok(PackedGallery { path: place, files: files.len(), bytes, of: size(folder) })
}

/// The files that the pages show, from `folder`, in order.
fn shown(folder: &Path) -> Result<Vec<PathBuf>> {
    let cells = folder.join(CELLS);
    let entries = fs::read_dir(&cells).map_err(Error::io(&cells))?.flatten();
    let complete = entries.map(|entry| entry.file_name()).filter(|name| cells.join(name).join(FILE).is_file());
    let mut names: Vec<_> = complete.collect();
    names.sort();
    let of_cell = |name: &std::ffi::OsString| SHOWN.map(|file| Path::new(CELLS).join(name).join(file));
    let of_cells = names.iter().flat_map(of_cell).filter(|file| folder.join(file).is_file());
    let pages = PAGES.map(PathBuf::from).into_iter().filter(|page| is_own(&folder.join(page)));
    Ok(pages.chain(of_cells).collect())
}

/// Writes a zip file in which `files` of `folder` lie in a folder called `name`. Its comment is
/// attnmap's mark. Pictures are as small as they get, so nothing is compressed again.
fn write_zip(out: &mut dyn io::Write, folder: &Path, files: &[PathBuf], name: &str) -> io::Result<()> {
    let mut zip = ZipWriter::new_stream(out);
    let options = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for file in files {
        let parts: Vec<_> = [name.into()].into_iter().chain(file.iter().map(OsStr::to_string_lossy)).collect();
        let large = fs::metadata(folder.join(file))?.len() >= u64::from(u32::MAX);
        zip.start_file(parts.join("/"), options.large_file(large))?;
        io::copy(&mut File::open(folder.join(file))?, &mut zip)?;
    }
    zip.set_comment(MARK)?;
    zip.finish().map(drop).map_err(io::Error::from)
}

/// The bytes of all files in `folder`.
fn size(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(found) if found.is_dir() => size(&entry.path()),
            Ok(found) => found.len(),
            Err(_) => 0,
        })
        .sum()
}
