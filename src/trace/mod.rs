//! What was seen: attention sites, the observer that is told of them, the recorder, and the trace
//! file.
//!
//! A [`Recorder`] watches a run and ends in one [`Recording`] per image. With an [`About`] (prompt,
//! settings, checkpoint) that is a [`Trace`], which [`Trace::save`] and [`Trace::load`] keep as
//! `trace.safetensors`.

mod about;
mod buffer;
mod concepts;
mod file;
mod goca;
mod probe;
mod queries;
mod queries_file;
mod recorder;
mod recording;
mod select;
mod self_attention;
mod site;
mod spelling;
mod sums;
mod tags;
mod tensor_file;

pub use about::{
    About, CheckpointInfo, ConceptInfo, EncoderInfo, Grid, LEVELS_KEY, NOISE_KEY, ProbeInfo, PromptInfo, TokenInfo,
    TokenKind, WordInfo,
};
pub use buffer::Buffer;
pub use concepts::ConceptMaps;
pub(crate) use file::LARGEST_SIDE;
pub use file::{FORMAT_VERSION, Trace};
pub use goca::GocaMaps;
pub use probe::{PROBE_PREFIX, probe_words};
pub use queries::{EncoderQueries, Queries, QueriesKeys, QueryNeed, QueryPlan, QueryRecorder, SiteQueries};
pub use queries_file::QUERIES;
pub use recorder::{Recorder, RecordingPlan};
pub use recording::{Half, HalfMaps, ProbeMaps, Recording, SiteMaps, TextAttention};
pub(crate) use select::bare;
pub use select::only;
pub use self_attention::{SelfAttention, SelfAttentionPlan};
pub use site::{AttentionKind, AttentionObserver, Both, Site, Stage, Step, Unobserved};
pub use spelling::{is_variation_selector, normalized, whole_words};
pub use tags::{By, tags, without_tags, without_word};
