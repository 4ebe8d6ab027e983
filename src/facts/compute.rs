//! Facts of a layout: how much a word holds, where and since when, how words lie to each other,
//! what was neglected and what leaked.

use super::lexicon::{self, Claim, Direction, Role};
use super::percentile::percentile;
use super::things::of_its_things;
use crate::argument::{BIND, EMPHASIS};
use crate::figures::largest;
use crate::heatmap::{self, Aggregate, Heatmaps, Layout, Point, StepWindow};
use crate::trace::{AttentionKind, Grid, Half, Trace, WordInfo, normalized};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// A word counts as placed once its centroid stays this near its last position, as a share of the
/// image's sides.
pub const NEAR: f32 = 0.1;

/// Centroids must lie this far apart along an axis before one is left of or above the other, as a
/// share of the image's side.
pub const APART: f32 = 0.1;

/// How much of a box must lie in another before it is called inside.
const WITHIN: f32 = 0.9;

/// A thing was probably not drawn when attention to it is nowhere more than so many times its mean
/// over the image. What is drawn is looked for where it stands. ACCURACY.md says how it was chosen.
pub const NEGLECT: f32 = 5.5;

/// Two maps are alike below this symmetric KL divergence, in nats.
pub const ALIKE: f32 = 0.5;

/// Everything that the maps of one run tell about its words. Lengths are shares of the image's
/// sides, `y` from the top.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Facts {
    /// The share of a map's own maximum above which a cell belongs to a word's area, box and
    /// centroid.
    pub threshold: f32,
    /// The peak of the highest filler word; absent where the prompt has none.
    pub filler_peak: Option<f32>,
    /// Whether `filler_peak` is the median over a seed sweep instead of this run's own.
    #[serde(default)]
    pub over_seeds: bool,
    /// One entry per word, in prompt order.
    pub words: Vec<WordFacts>,
    /// `[words][words]`: how much of two words' attention lies in the same places, 0 to 1. It is
    /// the sum of the smaller of the two maps, each divided by its sum.
    pub overlap: Vec<Vec<f32>>,
    /// How things lie to each other, each pair once: the left one to the right one, the upper one
    /// to the lower one. Words for the whole scene lie nowhere.
    pub relations: Vec<Relation>,
    /// The relations that the prompt states between things, and whether the maps agree.
    pub stated: Vec<Stated>,
    /// Adjectives of things, and the things that they follow.
    pub leakage: Vec<Leakage>,
}

impl Facts {
    /// What stands out, one line per finding. It is relations that the prompt states, things that
    /// were probably not drawn, and adjectives that may have gone to another thing.
    pub fn sentences(&self) -> Vec<String> {
        let absent = |name: &str| self.words.iter().any(|word| word.word == name && word.neglected == Some(true));
        // Of what was not drawn nothing else is said.
        let drawn = self.stated.iter().filter(|stated| !absent(&stated.claim.subject) && !absent(&stated.claim.object));
        let stated = drawn.map(|stated| {
            let Relation { subject, relation, object } = &stated.claim;
            let claim = format!("{subject} {} {object}", relation.words());
            match (stated.agrees, relation.opposite()) {
                (Some(true), _) => format!("{claim}, as the prompt says"),
                (Some(false), Some(opposite)) => {
                    format!("the prompt says {claim}; the maps have {subject} {} {object}", opposite.words())
                }
                (Some(false), None) => format!("the prompt says {claim}; the maps do not"),
                (None, _) => format!("the prompt says {claim}; the maps are too close to call"),
            }
        });
        let neglected: Vec<&WordFacts> = self.words.iter().filter(|word| word.neglected == Some(true)).collect();
        let neglected: Vec<String> = match &neglected[..] {
            [] => Vec::new(),
            [word] => {
                let (name, contrast) = (&word.word, below_neglect(word.contrast.unwrap_or_default()));
                vec![format!(
                    "{name} was probably not drawn: no place was looked at for it more than {contrast} times as \
                    much as the image on \
                     average (what is drawn reaches {NEGLECT} and more); try other seeds, or {EMPHASIS} with \
({name}:1.3)"
                )]
            }
            words => {
                let names: Vec<&str> = words.iter().map(|word| word.word.as_str()).collect();
                vec![format!(
                    "{} were probably not drawn: no place was looked at for them {NEGLECT} times as much as the \
                    image on average; try \
                     other seeds, or a shorter prompt",
                    and(&names)
                )]
            }
        };
        let leakage = self
            .leakage
            .iter()
            .filter(|leak| leak.tells() && !absent(&leak.noun) && !absent(&leak.follows))
            .map(|leak| format!("{} may colour {} rather than {}", leak.adjective, leak.follows, leak.noun));
        stated.chain(neglected).chain(leakage).collect()
    }
}

