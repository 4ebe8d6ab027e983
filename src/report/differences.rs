//! What two runs differ in, in sentences: settings first, then which words moved, grew or are
//! looked at more.

use super::align::{Match, Pair, align};
use super::data::{LayoutRow, PageWord, ReportData, StartPicture};
use crate::facts::lexicon::{self, Role};
use crate::trace::{WordInfo, normalized};

/// A word moved when its centre did so by this much, as a share of the image's sides. It is as much
/// as makes one thing stand left of another in the facts of a run.
const MOVED: f32 = crate::facts::APART;

/// A word is looked at more when its share of the attention grew by this factor.
const MORE: f32 = 1.25;

/// Settings from which other weights follow.
const WEIGHTS: [&str; 5] = ["checkpoint", "LoRA", "embedding", "config", "variant"];

/// A map whose entropy is at least this lies all over the image (1 is the same everywhere): it has
/// no place to move from.
const DIFFUSE: f32 = 0.95;

/// Words that are told of, at most.
const TOLD: usize = 6;

/// The words of both runs that correspond. Of `words` alone, as
/// [`compare_runs`](super::compare_runs) names them, where some are chosen.
pub(super) fn pairs(a: &ReportData, b: &ReportData, words: Option<&[String]>) -> Vec<Pair> {
    let texts = |data: &ReportData| data.words.iter().map(|word| word.text.clone()).collect::<Vec<_>>();
    let mut pairs = align(&texts(a), &texts(b));
    if let Some(words) = words {
        let chosen =
            |data: &ReportData, at: Option<usize>| at.is_some_and(|at| words.contains(&name_of(&data.words[at])));
        pairs.retain(|pair| chosen(a, pair.a) || chosen(b, pair.b));
    }
    pairs
}

/// What a word is called that is chosen: its label, in lower case.
pub(super) fn name_of(word: &PageWord) -> String {
    normalized(&WordInfo::label_of(&word.text, word.occurrence))
}

/// The settings in which the runs differ, the words in which their prompts do, and what became of
/// the words that both prompts have, a sentence each. The last are of `words` alone, as
/// [`compare_runs`](super::compare_runs) names them, where some are chosen.
pub fn differences(a: &ReportData, b: &ReportData, words: Option<&[String]>) -> Vec<String> {
    let mut sentences = Vec::new();
    if a.prompt != b.prompt {
        sentences.push(reworded(a, b, &pairs(a, b, None)));
    }
    let differing: Vec<[String; 3]> =
        settings(&a.settings, &b.settings).into_iter().filter(|[name, a, b]| a != b && name != "warning").collect();
    let explains = |[name, ..]: &[String; 3]| WEIGHTS.contains(&name.as_str());
    // The digest follows from the checkpoint and what changes it; only where those have the same
    // names is it news.
    let (digest, rest): (Vec<_>, Vec<_>) = differing.iter().partition(|[name, ..]| name == "digest");
    let mut differing: Vec<String> = rest.iter().map(|[name, a, b]| format!("{name} {a} in A, {b} in B")).collect();
    if let ([[_, a, b]], false) = (&digest[..], rest.iter().any(|row| explains(row))) {
        differing.push(format!("the weights have the digest {a} in A, {b} in B"));
    }
    if let (Some(a), Some(b)) = (&a.start, &b.start)
        && a.name == b.name
        && (a.picture.bytes != b.picture.bytes || drawn(a) != drawn(b))
    {
        differing.push(format!("{} was another picture or mask in A than in B", a.name));
    }
    sentences.push(match &differing[..] {
        [] if a.prompt == b.prompt => "Both were made in the same way.".to_owned(),
        [] => "Nothing else differs in how they were made.".to_owned(),
        some => format!("Made differently: {}.", some.join("; ")),
    });
    // What differs between them may be what the maps are of, and nothing that the runs did.
    if rest.iter().any(|[name, ..]| name == "maps") {
        sentences.push(
            "Their maps are of different kinds, so words are not compared; with one kind for both they are.".into(),
        );
        return sentences;
    }
    let changes = pairs(a, b, words).into_iter().filter_map(|pair| WordChange::of(pair, a, b));
    let (absent, compared): (Vec<WordChange>, Vec<WordChange>) = changes.partition(|word| word.absent);
    sentences.extend(of_words(compared));
    if !absent.is_empty() {
        let absent: Vec<String> = absent.iter().map(|word| format!("“{}”", word.label)).collect();
        let absent = absent.join(", ");
        sentences.push(format!("Of what was probably not drawn in A or in B nothing more is said: {absent}."));
    }
    sentences
}

