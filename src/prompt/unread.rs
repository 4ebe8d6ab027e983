//! Syntax of other programs that a prompt has and that is read as words here, so that a user is
//! told before waiting.

use super::Syntax;
use crate::argument::{EMBEDDING, EMPHASIS, LONG, LORA};
use crate::trace::is_variation_selector;

/// A piece of a prompt that other programs read as syntax.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unread {
    /// The piece as it stands in the prompt.
    pub piece: String,
    /// What becomes of it, and the way out.
    pub advice: String,
    /// Whether the way out is a [`Syntax`], which transformers do not have.
    by_syntax: bool,
}

impl Unread {
    /// As a checkpoint has it that reads no [`Syntax`].
    #[must_use]
    pub fn of_plain_text(self) -> Self {
        match self.by_syntax {
            true => {
                Self { advice: "is plain text here; this checkpoint reads no weights and no chunks".into(), ..self }
            }
            false => self,
        }
    }
}

/// What becomes of a piece of other programs' syntax.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Advice {
    Lora,
    Hypernet,
    Embedding,
    Editing,
    Alternating,
    Chance,
    And,
    Brackets,
    Stress,
    Behind,
    Break,
    Option,
}

impl Advice {
    fn text(self) -> String {
        match self {
            Self::Lora => format!("is plain text here; {LORA} FILE:WEIGHT merges a LoRA"),
            Self::Hypernet => "is plain text here, and hypernetworks are not supported; leave it out".into(),
            Self::Embedding => format!(
                "is plain text here; {EMBEDDING} FILE:WORD teaches the word, which then stands alone in the prompt"
            ),
            Self::Editing => "changes words during the run in other programs; it is not read here, and all of its \
                words are in the prompt at once"
                .into(),
            Self::Alternating => "swaps words from step to step in other programs; it is not read here, and all of \
                its words are in the prompt at once"
                .into(),
            Self::Chance => "draws a word by chance in other programs; it is plain text here, so write the word".into(),
            Self::And => "joins prompts in other programs; it is a word here".into(),
            Self::Brackets => format!("has brackets, which are plain text; {EMPHASIS} reads them as weights"),
            Self::Stress => format!("is plain text here; with {EMPHASIS} write (word:1.1)"),
            Self::Behind => {
                format!("has its weight behind the bracket, where it is plain text; with {EMPHASIS} write (word:1.3)")
            }
            Self::Break => format!("is a word here; {LONG} makes it begin a new chunk"),
            Self::Option => "is plain text here; options stand outside of the prompt's quotes".into(),
        }
    }
}

/// What `text`, read by `syntax`, has of other programs' syntax: each kind once, with its first
/// example, in the order of the text.
pub fn unread(text: &str, syntax: Syntax) -> Vec<Unread> {
    let mut found: Vec<(usize, &str, Advice)> = Vec::new();
    found.extend(tags(text));
    found.extend(pairs(text, syntax));
    found.extend(words(text, syntax));
    found.sort_by_key(|&(at, ..)| at);
    let mut each: Vec<(&str, Advice)> = Vec::new();
    for (_, piece, advice) in found {
        if each.iter().all(|(_, other)| *other != advice) {
            each.push((piece, advice));
        }
    }
    let unread = |(piece, advice): (&str, Advice)| Unread {
        piece: piece.to_owned(),
        advice: advice.text(),
        by_syntax: matches!(advice, Advice::Brackets | Advice::Stress | Advice::Behind | Advice::Break),
    };
    each.into_iter().map(unread).collect()
}

/// `<lora:NAME:WEIGHT>` and its kin.
fn tags(text: &str) -> Vec<(usize, &str, Advice)> {
    let tag = |(at, _): (usize, &str)| {
        let end = at + text[at..].find('>')? + 1;
        let (name, _) = text[at + 1..end - 1].split_once(':')?;
        let advice = match name.trim().to_ascii_lowercase().as_str() {
            "lora" | "lyco" | "lycoris" => Advice::Lora,
            "hypernet" => Advice::Hypernet,
            "embedding" | "ti" => Advice::Embedding,
            _ => return None,
        };
        Some((at, &text[at..end], advice))
    };
    text.match_indices('<').filter_map(tag).collect()
}

