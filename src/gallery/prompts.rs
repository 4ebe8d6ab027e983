//! Lists of prompts: plain text, CSV or JSON Lines, with settings per line.

use super::quotes;
use super::seeds::parse_seeds;
use crate::argument::PROMPTS;
use crate::run::Sampling;
use crate::{Error, Result, files};
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::Value;
use std::fmt;
use std::path::Path;

/// A prompt and the settings that its line names.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Line {
    /// The prompt.
    pub prompt: String,
    /// Its own seeds in place of the gallery's.
    pub seeds: Option<Vec<u64>>,
    /// Its own settings in place of the gallery's.
    pub sampling: Sampling,
}

/// Reads a list of prompts: `.csv` (with a header), `.jsonl` or `.ndjson` (an object per line).
/// `.txt` and names without an ending have a prompt per line; empty lines and those that start with
/// `#` are left out.
///
/// # Errors
/// [`Error::Io`] when it cannot be read; [`Error::Argument`] naming file, line and what is wrong.
pub fn read_lines(file: &Path) -> Result<Vec<Line>> {
    let kind = file.extension().map(|kind| kind.to_string_lossy().to_ascii_lowercase());
    let kind = match kind.as_deref() {
        None | Some("txt" | "text") => ListFormat::Text,
        Some("csv") => ListFormat::Csv,
        Some("jsonl" | "ndjson") => ListFormat::Json,
        Some(other) => {
            let reason = format!(
                "{} ends in .{other}; prompts are read from .txt (a prompt a line), .csv (a header, commas) and \
                .jsonl (an object a line)",
                file.display()
            );
            return Err(Error::argument(PROMPTS, reason));
        }
    };
    let text = crate::files::read(file).map_err(Error::io(file))?;
    let text = crate::files::text(text);
    let text = text.ok_or_else(|| Error::input(file.display().to_string(), "is not UTF-8 text"))?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let at = |line: usize, reason: String| Error::input(format!("{}:{line}", file.display()), reason);
    match kind {
        ListFormat::Csv => csv_lines(text, &at),
        ListFormat::Json => json_lines(text, &at),
        ListFormat::Text => text_lines(text, &at),
    }
}

/// How a list is written.
enum ListFormat {
    Text,
    Csv,
    Json,
}

fn text_lines(text: &str, at: &dyn Fn(usize, String) -> Error) -> Result<Vec<Line>> {
    let mut lines = Vec::new();
    for (index, line) in files::lines(text).map(str::trim).enumerate() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        // No prompt looks like this, and a list under a wrong name does.
        if line.starts_with('{') && serde_json::from_str::<Value>(line).is_ok() {
            return Err(at(index + 1, "a JSON object, not a prompt; give the list a name that ends in .jsonl".into()));
        }
        lines.push(Line { prompt: line.into(), ..Line::default() });
    }
    Ok(lines)
}

/// Refuses a setting that is given twice: which of both was meant, nobody knows.
fn once<'a>(names: impl Iterator<Item = &'a str>) -> Result<(), String> {
    let mut seen: Vec<&str> = Vec::new();
    for name in names {
        let name = if name == "seed" { "seeds" } else { name };
        if seen.contains(&name) {
            return Err(format!("`{name}` is given twice"));
        }
        seen.push(name);
    }
    Ok(())
}

/// The entries of a JSON object in order, also those of one name.
struct Entries(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct All;
        impl<'de> Visitor<'de> for All {
            type Value = Entries;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
                let mut all = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    all.push(entry);
                }
                Ok(Entries(all))
            }
        }
        deserializer.deserialize_map(All)
    }
}

fn csv_lines(text: &str, at: &dyn Fn(usize, String) -> Error) -> Result<Vec<Line>> {
    if let Some(line) = quotes::unclosed(text) {
        return Err(at(line, quotes::UNCLOSED.into()));
    }
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(text.as_bytes());
    let header = reader.headers().map_err(|e| at(1, e.to_string()))?.clone();
    if !header.iter().any(|name| name == "prompt") {
        return Err(at(1, "the header has no column `prompt`; commas separate the columns".into()));
    }
    // Spreadsheets write empty columns and rows behind the list.
    once(header.iter().filter(|name| !name.is_empty())).map_err(|reason| at(1, reason))?;
    let mut lines = Vec::new();
    for record in reader.records() {
        let record = record.map_err(|e| at(e.position().map_or(0, |p| p.line() as usize), e.to_string()))?;
        let number = record.position().map_or(0, |p| p.line() as usize);
        if record.iter().all(str::is_empty) {
            continue;
        }
        let mut line = Line::default();
        for (name, value) in header.iter().zip(&record).filter(|(_, value)| !value.is_empty()) {
            set(&mut line, name, value).map_err(|reason| at(number, reason))?;
        }
        lines.push(said(line).map_err(|reason| at(number, reason))?);
    }
    Ok(lines)
}

