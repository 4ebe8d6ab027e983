//! The one error type of the library: what went wrong, in which file or argument, and the way out.

use crate::argument::Argument;
use crate::text::printable;
use std::path::{Path, PathBuf};

/// Shorthand for results of this library.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong in the library. Each message is one line: the cause, the file or
/// argument, the way out. Arguments are written as [`Argument`] says.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An argument has a value that cannot be used (exit code 2 in the binary).
    #[error("{argument:#}: {}", plain(reason))]
    Argument {
        /// Which one.
        argument: Argument,
        /// What is wrong and what would be right.
        reason: String,
    },
    /// Something that the user gave and no argument names cannot be used: a line of a list, one of
    /// several runs. Exit code 2 in the binary.
    #[error("{}: {}", plain(what), plain(reason))]
    Input {
        /// What it is, as the user knows it.
        what: String,
        /// What is wrong and what would be right.
        reason: String,
    },
    /// A JSON config of a checkpoint is missing, malformed, or asks for something that is not
    /// supported.
    #[error("{}: {}", plain(&file.display().to_string()), plain(reason))]
    Config {
        /// The config file.
        file: PathBuf,
        /// The field and what is wrong with it.
        reason: String,
    },
    /// A weight file is truncated, lacks a tensor, has one too many, or one of the wrong shape or
    /// with NaN.
    #[error("{}: {}", plain(&file.display().to_string()), plain(reason))]
    Weights {
        /// The safetensors file.
        file: PathBuf,
        /// The tensor and what is wrong with it.
        reason: String,
    },
    /// A kind of checkpoint or feature that attnmap does not support.
    #[error("{} is not supported: {}", plain(what), plain(way_out))]
    Unsupported {
        /// The named thing.
        what: String,
        /// What to do instead.
        way_out: String,
    },
    /// A hub download failed (missing, gated, interrupted, offline).
    #[error("{}: {}", plain(repo), plain(reason))]
    Hub {
        /// `owner/name` or `owner/name@revision`.
        repo: String,
        /// The cause and the way out.
        reason: String,
    },
    /// A saved run or trace cannot be read.
    #[error("{}: {}", plain(&file.display().to_string()), plain(reason))]
    Trace {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Reading or writing a file failed.
    #[error("{}: {source}{}", plain(&path.display().to_string()), way_out(source))]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// The network gave NaN, where an attention map was recorded.
    #[error("{site}: the network gave NaN, and no image can come of that")]
    NotANumber {
        /// The attention layer.
        site: String,
    },
    /// The caller asked to stop (Ctrl-C); exit code 130 in the binary.
    #[error("interrupted")]
    Interrupted,
    /// Something that only a fault in attnmap itself, or a wrong use of the library, can cause.
    #[error("attnmap went wrong: {0}; please report it with the command line")]
    Bug(String),
    /// An operation on tensors failed; a bug in attnmap unless the device ran out of memory.
    #[error("tensor operation failed: {0}")]
    Tensor(#[from] candle_core::Error),
}

impl Error {
    /// An [`Error::Argument`] for `argument` with `reason`.
    pub fn argument(argument: Argument, reason: impl Into<String>) -> Self {
        Self::Argument { argument, reason: reason.into() }
    }

    /// An [`Error::Input`] for `what` with `reason`.
    pub fn input(what: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Input { what: what.into(), reason: reason.into() }
    }

    /// The same refusal of an argument's value under the argument by which the user gave it; other
    /// errors as they are.
    pub fn named(self, given: Argument) -> Self {
        match self {
            Self::Argument { reason, .. } => Self::argument(given, reason),
            other => other,
        }
    }

    /// An [`Error::Bug`].
    pub fn bug(message: impl Into<String>) -> Self {
        Self::Bug(message.into())
    }

    /// An [`Error::Io`] at `path`; for `map_err`.
    pub fn io(path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.as_ref().to_path_buf();
        move |source| Self::Io { path, source }
    }

    /// The exit code that a command ending in this error should give: 2 for usage, 130 for Ctrl-C,
    /// else 1.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Argument { .. } | Self::Input { .. } => 2,
            Self::Interrupted => 130,
            _ => 1,
        }
    }
}

/// [`printable`] without the white space at the end, as of a message that another library wrote.
fn plain(text: &str) -> String {
    printable(text.trim_end())
}

/// What a user can do about an answer of the operating system, where there is something to do.
fn way_out(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => "; free some space, or write elsewhere",
        std::io::ErrorKind::ReadOnlyFilesystem => "; write elsewhere",
        _ => "",
    }
}
