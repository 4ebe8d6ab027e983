//! `attnmap eval`: how well the maps find objects whose masks are known.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use attnmap::evidence::accuracy::{self, DataSet, Evaluation, Extent, Figures, Rule};
use attnmap::heatmap::{self, Aggregate};
use attnmap::pipeline::{LookOptions, Pipeline};
use attnmap::trace::Grid;
use clap::Args;
use serde_json::json;

use super::checkpoint::ModelArgs;
use super::lists;
use super::print::{self, Terminal};

/// Measure how well the maps find objects whose masks are known
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub struct EvalArgs {
    /// Folder of scenes, or of VOC's or COCO's layout
    #[arg(default_value = "tests/data/scenes/final")]
    scenes: PathBuf,

    /// Timesteps of training that the pictures are noised to
    /// [default: 300,450,600 for scenes; 100,500 for VOC and COCO, as GoCA and ConceptAttention are
    /// published]
    #[arg(long, value_name = "T,T", value_delimiter = ',')]
    levels: Vec<usize>,

    /// Only the first N pictures
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,

    /// Measure every site on its own too
    #[arg(long)]
    sites: bool,

    /// Measure GoCA's maps too (Stable Diffusion 1, 2 and XL)
    #[arg(long)]
    goca: bool,

    /// Memory for the self-attention that GoCA's maps need
    #[arg(long, value_name = "SIZE", default_value = "1GiB", requires = "goca")]
    #[arg(value_parser = super::self_attention::parse_bytes)]
    self_memory: u64,

    /// Print all figures as JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    model: ModelArgs,
}

const HELP: &str = "\
Examples:
  attnmap eval
  attnmap eval VOCdevkit/VOC2012 --model runwayml/stable-diffusion-v1-5 --limit 200 --json
  attnmap eval coco2017 --model ./model.safetensors --levels 100

Three layouts are read:
  scenes  scenes.json (as tests/data/scenes/final in attnmap's repository), or for every scene NAME.png, its caption
          in NAME.txt, and a mask NAME-WORD.png (white where the object is) for each word that names an object
  VOC     JPEGImages, SegmentationClass, ImageSets/Segmentation/val.txt; classes.txt may name other classes
  COCO    annotations/instances_val2017.json, and pictures in val2017 or images/val2017

Pictures of VOC and COCO are brought to the checkpoint's own size, and their caption is the names of the classes in
them. Each picture is encoded, noised to some timesteps, and shown to the denoiser once with its caption. A word's
map is resized to the picture and compared with the mask: IoU of the pixels of at least 0.3, 0.4 and 0.5 of the map's
maximum and of those of at least its mean, average precision over all thresholds, and whether the maximum lies in the
mask (pointing). Over classes: mIoU of the highest map on pixels of any class, and with the background as a class.";

/// Runs the command.
pub fn run(args: &EvalArgs, terminal: &Terminal) -> anyhow::Result<()> {
    // A folder that cannot be read is told before the checkpoint is loaded.
    let data = DataSet::open(&args.scenes)?;
    let pipeline = args.model.load(None, terminal)?;
    let own = pipeline.default_options();
    let first = data.scene(0, Grid::new(own.height, own.width))?.image;
    let factor = pipeline.vae_factor();
    let (height, width) = (first.height() as usize, first.width() as usize);
    let sites = pipeline.sites(height, width);
    let mut rules = accuracy::standard_rules(&sites, Grid::new(height / factor, width / factor));
    if args.sites {
        rules.extend(accuracy::site_rules(&sites));
    }
    if args.goca {
        let look = pipeline.look_run(Grid::new(height, width), &LookOptions::default());
        pipeline.plan_goca(&look, args.self_memory)?;
        rules.push(Rule { name: "goca".into(), aggregate: Aggregate::named("goca")? });
    }
    let levels = match &args.levels[..] {
        [] => data.levels(),
        own => lists::once("--levels", own.to_vec(), ToString::to_string),
    };
    pipeline.check_look(&LookOptions { levels: levels.clone(), ..LookOptions::default() })?;
    let extent = Extent { levels, pictures: args.limit.map_or(data.len(), |limit| data.len().min(limit as usize)) };
    let bar = terminal.bar(extent.pictures as u64, "pictures");
    let found = accuracy::measure(&pipeline, &data, &extent, &rules, &mut |done| {
        bar.set_position(done as u64);
        ControlFlow::Continue(())
    });
    bar.finish_and_clear();
    let found = found?;
    if args.json {
        print::json(&as_json(&found, &args.scenes, (&data, &extent), &pipeline))
    } else {
        print::stdout(table(&found, &extent.levels).as_bytes())
    }
}

fn as_json(
    found: &Evaluation,
    folder: &Path,
    (data, extent): (&DataSet, &Extent),
    pipeline: &Pipeline,
) -> serde_json::Value {
    let map = |entries: &[(String, Figures)]| {
        entries.iter().map(|(name, figures)| (name.clone(), json!(figures))).collect::<serde_json::Map<_, _>>()
    };
    json!({
        "checkpoint": { "id": pipeline.id(), "digest": pipeline.digest() },
        "scenes": {
            "folder": folder.display().to_string(), "layout": data.layout(),
            "count": found.scenes, "objects": found.objects,
        },
        "timesteps": extent.levels,
        "default": heatmap::DEFAULT,
        "aggregates": map(&found.rules),
        "baselines": map(&found.baselines),
    })
}

fn table(found: &Evaluation, levels: &[usize]) -> String {
    let head = [
        "aggregate",
        "IoU 0.3",
        "IoU 0.4",
        "95 %",
        "IoU 0.5",
        "IoU mean",
        "AP",
        "pointing",
        "mIoU argmax",
        "with background",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    let row = |name: String, figures: &Figures| {
        let mean = &figures.mean;
        let number = |value: f64| format!("{value:.3}");
        let [low, high] = figures.interval;
        vec![
            name,
            number(mean.iou_03),
            number(mean.iou_04),
            format!("{low:.3} to {high:.3}"),
            number(mean.iou_05),
            number(mean.iou_mean),
            number(mean.average_precision),
            number(mean.pointing),
            number(figures.classes.argmax),
            number(figures.classes.with_background),
        ]
    };
    for (name, figures) in &found.rules {
        let mark = if name == heatmap::DEFAULT { " (default)" } else { "" };
        rows.push(row(format!("{name}{mark}"), figures));
    }
    rows.extend(found.baselines.iter().map(|(name, figures)| row(format!("[{name}]"), figures)));
    let mut text = print::table(&rows);
    text += &format!(
        "\n{} scenes, {} objects, noised to timesteps {}. In brackets: what needs no attention, and the best that \
        the grid allows.\n",
        found.scenes,
        found.objects,
        levels.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    );
    text
}
