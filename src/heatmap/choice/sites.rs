//! Which attention sites a heat map is made of: by DAAM's rule, by layer, by resolution.

use crate::argument::{LAYERS, RESOLUTION};
use crate::figures::largest;
use crate::trace::{Grid, Site, Stage};
use crate::{Error, Result};
use std::fmt;
use std::str::FromStr;
use wildmatch::WildMatch;

/// One condition on a site. Those of an aggregate must all hold.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum SiteFilter {
    /// DAAM's rule (Tang et al., ACL 2023; `daam/trace.py`): not in the mid block, and
    /// `floor(sqrt(latent cells / site cells)) < 8`.
    Daam,
    /// In this stage of the network; in a transformer the first (down), middle (mid) or last (up)
    /// third of its depth.
    Stage(Stage),
    /// In the last up block that has any prompt site; in a transformer its last site.
    LastUp,
    /// The last up block that has any prompt site, or the last site where no up block has. Where
    /// its last grid has more than twice this many cells on the short side, the up blocks' sites on
    /// the grid nearest to this many. In a transformer, whose last blocks look at the prompt least,
    /// the middle half of its depth (0.25 to 0.75).
    UpNear(usize),
    /// On the n-th finest of the different site grids, 0 the finest.
    Level(usize),
    /// On a grid whose short side has this many cells or more.
    AtLeast(usize),
    /// The sites that ConceptAttention's maps are made of (Helbling et al. 2025), as in the
    /// authors' code. In FLUX.1 they are the last ten blocks of two streams, in Stable Diffusion 3
    /// every block. It is not published for Z-Image, where the middle half of the depth is taken.
    Concepts,
    /// The ninth site of a transformer, or its last where it has fewer (Seg4Diff, Kim et al. 2025).
    Ninth,
    /// Matched by any of these patterns.
    Layers(Vec<LayerPattern>),
    /// Matched by any of these sizes.
    Resolutions(Vec<Resolution>),
}

impl SiteFilter {
    /// Whether `site`, one of `sites` of a network run at `latent` size, is taken.
    pub fn takes(&self, site: &Site, sites: &[Site], latent: Grid) -> bool {
        match self {
            Self::Daam => {
                let ratio = latent.cells() / (site.height * site.width).max(1);
                site.stage != Stage::Mid && ratio.isqrt() < 8
            }
            Self::Stage(stage) => in_stage(site, *stage),
            Self::LastUp if site.stage == Stage::Transformer => {
                largest(sites.iter().map(|site| site.depth)) == site.depth
            }
            Self::UpNear(_) if site.stage == Stage::Transformer => (0.25..=0.75).contains(&site.depth),
            Self::LastUp => in_last_up(site, sites),
            Self::UpNear(cells) => {
                let Some(last) = sites.iter().rfind(|site| site.stage == Stage::Up).or(sites.last()) else {
                    return false;
                };
                let short = |site: &Site| site.height.min(site.width);
                if last.stage != Stage::Up {
                    return last.path == site.path;
                }
                if short(last) <= 2 * cells {
                    return in_last_up(site, sites);
                }
                let apart = |side: usize| (side as f64 / *cells as f64).ln().abs();
                let up = sites.iter().filter(|site| site.stage == Stage::Up).map(short);
                let nearest = up.min_by(|&a, &b| apart(a).total_cmp(&apart(b)).then(b.cmp(&a)));
                site.stage == Stage::Up && Some(short(site)) == nearest
            }
            Self::Level(level) => {
                let mut grids: Vec<_> = sites.iter().map(|site| site.height * site.width).collect();
                grids.sort_unstable_by_key(|&cells| std::cmp::Reverse(cells));
                grids.dedup();
                grids.get(*level) == Some(&(site.height * site.width))
            }
            Self::Concepts => takes_concepts(site, sites),
            Self::Ninth => site.stage == Stage::Transformer && site.index == sites.len().min(9).saturating_sub(1),
            Self::AtLeast(cells) => site.height.min(site.width) >= *cells,
            Self::Layers(patterns) => patterns.iter().any(|pattern| pattern.matches(site)),
            Self::Resolutions(sizes) => sizes.iter().any(|size| size.matches(site)),
        }
    }
}

