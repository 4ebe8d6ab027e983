//! What changed from one run to another, in the few words that stand over the pictures.

use super::side::{Side, SideWord};
use crate::evidence::changed_share;
use crate::facts::lexicon::{Role, role};
use crate::report::{Match, Pair, align};
use serde_json::{Value, json};

/// A change of a word's share that is told, in shares of all attention.
const TOLD: f32 = 0.0005;

/// Words that are told of each kind, at most.
const WORDS: usize = 4;

/// The words of both that correspond, and the changes: of the prompt, of the image, of the word
/// whose share changed most.
pub(super) fn changes(a: &Side, b: &Side) -> Value {
    let texts = |side: &Side| side.words.iter().map(|word| word.text.clone()).collect::<Vec<_>>();
    let pairs = align(&texts(a), &texts(b));
    let same_size = a.image.dimensions() == b.image.dimensions();
    let image = same_size.then(|| changed_share(&a.image, &b.image));
    let mut told = reworded(&pairs, a, b);
    match image {
        Some(0.0) => told.push("image the same".into()),
        Some(share) => told.push(format!("image {}", crate::percent(share))),
        None => told.push("images of two sizes".into()),
    }
    // Shares of two kinds of maps differ where nothing changed.
    match a.how == b.how {
        true => told.extend(moved(&pairs, a, b)),
        false => told.push("maps of two kinds".into()),
    }
    json!({"pairs": pairs, "line": told.join(" · "), "image": image})
}

/// The words that were replaced, added and left out.
fn reworded(pairs: &[Pair], a: &Side, b: &Side) -> Vec<String> {
    let name = |words: &[SideWord], at: Option<usize>| at.map(|at| words[at].label()).unwrap_or_default();
    let told = pairs.iter().filter_map(|pair| {
        let (old, new) = (name(&a.words, pair.a), name(&b.words, pair.b));
        match pair.kind {
            Match::Same => None,
            Match::Replaced => Some(format!("{old} → {new}")),
            Match::OnlyA => Some(format!("without {old}")),
            Match::OnlyB => Some(format!("with {new}")),
        }
    });
    let all: Vec<String> = told.collect();
    let more = all.len().saturating_sub(WORDS);
    let more = (more > 0).then(|| format!("{more} more words"));
    all.into_iter().take(WORDS).chain(more).collect()
}

/// The word of both prompts whose share of the attention changed most; fillers follow what stands
/// beside them.
fn moved(pairs: &[Pair], a: &Side, b: &Side) -> Option<String> {
    let both = pairs.iter().filter(|pair| pair.kind == Match::Same);
    let change = |pair: &Pair| Some((&b.words[pair.b?], b.words[pair.b?].share - a.words[pair.a?].share));
    let told = both.filter_map(change).filter(|(word, by)| role(&word.text) != Role::Filler && by.abs() >= TOLD);
    let (word, by) = told.max_by(|(_, p), (_, q)| p.abs().total_cmp(&q.abs()))?;
    let sign = if by < 0.0 { '−' } else { '+' };
    Some(format!("{} {sign}{:.1} points", word.label(), 100.0 * by.abs()))
}
