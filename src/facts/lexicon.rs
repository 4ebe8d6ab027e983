//! A small word list: which words of a prompt only hold it together, which describe, and which
//! state a relation.
//!
//! English only, and a rule rather than a parser: a word of neither list counts as content.
//! `--bind` is the way out where it errs.

use serde::{Deserialize, Serialize};

/// What a word does in a prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Articles, prepositions, conjunctions, auxiliaries, punctuation: nothing that could be drawn.
    Filler,
    /// A colour, size, material, age or mood, or how many.
    Adjective,
    /// Everything else: things, places, styles.
    Content,
    /// Whatever it is, the prompt does not have it.
    Probe,
}

const FILLER: &str = "a an the this that these those some any each every no one \
    of in on at to from by with without into onto for as than near next beside between behind before after around \
along across through \
    over under above below beneath underneath inside outside within upon off up down out left right top bottom front \
back middle \
    and or but not nor so while where when which who whose whom what if then there here \
    is are was were be been being am has have had do does did will would can could should may might must \
    it its he him his she her they them their we us our you your i me my very too also just only more most other \
another";

const ADJECTIVES: &str = "red orange yellow green blue purple violet pink brown black white gray grey golden gold \
silver bronze beige cyan \
    magenta teal turquoise crimson scarlet maroon navy olive indigo ivory tan colorful colourful bright dark pale \
light vivid \
    big small large little tiny huge giant tall short long wide narrow thin thick fat round square flat deep high low \
massive \
    old new young ancient modern vintage rusty broken worn clean dirty wet dry hot cold warm frozen burning empty full \
    wooden metal metallic plastic glass stone leather silk woolen furry fluffy shiny matte smooth rough soft hard \
transparent glowing \
    happy sad angry cute beautiful ugly scary funny sleepy sleeping running flying sitting standing smiling cozy \
stormy sunny foggy snowy \
    striped spotted checkered patterned plain floral";

/// How many things there are. They describe, as adjectives do, and belong to no one thing.
const NUMBERS: &str =
    "two three four five six seven eight nine ten eleven twelve twenty hundred dozen several many few";

/// Words for the scene as a whole: their attention spreads over the image, and its peak says
/// nothing of whether they were heeded.
const SCENES: &str = "beach sea ocean lake river coast shore island jungle forest woods desert snow grass field \
meadow garden park sky space \
    night day dawn dusk sunset sunrise morning noon evening twilight rain storm fog mist winter summer autumn spring \
    masterpiece quality highres absurdres resolution detail details detailed 4k 8k hd uhd \
    city town village street road room kitchen background foreground landscape scenery scene light shadow photo \
photograph picture \
    painting drawing illustration style";

/// Whether `word` names the whole scene, its light, its style or its quality and not a thing in it,
/// by the list above. Of a tag of several words the last tells, as the noun stands there: `on the
/// beach`.
pub fn sets_the_scene(word: &str) -> bool {
    let word = word.to_lowercase();
    let last = word.split_whitespace().next_back().unwrap_or_default();
    SCENES.split_whitespace().any(|entry| entry == last)
}

/// What `word` does, by the lists above; the case does not matter. A tag of several words is what
/// the most telling of them is.
pub fn role(word: &str) -> Role {
    let word = word.to_lowercase();
    let listed = |list: &str| word.split_whitespace().all(|part| list.split_whitespace().any(|entry| entry == part));
    if word.split_whitespace().nth(1).is_some() {
        let roles: Vec<Role> = word.split_whitespace().map(role).collect();
        let has = |role: Role| roles.contains(&role);
        return [Role::Content, Role::Adjective].into_iter().find(|role| has(*role)).unwrap_or(Role::Filler);
    }
    if !word.chars().any(char::is_alphanumeric) || listed(FILLER) {
        Role::Filler
    } else if listed(ADJECTIVES) || is_number(&word) {
        Role::Adjective
    } else {
        Role::Content
    }
}

