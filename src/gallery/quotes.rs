//! Quotation marks of a CSV list that nobody closed.

/// The line, from 1, of a quotation mark that opens a field and that `text` never closes.
///
/// The csv crate takes all that follows for that one field, and says nothing.
pub(super) fn unclosed(text: &str) -> Option<usize> {
    enum At {
        Start,
        Plain,
        Quoted { from: usize },
        Closed { from: usize },
    }
    let (mut at, mut line) = (At::Start, 1);
    for letter in text.chars() {
        at = match (at, letter) {
            (At::Start, '"') => At::Quoted { from: line },
            (At::Quoted { from }, '"') => At::Closed { from },
            (At::Quoted { from }, _) => At::Quoted { from },
            // Twice in a quoted field is one quotation mark of its text.
            (At::Closed { from }, '"') => At::Quoted { from },
            (_, ',' | '\n' | '\r') => At::Start,
            _ => At::Plain,
        };
        line += usize::from(letter == '\n');
    }
    match at {
        At::Quoted { from } => Some(from),
        _ => None,
    }
}

/// What to say of it.
pub(super) const UNCLOSED: &str =
    "a quotation mark opens here and is not closed; a mark inside a field is written twice";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_quotation_mark_is_found_where_it_opens() {
        for closed in
            ["", "prompt\na fox\n", "prompt\n\"a, b\"\n", "p,q\na \"6\" fox,\"x \"\"y\"\" z\"\n", "p\n\"a\nb\"\n"]
        {
            assert_eq!(unclosed(closed), None, "{closed}");
        }
        assert_eq!(unclosed("prompt,seeds\na fox,0\n\"a cat,1\na dog,2\n"), Some(3));
        assert_eq!(unclosed("prompt\n\"a\nb\"\n\"c \"\" d\n"), Some(4));
        // As the csv crate reads it: the field swallows the row behind it.
        let mut rows = csv::Reader::from_reader("p\n\"a\nb\n".as_bytes());
        assert_eq!(rows.records().count(), 1);
    }
}
