//! What was seen: attention sites, the observer that is told of them, the recorder, and the trace file.

mod site;

pub use site::{Attends, AttentionObserver, Site, Stage, Step, Unobserved};
