//! The rooms of the house: which folder of `src/` uses which, without cycles.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// Folders of `src/` that the code in each of them names as `crate::FOLDER`, tests aside.
fn uses() -> BTreeMap<String, BTreeSet<String>> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let folders = fs::read_dir(&src).unwrap().flatten().filter(|entry| entry.path().is_dir());
    let names: BTreeSet<String> = folders.map(|entry| entry.file_name().into_string().unwrap()).collect();
    let mut uses = BTreeMap::new();
    for name in &names {
        let mut found = BTreeSet::new();
        for file in crate::cli::walk(&src.join(name)).iter().filter(|file| file.extension().is_some_and(|e| e == "rs"))
        {
            let code = fs::read_to_string(file).unwrap();
            let code = code.split("#[cfg(test)]").next().unwrap_or_default();
            for part in code
                .lines()
                .filter(|line| !line.trim_start().starts_with("//"))
                .flat_map(|line| line.split("crate::").skip(1))
            {
                let part = part.trim_start_matches('{');
                let other: String = part.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect();
                if other != *name && names.contains(&other) {
                    found.insert(other);
                }
            }
        }
        uses.insert(name.clone(), found);
    }
    uses
}

#[test]
fn folders_use_each_other_without_cycles() {
    let mut left = uses();
    assert!(left.len() > 15 && left["pipeline"].contains("model") && left["files"].is_empty(), "{left:?}");
    // Take away what uses nothing that is left, until nothing is.
    while !left.is_empty() {
        let free: Vec<String> = left
            .iter()
            .filter(|(_, uses)| uses.iter().all(|other| !left.contains_key(other)))
            .map(|(name, _)| name.clone())
            .collect();
        assert!(!free.is_empty(), "these folders use each other in a circle: {left:?}");
        left.retain(|name, _| !free.contains(name));
    }
}
