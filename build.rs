//! Lists the files of `models/default` so that feature `default-model` can compile them in.
//!
//! The list is made here and not in a macro because the folder's content (shards, `tokenizer.json` or `vocab.json`)
//! is the checkpoint's own business. A missing folder gives an empty list: the build succeeds and the library says at
//! run time that it has no default model.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() {
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it")).join("models/default");
    // Not `models/default` itself: cargo rebuilds every time while a watched path does not exist.
    let watched = if root.parent().is_some_and(Path::exists) { "models" } else { "build.rs" };
    println!("cargo:rerun-if-changed={watched}");
    let mut files = Vec::new();
    if env::var_os("CARGO_FEATURE_DEFAULT_MODEL").is_some() {
        collect(&root, &root, &mut files);
    }
    files.sort();
    let mut code = String::from("[\n");
    for (name, path) in &files {
        writeln!(code, "    ({name:?}, &AlignedBytes(*include_bytes!({:?})).0),", path.display().to_string())
            .expect("writing to a string");
    }
    code.push(']');
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it")).join("default_model.rs");
    fs::write(out, code).expect("OUT_DIR is writable");
}

/// Adds every file that a checkpoint may have, as (path below `root` with `/`, full path).
fn collect(root: &Path, folder: &Path, files: &mut Vec<(String, PathBuf)>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.is_dir() {
            collect(root, &path, files);
        } else if path.extension().is_some_and(|kind| ["json", "safetensors", "txt"].iter().any(|known| kind == *known))
        {
            let name = path.strip_prefix(root).expect("below the root").components();
            let name: Vec<_> = name.map(|part| part.as_os_str().to_string_lossy()).collect();
            files.push((name.join("/"), path));
        }
    }
}