/// What became of `words`, a sentence each.
fn of_words(mut words: Vec<WordChange>) -> Vec<String> {
    let mut sentences = Vec::new();
    // The largest change first; little words follow what stands beside them and come together at
    // the end.
    words.sort_by(|p, q| p.filler.cmp(&q.filler).then(q.size().total_cmp(&p.size())));
    let (told, rest): (Vec<&WordChange>, Vec<&WordChange>) =
        words.iter().partition(|word| !word.filler && word.tells());
    sentences.extend(told.iter().take(TOLD).map(|word| word.sentence()));
    let followed: Vec<&WordChange> = rest.into_iter().filter(|word| word.moved()).collect();
    if !followed.is_empty() {
        sentences.push(format!("Little words that moved too: {}.", labels(followed)));
    }
    let more = told.len().saturating_sub(TOLD);
    if more > 0 {
        sentences.push(format!("{more} more words changed; the table has them."));
    }
    let placed: Vec<&WordChange> = words.iter().filter(|word| word.has_places()).collect();
    let still = placed.iter().filter(|word| !word.moved()).count();
    if still > 0 {
        let word = if placed.len() == 1 { "word" } else { "words" };
        let lie = if still == 1 { "lies" } else { "lie" };
        let within = format!("within {:.0} % of the image's sides", 100.0 * MOVED);
        sentences.push(format!("{still} of {} {word} {lie} where before, {within}.", placed.len()));
    }
    if words.iter().any(|word| !word.one_threshold) {
        sentences.push(
            "Areas and centres begin at different thresholds, so whether words moved is not told; with one threshold \
             for both it is."
                .into(),
        );
    }
    let diffuse: Vec<&WordChange> = words.iter().filter(|word| word.diffuse).collect();
    if !diffuse.is_empty() {
        let diffuse = labels(diffuse);
        sentences.push(format!("Spread too evenly to say where they lie or whether they moved: {diffuse}."));
    }
    sentences
}

/// The names of `words` in a list.
fn labels<'a>(words: impl IntoIterator<Item = &'a WordChange>) -> String {
    words.into_iter().map(|word| word.label.as_str()).collect::<Vec<_>>().join(", ")
}

/// What stands in one prompt and not in the other, whose words are aligned as `pairs`.
fn reworded(a: &ReportData, b: &ReportData, pairs: &[Pair]) -> String {
    let of =
        |data: &ReportData, at: Option<usize>| at.map_or_else(String::new, |at| format!("“{}”", data.words[at].text));
    let mut parts = Vec::new();
    let replaced = pairs.iter().filter(|pair| pair.kind == Match::Replaced);
    parts.extend(replaced.map(|pair| format!("{} became {}", of(a, pair.a), of(b, pair.b))));
    let only = |kind: Match| -> Vec<String> {
        let pairs = pairs.iter().filter(|pair| pair.kind == kind);
        pairs.map(|pair| if pair.a.is_some() { of(a, pair.a) } else { of(b, pair.b) }).collect()
    };
    for (kind, side) in [(Match::OnlyA, "A"), (Match::OnlyB, "B")] {
        let words = only(kind);
        if !words.is_empty() {
            parts.push(format!("only {side} has {}", words.join(", ")));
        }
    }
    match parts.is_empty() {
        true => "The prompts differ in letter case or signs alone.".to_owned(),
        false => format!("The prompts differ: {}.", parts.join("; ")),
    }
}

/// The mask's bytes, where only a part was drawn.
fn drawn(start: &StartPicture) -> Option<&[u8]> {
    start.mask.as_ref().map(|mask| mask.bytes.as_slice())
}

