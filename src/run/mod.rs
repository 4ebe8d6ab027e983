//! The files of a run: folder naming, whole-or-nothing writes, `run.json`.

pub mod atomic;
