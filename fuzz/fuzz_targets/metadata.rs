//! Fuzz target `metadata`; see docs/FUZZING.md.

#![no_main]

// Each target takes its own part of what all share.
#[allow(dead_code)]
#[path = "../../tests/fuzz_targets/mod.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::metadata(data));
