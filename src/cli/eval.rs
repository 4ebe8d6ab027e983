//! `attnmap eval`: how well the maps find objects whose masks are known.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use anyhow::Context;
use attnmap::Error;
use attnmap::evidence::scenes::{self, Evaluation, Figures, Object, Scene, TIMESTEPS};
use attnmap::heatmap;
use clap::Args;
use serde::Deserialize;
use serde_json::json;

use super::generate::ModelArgs;
use super::print::{self, Terminal};

/// Measure how well the maps find objects whose masks are known
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub struct EvalArgs {
    /// Folder of scenes
    #[arg(default_value = "tests/data/scenes/final")]
    scenes: PathBuf,

    #[command(flatten)]
    model: ModelArgs,

    /// Measure every site on its own too
    #[arg(long)]
    sites: bool,

    /// Print all figures as JSON
    #[arg(long)]
    json: bool,
}

const HELP: &str = "\
A folder of scenes holds either scenes.json (as tests/data/scenes/final in attnmap's repository), or for every scene NAME.png, its
caption in NAME.txt, and a mask NAME-WORD.png (white where the object is) for each word of the caption that names an object.

Each scene is encoded, noised to timesteps 300, 450 and 600, and shown to the UNet once with its caption. A word's map is resized to
the scene and compared with the mask: IoU of the pixels of at least 0.3, 0.4 and 0.5 of the map's maximum and of those of at least its
mean, average precision over all thresholds, and whether the maximum lies in the mask (pointing).";

#[derive(Debug, Deserialize)]
struct SceneList {
    scenes: Vec<SceneEntry>,
}

#[derive(Debug, Deserialize)]
struct SceneEntry {
    #[serde(alias = "file")]
    image: PathBuf,
    caption: String,
    #[serde(alias = "objects")]
    nouns: Vec<ObjectEntry>,
}

#[derive(Debug, Deserialize)]
struct ObjectEntry {
    word: String,
    range: Option<[usize; 2]>,
    mask: PathBuf,
}

/// Runs the command.
pub fn run(args: &EvalArgs, terminal: &Terminal) -> anyhow::Result<()> {
    let scenes = read_scenes(&args.scenes)?;
    let pipeline = args.model.load(terminal)?;
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
        "\n{} scenes, {} objects, noised to timesteps {}. In brackets: what needs no attention, and the best that the grid allows.\n",
        found.scenes,
        found.objects,
        TIMESTEPS.map(|timestep| timestep.to_string()).join(", "),
    );
    text
}

/// Reads a folder of scenes; one that is listed in `scenes.json`, or one of pictures, texts and masks.
fn read_scenes(folder: &Path) -> anyhow::Result<Vec<Scene>> {
    let list = folder.join("scenes.json");
    let entries = if list.is_file() {
        let bytes = std::fs::read(&list).map_err(Error::io(&list))?;
        let list: SceneList = serde_json::from_slice(&bytes).with_context(|| format!("{}", list.display()))?;
        list.scenes
    } else {
        find_scenes(folder)?
    };
    if entries.is_empty() {
        let reason = format!("{} holds no scenes; see `attnmap eval --help` for what a folder needs", folder.display());
        return Err(Error::option("SCENES", reason).into());
    }
    entries.into_iter().map(|entry| read_scene(folder, entry)).collect()
}

/// `NAME.png`, `NAME.txt`, `NAME-WORD.png`.
fn find_scenes(folder: &Path) -> anyhow::Result<Vec<SceneEntry>> {
    let files = std::fs::read_dir(folder).map_err(Error::io(folder))?;
    let mut texts = BTreeMap::new();
    let mut pictures = Vec::new();
    for file in files {
        let path = file.map_err(Error::io(folder))?.path();
        let (stem, extension) = (path.file_stem().unwrap_or_default(), path.extension().unwrap_or_default());
        let stem = stem.to_string_lossy().into_owned();
        match extension.to_string_lossy().as_ref() {
            "txt" => drop(texts.insert(stem, path)),
            "png" | "jpg" | "jpeg" | "webp" => pictures.push((stem, path)),
            _ => {}
        }
    }
    pictures.sort();
    let mut scenes = Vec::new();
    for (name, path) in texts {
        let caption = std::fs::read_to_string(&path).map_err(Error::io(&path))?.trim().to_owned();
        let Some((_, image)) = pictures.iter().find(|(stem, _)| *stem == name) else {
            return Err(
                Error::option("SCENES", format!("{} has a caption and no picture beside it", path.display())).into()
            );
        };
        let masks =
            pictures.iter().filter_map(|(stem, path)| Some((stem.strip_prefix(&name)?.strip_prefix('-')?, path)));
        let nouns = masks.map(|(word, mask)| ObjectEntry { word: word.to_owned(), range: None, mask: mask.clone() });
        scenes.push(SceneEntry { image: image.clone(), caption, nouns: nouns.collect() });
    }
    scenes.retain(|scene| !scene.nouns.is_empty());
    Ok(scenes)
}

fn read_scene(folder: &Path, entry: SceneEntry) -> anyhow::Result<Scene> {
    let picture = |path: &Path| -> anyhow::Result<image::DynamicImage> {
        let path = folder.join(path);
        let bytes = std::fs::read(&path).map_err(Error::io(&path))?;
        image::load_from_memory(&bytes).with_context(|| format!("{}", path.display()))
    };
    let image = picture(&entry.image)?.to_rgb8();
    let name = entry.image.display().to_string();
    let mut objects = Vec::new();
    for ObjectEntry { word, range, mask } in entry.nouns {
        let pixels = picture(&mask)?.to_luma8();
        if pixels.dimensions() != image.dimensions() {
            let reason = format!("{} is of another size than {name}", mask.display());
            return Err(Error::option("SCENES", reason).into());
        }
        let found = || entry.caption.to_lowercase().find(&word.to_lowercase()).map(|start| [start, start + word.len()]);
        let Some([start, end]) = range.or_else(found) else {
            return Err(
                Error::option("SCENES", format!("{name}: the caption {:?} has no {word:?}", entry.caption)).into()
            );
        };
        let mask = pixels.as_raw().iter().map(|&value| value > 127).collect();
        objects.push(Object { word, range: start..end, mask });
    }
    Ok(Scene { name, image, caption: entry.caption, objects })
}
