//! The options that write each word's region for other programs, shared by the commands that make
//! or show runs.

use attnmap::run::{RegionFiles, Threshold};
use attnmap::{Error, Result};
use clap::{Args, ValueEnum};

/// Which files of the regions are written.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Regions")]
pub struct RegionFileArgs {
    /// Also write each word's region as a mask, and all of them as one COCO file
    ///
    /// Black and white pictures of the image's size; the COCO file has every separate place with
    /// its box.
    #[arg(long)]
    masks: bool,

    /// Also write the outline of each word's region: svg, json, or svg,json
    #[arg(long, value_name = "KINDS", value_delimiter = ',', hide_short_help = true)]
    outline: Vec<OutlineArg>,

    /// With --masks or --outline: cut each map at its own Otsu threshold instead of --threshold
    #[arg(long, hide_short_help = true)]
    otsu: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, ValueEnum)]
enum OutlineArg {
    /// regions/NN-word.svg, a picture for each word
    Svg,
    /// regions/outlines.json
    Json,
}

impl RegionFileArgs {
    /// What is asked for, with regions that begin at `threshold` unless Otsu's is asked for; `None`
    /// where nothing is.
    pub fn chosen(&self, threshold: f32) -> Result<Option<(Threshold, RegionFiles)>> {
        let files = RegionFiles {
            masks: self.masks,
            svg: self.outline.contains(&OutlineArg::Svg),
            json: self.outline.contains(&OutlineArg::Json),
        };
        if files == RegionFiles::default() {
            return match self.otsu {
                true => Err(Error::input("--otsu", "cuts masks and outlines; add --masks or --outline svg")),
                false => Ok(None),
            };
        }
        Ok(Some((if self.otsu { Threshold::Otsu } else { Threshold::Share(threshold) }, files)))
    }
}