/// Pairs of brackets that no backslash made text.
fn pairs(text: &str, syntax: Syntax) -> Vec<(usize, &str, Advice)> {
    let mut found = Vec::new();
    let mut open: Vec<(char, usize)> = Vec::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => {
                let next = chars.next().filter(|(_, next)| "()[]".contains(*next));
                found.extend(next.filter(|_| !syntax.emphasis).map(|(end, _)| (at, &text[at..=end], Advice::Brackets)));
            }
            '(' | '[' | '{' => open.push((c, at)),
            ')' | ']' | '}' => {
                let opening = match c {
                    ')' => '(',
                    ']' => '[',
                    _ => '{',
                };
                let Some(depth) = open.iter().rposition(|&(other, _)| other == opening) else { continue };
                let start = open[depth].1;
                open.truncate(depth);
                let inner = &text[start + 1..at];
                let called = text[..start].ends_with(char::is_alphanumeric);
                if let Some(length) = weight_behind(&text[at + 1..]).filter(|_| c == ')' && !called) {
                    found.push((start, &text[start..at + 1 + length], Advice::Behind));
                }
                let advice = match c {
                    ']' if inner.contains('|') => Some(Advice::Alternating),
                    ']' if is_editing(inner) => Some(Advice::Editing),
                    '}' => inner.contains('|').then_some(Advice::Chance),
                    _ => (!syntax.emphasis && !inner.trim().is_empty()).then_some(Advice::Brackets),
                };
                found.extend(advice.map(|advice| (start, &text[start..=at], advice)));
            }
            _ => {}
        }
    }
    found
}

/// The length of the number that `rest` begins with, such as `1.3`, where no word goes on there:
/// InvokeAI and compel have weights so.
fn weight_behind(rest: &str) -> Option<usize> {
    let length = rest.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(rest.len());
    let number = rest[..length].trim_end_matches('.');
    let goes_on = rest[number.len()..].starts_with(char::is_alphanumeric);
    (!goes_on && number.parse::<f64>().is_ok()).then_some(number.len())
}

/// Whether `[inner]` is `[from:to:when]`, `[to:when]` or `[from::when]`, where `when` is a number
/// of steps or a share of them.
fn is_editing(inner: &str) -> bool {
    let parts: Vec<&str> = inner.split(':').collect();
    let when = parts.last().is_some_and(|part| part.trim().parse::<f64>().is_ok());
    when && matches!(parts.len(), 2 | 3)
}

/// Words with a meaning.
fn words(text: &str, syntax: Syntax) -> Vec<(usize, &str, Advice)> {
    let shouted = !text.chars().any(char::is_lowercase);
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(word) = rest.split_whitespace().next() {
        // The word is a part of the text, so that its place is the distance of both.
        let at = word.as_ptr() as usize - text.as_ptr() as usize;
        rest = &text[at + word.len()..];
        let (first, last) = (text[..at].trim().is_empty(), rest.trim().is_empty());
        let bare = word.trim_matches([',', '.', ';']);
        let advice = match bare {
            "AND" => (!first && !last && !shouted).then_some(Advice::And),
            "BREAK" => (!syntax.long && !shouted).then_some(Advice::Break),
            _ if bare.starts_with("embedding:") && bare.len() > 10 => Some(Advice::Embedding),
            _ if bare.len() > 4 && bare.starts_with("__") && bare.ends_with("__") => Some(Advice::Chance),
            _ if !first && is_option(bare) => Some(Advice::Option),
            _ => is_stressed(bare).then_some(Advice::Stress),
        };
        found.extend(advice.map(|advice| (at, bare, advice)));
    }
    found
}

/// `--ar`, as other programs take options in the prompt.
fn is_option(word: &str) -> bool {
    word.strip_prefix("--").is_some_and(|name| !name.is_empty() && name.chars().all(|c| c.is_ascii_lowercase()))
}

