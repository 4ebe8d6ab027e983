//! What goes into a heat map: an [`Aggregate`] chooses sites, heads and steps, by name or piece by
//! piece.

pub(super) mod data;
mod ranges;
mod sites;

use crate::argument::{AGGREGATE, Argument, ENCODER, HALF, HEADS, LAYERS, QUERIES, RESOLUTION, STEPS_WINDOW};
use crate::trace::{Grid, Half, PromptInfo, Site, Stage};
use crate::{Error, Result};
pub use ranges::{HeadSet, StepWindow};
use sites::stage_name;
pub use sites::{LayerPattern, Resolution, SiteFilter};
use std::fmt;
use std::str::FromStr;

/// The aggregate used when none is named.
pub const DEFAULT: &str = "compete";

/// The aggregate used when none is named and the run keeps concepts.
pub const DEFAULT_OF_CONCEPTS: &str = "concept";

/// An aggregate with a name on the command line.
#[derive(Debug)]
pub struct NamedAggregate {
    /// The name after `--aggregate`.
    pub name: &'static str,
    /// One line of help.
    pub about: &'static str,
    /// The sites it takes.
    pub sites: &'static [SiteFilter],
    /// Whether the prompt's words compete for each cell; see [`Aggregate::compete`].
    pub compete: Option<f32>,
    /// What the maps of a word's tokens make together; see [`Aggregate::of_tokens`].
    pub of_tokens: OfTokens,
    /// What a map measures.
    pub measure: Measure,
}

/// What a map measures.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Measure {
    /// Attention probabilities.
    #[default]
    Attention,
    /// The softmax over the run's concepts of what places' and concepts' attention outputs have in
    /// common ([`ConceptMaps`](crate::trace::ConceptMaps)).
    Concepts,
    /// Attention with heads and layers weighted, carried along self-attention
    /// ([`GocaMaps`](crate::trace::GocaMaps)).
    Goca,
}

/// Whose attention a map is of, where text and image attend to each other.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum QuerySource {
    /// What each place of the image gives to the word.
    #[default]
    Image,
    /// What the word's own tokens give to each place of the image.
    Text,
}

impl QuerySource {
    /// Each with its name.
    pub const NAMED: [(&str, Self); 2] = [("image", Self::Image), ("text", Self::Text)];
}

/// Which text encoder's tokens of a word a map is of, in Stable Diffusion 3, which has a word in
/// CLIP's text and in T5's. Both are keys of one softmax.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Encoder {
    /// Those of both, together.
    #[default]
    Both,
    /// CLIP's alone. What T5's get counts as the padding's.
    Clip,
    /// T5's alone. What CLIP's get counts as the padding's.
    T5,
}

impl Encoder {
    /// Each with its name.
    pub const NAMED: [(&str, Self); 3] = [("both", Self::Both), ("clip", Self::Clip), ("t5", Self::T5)];

    /// The name on the command line and in files.
    pub fn name(self) -> &'static str {
        Self::NAMED.iter().find(|(_, encoder)| *encoder == self).map_or("", |(name, _)| name)
    }
}

impl FromStr for Encoder {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let found = Self::NAMED.iter().find(|(name, _)| *name == text).map(|(_, encoder)| *encoder);
        found.ok_or_else(|| {
            Error::argument(ENCODER, format!("{} is unknown; choose clip, t5 or both", crate::in_quotes(text)))
        })
    }
}

/// What the maps of a word's tokens make together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OfTokens {
    /// Their sum: the attention that goes to the word, however many tokens it is cut into.
    #[default]
    Sum,
    /// Their mean, as DAAM has it (`daam/trace.py`, `merge_idxs` and `mean(0)`): a word of more
    /// tokens has a lower map.
    Mean,
}