fn json_lines(text: &str, at: &dyn Fn(usize, String) -> Error) -> Result<Vec<Line>> {
    let mut lines = Vec::new();
    for (index, text) in files::lines(text).enumerate().filter(|(_, text)| !text.trim().is_empty()) {
        let number = index + 1;
        let value: Value = serde_json::from_str(text).map_err(|e| at(number, format!("not JSON: {e}")))?;
        if !value.is_object() {
            return Err(at(number, "not a JSON object".into()));
        }
        let Entries(object) = serde_json::from_str(text).map_err(|e| at(number, format!("not JSON: {e}")))?;
        if !object.iter().any(|(name, _)| name == "prompt") {
            return Err(at(number, "the object has no `prompt`".into()));
        }
        once(object.iter().map(|(name, _)| name.as_str())).map_err(|reason| at(number, reason))?;
        let mut line = Line::default();
        for (name, value) in &object {
            let text = match value {
                Value::Null => continue,
                Value::String(text) => text.clone(),
                Value::Number(number) => number.to_string(),
                Value::Bool(on) => on.to_string(),
                Value::Array(_) if TEXTS.contains(&name.as_str()) => {
                    return Err(at(number, format!("`{name}` is a list; write one text")));
                }
                Value::Array(items) => {
                    let item = |item: &Value| item.as_str().map_or_else(|| item.to_string(), str::to_owned);
                    items.iter().map(item).collect::<Vec<_>>().join(",")
                }
                other => return Err(at(number, format!("`{name}` cannot be {other}"))),
            };
            set(&mut line, name, &text).map_err(|reason| at(number, reason))?;
        }
        lines.push(said(line).map_err(|reason| at(number, reason))?);
    }
    Ok(lines)
}

/// Settings that are texts: a list of them is none.
const TEXTS: [&str; 2] = ["prompt", "negative"];

/// `line`, unless its prompt is empty; the error is the reason alone.
fn said(line: Line) -> Result<Line, String> {
    match line.prompt.trim().is_empty() {
        true => Err("the prompt is empty; say what the image should show, or leave the line out".into()),
        false => Ok(line),
    }
}

