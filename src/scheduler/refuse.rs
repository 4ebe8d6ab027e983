//! Errors about a `scheduler_config.json`.

use crate::Error;
use crate::checkpoint::SchedulerConfig;

/// A refusal of `field` with `value`, saying what would be accepted.
pub(super) fn refuse(config: &SchedulerConfig, field: &str, value: impl std::fmt::Display, accepted: &str) -> Error {
    config_error(config, format!("`{field}` is {value}, which is not supported: {accepted}"))
}

/// An error about the scheduler's config.
pub(super) fn config_error(config: &SchedulerConfig, reason: impl Into<String>) -> Error {
    let file = match config.file.as_os_str().is_empty() {
        true => "scheduler_config.json".into(),
        false => config.file.clone(),
    };
    Error::Config { file, reason: reason.into() }
}
