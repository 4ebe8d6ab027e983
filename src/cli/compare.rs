//! `attnmap compare`: two runs on one page.

use super::newest::two_runs;
use super::open;
use attnmap::files::{self, Target};
use attnmap::report::{compare_page, differences, from_run, relative_address};
use clap::Args;
use std::path::{Path, PathBuf};

/// Put two runs side by side: words aligned, maps subtracted
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  attnmap generate \"a red apple to the left of a green frog on the beach\" --seed 1\n  attnmap compare --open\n  attnmap compare outputs/*frog-on-the-beach-0 last --out seeds.html"
)]
pub struct CompareArgs {
    /// The first run's folder; `last` is the newest run in outputs/ [default: the newest but one]
    #[arg(value_name = "RUN_A")]
    a: Option<PathBuf>,

    /// The second run's folder [default: the newest that is not the first]
    #[arg(value_name = "RUN_B")]
    b: Option<PathBuf>,

    /// The page to write [default: compare.html, and counts up]
    #[arg(long, short, value_name = "FILE")]
    out: Option<PathBuf>,

    /// Replace an existing page that attnmap wrote
    #[arg(long)]
    force: bool,

    /// Open the page in the browser
    #[arg(long)]
    open: bool,

    /// Print what was written as JSON
    #[arg(long)]
    json: bool,
}

/// Writes the page.
pub fn run(args: &CompareArgs) -> anyhow::Result<()> {
    let [out] = match &args.out {
        Some(out) => Target::named(out, args.force).files([""])?,
        None => Target::generated("compare", args.force).files([".html"])?,
    };
    let (a, b) = two_runs(args.a.as_deref(), args.b.as_deref())?;
    let folder = out.parent().unwrap_or(Path::new(""));
    let pages = [&a, &b].map(|run| relative_address(folder, &run.join("report.html")));
    let (a, b) = (from_run(&a)?, from_run(&b)?);
    let html = compare_page(&a, &b, [pages[0].as_deref(), pages[1].as_deref()])?;
    let differences = differences(&a, &b);
    files::write_file(&out, |file| file.write_all(html.as_bytes()))?;
    if args.open {
        open::open(&out);
    }
    let line = if args.json {
        serde_json::to_string_pretty(
            &serde_json::json!({"page": out, "bytes": html.len(), "differences": differences}),
        )? + "\n"
    } else {
        format!("{}\n\n{}  {:.1} MB\n", differences.join("\n"), out.display(), html.len() as f64 / 1e6)
    };
    super::print::stdout(line.as_bytes())
}
