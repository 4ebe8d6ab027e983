//! `attnmap models`: lists the checkpoints at hand, and describes one.

use super::checkpoint::ChangeArgs;
use super::inert;
use super::print::{self, Terminal};
use attnmap::Error;
use attnmap::argument::MODEL;
use attnmap::checkpoint::{
    CachedPipeline, Changes, Checkpoint, Description, HubOptions, OpenOptions, Part, PartDescription, Source,
    cached_pipelines,
};
use attnmap::pipeline::{LoadOptions, MemoryPlan, PartMemory};
use attnmap::plural;
use attnmap::trace::AttentionKind;
use candle_core::DType;
use serde_json::{Value, json};
use std::fmt::Write as _;

/// List the checkpoints at hand (the embedded one and those in the hub cache), or describe one.
#[derive(Debug, Clone, clap::Args)]
#[command(
    after_help = "Examples:\n  attnmap models\n  attnmap models embedded --json\n  attnmap models ./model.safetensors"
)]
pub struct ModelsArgs {
    /// The checkpoint to describe: `embedded`, a folder, a single .safetensors file, or
    /// owner/name[/file.safetensors][@revision] from the hub cache. Nothing is downloaded.
    pub name: Option<String>,
    #[command(flatten)]
    changes: ChangeArgs,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Runs the subcommand.
///
/// # Errors
/// When the named checkpoint cannot be opened, or standard output cannot be written.
pub fn run(args: &ModelsArgs, terminal: &Terminal) -> anyhow::Result<()> {
    inert::at_once(&terminal.given, None).iter().for_each(print::warn);
    let text = match &args.name {
        Some(name) => {
            let checkpoint = open(name, args.changes.changes())?;
            let (description, plans) = (checkpoint.describe()?, plans(&checkpoint)?);
            if args.json {
                let mut all = json!(description);
                all["memory"] = json!({"f32": plans[0], "bf16": plans[1]});
                pretty(&all)?
            } else {
                page(&description) + &memory(&plans)
            }
        }
        None => {
            let entries = entries();
            if args.json { pretty(&Value::from_iter(entries.iter().map(ListedModel::json)))? } else { table(&entries) }
        }
    };
    super::print::stdout(text.as_bytes())
}

fn pretty(value: &Value) -> anyhow::Result<String> {
    Ok(serde_json::to_string_pretty(value)? + "\n")
}

fn open(name: &str, changes: Changes) -> attnmap::Result<Checkpoint> {
    let hub = HubOptions { offline: Some(true), ..Default::default() };
    let options = OpenOptions { changes, hub, ..Default::default() };
    // What is named here has no option.
    let as_named = |error| match error {
        Error::Argument { argument: MODEL, reason } => Error::input("NAME", reason),
        other => other,
    };
    Checkpoint::open(&name.parse::<Source>().map_err(as_named)?, &options).map_err(as_named)
}

/// What a run at the checkpoint's own size takes of memory on a CPU, in f32 and in bf16.
fn plans(checkpoint: &Checkpoint) -> attnmap::Result<[MemoryPlan; 2]> {
    let plan = |dtype| MemoryPlan::new(checkpoint, &LoadOptions { dtype, ..LoadOptions::default() });
    Ok([plan(DType::F32)?, plan(DType::BF16)?])
}

fn memory([full, half]: &[MemoryPlan; 2]) -> String {
    let mut text = format!(
        "  {:<12}{} of weights in f32, {} with --dtype bf16; about {} more for an image",
        "memory",
        bytes(full.weights()),
        bytes(half.weights()),
        bytes(full.activations)
    );
    if let Some(free) = full.free {
        text += &format!("; {} are free", bytes(free));
    }
    let part = |part: &PartMemory| format!("{} {} in {}", part.part.folder(), bytes(part.bytes), part.dtype);
    let parts: Vec<String> = full.parts.iter().map(part).collect();
    text += &format!("\n  {:<12}{}\n", "", parts.join(", "));
    if let Some(((name, in_f32), (_, in_bf16))) = full.encoder_first().zip(half.encoder_first()) {
        text += &format!(
            "  {:<12}where all does not fit, {name} reads the prompt first and leaves: at most {} at once, \
             {} in bf16\n",
            "",
            bytes(in_f32),
            bytes(in_bf16)
        );
    }
    text
}

/// A line of the list.
struct ListedModel {
    id: String,
    variant: Option<&'static str>,
    /// What it is, or why it cannot be used.
    found: Result<Description, String>,
}

impl ListedModel {
    fn json(&self) -> Value {
        match &self.found {
            Ok(found) => json!({
                "id": self.id, "variant": self.variant, "kind": found.kind, "parameters": found.parameters,
                "bytes": found.bytes, "size": found.size, "scheduler": found.scheduler, "digest": found.digest,
            }),
            Err(problem) => json!({"id": self.id, "problem": problem}),
        }
    }
}

fn entries() -> Vec<ListedModel> {
    let embedded = open("embedded", Changes::default())
        .and_then(|checkpoint| checkpoint.describe())
        .map_err(|error| error.to_string());
    let mut entries = vec![ListedModel { id: "embedded".into(), variant: None, found: embedded }];
    entries.extend(cached_pipelines(&HubOptions::default()).iter().map(cached_entry));
    entries
}

fn cached_entry(cached: &CachedPipeline) -> ListedModel {
    let open = |variant: Option<&str>| {
        let changes = Changes { variant: variant.map(String::from), ..Default::default() };
        let options = OpenOptions { changes, ..Default::default() };
        Checkpoint::open(&Source::Folder(cached.folder.clone()), &options)?.describe()
    };
    // A cache often holds only the half-precision files.
    let (variant, found) = match open(None) {
        Err(error) => match open(Some("fp16")) {
            Ok(found) => (Some("fp16"), Ok(found)),
            Err(_) => (None, Err(error.to_string())),
        },
        found => (None, found.map_err(|error| error.to_string())),
    };
    ListedModel { id: cached.id(), variant, found }
}

fn table(entries: &[ListedModel]) -> String {
    let name = |entry: &ListedModel| match entry.variant {
        None => entry.id.clone(),
        Some(variant) => format!("{} --variant {variant}", entry.id),
    };
    let width = entries.iter().map(|entry| name(entry).chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for entry in entries {
        let about = match &entry.found {
            Ok(found) => format!(
                "{}, {} parameters, {} on disk, {}",
                found.kind,
                number(found.parameters),
                bytes(found.bytes),
                size(found.size)
            ),
            Err(problem) => format!("cannot be used: {problem}"),
        };
        line(&mut text, &format!("{:width$}  {about}", name(entry)));
    }
    if entries.len() == 1 {
        line(&mut text, "");
        line(
            &mut text,
            &format!(
                "No pipelines in the hub cache ({}); `attnmap generate PROMPT --model owner/name` fetches one.",
                HubOptions::default().cache_folder().display()
            ),
        );
    }
    text
}

fn page(found: &Description) -> String {
    let mut text = String::new();
    line(&mut text, &found.id);
    let words = known_words(found);
    // Room for the longest kind of words that a checkpoint names, within reason.
    let width = words.iter().map(|(kind, _)| kind.chars().count() + 2).max().unwrap_or(0).clamp(12, 32);
    let mut row = |name: &str, value: String| line(&mut text, &format!("  {name:<width$}{value}"));
    row("kind", found.kind.clone());
    if let Some(about) = &found.about {
        row("about", about.clone());
    }
    row("parameters", number(found.parameters));
    for part in &found.parts {
        let name = match part.part {
            Part::TextEncoder => "text encoder",
            Part::TextEncoder2 => "second text encoder",
            Part::TextEncoder3 => "third text encoder",
            Part::Transformer => "transformer",
            Part::Unet => "UNet",
            Part::Vae => "autoencoder",
        };
        let files = if part.files.len() == 1 { String::new() } else { format!(" in {} files", part.files.len()) };
        row(
            "",
            format!("{name}: {}, {} {}{files}", number(part.parameters), bytes(part.bytes), part.dtypes.join(" and ")),
        );
    }
    row("on disk", bytes(found.bytes));
    row("image", format!("{} unless told otherwise; any multiple of {}", size(found.size), found.factor));
    let t5 = found.t5_tokens.map_or_else(String::new, |tokens| format!(", and {tokens} of T5's"));
    row("prompt", format!("{} tokens of a vocabulary of {}{t5}", found.prompt_tokens, found.vocabulary));
    for (name, words) in &words {
        for (index, line) in wrapped(words, 84).iter().enumerate() {
            row(if index == 0 { name.as_str() } else { "" }, line.clone());
        }
    }
    row("scheduler", format!("{}, predicts {}", found.scheduler, found.prediction_type));
    row("defaults", format!("{} steps, guidance {}", found.steps, found.guidance_scale));
    let spare = |part: &PartDescription| {
        part.spare.iter().map(|name| format!("{}: {name}", part.part.folder())).collect::<Vec<_>>()
    };
    let unused: Vec<String> = found.ignored_parts.iter().cloned().chain(found.parts.iter().flat_map(spare)).collect();
    if !unused.is_empty() {
        row("not used", unused.join(", "));
    }
    for word in &found.words {
        let vectors = plural(word.vectors, "vector");
        row("word", format!("{} ({vectors}), from --embedding {}", word.word, word.file));
    }
    for warning in &found.warnings {
        row("warning", warning.clone());
    }
    row("digest", found.digest.clone());
    let joint = found.sites.iter().any(|site| site.kind == AttentionKind::Joint);
    let kind = if joint { "joint" } else { "cross" };
    row("sites", format!("{} {kind}-attention layers", found.sites.len()));
    let width = found.sites.iter().map(|site| site.path.len()).max().unwrap_or(0);
    for site in &found.sites {
        row("", format!("{:width$}  {} heads, {}x{}", site.path, site.heads, site.width, site.height));
    }
    text
}

/// The words that the model knows, by kind where the checkpoint says so; nothing for a model of the
/// whole world.
fn known_words(found: &Description) -> Vec<(String, Vec<String>)> {
    match (&found.kinds, &found.known_words) {
        (Some(kinds), _) => kinds.iter().map(|(kind, words)| (kind.clone(), words.clone())).collect(),
        (None, Some(words)) => vec![("words".into(), words.clone())],
        (None, None) => Vec::new(),
    }
}

/// `words` with commas between them, in lines of at most `width` characters.
fn wrapped(words: &[String], width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for (index, word) in words.iter().enumerate() {
        let word = format!("{}{}", print::printable(word), if index + 1 < words.len() { "," } else { "" });
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => *line += &format!(" {word}"),
            _ => lines.push(word),
        }
    }
    lines
}

fn line(text: &mut String, content: &str) {
    writeln!(text, "{}", content.trim_end()).expect("writing to a string");
}

/// Width x height, as `--size` takes it.
fn size([height, width]: [usize; 2]) -> String {
    format!("{width}x{height} px")
}

/// A count with three digits: `15.7 M`.
fn number(count: u64) -> String {
    scaled(count as f64, &["", " k", " M", " G"])
}

/// A size with three digits, in powers of ten as disks are sold: `31.4 MB`.
fn bytes(count: u64) -> String {
    scaled(count as f64, &[" B", " kB", " MB", " GB", " TB"])
}

fn scaled(mut value: f64, units: &[&str]) -> String {
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    let digits = if unit == 0 || value >= 99.95 {
        0
    } else if value >= 9.995 {
        1
    } else {
        2
    };
    format!("{value:.digits$}{}", units[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits() {
        for (count, expected) in [(0, "0"), (999, "999"), (1000, "1.00 k"), (15_703_000, "15.7 M"), (999_600, "1.00 M")]
        {
            assert_eq!(number(count), expected);
        }
        assert_eq!(bytes(31_435_840), "31.4 MB");
        assert_eq!(bytes(123_456), "123 kB");
        assert_eq!(number(1_066_000_000), "1.07 G");
    }

    #[test]
    fn a_folder_is_described_in_words_and_json() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/tiny-sd2");
        let checkpoint = open(folder, Changes::default()).unwrap();
        let description = checkpoint.describe().unwrap();
        let page = page(&description) + &memory(&plans(&checkpoint).unwrap());
        for expected in [
            "DDIMScheduler, predicts v_prediction",
            "128x128 px",
            "13 cross-attention layers",
            "6 heads, 2x2",
            "1.84 MB of weights in f32, 919 kB with --dtype bf16",
        ] {
            assert!(page.contains(expected), "{page}");
        }
        let json = json!(description);
        assert_eq!(json["sites"][0]["path"], "down_blocks.0.attentions.0.transformer_blocks.0.attn2");
        assert_eq!(json["parts"][1]["dtypes"], json!(["f16"]));
    }

    #[test]
    fn an_entry_that_cannot_be_used_says_why() {
        let entry = ListedModel { id: "owner/xl".into(), variant: None, found: Err("SDXL is not supported".into()) };
        assert!(table(&[entry]).contains("owner/xl  cannot be used: SDXL is not supported"));
    }
}
