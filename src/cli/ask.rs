//! `attnmap ask`: which words a place of the image belongs to.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use attnmap::argument::{Argument, MASK, REGION};
use attnmap::evidence::Evidence;
use attnmap::evidence::cause;
use attnmap::facts::region::{Place, Region, RegionWord, by_cause, rank};
use attnmap::facts::versus::versus;
use attnmap::files::Target;
use attnmap::heatmap::Aggregate;
use attnmap::picture;
use attnmap::run::{Run, VersusFiles, draw_versus, quoted};
use attnmap::trace::{Grid, Half, Trace, WordInfo, only};
use attnmap::{Error, Result, in_quotes};
use clap::Args;
use image::GrayImage;

use super::checkpoint::ModelArgs;
use super::display::{HalfArg, MapArgs, threshold_of};
use super::inert;
use super::newest::run_folder;
use super::open;
use super::print::{self, Terminal};

/// Rank the words for a point, a box or a mask of a run's image, or hold two words against each
/// other
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub struct AskArgs {
    /// The run's folder [default: the newest run in outputs/, also called `last`]
    #[arg(value_name = "RUN")]
    run: Option<PathBuf>,

    #[command(flatten)]
    region: RegionArgs,

    /// Rank the words by how much of what cutting each of them changes lies here; words that were
    /// not tested yet are tested first
    #[arg(long, conflicts_with = "versus")]
    cause: bool,

    /// Hold two words against each other, e.g. red,green: where the model looked more for one or
    /// for the other, and what cutting each changes
    #[arg(long, value_name = "WORD,WORD")]
    versus: Option<String>,

    #[command(flatten)]
    maps: MapArgs,

    /// Which half of the guidance batch; the unconditional one needs a run made with
    /// --trace-negative
    #[arg(long, value_name = "HALF", default_value = "conditional", help_heading = "Maps")]
    #[arg(conflicts_with_all = ["cause", "versus"])]
    half: HalfArg,

    /// Share of a map's top at which a word's area begins, 0 to 1 [default: the run's own, usually
    /// 0.4]
    #[arg(long, value_name = "SHARE", help_heading = "Maps", allow_negative_numbers = true)]
    threshold: Option<f32>,

    /// Open the run's page in the browser
    #[arg(long)]
    open: bool,

    /// Print the table as JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    model: ModelArgs,
}

const HELP: &str = "\
Examples:
  attnmap ask --at 40,90
  attnmap ask last --box 0,0,64,128 --json
  attnmap ask last --at 40,90 --cause
  attnmap ask last --versus apple,heart

--cause cuts each word that could be drawn, as `explain` does, and tells which share of all that changes without
it lies at the place. A colour follows its noun, which it works through; both come where the higher share of the
two is. Words that change under a twentieth of the most here come last. ACCURACY.md has how often the noun of the
thing at the place comes first. What is tested is kept in the run's folder and shown on its page.
--versus draws RUN/versus/WORD-WORD.png: the difference of both maps, and of what cutting each changes. Without a
place, its table has the cells where each of the two prevails. A word that the prompt lacks can be one that the run
was asked about (`attnmap probe RUN --words green`); it cannot be cut.";

#[derive(Debug, Args)]
#[group(multiple = false)]
pub struct RegionArgs {
    /// A pixel of the image, counted from its top left
    #[arg(long, value_name = "X,Y")]
    at: Option<String>,

    /// A box of the image in pixels: left, top, width, height
    #[arg(long = "box", value_name = "X,Y,W,H")]
    bounds: Option<String>,

    /// A picture whose white pixels are the region, of any size in the image's shape
    #[arg(long, value_name = "FILE")]
    region: Option<PathBuf>,

    /// The name that --region had; in `generate` a mask says where to paint
    #[arg(long, value_name = "FILE", hide = true)]
    mask: Option<PathBuf>,
}