/// Every named aggregate.
pub const NAMED: &[NamedAggregate] = &[
    NamedAggregate {
        name: "daam",
        about: "DAAM's rule: down and up blocks, grids finer than 1/8 of the latent grid; a word has the mean of \
        its tokens' maps",
        sites: &[SiteFilter::Daam],
        compete: None,
        of_tokens: OfTokens::Mean,
        measure: Measure::Attention,
    },
    NamedAggregate {
        name: "all",
        about: "every site",
        sites: &[],
        compete: None,
        of_tokens: OfTokens::Sum,
        measure: Measure::Attention,
    },
    NamedAggregate {
        name: "down",
        about: "the down blocks",
        sites: &[SiteFilter::Stage(Stage::Down)],
        compete: None,
        of_tokens: OfTokens::Sum,
        measure: Measure::Attention,
    },
    NamedAggregate {
        name: "mid",
        about: "the middle block",
        sites: &[SiteFilter::Stage(Stage::Mid)],
        compete: None,
        of_tokens: OfTokens::Sum,
        measure: Measure::Attention,
    },
    NamedAggregate {
        name: "up",
        about: "the up blocks",
        sites: &[SiteFilter::Stage(Stage::Up)],
        compete: None,
        of_tokens: OfTokens::Sum,
        measure: Measure::Attention,
    },
    NamedAggregate {
        name: "last-up",
        about: "the last up block that looks at the prompt",
        sites: &[SiteFilter::LastUp],
        compete: None,
        of_tokens: OfTokens::Sum,
        measure: Measure::Attention,
    },
    NamedAggregate {
        name: "finest",
        about: "the finest site grid",
        sites: &[SiteFilter::Level(0)],
        compete: None,
        of_tokens: OfTokens::Sum,
        measure: Measure::Attention,
    },
    NamedAggregate {
        name: "second",
        about: "the second finest site grid",
        sites: &[SiteFilter::Level(1)],
        compete: None,
        of_tokens: OfTokens::Sum,
        measure: Measure::Attention,
    },
    NamedAggregate {
        name: "third",
        about: "the third finest site grid",
        sites: &[SiteFilter::Level(2)],
        compete: None,
        of_tokens: OfTokens::Sum,
        measure: Measure::Attention,
    },
    NamedAggregate {
        name: "compete",
        about: "the last up block (on large grids the up blocks' nearest to 16 cells, in a transformer the middle \
        half), each cell shared out among the prompt's words",
        sites: &[SiteFilter::UpNear(16)],
        compete: Some(0.8),
        of_tokens: OfTokens::Sum,
        measure: Measure::Attention,
    },
    NamedAggregate {
        name: "compete-up",
        about: "up blocks on grids of 16 cells a side or more, shared out likewise; for SD 1.x and 2.x, untested there",
        sites: &[SiteFilter::Stage(Stage::Up), SiteFilter::AtLeast(16)],
        compete: Some(0.8),
        of_tokens: OfTokens::Sum,
        measure: Measure::Attention,
    },
    NamedAggregate {
        name: "concept",
        about: "ConceptAttention: what each place's attention output is most like, among the concepts that the run \
        kept; FLUX.1's last ten blocks of two streams, every layer of Stable Diffusion 3",
        sites: &[SiteFilter::Concepts],
        compete: None,
        of_tokens: OfTokens::Sum,
        measure: Measure::Concepts,
    },
    NamedAggregate {
        name: "goca",
        about: "GoCA: heads weighted by what they give to the output, layers by their self-attention; words compete, \
        and are carried along self-attention",
        sites: &[],
        compete: None,
        of_tokens: OfTokens::Mean,
        measure: Measure::Goca,
    },
    NamedAggregate {
        name: "seg4diff",
        about: "Seg4Diff: the ninth layer of a transformer alone, as it is",
        sites: &[SiteFilter::Ninth],
        compete: None,
        of_tokens: OfTokens::Sum,
        measure: Measure::Attention,
    },
];

