//! The file of a run's queries and keys: `queries.safetensors`.

use super::tensor_file::TensorFile;
use super::{EncoderQueries, LARGEST_SIDE, Queries, QueriesKeys, Site, SiteQueries, Trace};
use crate::Result;
use crate::files::tensors::{self, NamedTensor};
use safetensors::Dtype;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// The file's name in a run folder.
pub const QUERIES: &str = "queries.safetensors";

/// The format of the files that this version writes, and the newest that it reads.
const FORMAT_VERSION: u32 = 1;

/// Channels of a head beyond which a file is taken to be damaged.
const MOST_CHANNELS: usize = 65_536;

/// A site as the metadata has it.
#[derive(Serialize, Deserialize)]
struct SiteInfo {
    #[serde(flatten)]
    site: Site,
    head_dim: usize,
}

/// A text encoder as the metadata has it.
#[derive(Serialize, Deserialize)]
struct EncoderMetadata {
    name: String,
    chunks: Vec<usize>,
    layers: usize,
    heads: usize,
    head_dim: usize,
}

impl Queries {
    /// Writes the file to `path`, whole or not at all (docs/TRACE.md).
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) when it cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        let json = |value: serde_json::Result<String>| value.expect("plain data has a JSON form");
        let site = |own: &SiteQueries| SiteInfo { site: own.site.clone(), head_dim: own.layer.head_dim };
        let encoder = |own: &EncoderQueries| EncoderMetadata {
            name: own.name.clone(),
            chunks: own.chunks.clone(),
            layers: own.layers.len(),
            heads: own.layers.first().map_or(0, |layer| layer.heads),
            head_dim: own.layers.first().map_or(0, |layer| layer.head_dim),
        };
        let runs: Vec<[usize; 2]> = self.tokens.iter().map(|run| [run.start, run.end]).collect();
        let metadata = [
            ("format_version", FORMAT_VERSION.to_string()),
            ("writer", format!("attnmap {}", env!("CARGO_PKG_VERSION"))),
            ("prompt", self.prompt.clone()),
            ("steps", self.steps.to_string()),
            ("keys", self.key_count.to_string()),
            ("tokens", json(serde_json::to_string(&runs))),
            ("sites", json(serde_json::to_string(&self.sites.iter().map(site).collect::<Vec<_>>()))),
            ("encoders", json(serde_json::to_string(&self.encoders.iter().map(encoder).collect::<Vec<_>>()))),
        ];
        let mut tensors = Vec::new();
        for SiteQueries { site, layer } in &self.sites {
            let shape = [layer.heads, site.height, site.width, layer.head_dim];
            tensors.push(NamedTensor::f16(format!("query/{}", site.path), &shape, &layer.queries));
            let shape = [layer.heads, self.key_count, layer.head_dim];
            tensors.push(NamedTensor::f16(format!("key/{}", site.path), &shape, &layer.keys));
        }
        for encoder in &self.encoders {
            for (at, layer) in encoder.layers.iter().enumerate() {
                let shape = [layer.heads, encoder.tokens(), layer.head_dim];
                tensors.push(NamedTensor::f16(format!("{}/query/{at}", encoder.name), &shape, &layer.queries));
                tensors.push(NamedTensor::f16(format!("{}/key/{at}", encoder.name), &shape, &layer.keys));
            }
        }
        tensors::write(path, &metadata, &tensors)
    }

    /// Opens the file at `path`. The numbers stay in the file until they are read.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) when it cannot be opened;
    /// [`Error::Trace`](crate::Error::Trace) when it is none, is damaged, or was written in a newer
    /// format.
    pub fn load(path: &Path) -> Result<Self> {
        TensorFile::open(path, TensorFile::queries)
    }

    /// What does not fit the run that `trace` is of; `None` where all does.
    pub fn differs_from(&self, trace: &Trace) -> Option<String> {
        let (about, recording) = (&trace.about, &trace.recording);
        let tokens: usize = self.tokens.iter().map(ExactSizeIterator::len).sum();
        if self.prompt != about.prompt.text || tokens != about.prompt.tokens.len() {
            return Some("its prompt is not that of the trace".into());
        }
        if self.steps != trace.steps() {
            return Some(format!("it is of {} steps, and the trace of {}", self.steps, trace.steps()));
        }
        let site = self.sites.iter().map(|own| &own.site).find(|site| !recording.sites.contains(site));
        if let Some(site) = site {
            return Some(format!("the trace has no layer {} like it", site.path));
        }
        let counts = [("text", about.prompt.tokens.len()), ("text_2", about.second_tokens())];
        let of = |name: &str| counts.iter().find(|(known, _)| *known == name).map(|(_, count)| *count);
        let encoder = self.encoders.iter().find(|own| of(&own.name) != Some(own.tokens()));
        encoder.map(|own| format!("its encoder {} has other tokens than the trace's", own.name))
    }

    /// What is wrong with the numbers, a line per tensor.
    pub fn faults(&self) -> Vec<String> {
        let sites = self.sites.iter().map(|own| (own.site.path.clone(), &own.layer));
        let layers = self.encoders.iter().flat_map(|encoder| {
            encoder.layers.iter().enumerate().map(|(at, layer)| (format!("{}/{at}", encoder.name), layer))
        });
        let fault = |(name, layer): (String, &QueriesKeys)| {
            let wrong = layer.queries.iter().chain(&layer.keys[..]).find(|value| !value.is_finite());
            wrong.map(|value| format!("queries or keys of {name} hold {value}"))
        };
        sites.chain(layers).filter_map(fault).collect()
    }
}

