//! What one explanation finds joins what others found before: words, maps, pictures.

use super::record::{Evidence, ShapleyOfWords};
use super::redrawn::{self, Counterfactual, Dead, Reweighted};
use std::path::Path;

impl Evidence {
    /// Takes over from `known`, which tested in the same way, what this one has not. That is words
    /// with their causal maps, and pictures of other words. `causal` are this one's causal maps and
    /// `maps` those of `known`. `order` has the prompt's words.
    pub(super) fn keep(&mut self, known: Self, (causal, maps): (&mut Vec<Vec<f32>>, Vec<Vec<f32>>), order: &[String]) {
        let tested: Vec<String> = self.words.iter().map(|word| word.word.clone()).collect();
        let others = known.words.into_iter().zip(maps).filter(|(word, _)| !tested.contains(&word.word));
        let own = std::mem::take(&mut self.words).into_iter().zip(std::mem::take(causal));
        let mut all: Vec<_> = own.chain(others).collect();
        let place = |name: &str| order.iter().position(|word| word == name);
        all.sort_by_key(|(word, _)| place(&word.word));
        (self.words, *causal) = all.into_iter().unzip();

        self.shapley = self.shapley.take().or(known.shapley);
        self.sanity = self.sanity.take().or(known.sanity);
        let drawn: Vec<String> = self.counterfactuals.iter().map(|found| found.word.clone()).collect();
        self.counterfactuals.extend(known.counterfactuals.into_iter().filter(|found| !drawn.contains(&found.word)));
        self.counterfactuals.sort_by_key(|found| place(&found.word));
        let have: Vec<String> = self.reweighted.iter().map(|found: &Reweighted| found.word.clone()).collect();
        self.reweighted.extend(known.reweighted.into_iter().filter(|found| !have.contains(&found.word)));
    }

    /// Every picture that it names, from the run folder.
    pub(super) fn files(&self) -> Vec<String> {
        let without = self.counterfactuals.iter();
        let without = without.flat_map(|found| [&found.image, &found.difference, &found.region, &found.strip]);
        let scaled = self.reweighted.iter().flat_map(|found| found.images.iter().chain([&found.strip]));
        let causal = self.words.iter().filter_map(|word| word.picture.as_ref());
        let dead = self.dead.iter().filter_map(|dead| dead.strip.as_ref());
        without.chain(scaled).chain(causal).chain(dead).cloned().collect()
    }

    /// Puts into words what the parts beside the words' own found, and lists their pictures.
    pub(super) fn describe(&mut self) {
        let dead = self.dead.as_ref().map(|dead| dead.sentences(self.thresholds.least_changed));
        let sanity = self.sanity.as_ref().map(|sanity| sanity.sentences(self.thresholds.shown));
        let shares = self.shapley.as_ref().map(ShapleyOfWords::sentences);
        self.notes = sanity.into_iter().chain(shares).chain(dead).flatten().collect();
        let without = self.counterfactuals.iter().map(Counterfactual::figure);
        let dead = self.dead.as_ref().and_then(Dead::figure);
        self.figures = without.chain(self.reweighted.iter().map(Reweighted::figure)).chain(dead).collect();
    }
}

/// Removes the pictures `before` of the run in `folder` that are not among those `after`.
pub(super) fn remove_replaced(folder: &Path, before: &[String], after: &[String]) {
    let own = |file: &&String| {
        let mut parts = Path::new(file.as_str()).components();
        let inside = parts.next().is_some_and(|first| redrawn::FOLDERS.iter().any(|own| first.as_os_str() == *own));
        inside && parts.all(|part| matches!(part, std::path::Component::Normal(_)))
    };
    for file in before.iter().filter(own).filter(|file| !after.contains(file)) {
        let _ = std::fs::remove_file(folder.join(file));
    }
}
