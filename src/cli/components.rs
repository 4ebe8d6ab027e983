//! `attnmap components`: the few patterns into which a run's attention falls.

use std::path::PathBuf;

use attnmap::components::{Component, Components, MOST, factorise, head_maps};
use attnmap::run::{COMPONENTS, Run, check_names, write_components};
use attnmap::trace::Half;
use attnmap::{Error, Result};
use clap::Args;

use super::newest::run_folder;
use super::open;
use super::print::{self, Terminal};

/// Find the few patterns into which a run's attention falls, with the heads and words that make
/// each
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub struct ComponentsArgs {
    /// The run's folder [default: the newest run in outputs/, also called `last`]
    #[arg(value_name = "RUN")]
    run: Option<PathBuf>,

    /// How many components
    #[arg(long = "k", short = 'k', value_name = "K", default_value_t = 6)]
    count: usize,

    /// Words whose maps are taken, e.g. "apple,heart" [default: all of the prompt]
    #[arg(long, value_name = "WORDS")]
    words: Option<String>,

    /// Open the run's page in the browser
    #[arg(long)]
    open: bool,

    /// Print what was found as JSON
    #[arg(long)]
    json: bool,
}

const HELP: &str = "\
Every head of every layer has a map for each word. All these maps are written as sums of a few maps, none of
which is ever taken away (non-negative matrix factorisation). A component is named after the word that it
follows most; several may follow one word. The share explained says how much of the maps' squares so many
components hold: where it stops growing there are no more patterns. Picture and numbers are kept in the run's
folder (components.png, components.json), and its page shows them with their heads.

Examples:
  attnmap components
  attnmap components last --k 4
  attnmap components last --k 3 --words \"apple,heart\" --json";

/// Runs the command.
pub fn run(args: &ComponentsArgs, terminal: &Terminal) -> anyhow::Result<()> {
    let run = Run::open(&run_folder(args.run.as_deref())?)?;
    attnmap::report::check_room(&run.folder)?;
    check_names(&run.folder, &[COMPONENTS, "components.png"])?;
    let (trace, image) = run.read()?;
    let words = match &args.words {
        Some(words) => trace.select(Half::Conditional, words)?,
        None => trace.about.prompt.words.clone(),
    };
    if let Some(probe) = words.iter().find(|word| trace.about.prompt.is_probe(word)) {
        let reason = format!("{} is a probe, which no head was given; choose words of the prompt", probe.text);
        return Err(Error::input("--words", reason).into());
    }
    let maps = head_maps(&trace, &words)?;
    let sites: Vec<String> = trace.recording.sites.iter().map(|site| site.path.clone()).collect();
    let bar = terminal.bar(MOST as u64, "factorising");
    let found = factorise(&maps, &sites, args.count, &mut || bar.inc(1));
    bar.finish_and_clear();
    let found = found?;
    let files = write_components(&run.folder, &found, &trace.about.prompt.text, &image, &run.record.display)?;
    attnmap::report::write(&run.folder)?;
    if args.open {
        open::open(&run.folder.join("report.html"));
    }
    if args.json {
        return print::json(&found);
    }
    let files: String = files.iter().map(|file| format!("{}\n", file.display())).collect();
    print::stdout((table(&found)? + "\n" + &files).as_bytes())
}

fn table(found: &Components) -> Result<String> {
    let mut rows = vec![["component", "share", "words", "heads"].map(str::to_owned).to_vec()];
    let words = |component: &Component| {
        let mut words = component.words.clone();
        words.sort_by(|a, b| b.1.total_cmp(&a.1));
        let some = words.iter().filter(|(_, share)| *share >= 0.05).take(3);
        some.map(|(word, share)| format!("{} {}", print::printable(word), print::percent(*share))).collect::<Vec<_>>()
    };
    let heads = |component: &Component| {
        let short = |path: &str| path.replace(".transformer_blocks.0.attn2", "").replace("attentions.", "");
        let some = component.heads.iter().take(2);
        some.map(|(site, head, share)| format!("{}/{head} {}", short(site), print::percent(*share))).collect::<Vec<_>>()
    };
    for component in &found.components {
        rows.push(vec![
            print::printable(&component.name),
            print::percent(component.share),
            words(component).join(", "),
            heads(component).join(", "),
        ]);
    }
    let mut text = print::table(&rows);
    text += "\nShare: of the attention that the components make. Words and heads: their share of the \
    component.\n\nExplained by so many:";
    for (index, share) in found.explained.iter().enumerate() {
        text += &format!("{} {} {}", if index > 0 { "," } else { "" }, index + 1, print::percent(*share));
    }
    Ok(text + "\n")
}