/// A contrast below [`NEGLECT`] with as many digits as show that it is.
fn below_neglect(contrast: f32) -> String {
    let digits = (1..4).find(|&digits| format!("{contrast:.digits$}") != format!("{NEGLECT:.digits$}"));
    format!("{contrast:.0$}", digits.unwrap_or(4))
}

/// `a, b and c`.
fn and(names: &[&str]) -> String {
    match names {
        [] => String::new(),
        [name] => (*name).to_owned(),
        [names @ .., last] => format!("{} and {last}", names.join(", ")),
    }
}

/// What one word's map tells.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WordFacts {
    /// The word, `apple#2` where the prompt repeats it.
    pub word: String,
    /// What it does in the prompt, by a small word list.
    pub role: Role,
    /// Positions of its tokens.
    pub tokens: Vec<usize>,
    /// Share, peak, centroid, box, area, entropy.
    #[serde(flatten)]
    pub layout: Layout,
    /// 1 minus the entropy: 0 a flat map, 1 a single cell.
    pub concentration: f32,
    /// Root mean square distance of the word's attention from its centre, 0 a single point; 0.41
    /// for a flat map of a square image.
    pub spread: Option<f32>,
    /// Since when it is where it ended up; absent without per-step maps.
    pub placed: Option<Placed>,
    /// Whether its contrast stays below [`NEGLECT`]. Absent for what this cannot tell of: fillers,
    /// adjectives, words that [set the scene](lexicon::sets_the_scene), words that nothing looked
    /// for, and all words of joint attention.
    pub neglected: Option<bool>,
    /// The highest attention to it in one place over that of the image on average; 1 where it is
    /// the same everywhere. Of the default maps before the words compete. Absent for joint
    /// attention.
    #[serde(default)]
    pub contrast: Option<f32>,
    /// Its peak as a share of [`Facts::filler_peak`]; absent for fillers and where there is none.
    #[serde(default)]
    pub of_filler_peak: Option<f32>,
}

/// When a word found its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placed {
    /// The first step, from 1, from which the centroid stays within [`NEAR`] of the last one.
    pub step: usize,
    /// Number of steps.
    pub steps: usize,
}

/// One thing lies to another like this.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Relation {
    /// The one.
    pub subject: String,
    /// How.
    pub relation: Direction,
    /// The other.
    pub object: String,
}

/// A relation that the prompt states.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stated {
    /// Subject, relation, object as the prompt has them.
    #[serde(flatten)]
    pub claim: Relation,
    /// Whether the maps agree; absent when they are too close to call or a map is empty.
    pub agrees: Option<bool>,
    /// The subject's centroid minus the object's along the relation's axis, negative for left and
    /// up; absent for `inside`.
    pub offset: Option<f32>,
}

/// Where an adjective's attention went.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Leakage {
    /// The adjective.
    pub adjective: String,
    /// The noun that it belongs to.
    pub noun: String,
    /// Symmetric KL divergence of its map from its own noun's, in nats; 0 the same map.
    pub own: f32,
    /// The same from each other noun.
    pub others: Vec<Distance>,
    /// The noun whose map is nearest.
    pub follows: String,
}

impl Leakage {
    /// Whether another thing is nearer than the adjective's own noun.
    pub fn leaks(&self) -> bool {
        self.follows != self.noun
    }

    /// Whether it is worth saying that it may have gone to another thing. Its map must be like that
    /// thing's (`ALIKE`), and less like its own noun's by as much again.
    pub fn tells(&self) -> bool {
        let nearest = self.others.iter().map(|other| other.divergence).fold(f32::INFINITY, f32::min);
        self.leaks() && nearest < ALIKE && self.own > 2.0 * nearest
    }
}

/// How far an adjective's map is from a noun's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Distance {
    /// The noun.
    pub noun: String,
    /// Symmetric KL divergence in nats.
    pub divergence: f32,
}