impl TensorFile {
    fn queries(&self) -> Result<Queries, String> {
        self.version("file of queries", FORMAT_VERSION)?;
        let key_count: usize = self.json("keys")?;
        let runs: Vec<[usize; 2]> = self.json("tokens")?;
        let ascends = runs.windows(2).all(|pair| pair[0][1] <= pair[1][0]);
        if !ascends || runs.iter().any(|run| run[0] > run[1] || run[1] > key_count) {
            return Err(format!("tokens {runs:?} are no runs of {key_count} keys"));
        }
        let sites: Vec<SiteInfo> = self.json("sites")?;
        let encoders: Vec<EncoderMetadata> = self.json("encoders")?;
        Ok(Queries {
            prompt: self.text("prompt")?.into(),
            steps: self.json("steps")?,
            key_count,
            tokens: runs.into_iter().map(|[start, end]| start..end).collect(),
            sites: sites.into_iter().map(|info| self.site_queries(info, key_count)).collect::<Result<_, _>>()?,
            encoders: encoders.into_iter().map(|info| self.encoder_queries(info)).collect::<Result<_, _>>()?,
        })
    }

    fn site_queries(&self, SiteInfo { site, head_dim }: SiteInfo, key_count: usize) -> Result<SiteQueries, String> {
        let Site { ref path, heads, height, width, .. } = site;
        let channels = 1..=MOST_CHANNELS;
        if heads.min(height).min(width) == 0 || height.max(width) > LARGEST_SIDE || !channels.contains(&head_dim) {
            return Err(format!("site {path} is empty or too large"));
        }
        let queries = self.tensor(&format!("query/{path}"), Dtype::F16, &[heads, height, width, head_dim])?;
        let keys = self.tensor(&format!("key/{path}"), Dtype::F16, &[heads, key_count, head_dim])?;
        Ok(SiteQueries { layer: QueriesKeys { heads, head_dim, queries, keys }, site })
    }

    fn encoder_queries(&self, info: EncoderMetadata) -> Result<EncoderQueries, String> {
        let EncoderMetadata { name, chunks, layers, heads, head_dim } = info;
        // Each chunk has tokens, which are keys; more are damage.
        let tokens = chunks.iter().try_fold(0usize, |sum, &chunk| sum.checked_add(chunk));
        let tokens = tokens.filter(|_| layers <= self.tensors.len());
        let tokens = tokens.ok_or_else(|| format!("encoder {name} is empty or too large"))?;
        let layer = |at: usize| -> Result<QueriesKeys, String> {
            let shape = [heads, tokens, head_dim];
            let queries = self.tensor(&format!("{name}/query/{at}"), Dtype::F16, &shape)?;
            let keys = self.tensor(&format!("{name}/key/{at}"), Dtype::F16, &shape)?;
            Ok(QueriesKeys { heads, head_dim, queries, keys })
        };
        Ok(EncoderQueries { layers: (0..layers).map(layer).collect::<Result<_, _>>()?, name, chunks })
    }
}
