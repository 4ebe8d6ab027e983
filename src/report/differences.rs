//! What two runs differ in, in sentences: settings first, then which words moved, grew or are looked at more.

use super::compare::{Match, Pair, align};
use super::data::{LayoutRow, ReportData, Start};
use crate::facts::lexicon::{self, Role};

/// A word moved when its centre did so by this much, as a share of the image's sides; it is as much as makes one thing stand left of
/// another in the facts of a run.
const MOVED: f32 = crate::facts::APART;

/// A word is looked at more when its share of the attention grew by this factor.
const MORE: f32 = 1.25;

/// Settings from which other weights follow.
const WEIGHTS: [&str; 5] = ["checkpoint", "LoRA", "embedding", "config", "variant"];

/// Words that are told of, at most.
const TOLD: usize = 6;

/// The settings in which the runs differ and what became of the words that both prompts have, a sentence each.
pub fn differences(a: &ReportData, b: &ReportData) -> Vec<String> {
    let mut sentences = Vec::new();
    if a.prompt != b.prompt {
        sentences.push("The prompts differ; below are the words that both have.".to_owned());
    }
    let differing: Vec<[String; 3]> =
        settings(&a.settings, &b.settings).into_iter().filter(|[name, a, b]| a != b && name != "warning").collect();
    let explains = |[name, ..]: &[String; 3]| WEIGHTS.contains(&name.as_str());
    // The digest follows from the checkpoint and what changes it; only where those have the same names is it news.
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
    let names = |data: &ReportData| data.words.iter().map(|word| word.text.clone()).collect::<Vec<_>>();
    let both = align(&names(a), &names(b)).into_iter().filter(|pair| pair.kind == Match::Same);
    let mut words: Vec<Change> = both.filter_map(|pair| Change::of(pair, a, b)).collect();
    let words_in_both = words.len();
    if words.is_empty() {
        return sentences;
    }
    // Things and places before little words, which follow what stands beside them; then by how far they moved.
    words.sort_by(|p, q| p.filler.cmp(&q.filler).then(q.distance().total_cmp(&p.distance())));
    let (told, rest): (Vec<&Change>, Vec<&Change>) = words.iter().partition(|word| !word.filler && word.tells());
    sentences.extend(told.iter().take(TOLD).map(|word| word.sentence()));
    let followed: Vec<&str> = rest.iter().filter(|word| word.moved()).map(|word| word.label.as_str()).collect();
    if !followed.is_empty() {
        sentences.push(format!("Little words that moved too: {}.", followed.join(", ")));
    }
    let (more, still) = (told.len().saturating_sub(TOLD), words.iter().filter(|word| !word.moved()).count());
    if more > 0 {
        sentences.push(format!("{more} more words changed; the table has them."));
    }
    if still > 0 {
        let words = if still == 1 { "word lies" } else { "words lie" };
        sentences
            .push(format!("{still} of {} {words} where before, within {MOVED} of the image's sides.", words_in_both));
    }
    sentences
}

/// The mask's bytes, where only a part was drawn.
fn drawn(start: &Start) -> Option<&[u8]> {
    start.mask.as_ref().map(|mask| mask.bytes.as_slice())
}

/// Settings of both runs by name, in order: `[name, a, b]`.
pub(super) fn settings(a: &[(String, String)], b: &[(String, String)]) -> Vec<[String; 3]> {
    let value = |list: &[(String, String)], name: &str| {
        list.iter().find(|(key, _)| key == name).map_or_else(|| "none".to_string(), |(_, value)| value.clone())
    };
    let mut names: Vec<&String> = a.iter().map(|(name, _)| name).collect();
    names.extend(b.iter().map(|(name, _)| name).filter(|name| !a.iter().any(|(known, _)| known == *name)));
    names.into_iter().map(|name| [name.clone(), value(a, name), value(b, name)]).collect()
}

/// A word of both prompts, first in A and then in B.
struct Change {
    label: String,
    filler: bool,
    centres: [[f32; 2]; 2],
    areas: [f32; 2],
    shares: [f32; 2],
}

