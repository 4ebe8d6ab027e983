//! Where a run goes and what is said of it, for the commands that make runs.

use std::path::{Path, PathBuf};

use attnmap::run::{self, RunRecord};
use clap::Args;

use super::print;

/// Where a run goes and what is kept of it.
#[derive(Debug, Args)]
#[command(next_help_heading = "Output")]
pub struct OutputArgs {
    /// Where the run goes [default: a folder in outputs/ that is named after its text and seed]
    #[arg(long, short, value_name = "DIR")]
    pub out: Option<PathBuf>,

    /// Replace an existing run
    #[arg(long)]
    pub force: bool,

    /// Keep no maps of single steps: a smaller trace, and no step windows or animations
    #[arg(long)]
    pub no_step_maps: bool,

    /// Print the run's facts as JSON
    #[arg(long)]
    pub json: bool,
}

/// The command line that makes the run of `seed` again: the one that was typed, with this seed alone, and with the prompt in place of
/// the file that it came from.
pub fn command(prompt: &str, seed: u64) -> String {
    let mut words = vec!["attnmap".to_owned()];
    let mut typed = std::env::args().skip(1);
    while let Some(word) = typed.next() {
        match word.as_str() {
            "--seed" | "--images" => drop(typed.next()),
            "--prompt-file" => {
                drop(typed.next());
                words.push(run::quoted(prompt));
            }
            other if other.starts_with("--prompt-file=") => words.push(run::quoted(prompt)),
            "--json" | "--force" | "--quiet" | "-q" => {}
            other if other.starts_with("--seed=") || other.starts_with("--images=") => {}
            _ => words.push(run::quoted(&word)),
        }
    }
    words.extend(["--seed".to_owned(), seed.to_string()]);
    words.join(" ")
}

/// The table of words and where the files are.
pub fn summary(folder: &Path, record: &RunRecord) -> String {
    let mut rows = vec![["word", "tokens", "attention", "peak", "at x, y"].map(str::to_owned).to_vec()];
    for word in record.words.iter().chain(&record.probes) {
        let info = &word.word;
        let label = if info.occurrence > 1 { format!("{}#{}", info.text, info.occurrence) } else { info.text.clone() };
        let layout = &word.layout;
        let at = layout.peak.map_or("-".to_owned(), |peak| format!("{:.2}, {:.2}", peak.x, peak.y));
        let peak = layout.peak.map_or("-".to_owned(), |peak| format!("{:.3}", peak.value));
        let share = format!("{:.1} %", 100.0 * layout.share);
        rows.push(vec![print::printable(&label), info.tokens.len().to_string(), share, peak, at]);
    }
    let rest = 1.0 - record.words.iter().map(|word| word.layout.share).sum::<f32>();
    let mut text = print::table(&rows);
    text += &format!(
        "The rest, {:.1} %, lies on the start and end tokens, padding and words not listed.\n\n",
        100.0 * rest
    );
    if !record.probes.is_empty() {
        text.truncate(text.trim_end().len());
        text += &format!("\n{}\n\n", print::PROBES);
    }
    let files = ["image.png", "words.png", "report.html"].map(|name| folder.join(name));
    for file in files.iter().filter(|file| file.is_file()) {
        text += &format!("{}\n", file.display());
    }
    text += &format!("{} (overlays, maps, trace, run.json)\n", folder.display());
    text
}
