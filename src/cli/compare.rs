//! `attnmap compare`: two runs or more on one page.

use super::display::MapArgs;
use super::newest::{OUTPUTS, run_folder, two_runs};
use super::open;
use attnmap::files::{self, Form, Target};
use attnmap::heatmap::Aggregate;
use attnmap::report::{MOST_RUNS, ReportData, compare_runs, differences, from_run_as, relative_address};
use attnmap::run::{self, Run};
use attnmap::trace::{PromptInfo, WordInfo, normalized};
use attnmap::{Error, Result};
use clap::Args;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Put two to eight runs side by side: words aligned, images and maps subtracted
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct CompareArgs {
    /// The runs' folders, cells of galleries among them; `last` is the newest run in outputs/. The
    /// first is the base that the others are compared with [default: the newest but one, and the
    /// newest]
    #[arg(value_name = "RUN", num_args = 0..)]
    runs: Vec<PathBuf>,

    /// The page to write [default: outputs/compare.html, and counts up]
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

    #[command(flatten)]
    maps: MapArgs,
}

const EXAMPLES: &str = "\
Examples:
  attnmap generate \"a red apple to the left of a blue heart on the beach\" --seed 1
  attnmap compare --open
  attnmap compare outputs/*heart-on-the-beach-0 last --out seeds.html
  attnmap compare outputs/*heart-on-the-beach-0 last --aggregate daam --words \"apple,heart\"

Of more than two runs the page shows all in a strip; any of them can be made the base there. Maps are those that
each run shows, unless an option chooses others, for all of them; the runs stay as they are.";

/// Writes the page.
pub fn run(args: &CompareArgs) -> anyhow::Result<()> {
    let out = match &args.out {
        Some(out) => Target::named(out, args.force).file(Form::Page, &run::KIND)?,
        None => {
            let [out] = Target::generated(Path::new(OUTPUTS).join("compare"), args.force).files([".html"])?;
            out
        }
    };
    let folders = folders(&args.runs)?;
    folders.iter().try_for_each(|run| args.has_its_words(run))?;
    let words = args.words(&folders)?;
    let how = args.maps.is_chosen().then(|| args.maps.aggregate()).transpose()?;
    let folder = out.parent().unwrap_or(Path::new(""));
    let page_of = |run: &PathBuf| relative_address(folder, &run.join("report.html"));
    let data: Vec<ReportData> = folders.iter().map(|run| read(run, how.as_ref())).collect::<Result<_>>()?;
    let runs: Vec<_> = data.iter().zip(&folders).map(|(data, run)| (data, page_of(run))).collect();
    let html = compare_runs(&runs, words.as_deref())?;
    files::make_folder_of(&out)?;
    files::write_file(&out, |file| file.write_all(html.as_bytes()))?;
    if args.open {
        open::open(&out);
    }
    let said = |other| differences(&data[0], other, words.as_deref());
    let said: Vec<Vec<String>> = data[1..].iter().map(said).collect();
    if args.json {
        // A name that is no text is written as it is shown.
        let shown = |path: &PathBuf| path.display().to_string();
        let others = folders[1..].iter().zip(&said);
        let others = others.map(|(run, differences)| json!({"run": shown(run), "differences": differences}));
        let others: Vec<Value> = others.collect();
        let mut value = json!({"page": shown(&out), "bytes": html.len(), "differences": said[0]});
        if data.len() > 2 {
            (value["base"], value["others"]) = (json!(shown(&folders[0])), json!(others));
        }
        return super::print::json(&value);
    }
    let mut text = String::new();
    for (run, differences) in folders[1..].iter().zip(&said) {
        if data.len() > 2 {
            text += &format!("{} beside {}\n", run.display(), folders[0].display());
        }
        text += &(differences.join("\n") + "\n\n");
    }
    text += &format!("{}  {:.1} MB\n", out.display(), html.len() as f64 / 1e6);
    super::print::stdout(text.as_bytes())
}

/// The folders of the runs; those that are not named are the newest.
fn folders(named: &[PathBuf]) -> Result<Vec<PathBuf>> {
    if named.len() > MOST_RUNS {
        return Err(Error::input("RUN", format!("two to {MOST_RUNS} runs are compared; {} given", named.len())));
    }
    match named {
        [] | [_] | [_, _] => {
            let (a, b) = two_runs(named.first().map(PathBuf::as_path), named.get(1).map(PathBuf::as_path))?;
            Ok(vec![a, b])
        }
        more => more.iter().map(|run| run_folder(Some(run))).collect(),
    }
}

/// What the page shows of a run, whose folder is named or any file in it.
fn read(run: &Path, how: Option<&Aggregate>) -> Result<ReportData> {
    from_run_as(run, how)
}

impl CompareArgs {
    /// Refuses words of another kind than those of the run in `folder`, which are compared as they
    /// are.
    fn has_its_words(&self, folder: &Path) -> Result<()> {
        let run = Run::open(folder)?;
        let own = run.record.by;
        let asked = self.maps.by_of(run).record.by;
        if asked == own {
            return Ok(());
        }
        let (own, asked, folder) = (own.name(), asked.name(), folder.display());
        let way_out = format!("`attnmap view {folder} --by {asked}` first, or leave it out");
        Err(Error::input("--by", format!("{folder} is a run by {own}, and runs are compared as they are; {way_out}")))
    }

    /// The labels of the chosen words, in lower case; they stand in one of the prompts at least.
    fn words(&self, runs: &[PathBuf]) -> Result<Option<Vec<String>>> {
        let mut refused = None;
        let mut found: Option<Vec<String>> = None;
        for run in runs {
            let prompt = Run::open(run)?.trace()?.about.prompt;
            match self.maps.words(&prompt, &[]) {
                Ok(None) => return Ok(None),
                Ok(Some(chosen)) => {
                    for chosen in &chosen {
                        found.get_or_insert_default().extend(labels(&prompt, chosen)?);
                    }
                }
                Err(error) => refused = Some(error),
            }
        }
        match (found, refused) {
            (None, Some(error)) => Err(error),
            (found, _) => Ok(found),
        }
    }
}

/// The label of `chosen` in lower case, or those of the words in it where it is a phrase of
/// `prompt`.
fn labels(prompt: &PromptInfo, chosen: &WordInfo) -> Result<Vec<String>> {
    let within = |word: &&WordInfo| chosen.start <= word.start && word.end <= chosen.end;
    let labels: Vec<String> = prompt.words.iter().filter(within).map(|word| normalized(&word.label())).collect();
    if labels.is_empty() {
        let name = attnmap::in_quotes(&chosen.text);
        return Err(Error::input("--words", format!("{name} has no word in it, and words are compared; leave it out")));
    }
    Ok(labels)
}
