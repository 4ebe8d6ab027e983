//! What goes into a heat map: an [`Aggregate`] chooses sites, heads and steps, by name or piece by piece.

use crate::trace::{Grid, Half, Site, Stage};
use crate::{Error, Result};
use std::fmt;
use std::ops::{Range, RangeInclusive};
use std::str::FromStr;

/// The aggregate used when none is named.
pub const DEFAULT: &str = "compete";

/// An aggregate with a name on the command line.
#[derive(Debug)]
pub struct NamedAggregate {
    /// The name after `--aggregate`.
    pub name: &'static str,
    /// One line of help.
    pub about: &'static str,
    /// The sites it takes.
    pub sites: &'static [SiteFilter],
    /// Whether the prompt's tokens compete for each cell; see [`Aggregate::compete`].
    pub compete: Option<f32>,
}

/// Every named aggregate.
pub const NAMED: &[NamedAggregate] = &[
    NamedAggregate {
        name: "daam",
        about: "DAAM's rule: down and up blocks, grids finer than 1/8 of the latent grid",
        sites: &[SiteFilter::Daam],
        compete: None,
    },
    NamedAggregate { name: "all", about: "every site", sites: &[], compete: None },
    NamedAggregate { name: "down", about: "the down blocks", sites: &[SiteFilter::Stage(Stage::Down)], compete: None },
    NamedAggregate { name: "mid", about: "the middle block", sites: &[SiteFilter::Stage(Stage::Mid)], compete: None },
    NamedAggregate { name: "up", about: "the up blocks", sites: &[SiteFilter::Stage(Stage::Up)], compete: None },
    NamedAggregate {
        name: "last-up",
        about: "the last up block that looks at the prompt",
        sites: &[SiteFilter::LastUp],
        compete: None,
    },
    NamedAggregate { name: "finest", about: "the finest site grid", sites: &[SiteFilter::Level(0)], compete: None },
    NamedAggregate {
        name: "second",
        about: "the second finest site grid",
        sites: &[SiteFilter::Level(1)],
        compete: None,
    },
    NamedAggregate {
        name: "third",
        about: "the third finest site grid",
        sites: &[SiteFilter::Level(2)],
        compete: None,
    },
    NamedAggregate {
        name: "compete",
        about: "the last site, each cell shared out among the prompt's tokens",
        sites: &[SiteFilter::LastSite],
        compete: Some(0.8),
    },
    NamedAggregate {
        name: "compete-up",
        about: "up blocks on grids of 16 cells a side or more, shared out likewise; for SD 1.x and 2.x, untested there",
        sites: &[SiteFilter::Stage(Stage::Up), SiteFilter::AtLeast(16)],
        compete: Some(0.8),
    },
];

/// One condition on a site. Those of an aggregate must all hold.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum SiteFilter {
    /// DAAM's rule (Tang et al., ACL 2023; `daam/trace.py`): in a down or up block, and
    /// `floor(sqrt(latent cells / site cells)) < 8`.
    Daam,
    /// In this third of the network.
    Stage(Stage),
    /// In the last up block that has any prompt site.
    LastUp,
    /// The very last site of the up blocks, or of all where they have none.
    LastSite,
    /// On the n-th finest of the different site grids, 0 the finest.
    Level(usize),
    /// On a grid whose short side has this many cells or more.
    AtLeast(usize),
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
            Self::Stage(stage) => site.stage == *stage,
            Self::LastUp => {
                // `up_blocks.3` of `up_blocks.3.attentions.0...`
                let block = |site: &Site| site.path.split('.').nth(1).and_then(|number| number.parse::<usize>().ok());
                let up = |site: &&Site| site.stage == Stage::Up;
                site.stage == Stage::Up && block(site) == sites.iter().filter(up).filter_map(block).max()
            }
            Self::LastSite => {
                let last = sites.iter().rfind(|site| site.stage == Stage::Up).or(sites.last());
                last.is_some_and(|last| last.path == site.path)
            }
            Self::Level(level) => {
                let mut grids: Vec<_> = sites.iter().map(|site| site.height * site.width).collect();
                grids.sort_unstable_by_key(|&cells| std::cmp::Reverse(cells));
                grids.dedup();
                grids.get(*level) == Some(&(site.height * site.width))
            }
            Self::AtLeast(cells) => site.height.min(site.width) >= *cells,
            Self::Layers(patterns) => patterns.iter().any(|pattern| pattern.matches(site)),
            Self::Resolutions(sizes) => sizes.iter().any(|size| size.matches(site)),
        }
    }
}