/// Whether `word` says how many; the case does not matter.
fn is_number(word: &str) -> bool {
    let word = word.to_lowercase();
    NUMBERS.split_whitespace().any(|number| number == word)
}

/// Whether a word or phrase names a thing, of which maps can tell whether and where it was drawn.
/// One of its words is neither a colour nor the like, nor a little word, nor the name of the whole
/// scene.
pub fn names_a_thing(text: &str) -> bool {
    text.split_whitespace().any(|word| role(word) == Role::Content && !sets_the_scene(word))
}

/// How one thing lies to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// Further left in the picture.
    LeftOf,
    /// Further right in the picture.
    RightOf,
    /// Further up.
    Above,
    /// Further down.
    Below,
    /// Within the other's box.
    Inside,
}

impl Direction {
    /// The words, as in `left of`.
    pub fn words(self) -> &'static str {
        match self {
            Self::LeftOf => "left of",
            Self::RightOf => "right of",
            Self::Above => "above",
            Self::Below => "below",
            Self::Inside => "inside",
        }
    }

    /// What holds when this one is turned around; `inside` has none.
    pub fn opposite(self) -> Option<Self> {
        match self {
            Self::LeftOf => Some(Self::RightOf),
            Self::RightOf => Some(Self::LeftOf),
            Self::Above => Some(Self::Below),
            Self::Below => Some(Self::Above),
            Self::Inside => None,
        }
    }
}

/// Phrases that state a relation; of two that match, the longer one is meant.
pub(super) const PHRASES: &[(&str, Direction)] = &[
    ("left of", Direction::LeftOf),
    ("right of", Direction::RightOf),
    ("above", Direction::Above),
    ("over", Direction::Above),
    ("on top of", Direction::Above),
    ("atop", Direction::Above),
    ("below", Direction::Below),
    ("under", Direction::Below),
    ("underneath", Direction::Below),
    ("beneath", Direction::Below),
    ("inside", Direction::Inside),
    ("inside of", Direction::Inside),
];

/// Stands in a list of words for a mark that ends what is said before it: a comma, a full stop, the
/// end of a line.
pub const MARK: &str = ",";

/// Whether `between`, what a prompt has between two words, ends what is said before it. A full stop
/// within a number (`1.3`) does not.
pub(super) fn ends_what_is_said(between: &str) -> bool {
    let marks = [',', ';', '!', '?', '\n', '\u{ff0c}', '\u{3001}', '\u{3002}', '\u{ff1b}', '\u{60c}'];
    between.contains(marks)
        || between.contains("BREAK")
        || between.split('.').skip(1).any(|after| after.starts_with(char::is_whitespace))
}

/// A relation that a prompt states: positions in the list of words that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// The thing that lies somewhere.
    pub subject: usize,
    /// Where.
    pub relation: Direction,
    /// The thing that it is seen from.
    pub object: usize,
    /// The first word of the phrase that states it, and the word after its last.
    pub phrase: [usize; 2],
}

/// What the phrases of a relation become when it is turned around, and words for a place in the
/// picture.
const TURNED: &[(&str, &str)] = &[
    ("left of", "right of"),
    ("right of", "left of"),
    ("above", "below"),
    ("over", "under"),
    ("on top of", "underneath"),
    ("atop", "beneath"),
    ("below", "above"),
    ("under", "over"),
    ("underneath", "on top of"),
    ("beneath", "above"),
    ("left", "right"),
    ("right", "left"),
    ("top", "bottom"),
    ("bottom", "top"),
    ("upper", "lower"),
    ("lower", "upper"),
    ("leftmost", "rightmost"),
    ("rightmost", "leftmost"),
];

/// The opposite of a phrase that states a relation or names a side of the picture; `inside` has
/// none. The case does not matter.
pub fn turned(phrase: &str) -> Option<&'static str> {
    let phrase = phrase.to_lowercase();
    TURNED.iter().find(|(from, _)| *from == phrase).map(|(_, to)| *to)
}

