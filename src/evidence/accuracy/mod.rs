//! How well maps find things whose masks are known.

mod against_mask;
mod classes;
mod data_set;
mod scene;
mod scene_folder;
mod scenes;

pub use against_mask::{Accuracy, DRAWS, Interval, THRESHOLDS, average_precision, bootstrap, iou_at, to_image};
pub use classes::{BACKGROUND, ClassIou};
pub use data_set::{DataSet, PUBLISHED};
pub use scene::{Object, Scene, TIMESTEPS};
pub use scene_folder::read_scenes;
pub use scenes::{Evaluation, Extent, Figures, Look, Rule, look, look_at, measure, site_rules, standard_rules};
