//! Text as messages and names have it: on one line, in quotation marks, bytes as digits.

/// `text` on one line, for people: its own characters and never escapes of them, but none that
/// could drive the reader's terminal. White space becomes a space; control characters, and those
/// that turn the order of the text around them, become U+FFFD.
///
/// ```
/// assert_eq!(attnmap::printable("\u{938}\u{947}\u{92c}\u{1b}[31m\n!"), "\u{938}\u{947}\u{92c}\u{fffd}[31m !");
/// ```
pub fn printable(text: &str) -> String {
    let turns = |c: char| matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let shown = |c: char| match c {
        c if c.is_whitespace() => ' ',
        c if c.is_control() || turns(c) => '\u{fffd}',
        c => c,
    };
    text.chars().map(shown).collect()
}

/// What a user wrote, in quotation marks for a message: [`printable`], and no longer than 80
/// characters.
pub fn in_quotes(text: impl AsRef<str>) -> String {
    const MOST: usize = 80;
    let text = printable(text.as_ref());
    let more = if text.chars().nth(MOST).is_some() { "..." } else { "" };
    format!("\"{}{more}\"", text.chars().take(MOST).collect::<String>())
}

/// A message of another library on one line: each run of white space is a space.
pub fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// How many of the `thing`, whose plural ends in `s`.
///
/// ```
/// assert_eq!((attnmap::plural(1, "seed"), attnmap::plural(0, "seed")), ("1 seed".into(), "0 seeds".into()));
/// ```
pub fn plural(count: usize, thing: &str) -> String {
    format!("{count} {thing}{}", if count == 1 { "" } else { "s" })
}

/// `bytes` as digits, two per byte, e.g. of a digest that names something.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_two_digits_each_and_a_message_is_one_line() {
        assert_eq!(hex(&[0, 10, 255]), "000aff");
        assert_eq!(one_line(" a\n  b\tc "), "a b c");
    }
}
