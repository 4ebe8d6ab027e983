//! Lists of prompts: plain text, CSV or JSON Lines, with settings a line.

use super::plan::parse_seeds;
use crate::{Error, Result};
use serde_json::Value;
use std::path::Path;

/// A prompt and the settings that its line names.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Line {
    /// The prompt.
    pub prompt: String,
    /// The negative prompt.
    pub negative: Option<String>,
    /// Its own seeds in place of the gallery's.
    pub seeds: Option<Vec<u64>>,
    /// Its own number of steps.
    pub steps: Option<usize>,
    /// Its own guidance.
    pub guidance: Option<f64>,
    /// Its own width and height.
    pub size: Option<(usize, usize)>,
    /// Its own sampler.
    pub scheduler: Option<String>,
    /// Whether its brackets are weights.
    pub emphasis: Option<bool>,
    /// Whether it is read beyond one chunk of tokens.
    pub long: Option<bool>,
}

/// The names of a line's settings, as CSV columns and JSON keys.
const KEYS: [&str; 9] = ["prompt", "negative", "seeds", "steps", "guidance", "size", "scheduler", "emphasis", "long"];

/// Reads a list of prompts: `.csv` (with a header), `.jsonl` or `.ndjson` (an object a line), anything else a prompt a line, where
/// empty lines and those that start with `#` are left out.
///
/// # Errors
/// [`Error::Io`] when it cannot be read; [`Error::Option`] naming file, line and what is wrong.
pub fn read_lines(file: &Path) -> Result<Vec<Line>> {
    let text = crate::files::read(file).map_err(Error::io(file))?;
    let text = String::from_utf8(text).map_err(|_| Error::option(file.display().to_string(), "is not UTF-8 text"))?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let at = |line: usize, reason: String| Error::option(format!("{}:{line}", file.display()), reason);
    let kind = file.extension().map(|kind| kind.to_ascii_lowercase());
    match kind.as_deref().and_then(|kind| kind.to_str()) {
        Some("csv") => csv_lines(text, &at),
        Some("jsonl" | "ndjson") => json_lines(text, &at),
        _ => Ok(text
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
            .map(|line| Line { prompt: line.into(), ..Line::default() })
            .collect()),
    }
}

fn csv_lines(text: &str, at: &dyn Fn(usize, String) -> Error) -> Result<Vec<Line>> {
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(text.as_bytes());
    let header = reader.headers().map_err(|e| at(1, e.to_string()))?.clone();
    if !header.iter().any(|name| name == "prompt") {
        return Err(at(1, "the header has no column `prompt`".into()));
    }
    let mut lines = Vec::new();
    for record in reader.records() {
        let record = record.map_err(|e| at(e.position().map_or(0, |p| p.line() as usize), e.to_string()))?;
        let number = record.position().map_or(0, |p| p.line() as usize);
        let mut line = Line::default();
        for (name, value) in header.iter().zip(&record).filter(|(_, value)| !value.is_empty()) {
            set(&mut line, name, value).map_err(|reason| at(number, reason))?;
        }
        lines.push(line);
    }
    Ok(lines)
}

fn json_lines(text: &str, at: &dyn Fn(usize, String) -> Error) -> Result<Vec<Line>> {
    let mut lines = Vec::new();
    for (index, text) in text.lines().enumerate().filter(|(_, text)| !text.trim().is_empty()) {
        let number = index + 1;
        let value: Value = serde_json::from_str(text).map_err(|e| at(number, format!("not JSON: {e}")))?;
        let Value::Object(object) = value else { return Err(at(number, "not a JSON object".into())) };
        if !object.contains_key("prompt") {
            return Err(at(number, "the object has no `prompt`".into()));
        }
        let mut line = Line::default();
        for (name, value) in &object {
            let text = match value {
                Value::Null => continue,
                Value::String(text) => text.clone(),
                Value::Number(number) => number.to_string(),
                Value::Bool(on) => on.to_string(),
                Value::Array(items) => items.iter().map(Value::to_string).collect::<Vec<_>>().join(","),
                other => return Err(at(number, format!("`{name}` cannot be {other}"))),
            };
            set(&mut line, name, &text).map_err(|reason| at(number, reason))?;
        }
        lines.push(line);
    }
    Ok(lines)
}

