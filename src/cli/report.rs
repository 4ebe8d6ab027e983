//! `attnmap report`: the interactive page of runs that exist already.

use super::newest::run_folder;
use super::open;
use super::print;
use attnmap::report;
use clap::Args;
use std::path::PathBuf;

/// Write (again) the interactive page of a run
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  attnmap report --open\n  attnmap report outputs/*/")]
pub struct ReportArgs {
    /// Run folders [default: the newest run in outputs/, also called `last`]
    #[arg(value_name = "RUN")]
    runs: Vec<PathBuf>,

    /// Open the page in the browser, that of the first run
    #[arg(long)]
    open: bool,

    /// Print what was written as JSON
    #[arg(long)]
    json: bool,
}

/// Writes `report.html` into every run folder; it is made of the other files, so an older one is
/// replaced.
pub fn run(args: &ReportArgs) -> anyhow::Result<()> {
    let mut written = Vec::new();
    let mut lines = String::new();
    let mut first = None;
    let named = args.runs.iter().map(|run| run_folder(Some(run)));
    let runs = if args.runs.is_empty() { vec![run_folder(None)?] } else { named.collect::<Result<_, _>>()? };
    // What is no run is told of at the end: `outputs/*/` may hold sweeps and galleries too.
    let mut refused = Vec::new();
    let shown = |path: &PathBuf| path.display().to_string();
    for folder in &runs {
        let (file, bytes) = match report::write(folder) {
            Ok(made) => made,
            Err(error) => {
                refused.push(error);
                continue;
            }
        };
        lines += &format!("{}  {:.1} MB\n", file.display(), bytes as f64 / 1e6);
        written.push(serde_json::json!({"run": shown(folder), "report": shown(&file), "bytes": bytes}));
        first.get_or_insert(file);
    }
    if args.open
        && let Some(page) = &first
    {
        open::open(page);
    }
    if args.json {
        lines = serde_json::to_string_pretty(&written)? + "\n";
    }
    if !written.is_empty() {
        print::stdout(lines.as_bytes())?;
    }
    Ok(print::tell_refused(refused)?)
}