/// A pattern of `--layers`: `down`, `mid` or `up`, or a diffusers weight path in which `*` stands for any run of characters and
/// `?` for one. A path pattern matches whole names from the start: `up_blocks.1` takes all of `up_blocks.1.*`, and nothing
/// of `up_blocks.10`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LayerPattern {
    /// A third of the network.
    Stage(Stage),
    /// A weight path with `*` and `?`.
    Path(String),
}

impl LayerPattern {
    /// Whether the pattern takes `site`.
    pub fn matches(&self, site: &Site) -> bool {
        match self {
            Self::Stage(stage) => site.stage == *stage,
            Self::Path(pattern) => {
                let path = site.path.as_bytes();
                let ends = (0..path.len()).filter(|&at| path[at] == b'.').chain([path.len()]);
                ends.into_iter().any(|end| glob(pattern.as_bytes(), &path[..end]))
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
            "" => return Err(Error::option("--layers", "an empty pattern; write `up`, `mid` or `up_blocks.1.*`")),
            path => Self::Path(path.trim_end_matches('.').to_string()),
        })
    }
}

impl fmt::Display for LayerPattern {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Stage(stage) => f.write_str(stage_name(*stage)),
            Self::Path(path) => f.write_str(path),
        }
    }
}

/// `*` any run of bytes, `?` one byte. Linear in time: only the last star is ever tried again.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t, mut star) = (0, 0, None);
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(&byte) if byte == b'?' || byte == text[t] => (p, t) = (p + 1, t + 1),
            _ => match star {
                Some((at, from)) => {
                    star = Some((at, from + 1));
                    (p, t) = (at + 1, from + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|&byte| byte == b'*')
}

/// A size of `--resolution`: one number is the SHORT side of the site grid (so that `16` means the same layers of a 512x512 and
/// a 768x512 picture of Stable Diffusion), `WxH` is exact, in the order of `--size`.
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
            let reason =
                format!("{text:?} is no size; write the short side of a site grid, like 16, or WxH, like 24x16");
            Error::option("--resolution", reason)
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

/// A choice of heads, `0-3,7`: numbers from 0, ranges with both ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeadSet(Vec<RangeInclusive<usize>>);

impl HeadSet {
    /// Whether `head` is chosen.
    pub fn contains(&self, head: usize) -> bool {
        self.0.iter().any(|range| range.contains(&head))
    }

    /// The highest head that is named.
    pub fn highest(&self) -> usize {
        self.0.iter().map(|range| *range.end()).max().unwrap_or(0)
    }
}

impl FromStr for HeadSet {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || Error::option("--heads", format!("{text:?} is no choice of heads; write 0-3,7"));
        let number = |text: &str| text.trim().parse::<usize>().map_err(|_| wrong());
        let range = |part: &str| -> Result<_> {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (number(first)?, number(last)?);
            if first <= last { Ok(first..=last) } else { Err(wrong()) }
        };
        Ok(Self(text.split(',').map(range).collect::<Result<_>>()?))
    }
}

impl fmt::Display for HeadSet {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        for (index, range) in self.0.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            match range.start() == range.end() {
                true => write!(f, "{comma}{}", range.start())?,
                false => write!(f, "{comma}{}-{}", range.start(), range.end())?,
            }
        }
        Ok(())
    }
}

/// A part of the run: `0.2..0.8` as shares of it, or `1-20` as step numbers from 1 with both ends.
#[derive(Debug, Clone, PartialEq)]
pub enum StepWindow {
    /// From and to, each 0 to 1; rounded to whole steps, at least one.
    Shares(f64, f64),
    /// First and last step, from 1.
    Numbers(usize, usize),
}

impl StepWindow {
    /// The steps of a run of `count` steps, from 0.
    ///
    /// # Errors
    /// [`Error::Option`] when the window names steps that the run does not have.
    pub fn resolve(&self, count: usize) -> Result<Range<usize>> {
        match *self {
            Self::Shares(from, to) => {
                let at = |share: f64| (share * count as f64).round() as usize;
                let start = at(from).min(count.saturating_sub(1));
                Ok(start..at(to).clamp(start + 1, count.max(start + 1)))
            }
            Self::Numbers(first, last) if last <= count => Ok(first - 1..last),
            Self::Numbers(..) => {
                Err(Error::option("--steps-window", format!("{self} goes beyond the run, which has steps 1-{count}")))
            }
        }
    }
}

