//! Where a run goes and what is said of it, for the commands that make runs.

use std::path::{Path, PathBuf};

use attnmap::files::Target;
use attnmap::report;
use attnmap::run::{REGIONS, RunRecord};
use clap::Args;

use super::newest::OUTPUTS;
use super::{open, print};

/// Where a run goes and what is kept of it.
#[derive(Debug, Args)]
#[command(next_help_heading = "Output")]
pub struct OutputArgs {
    /// Where the run goes [default: a folder in outputs/ that is named after its text and seed, and
    /// counts up]
    #[arg(long, short, value_name = "DIR")]
    pub out: Option<PathBuf>,

    /// Replace an existing run; what is not attnmap's in its folder stays
    #[arg(long)]
    pub force: bool,

    /// Open the run's page in the browser
    #[arg(long)]
    pub open: bool,

    /// Keep no maps of single steps: a smaller trace, and no step windows or animations
    #[arg(long)]
    pub no_step_maps: bool,

    /// Print the run's record (run.json)
    #[arg(long)]
    pub json: bool,
}

impl OutputArgs {
    /// Where a run goes that is called `name` where nothing else is said.
    pub fn target(&self, name: &str) -> Target {
        Target::of(self.out.clone(), self.force, || Path::new(OUTPUTS).join(name))
    }

    /// Opens the page of the run in `folder`, where that is asked for.
    pub fn opened(&self, folder: &Path) {
        if self.open {
            open::open(&folder.join("report.html"));
        }
    }
}

/// Brings the list of runs in `outputs/` up to date, where the run in `folder` lies there. A page
/// of the user's stays, and a list that cannot be written is no reason to fail.
pub fn listed(folder: &Path) {
    if folder.parent() == Some(Path::new(OUTPUTS)) {
        report::write_runs(Path::new(OUTPUTS)).ok();
    }
}

/// What of the text the table of words leaves out.
fn unlisted(record: &RunRecord) -> String {
    let left_out = |token: &&str| record.words.iter().all(|word| word.word.label() != format!("<{token}>"));
    let tokens: Vec<&str> = ["start", "end"].into_iter().filter(left_out).collect();
    match tokens[..] {
        [] => "padding and words not listed".into(),
        [one] => format!("the {one} token, padding and words not listed"),
        _ => "the start and end tokens, padding and words not listed".into(),
    }
}

/// The table of words and where the files are.
pub fn summary(folder: &Path, record: &RunRecord) -> String {
    let mut rows = vec![["word", "tokens", "share of attention", "peak", "peak at"].map(str::to_owned).to_vec()];
    for word in record.words.iter().chain(&record.probes) {
        let info = &word.word;
        let layout = &word.layout;
        let at = layout.peak.map_or("-".to_owned(), |peak| print::pixel(peak.x, peak.y, record.image));
        let peak = layout.peak.map_or("-".to_owned(), |peak| print::percent(peak.value));
        let share = print::percent(layout.share);
        rows.push(vec![print::printable(&info.label()), info.tokens.len().to_string(), share, peak, at]);
    }
    let rest = 1.0 - record.words.iter().map(|word| word.layout.share).sum::<f32>();
    let mut text = print::table(&rows);
    text += &format!("The rest, {}, lies on {}.\n\n", print::percent(rest), unlisted(record));
    if !record.probes.is_empty() {
        text.truncate(text.trim_end().len());
        text += &format!("\n{}\n\n", print::PROBES);
    }
    let files = ["image.png", "words.png", "report.html"].map(|name| folder.join(name));
    for file in files.iter().filter(|file| file.is_file()) {
        text += &format!("{}\n", file.display());
    }
    if folder.join(REGIONS).is_dir() {
        text += &format!("{} (each word's region, for other programs)\n", folder.join(REGIONS).display());
    }
    text += &format!("{} (overlays, maps, trace, run.json)\n", folder.display());
    text
}