/// A way to make heat maps of a trace: which sites, heads and steps go in. Each site (and head) is
/// resized to the latent grid with torch's bicubic, clamped at 0, and averaged.
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
    /// Whether the words of the prompt compete for each cell, and with which exponent. A word's map
    /// becomes its share of what all tokens of the text have in the cell, to this power. Start, end
    /// and padding, which hold most of it, are left aside. The result is scaled so that its highest
    /// value is the highest attention that the word had. Sharper outlines where the start token
    /// fades in and out; chosen on scenes with known masks.
    pub compete: Option<f32>,
    /// What the maps of a word's tokens make together, before the words compete.
    pub of_tokens: OfTokens,
    /// What the maps measure.
    pub measure: Measure,
    /// Whose attention it is.
    pub queries: QuerySource,
    /// Which text encoder's tokens count.
    pub encoder: Encoder,
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
    /// [`Error::Argument`] listing the names.
    pub fn named(name: &str) -> Result<Self> {
        let Some(found) = NAMED.iter().find(|named| named.name == name) else {
            let names: Vec<_> = NAMED.iter().map(|named| named.name).collect();
            return Err(Error::argument(
                AGGREGATE,
                format!("{} is unknown; choose from {}", crate::in_quotes(name), names.join(", ")),
            ));
        };
        let (name, sites) = (found.name.to_string(), found.sites.to_vec());
        let NamedAggregate { compete, of_tokens, measure, .. } = *found;
        let (half, queries, encoder) = (Half::Conditional, QuerySource::Image, Encoder::Both);
        Ok(Self { name, sites, heads: None, steps: None, half, compete, of_tokens, measure, queries, encoder })
    }

    /// This aggregate, taking only sites that `filter` takes too.
    pub fn narrowed(mut self, filter: SiteFilter) -> Self {
        self.sites.push(filter);
        self
    }

    /// Positions in `sites` of those that are taken.
    ///
    /// # Errors
    /// [`Error::Argument`] when there are none, listing the grids that there are, and for a head
    /// that none of them has.
    pub fn choose(&self, sites: &[Site], latent: Grid) -> Result<Vec<usize>> {
        if self.measure == Measure::Goca {
            self.check_goca()?;
        }
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
            let there = there.join(", ");
            let known = Self::named(&self.name).map_or(0, |named| named.sites.len());
            let reason = match &self.sites[known.min(self.sites.len())..] {
                [SiteFilter::Layers(layers)] if known == 0 => {
                    format!("no layer is called {}; this run has {there}", join(layers))
                }
                [SiteFilter::Resolutions(sizes)] if known == 0 => {
                    format!("no layer has a grid of {}; this run has {there}", join(sizes))
                }
                _ => format!("{self} takes no layer of this run, which has {there}"),
            };
            return Err(Error::argument(self.blamed(), reason));
        }
        let most = chosen.iter().map(|&index| sites[index].heads).max().unwrap_or(0);
        match &self.heads {
            Some(heads) if heads.highest() >= most => {
                let (head, last) = (heads.highest(), most.saturating_sub(1));
                let reason = format!("head {head} does not exist; the chosen sites have heads 0-{last}");
                Err(Error::argument(HEADS, reason))
            }
            _ => Ok(chosen),
        }
    }

    /// Which tokens of `prompt` are the other encoder's and left out, `[T]`. Empty where none is.
    ///
    /// # Errors
    /// [`Error::Argument`] where one encoder is chosen and the prompt has one reading.
    pub fn silent(&self, prompt: &PromptInfo) -> Result<Vec<bool>> {
        if self.encoder == Encoder::Both {
            return Ok(Vec::new());
        }
        let Some(behind) = prompt.behind() else {
            let reason = "this run's prompt has one reading; leave it out: it is for Stable Diffusion 3 with T5";
            return Err(Error::argument(ENCODER, reason));
        };
        Ok((0..prompt.tokens.len()).map(|token| (token < behind) == (self.encoder == Encoder::T5)).collect())
    }

    /// That one encoder is chosen only where `prompt` has two readings.
    ///
    /// # Errors
    /// As [`silent`](Self::silent).
    pub fn check_encoder(&self, prompt: &PromptInfo) -> Result<()> {
        self.silent(prompt).map(drop)
    }

    /// That nothing is chosen which GoCA weights itself.
    fn check_goca(&self) -> Result<()> {
        let narrowed = match self.sites.first() {
            Some(SiteFilter::Resolutions(_)) => Some(RESOLUTION),
            Some(_) => Some(LAYERS),
            None => None,
        };
        let chosen = [
            narrowed,
            self.heads.as_ref().map(|_| HEADS),
            self.steps.as_ref().map(|_| STEPS_WINDOW),
            (self.queries == QuerySource::Text).then_some(QUERIES),
            (self.encoder != Encoder::Both).then_some(ENCODER),
            (self.half == Half::Unconditional).then_some(HALF),
        ];
        match chosen.into_iter().flatten().next() {
            Some(argument) => Err(Error::argument(
                argument,
                "GoCA's maps are of all layers, heads and steps, each with its own weight, and of the prompt's half; \
                 leave it out",
            )),
            None => Ok(()),
        }
    }

    /// What the colours of a word's map stand for.
    pub fn colour(&self) -> &'static str {
        match (self.measure, self.queries) {
            (Measure::Goca, _) => "GoCA’s map of the word, from its lowest place to its highest",
            (Measure::Concepts, _) => "how much of each place is the word’s among the run’s concepts",
            (Measure::Attention, QuerySource::Text) => "how much of the word’s own attention goes to each place",
            (Measure::Attention, QuerySource::Image) => "how much of each place’s attention goes to the word",
        }
    }

    /// Whether the maps are of the attention that places pay.
    pub fn is_of_places(&self) -> bool {
        self.measure == Measure::Attention && self.queries == QuerySource::Image
    }

    /// The argument to blame when no site is left.
    fn blamed(&self) -> Argument {
        match self.sites.last() {
            Some(SiteFilter::Layers(_)) => LAYERS,
            Some(SiteFilter::Resolutions(_)) => RESOLUTION,
            _ => AGGREGATE,
        }
    }
}