impl FromStr for StepWindow {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || {
            let reason =
                format!("{text:?} is no window; write shares of the run, like 0.2..0.8, or step numbers, like 1-20");
            Error::option("--steps-window", reason)
        };
        if let Some((from, to)) = text.split_once("..") {
            let share = |text: &str| text.trim().parse::<f64>().map_err(|_| wrong());
            let (from, to) = (share(from)?, share(to)?);
            return if 0.0 <= from && from < to && to <= 1.0 { Ok(Self::Shares(from, to)) } else { Err(wrong()) };
        }
        let number = |text: &str| text.trim().parse::<usize>().map_err(|_| wrong());
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let (first, last) = (number(first)?, number(last)?);
        if 1 <= first && first <= last { Ok(Self::Numbers(first, last)) } else { Err(wrong()) }
    }
}

impl fmt::Display for StepWindow {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Shares(from, to) => write!(f, "{from}..{to}"),
            Self::Numbers(first, last) => write!(f, "{first}-{last}"),
        }
    }
}

/// A way to make heat maps of a trace: which sites, heads and steps go in. Each site (and head) is resized to the latent grid
/// with torch's bicubic, clamped at 0, and averaged.
#[derive(Debug, Clone, PartialEq)]
pub struct Aggregate {
    /// The name of the sites' rule, for people and for `run.json`.
    pub name: String,
    /// Conditions on the sites; all must hold.
    pub sites: Vec<SiteFilter>,
    /// The heads, or all.
    pub heads: Option<HeadSet>,
    /// The steps, or all.
    pub steps: Option<StepWindow>,
    /// The half of the guidance batch.
    pub half: Half,
    /// Whether the tokens of the prompt's text compete for each cell, and with which exponent: a token's map becomes its share of
    /// what all of them have in the cell (start, end and padding, which hold most of it, left aside), to this power, scaled so that
    /// its highest cell keeps the attention that it had. Sharper outlines where the start token fades in and out; chosen on scenes
    /// with known masks.
    pub compete: Option<f32>,
}

impl Default for Aggregate {
    /// The aggregate named [`DEFAULT`].
    fn default() -> Self {
        Self::named(DEFAULT).expect("the default is in the table")
    }
}

impl Aggregate {
    /// The aggregate of that name in [`NAMED`].
    ///
    /// # Errors
    /// [`Error::Option`] listing the names.
    pub fn named(name: &str) -> Result<Self> {
        let Some(found) = NAMED.iter().find(|named| named.name == name) else {
            let names: Vec<_> = NAMED.iter().map(|named| named.name).collect();
            return Err(Error::option("--aggregate", format!("{name:?} is unknown; choose from {}", names.join(", "))));
        };
        let (name, sites, compete) = (found.name.to_string(), found.sites.to_vec(), found.compete);
        Ok(Self { name, sites, heads: None, steps: None, half: Half::Conditional, compete })
    }

    /// This aggregate, taking only sites that `filter` takes too.
    pub fn narrowed(mut self, filter: SiteFilter) -> Self {
        self.sites.push(filter);
        self
    }

    /// Positions in `sites` of those that are taken.
    ///
    /// # Errors
    /// [`Error::Option`] when there are none, listing the grids that there are.
    pub fn choose(&self, sites: &[Site], latent: Grid) -> Result<Vec<usize>> {
        let takes = |site: &Site| self.sites.iter().all(|filter| filter.takes(site, sites, latent));
        let chosen: Vec<usize> = (0..sites.len()).filter(|&index| takes(&sites[index])).collect();
        if chosen.is_empty() {
            let mut there: Vec<String> = Vec::new();
            for site in sites {
                let line = format!("{} {}x{}", stage_name(site.stage), site.width, site.height);
                if !there.contains(&line) {
                    there.push(line);
                }
            }
            let reason = format!("{self} takes no site of this run, which has {}", there.join(", "));
            return Err(Error::option(self.option(), reason));
        }
        Ok(chosen)
    }

    /// The option to blame when no site is left.
    fn option(&self) -> &'static str {
        match self.sites.last() {
            Some(SiteFilter::Layers(_)) => "--layers",
            Some(SiteFilter::Resolutions(_)) => "--resolution",
            _ => "--aggregate",
        }
    }
}

