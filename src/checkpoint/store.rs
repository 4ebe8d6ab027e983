//! Where the files of a checkpoint lie: a folder, inside the binary, or made in memory for a single
//! file. All are read by relative path with `/`.

use crate::{Error, Result, files};
use memmap2::Mmap;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Gives its content an alignment that every tensor element type can live with.
#[repr(C, align(64))]
#[allow(dead_code, reason = "unused where there is no default checkpoint to embed")]
struct AlignedBytes<T: ?Sized>(T);

/// The files of `models/default` at build time, empty where there was no such folder or feature.
static EMBEDDED: &[(&str, &[u8])] = &include!(concat!(env!("OUT_DIR"), "/default_model.rs"));

/// The files of one checkpoint.
#[derive(Debug, Clone)]
pub(crate) enum Store {
    /// Compiled into the binary.
    Embedded,
    /// A folder in the diffusers layout.
    Folder(PathBuf),
    /// The configs that a single-file checkpoint stands for; its weights are read from the file
    /// itself.
    Made(Arc<Made>),
}

/// Files of a checkpoint that is one file on disk.
#[derive(Debug)]
pub(crate) struct Made {
    /// The file.
    pub(crate) path: PathBuf,
    /// The files of the folder that it stands for, as inferred from it.
    pub(crate) files: BTreeMap<String, Cow<'static, [u8]>>,
    /// A folder whose files are read in place of those, part by part.
    pub(crate) folder: Option<PathBuf>,
}

impl Made {
    /// Whether the given folder has the part that the file `name` belongs to, whole.
    pub(crate) fn replaces(&self, name: &str) -> bool {
        self.replacement(name).is_some()
    }

    fn replacement(&self, name: &str) -> Option<Store> {
        let folder = self.folder.as_ref()?;
        let there = match name.split_once('/') {
            Some((part, _)) => folder.join(part).is_dir(),
            None => folder.join(name).exists(),
        };
        there.then(|| Store::Folder(folder.clone()))
    }
}

impl Store {
    /// Whether this build has an embedded checkpoint at all.
    pub(crate) fn has_embedded() -> bool {
        !EMBEDDED.is_empty()
    }

    /// How errors name the file `name`.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        match self {
            Self::Embedded => Path::new("embedded checkpoint").join(name),
            Self::Folder(folder) => folder.join(name),
            Self::Made(made) => made.replacement(name).map_or_else(|| made.path.clone(), |folder| folder.path(name)),
        }
    }

    /// The content of `name`, `None` where there is no such file.
    pub(crate) fn read(&self, name: &str) -> Result<Option<Cow<'static, [u8]>>> {
        match self {
            Self::Embedded => Ok(embedded(name).map(Cow::Borrowed)),
            Self::Folder(folder) => {
                let path = folder.join(name);
                match files::read(&path) {
                    Ok(bytes) => Ok(Some(Cow::Owned(bytes))),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                    Err(error) => Err(Error::io(path)(error)),
                }
            }
            Self::Made(made) => match made.replacement(name) {
                Some(folder) => folder.read(name),
                None => Ok(made.files.get(name).cloned()),
            },
        }
    }

    /// The content of `name`, which must be there; `role` says what it is for.
    pub(crate) fn read_required(&self, name: &str, role: &str) -> Result<Cow<'static, [u8]>> {
        self.read(name)?
            .ok_or_else(|| Error::Config { file: self.path(name), reason: format!("no such file; {role} is needed") })
    }

    /// Names of the files directly in `folder` ("" for the top), sorted; empty where there is no
    /// such folder.
    pub(crate) fn list(&self, folder: &str) -> Result<Vec<String>> {
        let mut names = Vec::new();
        match self {
            Self::Embedded => {
                let below = EMBEDDED.iter().filter_map(|(name, _)| match folder {
                    "" => Some(*name),
                    folder => name.strip_prefix(folder)?.strip_prefix('/'),
                });
                names.extend(below.filter(|name| !name.contains('/')).map(String::from));
            }
            Self::Folder(root) => {
                let path = root.join(folder);
                match std::fs::read_dir(&path) {
                    Ok(entries) => {
                        for entry in entries {
                            let entry = entry.map_err(Error::io(&path))?;
                            if entry.path().is_file() {
                                names.push(entry.file_name().to_string_lossy().into_owned());
                            }
                        }
                    }
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(Error::io(path)(error)),
                }
            }
            Self::Made(_) => {}
        }
        names.sort();
        Ok(names)
    }

    /// The content of a weight file without reading it into memory.
    pub(crate) fn map(&self, name: &str) -> Result<Bytes> {
        match self {
            Self::Embedded => embedded(name)
                .map(Bytes::Static)
                .ok_or_else(|| Error::Weights { file: self.path(name), reason: "no such file".into() }),
            Self::Folder(folder) => {
                let path = folder.join(name);
                let file = files::open(&path).map_err(Error::io(&path))?;
                // An empty file cannot be mapped everywhere; it is reported as truncated by whoever
                // parses it.
                if file.metadata().map_err(Error::io(&path))?.len() == 0 {
                    return Ok(Bytes::Static(&[]));
                }
                // SAFETY: the mapping is only read, as bytes, for which every bit pattern is valid.
                // It lives as long as the `Mmap` that the `Arc` keeps. What remains is that another
                // process truncates the file while it is read. That ends this process with SIGBUS,
                // as with every program that maps weights.
                let map = unsafe { Mmap::map(&file) }.map_err(Error::io(&path))?;
                Ok(Bytes::Mapped(Arc::new(map)))
            }
            Self::Made(_) => Err(Error::Weights { file: self.path(name), reason: "no such file".into() }),
        }
    }
}

fn embedded(name: &str) -> Option<&'static [u8]> {
    EMBEDDED.iter().find(|(known, _)| *known == name).map(|(_, bytes)| *bytes)
}

/// Bytes of a weight file: mapped, or inside the binary.
#[derive(Debug, Clone)]
pub(crate) enum Bytes {
    /// A read-only memory map.
    Mapped(Arc<Mmap>),
    /// Part of the binary.
    Static(&'static [u8]),
}

impl Bytes {
    /// Tells the system that all of it is about to be read, so that a disk reads ahead while
    /// tensors are converted.
    pub(crate) fn prefetch(&self) {
        #[cfg(unix)]
        if let Self::Mapped(map) = self {
            // Only advice: where it is refused, reading is merely slower.
            let _ = map.advise(memmap2::Advice::WillNeed);
        }
    }

    /// Gives back the memory of `range`, which has been converted and will hardly be read again.
    /// Without this a loaded network counts twice, once as it lies in the file.
    pub(crate) fn release(&self, range: std::ops::Range<usize>) {
        #[cfg(unix)]
        if let Self::Mapped(map) = self {
            // SAFETY: the mapping is of a file and never written: dropped pages are read from it
            // again when they are touched.
            let _ = unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, range.start, range.len()) };
        }
        #[cfg(not(unix))]
        let _ = range;
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Static(bytes) => bytes,
        }
    }
}
