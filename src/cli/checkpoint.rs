//! The options that choose a checkpoint, shared by every command that loads one.

use std::path::PathBuf;

use attnmap::Error;
use attnmap::argument::LORA;
use attnmap::checkpoint::{AddedWord, Changes, Embedding, Lora, PREDICTIONS, Source};
use attnmap::evidence::check_checkpoint;
use attnmap::pipeline::{CheckpointChoice, LoadOptions, MemoryPlan, Pipeline, device_named, dtype_named};
use attnmap::plural;
use attnmap::run::RunRecord;
use candle_core::DType;
use clap::Args;

use super::print::{self, Terminal};

/// Which checkpoint, and how it runs.
#[derive(Debug, Args)]
#[command(next_help_heading = "Checkpoint")]
pub struct ModelArgs {
    /// `embedded`, a folder, a .safetensors file, or on the hub owner/name [default: embedded]
    ///
    /// `embedded`, a folder in the diffusers layout, a single .safetensors file, or a name on the
    /// hub. That is `owner/name` or `owner/name/file.safetensors`, each with `@revision` if wanted,
    /// or the address of its page.
    #[arg(long, short, value_name = "MODEL")]
    model: Option<Source>,

    #[command(flatten)]
    changes: ChangeArgs,

    #[command(flatten)]
    load: LoadArgs,
}

/// How a checkpoint is brought into memory.
#[derive(Debug, Args)]
pub struct LoadArgs {
    /// Number type of the networks: f32, bf16 or f16 [default: f32]
    #[arg(long, value_name = "TYPE", value_parser = parse_dtype)]
    dtype: Option<DType>,

    /// Where the networks run: cpu, cuda or metal [default: cpu]
    #[arg(long, value_name = "DEVICE")]
    device: Option<String>,

    /// Load even what seems to need more memory than is free
    #[arg(long)]
    ignore_memory: bool,
}

/// What is chosen of a checkpoint, and what is different from what it says.
#[derive(Debug, Clone, Default, Args)]
pub struct ChangeArgs {
    #[command(flatten)]
    own: OwnArgs,

    /// Merge a LoRA into the weights; may be given several times
    ///
    /// FILE or FILE:WEIGHT, where FILE may be a folder that holds one, or owner/name or
    /// owner/name/file.safetensors on the hub.
    #[arg(long = "lora", value_name = "FILE[:WEIGHT]")]
    loras: Vec<Lora>,
}

/// What is chosen of a checkpoint, LoRAs aside.
#[derive(Debug, Clone, Default, Args)]
pub struct OwnArgs {
    /// Take the weight files of this variant, e.g. fp16, of every part that has it
    #[arg(long, value_name = "NAME")]
    variant: Option<String>,

    /// For a single file: take configs and tokenizer from this folder where it has them
    ///
    /// A folder in the diffusers layout; it needs no weights.
    #[arg(long, value_name = "DIR")]
    config: Option<PathBuf>,

    /// What the model predicts, where the checkpoint does not say so
    ///
    /// `sample` is what SDXL-Lightning of one step predicts.
    #[arg(long, value_name = "KIND", value_parser = PREDICTIONS)]
    prediction: Option<String>,

    /// Teach the text encoder a word (textual inversion); may be given several times
    ///
    /// FILE.safetensors or FILE.safetensors:WORD, here or on the hub.
    #[arg(long = "embedding", value_name = "FILE[:WORD]")]
    embeddings: Vec<Embedding>,
}

impl ChangeArgs {
    /// As the library takes them.
    pub fn changes(&self) -> Changes {
        self.over(Changes::default())
    }

    /// `known`, where nothing else is given.
    fn over(&self, known: Changes) -> Changes {
        let loras = if self.loras.is_empty() { known.loras.clone() } else { self.loras.clone() };
        Changes { loras, ..self.own.over(known) }
    }
}

impl OwnArgs {
    /// As the library takes them.
    pub fn changes(&self) -> Changes {
        self.over(Changes::default())
    }

    fn over(&self, known: Changes) -> Changes {
        let given = self.clone();
        Changes {
            variant: given.variant.or(known.variant),
            config: given.config.or(known.config),
            prediction: given.prediction.or(known.prediction),
            embeddings: if given.embeddings.is_empty() { known.embeddings } else { given.embeddings },
            ..known
        }
    }
}

