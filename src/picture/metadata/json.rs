//! JSON as other programs write it into pictures, and values of it whatever their type.

use serde_json::Value;

/// The JSON in `text`. Python writes `NaN` and `Infinity`, which JSON does not have: they are null.
pub(super) fn parse(text: &str) -> Result<Value, String> {
    serde_json::from_str(text).or_else(|error| match without_nan(text) {
        Some(text) => serde_json::from_str(&text).map_err(|_| error.to_string()),
        None => Err(error.to_string()),
    })
}

/// `text` with null for what is no number; `None` where there is none of it.
fn without_nan(text: &str) -> Option<String> {
    const WORDS: [&str; 3] = ["-Infinity", "Infinity", "NaN"];
    if !WORDS.iter().any(|word| text.contains(word)) {
        return None;
    }
    let (mut whole, mut rest, mut quoted) = (String::with_capacity(text.len()), text, false);
    while let Some(c) = rest.chars().next() {
        let word = WORDS.iter().find(|word| !quoted && rest.starts_with(**word));
        let taken = match (c, word) {
            (_, Some(word)) => {
                whole.push_str("null");
                rest = &rest[word.len()..];
                continue;
            }
            ('\\', _) if quoted => c.len_utf8() + rest[1..].chars().next().map_or(0, char::len_utf8),
            _ => c.len_utf8(),
        };
        quoted ^= c == '"';
        whole.push_str(&rest[..taken]);
        rest = &rest[taken..];
    }
    Some(whole)
}

/// A finite number, also one that is written as text.
pub(super) fn number(value: &Value) -> Option<f64> {
    let number = value.as_f64().or_else(|| value.as_str()?.trim().parse().ok());
    number.filter(|number| number.is_finite())
}

/// A whole number from 0 on, also one that is written with a point or as text.
pub(super) fn whole(value: &Value) -> Option<u64> {
    let text = || value.as_str()?.trim().parse::<u64>().ok();
    let float = || number(value).filter(|number| number.fract() == 0.0 && (0.0..9e15).contains(number));
    value.as_u64().or_else(text).or_else(|| float().map(|number| number as u64))
}

/// As [`whole`], where it fits.
pub(super) fn count(value: &Value) -> Option<usize> {
    whole(value).and_then(|number| usize::try_from(number).ok())
}

/// A text that is not empty.
pub(super) fn text(value: &Value) -> Option<&str> {
    value.as_str().filter(|text| !text.trim().is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_python_writes_is_read() {
        let read = parse(r#"{"a": [NaN, -Infinity], "b": "NaN \" Infinity", "c\\": Infinity}"#).unwrap();
        assert_eq!(read, json!({"a": [null, null], "b": "NaN \" Infinity", "c\\": null}));
        assert!(parse("{NaN").is_err() && parse("").is_err());
        assert!(parse(&"[".repeat(100_000)).is_err(), "depth is bounded");
    }

    #[test]
    fn numbers_of_every_type() {
        assert_eq!(whole(&json!(u64::MAX)), Some(u64::MAX));
        assert_eq!([whole(&json!(3.0)), whole(&json!(" 3 ")), whole(&json!(-1))], [Some(3), Some(3), None]);
        assert_eq!([whole(&json!(3.5)), whole(&json!([3])), whole(&json!(1e300))], [None; 3]);
        assert_eq!([number(&json!("7.5")), number(&json!("NaN")), number(&json!(null))], [Some(7.5), None, None]);
    }
}