/// Whether `site` lies in the last up block that has any prompt site.
fn in_last_up(site: &Site, sites: &[Site]) -> bool {
    // `up_blocks.3` of `up_blocks.3.attentions.0...`
    let block = |site: &Site| site.path.split('.').nth(1).and_then(|number| number.parse::<usize>().ok());
    let up = |site: &&Site| site.stage == Stage::Up;
    site.stage == Stage::Up && block(site) == sites.iter().filter(up).filter_map(block).max()
}

/// How the weight paths of blocks with streams of their own for text and image begin.
const DOUBLE: &str = "transformer_blocks.";

/// See [`SiteFilter::Concepts`].
fn takes_concepts(site: &Site, sites: &[Site]) -> bool {
    const LAST: usize = 10;
    if site.stage != Stage::Transformer {
        return false;
    }
    if !site.path.starts_with(DOUBLE) {
        let alone = !sites.iter().any(|site| site.path.starts_with(DOUBLE));
        return alone && (0.25..=0.75).contains(&site.depth);
    }
    let double = sites.iter().filter(|site| site.path.starts_with(DOUBLE)).count();
    double == sites.len() || site.index + LAST >= double
}

/// A pattern of `--layers`: a stage, a third of the depth, a kind of block, or a diffusers weight
/// path. `*` stands for any run of its characters and `?` for one. A path pattern matches whole
/// names from the start: `up_blocks.1` takes all of `up_blocks.1.*`, and nothing of `up_blocks.10`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LayerPattern {
    /// `down`, `mid` or `up`; in a transformer a third of its depth.
    Stage(Stage),
    /// `early`, `middle` or `late`: the first (0), second (1) or last (2) third of any network.
    Third(u8),
    /// Of a transformer's blocks those that keep text and image in streams of their own (`double`),
    /// or in one stream (`single`). FLUX.1 has both.
    Streams {
        /// Whether text and image share one stream.
        single: bool,
    },
    /// A weight path with `*` and `?`.
    Path(String),
}

impl LayerPattern {
    /// Whether the pattern takes `site`.
    pub fn matches(&self, site: &Site) -> bool {
        match self {
            Self::Stage(stage) => in_stage(site, *stage),
            Self::Third(third) => third_of(site) == *third,
            Self::Streams { single } => site.stage == Stage::Transformer && site.path.starts_with(DOUBLE) != *single,
            Self::Path(pattern) => {
                let pattern = WildMatch::new(pattern);
                let ends = site.path.match_indices('.').map(|(at, _)| at).chain([site.path.len()]);
                ends.into_iter().any(|end| pattern.matches(&site.path[..end]))
            }
        }
    }
}

impl FromStr for LayerPattern {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Ok(match text.trim() {
            "down" => Self::Stage(Stage::Down),
            "mid" => Self::Stage(Stage::Mid),
            "up" => Self::Stage(Stage::Up),
            "early" => Self::Third(0),
            "middle" => Self::Third(1),
            "late" => Self::Third(2),
            "double" => Self::Streams { single: false },
            "single" => Self::Streams { single: true },
            "" => return Err(Error::argument(LAYERS, "an empty pattern; write `up`, `mid` or `up_blocks.1.*`")),
            path => Self::Path(path.trim_end_matches('.').to_string()),
        })
    }
}

impl fmt::Display for LayerPattern {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Stage(stage) => f.write_str(stage_name(*stage)),
            Self::Third(third) => f.write_str(["early", "middle", "late"][usize::from(*third).min(2)]),
            Self::Streams { single } => f.write_str(if *single { "single" } else { "double" }),
            Self::Path(path) => f.write_str(path),
        }
    }
}

/// Whether `site` lies in `stage`, which a transformer has by thirds of its depth.
fn in_stage(site: &Site, stage: Stage) -> bool {
    match (site.stage, stage) {
        (Stage::Transformer, Stage::Down) => third_of(site) == 0,
        (Stage::Transformer, Stage::Mid) => third_of(site) == 1,
        (Stage::Transformer, Stage::Up) => third_of(site) == 2,
        (own, stage) => own == stage,
    }
}

/// Which third of the network's depth `site` lies in: 0, 1 or 2.
fn third_of(site: &Site) -> u8 {
    const THIRD: f32 = 1.0 / 3.0;
    match site.depth {
        depth if depth < THIRD => 0,
        depth if depth < 2.0 * THIRD => 1,
        _ => 2,
    }
}

