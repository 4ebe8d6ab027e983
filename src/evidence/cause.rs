//! What must be tested before causes can be told: a causal map of every word that is asked about.

use super::explain::{Ask, Explanation, Redraw};
use super::record::Evidence;
use crate::argument::{BY, RUN};
use crate::facts::lexicon::{Role, role};
use crate::heatmap::Aggregate;
use crate::run::Run;
use crate::trace::WordInfo;
use crate::{Error, Result};

/// The test that gives each of `words` of `run` a causal map, or all that could be drawn where
/// `None`. It is `None` where the run has them all. It cuts as the run's evidence did, so that what
/// that found stays; no image is drawn anew.
///
/// # Errors
/// As [`Evidence::read`] and [`Explanation::new`]. [`Error::Argument`] where that found something
/// that the test would replace, as it is of words and the test of tags.
pub fn missing(run: &Run, how: &Aggregate, words: Option<&[WordInfo]>) -> Result<Option<Explanation>> {
    let known = Evidence::of_run(run)?.map(|(known, _)| known);
    let wanted: Vec<WordInfo> = match words {
        Some(words) => words.to_vec(),
        None => {
            let mut all = run.trace()?.about.prompt.words;
            all.retain(|word| role(&word.text) != Role::Filler);
            all
        }
    };
    let has = |word: &WordInfo| {
        known.as_ref().is_some_and(|known| known.words.iter().any(|found| found.word == word.label()))
    };
    if !wanted.is_empty() && wanted.iter().all(has) {
        return Ok(None);
    }
    let mut ask =
        Ask { aggregate: how.clone(), redraw: Redraw::Never, words: words.map(<[_]>::to_vec), ..Ask::default() };
    if let Some(known) = known {
        ask = ask.like(&known);
    }
    let explanation = Explanation::new(run.clone(), ask)?;
    // A question takes nothing away: what was drawn for `explain` may have taken hours.
    if let Some(replaced) = explanation.replaces() {
        let (by, name) = (BY.option(), run.record.by.name());
        let reason = format!(
            "a test by {name} would replace its tests of {replaced}; `attnmap explain RUN {by} {name}` does that, \
            or ask in the words that were tested"
        );
        return Err(Error::argument(RUN, reason));
    }
    Ok(Some(explanation))
}