/// What beside the maps goes into [`facts`].
#[derive(Debug, Clone, Default)]
pub struct Context<'a> {
    /// Share of a map's maximum, see [`Facts::threshold`]; 0 takes [`crate::heatmap::THRESHOLD`].
    pub threshold: f32,
    /// The maps of every single step, of the same words in the same order; empty when the trace has
    /// none.
    pub steps: &'a [Heatmaps],
    /// The peak of the highest filler word of each run of a seed sweep, where there is one.
    pub filler_peaks: &'a [f32],
    /// Adjective and noun pairs by position in the words; found by [`lexicon::bindings`] when
    /// absent.
    pub bind: Option<&'a [(usize, usize)]>,
    /// The prompt's text, whose commas part what is said; none is known of where it is empty.
    pub text: &'a str,
}

/// The facts of `maps`, whose words ([`Heatmaps::chosen`]) are the prompt's in order, with any
/// probes after them.
pub fn facts(maps: &Heatmaps, context: &Context) -> Facts {
    let threshold = if context.threshold > 0.0 { context.threshold } else { crate::heatmap::THRESHOLD };
    let names: Vec<String> = maps.chosen.iter().map(WordInfo::label).collect();
    let role = |word| if maps.is_probe(word) { Role::Probe } else { lexicon::role(&word.text) };
    let roles: Vec<Role> = maps.chosen.iter().map(role).collect();
    let layouts: Vec<Layout> = (0..names.len()).map(|word| maps.layout(word, threshold)).collect();
    let filler_peak = filler_peak(context.filler_peaks)
        .or_else(|| highest_filler(layouts.iter().zip(&roles).map(|(layout, &role)| (layout.peak_value(), role))));
    // In joint attention a word shares its row with the image, and the bound says nothing.
    let joint = maps.image_share > 0.0;
    let contrast = |word: usize| contrast(maps, &maps.chosen[word]).filter(|_| !joint);
    let words = (0..names.len()).map(|word| {
        let layout = layouts[word];
        let compared = filler_peak.filter(|_| !matches!(roles[word], Role::Filler | Role::Probe));
        let of_filler_peak = compared.map(|filler| layout.peak_value() / filler);
        WordFacts {
            word: names[word].clone(),
            role: roles[word],
            tokens: maps.chosen[word].tokens.clone(),
            layout,
            concentration: 1.0 - layout.entropy,
            spread: spread(maps.word(word), maps.grid),
            placed: placed(context.steps, word, threshold),
            neglected: contrast(word).filter(|_| is_thing(roles[word], &maps.chosen[word].text)).map(is_neglect),
            contrast: contrast(word),
            of_filler_peak,
        }
    });
    let words = words.collect();
    let common = |a: usize, b: usize| (overlap(maps.word(a), maps.word(b)) as f32).min(1.0);
    let overlap = (0..names.len()).map(|a| (0..names.len()).map(|b| common(a, b)).collect()).collect();
    let Between { relations, stated, leakage } = between(maps, &roles, &layouts, context);
    let over_seeds = !context.filler_peaks.is_empty();
    Facts { threshold, filler_peak, over_seeds, words, overlap, relations, stated, leakage }
}

/// What maps say of words to each other.
struct Between {
    relations: Vec<Relation>,
    stated: Vec<Stated>,
    leakage: Vec<Leakage>,
}

/// The texts of `words`, and for each text its place among the words. A [`lexicon::MARK`] stands
/// before each word that `prompt` parts from the one before it.
fn with_marks<'a>(prompt: &str, words: &[&'a WordInfo]) -> (Vec<&'a str>, Vec<usize>) {
    let (mut texts, mut places) = (Vec::new(), Vec::new());
    for (place, word) in words.iter().enumerate() {
        let before = place.checked_sub(1).and_then(|before| prompt.get(words[before].end..word.start));
        if before.is_some_and(lexicon::ends_what_is_said) {
            texts.push(lexicon::MARK);
            places.push(place);
        }
        texts.push(word.text.as_str());
        places.push(place);
    }
    (texts, places)
}