/// Words that go with a phrase before it: `to the` left of.
const BEFORE: [&str; 4] = ["to", "the", "on", "at"];

/// The phrases of `words`, in prompt order, that say where something lies, each once. They are
/// those that state a relation, with the words that lead to them (`to the left of`). Words for a
/// side of the picture (`on the left`) are such phrases too. First word and the word after the last
/// of the core phrase, the one that [`turned`] knows, and of the whole.
pub fn placements(words: &[&str]) -> Vec<([usize; 2], [usize; 2])> {
    let claims = claims(words);
    let within = |at: usize| claims.iter().any(|claim| (claim.phrase[0]..claim.phrase[1]).contains(&at));
    let sides = (0..words.len()).filter(|&at| !within(at) && is_side(words[at])).map(|at| [at, at + 1]);
    let mut cores: Vec<[usize; 2]> = claims.iter().map(|claim| claim.phrase).chain(sides).collect();
    cores.sort_unstable();
    let whole = |core: [usize; 2]| {
        let led = |at: usize| BEFORE.contains(&words[at].to_lowercase().as_str());
        let before = (0..core[0]).rev().take_while(|&at| is_side(words[core[0]]) && led(at)).count();
        [core[0] - before, core[1]]
    };
    cores.into_iter().map(|core| (core, whole(core))).collect()
}

/// Whether `word` alone names a side of the picture.
fn is_side(word: &str) -> bool {
    const SIDES: [&str; 8] = ["left", "right", "top", "bottom", "upper", "lower", "leftmost", "rightmost"];
    SIDES.contains(&word.to_lowercase().as_str())
}

/// The relations that `words`, in prompt order, state. The subject is the nearest content word
/// before the phrase. The object is the next content word after it, or the last of several in a row
/// ("above a fire truck"), up to the next [`MARK`].
pub fn claims(words: &[&str]) -> Vec<Claim> {
    let lower: Vec<String> = words.iter().map(|word| word.to_lowercase()).collect();
    let content = |&index: &usize| role(words[index]) == Role::Content;
    let mut claims = Vec::new();
    let mut at = 0;
    while at < words.len() {
        let matches =
            |phrase: &str| phrase.split(' ').eq(lower[at..].iter().take(phrase.split(' ').count()).map(String::as_str));
        let found = PHRASES.iter().filter(|(phrase, _)| matches(phrase)).max_by_key(|(phrase, _)| phrase.len());
        let Some((phrase, relation)) = found else {
            at += 1;
            continue;
        };
        let end = at + phrase.split(' ').count();
        let subject = (0..at).rev().find(content);
        let object = (end..words.len())
            .take_while(|&index| words[index] != MARK)
            .find(content)
            .map(|first| (first..words.len()).take_while(content).last().unwrap_or(first));
        if let (Some(subject), Some(object)) = (subject, object) {
            claims.push(Claim { subject, relation: *relation, object, phrase: [at, end] });
        }
        at = end;
    }
    claims
}