/// Runs the command.
pub fn run(args: &AskArgs, terminal: &Terminal) -> anyhow::Result<()> {
    inert::at_once(&terminal.given, None).iter().for_each(print::warn);
    if args.versus.is_none() {
        args.region.require()?;
    }
    let run = args.maps.by_of(Run::open(&run_folder(args.run.as_deref())?)?);
    let threshold = threshold_of(args.threshold, &run.record)?;
    let (trace, picture) = run.read()?;
    let how = Aggregate { half: args.half.into(), ..args.maps.aggregate_of(&run.record)? };
    let image = trace.about.image;
    let mask = args.region.mask(image)?;
    let place = if args.region.is_given() {
        args.region.region(trace.about.latent, image, mask.as_ref())?;
        Some(args.region.of_image(image, mask.as_ref())?)
    } else {
        None
    };
    if let Some(both) = &args.versus {
        let words = pair(&trace, both)?;
        let own: Vec<WordInfo> = words.iter().filter(|word| trace.about.prompt.words.contains(word)).cloned().collect();
        if !own.is_empty() {
            test(args, &run, &how, Some(&own), terminal)?;
        }
        let evidence = Evidence::of_run(&run)?;
        let causal = [0, 1].map(|word: usize| Evidence::map_of(evidence.as_ref(), &words[word]));
        let named = place.as_ref().map(|place| Ok::<_, Error>((args.region.place()?.0, place))).transpose()?;
        let found = versus(&trace, &how, &words, named, causal, threshold)?;
        let target = Target::of(None, false, || run.folder.join("versus"));
        let files = draw_versus(&target, (&trace, &picture), found, &run.record.display)?;
        show_page(args, &run);
        return match args.json {
            true => print::json(&files),
            false => print::stdout(both_words(&files).as_bytes()),
        };
    }
    let Some(place) = place else { return Ok(()) };
    let chosen = match trace.half(how.half) {
        Some(_) => args.maps.words_of(&trace, how.half)?,
        None => None, // refused where the words are ranked, with the way out
    };
    if args.cause {
        let own = chosen
            .as_ref()
            .map(|words| words.iter().filter(|word| !trace.about.prompt.is_probe(word)).cloned().collect::<Vec<_>>());
        test(args, &run, &how, own.as_deref(), terminal)?;
    }
    let words = chosen.unwrap_or_else(|| trace.words(how.half));
    // What was tested are words of the prompt.
    let evidence = match how.half {
        Half::Conditional => Evidence::of_run(&run)?,
        Half::Unconditional => None,
    };
    let causal = |index: usize| Evidence::map_of(evidence.as_ref(), &words[index]);
    let mut parts = rank(&trace, &how, &words, &place, threshold, &causal)?;
    if args.cause {
        by_cause(&mut parts, &trace.about.prompt);
    }
    show_page(args, &run);
    match args.json {
        true => print::json(&parts),
        false if args.cause => print::stdout(causes(&parts).as_bytes()),
        false => print::stdout(table(&parts, run.record.image_share.is_some(), how.half).as_bytes()),
    }
}

fn show_page(args: &AskArgs, run: &Run) {
    if args.open {
        open::open(&run.folder.join("report.html"));
    }
}

/// The two words that `--versus` names.
fn pair(trace: &Trace, both: &str) -> Result<[WordInfo; 2]> {
    let names = trace.about.prompt.names(both);
    let [first, second] = names.as_slice() else {
        let reason = format!("{} is not two words; write two with a comma between, such as red,green", in_quotes(both));
        return Err(Error::input("--versus", reason));
    };
    let one = |name: &str| -> Result<WordInfo> {
        let words = trace.select(Half::Conditional, name).map_err(|error| match error {
            Error::Argument { reason, .. } => {
                let way_out = format!("; `attnmap probe RUN --words {}` asks the run about it", quoted(name));
                Error::input("--versus", reason + &way_out)
            }
            other => other,
        })?;
        only(name, words).map_err(|reason| Error::input("--versus", reason))
    };
    let [first, second] = [one(first)?, one(second)?];
    // Refused here too: words are tested before they are held against each other.
    if first == second {
        return Err(Error::input("--versus", "both are the same word; name two, such as red,green"));
    }
    Ok([first, second])
}

/// Tests those of `words` that the run has no causal map of, and keeps what is found in its folder.
/// `None` is all words that could be drawn.
fn test(
    args: &AskArgs,
    run: &Run,
    how: &Aggregate,
    words: Option<&[WordInfo]>,
    terminal: &Terminal,
) -> anyhow::Result<()> {
    let Some(explanation) = cause::missing(run, how, words)? else { return Ok(()) };
    attnmap::report::check_room(&run.folder)?;
    let mut pipeline = args.model.load_of(&run.record, terminal)?;
    let cost = explanation.cost(&pipeline);
    print::note(format!("testing words first, {cost}"));
    let bar = terminal.bar((cost.steps + cost.calls) as u64, "testing");
    let made = explanation.make(&mut pipeline, &mut || {
        bar.inc(1);
        ControlFlow::Continue(())
    });
    bar.finish_and_clear();
    made?;
    attnmap::report::write(&run.folder)?;
    Ok(())
}

impl RegionArgs {
    /// Whether a place is named.
    pub fn is_given(&self) -> bool {
        self.at.is_some() || self.bounds.is_some() || self.picture().is_some()
    }

    /// Refuses a command line without a place.
    pub fn require(&self) -> Result<()> {
        match self.is_given() {
            true => Ok(()),
            false => Err(Error::input("--at", "name a place: --at X,Y or --box X,Y,W,H in pixels, or --region FILE")),
        }
    }