/// What `maps` say of their words to each other; `roles` and `layouts` are of the words. Of
/// `context` the text and the bindings count.
fn between(maps: &Heatmaps, roles: &[Role], layouts: &[Layout], context: &Context) -> Between {
    let names: Vec<String> = maps.chosen.iter().map(WordInfo::label).collect();
    // What the prompt states and binds concerns its own words; probes come after them.
    let own: Vec<&WordInfo> = maps.chosen.iter().filter(|word| !maps.is_probe(word)).collect();
    let (texts, places) = with_marks(context.text, &own);
    let content: Vec<usize> = (0..names.len()).filter(|&word| is_thing(roles[word], &maps.chosen[word].text)).collect();
    let mut relations = Vec::new();
    for &subject in &content {
        for &object in &content {
            let lies = relations_of(&layouts[subject], &layouts[object]).into_iter();
            let lies = lies.filter(|_| subject != object).map(|relation| Relation {
                subject: names[subject].clone(),
                relation,
                object: names[object].clone(),
            });
            relations.extend(lies);
        }
    }
    // Words for the whole scene lie nowhere, and no adjective can go to them.
    let scene = |word: usize| !lexicon::names_a_thing(texts[word]);
    let claims = lexicon::claims(&texts).into_iter().filter(|claim| !scene(claim.subject) && !scene(claim.object));
    let of_words = |claim: Claim| Claim { subject: places[claim.subject], object: places[claim.object], ..claim };
    let stated = claims.map(|claim| stated(&of_words(claim), layouts, &names)).collect();
    let of_things = || {
        let pairs = lexicon::bindings(&texts).into_iter().filter(|&(_, noun)| !scene(noun));
        pairs.map(|(adjective, noun)| (places[adjective], places[noun])).collect()
    };
    let bindings = context.bind.map_or_else(of_things, <[_]>::to_vec);
    Between { relations, stated, leakage: leakage(maps, &names, &bindings, roles) }
}

/// The facts of a trace's words and of `probes` after them, maps by `how`. `bind` as in
/// `red:apple,green:frog`; `filler_peaks` as in [`Context`].
///
/// # Errors
/// As [`heatmap::aggregate`]; [`Error::Argument`] on `bind` for what is no pair of the prompt's
/// words.
pub fn of_trace(
    trace: &Trace,
    how: &Aggregate,
    threshold: f32,
    bind: Option<&str>,
    filler_peaks: &[f32],
    probes: &[WordInfo],
) -> Result<Facts> {
    let own = &trace.half(how.half).map_or(&trace.about.prompt, |(_, prompt)| prompt).words;
    let words = &[own.as_slice(), probes].concat();
    let maps = heatmap::aggregate(trace, how, words)?;
    let at_step = |step: usize| {
        let steps = Some(StepWindow::Numbers(step, step));
        heatmap::aggregate(trace, &Aggregate { steps, ..how.clone() }, words).ok()
    };
    // A chosen window or choice of heads has no single steps of its own, and noise levels are no
    // steps on a way.
    let steps: Vec<Heatmaps> = match how.steps.is_none() && how.heads.is_none() && !trace.about.is_look() {
        true => (1..=trace.steps()).map_while(at_step).collect(),
        false => Vec::new(),
    };
    let bind = bind.map(|bind| bindings(bind, own)).transpose()?;
    let prompt = trace.half(how.half).map_or(&trace.about.prompt, |(_, prompt)| prompt);
    let context = Context { threshold, steps: &steps, filler_peaks, bind: bind.as_deref(), text: &prompt.text };
    let mut found = facts(&maps, &context);
    // What is said of a phrase or a tag is told of its things. The map of "a red apple" is as wide
    // as that of "a".
    let things: Vec<WordInfo> = words.iter().map(|word| of_its_things(prompt, word)).collect();
    if things != *words {
        let of_things = heatmap::aggregate(trace, how, &things)?;
        let roles: Vec<Role> = found.words.iter().map(|word| word.role).collect();
        let layouts: Vec<Layout> = (0..things.len()).map(|word| of_things.layout(word, found.threshold)).collect();
        let of_things = between(&of_things, &roles, &layouts, &context);
        (found.relations, found.stated, found.leakage) = (of_things.relations, of_things.stated, of_things.leakage);
    }
    // The bound was measured on the default maps of cross-attention, and whatever maps were chosen
    // it is told of those. In joint attention a word shares its row with the image, and what a
    // drawn thing reaches there is not known.
    let joint = trace.recording.sites.iter().any(|site| site.kind == AttentionKind::Joint);
    let usual = Aggregate::default();
    let other;
    let judged = if joint || how.half != Half::Conditional {
        None
    } else if *how == usual {
        Some(&maps)
    } else {
        other = heatmap::aggregate(trace, &usual, words).ok();
        other.as_ref()
    };
    for (word, chosen) in found.words.iter_mut().zip(&things) {
        word.contrast = judged.and_then(|judged| contrast(judged, chosen));
        word.neglected = word.contrast.filter(|_| is_thing(word.role, &chosen.text)).map(is_neglect);
    }
    Ok(found)
}