/// Sets one named value of a line; the error is the reason alone.
fn set(line: &mut Line, name: &str, value: &str) -> Result<(), String> {
    let wrong = |what: &str| format!("`{name}` is {}; {what}", crate::in_quotes(value));
    // No command line could give it again.
    if value.contains('\0') {
        return Err(format!("`{name}` has a NUL character, which no text has"));
    }
    match name {
        "prompt" => line.prompt = value.into(),
        "seed" | "seeds" => line.seeds = Some(parse_seeds(value).map_err(|_| wrong("write 7, 0..8, 1,5,9 or random"))?),
        name if Sampling::NAMES.contains(&name) => line.sampling.set(name, value).map_err(|what| wrong(&what))?,
        _ => return Err(format!("`{name}` is unknown; use prompt, seeds, {}", Sampling::NAMES.join(", "))),
    }
    Ok(())
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
        assert_eq!(read("prompts", "# a list\n\n a frog, green \nसेब\n").unwrap(), text);
        let utf_16 = read("p.txt", "a\0 \0f\0o\0x\0").unwrap_err();
        assert!(utf_16.to_string().contains("is not UTF-8 text"), "{utf_16}");
        let csv =
            read("p.csv", "prompt,steps,size,seeds,emphasis\n\"a frog, green\",5,64x32,0..2,yes\nसेब,,,,\n").unwrap();
        let json = read(
            "p.jsonl",
            "{\"prompt\": \"a frog, green\", \"steps\": 5, \"size\": \"64x32\", \"seeds\": [0, 1], \"emphasis\": \
            true}\n\n{\"prompt\": \"सेब\"}\n",
        )
        .unwrap();
        assert_eq!(csv, json);
        let (first, second) = (&csv[0].sampling, &csv[1].sampling);
        assert_eq!((first.emphasis, second), (Some(true), &Sampling::default()));
        assert_eq!((first.steps, first.size, csv[0].seeds.clone()), (Some(5), Some([32, 64]), Some(vec![0, 1])));
        let more = read("p.csv", "prompt,spacing,original_size,crop,strength\nx,trailing,64x32,\"1,2\",0.5\n").unwrap();
        let more = &more[0].sampling;
        assert_eq!((more.original_size, more.crop, more.strength), (Some([32, 64]), Some([2, 1]), Some(0.5)));
    }

    #[test]
    fn what_spreadsheets_and_scripts_write_beside_is_passed_over() {
        let csv = read("p.csv", "\u{feff}prompt,seeds,,\r\n\"a \"\"green\"\"\nfrog\",\"0,2\",,\r\n,,,\r\n").unwrap();
        let json =
            read("p.jsonl", "{\"prompt\": \"a \\\"green\\\"\\nfrog\", \"seeds\": [\"0\", 2], \"steps\": null}\n");
        assert_eq!(csv, json.unwrap());
        assert_eq!((csv[0].prompt.as_str(), csv[0].seeds.clone()), ("a \"green\"\nfrog", Some(vec![0, 2])));
        assert_eq!(csv.len(), 1);
    }

    #[test]
    fn mistakes_are_named_with_their_line() {
        for (name, text, needle) in [
            ("p.csv", "text\nx\n", "p.csv:1: the header has no column `prompt`"),
            ("p.csv", "prompt,steps\nx,many\n", "p.csv:2: `steps` is \"many\""),
            ("p.csv", "prompt,scheduler\nx,best\n", "p.csv:2: `scheduler` is \"best\"; choose one of ddim, pndm"),
            ("p.csv", "prompt,long\nx,perhaps\n", "p.csv:2: `long` is \"perhaps\"; write yes or no"),
            ("p.jsonl", "{\"prompt\": \"x\"}\n{\"steps\": 1}\n", "p.jsonl:2: the object has no `prompt`"),
            ("p.jsonl", "{\"prompt\": \"x\", \"colour\": 1}\n", "p.jsonl:1: `colour` is unknown"),
            ("p.jsonl", "[1]\n", "p.jsonl:1: not a JSON object"),
            ("p.csv", "prompt,prompt\na,b\n", "p.csv:1: `prompt` is given twice"),
            ("p.csv", "prompt,seed,seeds\na,1,2\n", "p.csv:1: `seeds` is given twice"),
            ("p.csv", "prompt;seeds\na;1\n", "commas separate the columns"),
            ("p.jsonl", "{\"prompt\": \"x\", \"prompt\": \"y\"}\n", "p.jsonl:1: `prompt` is given twice"),
            ("p.json", "[{\"prompt\": \"x\"}]\n", "p.json ends in .json; prompts are read from .txt"),
            ("p.TSV", "prompt\tseeds\nx\t1\n", "ends in .tsv; prompts are read from .txt"),
            ("p.yaml", "- prompt: x\n", "ends in .yaml"),
            ("p.md", "- x\n", "ends in .md"),
            ("p.txt", "# a list\n{\"prompt\": \"x\"}\n", "p.txt:2: a JSON object, not a prompt"),
            ("p.jsonl", "{\"prompt\": [\"a frog\", \"a cat\"]}\n", "p.jsonl:1: `prompt` is a list; write one text"),
            ("p.jsonl", "{\"prompt\": \"x\", \"negative\": [\"rain\"]}\n", "p.jsonl:1: `negative` is a list"),
            ("p.jsonl", "{\"prompt\": \"x\"}\n{\"prompt\": null}\n", "p.jsonl:2: the prompt is empty"),
            ("p.csv", "prompt,seeds\nx,1\n,2\n", "p.csv:3: the prompt is empty"),
            ("p.csv", "prompt,seeds\nx,1\n\"a fox,2\na dog,3\n", "p.csv:3: a quotation mark opens here"),
        ] {
            let error = read(name, text).unwrap_err().to_string();
            assert!(error.contains(needle), "{error}");
        }
    }
}