impl fmt::Display for Aggregate {
    /// As in `daam, layers up, heads 0-3`.
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        fn join<T: fmt::Display>(items: &[T]) -> String {
            items.iter().map(T::to_string).collect::<Vec<_>>().join(",")
        }
        f.write_str(&self.name)?;
        for filter in &self.sites {
            match filter {
                SiteFilter::Layers(patterns) => write!(f, ", layers {}", join(patterns))?,
                SiteFilter::Resolutions(sizes) => write!(f, ", resolution {}", join(sizes))?,
                _ => {}
            }
        }
        if let Some(heads) = &self.heads {
            write!(f, ", heads {heads}")?;
        }
        if let Some(steps) = &self.steps {
            write!(f, ", steps {steps}")?;
        }
        if self.half == Half::Unconditional {
            f.write_str(", unconditional half")?;
        }
        Ok(())
    }
}

fn stage_name(stage: Stage) -> &'static str {
    match stage {
        Stage::Down => "down",
        Stage::Mid => "mid",
        Stage::Up => "up",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::Attends;

    fn site(path: &str, stage: Stage, height: usize, width: usize) -> Site {
        Site { path: path.into(), stage, attends: Attends::Prompt, index: 0, heads: 8, height, width }
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

    #[test]
    fn windows_resolve_to_steps() {
        let window = |text: &str, count| text.parse::<StepWindow>().unwrap().resolve(count);
        assert_eq!(window("0.2..0.8", 50).unwrap(), 10..40);
        assert_eq!(window("0..1", 7).unwrap(), 0..7);
        assert_eq!(window("0.99..1", 4).unwrap(), 3..4);
        assert_eq!(window("0..0.01", 4).unwrap(), 0..1);
        assert_eq!(window("1-20", 20).unwrap(), 0..20);
        assert_eq!(window("3", 20).unwrap(), 2..3);
        assert!(window("1-21", 20).is_err());
        for wrong in ["", "0-3", "5-3", "0.8..0.2", "0..2", "a..b", "-1", "nan..1"] {
            assert!(wrong.parse::<StepWindow>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn heads_are_numbers_and_ranges() {
        let heads: HeadSet = "0-3,7".parse().unwrap();
        assert_eq!((0..9).filter(|&head| heads.contains(head)).collect::<Vec<_>>(), [0, 1, 2, 3, 7]);
        assert_eq!(heads.to_string(), "0-3,7");
        for wrong in ["", "3-1", "a", "1,,2", "-"] {
            assert!(wrong.parse::<HeadSet>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn daam_leaves_out_the_middle_and_the_coarse() {
        let sites = [
            site("down_blocks.0.attentions.0", Stage::Down, 64, 64),
            site("down_blocks.3.attentions.0", Stage::Down, 8, 8),
            site("mid_block.attentions.0", Stage::Mid, 8, 8),
            site("up_blocks.1.attentions.0", Stage::Up, 16, 16),
            site("up_blocks.3.attentions.0", Stage::Up, 64, 64),
        ];
        let choose = |name: &str| Aggregate::named(name).unwrap().choose(&sites, Grid::new(64, 64)).unwrap();
        assert_eq!(choose("daam"), [0, 3, 4]);
        assert_eq!(choose("all"), [0, 1, 2, 3, 4]);
        assert_eq!(choose("up"), [3, 4]);
        assert_eq!(choose("last-up"), [4]);
        assert_eq!(choose("finest"), [0, 4]);
        assert_eq!(choose("second"), [3]);
    }

    #[test]
    fn an_empty_choice_says_what_there_is() {
        let sites = [site("up_blocks.1.attentions.0", Stage::Up, 16, 24)];
        let how = Aggregate::named("all").unwrap().narrowed(SiteFilter::Resolutions(vec![Resolution::Short(24)]));
        let error = how.choose(&sites, Grid::new(64, 96)).unwrap_err().to_string();
        assert_eq!(error, "--resolution: all, resolution 24 takes no site of this run, which has up 24x16");
    }

    #[test]
    fn every_named_aggregate_is_found_and_the_default_is_one() {
        for named in NAMED {
            assert_eq!(Aggregate::named(named.name).unwrap().to_string(), named.name);
        }
        Aggregate::default();
        assert!(Aggregate::named("best").unwrap_err().to_string().contains("daam, all"));
    }
}