/// `red:apple,green:frog` as positions in `words`.
///
/// # Errors
/// [`Error::Argument`] on `bind` for what is no pair, or no word.
pub fn bindings(text: &str, words: &[WordInfo]) -> Result<Vec<(usize, usize)>> {
    let place = |name: &str| {
        let asked = normalized(name);
        let found = words.iter().position(|word| normalized(&word.label()) == asked);
        found.ok_or_else(|| Error::argument(BIND, format!("the prompt has no word {}", crate::in_quotes(name.trim()))))
    };
    let pair = |pair: &str| {
        let (adjective, noun) = pair.split_once(':').ok_or_else(|| {
            Error::argument(BIND, format!("{} is no pair; write red:apple,green:frog", crate::in_quotes(pair)))
        })?;
        Ok((place(adjective)?, place(noun)?))
    };
    text.split(',').map(pair).collect()
}

/// The highest peak of the filler words among `words`, (peak, role) each; `None` where there is
/// none, or none that was looked for.
fn highest_filler(words: impl Iterator<Item = (f32, Role)>) -> Option<f32> {
    let fillers = words.filter(|(_, role)| *role == Role::Filler).map(|(peak, _)| peak);
    fillers.max_by(f32::total_cmp).filter(|&peak| peak > 0.0)
}

/// The median of a sweep's peaks; `None` where there are none.
pub(super) fn filler_peak(peaks: &[f32]) -> Option<f32> {
    let mut sorted: Vec<f64> = peaks.iter().map(|&peak| f64::from(peak)).collect();
    sorted.sort_by(f64::total_cmp);
    (!sorted.is_empty()).then(|| percentile(&sorted, 0.5) as f32)
}

/// Whether the peak of a word of this kind can tell whether the word was heeded. A probe was not
/// asked of the picture.
fn is_thing(role: Role, word: &str) -> bool {
    role != Role::Probe && lexicon::names_a_thing(word)
}

/// The highest attention to `word` in one place over its mean over the image, before the words
/// compete, 1 and more. What is below [`NEGLECT`] was probably not drawn. `None` where nothing
/// looked for it.
pub fn contrast(maps: &Heatmaps, word: &WordInfo) -> Option<f32> {
    let attention = maps.attention(&word.tokens);
    let mean = attention.iter().sum::<f32>() / attention.len().max(1) as f32;
    (mean > 0.0).then(|| largest(attention.iter().copied()) / mean)
}

/// Whether a contrast is neglect.
pub(super) fn is_neglect(contrast: f32) -> bool {
    contrast < NEGLECT
}

/// Root mean square distance of `map`'s mass from its centre, in shares of the image's sides;
/// `None` for a map of zeros.
pub fn spread(map: &[f32], grid: Grid) -> Option<f32> {
    let point = |cell: usize| {
        let (row, column) = (cell / grid.width, cell % grid.width);
        ((column as f64 + 0.5) / grid.width as f64, (row as f64 + 0.5) / grid.height as f64)
    };
    let mean = |of: &dyn Fn(usize) -> f64| {
        let (mut sum, mut mass) = (0.0, 0.0);
        for (cell, &value) in map.iter().enumerate() {
            sum += f64::from(value) * of(cell);
            mass += f64::from(value);
        }
        (mass > 0.0).then(|| sum / mass)
    };
    let (x, y) = (mean(&|cell| point(cell).0)?, mean(&|cell| point(cell).1)?);
    let distance = |cell| (point(cell).0 - x).powi(2) + (point(cell).1 - y).powi(2);
    Some(mean(&distance)?.sqrt() as f32)
}

fn placed(steps: &[Heatmaps], word: usize, threshold: f32) -> Option<Placed> {
    let centroids: Vec<Option<Point>> = steps.iter().map(|maps| maps.layout(word, threshold).centroid).collect();
    let last = (*centroids.last()?)?;
    let near = |point: &Option<Point>| point.is_some_and(|p| (p.x - last.x).hypot(p.y - last.y) <= NEAR);
    let staying = centroids.iter().rev().take_while(|point| near(point)).count();
    Some(Placed { step: centroids.len() - staying + 1, steps: centroids.len() })
}

/// The common mass of two maps, each divided by its sum, 0 to 1; 0 when one is zero everywhere.
pub fn overlap(a: &[f32], b: &[f32]) -> f64 {
    let sum = |map: &[f32]| map.iter().map(|&value| f64::from(value)).sum::<f64>();
    let (sum_a, sum_b) = (sum(a), sum(b));
    if sum_a <= 0.0 || sum_b <= 0.0 {
        return 0.0;
    }
    a.iter().zip(b).map(|(&a, &b)| (f64::from(a) / sum_a).min(f64::from(b) / sum_b)).sum()
}

