//! `attnmap check`: run folders against their written format.

use std::path::{Path, PathBuf};

use attnmap::report;
use attnmap::run::{self, Run};
use clap::Args;

use super::newest::run_folder;
use super::print;

/// Check run folders against the format of docs/TRACE.md, one line per thing that is wrong
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub struct CheckArgs {
    /// Run folders [default: the newest run in outputs/, also called `last`]
    #[arg(value_name = "RUN")]
    runs: Vec<PathBuf>,

    /// Print what is wrong as JSON
    #[arg(long)]
    json: bool,
}

const HELP: &str = "\
Every number is read: the rows of a trace must sum to the number of steps, shapes and words must be those of
run.json, and every picture must be there. What explain, why, attribute and components left is read too. Exit code
0 when nothing is wrong, 1 when something is.

Examples:
  attnmap check last
  attnmap check last --json";

/// Runs the command.
pub fn run(args: &CheckArgs) -> anyhow::Result<()> {
    let mut checked = Vec::new();
    let (mut lines, mut wrong) = (String::new(), 0);
    let given: Vec<Option<&Path>> = match args.runs.as_slice() {
        [] => vec![None],
        given => given.iter().map(|given| Some(given.as_path())).collect(),
    };
    // What is no run is told of at the end: what was found of the others is not lost.
    let mut refused = Vec::new();
    for given in given {
        let found = run_folder(given).and_then(|folder| Ok((run::check(&folder)?, folder)));
        let (mut faults, folder) = match found {
            Ok(found) => found,
            Err(error) => {
                refused.push(error);
                continue;
            }
        };
        if let Ok(run) = Run::open(&folder) {
            faults.extend(report::faults(&run));
        }
        wrong += faults.len();
        for fault in &faults {
            let line = format!("{}: {}", folder.join(&fault.file).display(), fault.reason);
            // A file may be damaged in its names too: whatever they hold, a fault is one line.
            lines.extend(line.chars().map(|c| if c.is_control() { ' ' } else { c }));
            lines.push('\n');
        }
        if faults.is_empty() {
            lines += &format!("{}: nothing wrong\n", folder.display());
        }
        checked.push(serde_json::json!({"run": folder.display().to_string(), "faults": faults}));
    }
    if args.json {
        lines = serde_json::to_string_pretty(&checked)? + "\n";
    }
    if !checked.is_empty() {
        print::stdout(lines.as_bytes())?;
    }
    print::tell_refused(refused)?;
    match wrong {
        0 => Ok(()),
        1 => Err(anyhow::anyhow!("one thing is wrong")),
        count => Err(anyhow::anyhow!("{count} things are wrong")),
    }
}
