//! Prompts with weights and breaks: `(cat:1.3)`, `((cat))`, `[cat]`, `\(`, `BREAK`, as
//! AUTOMATIC1111's web UI reads them.
//!
//! The grammar is that of its `modules/prompt_parser.py`. `(...)` multiplies the weight by 1.1,
//! `[...]` divides it by 1.1, `(...:W)` multiplies it by W. Brackets nest. A bracket that is never
//! closed reaches to the end of the text. A closing bracket that was never opened is text. A
//! backslash makes a bracket or backslash behind it text, and vanishes elsewhere. Stretches of
//! equal weight are one text for the tokenizer. Two things differ, where the web UI fails. A weight
//! that is no number (`(cat:1.2.3)`) is text and not an error. A `BREAK` inside of brackets breaks
//! too.

use serde::{Deserialize, Serialize};
use std::ops::Range;

/// What `(...)` multiplies a weight by, and `[...]` divides it by.
const STRESS: f64 = 1.1;

/// The word that ends a chunk of a long prompt.
const BREAK: &str = "BREAK";

/// How a prompt's text is read. The default takes every character as text and one chunk of tokens,
/// as diffusers does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Syntax {
    /// Brackets are weights.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub emphasis: bool,
    /// A text that is too long for the text encoder is given to it in chunks, and `BREAK` begins a
    /// new one.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub long: bool,
}

impl Syntax {
    /// Whether every character is text and what does not fit is cut off.
    pub fn is_plain(&self) -> bool {
        *self == Self::default()
    }

    /// The switches that are on, with the names that they have on the command line and in
    /// `run.json`.
    pub fn switches(self) -> impl Iterator<Item = &'static str> {
        [("emphasis", self.emphasis), ("long", self.long)].into_iter().filter_map(|(name, on)| on.then_some(name))
    }
}

/// The weight that the brackets of `text` give to what stands at byte `at`; 1 where brackets are
/// text.
pub fn weight_of(text: &str, syntax: Syntax, at: usize) -> f64 {
    let runs = if syntax.emphasis { weigh(text) } else { Vec::new() };
    runs.iter().find(|(run, _)| run.contains(&at)).map_or(1.0, |&(_, weight)| weight)
}

/// A part of a prompt.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum PromptPart {
    /// Text of one weight.
    Text(Stretch),
    /// A new chunk begins.
    Break,
}

/// Text of one weight, without its syntax.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Stretch {
    /// What the tokenizer is given.
    pub(super) text: String,
    /// 1 for text without brackets.
    pub(super) weight: f64,
    /// Where each piece of `text` begins: there, and in the prompt as typed. Ascending, none of
    /// them empty.
    pieces: Vec<(usize, usize)>,
}

impl Stretch {
    fn new(source: &str, range: Range<usize>, weight: f64) -> Self {
        Self { text: source[range.clone()].to_owned(), weight, pieces: vec![(0, range.start)] }
    }

    fn push(&mut self, source: &str, range: Range<usize>) {
        self.pieces.push((self.text.len(), range.start));
        self.text.push_str(&source[range]);
    }

    /// The bytes of the prompt as typed that the bytes `range` of this text come from, with the
    /// syntax between them.
    pub(super) fn source(&self, range: &Range<usize>) -> Range<usize> {
        let piece = |byte: usize| self.pieces[self.pieces.partition_point(|&(at, _)| at <= byte).saturating_sub(1)];
        let (start, end) = (piece(range.start), piece(range.end.saturating_sub(1).max(range.start)));
        start.1 + range.start - start.0..end.1 + range.end - end.0
    }
}

/// The parts of `text`; never empty, and nothing but one stretch of weight 1 where the syntax is
/// plain.
pub(super) fn parse(text: &str, syntax: Syntax) -> Vec<PromptPart> {
    if syntax.is_plain() {
        return vec![PromptPart::Text(Stretch::new(text, 0..text.len(), 1.0))];
    }
    let entries = if syntax.emphasis { weigh(text) } else { vec![(0..text.len(), 1.0)] };
    let mut parts: Vec<PromptPart> = Vec::new();
    for (range, weight) in entries {
        let mut at = range.start;
        let breaks = if syntax.long { breaks(&text[range.clone()]) } else { Vec::new() };
        for found in breaks {
            push(&mut parts, text, at..range.start + found, weight);
            parts.push(PromptPart::Break);
            at = range.start + found + BREAK.len();
        }
        push(&mut parts, text, at..range.end, weight);
    }
    if parts.is_empty() {
        parts.push(PromptPart::Text(Stretch::new(text, 0..0, 1.0)));
    }
    parts
}