/// A size of `--resolution`. One number is the SHORT side of the site grid, so that `16` means the
/// same layers of a 512x512 and a 768x512 picture. `WxH` is exact, in the order of `--size`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolution {
    /// The short side in cells.
    Short(usize),
    /// Both sides.
    Exact(Grid),
}

impl Resolution {
    /// Whether the site grid has this size.
    pub fn matches(&self, site: &Site) -> bool {
        match self {
            Self::Short(side) => site.height.min(site.width) == *side,
            Self::Exact(grid) => (site.height, site.width) == (grid.height, grid.width),
        }
    }
}

impl FromStr for Resolution {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || {
            let reason = format!(
                "{} is no size; write the short side of a site grid, like 16, or WxH, like 24x16",
                crate::in_quotes(text)
            );
            Error::argument(RESOLUTION, reason)
        };
        let side = |text: &str| text.trim().parse::<usize>().ok().filter(|&side| side > 0).ok_or_else(wrong);
        match text.split_once(['x', 'X']) {
            Some((width, height)) => Ok(Self::Exact(Grid::new(side(height)?, side(width)?))),
            None => Ok(Self::Short(side(text)?)),
        }
    }
}

impl fmt::Display for Resolution {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Short(side) => write!(f, "{side}"),
            Self::Exact(grid) => write!(f, "{}x{}", grid.width, grid.height),
        }
    }
}

