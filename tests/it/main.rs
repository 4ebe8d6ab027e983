//! All integration tests, in one binary: one file a module.

mod scheduler;