/// Adds text to the stretch before it where that has the same weight.
fn push(parts: &mut Vec<PromptPart>, source: &str, range: Range<usize>, weight: f64) {
    match parts.last_mut() {
        _ if range.is_empty() => {}
        Some(PromptPart::Text(last)) if last.weight == weight => last.push(source, range),
        _ => parts.push(PromptPart::Text(Stretch::new(source, range, weight))),
    }
}

/// Where the word `BREAK` stands in `run`.
fn breaks(run: &str) -> Vec<usize> {
    let in_word = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    let alone = |&(at, word): &(usize, &str)| {
        !in_word(run[..at].chars().next_back()) && !in_word(run[at + word.len()..].chars().next())
    };
    run.match_indices(BREAK).filter(alone).map(|(at, _)| at).collect()
}

/// The runs of literal text in `text` and the weight that the brackets around each give it.
fn weigh(text: &str) -> Vec<(Range<usize>, f64)> {
    let mut runs: Vec<(Range<usize>, f64)> = Vec::new();
    // For each open bracket, the first run inside of it.
    let (mut round, mut square): (Vec<usize>, Vec<usize>) = (Vec::new(), Vec::new());
    let multiply = |runs: &mut [(Range<usize>, f64)], by: f64| runs.iter_mut().for_each(|(_, weight)| *weight *= by);
    let bytes = text.as_bytes();
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let mut literal = at..at + 1;
        match byte {
            b'\\' => {
                let escapes = bytes.get(at + 1).is_some_and(|next| br"()[]\".contains(next));
                literal = at + 1..at + 1 + usize::from(escapes);
            }
            b'(' => {
                round.push(runs.len());
                literal.start = literal.end;
            }
            b'[' => {
                square.push(runs.len());
                literal.start = literal.end;
            }
            b')' | b']' => {
                let (open, by) = if byte == b')' { (&mut round, STRESS) } else { (&mut square, 1.0 / STRESS) };
                if let Some(first) = open.pop() {
                    multiply(&mut runs[first..], by);
                    literal.start = literal.end;
                }
            }
            b':' => {
                if let Some((weight, length)) = weight_at(&text[at..]) {
                    literal.end = at + length;
                    if let Some(first) = round.pop() {
                        multiply(&mut runs[first..], weight);
                        literal.start = literal.end;
                    }
                }
            }
            _ => {
                let rest = &bytes[at..];
                literal.end = at + rest.iter().position(|byte| br"\()[]:".contains(byte)).unwrap_or(rest.len());
            }
        }
        at = literal.end;
        if !literal.is_empty() {
            runs.push((literal, 1.0));
        }
    }
    round.into_iter().for_each(|first| multiply(&mut runs[first..], STRESS));
    square.into_iter().for_each(|first| multiply(&mut runs[first..], 1.0 / STRESS));
    runs
}