/// Pairs of an adjective and the noun that it stands before. The noun is the first content word
/// after it with nothing but adjectives between, or the last of several in a row. A [`MARK`] parts
/// them, but for a comma among adjectives that an article begins ("a small, red apple"). Positions
/// in `words`.
pub fn bindings(words: &[&str]) -> Vec<(usize, usize)> {
    let is = |role_wanted: Role| move |&index: &usize| role(words[index]) == role_wanted;
    let adjectives = (0..words.len()).filter(is(Role::Adjective)).filter(|&index| !is_number(words[index]));
    let noun = |adjective: usize| {
        let before = words[..adjective].iter().rev().find(|word| **word != MARK && role(word) != Role::Adjective);
        let led = before.is_some_and(|word| ["a", "an", "the"].contains(&word.to_lowercase().as_str()));
        let describes = |at: usize| words.get(at).is_some_and(|word| role(word) == Role::Adjective);
        let goes_on = |at: usize| describes(at) || (led && words[at] == MARK && describes(at + 1));
        let first = (adjective + 1..words.len()).find(|&at| !goes_on(at)).filter(is(Role::Content))?;
        (first..words.len()).take_while(is(Role::Content)).last()
    };
    adjectives.filter_map(|adjective| Some((adjective, noun(adjective)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<&str> {
        text.split(' ').collect()
    }

    #[test]
    fn roles() {
        assert_eq!(
            ["The", "RED", "frog", ",", "of"].map(role),
            [Role::Filler, Role::Adjective, Role::Content, Role::Filler, Role::Filler]
        );
    }

    #[test]
    fn relations_are_read_from_the_prompt() {
        let of = |text: &str| {
            let words = words(text);
            let name =
                |claim: &Claim| format!("{} {} {}", words[claim.subject], claim.relation.words(), words[claim.object]);
            claims(&words).iter().map(name).collect::<Vec<_>>()
        };
        assert_eq!(of("a red apple to the left of a green frog on the beach"), ["apple left of frog"]);
        assert_eq!(of("a cat on top of a fire truck under the moon"), ["cat above truck", "truck below moon"]);
        assert_eq!(of("a fish inside of a bowl"), ["fish inside bowl"]);
        assert!(of("above everything").is_empty());
        assert!(of("turn left now").is_empty());
        assert!(of("a frog above").is_empty());
        assert_eq!(of("a frog left of an apple , house"), ["frog left of apple"]);
        assert!(of("a frog , game over , a cat").is_empty());
    }

    #[test]
    fn marks_end_what_is_said_and_numbers_do_not() {
        for marked in [", ", ". ", ";", "\n", ":1.3), (", "\u{3001}", " BREAK "] {
            assert!(ends_what_is_said(marked), "{marked:?}");
        }
        for plain in ["", " ", "-", ":1.3) ", ") (", "'", "."] {
            assert!(!ends_what_is_said(plain), "{plain:?}");
        }
    }

    #[test]
    fn phrases_of_place_are_found_and_turned() {
        let of = |text: &str| {
            let words = words(text);
            let phrase = |([from, to], [whole, end]): &([usize; 2], [usize; 2])| {
                let core = words[*from..*to].join(" ");
                (words[*whole..*end].join(" "), turned(&core).unwrap_or("-"))
            };
            placements(&words).iter().map(phrase).collect::<Vec<_>>()
        };
        let pair = |whole: &str, turned: &'static str| (whole.to_owned(), turned);
        assert_eq!(of("a fox to the left of a frog"), [pair("to the left of", "right of")]);
        assert_eq!(of("a fox on top of a box, a cat above"), [pair("on top of", "underneath")]);
        assert_eq!(of("a fox on the right"), [pair("on the right", "left")]);
        assert_eq!(of("a fish inside a bowl"), [pair("inside", "-")]);
        assert!(of("a fox on the beach").is_empty());
        for (from, to) in TURNED {
            assert!(turned(to).is_some(), "{from}");
        }
    }

    #[test]
    fn adjectives_find_their_nouns() {
        let of = |text: &str| {
            let words = words(text);
            bindings(&words).iter().map(|&(a, n)| format!("{} {}", words[a], words[n])).collect::<Vec<_>>()
        };
        assert_eq!(of("a red apple and a green frog"), ["red apple", "green frog"]);
        assert_eq!(of("a small red fire truck"), ["small truck", "red truck"]);
        assert!(of("the apple is red").is_empty());
        assert!(of("red and green").is_empty());
        // How many there are is no quality that could pass to another thing.
        assert_eq!(role("three"), Role::Adjective);
        assert_eq!(of("two red apples and three frogs"), ["red apples"]);
        // A comma ends what is said, but among the adjectives of one thing.
        assert_eq!(of("a cat that is red , green fox"), ["green fox"]);
        assert!(of("red , apple , green , frog").is_empty());
        assert_eq!(of("a frog , smiling , blue eyes"), ["blue eyes"]);
        assert_eq!(of("a small , old , red apple"), ["small apple", "old apple", "red apple"]);
    }
}
