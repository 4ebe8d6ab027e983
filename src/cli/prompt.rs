//! The prompt of a command, how prompts are read, and the words that are asked about beside them.

use std::borrow::Cow;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

pub use attnmap::maker::{adapter_warnings, missing_word, unread_syntax, warnings};
use attnmap::maker::{concepts_of_run, texts_of_run};
use attnmap::pipeline::Pipeline;
use attnmap::prompt::{Prompt, Syntax};
use attnmap::trace::{PromptInfo, WordInfo, normalized, probe_words};
use attnmap::{Error, Result};
use clap::Args;

use super::display::MapArgs;

/// A prompt: typed, or the text of a file.
#[derive(Debug, Args)]
pub struct PromptArgs {
    /// What the image should show
    #[arg(required_unless_present_any = ["prompt_file", "prompt_option"])]
    prompt: Option<String>,

    /// The prompt as an option, which may begin with a dash
    #[arg(long = "prompt", value_name = "TEXT", conflicts_with_all = ["prompt", "prompt_file"])]
    #[arg(allow_hyphen_values = true, hide = true)]
    prompt_option: Option<String>,

    /// Take the prompt from a text file, all of it
    #[arg(long, value_name = "FILE", conflicts_with = "prompt")]
    prompt_file: Option<PathBuf>,
}

impl PromptArgs {
    /// The prompt's text.
    pub fn text(&self) -> Result<Cow<'_, str>> {
        let (name, text) = match (&self.prompt_file, &self.prompt) {
            (Some(file), _) => ("--prompt-file", Cow::Owned(read_text(file)?)),
            (None, prompt) => {
                let prompt = prompt.as_deref().or(self.prompt_option.as_deref());
                ("PROMPT", Cow::Borrowed(prompt.unwrap_or_default()))
            }
        };
        if text.trim().is_empty() {
            return Err(Error::input(name, "the prompt is empty; say what the image should show"));
        }
        Ok(text)
    }
}

/// The text of `file` without a byte order mark and the line's end after it.
pub fn read_text(file: &Path) -> Result<String> {
    let bytes = attnmap::files::read(file).map_err(|error| match error.kind() {
        ErrorKind::NotFound => Error::input("--prompt-file", format!("no file {}", file.display())),
        _ if file.is_dir() => {
            Error::input("--prompt-file", format!("{} is a folder; give a text file", file.display()))
        }
        _ => Error::input("--prompt-file", format!("{} cannot be read ({error})", file.display())),
    })?;
    let text = attnmap::files::text(bytes)
        .ok_or_else(|| Error::input("--prompt-file", format!("{} is not UTF-8 text", file.display())))?;
    Ok(text.strip_prefix('\u{feff}').unwrap_or(&text).trim_end().to_owned())
}

/// How the texts of prompt and negative prompt are read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Args)]
pub struct SyntaxArgs {
    /// Read (cat:1.3), ((cat)) and [cat] as weights, as AUTOMATIC1111's web UI does
    ///
    /// Without it brackets are text, as in diffusers.
    #[arg(long)]
    pub emphasis: bool,

    /// Read what is longer than 77 tokens in chunks, a new one at BREAK
    ///
    /// At most 16 chunks are read. Without it the rest is cut off, as in diffusers.
    #[arg(long)]
    pub long: bool,
}

impl SyntaxArgs {
    /// The choice as the library takes it.
    pub fn syntax(self) -> Syntax {
        Syntax { emphasis: self.emphasis, long: self.long }
    }
}

/// Words that are not in the prompt.
#[derive(Debug, Clone, Default, PartialEq, Args)]
pub struct ProbeArgs {
    /// Ask the same layers about words that are not in the prompt, separated by commas
    ///
    /// The image stays the same to the bit.
    #[arg(long, value_name = "WORDS", value_parser = parse_probes)]
    probe: Option<Probes>,
}

impl ProbeArgs {
    /// Each word or phrase.
    pub fn texts(&self) -> &[String] {
        self.probe.as_ref().map_or(&[], Probes::texts)
    }
}