/// The weight in `text` that begins with `:W)`, and the length of that.
fn weight_at(text: &str) -> Option<(f64, usize)> {
    let from = text.strip_prefix(':')?.trim_start();
    let unsigned = from.strip_prefix(['+', '-']).unwrap_or(from);
    let after = unsigned.trim_start_matches(|c: char| c == '.' || c.is_ascii_digit());
    let number = &from[..from.len() - after.len()];
    let rest = after.trim_start().strip_prefix(')')?;
    let weight: f64 = number.parse().ok().filter(|weight: &f64| (*weight as f32).is_finite())?;
    Some((weight, text.len() - rest.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const WEIGHTED: Syntax = Syntax { emphasis: true, long: false };
    const ALL: Syntax = Syntax { emphasis: true, long: true };

    /// The text and weight of each part; `BREAK` and -1 for a break, as the web UI writes it.
    fn parts(text: &str, syntax: Syntax) -> Vec<(String, f64)> {
        let plain = |part| match part {
            PromptPart::Text(stretch) => (stretch.text, stretch.weight),
            PromptPart::Break => (BREAK.into(), -1.0),
        };
        parse(text, syntax).into_iter().map(plain).collect()
    }

    fn weighted(text: &str) -> Vec<(String, f64)> {
        parts(text, WEIGHTED)
    }

    fn expected(list: &[(&str, f64)]) -> Vec<(String, f64)> {
        list.iter().map(|&(text, weight)| (text.to_owned(), weight)).collect()
    }

    #[test]
    fn a_place_has_the_weight_of_its_brackets() {
        let text = r"a (big [cat]:1.5) \(sat\)";
        let of = |word: &str, syntax| weight_of(text, syntax, text.find(word).unwrap());
        assert_eq!((of("a", WEIGHTED), of("big", WEIGHTED), of("sat", WEIGHTED)), (1.0, 1.5, 1.0));
        assert!((of("cat", WEIGHTED) - 1.5 / STRESS).abs() < 1e-12);
        assert_eq!((of("cat", Syntax::default()), weight_of("", WEIGHTED, 0)), (1.0, 1.0));
    }

    #[test]
    fn brackets_are_weights() {
        for (text, list) in [
            ("normal text", &[("normal text", 1.0)][..]),
            ("an (important) word", &[("an ", 1.0), ("important", 1.1), (" word", 1.0)]),
            ("((cat)) [dog]", &[("cat", 1.1 * 1.1), (" ", 1.0), ("dog", 1.0 / 1.1)]),
            ("(cat:1.3)", &[("cat", 1.3)]),
            ("(cat : +.5 )", &[("cat ", 0.5)]),
            ("(a (b:2) c:-1)", &[("a ", -1.0), ("b", -2.0), (" c", -1.0)]),
            // Equal weights are one text, whatever stands between them.
            ("(unnecessary)(parens)", &[("unnecessaryparens", 1.1)]),
            ("(cat:1)s", &[("cats", 1.0)]),
            ("[a(b)]", &[("a", 1.0 / 1.1), ("b", 1.1 * (1.0 / 1.1))]),
        ] {
            assert_eq!(weighted(text), expected(list), "{text}");
        }
        let nested = weighted("a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).");
        let sky = 1.1 * 1.1 * 1.1 * 1.1;
        let list = [("a ", 1.0), ("house", 1.3 * 1.1 * 1.1), (" ", 1.1), ("on", 1.0 / 1.1 * 1.1), (" a ", 1.1)];
        assert_eq!(nested[..5], expected(&list));
        assert_eq!(nested[5..], expected(&[("hill", 0.5 * 1.1), (", sun, ", 1.1), ("sky", sky), (".", 1.1)]));
    }

    #[test]
    fn escapes_and_stray_brackets_are_text() {
        for (text, list) in [
            (r"\(literal\]", &[("(literal]", 1.0)][..]),
            (r"a \(b\) (c\):2)", &[("a (b) ", 1.0), ("c)", 2.0)]),
            (r"\\(x)", &[(r"\", 1.0), ("x", 1.1)]),
            (r"no\thing \", &[("nothing ", 1.0)]),
            ("(unbalanced", &[("unbalanced", 1.1)]),
            ("a [b (c", &[("a ", 1.0), ("b ", 1.0 / 1.1), ("c", 1.1 * (1.0 / 1.1))]),
            ("a) b]", &[("a) b]", 1.0)]),
            ("a:1.3) b", &[("a:1.3) b", 1.0)]),
            ("[a:1.3]", &[("a:1.3", 1.0 / 1.1)]),
            ("(a:b) (c:1.2.3) (d:.)", &[("a:b", 1.1), (" ", 1.0), ("c:1.2.3", 1.1), (" ", 1.0), ("d:.", 1.1)]),
            ("()", &[("", 1.0)]),
            ("", &[("", 1.0)]),
        ] {
            assert_eq!(weighted(text), expected(list), "{text}");
        }
        assert_eq!(weighted(&format!("(a:{})", "9".repeat(60))).len(), 1, "a weight beyond f32 is text");
    }

    #[test]
    fn breaks_are_whole_words_in_capitals() {
        let list = [("a ", 1.0), (BREAK, -1.0), (" b BREAKFAST break ", 1.0), (BREAK, -1.0)];
        assert_eq!(parts("a BREAK b BREAKFAST break BREAK", ALL), expected(&list));
        assert_eq!(parts("(a BREAK b)", ALL), expected(&[("a ", 1.1), (BREAK, -1.0), (" b", 1.1)]));
        assert_eq!(parts("BREAK", ALL), expected(&[(BREAK, -1.0)]));
        assert_eq!(parts("a BREAK b", WEIGHTED), expected(&[("a BREAK b", 1.0)]));
        let long = Syntax { emphasis: false, long: true };
        assert_eq!(parts("(a) BREAK b", long), expected(&[("(a) ", 1.0), (BREAK, -1.0), (" b", 1.0)]));
    }

    proptest! {
        #[test]
        fn any_text_is_read_and_knows_its_place(text in r"([()\[\]\\:.0-9 ]|BREAK|[a-z🐸é]){0,40}") {
            for syntax in [WEIGHTED, ALL] {
                let mut last = 0;
                for part in parse(&text, syntax) {
                    let PromptPart::Text(stretch) = part else { continue };
                    for (at, c) in stretch.text.char_indices() {
                        let source = stretch.source(&(at..at + c.len_utf8()));
                        prop_assert_eq!(text.get(source.clone()).map(str::to_owned), Some(c.to_string()));
                        prop_assert!(source.start >= last);
                        last = source.end;
                    }
                }
            }
        }

        #[test]
        fn text_without_syntax_is_unchanged(text in r"[^()\[\]\\]{0,60}") {
            prop_assert_eq!(weighted(&text), vec![(text.clone(), 1.0)]);
            prop_assert_eq!(parts(&text, Syntax::default()), vec![(text, 1.0)]);
        }
    }
}
