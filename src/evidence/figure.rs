//! The pictures that evidence is shown with, and the name of the file that lists them.

use serde::{Deserialize, Serialize};

/// The file of a run's evidence.
pub(super) const JSON: &str = "evidence.json";

/// A picture in the run's folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Figure {
    /// What it shows.
    pub caption: String,
    /// Its path from the run folder.
    pub file: String,
}
