//! `attnmap self-attention`: what the UNet ties a place of the image to.

use std::path::PathBuf;

use attnmap::files::Target;
use attnmap::heatmap::{Aggregate, Measure};
use attnmap::pipeline::{Options, Pipeline};
use attnmap::render::missing_glyphs;
use attnmap::run::{Run, SelfAttentionMap, draw_self_attention};
use attnmap::trace::SelfAttention;
use attnmap::{Error, Result};
use bytesize::ByteSize;
use clap::Args;

use super::ask::RegionArgs;
use super::display::DisplayArgs;
use super::inert;
use super::newest::run_folder;
use super::print::{self, Terminal};

/// Show what a point, a box or a mask of a run's image is tied to by self-attention, a map per
/// resolution
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub struct SelfAttentionArgs {
    /// The run's folder; the run must have been made with --self-attention [default: the newest run
    /// in outputs/, also called `last`]
    #[arg(value_name = "RUN")]
    run: Option<PathBuf>,

    #[command(flatten)]
    region: RegionArgs,

    #[command(flatten)]
    display: DisplayArgs,

    /// Where the picture and the numbers go [default: self-attention in the run's folder, with
    /// names that count up]
    #[arg(long, short, value_name = "DIR")]
    out: Option<PathBuf>,

    /// Replace a picture and numbers that are there already
    #[arg(long)]
    force: bool,

    /// Print the numbers as JSON
    #[arg(long)]
    json: bool,
}

const HELP: &str = "\
Examples:
  attnmap generate \"a red apple and a blue heart\" --out fruit --self-attention
  attnmap self-attention fruit --at 40,90
  attnmap self-attention fruit --box 0,0,64,32 --json

A map is the mean of the self-attention of the place's cells over heads, sites and steps; it sums to 1. Each
resolution has its own scale.";

/// Runs the command.
pub fn run(args: &SelfAttentionArgs, terminal: &Terminal) -> anyhow::Result<()> {
    args.region.require()?;
    let display = args.display.display()?;
    inert::at_once(&terminal.given, Some(&display)).iter().for_each(print::warn);
    let run = Run::open(&run_folder(args.run.as_deref())?)?;
    let (trace, picture) = run.read()?;
    let image = trace.about.image;
    if trace.recording.self_attention.is_empty() {
        let reason = match trace.about.is_look() {
            true => "a look at a picture keeps no self-attention; make a run with `generate --self-attention`",
            false => "it keeps no self-attention; make the run again with --self-attention",
        };
        return Err(Error::Trace { file: run.folder.clone(), reason: reason.into() }.into());
    }
    let mask = args.region.mask(image)?;
    let tied = |self_attention: &SelfAttention| -> Result<SelfAttentionMap, Error> {
        let region = args.region.region(self_attention.grid, image, mask.as_ref())?;
        let map = region.tied(self_attention);
        Ok(SelfAttentionMap { grid: self_attention.grid, sites: self_attention.sites, stays: region.share(&map), map })
    };
    let maps = trace.recording.self_attention.iter().map(tied).collect::<Result<Vec<_>, Error>>()?;
    let target = Target::of(args.out.clone(), args.force, || run.folder.join("self-attention"));
    missing_glyphs(&trace.about.prompt.text).iter().for_each(print::warn);
    let (place, bounds) = args.region.place()?;
    let tied = draw_self_attention(&target, (&trace, &picture), &place, bounds, maps, &display)?;
    if args.json {
        return print::json(&tied);
    }
    let mut rows = vec![["grid", "sites", "stays", "peak", "peak at"].map(str::to_owned).to_vec()];
    for map in &tied.maps {
        let peak = map.layout(display.threshold).peak;
        rows.push(vec![
            format!("{}x{}", map.grid.width, map.grid.height),
            map.sites.to_string(),
            print::percent(map.stays),
            peak.map_or_else(|| "-".into(), |peak| print::percent(peak.value)),
            peak.map_or_else(|| "-".into(), |peak| print::pixel(peak.x, peak.y, image)),
        ]);
    }
    let text = format!("{}\n{}\n{}\n", print::table(&rows), tied.picture.display(), tied.numbers.display());
    print::stdout(text.as_bytes())
}

/// Whether what GoCA's maps are made of is kept, and the memory that self-attention may take.
#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("of_self_attention").multiple(true)))]
pub struct GocaArgs {
    /// Keep what GoCA's maps are made of, as `--aggregate goca` does
    ///
    /// Stable Diffusion 1, 2 and XL. Every layer's self-attention is held during a step.
    #[arg(long, help_heading = "What is kept", group = "of_self_attention", hide_short_help = true)]
    keep_goca: bool,

    /// Memory for self-attention while the run goes on
    #[arg(long, help_heading = "What is kept", value_name = "SIZE", default_value = "1GiB")]
    #[arg(value_parser = parse_bytes)]
    pub self_memory: u64,
}

impl GocaArgs {
    /// Whether a run with `options` keeps it, which maps by `how` need.
    pub fn check(&self, pipeline: &Pipeline, options: &Options, how: &Aggregate) -> Result<bool> {
        let wanted = self.keep_goca || how.measure == Measure::Goca;
        if wanted {
            pipeline.plan_goca(options, self.self_memory)?;
        }
        Ok(wanted)
    }
}

/// A number of bytes as written after `--self-memory`: `512MiB`, `2GB`, `1500000`.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let text = text.trim();
    // A lone `k`, `m` or `g` is of 1024, as programs that tell memory have it.
    let lone = text.to_lowercase().ends_with(['k', 'm', 'g']);
    let size: Result<ByteSize, _> = if lone { format!("{text}iB").parse() } else { text.parse() };
    match size {
        Ok(ByteSize(bytes)) if bytes > 0 => Ok(bytes),
        _ => Err("write a size like 512MiB or 2GiB".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::parse_bytes;

    #[test]
    fn sizes_are_bytes() {
        assert_eq!(parse_bytes("1GiB"), Ok(1 << 30));
        assert_eq!(parse_bytes("1.5 MB"), Ok(1_500_000));
        assert_eq!(parse_bytes("700"), Ok(700));
        assert_eq!(
            (parse_bytes("2k"), parse_bytes(" 1.5 G "), parse_bytes("3 MB")),
            (Ok(2048), Ok(3 << 29), Ok(3_000_000))
        );
        for wrong in ["", "GiB", "0", "-1", "1TiB!", "1.2.3"] {
            assert!(parse_bytes(wrong).is_err(), "{wrong}");
        }
    }
}
