//! `attnmap trace FOLDER`: captioned pictures become a gallery with a table of which words have
//! a place.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use attnmap::Error;
use attnmap::facts::{Coverage, Covered};
use attnmap::files::Target;
use attnmap::gallery::{Captioned, GalleryEvent, Looks, check_folder, goes_on, read_captioned, settle};
use attnmap::heatmap::Aggregate;
use attnmap::plural;
use attnmap::render::Display;
use attnmap::run;
use attnmap::trace::{Grid, PromptInfo};

use super::expect::Unmet;
use super::inert;
use super::lists;
use super::newest::OUTPUTS;
use super::open;
use super::print::{self, Terminal};
use super::trace::TraceArgs;

/// Rows of the table that are printed; the page and `--json` have all.
const ROWS: usize = 40;

/// Things of the pictures' metadata that are named as not taken.
const LEFT: usize = 12;

/// Runs the command for a folder or list.
pub fn run(args: &TraceArgs, terminal: &Terminal) -> anyhow::Result<()> {
    let one = |option: &str, reason: &str| Err(Error::input(option, reason).into());
    if args.caption.is_some() || args.caption_option.is_some() {
        let image = args.image.display();
        return one(
            "IMAGE",
            &format!("{image}: a folder or list, whose captions lie beside its pictures; leave CAPTION out"),
        );
    }
    if !args.probe.texts().is_empty() {
        return one("--probe", "is for one picture; leave it out");
    }
    if args.concepts.named().is_some() {
        return one("--concepts", "is for one picture; leave it out");
    }
    if !matches!(args.maps.words(&PromptInfo::default(), &[]), Ok(None)) {
        return one("--words", "a gallery holds every word, to be chosen on its page; leave it out");
    }
    if args.output.force {
        return one("--force", "pictures that were looked at are kept; give another --out, or remove the folder first");
    }
    let aggregate = args.maps.aggregate()?;
    let display = args.display.display()?;
    inert::at_once(&terminal.given, Some(&display)).iter().for_each(print::warn);
    let regions = args.regions.chosen(display.threshold)?;
    // A picture may have several captions, each once.
    let pictures = read_captioned(&args.image, !args.no_metadata)?;
    let pictures = lists::once("IMAGE", pictures, |picture: &Captioned| match &picture.caption {
        Ok(caption) => format!("{} ({caption})", picture.picture.display()),
        Err(_) => picture.picture.display().to_string(),
    });
    let seed_given = terminal.given.has("seed");
    let pictures: Vec<Captioned> = pictures
        .into_iter()
        .map(|picture| Captioned { seed: picture.seed.filter(|_| !seed_given), ..picture })
        .collect();
    let uncaptioned: Vec<&String> = pictures.iter().filter_map(|picture| picture.caption.as_ref().err()).collect();
    if uncaptioned.len() == pictures.len() {
        let reason = uncaptioned.first().map_or("", |reason| reason.as_str());
        return one("IMAGE", &format!("{}: no picture has a caption ({reason})", args.image.display()));
    }
    tell(&pictures);
    if let Some(expect) = args.expect.list() {
        let captions: Vec<&str> = pictures.iter().filter_map(|picture| picture.caption.as_deref().ok()).collect();
        expect.check_texts(&captions)?;
    }
    let out = args.output.out.clone().unwrap_or_else(|| place(&args.image, &pictures, (&aggregate, &display)));
    check_folder(&out)?;
    let pipeline = args.model.load(args.size, terminal)?;
    let options = args.look_at_each();
    pipeline.check_look(&options)?;
    let skipped = |said: Option<usize>| {
        said.filter(|&layers| args.clip_skip.is_none() && pipeline.check_clip_skip(layers).is_ok())
    };
    let pictures: Vec<Captioned> =
        pictures.into_iter().map(|picture| Captioned { clip_skip: skipped(picture.clip_skip), ..picture }).collect();
    let size = args.size.map(|[height, width]| Grid::new(height, width));
    size.map_or(Ok(()), |size| pipeline.check_size(size))?;
    let usual = pipeline.default_options();
    let Grid { height, width } = size.unwrap_or(Grid::new(usual.height, usual.width));
    let factor = pipeline.vae_factor();
    // A choice of sites that the network does not have is found now.
    aggregate.choose(&pipeline.sites(height, width), Grid::new(height / factor, width / factor))?;
    aggregate.check_encoder(&PromptInfo::from(&pipeline.tokenize("")?))?;
    std::fs::create_dir_all(&out).map_err(Error::io(&out))?;
    settle(&out, Some(1), (&aggregate, &display), || Ok(1))?;
    let choice = args.model.choice()?;
    let looks = Looks {
        choice: &choice,
        options,
        size,
        aggregate: &aggregate,
        display: &display,
        by: args.maps.by(),
        per_level: !args.output.no_step_maps,
        expect: args.expect.list(),
        regions,
    };
    let bar = terminal.bar(pictures.len() as u64, "pictures");
    let log = !terminal.quiet && !std::io::stderr().is_terminal();
    let made = looks.make(&out, &pictures, &pipeline, &mut |event| {
        match event {
            GalleryEvent::Made(_) => bar.inc(1),
            GalleryEvent::Failed(_, error) => {
                bar.inc(1);
                bar.suspend(|| print::warn(error.to_string()));
            }
            _ => {}
        }
        if log && bar.position() > 0 && bar.position().is_multiple_of(1000) && matches!(event, GalleryEvent::Made(_)) {
            print::note(format!("{} of {} pictures", bar.position(), pictures.len()));
        }
        ControlFlow::Continue(())
    });
    bar.finish_and_clear();
    let (outcome, coverage, expected) = made?;
    let page = out.join("coverage.html");
    if args.output.open {
        open::open(&page);
    }
    if args.output.json {
        // A name that is no text is written as it is shown.
        let [page, gallery] = [page, out.join("index.html")].map(|file| file.display().to_string());
        let mut facts = serde_json::to_value(outcome)?;
        if args.expect.list().is_some() {
            facts["expected"] = serde_json::to_value(expected)?;
        }
        print::json(&serde_json::json!({"page": page, "gallery": gallery, "facts": facts, "coverage": coverage}))?;
    } else {
        let mut line = format!("{} made, {} kept, {} failed", outcome.made, outcome.kept, outcome.failed);
        if args.expect.list().is_some() {
            line += &format!("\n{expected}");
        }
        let files = [page, out.join("index.html")].map(|file| file.display().to_string()).join("\n");
        print::stdout(format!("{}\n{line}\n{files}\n", table(&coverage)).as_bytes())?;
    }
    if outcome.failed > 0 {
        anyhow::bail!("{} could not be looked at; the same command tries again", plural(outcome.failed, "picture"));
    }
    Unmet::count(expected.unmet, expected.met + expected.unmet, "pictures", "as expected")
}