/// Settings of both runs by name, in order: `[name, a, b]`.
pub(super) fn settings(a: &[(String, String)], b: &[(String, String)]) -> Vec<[String; 3]> {
    let value = |list: &[(String, String)], name: &str| {
        list.iter().find(|(key, _)| key == name).map_or_else(|| "none".to_string(), |(_, value)| value.clone())
    };
    // A switch that was not given is off.
    let switched = |value: String, other: &str| match (value.as_str(), other) {
        ("true", _) => "on".to_owned(),
        ("false", _) | ("none", "true" | "false") => "off".to_owned(),
        _ => value,
    };
    let mut names: Vec<&String> = a.iter().map(|(name, _)| name).collect();
    names.extend(b.iter().map(|(name, _)| name).filter(|name| !a.iter().any(|(known, _)| known == *name)));
    let row = |name: &String| {
        let (a, b) = (value(a, name), value(b, name));
        [name.clone(), switched(a.clone(), &b), switched(b, &a)]
    };
    names.into_iter().map(row).collect()
}

/// A word of both prompts, or a word and what stands in its place, first in A and then in B.
struct WordChange {
    label: String,
    filler: bool,
    /// Whether it is a thing that was probably not drawn in one of them.
    absent: bool,
    /// Whether either map lies all over the image.
    diffuse: bool,
    /// Whether areas, and the centres of them, begin at one share of a map's top in both.
    one_threshold: bool,
    centres: [[f32; 2]; 2],
    areas: [f32; 2],
    shares: [f32; 2],
    /// Width and height of the image in pixels.
    pixels: [f32; 2],
}

impl WordChange {
    /// `None` for what stands in one prompt alone, and where a run has no layout of the word, or
    /// its map is empty.
    fn of(pair: Pair, a: &ReportData, b: &ReportData) -> Option<Self> {
        let (at_a, at_b) = (pair.a?, pair.b?);
        let row = |data: &ReportData, word: usize| -> Option<LayoutRow> {
            data.layout.iter().find(|row| row.word == word).cloned()
        };
        let (a_row, b_row) = (row(a, at_a)?, row(b, at_b)?);
        let named = |data: &ReportData, at: usize| {
            let word = &data.words[at];
            WordInfo::label_of(&word.text, word.occurrence)
        };
        let (old, new) = (named(a, at_a), named(b, at_b));
        let role = |data: &ReportData, at: usize| lexicon::role(&data.words[at].text) == Role::Filler;
        Some(Self {
            label: if pair.kind == Match::Replaced { format!("{old} → {new}") } else { old },
            filler: role(a, at_a) && role(b, at_b),
            absent: a_row.not_drawn || b_row.not_drawn,
            diffuse: a_row.entropy.max(b_row.entropy) >= DIFFUSE,
            one_threshold: a.threshold == b.threshold,
            centres: [a_row.centre?, b_row.centre?],
            areas: [a_row.area, b_row.area],
            shares: [a_row.share, b_row.share],
            pixels: [b.image.width as f32, b.image.height as f32],
        })
    }

    /// Whether it has a place in both that can be compared, and an area.
    fn has_places(&self) -> bool {
        self.one_threshold && !self.diffuse
    }

    /// How far the centre moved, along the axis along which it moved more, as a share of that side.
    fn distance(&self) -> f32 {
        let [dx, dy] = self.offset();
        if self.has_places() { dx.abs().max(dy.abs()) } else { 0.0 }
    }

    fn offset(&self) -> [f32; 2] {
        let [from, to] = self.centres;
        [to[0] - from[0], to[1] - from[1]]
    }

    /// How large the change is, in units of what counts as one: of a move, or of a share.
    fn size(&self) -> f32 {
        let [a, b] = self.shares.map(|share| share.max(1e-6));
        (self.distance() / MOVED).max((b / a).ln().abs() / MORE.ln())
    }

    fn moved(&self) -> bool {
        self.distance() >= MOVED
    }