    /// The picture of a region, by the option that it was given with.
    fn picture(&self) -> Option<(Argument, &Path)> {
        let mask = || self.mask.as_deref().map(|path| (MASK, path));
        self.region.as_deref().map(|path| (REGION, path)).or_else(mask)
    }

    /// The mask of an image of `image` pixels, black and white, where one was given.
    pub fn mask(&self, image: Grid) -> Result<Option<GrayImage>> {
        let Some((argument, path)) = self.picture() else { return Ok(None) };
        let mask = picture::read_mask(path, image, argument)?;
        mask.warning.iter().for_each(print::warn);
        Ok(Some(picture::mask(&mask.picture, mask.picture.width(), mask.picture.height())))
    }

    /// The place in an image of `image` pixels, whose [`mask`](Self::mask) has been read.
    pub fn of_image(&self, image: Grid, mask: Option<&GrayImage>) -> Result<Place> {
        if let Some(text) = &self.at {
            return point_at(text, image);
        }
        if let Some(text) = &self.bounds {
            return box_at(text, image);
        }
        let size = mask.map_or((0, 0), GrayImage::dimensions);
        let inside = mask.map_or_else(Vec::new, |mask| mask.as_raw().iter().map(|&value| value > 0).collect());
        Ok(Place::Mask(inside, Grid::new(size.1 as usize, size.0 as usize)))
    }

    /// The region on `grid` of an image of `image` pixels, whose [`mask`](Self::mask) has been
    /// read.
    pub fn region(&self, grid: Grid, image: Grid, mask: Option<&GrayImage>) -> Result<Region> {
        let size = format!("the image has {}x{} pixels", image.width, image.height);
        let (argument, path) = self.picture().unwrap_or((REGION, Path::new("")));
        self.of_image(image, mask)?.on(grid).ok_or_else(|| match (&self.at, &self.bounds) {
            (Some(text), _) => Error::input("--at", format!("{text} lies outside: {size}")),
            (_, Some(text)) => Error::input("--box", format!("{text} is empty or lies outside: {size}")),
            _ => {
                let reason = format!("{} is all black or smaller than {}x{}", path.display(), grid.width, grid.height);
                Error::argument(argument, reason)
            }
        })
    }
}

impl RegionArgs {
    /// What the place is called, and its bounds in pixels: left, top, right, bottom. A mask has
    /// none.
    pub fn place(&self) -> Result<(String, Option<[f64; 4]>)> {
        if let Some(text) = &self.at {
            let [x, y] = numbers("--at", text, "X,Y")?.map(f64::floor);
            return Ok((format!("pixel {x}, {y}"), Some([x, y, x + 1.0, y + 1.0])));
        }
        if let Some(text) = &self.bounds {
            let [x, y, width, height] = numbers("--box", text, "X,Y,W,H")?;
            return Ok((format!("box {x}, {y}, {width}, {height}"), Some([x, y, x + width, y + height])));
        }
        let stem = self.picture().and_then(|(_, path)| path.file_stem()).unwrap_or_default();
        Ok((format!("region {}", stem.to_string_lossy()), None))
    }
}

/// The numbers that an option was given, separated by commas.
fn numbers<const N: usize>(option: &str, text: &str, form: &str) -> Result<[f64; N]> {
    let numbers: Option<Vec<f64>> =
        text.split(',').map(|number| number.trim().parse().ok().filter(|number: &f64| number.is_finite())).collect();
    let numbers = numbers.and_then(|numbers| numbers.try_into().ok());
    numbers.ok_or_else(|| {
        Error::input(option, format!("{} cannot be read; write {form} in pixels", attnmap::in_quotes(text)))
    })
}

/// The numbers of a place in an image of `image` pixels.
///
/// Numbers up to 1 of which one is no whole number are shares of the sides, as `--expect` takes
/// them. As pixels they would all lie in the top left one.
fn pixels<const N: usize>(option: &str, text: &str, form: &str, image: Grid) -> Result<[f64; N]> {
    let numbers = numbers::<N>(option, text, form)?;
    let inside = numbers.iter().all(|number| (0.0..=1.0).contains(number));
    if inside && numbers.iter().any(|number| number.fract() != 0.0) {
        let Grid { width, height } = image;
        let way_out = match N {
            2 => format!("the middle of this {width}x{height} image is {},{}", width / 2, height / 2),
            _ => format!("the whole of this {width}x{height} image is 0,0,{width},{height}"),
        };
        return Err(Error::input(option, format!("{text}: places are pixels: {way_out}")));
    }
    Ok(numbers)
}

