//! `attnmap compare`: two runs on one page.

use attnmap::report::{compare_page, differences, from_run};
use attnmap::{Error, files};
use clap::Args;
use std::path::PathBuf;

/// Put two runs side by side: words aligned, maps subtracted
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  attnmap compare outputs/a-red-apple-0 outputs/a-red-apple-1 --out apples.html")]
pub struct CompareArgs {
    /// The first run's folder
    #[arg(value_name = "RUN_A")]
    a: PathBuf,

    /// The second run's folder
    #[arg(value_name = "RUN_B")]
    b: PathBuf,

    /// The page to write
    #[arg(long, short, value_name = "FILE", default_value = "compare.html")]
    out: PathBuf,

    /// Replace an existing page
    #[arg(long)]
    force: bool,

    /// Print what was written as JSON
    #[arg(long)]
    json: bool,
}

/// Writes the page.
pub fn run(args: &CompareArgs) -> anyhow::Result<()> {
    if args.out.exists() && !args.force {
        return Err(Error::option(
            "--out",
            format!("{} exists; choose another name or add --force", args.out.display()),
        )
        .into());
    }
    let (a, b) = (from_run(&args.a)?, from_run(&args.b)?);
    let html = compare_page(&a, &b)?;
    let differences = differences(&a, &b);
    files::write_file(&args.out, |file| file.write_all(html.as_bytes()))?;
    let line = if args.json {
        serde_json::to_string_pretty(
            &serde_json::json!({"page": args.out, "bytes": html.len(), "differences": differences}),
        )? + "\n"
    } else {
        format!("{}\n\n{}  {:.1} MB\n", differences.join("\n"), args.out.display(), html.len() as f64 / 1e6)
    };
    super::print::stdout(line.as_bytes())
}
