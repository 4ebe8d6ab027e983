//! Files that hold Python pickles: told by their names, and never read.

/// Kinds of file that hold Python pickles.
pub(super) const PICKLES: [&str; 5] = ["ckpt", "bin", "pt", "pth", "pkl"];

/// Why the file `name` of such a kind is not read.
pub(super) fn pickle(name: &str) -> String {
    format!(
        "{name} is a Python pickle, which can run any code when read; convert it to safetensors or pick a revision \
        that has \
         them"
    )
}
