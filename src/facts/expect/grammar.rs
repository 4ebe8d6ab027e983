//! How expectations are written, and where a list of them goes wrong.
//!
//! ```text
//! list    one expectation, or several with commas between
//!         THING RELATION THING    frog right of apple
//!         THING @ SIDE            apple@left, apple@top right
//!         THING @ X,Y,W,H         frog@0.5,0.3,0.5,0.5: a box from the left top corner, in shares of the image's sides
//!         THING                   frog: it was drawn
//!         no THING                no fox: it was not
//! RELATION  left of, right of, above, over, on top of, below, under, inside; also with "to the" or "is" before it
//! SIDE      left, right, top, bottom, centre; top or bottom with left or right
//! THING     a word or phrase as --words names it; in quotation marks it is taken as it stands: "no entry"@left
//! ```

use super::kind::{Expectation, ExpectationKind, Expectations, ImageSide, wrong};
use crate::argument::EXPECT;
use crate::facts::lexicon::{Direction, PHRASES};
use crate::heatmap::Bounds;
use crate::{Error, Result, in_quotes};
use std::str::FromStr;

/// Words before a relation that say no more than it: `frog is to the right of apple`.
const BEFORE: [&str; 6] = ["is", "lies", "stands", "to", "on", "the"];

/// Words before a thing that are no part of it.
pub(super) const ARTICLES: [&str; 3] = ["a", "an", "the"];

/// How far a box may reach beyond the image: what rounding adds.
const ROUNDING: f32 = 1e-4;

impl FromStr for Expectations {
    type Err = Error;

    /// Reads a list of expectations.
    ///
    /// # Errors
    /// [`Error::Argument`] on `expect` with the place of the first character that cannot be read,
    /// counted from 1.
    fn from_str(text: &str) -> Result<Self> {
        let mut reader = ExpectationReader { text, at: 0 };
        let mut all: Vec<Expectation> = Vec::new();
        loop {
            reader.skip_space();
            match reader.peek() {
                None => break,
                Some(',') => reader.at += 1,
                Some(_) => {
                    let one = reader.expectation()?;
                    // Said twice is still one.
                    if all.iter().all(|known| known.kind != one.kind) {
                        all.push(one);
                    }
                }
            }
        }
        if all.is_empty() {
            let reason = "there is none; write for example \"frog right of apple, apple@left, no fox\"";
            return Err(Error::argument(EXPECT, reason));
        }
        Ok(Self(all))
    }
}

/// A piece of an expectation: a word, or what stands in quotation marks.
#[derive(Debug, Clone, Copy)]
struct ExpectationPiece<'a> {
    text: &'a str,
    /// Its bytes in the list, quotation marks with them.
    from: usize,
    to: usize,
    quoted: bool,
}

