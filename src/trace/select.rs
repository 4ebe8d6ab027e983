//! Choosing words and phrases of a prompt: `red apple,apple#2,<start>`.

use super::{PROBE_PREFIX, PromptInfo, TokenKind, WordInfo, normalized};
use crate::argument::{BY, LONG, WORDS};
use crate::{Error, Result};
use std::ops::Range;

/// The one word of `found`, which a [selection](PromptInfo::select) of `name` gave; the reason
/// where there are several, with how each is called.
///
/// # Errors
/// That reason, for an error on whatever argument gave the name.
pub fn only(name: &str, found: Vec<WordInfo>) -> Result<WordInfo, String> {
    let found = match <[WordInfo; 1]>::try_from(found) {
        Ok([word]) => return Ok(word),
        Err(found) => found,
    };
    let asked = crate::in_quotes(name);
    let Some(first) = found.first() else { return Err(format!("{asked} is no word")) };
    let alike = found.iter().all(|word| normalized(&word.text) == normalized(&first.text));
    let called = |word: &WordInfo| match alike {
        true => WordInfo::numbered(&word.text, word.occurrence),
        false => word.label(),
    };
    let names: Vec<String> = found.iter().map(called).collect();
    Err(format!("{asked} stands for {} words; name one: {}", names.len(), names.join(" or ")))
}

/// A word's [label](WordInfo::label) without the number that tells it from others of its name.
pub(crate) fn bare(label: &str) -> &str {
    match label.rsplit_once('#') {
        Some((bare, number)) if !bare.is_empty() && number.parse::<usize>().is_ok() => bare,
        _ => label,
    }
}

impl PromptInfo {
    /// The words that `choice` names, in its order. They are words or phrases of the prompt,
    /// separated by commas. Upper and lower case and Unicode forms are alike ([`normalized`]). A
    /// word that stands in the prompt several times gives each of them; `apple#2` is the second
    /// alone. `<start>` and `<end>` are the start token and the first end token, of each chunk
    /// where the prompt has several. What no token stands for (the brackets and weights of
    /// emphasis) is passed over within a phrase.
    ///
    /// # Errors
    /// [`Error::Argument`] on `words` naming the first that the prompt does not have, with the
    /// words that it has.
    pub fn select(&self, choice: &str) -> Result<Vec<WordInfo>> {
        self.select_with(choice, &[])
    }

    /// As [`select`](Self::select), also among `probes` (see [`probe_words`](super::probe_words)):
    /// `probe:shadow` names one, and so does `shadow` where the prompt has no such word.
    ///
    /// # Errors
    /// As `select`.
    pub fn select_with(&self, choice: &str, probes: &[WordInfo]) -> Result<Vec<WordInfo>> {
        let mut chosen: Vec<WordInfo> = Vec::new();
        for name in self.names(choice) {
            let found = self.find(name, probes)?;
            // Named twice is still one map.
            chosen.extend(found.into_iter().filter(|word| !chosen.contains(word)).collect::<Vec<_>>());
        }
        if chosen.is_empty() {
            return Err(Error::argument(WORDS, format!("names no word; {}", self.have())));
        }
        Ok(chosen)
    }

    /// As [`select_with`](Self::select_with), of the one word or phrase `name`, whatever commas it
    /// has.
    ///
    /// # Errors
    /// As `select_with`.
    pub(crate) fn select_name(&self, name: &str, probes: &[WordInfo]) -> Result<Vec<WordInfo>> {
        self.find(name.trim(), probes)
    }

