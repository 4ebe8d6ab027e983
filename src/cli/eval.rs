//! `attnmap eval`: how well the maps find objects whose masks are known.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use attnmap::evidence::scene_folder::read_scenes;
use attnmap::evidence::scenes::{self, Evaluation, Figures, TIMESTEPS};
use attnmap::heatmap;
use clap::Args;
use serde_json::json;

use super::checkpoint::ModelArgs;
use super::print::{self, Terminal};

/// Measure how well the maps find objects whose masks are known
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub struct EvalArgs {
    /// Folder of scenes
    #[arg(default_value = "tests/data/scenes/final")]
    scenes: PathBuf,

    /// Measure every site on its own too
    #[arg(long)]
    sites: bool,

    /// Print all figures as JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    model: ModelArgs,
}

const HELP: &str = "\
A folder of scenes holds either scenes.json (as tests/data/scenes/final in attnmap's repository), or for every
scene NAME.png, its caption in NAME.txt, and a mask NAME-WORD.png (white where the object is) for each word of
the caption that names an object.

Each scene is encoded, noised to timesteps 300, 450 and 600, and shown to the UNet once with its caption. A
word's map is resized to the scene and compared with the mask: IoU of the pixels of at least 0.3, 0.4 and 0.5 of
the map's maximum and of those of at least its mean, average precision over all thresholds, and whether the
maximum lies in the mask (pointing).";

/// Runs the command.
pub fn run(args: &EvalArgs, terminal: &Terminal) -> anyhow::Result<()> {
    let scenes = read_scenes(&args.scenes)?;
    let pipeline = args.model.load(None, terminal)?;
    let first = &scenes[0].image;
    let factor = pipeline.vae_factor();
    let (height, width) = (first.height() as usize, first.width() as usize);
    let sites = pipeline.sites(height, width);
    let mut rules = scenes::standard_rules(&sites, attnmap::trace::Grid::new(height / factor, width / factor));
    if args.sites {
        rules.extend(scenes::site_rules(&sites));
    }
    let bar = terminal.bar(scenes.len() as u64, "scenes");
    let found = scenes::measure(&pipeline, &scenes, &rules, &mut |done| {
        bar.set_position(done as u64);
        ControlFlow::Continue(())
    });
    bar.finish_and_clear();
    let found = found?;
    if args.json {
        print::json(&as_json(&found, &args.scenes, &pipeline))
    } else {
        print::stdout(table(&found).as_bytes())
    }
}

fn as_json(found: &Evaluation, folder: &Path, pipeline: &attnmap::pipeline::Pipeline) -> serde_json::Value {
    let map = |entries: &[(String, Figures)]| {
        entries.iter().map(|(name, figures)| (name.clone(), json!(figures))).collect::<serde_json::Map<_, _>>()
    };
    json!({
        "checkpoint": { "id": pipeline.id(), "digest": pipeline.digest() },
        "scenes": { "folder": folder.display().to_string(), "count": found.scenes, "objects": found.objects },
        "timesteps": TIMESTEPS,
        "default": heatmap::DEFAULT,
        "aggregates": map(&found.rules),
        "baselines": map(&found.baselines),
    })
}

fn table(found: &Evaluation) -> String {
    let head = ["aggregate", "IoU 0.3", "IoU 0.4", "95 %", "IoU 0.5", "IoU mean", "AP", "pointing"];
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
        TIMESTEPS.map(|timestep| timestep.to_string()).join(", "),
    );
    text
}