struct ExpectationReader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> ExpectationReader<'a> {
    fn peek(&self) -> Option<char> {
        self.text[self.at..].chars().next()
    }

    fn skip_space(&mut self) {
        let rest = &self.text[self.at..];
        self.at += rest.len() - rest.trim_start().len();
    }

    /// A refusal that points at byte `at`.
    fn wrong(&self, at: usize, reason: impl AsRef<str>) -> Error {
        let rest: String = self.text[at..].chars().take(12).collect();
        let what = if rest.is_empty() { "the end".to_owned() } else { in_quotes(rest.trim_end()) };
        wrong(self.text[..at].chars().count() + 1, &what, reason.as_ref())
    }

    /// One expectation, up to the comma after it or the end.
    fn expectation(&mut self) -> Result<Expectation> {
        let start = self.at;
        let pieces = self.pieces()?;
        let (kind, places) = if self.peek() == Some('@') {
            let at = self.at;
            self.at += 1;
            let thing = self.named(&pieces, at, "no thing stands before @")?;
            if let Some(no) = negated(&pieces) {
                return Err(self.wrong(no, "`no` goes with a thing alone, as in \"no fox\""));
            }
            if let Some((first, ..)) = relation(&pieces) {
                let at = pieces[first].from;
                return Err(self.wrong(at, "a relation and a place are two expectations; put a comma between"));
            }
            (self.place(thing.name)?, vec![thing.from])
        } else {
            self.of_pieces(&pieces)?
        };
        let text = self.text[start..self.at].trim().to_owned();
        let places = places.into_iter().map(|from| self.text[..from].chars().count() + 1).collect();
        Ok(Expectation { text, places, kind })
    }

    /// The thing that `pieces` name; where they name none, `missing` is said of byte `at`.
    fn named(&self, pieces: &[ExpectationPiece], at: usize, missing: &str) -> Result<NamedThing> {
        let thing = thing(pieces).ok_or_else(|| self.wrong(at, missing))?;
        thing.map_err(|(at, reason)| self.wrong(at, reason))
    }

    /// The words up to the next comma, `@` or the end.
    fn pieces(&mut self) -> Result<Vec<ExpectationPiece<'a>>> {
        let mut pieces = Vec::new();
        loop {
            self.skip_space();
            let from = self.at;
            match self.peek() {
                None | Some(',' | '@') => return Ok(pieces),
                Some('"') => {
                    let Some(length) = self.text[from + 1..].find('"') else {
                        return Err(self.wrong(from, "this quotation mark is not closed"));
                    };
                    self.at = from + length + 2;
                    let text = self.text[from + 1..from + 1 + length].trim();
                    if text.is_empty() {
                        return Err(self.wrong(from, "nothing stands between the quotation marks"));
                    }
                    pieces.push(ExpectationPiece { text, from, to: self.at, quoted: true });
                }
                Some(_) => {
                    let rest = &self.text[from..];
                    let ends = |c: char| c.is_whitespace() || matches!(c, ',' | '@' | '"');
                    self.at = from + rest.find(ends).unwrap_or(rest.len());
                    pieces.push(ExpectationPiece { text: &self.text[from..self.at], from, to: self.at, quoted: false });
                }
            }
        }
    }

    /// A relation, a thing, or no thing, with the byte of each thing.
    fn of_pieces(&self, pieces: &[ExpectationPiece]) -> Result<(ExpectationKind, Vec<usize>)> {
        let start = pieces.first().map_or(self.at, |piece| piece.from);
        if negated(pieces).is_some() {
            if let Some((first, ..)) = relation(&pieces[1..]) {
                return Err(self.wrong(pieces[1 + first].from, "`no` goes with a thing alone, as in \"no fox\""));
            }
            let thing = self.named(&pieces[1..], pieces[0].to, "no what? name a thing, as in \"no fox\"")?;
            return Ok((ExpectationKind::Absent(thing.name), vec![thing.from]));
        }
        let Some((first, last, relation)) = relation(pieces) else {
            let thing = self.named(pieces, start, THINGS)?;
            return Ok((ExpectationKind::Drawn(thing.name), vec![thing.from]));
        };
        if let Some((second, ..)) = self::relation(&pieces[last..]) {
            let at = pieces[last + second].from;
            return Err(self.wrong(at, "one relation at a time; put a comma between and name the thing again"));
        }
        let said = pieces[..first].iter().rev().take_while(|piece| is_one_of(piece, &BEFORE)).count();
        let subject = self.named(&pieces[..first - said], start, "no thing stands before the relation")?;
        let after = pieces[last - 1].to;
        let object = self.named(&pieces[last..], after, "no thing stands after the relation")?;
        let kind = ExpectationKind::Relation { subject: subject.name, relation, object: object.name };
        Ok((kind, vec![subject.from, object.from]))
    }

    /// What stands after `@`: a side or a box.
    fn place(&mut self, thing: String) -> Result<ExpectationKind> {
        self.skip_space();
        let start = self.at;
        if self.peek().is_some_and(|c| c.is_ascii_digit() || "+-.".contains(c)) {
            return Ok(ExpectationKind::Within { thing, bounds: self.bounds()? });
        }
        let pieces = self.pieces()?;
        let names: Vec<String> = pieces.iter().map(|piece| piece.text.to_lowercase()).collect();
        let name = names.join(" ");
        let side = ImageSide::NAMED.iter().find(|(known, _)| *known == name).map(|(_, side)| *side);
        let side = side.ok_or_else(|| {
            let sides =
                "left, right, top, bottom, centre, top left and the like, or a box X,Y,W,H in shares of the image";
            self.wrong(start, format!("no side is called so; write {sides}"))
        })?;
        if self.peek() == Some('@') {
            return Err(self.wrong(self.at, "one place at a time; put a comma between and name the thing again"));
        }
        Ok(ExpectationKind::At { thing, side })
    }

    /// `X,Y,W,H`.
    fn bounds(&mut self) -> Result<Bounds> {
        let mut numbers = [0.0f32; 4];
        let mut places = [0; 4];
        for index in 0..4 {
            self.skip_space();
            if index > 0 {
                if self.peek() != Some(',') {
                    return Err(self.wrong(self.at, "a box has four numbers, X,Y,W,H"));
                }
                self.at += 1;
                self.skip_space();
            }
            places[index] = self.at;
            let rest = &self.text[self.at..];
            let end = rest.find(|c: char| c.is_whitespace() || c == ',' || c == '@').unwrap_or(rest.len());
            let number = rest[..end].parse::<f32>().ok().filter(|number| number.is_finite());
            numbers[index] = number.ok_or_else(|| {
                let reason = "this is no number; a box is X,Y,W,H in shares of the image, such as 0.5,0.3,0.5,0.5";
                self.wrong(self.at, reason)
            })?;
            self.at += end;
        }
        let [left, top, width, height] = numbers;
        let inside = 0.0..=1.0 + ROUNDING;
        for (index, name) in ["X", "Y", "W", "H"].into_iter().enumerate() {
            let most = if index < 2 { 1.0 } else { 1.0 + ROUNDING - numbers[index - 2] };
            let fits =
                inside.contains(&numbers[index]) && numbers[index] <= most && (index < 2 || numbers[index] > 0.0);
            if !fits {
                let reason = match index {
                    0 | 1 => format!("{name} is a share of the image's side, 0 to 1"),
                    _ => format!("{name} must be above 0, and the box must end within the image, at 1"),
                };
                return Err(self.wrong(places[index], reason));
            }
        }
        self.skip_space();
        if !matches!(self.peek(), None | Some(',')) {
            return Err(self.wrong(self.at, "a comma is missing before the next expectation"));
        }
        Ok(Bounds { left, top, right: (left + width).min(1.0), bottom: (top + height).min(1.0) })
    }
}

