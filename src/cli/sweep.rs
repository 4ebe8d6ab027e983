//! `attnmap sweep`: a prompt's habits over many seeds.

use std::ops::ControlFlow;
use std::path::PathBuf;

use attnmap::facts::lexicon::Role;
use attnmap::facts::sweep::{self, Collector, Sweep};
use attnmap::pipeline::{Keep, Options};
use attnmap::render::{Base, Display, Sheet, Tile, Typesetter, contact_sheet, overlay, write_png};
use attnmap::run::atomic::write_file;
use attnmap::trace::CheckpointInfo;
use attnmap::{Error, heatmap, run};
use clap::Args;
use image::RgbImage;

use super::checkpoint::ModelArgs;
use super::display::MapArgs;
use super::print::{self, Terminal};
use super::prompt::PromptArgs;

/// See where each word of a prompt lands over many seeds: a habit, or one seed's accident
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  attnmap sweep \"a red apple to the left of a green frog\" --seeds 0..32")]
pub struct SweepArgs {
    #[command(flatten)]
    prompt: PromptArgs,

    #[command(flatten)]
    model: ModelArgs,

    #[command(flatten)]
    maps: MapArgs,

    /// Seeds, FROM..TO without TO
    #[arg(long, value_name = "FROM..TO", default_value = "0..32")]
    seeds: String,

    /// Denoising steps [default: the checkpoint's own]
    #[arg(long, value_name = "N")]
    steps: Option<usize>,

    /// Where the result goes [default: outputs/<prompt>-sweep]
    #[arg(long, short, value_name = "DIR")]
    out: Option<PathBuf>,

    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &SweepArgs, terminal: &Terminal) -> anyhow::Result<()> {
    let text = args.prompt.text()?;
    let wrong = || Error::option("--seeds", format!("{:?} is no range; write FROM..TO, like 0..32", args.seeds));
    let (from, to) = args.seeds.split_once("..").ok_or_else(wrong)?;
    let (from, to): (u64, u64) = (from.trim().parse().map_err(|_| wrong())?, to.trim().parse().map_err(|_| wrong())?);
    if from >= to || to - from > 100_000 {
        return Err(wrong().into());
    }
    let aggregate = args.maps.aggregate()?;
    let pipeline = args.model.load(None, terminal)?;
    let defaults = Options { syntax: args.prompt.syntax.syntax(), ..pipeline.default_options() };
    let prompt = pipeline.prompt(&text, &defaults)?;
    let options = |seed| Options { seeds: vec![seed], steps: args.steps.unwrap_or(defaults.steps), ..defaults.clone() };
    pipeline.check(&options(from))?;
    let mut collector = Collector::new(sweep::About {
        prompt: text.to_string(),
        checkpoint: CheckpointInfo { id: pipeline.id().to_owned(), digest: pipeline.digest().to_owned() },
        aggregate: aggregate.to_string(),
    });
    let (mut words, mut sums) = (Vec::new(), Vec::<f32>::new());
    let bar = terminal.bar(to - from, "seeds");
    for seed in from..to {
        let keep = Keep { per_step: aggregate.steps.is_some(), ..Keep::default() };
        let (mut traced, _) = pipeline.trace(&prompt, &options(seed), keep, &mut |_| ControlFlow::Continue(()))?;
        let traced = traced.swap_remove(0);
        let maps = heatmap::aggregate(&traced.trace, &aggregate, &traced.trace.about.prompt.words)?;
        collector.add(seed, &maps);
        let pixels = traced.generation.image.as_raw();
        sums.resize(pixels.len(), 0.0);
        sums.iter_mut().zip(pixels).for_each(|(sum, &value)| *sum += f32::from(value));
        words = maps.chosen.iter().map(|word| (attnmap::facts::label(word), maps.share(word))).collect();
        bar.inc(1);
    }
    bar.finish_and_clear();
    let found = collector.finish();

    let folder = args.out.clone().unwrap_or_else(|| PathBuf::from("outputs").join(run::slug(&text) + "-sweep"));
    std::fs::create_dir_all(&folder).map_err(Error::io(&folder))?;
    let mean = sums.iter().map(|sum| (sum / (to - from) as f32).round() as u8).collect();
    let (width, height) = (defaults.width as u32, defaults.height as u32);
    if let Some(mean) = RgbImage::from_raw(width, height, mean) {
        let subtitle = format!("mean over seeds {}  ·  {aggregate}", args.seeds);
        let sheet = picture(&mean, &collector, &words, &text, &subtitle)?;
        write_png(&folder.join("sweep.png"), &sheet, &[("Description", &*text)], true)?;
    }
    write_file(&folder.join("index.html"), |file| file.write_all(page(&text, &found).as_bytes()))?;
    write_file(&folder.join(sweep::FILE), |file| {
        serde_json::to_writer_pretty(&mut *file, &found)?;
        file.write_all(b"\n")
    })?;
    if args.json {
        return print::json(&found);
    }
    let text = format!("{}\n{}\n", table(&found), folder.join("index.html").display());
    print::stdout(text.as_bytes())
}