/// KL(a, b) + KL(b, a) in nats of two maps as distributions. A millionth of its mean is added to
/// every cell of a map first, so that empty cells make the divergence large and not infinite.
pub fn symmetric_kl(a: &[f32], b: &[f32]) -> f64 {
    let distribution = |map: &[f32]| -> Vec<f64> {
        let mean = map.iter().map(|&value| f64::from(value)).sum::<f64>() / map.len().max(1) as f64;
        let floor = if mean > 0.0 { 1e-6 * mean } else { 1.0 };
        let total = (mean + floor) * map.len() as f64;
        map.iter().map(|&value| (f64::from(value) + floor) / total).collect()
    };
    distribution(a).iter().zip(distribution(b)).map(|(a, b)| (a - b) * (a / b).ln()).sum()
}

/// How two words lie to each other that nothing was said of. Whether one lies inside the other is
/// told only where the prompt states it: boxes of things side by side may lie in each other.
fn relations_of(subject: &Layout, object: &Layout) -> Vec<Direction> {
    let relations = [Direction::LeftOf, Direction::Above];
    relations.into_iter().filter(|&relation| holds(relation, subject, object).0 == Some(true)).collect()
}

/// Whether `relation` holds (absent: too close to call), and the offset along its axis.
pub(super) fn holds(relation: Direction, subject: &Layout, object: &Layout) -> (Option<bool>, Option<f32>) {
    let (Some(s), Some(o)) = (subject.centroid, object.centroid) else { return (None, None) };
    let clear = |offset: f32, wanted: f32| (offset.abs() >= APART).then_some(offset * wanted > 0.0);
    match relation {
        Direction::LeftOf => (clear(s.x - o.x, -1.0), Some(s.x - o.x)),
        Direction::RightOf => (clear(s.x - o.x, 1.0), Some(s.x - o.x)),
        Direction::Above => (clear(s.y - o.y, -1.0), Some(s.y - o.y)),
        Direction::Below => (clear(s.y - o.y, 1.0), Some(s.y - o.y)),
        Direction::Inside => {
            let (Some(s), Some(o)) = (subject.bounds, object.bounds) else { return (None, None) };
            let width = (s.right.min(o.right) - s.left.max(o.left)).max(0.0);
            let height = (s.bottom.min(o.bottom) - s.top.max(o.top)).max(0.0);
            let own = (s.right - s.left) * (s.bottom - s.top);
            let smaller = own < (o.right - o.left) * (o.bottom - o.top);
            (Some(smaller && width * height >= WITHIN * own), None)
        }
    }
}

fn stated(claim: &Claim, layouts: &[Layout], names: &[String]) -> Stated {
    let (agrees, offset) = holds(claim.relation, &layouts[claim.subject], &layouts[claim.object]);
    let claim = Relation {
        subject: names[claim.subject].clone(),
        relation: claim.relation,
        object: names[claim.object].clone(),
    };
    Stated { claim, agrees, offset }
}