/// The point of an image of `image` pixels that `--at` names.
pub(super) fn point_at(text: &str, image: Grid) -> Result<Place> {
    Ok(Place::Point(pixels("--at", text, "X,Y", image)?, image))
}

/// The box of an image of `image` pixels that `--box` names.
pub(super) fn box_at(text: &str, image: Grid) -> Result<Place> {
    let [x, y, width, height] = pixels("--box", text, "X,Y,W,H", image)?;
    Ok(Place::Box([x, y, x + width, y + height], image))
}

/// The words by how much of what cutting each changes lies here.
fn causes(parts: &[RegionWord]) -> String {
    let mut rows = vec![
        ["word", "share of its change", "changes here", "of the change here", "looked at"].map(str::to_owned).to_vec(),
    ];
    for part in parts.iter().filter(|part| part.change.is_some()) {
        let share = |value: Option<f64>| value.map_or_else(|| "-".into(), print::percent);
        let [cause, change, causal] = [part.cause, part.change, part.causal].map(share);
        rows.push(vec![print::printable(&part.word), causal, change, cause, print::percent(part.share)]);
    }
    print::table(&rows)
        + "\nShare of its change: how much of all that cutting the word changes lies here, by which the words rank.\n\
           Changes here: how much the prediction changes here without the word, over the prediction's mean square.\n\
           Of the change here: the word's part in what cutting each of these words changes here, 100 % together.\n\
           Looked at: its share of the attention here.\n"
}

/// Two words against each other.
fn both_words(files: &VersusFiles) -> String {
    let [first, second] = files.versus.words.each_ref().map(|word| print::printable(word));
    let mut rows = vec![vec![
        "place".to_owned(),
        "of the image".into(),
        "word".into(),
        "attention".into(),
        "changes here".into(),
        "share of its change".into(),
    ]];
    for place in &files.versus.places {
        for (word, name) in [&first, &second].into_iter().enumerate() {
            let share = |value: Option<f64>| value.map_or_else(|| "-".into(), print::percent);
            let (place_name, area) = match word {
                0 => (print::printable(&place.place), print::percent(place.area)),
                _ => (String::new(), String::new()),
            };
            rows.push(vec![
                place_name,
                area,
                name.clone(),
                print::percent(place.attention[word]),
                share(place.change[word]),
                share(place.share_of_change[word]),
            ]);
        }
    }
    let untested = files.versus.places.iter().any(|place| place.change.iter().any(Option::is_none));
    let untested = if untested { "A word that the prompt lacks, or a phrase, was not cut.\n" } else { "" };
    format!(
        "{}\nChanges here: how much the prediction changes here without the word, over the prediction's mean \
        square.\n{untested}\n{}\n{}\n",
        print::table(&rows),
        files.picture.display(),
        files.numbers.display()
    )
}

/// The words of a half by their attention; of `joint` attention the image takes a part.
fn table(parts: &[RegionWord], joint: bool, half: Half) -> String {
    let tested = parts.iter().any(|part| part.causal.is_some());
    let mut head = vec!["word".to_owned(), "share here".into()];
    head.extend(joint.then(|| "of the text's".to_owned()));
    head.extend(["× image", "in its area"].map(str::to_owned));
    head.extend(tested.then(|| "share of its change".to_owned()));
    let mut rows = vec![head];
    for part in parts {
        let share = |share: Option<f64>| share.map_or_else(|| "-".into(), print::percent);
        let mut row = vec![print::printable(&part.word), print::percent(part.share)];
        row.extend(joint.then(|| share(part.of_text)));
        row.push(format!("{:.2}×", part.lift));
        row.push(share(part.in_area));
        row.extend(tested.then(|| share(part.causal)));
        rows.push(row);
    }
    let mut text = print::table(&rows);
    let rest = if joint { "start, end, padding and the image itself" } else { "start, end and padding" };
    text += &format!("\nShare here: how much of the attention in this place goes to the word; with {rest} 100 %.\n");
    if joint {
        text += "Of the text's: that, over what all words get here together.\n";
    }
    text += "× image: the share here, over the word's share of the whole image.\n";
    text += "In its area: how much of this place lies where the word's map reaches its threshold.\n";
    if parts.iter().any(|part| part.probe) {
        text += &format!("{}\n", print::PROBES);
    }
    text += match (tested, half) {
        (true, _) => "Share of its change: how much of what cutting the word changes lies in this place.\n",
        (false, Half::Conditional) => {
            "Attention shows where, not why; `attnmap explain RUN` tests whether the words mattered here.\n"
        }
        // Words of the negative prompt are not cut.
        (false, Half::Unconditional) => "Attention shows where, not why.\n",
    };
    text
}