impl LoadArgs {
    /// `known`, where nothing else is given.
    pub fn over(&self, known: LoadOptions) -> attnmap::Result<LoadOptions> {
        let device = self.device.as_deref().map(device_named).transpose()?;
        Ok(LoadOptions {
            dtype: self.dtype.unwrap_or(known.dtype),
            device: device.unwrap_or(known.device),
            size: known.size,
            ignore_memory: self.ignore_memory,
            plain: known.plain,
            texts: known.texts,
            text_encoder_first: known.text_encoder_first,
        })
    }
}

impl ModelArgs {
    /// The checkpoint that is chosen: the embedded one, where none is named.
    pub fn choice(&self) -> attnmap::Result<CheckpointChoice> {
        self.over(CheckpointChoice::default())
    }

    /// `known`, where nothing else is given.
    pub fn over(&self, known: CheckpointChoice) -> attnmap::Result<CheckpointChoice> {
        Ok(CheckpointChoice {
            source: self.model.clone().unwrap_or(known.source),
            changes: self.changes.over(known.changes),
            load: self.load.over(known.load)?,
        })
    }

    /// Opens and loads the checkpoint for images of `size` (height, width), or of its own, as
    /// [`load`] does.
    pub fn load(&self, size: Option<[usize; 2]>, terminal: &Terminal) -> anyhow::Result<Pipeline> {
        load(&self.choice()?, size, terminal)
    }

    /// As [`load`](Self::load), for a run that reads `texts`.
    pub fn load_for(&self, texts: &[&str], size: Option<[usize; 2]>, terminal: &Terminal) -> anyhow::Result<Pipeline> {
        load(&reading(self.choice()?, texts), size, terminal)
    }

    /// The checkpoint that made the run of `record`, in the number type and on the device that it
    /// had there. What is given now comes first.
    pub fn load_of(&self, record: &RunRecord, terminal: &Terminal) -> anyhow::Result<Pipeline> {
        let known = CheckpointChoice::of_run(record)?;
        let choice = reading(self.over(known.clone())?, &[&record.prompt, record.negative.as_deref().unwrap_or("")]);
        let size = Some([record.image.height, record.image.width]);
        let pipeline = load(&choice, size, terminal).map_err(|error| match error.downcast::<Error>() {
            Ok(Error::Argument { argument: LORA, reason }) if choice.changes.loras == known.changes.loras => {
                let again = |lora: &Lora| format!("--lora {}", Lora { file: "FILE".into(), weight: lora.weight });
                let again: Vec<String> = known.changes.loras.iter().map(again).collect();
                let reason =
                    format!("{reason}, which the run was made with; if it has moved, give it with {}", again.join(" "));
                Error::argument(LORA, reason).into()
            }
            Ok(other) => other.into(),
            Err(other) => other,
        })?;
        check_checkpoint(record, &pipeline)?;
        Ok(pipeline)
    }
}

/// `choice` for a run that reads `texts`.
fn reading(mut choice: CheckpointChoice, texts: &[&str]) -> CheckpointChoice {
    choice.load.texts = texts.iter().map(|text| (*text).to_owned()).collect();
    choice
}

/// Opens and loads a checkpoint for images of `size` (height, width), or of its own. What needs
/// much memory is said.
pub fn load(choice: &CheckpointChoice, size: Option<[usize; 2]>, terminal: &Terminal) -> anyhow::Result<Pipeline> {
    const MUCH: u64 = 2_000_000_000;
    let checkpoint = choice.open(terminal.downloads())?;
    let load = LoadOptions { size, ..choice.load.clone() };
    let plan = MemoryPlan::new(&checkpoint, &load)?;
    // A refusal has the same numbers.
    if plan.peak() > MUCH && (load.ignore_memory || plan.check().is_ok()) {
        print::note(plan.to_string());
    }
    let spinner = terminal.spinner("loading");
    let pipeline = Pipeline::load(&checkpoint, &load);
    spinner.finish_and_clear();
    let pipeline = pipeline?;
    for AddedWord { word, ids, file } in pipeline.added_words() {
        let vectors = plural(ids.len(), "vector");
        print::note(format!("--embedding {}: its word in prompts is {word} ({vectors})", file.display()));
    }
    Ok(pipeline)
}

fn parse_dtype(text: &str) -> Result<DType, String> {
    dtype_named(text).map_err(|_| "choose f32, bf16 or f16".to_owned())
}
