//! The files of a run: folder naming, whole-or-nothing writes, `run.json`, and everything that is drawn from a trace.

mod animation;
mod folder;
mod name;
mod pictures;
mod record;
mod remake;
mod staging;
mod ties;
mod write;

pub(crate) use animation::kept_step_files;
pub use animation::{Animated, Animation, animate, kept_steps, save_steps};
pub use folder::Run;
pub(crate) use folder::read_png;
pub use name::{run_name, slug};
pub use pictures::{Pictures, render_run};
pub use record::{
    FILE as RECORD, FORMAT_VERSION, RunKind, RunRecord, Settings, TokenRecord, WordRecord, quoted, save_heatmaps,
};
pub use remake::{Remake, remake};
pub use staging::check_target;
pub use ties::{Tied, TiedMap, draw_ties};
pub use write::{NewRun, write_run};