/// The mean image and, over it, each word's mean map.
fn picture(
    mean: &RgbImage,
    collector: &Collector,
    words: &[(String, f32)],
    title: &str,
    subtitle: &str,
) -> anyhow::Result<RgbImage> {
    let display = Display::default();
    let base = Base::new(mean, display.overlay_size)?;
    let (maps, grid) = (collector.mean_maps(), collector.grid());
    let highest = |map: &[f32]| map.iter().copied().fold(0.0, f32::max);
    let top = highest(&maps);
    let overlays: Vec<RgbImage> =
        maps.chunks_exact(grid.cells()).map(|map| overlay(&base, map, grid, top, &display)).collect();
    let tiles = words.iter().zip(&overlays).zip(maps.chunks_exact(grid.cells()));
    let tiles =
        tiles.map(|(((label, share), overlay), map)| Tile { label, overlay, top, peak: highest(map), share: *share });
    let tiles: Vec<Tile> = tiles.collect();
    let note = "Image and maps are means over all seeds; one colour scale for all words. Attention shows where the model looked, not why.";
    let sheet = Sheet { title, subtitle, note };
    Ok(contact_sheet(&base, &tiles, &sheet, display.colormap, &mut Typesetter::new()))
}

fn table(found: &Sweep) -> String {
    let head = ["word", "peak", "lands at x, y", "scatter", "neglected"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for word in &found.words {
        rows.push(vec![
            print::printable(&word.word),
            format!("{:.3}", word.peak),
            word.mean.map_or_else(|| "-".into(), |mean| format!("{:.2}, {:.2}", mean.x, mean.y)),
            word.scatter.map_or_else(|| "-".into(), |scatter| format!("{scatter:.2}")),
            word.neglected.map_or_else(|| "-".into(), |share| format!("{:.0} %", 100.0 * share)),
        ]);
    }
    let mut text = print::table(&rows);
    for stated in &found.stated {
        let claim = &stated.claim;
        let line = format!("{} {} {}", claim.subject, claim.relation.words(), claim.object);
        text += &format!(
            "stated: {}: holds in {:.0} % of the seeds, fails in {:.0} %\n",
            print::printable(&line),
            100.0 * stated.agrees,
            100.0 * stated.fails
        );
    }
    text
}

/// One self-contained page: the scatter of each word's centroids, and the table.
fn page(prompt: &str, found: &Sweep) -> String {
    let escape = |text: &str| {
        text.chars()
            .map(|character| match character {
                '&' => "&amp;".into(),
                '<' => "&lt;".into(),
                '>' => "&gt;".into(),
                '"' => "&quot;".into(),
                other => other.to_string(),
            })
            .collect::<String>()
    };
    let mut plots = String::new();
    for word in found.words.iter().filter(|word| word.role != Role::Filler) {
        let name = escape(&word.word);
        let scatter = word.scatter.map_or_else(String::new, |scatter| format!(", scatter {scatter:.2}"));
        plots += &format!("<figure><svg viewBox=\"0 0 100 100\" role=\"img\" aria-label=\"where {name} lands\">");
        plots += "<rect width=\"100\" height=\"100\" class=\"frame\"/>";
        for (point, seed) in word.centroids.iter().zip(&found.seeds) {
            if let Some(point) = point {
                let (x, y) = (100.0 * point.x, 100.0 * point.y);
                plots += &format!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2\"><title>seed {seed}</title></circle>");
            }
        }
        plots += &format!("</svg><figcaption>{name}{scatter}</figcaption></figure>");
    }
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; img-src 'self'\">\
         <title>{title}</title><style>:root{{color-scheme:light dark}}body{{font:1rem system-ui;margin:1rem auto;max-width:70rem;\
         padding:0 1rem}}.plots{{display:flex;flex-wrap:wrap;gap:1rem}}figure{{margin:0;width:10rem}}.frame{{fill:none;\
         stroke:currentColor}}circle{{fill:#d55e00;opacity:.6}}img{{max-width:100%}}pre{{overflow-x:auto}}</style></head><body>\
         <h1>{title}</h1><p>Where each word's attention lies, one dot a seed ({count} seeds).</p><div class=\"plots\">{plots}</div>\
         <pre>{table}</pre><img src=\"sweep.png\" alt=\"mean image and mean maps\"></body></html>\n",
        title = escape(prompt),
        count = found.seeds.len(),
        table = escape(&table(found)),
    )
}