pub(super) fn stage_name(stage: Stage) -> &'static str {
    match stage {
        Stage::Down => "down",
        Stage::Mid => "mid",
        Stage::Up => "up",
        Stage::Transformer => "transformer",
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::trace::AttentionKind;

    pub(in super::super) fn site(path: &str, stage: Stage, height: usize, width: usize) -> Site {
        Site { path: path.into(), stage, depth: 0.0, kind: AttentionKind::Cross, index: 0, heads: 8, height, width }
    }

    fn matches(pattern: &str, path: &str) -> bool {
        pattern.parse::<LayerPattern>().unwrap().matches(&site(path, Stage::Up, 4, 4))
    }

    #[test]
    fn layer_patterns_match_whole_names() {
        assert!(matches("up", "up_blocks.1.attentions.0"));
        assert!(!matches("down", "up_blocks.1.attentions.0"));
        assert!(matches("up_blocks.1", "up_blocks.1.attentions.0"));
        assert!(matches("up_blocks.1.*", "up_blocks.1.attentions.0"));
        assert!(!matches("up_blocks.1", "up_blocks.10.attentions.0"));
        assert!(matches("*.attentions.0", "up_blocks.10.attentions.0.transformer_blocks.0.attn2"));
        assert!(!matches("up_blocks.1.*", "up_blocks.2.attentions.1"));
        assert!(matches("up_blocks.?.attentions.2", "up_blocks.3.attentions.2"));
        assert!("".parse::<LayerPattern>().is_err());
        for name in ["down", "mid", "up", "early", "middle", "late", "double", "single", "up_blocks.?"] {
            assert_eq!(name.parse::<LayerPattern>().unwrap().to_string(), name);
        }
        // A UNet's layers have a depth too, and no streams.
        let late = Site { depth: 0.9, ..site("up_blocks.3.attentions.0", Stage::Up, 4, 4) };
        let takes = |name: &str| name.parse::<LayerPattern>().unwrap().matches(&late);
        assert!(takes("late") && !takes("early") && !takes("middle") && !takes("double") && !takes("single"));
    }

    #[test]
    fn a_transformer_is_divided_by_depth() {
        let at = |depth| Site { depth, ..site("transformer_blocks.0.attn", Stage::Transformer, 4, 4) };
        let sites: Vec<Site> = (0..6).map(|index| at((index as f32 + 0.5) / 6.0)).collect();
        let taken = |filter: SiteFilter| -> Vec<usize> {
            (0..6).filter(|&index| filter.takes(&sites[index], &sites, Grid::new(8, 8))).collect()
        };
        assert_eq!(taken(SiteFilter::Stage(Stage::Down)), [0, 1]);
        assert_eq!(taken(SiteFilter::Stage(Stage::Mid)), [2, 3]);
        assert_eq!(taken(SiteFilter::Stage(Stage::Up)), [4, 5]);
        assert_eq!(taken(SiteFilter::LastUp), [5]);
        assert_eq!(taken(SiteFilter::UpNear(16)), [1, 2, 3, 4]);
        assert_eq!(taken(SiteFilter::Daam), [0, 1, 2, 3, 4, 5]);
        assert_eq!(taken(SiteFilter::Concepts), [0, 1, 2, 3, 4, 5]);
        // FLUX.1: 19 blocks of two streams, then 38 of one. Z-Image: 30 layers.
        let flux = |index: usize| Site {
            path: if index < 19 { format!("transformer_blocks.{index}.attn") } else { format!("single_{index}") },
            index,
            ..at((index as f32 + 0.5) / 57.0)
        };
        let flux: Vec<Site> = (0..57).map(flux).collect();
        let taken = |filter: SiteFilter, sites: &[Site]| -> Vec<usize> {
            (0..sites.len()).filter(|&index| filter.takes(&sites[index], sites, Grid::new(8, 8))).collect()
        };
        let layers = |text: &str| SiteFilter::Layers(text.split(',').map(|name| name.parse().unwrap()).collect());
        assert_eq!(taken(layers("double"), &flux), (0..19).collect::<Vec<_>>());
        assert_eq!(taken(layers("single"), &flux), (19..57).collect::<Vec<_>>());
        assert_eq!(taken(layers("early"), &flux), taken(SiteFilter::Stage(Stage::Down), &flux));
        assert_eq!(taken(layers("middle,late"), &flux), (19..57).collect::<Vec<_>>());
        assert_eq!(taken(SiteFilter::Concepts, &flux), (9..19).collect::<Vec<_>>());
        assert_eq!(taken(SiteFilter::Ninth, &flux), [8]);
        let layer = |index: usize| Site { path: format!("layers.{index}.attention"), ..flux[index].clone() };
        let z_image: Vec<Site> =
            (0..4).map(|index| Site { depth: (index as f32 + 0.5) / 4.0, ..layer(index) }).collect();
        assert_eq!(taken(SiteFilter::Concepts, &z_image), [1, 2]);
        assert_eq!(taken(SiteFilter::Ninth, &z_image), [3]);
        // A network of one, two or three blocks has a middle too.
        assert!([0.5, 0.25, 0.75].into_iter().all(|depth| SiteFilter::UpNear(16).takes(
            &at(depth),
            &[],
            Grid::new(8, 8)
        )));
    }

    #[test]
    fn large_grids_are_left_out_by_default() {
        // The up blocks of Stable Diffusion 1.5 at 512x512, SDXL at 1024x1024, and a small network.
        let up = |sides: &[usize]| -> Vec<Site> {
            let place = |(at, &side): (usize, &usize)| site(&format!("up_blocks.{at}"), Stage::Up, side, side + 8);
            sides.iter().enumerate().map(place).collect()
        };
        for (sides, want) in [
            (&[16, 16, 32, 32, 64, 64][..], &[0, 1][..]),
            (&[32, 32, 64, 64], &[0, 1]),
            (&[4, 8, 16, 16], &[3]),
            (&[8, 16, 32], &[2]),
        ] {
            let mut sites = up(sides);
            sites.insert(0, site("mid_block", Stage::Mid, 16, 24));
            let taken =
                (1..sites.len()).filter(|&at| SiteFilter::UpNear(16).takes(&sites[at], &sites, Grid::new(64, 64)));
            assert_eq!(taken.map(|at| at - 1).collect::<Vec<_>>(), want, "{sides:?}");
            assert!(!SiteFilter::UpNear(16).takes(&sites[0], &sites, Grid::new(64, 64)));
        }
    }

    #[test]
    fn resolution_is_the_short_side_or_width_by_height() {
        let wide = site("up_blocks.1.attentions.0", Stage::Up, 16, 24);
        assert!("16".parse::<Resolution>().unwrap().matches(&wide));
        assert!(!"24".parse::<Resolution>().unwrap().matches(&wide));
        assert!("24x16".parse::<Resolution>().unwrap().matches(&wide));
        assert!(!"16x24".parse::<Resolution>().unwrap().matches(&wide));
        for wrong in ["", "0", "x", "16x", "-3", "1.5"] {
            assert!(wrong.parse::<Resolution>().is_err(), "{wrong}");
        }
    }
}