/// Says in summary what is taken of the pictures' own metadata, and what could not be taken.
fn tell(pictures: &[Captioned]) {
    let found: Vec<&Captioned> = pictures.iter().filter(|picture| picture.metadata.is_some()).collect();
    if found.is_empty() {
        return;
    }
    let mut taken = vec![plural(found.len(), "caption")];
    let seeds = found.iter().filter(|picture| picture.seed.is_some()).count();
    taken.extend((seeds > 0).then(|| plural(seeds, "seed")));
    print::note(format!(
        "from the pictures' metadata: {}; what else it says is recorded in each run.json, without effect on the maps",
        taken.join(", ")
    ));
    let mut left: BTreeMap<&str, usize> = BTreeMap::new();
    for what in found.iter().filter_map(|picture| picture.metadata.as_ref()).flat_map(|metadata| &metadata.not_taken) {
        *left.entry(what).or_default() += 1;
    }
    if left.is_empty() {
        return;
    }
    let mut left: Vec<(&str, usize)> = left.into_iter().collect();
    left.sort_by_key(|(_, pictures)| Reverse(*pictures));
    let more = left.len().saturating_sub(LEFT);
    let mut told: Vec<String> =
        left.iter().take(LEFT).map(|(what, count)| format!("{what} ({})", plural(*count, "picture"))).collect();
    told.extend((more > 0).then(|| format!("{more} more (each run.json has its own)")));
    print::note(format!("not taken: {}", told.join("; ")));
}

/// The folder that is named after `image`. There, a look at the same pictures goes on; past any
/// other folder the name counts up.
fn place(image: &Path, pictures: &[Captioned], maps: (&Aggregate, &Display)) -> PathBuf {
    let name = image.file_stem().map_or_else(|| "pictures".into(), |name| name.to_string_lossy().into_owned());
    let target = Target::generated(Path::new(OUTPUTS).join(format!("trace-{}", run::slug(&name))), false);
    let taken = target.taken();
    match taken.iter().find(|folder| goes_on(folder, pictures, maps)) {
        Some(known) => known.clone(),
        None => target.counted(taken.len() + 1),
    }
}

fn table(coverage: &Coverage) -> String {
    let head = ["word", "captions", "has a place", "centre (across, down)", "scatter", "area"];
    let none = || "-".to_owned();
    let row = |word: &Covered| {
        vec![
            print::printable(&word.word),
            word.captions.to_string(),
            if word.judged == 0 { none() } else { format!("{} of {}", word.found, word.judged) },
            word.centre.map_or_else(none, |at| format!("{}, {}", print::percent(at.x), print::percent(at.y))),
            word.scatter.map_or_else(none, print::percent),
            word.area.map_or_else(none, print::percent),
        ]
    };
    let rows: Vec<Vec<String>> =
        std::iter::once(head.map(str::to_owned).to_vec()).chain(coverage.words.iter().take(ROWS).map(row)).collect();
    let more = coverage.words.len().saturating_sub(ROWS);
    let more =
        if more > 0 { format!("and {more} more words (--json and the page have them)\n") } else { String::new() };
    print::table(&rows) + &more
}