/// `word++` or `word--`.
fn is_stressed(word: &str) -> bool {
    let stem = word.trim_end_matches(['+', '-']);
    let signs = &word[stem.len()..];
    let same = signs.chars().all(|c| signs.starts_with(c));
    let ends = |c: char| c.is_alphanumeric() || c == ')' || is_variation_selector(c);
    signs.len() >= 2 && same && stem.chars().count() >= 2 && stem.ends_with(ends)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PLAIN: Syntax = Syntax { emphasis: false, long: false };
    const ALL: Syntax = Syntax { emphasis: true, long: true };

    fn found(text: &str, syntax: Syntax) -> Vec<(String, String)> {
        unread(text, syntax).into_iter().map(|unread| (unread.piece, unread.advice)).collect()
    }

    #[test]
    fn syntax_of_other_programs_is_found_whatever_is_asked_for() {
        for (text, piece, advice) in [
            ("a cat <lora:style:0.8>", "<lora:style:0.8>", Advice::Lora),
            ("<LoRA:style:-0.5> a cat", "<LoRA:style:-0.5>", Advice::Lora),
            ("a cat <lyco:x:1>", "<lyco:x:1>", Advice::Lora),
            ("a cat <hypernet:x:1>", "<hypernet:x:1>", Advice::Hypernet),
            ("a cat, embedding:bad-hands", "embedding:bad-hands", Advice::Embedding),
            ("a [red:green:0.5] apple", "[red:green:0.5]", Advice::Editing),
            ("a [green:12] apple", "[green:12]", Advice::Editing),
            ("a [red::.5] apple", "[red::.5]", Advice::Editing),
            ("a [frog|fox]", "[frog|fox]", Advice::Alternating),
            ("a [(frog:1.2)|fox|]", "[(frog:1.2)|fox|]", Advice::Alternating),
            ("a {frog|fox}", "{frog|fox}", Advice::Chance),
            ("a __animal__ there", "__animal__", Advice::Chance),
            ("a frog AND a fox", "AND", Advice::And),
            ("a frog++ there", "frog++", Advice::Stress),
            ("a (green frog)1.3, there", "(green frog)1.3", Advice::Behind),
            ("a (frog)0.5.", "(frog)0.5", Advice::Behind),
            ("a frog --ar 16:9", "--ar", Advice::Option),
        ] {
            for syntax in [PLAIN, ALL] {
                assert!(
                    found(text, syntax).contains(&(piece.into(), advice.text())),
                    "{text}: {:?}",
                    found(text, syntax)
                );
            }
        }
    }

    #[test]
    fn a_number_behind_a_bracket_may_be_text() {
        for text in ["f(x)2", "(frog) 2", "(frog)2nd", "(frog)1.2.3", "[frog]2", "(frog)."] {
            assert_eq!(found(text, ALL), [], "{text}");
        }
    }

    #[test]
    fn what_an_option_reads_is_said_only_without_it() {
        for (text, piece, advice) in [
            ("a (green frog:0.5) there", "(green frog:0.5)", Advice::Brackets),
            ("a (frog)", "(frog)", Advice::Brackets),
            ("a [frog]", "[frog]", Advice::Brackets),
            ("((a frog))", "((a frog))", Advice::Brackets),
            (r"a frog \(green\)", r"\(", Advice::Brackets),
            ("a frog BREAK a fox", "BREAK", Advice::Break),
        ] {
            assert_eq!(found(text, PLAIN), [(piece.to_owned(), advice.text())], "{text}");
            assert_eq!(found(text, ALL), [], "{text}");
        }
    }

    #[test]
    fn plain_text_has_none() {
        for text in [
            "",
            "a red apple to the left of a green frog on the beach",
            "A FROG AND A FOX",
            "AND now a frog",
            "breakfast and sand at 12:30",
            "a <toy-cat> by <artist>",
            "a well-known frog - green; 3 > 2 < 4",
            ":) a frog :(",
            "{green} frog, half __done",
            "A+ grade, 5++",
            "a frog -- and a fox",
        ] {
            assert_eq!(found(text, PLAIN), [], "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_searched(text in r"([()\[\]{}\\:|<>.0-9+\- ]|AND|BREAK|lora:|[a-z🐸é]){0,40}") {
            for syntax in [PLAIN, ALL] {
                for unread in unread(&text, syntax) {
                    prop_assert!(text.contains(&unread.piece));
                }
            }
        }
    }
}
