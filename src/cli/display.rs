//! The options that choose maps and how they are drawn, shared by every command that draws.

use attnmap::heatmap::{
    Aggregate, DEFAULT, DEFAULT_OF_CONCEPTS, Encoder, HeadSet, LayerPattern, NAMED, QuerySource, Resolution,
    SiteFilter, StepWindow,
};
use attnmap::render::{Colormap, Display, Scale, Style};
use attnmap::run::{Run, RunRecord};
use attnmap::trace::{By, Half, PromptInfo, Trace, WordInfo};
use attnmap::{Error, Result};
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{Args, ValueEnum};

use super::print;

/// Which words, sites, heads and steps the maps are made of.
#[derive(Debug, Args)]
#[command(next_help_heading = "Maps")]
pub struct MapArgs {
    /// Words and phrases to show, e.g. "red apple,heart#2,<start>,probe:shadow" [default: all]
    #[arg(long, value_name = "WORDS")]
    words: Option<String>,

    /// What a word is: each word, or each tag, that is all between two commas [default: word, or
    /// the run's own]
    #[arg(long, value_name = "UNIT", value_parser = names(By::NAMED))]
    by: Option<By>,

    #[arg(long, value_name = "NAME", value_parser = named_aggregates())]
    #[arg(help = format!("Which layers are averaged [default: the run's, else {DEFAULT}; with --layers all]"))]
    aggregate: Option<String>,

    /// Only these layers: down, mid, up, early, middle, late, double, single, or weight paths
    /// with * and ?, separated by commas
    #[arg(long, value_name = "LAYERS")]
    layers: Option<String>,

    /// Only layers whose grid has this short side, or is exactly WxH, separated by commas
    #[arg(long, value_name = "SIZES")]
    resolution: Option<String>,

    /// Only these heads: 0-3,7 (both ends included) or 0..4 (4 left out)
    #[arg(long, value_name = "HEADS")]
    heads: Option<String>,

    /// Whose attention: image, or text for the words' own [default: image]
    ///
    /// With `image` it is that of the image's places to words. `text` needs a run made with
    /// --text-queries, of a checkpoint of joint attention.
    #[arg(long, value_name = "WHOSE", value_parser = names(QuerySource::NAMED), hide_possible_values = true)]
    queries: Option<QuerySource>,

    /// Whose tokens of a word: clip, t5, or both [default: both]
    ///
    /// For Stable Diffusion 3 with T5, where a word stands in CLIP's text and in T5's.
    #[arg(long, value_name = "WHOSE", value_parser = names(Encoder::NAMED), hide_possible_values = true)]
    encoder: Option<Encoder>,

    /// Only a part of the run: shares like 0.2..0.8 or steps like 1-20 (both ends included)
    #[arg(long, value_name = "WINDOW", allow_hyphen_values = true)]
    steps_window: Option<String>,
}

/// Which half of the guidance batch.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum HalfArg {
    /// The rows that were given the prompt
    Conditional,
    /// The rows that were given the negative prompt
    Unconditional,
}

impl From<HalfArg> for Half {
    fn from(half: HalfArg) -> Self {
        match half {
            HalfArg::Conditional => Self::Conditional,
            HalfArg::Unconditional => Self::Unconditional,
        }
    }
}

/// The threshold that was asked for, or the run's own.
pub fn threshold_of(asked: Option<f32>, record: &RunRecord) -> Result<f32> {
    let threshold = asked.unwrap_or(record.display.threshold);
    if threshold > 0.0 && threshold < 1.0 {
        Ok(threshold)
    } else {
        Err(Error::input("--threshold", format!("must lie between 0 and 1; {threshold} given")))
    }
}

/// How maps are drawn.
#[derive(Debug, Args)]
#[command(next_help_heading = "Pictures")]
pub struct DisplayArgs {
    /// Colours of the scale
    #[arg(long, value_name = "NAME", default_value = "magma", value_parser = names(Colormap::NAMED))]
    colormap: Colormap,

    /// How maps are laid over the image
    #[arg(long, value_name = "NAME", default_value = "heat", value_parser = names(Style::NAMED))]
    style: Style,

    /// How much of the image the map covers, 0 to 1
    #[arg(long, value_name = "SHARE", default_value_t = Display::default().opacity, allow_negative_numbers = true)]
    opacity: f32,

    /// One colour scale for all words, or one per word
    #[arg(long, value_name = "NAME", default_value = "shared", value_parser = names(Scale::NAMED))]
    scale: Scale,

    /// Short side of overlays in pixels, at least
    #[arg(long, value_name = "PIXELS", default_value_t = Display::default().overlay_size)]
    overlay_size: usize,

    /// Share of a map's top at which masks, areas and boxes begin, 0 to 1
    #[arg(long, value_name = "SHARE", default_value_t = Display::default().threshold, allow_negative_numbers = true)]
    threshold: f32,
}