    fn looked_at(&self) -> Option<&'static str> {
        let [a, b] = self.shares;
        if b >= MORE * a {
            Some("more")
        } else if a >= MORE * b {
            Some("less")
        } else {
            None
        }
    }

    fn tells(&self) -> bool {
        self.moved() || self.looked_at().is_some()
    }

    fn sentence(&self) -> String {
        let [dx, dy] = self.offset();
        let along = [(dx, self.pixels[0], ["left", "right"]), (dy, self.pixels[1], ["up", "down"])];
        let steps: Vec<String> = along
            .into_iter()
            .filter(|(by, ..)| by.abs() >= 0.5 * MOVED)
            .map(|(by, side, ways)| {
                let (way, by) = (ways[usize::from(by > 0.0)], by.abs());
                format!("{way} by {:.0} px ({:.0} %)", by * side, 100.0 * by)
            })
            .collect();
        // With one decimal, so that the points are the difference of what stands beside them.
        let percent = |share: f32| format!("{:.1} %", 100.0 * share);
        let [before, after] = self.shares;
        let points = 100.0 * (after - before);
        let share = match self.looked_at() {
            Some(how) => {
                format!(
                    "is looked at {how}: {points:+.1} points (share {} in A, {} in B)",
                    percent(before),
                    percent(after)
                )
            }
            None => format!("holds {} of the attention ({} in A)", percent(after), percent(before)),
        };
        let place = match (self.moved(), self.has_places()) {
            (true, _) => format!("moved {} and ", steps.join(" and ")),
            (false, true) => "stays where it was and ".to_owned(),
            (false, false) => String::new(),
        };
        let [a, b] = self.areas;
        let grew = self.has_places() && (b >= MORE * a || a >= MORE * b);
        let area = if grew {
            format!("; its area is {} of the image ({} in A)", percent(b), percent(a))
        } else {
            String::new()
        };
        format!("“{}” {place}{share}{area}.", self.label)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(centres: [[f32; 2]; 2], shares: [f32; 2]) -> WordChange {
        let (label, pixels, areas) = ("frog".into(), [128.0, 64.0], [0.1, 0.1]);
        let (filler, absent, diffuse, one_threshold) = (false, false, false, true);
        WordChange { label, filler, absent, diffuse, one_threshold, centres, areas, shares, pixels }
    }

    #[test]
    fn a_word_that_moved_is_told_of_with_its_ways() {
        let moved = change([[0.6, 0.5], [0.25, 0.57]], [0.03, 0.03]);
        let says = moved.sentence();
        assert!(says.contains("“frog” moved left by 45 px (35 %) and down by 4 px (7 %) and holds 3.0 %"), "{says}");
        assert!(!change([[0.5, 0.5], [0.55, 0.5]], [0.03, 0.03]).tells());
        let more = change([[0.5, 0.5], [0.55, 0.5]], [0.02, 0.03]);
        assert!(more.tells() && more.sentence().contains("stays where it was and is looked at more: +1.0 points"));
        assert!(change([[0.5, 0.5], [0.5, 0.5]], [0.03, 0.02]).sentence().contains("looked at less: -1.0 points"));
    }

    #[test]
    fn a_map_that_lies_everywhere_does_not_move() {
        let diffuse = WordChange { diffuse: true, ..change([[0.6, 0.5], [0.25, 0.5]], [0.03, 0.031]) };
        assert!(!diffuse.moved() && !diffuse.tells());
        let less = WordChange { shares: [0.09, 0.012], ..diffuse };
        assert!(less.tells() && less.sentence().starts_with("“frog” is looked at less: -7.8 points"));
    }

    #[test]
    fn areas_of_two_thresholds_are_not_compared() {
        let shares = [0.02, 0.03];
        let other = || {
            let areas = [0.3, 0.01];
            WordChange { one_threshold: false, areas, ..change([[0.6, 0.5], [0.25, 0.5]], shares) }
        };
        let says = other().sentence();
        assert_eq!(says, "“frog” is looked at more: +1.0 points (share 2.0 % in A, 3.0 % in B).");
        let little = WordChange { label: "of".into(), filler: true, shares: [0.02, 0.02], ..other() };
        let told = of_words(vec![other(), little]);
        let [first, thresholds] = &told[..] else { panic!("{told:?}") };
        assert!(*first == says && thresholds.contains("begin at different thresholds"), "{told:?}");
        assert!(of_words(Vec::new()).is_empty());
    }

    #[test]
    fn the_largest_change_comes_first() {
        let (far, near) =
            (change([[0.9, 0.5], [0.1, 0.5]], [0.03, 0.03]), change([[0.5, 0.5], [0.6, 0.5]], [0.03, 0.03]));
        let share = change([[0.5, 0.5], [0.5, 0.5]], [0.001, 0.09]);
        assert!(share.size() > far.size() && far.size() > near.size());
    }

    #[test]
    fn settings_of_one_run_alone_are_none_in_the_other() {
        let pair = |name: &str, value: &str| (name.to_string(), value.to_string());
        let rows = settings(&[pair("seed", "1")], &[pair("seed", "2"), pair("LoRA", "style")]);
        assert_eq!(rows, [["seed", "1", "2"], ["LoRA", "none", "style"]]);
    }
}