fn join<T: fmt::Display>(items: &[T]) -> String {
    items.iter().map(T::to_string).collect::<Vec<_>>().join(",")
}

/// How the other half is written after the rest.
const UNCONDITIONAL: &str = "unconditional half";

/// How the text's own queries are written after the rest.
const TEXT_QUERIES: &str = "queries of the text";

/// What stands before the encoder whose tokens alone count.
const ENCODER_IS: &str = "encoder ";

impl fmt::Display for Aggregate {
    /// As in `daam, layers up, heads 0-3`.
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
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
            write!(f, ", {UNCONDITIONAL}")?;
        }
        if self.queries == QuerySource::Text {
            write!(f, ", {TEXT_QUERIES}")?;
        }
        if self.encoder != Encoder::Both {
            write!(f, ", {ENCODER_IS}{}", self.encoder.name())?;
        }
        Ok(())
    }
}

impl FromStr for Aggregate {
    type Err = Error;

    /// Reads back what [`Display`](fmt::Display) writes: how `run.json` says which maps a run has.
    fn from_str(text: &str) -> Result<Self> {
        let mut parts = text.split(", ");
        let mut how = Self::named(parts.next().unwrap_or_default())?;
        for part in parts {
            if let Some(layers) = part.strip_prefix("layers ") {
                let patterns = layers.split(',').map(str::parse).collect::<Result<Vec<LayerPattern>>>()?;
                how = how.narrowed(SiteFilter::Layers(patterns));
            } else if let Some(sizes) = part.strip_prefix("resolution ") {
                let sizes = sizes.split(',').map(str::parse).collect::<Result<Vec<Resolution>>>()?;
                how = how.narrowed(SiteFilter::Resolutions(sizes));
            } else if let Some(heads) = part.strip_prefix("heads ") {
                how.heads = Some(heads.parse()?);
            } else if let Some(steps) = part.strip_prefix("steps ") {
                how.steps = Some(steps.parse()?);
            } else if part == UNCONDITIONAL {
                how.half = Half::Unconditional;
            } else if part == TEXT_QUERIES {
                how.queries = QuerySource::Text;
            } else if let Some(encoder) = part.strip_prefix(ENCODER_IS) {
                how.encoder = encoder.parse()?;
            } else {
                return Err(Error::argument(AGGREGATE, format!("{text:?} cannot be read: {part:?} is unknown")));
            }
        }
        Ok(how)
    }
}

#[cfg(test)]
mod tests {
    use super::sites::tests::site;
    use super::*;

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
        assert_eq!(error, "resolution: no layer has a grid of 24; this run has up 24x16");
    }

    #[test]
    fn every_named_aggregate_is_found_and_a_written_one_is_read_back() {
        for named in NAMED {
            assert_eq!(Aggregate::named(named.name).unwrap().to_string(), named.name);
        }
        Aggregate::default();
        let whole = "all, layers up,down_blocks.0.*, resolution 16,24x16, heads 0-3,7, steps 3-9, unconditional half, \
        queries of the text, encoder t5";
        for written in ["compete", "daam, heads 1", "last-up, steps 0.2..0.8", whole] {
            assert_eq!(written.parse::<Aggregate>().unwrap().to_string(), written);
        }
        assert!("all, encoder bert".parse::<Aggregate>().is_err());
        assert!("all, heads x".parse::<Aggregate>().is_err() && "best".parse::<Aggregate>().is_err());
        assert!(Aggregate::named("best").unwrap_err().to_string().contains("daam, all"));
    }
}