const THINGS: &str = "name a word or phrase of the prompt";

fn is_one_of(piece: &ExpectationPiece, list: &[&str]) -> bool {
    !piece.quoted && list.iter().any(|word| piece.text.eq_ignore_ascii_case(word))
}

/// The byte of the `no` that begins an expectation.
fn negated(pieces: &[ExpectationPiece]) -> Option<usize> {
    pieces.first().filter(|first| is_one_of(first, &["no"])).map(|first| first.from)
}

/// The first relation of `pieces`: the pieces that say it, from and to, and which it is.
fn relation(pieces: &[ExpectationPiece]) -> Option<(usize, usize, Direction)> {
    (0..pieces.len()).find_map(|at| {
        let says = |phrase: &str| {
            let mut words = phrase.split(' ').enumerate();
            words.all(|(index, word)| pieces.get(at + index).is_some_and(|piece| is_one_of(piece, &[word])))
        };
        let found = PHRASES.iter().filter(|(phrase, _)| says(phrase)).max_by_key(|(phrase, _)| phrase.len());
        found.map(|(phrase, relation)| (at, at + phrase.split(' ').count(), *relation))
    })
}

/// A thing as it is looked up among the words, and its byte in the list.
struct NamedThing {
    name: String,
    from: usize,
}

/// The thing that `pieces` name; `None` where they name none. The error is a byte and a reason.
fn thing(pieces: &[ExpectationPiece]) -> Option<Result<NamedThing, (usize, &'static str)>> {
    let pieces = match pieces {
        [first, rest @ ..] if !rest.is_empty() && is_one_of(first, &ARTICLES) => rest,
        all => all,
    };
    let quoted = pieces.iter().find(|piece| piece.quoted);
    match (pieces, quoted) {
        ([], _) => None,
        (_, Some(quoted)) if pieces.len() > 1 => {
            Some(Err((quoted.from, "what is quoted is the whole name of a thing")))
        }
        ([first, ..], _) => {
            let name = pieces.iter().map(|piece| piece.text).collect::<Vec<_>>().join(" ");
            Some(Ok(NamedThing { name, from: first.from }))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(text: &str) -> Vec<ExpectationKind> {
        text.parse::<Expectations>().unwrap().0.into_iter().map(|expectation| expectation.kind).collect()
    }

    fn lies(subject: &str, relation: Direction, object: &str) -> ExpectationKind {
        ExpectationKind::Relation { subject: subject.into(), relation, object: object.into() }
    }

    #[test]
    fn every_form_is_read() {
        let bounds = Bounds { left: 0.5, top: 0.3, right: 1.0, bottom: 0.8 };
        let at = |thing: &str, side| ExpectationKind::At { thing: thing.into(), side };
        assert_eq!(
            kinds("frog right of apple, apple@left, frog@0.5,0.3,0.5,0.5, no fox,house"),
            [
                lies("frog", Direction::RightOf, "apple"),
                at("apple", ImageSide::Left),
                ExpectationKind::Within { thing: "frog".into(), bounds },
                ExpectationKind::Absent("fox".into()),
                ExpectationKind::Drawn("house".into()),
            ]
        );
        assert_eq!(
            kinds(" the green frog is to the right of a red apple ,apple#2 @ Top Left,, \"no entry\"@centre"),
            [
                lies("green frog", Direction::RightOf, "red apple"),
                at("apple#2", ImageSide::TopLeft),
                at("no entry", ImageSide::Centre),
            ]
        );
        assert_eq!(kinds("cat on top of fire truck"), [lies("cat", Direction::Above, "fire truck")]);
        assert_eq!(kinds("fish inside of bowl"), [lies("fish", Direction::Inside, "bowl")]);
    }

    #[test]
    fn errors_point_at_the_character() {
        for (text, at, says) in [
            ("frog@lft", 6, "no side"),
            ("apple, frog@ up left", 14, "no side"),
            ("frog@", 6, "no side"),
            ("@left", 1, "before @"),
            ("frog@0.5,0.3,0.5", 17, "four numbers"),
            ("frog@0.5,0.3,0.5,x", 18, "no number"),
            ("frog@0.5,0.3,0.6,0.5", 14, "end within the image"),
            ("frog@0.5,0.3,0,0.5", 14, "above 0"),
            ("frog@320,0.3,0.5,0.5", 6, "0 to 1"),
            ("frog@0,0,1,1 apple", 14, "comma is missing"),
            ("left of apple", 1, "before the relation"),
            ("frog left of", 13, "after the relation"),
            ("frog left of , apple", 13, "after the relation"),
            ("frog left of apple above heart", 20, "one relation"),
            ("no", 3, "no what"),
            ("no frog left of apple", 9, "`no` goes"),
            ("no frog@left", 1, "`no` goes"),
            ("frog left of apple@left", 6, "two expectations"),
            ("frog@left@top", 10, "one place"),
            ("\"frog", 1, "not closed"),
            ("\"\"@left", 1, "nothing stands"),
            ("red \"frog\"@left", 5, "whole name"),
            ("Frösche@obn", 9, "no side"),
        ] {
            let error = text.parse::<Expectations>().unwrap_err();
            let message = error.to_string();
            assert_eq!(error.exit_code(), 2, "{text}");
            assert!(message.starts_with(&format!("expect: at character {at} (")), "{text}: {message}");
            assert!(message.contains(says), "{text}: {message}");
        }
        for none in ["", " ", ",,"] {
            assert!(none.parse::<Expectations>().unwrap_err().to_string().contains("there is none"));
        }
    }

    #[test]
    fn what_is_said_twice_is_one() {
        assert_eq!(kinds("frog@left, the frog @ left").len(), 1);
    }
}
