//! `attnmap report`: the interactive page of runs that exist already.

use attnmap::report;
use clap::Args;
use std::path::PathBuf;

/// Write (again) the interactive page of a run
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  attnmap report outputs/a-red-apple-0\n  attnmap report outputs/*/")]
pub struct ReportArgs {
    /// Run folders
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,

    /// Print what was written as JSON
    #[arg(long)]
    json: bool,
}

/// Writes `report.html` into every run folder; it is made of the other files, so an older one is replaced.
pub fn run(args: &ReportArgs) -> anyhow::Result<()> {
    let mut written = Vec::new();
    let mut lines = String::new();
    for folder in &args.runs {
        let (file, bytes) = report::write(folder)?;
        lines += &format!("{}  {:.1} MB\n", file.display(), bytes as f64 / 1e6);
        written.push(serde_json::json!({"run": folder, "report": file, "bytes": bytes}));
    }
    if args.json {
        lines = serde_json::to_string_pretty(&written)? + "\n";
    }
    super::print::stdout(lines.as_bytes())
}
