//! The `Name: value` pairs of a line of settings.

/// The pairs of a line of settings: `Name: value`, with commas between them. A value with commas or
/// colons is in quotation marks, as JSON writes it, or a list or object of JSON.
pub(super) fn pairs(line: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut rest = line;
    while !rest.is_empty() {
        let in_name = |c: char| c.is_alphanumeric() || matches!(c, '_' | ' ' | '-' | '/');
        let end = rest.find(|c| !in_name(c)).unwrap_or(rest.len());
        let name = rest[..end].trim();
        let Some(after) = rest[end..].strip_prefix(':').filter(|_| name.chars().count() > 1) else {
            // No name: on with what follows the comma.
            rest = rest.split_once(',').map_or("", |(_, after)| after);
            continue;
        };
        let after = after.trim_start();
        let quoted = after.starts_with('"').then(|| closing(after)).flatten();
        let nested = after.starts_with(['[', '{']).then(|| nested_end(after)).flatten();
        let (value, left) = match (quoted, nested) {
            (Some(end), _) => {
                let text = &after[..=end];
                (serde_json::from_str(text).unwrap_or_else(|_| text.to_owned()), &after[end + 1..])
            }
            (None, Some(end)) => (after[..end].to_owned(), &after[end..]),
            (None, None) => {
                let end = after.find(',').unwrap_or(after.len());
                (after[..end].trim().to_owned(), &after[end..])
            }
        };
        found.push((name.to_owned(), value));
        rest = left.split_once(',').map_or("", |(_, after)| after);
    }
    found
}

/// The byte of the quotation mark that closes the one which `text` begins with.
fn closing(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.char_indices().skip(1).find_map(|(at, c)| {
        let closes = c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        closes.then_some(at)
    })
}

/// The bytes of the JSON that `text` begins with.
fn nested_end(text: &str) -> Option<usize> {
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<serde::de::IgnoredAny>();
    values.next()?.ok()?;
    Some(values.byte_offset())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_found_as_the_web_ui_finds_them() {
        let line =
            r#"Steps: 20, Sampler: Euler a, Lora hashes: "a: 1, b: 2", Size: 512x768, Model: x, TI: "say \"no\", so""#;
        let expected = [
            ("Steps", "20"),
            ("Sampler", "Euler a"),
            ("Lora hashes", "a: 1, b: 2"),
            ("Size", "512x768"),
            ("Model", "x"),
            ("TI", "say \"no\", so"),
        ];
        assert_eq!(pairs(line), expected.map(|(key, value)| (key.to_owned(), value.to_owned())));
        for none in ["", "a cat, a dog", "x:", "\"", ",,,", ": a, : b"] {
            assert!(pairs(none).is_empty(), "{none}: {:?}", pairs(none));
        }
        assert_eq!(pairs("ab: \"open, cd: 1").len(), 2);
        // Lists and objects of JSON are one value, and what only looks like one ends at a comma.
        let nested = pairs(r#"ab: [{"cd": "e, f: g"}], hi: {}, jk: ['l', 'm'], no: [1"#);
        let values: Vec<&str> = nested.iter().map(|(_, value)| value.as_str()).collect();
        assert_eq!(values, [r#"[{"cd": "e, f: g"}]"#, "{}", "['l'", "[1"]);
    }
}
