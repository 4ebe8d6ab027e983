//! The files of a run: folder naming, whole-or-nothing writes, `run.json`, and everything that is
//! drawn from a trace.

mod again;
mod animation;
mod check;
mod components;
mod folder;
mod name;
mod newest;
mod own;
mod pictures;
mod record;
mod regions;
mod remake;
mod sampling;
mod self_attention;
mod settings;
mod steps;
mod versus;
mod write;

pub use again::{by_option, map_options, mask_option};
pub use animation::{Animated, Animation, animate};
pub use check::{Fault, check};
pub use components::{COMPONENTS, read_components, write_components};
pub(crate) use folder::read_png;
pub use folder::{Run, folder_of};
pub use name::{distinct_slug, run_name, slug, sweep_name};
pub use newest::{ListedRun, list_runs, newest_runs};
pub use own::{KIND, check_names};
pub use pictures::{Pictures, render_run};
pub use record::{FILE as RECORD, FORMAT_VERSION, RunKind, RunRecord, TokenRecord, WordRecord};
pub use record::{option_words, quoted, save_heatmaps};
pub use regions::{REGIONS, RegionFiles, Threshold, WordRegion, word_regions, write_regions};
pub use remake::{Remake, remake, save_regions};
pub(crate) use remake::{remapped, renewed};
pub use sampling::{Sampling, parse_point, parse_size};
pub use self_attention::{SelfAttentionDrawn, SelfAttentionMap, draw_self_attention};
pub use settings::{NoiseLevels, Settings};
pub(crate) use steps::kept_step_files;
pub use steps::{kept_by_default, kept_steps, save_steps};
pub use versus::{VersusFiles, draw_versus};
pub use write::{NewRun, write_run};