/// Each adjective against every thing: all content words that set no scene, and the nouns that are
/// bound to an adjective.
fn leakage(maps: &Heatmaps, names: &[String], bindings: &[(usize, usize)], roles: &[Role]) -> Vec<Leakage> {
    let bound = |word: usize| bindings.iter().any(|&(_, noun)| noun == word);
    let thing = |word: usize| is_thing(roles[word], &maps.chosen[word].text) || bound(word);
    let nouns: Vec<usize> = (0..names.len()).filter(|&word| thing(word)).collect();
    let leak = |&(adjective, noun): &(usize, usize)| {
        let to = |other: usize| symmetric_kl(maps.word(adjective), maps.word(other)) as f32;
        let own = to(noun);
        let others = nouns.iter().filter(|&&other| other != noun && other != adjective);
        let others: Vec<Distance> =
            others.map(|&other| Distance { noun: names[other].clone(), divergence: to(other) }).collect();
        let nearest = others.iter().min_by(|a, b| a.divergence.total_cmp(&b.divergence));
        let follows = nearest.filter(|other| other.divergence < own).map_or(&names[noun], |other| &other.noun).clone();
        Leakage { adjective: names[adjective].clone(), noun: names[noun].clone(), own, others, follows }
    };
    bindings.iter().map(leak).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Maps of one cell each on a 4 x 8 grid, over two steps.
    fn maps(words: &[(&str, usize, f32)]) -> Heatmaps {
        let grid = Grid::new(4, 8);
        let map = |&(_, cell, value): &(&str, usize, f32)| (0..32).map(move |at| if at == cell { value } else { 0.0 });
        let chosen = words.iter().enumerate().map(|(index, (text, ..))| WordInfo {
            text: (*text).into(),
            start: 0,
            end: 0,
            tokens: vec![index + 1],
            occurrence: 1,
        });
        Heatmaps {
            grid,
            steps: 2,
            tokens: vec![0.0; (words.len() + 2) * 32],
            words: words.iter().flat_map(map).collect(),
            chosen: chosen.collect(),
            shares: vec![0.1; words.len() + 3],
            sites: vec![0],
            ..Heatmaps::default()
        }
    }

    #[test]
    fn a_stated_relation_is_checked() {
        let of = |apple: usize, frog: usize| {
            let words = [("apple", apple, 1.0), ("left", 0, 0.1), ("of", 0, 0.1), ("frog", frog, 1.0)];
            facts(&maps(&words), &Context::default()).stated.remove(0)
        };
        assert_eq!((of(0, 7).agrees, of(0, 7).offset), (Some(true), Some(-0.875)));
        assert_eq!(of(7, 0).agrees, Some(false));
        assert_eq!(of(0, 8).agrees, None, "one above the other: too close to call");
    }

    #[test]
    fn a_comma_ends_what_is_stated() {
        let text = "frog left of apple, house";
        let words = [("frog", 0, 1.0), ("left", 1, 0.1), ("of", 1, 0.1), ("apple", 7, 1.0), ("house", 8, 1.0)];
        let mut maps = maps(&words);
        for word in &mut maps.chosen {
            word.start = text.find(&word.text).unwrap();
            word.end = word.start + word.text.len();
        }
        let said = |text: &str| facts(&maps, &Context { text, ..Context::default() }).sentences();
        assert_eq!(said(text), ["frog left of apple, as the prompt says"]);
        assert_eq!(said(""), ["the prompt says frog left of house; the maps are too close to call"]);
    }

    #[test]
    fn of_joint_attention_the_bound_says_nothing() {
        let mut maps = maps(&[("cat", 3, 0.18)]);
        maps.tokens = vec![1.0; maps.tokens.len()];
        let told = |maps: &Heatmaps| facts(maps, &Context::default()).words[0].neglected;
        assert_eq!(told(&maps), Some(true));
        maps.image_share = 0.6;
        assert_eq!(told(&maps), None);
    }

    #[test]
    fn relations_between_things_are_told_in_one_direction() {
        let found =
            facts(&maps(&[("dog", 31, 1.0), ("cat", 0, 1.0), ("beach", 16, 1.0)]), &Context::default()).relations;
        let text = |lies: &Relation| format!("{} {} {}", lies.subject, lies.relation.words(), lies.object);
        let found: Vec<_> = found.iter().map(text).collect();
        assert_eq!(found, ["cat left of dog", "cat above dog"]);
    }

    #[test]
    fn a_thing_that_is_looked_for_everywhere_alike_is_neglected() {
        let words =
            [("a", 0, 0.4), ("cat", 3, 0.18), ("and", 1, 0.2), ("red", 5, 0.1), ("dog", 9, 0.22), ("beach", 9, 0.1)];
        let mut maps = maps(&words);
        // Attention of every token: 1 everywhere, and at one cell `top`, whose contrast is `top`
        // over nearly 1.
        let one = |top: f32| (0..32).map(move |at| if at == 7 { top } else { 1.0 });
        maps.tokens = [9.0, 9.0, 4.0, 9.0, 1.0, 12.0, 1.0, 9.0].into_iter().flat_map(one).collect();
        let found = facts(&maps, &Context::default());
        let neglected: Vec<_> = found.words.iter().map(|word| word.neglected).collect();
        // Neither fillers, colours nor scenes are judged.
        assert_eq!(neglected, [None, Some(true), None, None, Some(false), None]);
        assert!((found.words[1].contrast.unwrap() - 4.0 * 32.0 / 35.0).abs() < 1e-5);
        assert!(found.sentences()[0].starts_with("cat was probably not drawn"), "{:?}", found.sentences());
        // Over a sweep's seeds the fillers are compared with still.
        let sweep = Context { filler_peaks: &[0.1, 0.24, 0.3], ..Context::default() };
        let share = facts(&maps, &sweep).words[1].of_filler_peak.unwrap();
        assert!((share - 0.09 / 0.24).abs() < 1e-6, "{share}");
    }

    #[test]
    fn a_word_is_placed_when_it_stays() {
        let step = |cell| maps(&[("cat", cell, 1.0)]);
        let placed = |cells: &[usize]| {
            let steps: Vec<_> = cells.iter().map(|&cell| step(cell)).collect();
            facts(&step(0), &Context { steps: &steps, ..Context::default() }).words[0].placed
        };
        assert_eq!(placed(&[0, 0, 0]), Some(Placed { step: 1, steps: 3 }));
        assert_eq!(placed(&[31, 0, 0]), Some(Placed { step: 2, steps: 3 }));
        assert_eq!(placed(&[0, 31, 0]), Some(Placed { step: 3, steps: 3 }));
        assert_eq!(placed(&[]), None);
    }

    #[test]
    fn an_adjective_follows_the_nearest_noun() {
        let words = |red: usize| [("red", red, 1.0), ("apple", 3, 1.0), ("and", 9, 0.1), ("frog", 20, 1.0)];
        let leak = |red| facts(&maps(&words(red)), &Context::default()).leakage.remove(0);
        assert!(!leak(3).leaks());
        assert_eq!((leak(20).follows.as_str(), leak(20).own > leak(20).others[0].divergence), ("frog", true));
        let says = |red| facts(&maps(&words(red)), &Context::default()).sentences();
        assert_eq!(says(20), ["red may colour frog rather than apple"]);
        assert!(says(3).is_empty() && says(9).is_empty(), "like no thing at all: nothing is said");
        let bound = facts(&maps(&words(20)), &Context { bind: Some(&[(0, 3)]), ..Context::default() });
        assert!(!bound.leakage[0].leaks());
    }

    #[test]
    fn a_scene_is_no_target_whatever_describes_it() {
        let words = |scene: &'static str, described: &'static str| {
            [
                ("red", 20, 1.0),
                ("apple", 3, 1.0),
                ("on", 9, 0.1),
                ("the", 9, 0.1),
                (described, 20, 1.0),
                (scene, 20, 1.0),
            ]
        };
        for (described, scene) in [("sunny", "beach"), ("green", "grass"), ("blue", "sky"), ("white", "snow")] {
            let found = facts(&maps(&words(scene, described)), &Context::default());
            assert!(found.sentences().is_empty(), "{described} {scene}: {:?}", found.sentences());
            assert_eq!(found.leakage.len(), 1, "of {scene} nothing is said");
            assert!(found.leakage[0].others.is_empty(), "{scene} is no target");
        }
        // What a user binds is taken as it is.
        let bound =
            facts(&maps(&words("sky", "blue")), &Context { bind: Some(&[(0, 1), (4, 5)]), ..Context::default() });
        assert_eq!(bound.leakage.len(), 2);
        let below = [("frog", 3, 1.0), ("under", 9, 0.1), ("the", 9, 0.1), ("sky", 20, 1.0)];
        assert!(facts(&maps(&below), &Context::default()).stated.is_empty(), "a scene lies nowhere");
    }

    #[test]
    fn of_what_was_not_drawn_nothing_else_is_said() {
        let words = [("red", 20, 1.0), ("apple", 3, 1.0), ("left", 9, 0.1), ("of", 9, 0.1), ("frog", 20, 1.0)];
        let mut found = facts(&maps(&words), &Context::default());
        assert_eq!(found.sentences().len(), 2, "{:?}", found.sentences());
        let frog = found.words.iter_mut().find(|word| word.word == "frog").unwrap();
        (frog.neglected, frog.contrast) = (Some(true), Some(5.46));
        let [only] = &found.sentences()[..] else { panic!("{:?}", found.sentences()) };
        assert!(only.contains("more than 5.46 times") && only.contains("reaches 5.5 and more"), "{only}");
    }

    #[test]
    fn overlap_and_spread() {
        assert_eq!(overlap(&[1.0, 1.0, 0.0], &[0.0, 3.0, 1.0]), 0.5);
        assert_eq!(overlap(&[1.0], &[0.0]), 0.0);
        assert_eq!(spread(&[0.0, 1.0, 0.0, 0.0], Grid::new(2, 2)), Some(0.0));
        assert_eq!(spread(&[0.0; 4], Grid::new(2, 2)), None);
    }
}
