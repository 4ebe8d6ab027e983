//! `attnmap ask`: which words a place of the image belongs to.

use std::path::{Path, PathBuf};

use attnmap::evidence::record::Evidence;
use attnmap::facts::region::{Part, Place, Region, rank};
use attnmap::picture;
use attnmap::run::Run;
use attnmap::trace::{Grid, Half};
use attnmap::{Error, Result};
use clap::Args;
use image::GrayImage;

use super::display::MapArgs;
use super::newest::run_folder;
use super::print;

/// Rank the words for a point, a box or a mask of a run's image
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  attnmap ask --at 40,90\n  attnmap ask last --box 0,0,64,128 --json")]
pub struct AskArgs {
    /// The run's folder [default: the newest run in outputs/, also called `last`]
    #[arg(value_name = "RUN")]
    run: Option<PathBuf>,

    #[command(flatten)]
    region: RegionArgs,

    #[command(flatten)]
    maps: MapArgs,

    /// Print the table as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct RegionArgs {
    /// A pixel of the image, counted from its top left
    #[arg(long, value_name = "X,Y")]
    at: Option<String>,

    /// A box of the image in pixels: left, top, width, height
    #[arg(long = "box", value_name = "X,Y,W,H")]
    bounds: Option<String>,

    /// A picture whose white pixels are the region, of any size in the image's shape
    #[arg(long, value_name = "FILE")]
    mask: Option<PathBuf>,
}

/// Runs the command.
pub fn run(args: &AskArgs) -> anyhow::Result<()> {
    let run = Run::open(&run_folder(args.run.as_deref())?)?;
    let (trace, _) = run.read()?;
    let words = args.maps.words_of(&trace, Half::Conditional)?.unwrap_or_else(|| trace.words(Half::Conditional));
    let (latent, how) = (trace.about.latent, args.maps.aggregate_of(&run.record)?);
    let mask = args.region.mask(trace.about.image)?;
    args.region.region(latent, trace.about.image, mask.as_ref())?;
    let place = args.region.of_image(trace.about.image, mask.as_ref())?;
    let evidence = Evidence::read(&run.folder, latent)?;
    let causal = |index: usize| {
        let (evidence, causal) = evidence.as_ref()?;
        let name = attnmap::facts::label(&words[index]);
        let place = evidence.words.iter().position(|word| word.word == name)?;
        causal.get(place).map(Vec::as_slice)
    };
    let parts = rank(&trace, &how, &words, &place, &causal)?;
    if args.json { print::json(&parts) } else { print::stdout(table(&parts).as_bytes()) }
}

impl RegionArgs {
    /// The mask of an image of `image` pixels, black and white, where one was given.
    pub fn mask(&self, image: Grid) -> Result<Option<GrayImage>> {
        let Some(path) = &self.mask else { return Ok(None) };
        let mask = picture::read_mask(path, image, "--mask")?;
        mask.warning.iter().for_each(print::warn);
        Ok(Some(picture::mask(&mask.picture, mask.picture.width(), mask.picture.height())))
    }

    /// The place in an image of `image` pixels, whose [`mask`](Self::mask) has been read.
    pub fn of_image(&self, image: Grid, mask: Option<&GrayImage>) -> Result<Place> {
        if let Some(text) = &self.at {
            return Ok(Place::Point(numbers("--at", text, "X,Y")?, image));
        }
        if let Some(text) = &self.bounds {
            let [x, y, width, height] = numbers("--box", text, "X,Y,W,H")?;
            return Ok(Place::Box([x, y, x + width, y + height], image));
        }
        let size = mask.map_or((0, 0), GrayImage::dimensions);
        let inside = mask.map_or_else(Vec::new, |mask| mask.as_raw().iter().map(|&value| value > 0).collect());
        Ok(Place::Mask(inside, Grid::new(size.1 as usize, size.0 as usize)))
    }

    /// The region on `grid` of an image of `image` pixels, whose [`mask`](Self::mask) has been read.
    pub fn region(&self, grid: Grid, image: Grid, mask: Option<&GrayImage>) -> Result<Region> {
        let size = format!("the image has {}x{} pixels", image.width, image.height);
        let path = self.mask.as_deref().unwrap_or(Path::new("")).display();
        self.of_image(image, mask)?.on(grid).ok_or_else(|| match (&self.at, &self.bounds) {
            (Some(text), _) => Error::option("--at", format!("{text} lies outside: {size}")),
            (_, Some(text)) => Error::option("--box", format!("{text} is empty or lies outside: {size}")),
            _ => {
                let reason = format!("{path} is all black or smaller than {}x{}", grid.width, grid.height);
                Error::option("--mask", reason)
            }
        })
    }
}

impl RegionArgs {
    /// What the place is called, and its bounds in pixels: left, top, right, bottom. A mask has none.
    pub fn place(&self) -> Result<(String, Option<[f64; 4]>)> {
        if let Some(text) = &self.at {
            let [x, y] = numbers("--at", text, "X,Y")?.map(f64::floor);
            return Ok((format!("pixel {x}, {y}"), Some([x, y, x + 1.0, y + 1.0])));
        }
        if let Some(text) = &self.bounds {
            let [x, y, width, height] = numbers("--box", text, "X,Y,W,H")?;
            return Ok((format!("box {x}, {y}, {width}, {height}"), Some([x, y, x + width, y + height])));
        }
        let stem = self.mask.as_deref().and_then(Path::file_stem).unwrap_or_default();
        Ok((format!("mask {}", stem.to_string_lossy()), None))
    }
}

/// The numbers that an option was given, separated by commas.
pub(super) fn numbers<const N: usize>(option: &str, text: &str, form: &str) -> Result<[f64; N]> {
    let numbers: Option<Vec<f64>> =
        text.split(',').map(|number| number.trim().parse().ok().filter(|number: &f64| number.is_finite())).collect();
    let numbers = numbers.and_then(|numbers| numbers.try_into().ok());
    numbers.ok_or_else(|| {
        Error::option(option, format!("{} cannot be read; write {form} in pixels", attnmap::in_quotes(text)))
    })
}

fn table(parts: &[Part]) -> String {
    let tested = parts.iter().any(|part| part.causal.is_some());
    let mut head = vec!["word".to_owned(), "share here".into(), "against the image".into()];
    head.extend(tested.then(|| "share of its change".to_owned()));
    let mut rows = vec![head];
    for part in parts {
        let mut row = vec![print::printable(&part.word), print::percent(part.share), format!("{:.2}x", part.lift)];
        let causal = || part.causal.map_or_else(|| "-".into(), print::percent);
        row.extend(tested.then(causal));
        rows.push(row);
    }
    let mut text = print::table(&rows);
    text +=
        "\nShare here: how much of the attention in this place goes to the word; with start, end and padding 100 %.\n";
    text += "Against the image: that, over the word's share of the whole image.\n";
    if parts.iter().any(|part| part.probe) {
        text += &format!("{}\n", print::PROBES);
    }
    text += match tested {
        true => "Share of its change: how much of what cutting the word changes lies in this place.\n",
        false => "Attention shows where, not why; `attnmap explain RUN` tests whether the words mattered here.\n",
    };
    text
}
