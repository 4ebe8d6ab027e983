//! Pictures with known masks: which layout a folder has, and its scenes one after the other.
//!
//! Three layouts are known: attnmap's own scenes, the PASCAL VOC challenge's (`voc`) and COCO's
//! (`coco`). Pictures of the last two are brought to one size; their caption is the names of the
//! classes in them.

mod coco;
mod labels;
mod voc;

use super::scene::{Scene, TIMESTEPS};
use super::scene_folder::read_scenes;
use crate::Result;
use crate::trace::Grid;
use coco::Coco;
use std::path::Path;
use voc::Voc;

/// The noise levels that segmentation data sets are published at: GoCA's (arXiv 2603.06178) 100,
/// and ConceptAttention's (Helbling et al., ICML 2025) 500.
pub const PUBLISHED: [usize; 2] = [100, 500];

/// A folder of pictures whose masks are known.
#[derive(Debug)]
pub struct DataSet(DataSetLayout);

#[derive(Debug)]
enum DataSetLayout {
    Scenes(Vec<Scene>),
    Voc(Voc),
    Coco(Coco),
}

impl DataSet {
    /// Opens `folder`, in whichever layout it has.
    ///
    /// # Errors
    /// [`crate::Error::Argument`] on `SCENES` that names the file at fault; [`crate::Error::Io`].
    pub fn open(folder: &Path) -> Result<Self> {
        if let Some(found) = Voc::open(folder)? {
            return Ok(Self(DataSetLayout::Voc(found)));
        }
        if let Some(found) = Coco::open(folder)? {
            return Ok(Self(DataSetLayout::Coco(found)));
        }
        Ok(Self(DataSetLayout::Scenes(read_scenes(folder)?)))
    }

    /// How the layout is called.
    pub fn layout(&self) -> &'static str {
        match &self.0 {
            DataSetLayout::Scenes(_) => "scenes",
            DataSetLayout::Voc(_) => "VOC",
            DataSetLayout::Coco(_) => "COCO",
        }
    }

    /// The timesteps of training that its pictures are noised to.
    pub fn levels(&self) -> Vec<usize> {
        match &self.0 {
            DataSetLayout::Scenes(_) => TIMESTEPS.to_vec(),
            DataSetLayout::Voc(_) | DataSetLayout::Coco(_) => PUBLISHED.to_vec(),
        }
    }

    /// Number of pictures.
    pub fn len(&self) -> usize {
        match &self.0 {
            DataSetLayout::Scenes(scenes) => scenes.len(),
            DataSetLayout::Voc(voc) => voc.len(),
            DataSetLayout::Coco(coco) => coco.len(),
        }
    }

    /// Whether there is no picture; never true of what [`open`](Self::open) gives.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The picture at `index`, below [`len`](Self::len), with its caption and masks. Those of VOC
    /// and COCO are brought to `size`, and may show no class at all.
    ///
    /// # Errors
    /// [`crate::Error::Argument`] on `SCENES` that names the file that is missing or damaged.
    pub fn scene(&self, index: usize, size: Grid) -> Result<Scene> {
        match &self.0 {
            DataSetLayout::Scenes(scenes) => Ok(scenes[index].clone()),
            DataSetLayout::Voc(voc) => voc.scene(index, size),
            DataSetLayout::Coco(coco) => coco.scene(index, size),
        }
    }
}
