//! The program as a user calls it, for the tests that read what it prints.

use serde_json::Value;
use std::path::Path;

/// What `attnmap` with these arguments prints.
#[track_caller]
pub fn attnmap(folder: &Path, args: &[&str]) -> Vec<u8> {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_attnmap"))
        .current_dir(folder)
        .arg("--quiet")
        .args(args)
        .output()
        .unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// What `attnmap` with these arguments prints, as JSON.
#[track_caller]
pub fn json(folder: &Path, args: &[&str]) -> Value {
    serde_json::from_slice(&attnmap(folder, args)).unwrap()
}