    /// The names in the list `choice`. Commas stand between them, but for those within a word of
    /// the prompt: a tag may be `1,000 frogs`.
    pub fn names<'a>(&self, choice: &'a str) -> Vec<&'a str> {
        let is_own = |word: &&WordInfo| word.text.contains(',') && word.text.contains(char::is_alphanumeric);
        let with_comma = self.words.iter().filter(is_own);
        let own: Vec<String> =
            with_comma.flat_map(|word| [normalized(&word.text), normalized(&word.label())]).collect();
        let ends: Vec<usize> = choice.match_indices(',').map(|(at, _)| at).chain([choice.len()]).collect();
        let (mut names, mut from) = (Vec::new(), 0);
        while let Some(first) = ends.iter().position(|&end| end >= from) {
            let is_own = |end: &&usize| own.contains(&normalized(&choice[from..**end]));
            let end = ends[first..].iter().rfind(is_own).copied().unwrap_or(ends[first]);
            names.push(choice[from..end].trim());
            from = end + 1;
        }
        names.retain(|name| !name.is_empty());
        names
    }

    fn find(&self, name: &str, probes: &[WordInfo]) -> Result<Vec<WordInfo>> {
        // A word is found by its own name, however brackets and signs join its letters with others
        // as a phrase.
        if let Some(word) = self.words.iter().find(|word| word.occurrence > 1 && word.label() == name) {
            return Ok(vec![word.clone()]);
        }
        let numbered = name.rsplit_once('#').and_then(|(name, number)| Some((name, number.parse::<usize>().ok()?)));
        let occurrence = numbered.map(|(name, number)| (number, self.phrases(name)));
        // `apple#2` is how the second apple is written everywhere, also where the prompt itself has
        // those characters.
        if let Some((number @ 2.., found)) = &occurrence
            && let Some(word) = found.iter().find(|word| word.occurrence == *number)
        {
            return Ok(vec![word.clone()]);
        }
        let mut found = self.phrases(name);
        for word in self.words.iter().filter(|word| word.text == name) {
            match found.iter_mut().find(|other| (other.start, other.end) == (word.start, word.end)) {
                Some(other) => other.clone_from(word),
                None => found.push(word.clone()),
            }
        }
        if !found.is_empty() {
            return Ok(found);
        }
        if let (Some((name, _)), Some((number, found))) = (numbered, occurrence) {
            let count = found.len();
            if let Some(word) = found.into_iter().find(|word| word.occurrence == number) {
                return Ok(vec![word]);
            }
            if count > 0 {
                let reason =
                    format!("{} stands in the prompt {count} times; there is no #{number}", crate::in_quotes(name));
                return Err(Error::argument(WORDS, reason));
            }
        }
        let bare = |text: &str| normalized(text.strip_prefix(PROBE_PREFIX).unwrap_or(text));
        if let Some(probe) = probes.iter().find(|probe| bare(&probe.text) == bare(name)) {
            return Ok(vec![probe.clone()]);
        }
        let probes: String = probes.iter().map(|probe| format!(", {}", probe.text)).collect();
        let asked = crate::in_quotes(name);
        let reason = match self.is_part_of_a_tag(name) {
            true => format!("{asked} is a part of a tag; read words with {BY} word, or ask for a tag: {}", self.have()),
            false if self.is_cut_off(name) => format!(
                "{asked} is cut off: the prompt is longer than what the text encoder reads; shorten it, or on Stable \
                 Diffusion 1, 2 and XL make the run with {LONG}"
            ),
            false => format!("{asked} is not in the prompt; {}", self.have()),
        };
        Err(Error::argument(WORDS, reason + &probes))
    }

    /// Whether `name` is among the words of a word that is itself several, as tags are.
    fn is_part_of_a_tag(&self, name: &str) -> bool {
        let name = normalized(name);
        let several = self.words.iter().map(|word| &word.text).filter(|text| text.contains(char::is_whitespace));
        several.flat_map(|text| text.split_whitespace()).any(|part| normalized(part) == name)
    }

    /// Whether `name` stands behind the last token that the text encoder was given.
    fn is_cut_off(&self, name: &str) -> bool {
        let read = self.tokens.iter().filter(|token| token.kind == TokenKind::Text).map(|token| token.end).max();
        let rest = read.and_then(|read| self.text.get(read..)).unwrap_or_default();
        let name = normalized(name);
        let apart = |c: char| !c.is_alphanumeric();
        let rest = normalized(rest);
        rest.match_indices(&name).any(|(at, _)| {
            rest[..at].chars().next_back().is_none_or(apart) && rest[at + name.len()..].chars().next().is_none_or(apart)
        })
    }

    /// The positions of the tokens that lie within a range of the prompt's bytes, special tokens
    /// left out.
    pub fn tokens_within(&self, range: &Range<usize>) -> Vec<usize> {
        let within = |token: &super::TokenInfo| {
            token.kind == TokenKind::Text
                && token.start < token.end
                && range.start <= token.start
                && token.end <= range.end
        };
        let tokens = self.tokens.iter().enumerate();
        tokens.filter(|(_, token)| within(token)).map(|(position, _)| position).collect()
    }

    /// The tokens of `kind`, each as a word called `name`.
    fn special(&self, name: &str, kind: TokenKind) -> Vec<WordInfo> {
        let positions = self.tokens.iter().enumerate().filter(|(_, token)| token.kind == kind);
        let word = |(before, (position, token)): (usize, (usize, &super::TokenInfo))| WordInfo {
            text: name.into(),
            start: token.start,
            end: token.end,
            tokens: vec![position],
            occurrence: before + 1,
        };
        positions.enumerate().map(word).collect()
    }

    /// Every place of the prompt where whole words read `name`, numbered from 1.
    fn phrases(&self, name: &str) -> Vec<WordInfo> {
        match name {
            "<start>" => return self.special(name, TokenKind::Start),
            "<end>" => return self.special(name, TokenKind::End),
            _ => {}
        }
        let name = normalized(name);
        let mut found = Vec::new();
        for (first, word) in self.words.iter().enumerate() {
            let mut text = String::new();
            for (last, end) in self.words.iter().enumerate().skip(first) {
                if last > first {
                    self.read_between(self.words[last - 1].end..end.start, &mut text);
                }
                text.push_str(&end.text);
                let here = normalized(&text);
                if here == name {
                    let mut tokens: Vec<usize> =
                        self.words[first..=last].iter().flat_map(|word| word.tokens.iter().copied()).collect();
                    tokens.dedup();
                    let (start, end, occurrence) = (word.start, end.end, found.len() + 1);
                    found.push(WordInfo { text: text.clone(), start, end, tokens, occurrence });
                }
                if here.len() >= name.len() {
                    break;
                }
            }
        }
        if found.is_empty() {
            found = self.punctuation(&name);
        }
        if found.is_empty() { self.with_signs(&name) } else { found }
    }

    /// Every place where tokens read `name` and cut no word in two: names with signs, like `C++` or
    /// `100%`.
    fn with_signs(&self, name: &str) -> Vec<WordInfo> {
        let in_word = |at: usize| self.words.iter().any(|word| word.start < at && at < word.end);
        let text: Vec<_> = self.tokens.iter().filter(|token| token.kind == TokenKind::Text).collect();
        let mut found: Vec<WordInfo> = Vec::new();
        for (first, begin) in text.iter().enumerate().filter(|(_, token)| !in_word(token.start)) {
            for end in &text[first..] {
                let Some(here) = self.text.get(begin.start..end.end) else { continue };
                let read = normalized(here);
                if read == name && !in_word(end.end) && found.last().is_none_or(|last| last.end <= begin.start) {
                    let tokens = self.tokens_within(&(begin.start..end.end));
                    let occurrence = found.len() + 1;
                    found.push(WordInfo { text: here.into(), start: begin.start, end: end.end, tokens, occurrence });
                }
                if read.len() >= name.len() {
                    break;
                }
            }
        }
        found
    }

    /// Adds to `text` what was read of the bytes `range`: spaces, and characters that a token
    /// stands for.
    pub(super) fn read_between(&self, range: std::ops::Range<usize>, text: &mut String) {
        let from = self.tokens.partition_point(|token| token.end <= range.start);
        let tokens = self.tokens[from..].iter().take_while(|token| token.start < range.end);
        let tokens: Vec<_> = tokens.map(|token| token.start..token.end).collect();
        let gap = self.text.get(range.clone()).unwrap_or_default();
        let read = gap
            .char_indices()
            .filter(|(at, c)| c.is_whitespace() || tokens.iter().any(|token| token.contains(&(range.start + at))));
        text.extend(read.map(|(_, c)| c));
    }

    /// Every place where `name` stands between words: punctuation is no word, but can be asked for.
    fn punctuation(&self, name: &str) -> Vec<WordInfo> {
        let in_word = |position: usize| self.words.iter().any(|word| word.tokens.contains(&position));
        let mut runs: Vec<WordInfo> = Vec::new();
        for (position, token) in self.tokens.iter().enumerate() {
            if token.kind != TokenKind::Text || in_word(position) {
                continue;
            }
            match runs.last_mut() {
                // Tokens that touch, or share a character, are one run.
                Some(run) if run.tokens.last() == Some(&(position - 1)) && token.start <= run.end => {
                    run.tokens.push(position);
                    run.end = run.end.max(token.end);
                }
                _ => {
                    let (start, end, tokens) = (token.start, token.end, vec![position]);
                    runs.push(WordInfo { text: String::new(), start, end, tokens, occurrence: 0 });
                }
            }
        }
        let mut found = Vec::new();
        for run in runs {
            if let Some(text) = self.text.get(run.start..run.end).filter(|text| normalized(text) == name) {
                found.push(WordInfo { text: text.into(), occurrence: found.len() + 1, ..run });
            }
        }
        found
    }

    /// For messages: the words that there are, the first few of them.
    fn have(&self) -> String {
        const SHOWN: usize = 20;
        if self.words.is_empty() {
            return "the prompt has no words; <start> and <end> can be chosen".into();
        }
        let mut names: Vec<String> = self.words.iter().take(SHOWN).map(|word| word.label()).collect();
        names.dedup();
        let more = if self.words.len() > SHOWN { ", ..." } else { "" };
        format!("it has: {}{more}", names.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::TokenInfo;

    /// A prompt with one token per word, and the given words at their places in the text.
    fn prompt(text: &str, words: &[&str]) -> PromptInfo {
        let mut tokens = vec![TokenInfo { id: 0, text: String::new(), kind: TokenKind::Start, start: 0, end: 0 }];
        let mut infos: Vec<WordInfo> = Vec::new();
        let mut from = 0;
        for word in words {
            let start = from + text[from..].find(word).unwrap();
            let end = start + word.len();
            let occurrence = 1 + infos.iter().filter(|info| normalized(&info.text) == normalized(word)).count();
            infos.push(WordInfo { text: word.to_string(), start, end, tokens: vec![tokens.len()], occurrence });
            tokens.push(TokenInfo { id: 1, text: String::new(), kind: TokenKind::Text, start, end });
            from = end;
        }
        tokens.push(TokenInfo { id: 2, text: String::new(), kind: TokenKind::End, start: from, end: from });
        PromptInfo { text: text.into(), tokens, words: infos }
    }

    #[test]
    fn a_comma_within_a_word_parts_no_names() {
        let tags = prompt("1,000 frogs, a hat", &["1,000 frogs", "a hat"]);
        assert_eq!(tags.names("1,000 frogs"), ["1,000 frogs"]);
        assert_eq!(tags.names(" a hat,1,000 Frogs , x,"), ["a hat", "1,000 Frogs", "x"]);
        assert_eq!(tags.select("a hat,1,000 frogs").unwrap().len(), 2);
        assert!(tags.select_name("1,000 frogs", &[]).is_ok() && tags.select_name("1", &[]).is_err());
        let words = prompt("a red, green hat", &["a", "red", ",", "green", "hat"]);
        assert_eq!(words.names("red,green"), ["red", "green"]);
        assert_eq!(words.select_name("red, green", &[]).unwrap()[0].tokens.len(), 3);
    }

    fn chosen(choice: &str) -> Result<Vec<(String, usize, Vec<usize>)>, String> {
        let prompt = prompt(
            "a Red apple, and a hair-clip on an apple",
            &["a", "Red", "apple", ",", "and", "a", "hair", "-", "clip", "on", "an", "apple"],
        );
        let words = prompt.select(choice).map_err(|error| error.to_string())?;
        Ok(words.into_iter().map(|word| (word.text, word.occurrence, word.tokens)).collect())
    }

    #[test]
    fn words_phrases_and_occurrences() {
        let word = |text: &str, occurrence, tokens: &[usize]| (text.to_string(), occurrence, tokens.to_vec());
        assert_eq!(chosen("apple").unwrap(), [word("apple", 1, &[3]), word("apple", 2, &[12])]);
        assert_eq!(chosen("APPLE#2, red  apple").unwrap(), [word("apple", 2, &[12]), word("Red apple", 1, &[2, 3])]);
        assert_eq!(chosen("hair-clip").unwrap(), [word("hair-clip", 1, &[7, 8, 9])]);
        assert_eq!(chosen("hair").unwrap(), [word("hair", 1, &[7])]);
        assert_eq!(chosen("<start>,<end>").unwrap(), [word("<start>", 1, &[0]), word("<end>", 1, &[13])]);
        assert_eq!(chosen("apple#1,apple#1").unwrap().len(), 1);
    }

    #[test]
    fn what_stands_for_several_is_refused_with_the_name_of_each() {
        let prompt = prompt("an Apple, an apple and a pear", &["an", "Apple", ",", "an", "apple", "and", "a", "pear"]);
        let one = |name: &str| only(name, prompt.select(name).unwrap()).map(|word| word.tokens);
        assert_eq!(one("apple#2"), Ok(vec![5]));
        assert_eq!(one("apple").unwrap_err(), "\"apple\" stands for 2 words; name one: Apple#1 or apple#2");
        assert_eq!(one("pear,apple#2").unwrap_err(), "\"pear,apple#2\" stands for 2 words; name one: pear or apple#2");
        // What is named can be asked for.
        assert_eq!(one("Apple#1"), Ok(vec![2]));
        assert_eq!([bare("apple#2"), bare("apple"), bare("#2"), bare("a#b")], ["apple", "apple", "#2", "a#b"]);
    }

    /// Signs are no words, and are asked for as they are written all the same.
    #[test]
    fn a_name_with_signs_is_found_as_it_is_written() {
        let mut info = prompt("a C++ book, 100% red", &["a", "C", "++", "book", ",", "100", "%", "red"]);
        info.words.retain(|word| word.text.chars().all(char::is_alphanumeric));
        let tokens = |name: &str| info.select(name).map(|words| words[0].tokens.clone()).map_err(|e| e.to_string());
        assert_eq!(tokens("c++"), Ok(vec![2, 3]));
        assert_eq!(tokens("100%"), Ok(vec![6, 7]));
        // Within a phrase of words the sign between them is passed over.
        assert_eq!(tokens("100% red"), Ok(vec![6, 8]));
        for part in ["++ boo", "00%", "oo"] {
            assert!(tokens(part).is_err(), "{part}");
        }
    }

    #[test]
    fn a_word_beyond_the_last_token_is_cut_off() {
        let info = prompt("a red apple and a zebra", &["a", "red", "apple"]);
        let reason = |name: &str| info.select(name).unwrap_err().to_string();
        assert!(reason("Zebra").contains("\"Zebra\" is cut off"), "{}", reason("Zebra"));
        assert!(reason("zeb").contains("is not in the prompt") && reason("frog").contains("is not in the prompt"));
    }

    #[test]
    fn what_is_not_there_is_named() {
        assert!(chosen("pear").unwrap_err().contains("\"pear\" is not in the prompt; it has: a, Red, apple"));
        assert!(chosen("appl").is_err(), "a part of a word is no word");
        assert!(chosen("apple#3").unwrap_err().contains("2 times; there is no #3"));
        assert!(chosen(" , ").unwrap_err().contains("names no word"));
        assert!(prompt("", &[]).select("x").unwrap_err().to_string().contains("no words"));
    }
}