impl Change {
    /// `None` where a run has no layout of the word, or its map is empty.
    fn of(pair: Pair, a: &ReportData, b: &ReportData) -> Option<Self> {
        let (at_a, at_b) = (pair.a?, pair.b?);
        let row = |data: &ReportData, word: usize| -> Option<LayoutRow> {
            data.layout.iter().find(|row| row.word == word).cloned()
        };
        let (a_row, b_row) = (row(a, at_a)?, row(b, at_b)?);
        let word = &a.words[at_a];
        Some(Self {
            label: if word.occurrence > 1 { format!("{}#{}", word.text, word.occurrence) } else { word.text.clone() },
            filler: lexicon::role(&word.text) == Role::Filler,
            centres: [a_row.centre?, b_row.centre?],
            areas: [a_row.area, b_row.area],
            shares: [a_row.share, b_row.share],
        })
    }

    /// How far the centre moved, along the axis along which it moved more.
    fn distance(&self) -> f32 {
        let [dx, dy] = self.offset();
        dx.abs().max(dy.abs())
    }

    fn offset(&self) -> [f32; 2] {
        let [from, to] = self.centres;
        [to[0] - from[0], to[1] - from[1]]
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
        let [from, to] = self.centres;
        let along = [(dx, "width", ["left", "right"]), (dy, "height", ["up", "down"])];
        let steps: Vec<String> = along
            .into_iter()
            .filter(|(by, ..)| by.abs() >= 0.5 * MOVED)
            .map(|(by, side, ways)| format!("{:.2} of the {side} {}", by.abs(), ways[usize::from(by > 0.0)]))
            .collect();
        let moved = match self.moved() {
            true => format!(
                "moved by {} (centre {:.2}, {:.2} in A; {:.2}, {:.2} in B)",
                steps.join(" and "),
                from[0],
                from[1],
                to[0],
                to[1]
            ),
            false => "stays where it was".to_owned(),
        };
        let percent = |share: f32| format!("{:.1} %", 100.0 * share);
        let share = match self.looked_at() {
            Some(how) => {
                format!("is looked at {how} (share {} in A, {} in B)", percent(self.shares[0]), percent(self.shares[1]))
            }
            None => format!("holds {} of the attention ({} in A)", percent(self.shares[1]), percent(self.shares[0])),
        };
        let [a, b] = self.areas;
        let area = format!("; its area is {} of the image ({} in A)", percent(b), percent(a));
        format!(
            "“{}” {moved} and {share}{}.",
            self.label,
            if b >= MORE * a || a >= MORE * b { area } else { String::new() }
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(centres: [[f32; 2]; 2], shares: [f32; 2]) -> Change {
        Change { label: "frog".into(), filler: false, centres, areas: [0.1, 0.1], shares }
    }

    #[test]
    fn a_word_that_moved_is_told_of_with_its_ways() {
        let moved = change([[0.6, 0.5], [0.25, 0.57]], [0.03, 0.03]);
        let says = moved.sentence();
        assert!(says.contains("“frog” moved by 0.35 of the width left and 0.07 of the height down"), "{says}");
        assert!(says.contains("centre 0.60, 0.50 in A; 0.25, 0.57 in B"), "{says}");
        assert!(!change([[0.5, 0.5], [0.55, 0.5]], [0.03, 0.03]).tells());
        let more = change([[0.5, 0.5], [0.55, 0.5]], [0.02, 0.03]);
        assert!(more.tells() && more.sentence().contains("stays where it was and is looked at more"));
        assert!(change([[0.5, 0.5], [0.5, 0.5]], [0.03, 0.02]).sentence().contains("looked at less"));
    }

    #[test]
    fn settings_of_one_run_alone_are_none_in_the_other() {
        let pair = |name: &str, value: &str| (name.to_string(), value.to_string());
        let rows = settings(&[pair("seed", "1")], &[pair("seed", "2"), pair("LoRA", "style")]);
        assert_eq!(rows, [["seed", "1", "2"], ["LoRA", "none", "style"]]);
    }
}