impl MapArgs {
    /// The chosen aggregate.
    pub fn aggregate(&self) -> Result<Aggregate> {
        // Who names sites means those sites, and not those of them that the default happens to
        // take.
        let narrowed = self.layers.is_some() || self.resolution.is_some();
        let name = self.aggregate.as_deref().unwrap_or(if narrowed { "all" } else { DEFAULT });
        let mut aggregate = Aggregate::named(name)?;
        if let Some(layers) = &self.layers {
            let layers = layers.split(',').map(str::parse::<LayerPattern>).collect::<Result<_>>()?;
            aggregate = aggregate.narrowed(SiteFilter::Layers(layers));
        }
        if let Some(sizes) = &self.resolution {
            let sizes = sizes.split(',').map(str::parse::<Resolution>).collect::<Result<_>>()?;
            aggregate = aggregate.narrowed(SiteFilter::Resolutions(sizes));
        }
        aggregate.queries = self.queries.unwrap_or_default();
        aggregate.encoder = self.encoder.unwrap_or_default();
        aggregate.heads = self.heads.as_deref().map(str::parse::<HeadSet>).transpose()?;
        aggregate.steps = self.steps_window.as_deref().map(str::parse::<StepWindow>).transpose()?;
        if aggregate.heads.is_some() && aggregate.steps.is_some() {
            return Err(Error::input("--steps-window", attnmap::heatmap::heads_and_steps()));
        }
        Ok(aggregate)
    }

    /// Whether maps are chosen at all.
    pub fn is_chosen(&self) -> bool {
        let options = [&self.aggregate, &self.layers, &self.resolution, &self.heads, &self.steps_window];
        options.iter().any(|option| option.is_some()) || self.queries.is_some() || self.encoder.is_some()
    }

    /// `aggregate`, or that of a run that keeps concepts where it does and nothing is chosen.
    pub fn of_concepts(&self, aggregate: Aggregate, kept: bool) -> Aggregate {
        let chosen =
            self.aggregate.is_some() || self.queries.is_some() || self.encoder.is_some() || self.heads.is_some();
        let Ok(named) = Aggregate::named(DEFAULT_OF_CONCEPTS) else { return aggregate };
        if chosen || !kept {
            return aggregate;
        }
        if self.layers.is_some() || self.resolution.is_some() {
            // Who names sites means those sites.
            return Aggregate { name: named.name, measure: named.measure, ..aggregate };
        }
        Aggregate { steps: aggregate.steps, ..named }
    }

    /// The chosen aggregate of a run's maps, and the run's own where none is chosen.
    pub fn aggregate_of(&self, record: &RunRecord) -> Result<Aggregate> {
        if self.is_chosen() {
            return self.aggregate();
        }
        // Of a version that knows other aggregates: the default.
        let own = record.how().unwrap_or_default();
        // What is asked is asked of the prompt, also where `view` last showed the other half.
        Ok(Aggregate { half: Half::Conditional, ..own })
    }

    /// What the words of a run that is made are.
    pub fn by(&self) -> By {
        self.by.unwrap_or_default()
    }

    /// `run` with its words as chosen, or as its own where nothing is.
    pub fn by_of(&self, mut run: Run) -> Run {
        run.record.by = self.by.unwrap_or(run.record.by);
        run
    }

    /// The chosen words of `prompt` and `probes`; `None` for all of them.
    pub fn words(&self, prompt: &PromptInfo, probes: &[WordInfo]) -> Result<Option<Vec<WordInfo>>> {
        self.words.as_deref().map(|words| Ok(once(prompt.select_with(words, probes)?))).transpose()
    }

    /// Refuses chosen words that `prompt` lacks.
    pub fn check_words(&self, prompt: &PromptInfo) -> Result<()> {
        self.words.as_deref().map_or(Ok(()), |words| prompt.select_with(words, &[]).map(drop))
    }

    /// The chosen words and probes of one half of a trace; `None` for all of them.
    pub fn words_of(&self, trace: &Trace, half: Half) -> Result<Option<Vec<WordInfo>>> {
        self.words.as_deref().map(|words| Ok(once(trace.select(half, words)?))).transpose()
    }
}

/// The words that are chosen, each once.
fn once(words: Vec<WordInfo>) -> Vec<WordInfo> {
    let mut kept: Vec<WordInfo> = Vec::new();
    for word in words {
        if kept.contains(&word) {
            print::warn(format!("--words: {} is given more than once and shown once", print::printable(&word.text)));
        } else {
            kept.push(word);
        }
    }
    kept
}

impl DisplayArgs {
    /// The chosen display, checked.
    pub fn display(&self) -> Result<Display> {
        let Self { colormap, style, opacity, scale, overlay_size, threshold } = *self;
        let display = Display { colormap, style, opacity, scale, overlay_size, threshold };
        display.check()?;
        Ok(display)
    }
}

fn named_aggregates() -> PossibleValuesParser {
    PossibleValuesParser::new(NAMED.iter().map(|named| PossibleValue::new(named.name).help(named.about)))
}

/// A parser of the names of a table, so that help and shell completions list them.
pub fn names<T: Copy + Send + Sync + 'static, const N: usize>(
    table: [(&'static str, T); N],
) -> impl TypedValueParser<Value = T> {
    PossibleValuesParser::new(table.map(|(name, _)| name))
        .map(move |name| table.iter().find(|(known, _)| *known == name).expect("only names of the table come here").1)
}
