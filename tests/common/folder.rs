//! Whole folders compared, for the tests that make galleries.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Every file below `folder` with its bytes; how long things took is left out.
pub fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut all = BTreeMap::new();
    let mut open = vec![folder.to_path_buf()];
    while let Some(path) = open.pop() {
        for entry in fs::read_dir(path).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(folder).unwrap().to_string_lossy().into_owned();
            if name == "timings" {
                continue;
            }
            if path.is_dir() { open.push(path) } else { drop(all.insert(name, fs::read(&path).unwrap())) }
        }
    }
    all
}

/// The same files with the same bytes in both.
pub fn assert_equal(a: &Path, b: &Path) {
    let (a, b) = (files(a), files(b));
    assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>());
    for (name, bytes) in &a {
        assert!(*bytes == b[name], "{name} differs");
    }
}
