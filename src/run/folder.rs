//! An existing run folder, opened.

use super::{RunKind, RunRecord};
use crate::argument::RUN;
use crate::trace::{Grid, QUERIES, Queries, Trace};
use crate::{Error, Result, files, picture};
use image::RgbImage;
use std::path::{Path, PathBuf};

/// Pipelines of diffusers whose text to image runs attnmap makes again.
const DRAWN_HERE: [&str; 6] = [
    "StableDiffusionPipeline",
    "StableDiffusionXLPipeline",
    "LatentConsistencyModelPipeline",
    "StableDiffusion3Pipeline",
    "FluxPipeline",
    "ZImagePipeline",
];

/// What the recorder says of a run that only the program which made it can do again.
const NOT_REPLAYED: [&str; 2] = ["prompt_embeds", "adapters"];

/// A run folder whose `run.json` has been read.
#[derive(Debug, Clone)]
pub struct Run {
    /// The folder.
    pub folder: PathBuf,
    /// Its `run.json`.
    pub record: RunRecord,
}

/// The folder of the run that `path` names: itself, or where the file at `path` lies.
pub fn folder_of(path: &Path) -> &Path {
    match path.parent().filter(|_| path.is_file()) {
        // A bare name lies in the working folder.
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => path,
    }
}

impl Run {
    /// Opens the run at `path`: its folder, or any file in it.
    ///
    /// # Errors
    /// [`Error::Trace`] when it is no run, is damaged, or was made by a newer attnmap.
    pub fn open(path: &Path) -> Result<Self> {
        let folder = folder_of(path);
        if !folder.is_dir() {
            let reason = "no such folder; give one that `attnmap generate` made";
            return Err(Error::Trace { file: path.to_path_buf(), reason: reason.into() });
        }
        Ok(Self { folder: folder.to_path_buf(), record: RunRecord::read(folder)? })
    }

    /// Refuses a run that another program drew and recorded in a way that cannot be made again,
    /// for `what`, which must make its steps again. What passes is still compared with its image
    /// when it has been made again: only that tells whether the weights are those that drew it.
    ///
    /// # Errors
    /// [`Error::Argument`] on `RUN`, with the cause and what works on such a run.
    pub fn check_can_draw(&self, what: &str) -> Result<()> {
        if self.record.kind != RunKind::Record {
            return Ok(());
        }
        let settings = &self.record.settings;
        let said = |name: &str| settings.more.get(name).map(|value| value.as_str().unwrap_or_default());
        let unknown = |name: &str| format!("{name} has no network here");
        let cause = match said("pipeline") {
            None => Some("it does not say which pipeline drew it".to_owned()),
            Some(name) if !DRAWN_HERE.contains(&name) => Some(unknown(name)),
            _ if settings.latents.is_some() => {
                Some("its first noise was not drawn from a seed on the CPU (generator=torch.Generator())".into())
            }
            _ if settings.sampling.strength.is_some() => Some("it set out from a picture, which was not kept".into()),
            _ if said("heads").is_some() => Some("it keeps the mean over the heads alone".into()),
            _ => NOT_REPLAYED
                .into_iter()
                .find(|name| settings.more.contains_key(*name))
                .map(|name| format!("it was drawn with {}", name.replace('_', " "))),
        };
        let Some(cause) = cause else { return Ok(()) };
        let reason = format!(
            "{}: another program drew and recorded this run, and {what} must make its steps again, but {cause}; its \
            page, facts, ask, compare, view and animate work without that, or make a run of its prompt here: attnmap \
            generate PROMPT --model MODEL",
            self.folder.display()
        );
        Err(Error::argument(RUN, reason))
    }

    /// Its trace and its image: what every command that reads a run sets out from, so that all
    /// refuse the same.
    ///
    /// # Errors
    /// Those of [`trace`](Self::trace) and [`image`](Self::image).
    pub fn read(&self) -> Result<(Trace, RgbImage)> {
        let (trace, image) = rayon::join(|| self.trace(), || self.image());
        Ok((trace?, image?))
    }

    /// Its `trace.safetensors`, every number of it looked at, with the words of its prompts as
    /// `record.by` says.
    ///
    /// # Errors
    /// Those of [`Trace::load`] and [`Trace::verify`]; [`Error::Trace`] when it is another run's
    /// than `run.json`.
    pub fn trace(&self) -> Result<Trace> {
        let trace = Trace::load(&self.folder.join("trace.safetensors"))?;
        if let Some(part) = self.differences(&trace).first() {
            let reason = format!("not the trace of this run: run.json has another {part}; make the run again");
            return Err(trace.error(reason));
        }
        trace.verify()?;
        Ok(trace.by(self.record.by))
    }

    /// Its `queries.safetensors`; `None` where the run kept none.
    ///
    /// # Errors
    /// Those of [`Queries::load`]; [`Error::Trace`] when it is another run's than `trace`.
    pub fn queries(&self, trace: &Trace) -> Result<Option<Queries>> {
        let file = self.folder.join(QUERIES);
        if !file.exists() {
            return Ok(None);
        }
        let queries = Queries::load(&file)?;
        match queries.differs_from(trace) {
            Some(reason) => Err(Error::Trace { file, reason }),
            None => Ok(Some(queries)),
        }
    }

    /// What `run.json` says otherwise than `trace`.
    pub(super) fn differences(&self, trace: &Trace) -> Vec<&'static str> {
        let (about, record) = (&trace.about, &self.record);
        let parts = [
            ("latent grid", about.latent == record.latent),
            ("image size", about.image == record.image),
            ("list of attention layers", trace.recording.sites == record.sites),
            ("list of timesteps", trace.recording.timesteps == record.timesteps),
        ];
        parts.into_iter().filter_map(|(part, same)| (!same).then_some(part)).collect()
    }

    /// Its `image.png`.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Trace`] when it is missing, cut short, damaged, or of another size
    /// than `run.json` says.
    pub fn image(&self) -> Result<RgbImage> {
        let image = self.picture("image.png")?;
        let Grid { height, width } = self.record.image;
        if image.dimensions() != (width as u32, height as u32) {
            let reason = format!(
                "not the image of this run: it has {}x{} pixels, and run.json says {width}x{height}; make the run \
                again",
                image.width(),
                image.height()
            );
            return Err(Error::Trace { file: self.folder.join("image.png"), reason });
        }
        Ok(image)
    }

    /// Reads the PNG file `name` of the run.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Trace`] when it is missing, cut short or damaged.
    pub fn picture(&self, name: &str) -> Result<RgbImage> {
        Ok(read_png(&self.folder.join(name))?.0)
    }
}

/// The picture in the PNG file at `path`, and the file's bytes.
///
/// # Errors
/// [`Error::Io`] when it cannot be read; [`Error::Trace`] when it is cut short, damaged or no PNG.
pub(crate) fn read_png(path: &Path) -> Result<(RgbImage, Vec<u8>)> {
    let damaged =
        |reason: &str| Error::Trace { file: path.to_path_buf(), reason: format!("not a readable PNG: {reason}") };
    let bytes = files::read(path).map_err(Error::io(path))?;
    if image::guess_format(&bytes).ok() != Some(image::ImageFormat::Png) {
        return Err(damaged("it is another kind of file; make the run again"));
    }
    let image = picture::decode(&bytes).map_err(|reason| damaged(&reason))?;
    Ok((image.to_rgb8(), bytes))
}
