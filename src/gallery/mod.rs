//! Many runs in one folder: the product of prompts, replacements, steps, seeds and checkpoints, and
//! the page that shows them. Also what many seeds of one prompt have in common ([`sweep()`]).
//!
//! A gallery is a folder of run folders, `cells/<name>`, each complete or absent. Its `index.html`
//! can be made again from them at any time ([`write_index`]). Cells share nothing, so a gallery
//! survives being killed and is continued by running the same command again. It can be split over
//! machines ([`Shard`]) that see the same folder.

mod batch;
mod captions;
mod cell;
mod cell_files;
mod check;
mod coverage_page;
mod expect;
mod folder;
mod index;
mod index_cell;
mod index_page;
mod looks;
mod make;
mod pack;
mod plan;
mod prompts;
mod quotes;
mod seeds;
mod sheet;
mod sweep;
mod sweep_page;
mod variants;

pub use batch::{fitting_batch, settle};
pub use captions::{Captioned, is_many, read_captioned};
pub use cell::{Cell, Origin, PictureLook};
pub use cell_files::{CellFacts, write_cell_files};
pub use check::check_checkpoints;
pub use expect::{Expected, judge};
pub use folder::{Failure, check_folder, damaged_cells};
pub use index::{LeftOut, LiveIndex, write_index};
pub use index_cell::{IndexCell, IndexWord, WithoutWord};
pub use index_page::index_page;
pub use looks::{COVERAGE, CoverageFile, Looks, goes_on};
pub use make::{GalleryEvent, GalleryOutcome, continues, make};
pub use pack::{PackedGallery, pack, pack_place};
pub use plan::{Axes, Plan, Shard, parse_loras};
pub use prompts::{Line, read_lines};
pub use seeds::{is_random_seed, listed_seeds, parse_seeds, random_seed};
pub use sheet::write_sheet;
pub use sweep::{SWEEP, SweepRequest, Swept, sweep};
pub use variants::Replacement;
