//! The prompt of a command, and how prompts are read.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use attnmap::prompt::Syntax;
use attnmap::{Error, Result};
use clap::Args;

/// A prompt: typed, or the text of a file.
#[derive(Debug, Args)]
pub struct PromptArgs {
    /// What the image should show
    #[arg(required_unless_present = "prompt_file")]
    prompt: Option<String>,

    /// Take the prompt from a text file, all of it
    #[arg(long, value_name = "FILE", conflicts_with = "prompt")]
    prompt_file: Option<PathBuf>,

    #[command(flatten)]
    pub syntax: SyntaxArgs,
}

impl PromptArgs {
    /// The prompt's text.
    pub fn text(&self) -> Result<Cow<'_, str>> {
        let (name, text) = match (&self.prompt_file, &self.prompt) {
            (Some(file), _) => ("--prompt-file", Cow::Owned(read_text(file)?)),
            (None, prompt) => ("PROMPT", Cow::Borrowed(prompt.as_deref().unwrap_or_default())),
        };
        if text.trim().is_empty() {
            return Err(Error::option(name, "the prompt is empty; say what the image should show"));
        }
        Ok(text)
    }
}

/// The text of `file` without a byte order mark and the line's end after it.
fn read_text(file: &Path) -> Result<String> {
    let bytes = std::fs::read(file).map_err(Error::io(file))?;
    let text = String::from_utf8(bytes)
        .map_err(|_| Error::option("--prompt-file", format!("{} is not UTF-8 text", file.display())))?;
    Ok(text.strip_prefix('\u{feff}').unwrap_or(&text).trim_end().to_owned())
}

/// How the texts of prompt and negative prompt are read.
#[derive(Debug, Clone, Copy, Args)]
pub struct SyntaxArgs {
    /// Read (cat:1.3), ((cat)) and [cat] as weights, as AUTOMATIC1111's web UI does; without it brackets are text, as in diffusers
    #[arg(long)]
    pub emphasis: bool,

    /// Read what is longer than the text encoder's 77 tokens in chunks, a new one at BREAK; without it the rest is cut off, as in diffusers
    #[arg(long)]
    pub long: bool,
}

impl SyntaxArgs {
    /// The choice as the library takes it.
    pub fn syntax(self) -> Syntax {
        Syntax { emphasis: self.emphasis, long: self.long }
    }
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
        std::fs::write(&file, b"\xff\xfe").unwrap();
        assert!(read_text(&file).unwrap_err().to_string().contains("is not UTF-8 text"));
        assert!(read_text(&folder.path().join("none.txt")).is_err());
    }
}
