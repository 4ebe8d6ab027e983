//! The facts of a run's maps: how much a word holds, where and since when, how words lie to each
//! other, what was neglected and what leaked.

use super::lexicon::{self, Claim, Direction, Role};
use super::measures::{NEAR, contrast, filler_peak, highest_filler, holds, is_neglect, overlap, spread, symmetric_kl};
use super::record::{Distance, Facts, Leakage, Placed, Relation, Stated, WordFacts};
use super::things::of_its_things;
use crate::argument::BIND;
use crate::heatmap::{self, Aggregate, Heatmaps, Layout, Point, StepWindow};
use crate::trace::{AttentionKind, Half, Trace, WordInfo, normalized};
use crate::{Error, Result};

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
pub(crate) fn with_marks<'a>(prompt: &str, words: &[&'a WordInfo]) -> (Vec<&'a str>, Vec<usize>) {
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

/// Since when the centroid of `word` lies where it lies at the last of `steps`; `None` without
/// steps, or where its last map is empty.
fn placed(steps: &[Heatmaps], word: usize, threshold: f32) -> Option<Placed> {
    let centroids: Vec<Option<Point>> = steps.iter().map(|maps| maps.layout(word, threshold).centroid).collect();
    let last = (*centroids.last()?)?;
    let near = |point: &Option<Point>| point.is_some_and(|p| (p.x - last.x).hypot(p.y - last.y) <= NEAR);
    let staying = centroids.iter().rev().take_while(|point| near(point)).count();
    Some(Placed { step: centroids.len() - staying + 1, steps: centroids.len() })
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

/// Whether the peak of a word of this kind can tell whether the word was heeded. A probe was not
/// asked of the picture.
fn is_thing(role: Role, word: &str) -> bool {
    role != Role::Probe && lexicon::names_a_thing(word)
}

/// How two words lie to each other that nothing was said of. Whether one lies inside the other is
/// told only where the prompt states it: boxes of things side by side may lie in each other.
fn relations_of(subject: &Layout, object: &Layout) -> Vec<Direction> {
    let relations = [Direction::LeftOf, Direction::Above];
    relations.into_iter().filter(|&relation| holds(relation, subject, object).0 == Some(true)).collect()
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
    use crate::trace::Grid;

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
        // A picture that is there already is drawn by no other seed.
        let [made, there] = [found.sentences(), found.sentences_of_picture()].map(|mut told| told.remove(0));
        assert!(made.ends_with(" with (cat:1.3)"), "{made}");
        assert!(made.starts_with(&there) && there.ends_with("and more)"), "{there}");
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
}