/// Words that the outputs of attention are compared with.
#[derive(Debug, Clone, Default, PartialEq, Args)]
#[command(next_help_heading = "What is kept")]
pub struct ConceptArgs {
    /// Keep ConceptAttention's maps, of the prompt or of these words
    ///
    /// Of the prompt's words that say something, or of others: `--concepts=apple,frog`. For Stable
    /// Diffusion 3, FLUX.1 and Z-Image, where attention is joint. The words compete for each place,
    /// and probes with them. The maps are made of them unless --aggregate says otherwise.
    #[arg(long, value_name = "WORDS", num_args = 0..=1, default_missing_value = "", require_equals = true)]
    concepts: Option<String>,
}

impl ConceptArgs {
    /// The words that are named, none where the option stands alone; `None` where it is not given.
    pub fn named(&self) -> Option<Vec<String>> {
        self.concepts.as_deref().map(listed)
    }

    /// The texts that are read in a run of `prompt` that is asked about `probes`, the prompt first.
    /// Only those that are known before its checkpoint is.
    pub fn texts(&self, prompt: &str, probes: &[String]) -> Vec<String> {
        texts_of_run(prompt, self.named().as_deref(), probes)
    }

    /// The concepts of a run of `prompt` that is asked about `probes`; none where the run has none.
    pub fn of(&self, pipeline: &Pipeline, prompt: &Prompt, probes: &[String]) -> Result<Vec<String>> {
        concepts_of_run(pipeline, prompt, self.named().as_deref(), probes)
    }
}

/// Words and phrases separated by commas.
fn listed(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// The words after `--probe`, each once.
#[derive(Debug, Clone, PartialEq)]
pub struct Probes(Vec<String>);

impl Probes {
    /// Each word or phrase.
    pub fn texts(&self) -> &[String] {
        &self.0
    }
}

/// Words and phrases separated by commas, each once.
pub fn parse_probes(text: &str) -> Result<Probes, String> {
    let mut probes: Vec<String> = Vec::new();
    for probe in text.split(',').map(str::trim).filter(|probe| !probe.is_empty()) {
        if !probes.iter().any(|known| normalized(known) == normalized(probe)) {
            probes.push(probe.to_owned());
        }
    }
    if probes.is_empty() {
        return Err("it names no word; give words or phrases separated by commas, like \"shadow,tail\"".into());
    }
    Ok(Probes(probes))
}

/// The chosen words of a prompt and the probes; `None` for all.
pub fn shown_words(
    maps: &MapArgs,
    pipeline: &Pipeline,
    prompt: &PromptInfo,
    probes: &[String],
) -> Result<Option<Vec<WordInfo>>> {
    let probes = probe_words(prompt, &pipeline.probe_infos(probes)?);
    let mut words = maps.words(prompt, &probes)?;
    if let Some(words) = &mut words {
        // Whoever asks about a word wants to see it, whatever else is shown.
        words.extend(probes.into_iter().filter(|probe| !words.contains(probe)).collect::<Vec<_>>());
    }
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_one_prompt() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("prompt.txt");
        std::fs::write(&file, "\u{feff}a red apple,\na green frog\n\n").unwrap();
        assert_eq!(read_text(&file).unwrap(), "a red apple,\na green frog");
        let utf_16 = b"a\0 \0f\0o\0x\0";
        for bytes in [b"\xff\xfe".as_slice(), utf_16.as_slice()] {
            std::fs::write(&file, bytes).unwrap();
            assert!(read_text(&file).unwrap_err().to_string().contains("is not UTF-8 text"));
        }
        assert!(read_text(&folder.path().join("none.txt")).is_err());
        let error = read_text(folder.path()).unwrap_err();
        assert!(
            error.to_string().starts_with("--prompt-file: ") && error.to_string().contains("is a folder"),
            "{error}"
        );
        assert_eq!(error.exit_code(), 2);
    }
}