/// Sets one named value of a line; the error is the reason alone.
fn set(line: &mut Line, name: &str, value: &str) -> Result<(), String> {
    let wrong = |what: &str| format!("`{name}` is {value:?}; {what}");
    match name {
        "prompt" => line.prompt = value.into(),
        "negative" => line.negative = Some(value.into()),
        "seed" | "seeds" => line.seeds = Some(parse_seeds(value).map_err(|_| wrong("write 7, 0..8 or 1,5,9"))?),
        "steps" => line.steps = Some(value.parse().map_err(|_| wrong("write a whole number"))?),
        "guidance" => {
            let number: Option<f64> = value.parse().ok().filter(|number: &f64| number.is_finite());
            line.guidance = Some(number.ok_or_else(|| wrong("write a number"))?);
        }
        "size" => {
            let pair = value.split_once(['x', 'X']);
            let pair = pair.and_then(|(w, h)| Some((w.trim().parse().ok()?, h.trim().parse().ok()?)));
            line.size = Some(pair.ok_or_else(|| wrong("write WIDTHxHEIGHT"))?);
        }
        "scheduler" => line.scheduler = Some(value.into()),
        "emphasis" => line.emphasis = Some(switch(value).ok_or_else(|| wrong("write yes or no"))?),
        "long" => line.long = Some(switch(value).ok_or_else(|| wrong("write yes or no"))?),
        _ => return Err(format!("`{name}` is unknown; use {}", KEYS.join(", "))),
    }
    Ok(())
}

/// `yes` or `no`, `true` or `false`, 1 or 0.
fn switch(value: &str) -> Option<bool> {
    match value.to_ascii_lowercase().as_str() {
        "yes" | "true" | "1" => Some(true),
        "no" | "false" | "0" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, text: &str) -> Result<Vec<Line>> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(name);
        std::fs::write(&file, text).unwrap();
        read_lines(&file)
    }

    #[test]
    fn text_csv_and_json_lines_say_the_same() {
        let text = read("p.txt", "\u{feff}# a list\n\n a frog, green \nसेब\n").unwrap();
        assert_eq!(text.iter().map(|l| l.prompt.as_str()).collect::<Vec<_>>(), ["a frog, green", "सेब"]);
        let csv =
            read("p.csv", "prompt,steps,size,seeds,emphasis\n\"a frog, green\",5,64x32,0..2,yes\nसेब,,,,\n").unwrap();
        let json = read(
            "p.jsonl",
            "{\"prompt\": \"a frog, green\", \"steps\": 5, \"size\": \"64x32\", \"seeds\": [0, 1], \"emphasis\": true}\n\n{\"prompt\": \"सेब\"}\n",
        )
        .unwrap();
        assert_eq!(csv, json);
        assert_eq!((csv[0].emphasis, csv[1].emphasis), (Some(true), None));
        assert_eq!((csv[0].steps, csv[0].size, csv[0].seeds.clone()), (Some(5), Some((64, 32)), Some(vec![0, 1])));
    }

    #[test]
    fn mistakes_are_named_with_their_line() {
        for (name, text, needle) in [
            ("p.csv", "text\nx\n", "p.csv:1: the header has no column `prompt`"),
            ("p.csv", "prompt,steps\nx,many\n", "p.csv:2: `steps` is \"many\""),
            ("p.csv", "prompt,long\nx,perhaps\n", "p.csv:2: `long` is \"perhaps\"; write yes or no"),
            ("p.jsonl", "{\"prompt\": \"x\"}\n{\"steps\": 1}\n", "p.jsonl:2: the object has no `prompt`"),
            ("p.jsonl", "{\"prompt\": \"x\", \"colour\": 1}\n", "p.jsonl:1: `colour` is unknown"),
            ("p.jsonl", "[1]\n", "p.jsonl:1: not a JSON object"),
        ] {
            let error = read(name, text).unwrap_err().to_string();
            assert!(error.contains(needle), "{error}");
        }
    }
}
