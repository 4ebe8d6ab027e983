//! The trace file: `trace.safetensors`, written whole or not at all, read by memory map.

use super::concepts::{check_scores, tensor_name};
use super::goca::{self, GocaInfo, check_goca};
use super::self_attention::{SelfAttentionInfo, check_self_attention};
use super::sums::{check_probabilities, check_rows, check_shares};
use super::tensor_file::TensorFile;
use super::{
    About, Buffer, ConceptInfo, ConceptMaps, GocaMaps, Grid, Half, HalfMaps, ProbeInfo, ProbeMaps, PromptInfo,
    Recording, SelfAttention, Site, SiteMaps, TextAttention,
};
use super::{WordInfo, probe_words};
use crate::files::tensors::{self, NamedTensor};
use crate::{Error, Result};
use rayon::prelude::*;
use safetensors::Dtype;
use std::path::{Path, PathBuf};

/// The format of the trace files that this version writes, and the newest that it reads.
pub const FORMAT_VERSION: u32 = 2;

/// What stands before the names of tensors of the text's own queries.
const TEXT_QUERIES: &str = "text_query/";

/// Rows or columns of a latent grid beyond which a file is taken to be damaged (an image of 65,536
/// pixels).
pub(crate) const LARGEST_SIDE: usize = 8192;

/// A recorded run: what was seen, and of what.
///
/// As a file (`trace.safetensors`, format 2; docs/TRACE.md) it holds
///
/// | tensor | type | shape |
/// | --- | --- | --- |
/// | `sum/<site>` | f32 | `[heads, T + 1, height, width]`: probabilities summed over the steps; then all padding; then, where attention is joint, the image |
/// | `step/<site>` | f16 | `[steps, T + 1, height, width]`: probabilities averaged over the heads (optional) |
/// | `uncond/sum/<site>`, `uncond/step/<site>` | | the same of the unconditional half (optional) |
/// | `probe/sum/<site>`, `probe/step/<site>` | | `P` channels in place of the `T + 1`: the tokens of words that are not in the prompt (optional) |
/// | `text_query/sum/<site>`, `text_query/step/<site>` | | `T` channels: what the prompt's own tokens give to each place, where attention is joint (optional) |
/// | `concept/<site>` | f32 | `[steps, concepts, height, width]`: dot products of attention outputs (optional) |
/// | `self/<HEIGHT>x<WIDTH>` | f16 | `[cells, cells]`: self-attention at that grid, mean over heads, sites and steps: rows look at columns (optional) |
/// | `goca/shares` | f32 | `[T + 1, height, width]`: every token's share of a place, heads and layers weighted; then all padding (optional) |
/// | `goca/self` | f16 | `[cells, cells]`: the self-attention that GoCA's maps are carried along (optional) |
/// | `text/<layer>` | f16 | `[heads, T, T]`: the text encoder's own self-attention (optional) |
/// | `text_2/<layer>` | f16 | the same of SDXL's second encoder, among its own tokens (optional) |
///
/// In the header's metadata, JSON where not plain text: `format_version`, `writer`, `prompt`
/// (plain), `tokens`, `words`, `negative`, `probes`, `self`, `sites`. Then `timesteps`, `latent`,
/// `image`, `settings` and `checkpoint`. SDXL has `encoders`, the tokenization of the prompt per
/// encoder. The states of both encoders at equal positions are concatenated into one key. `<site>`
/// is the diffusers weight path.
///
/// The channels of `sum` add up to the number of steps whether there are probes or not. A probe's
/// token `i` holds `exp(s_i - logsumexp(s))`, what it would get as one more key. The scores `s` are
/// those of the prompt's tokens and of this probe's own.
#[derive(Debug, Clone)]
pub struct Trace {
    /// Prompt, checkpoint, sizes and settings.
    pub about: About,
    /// The numbers.
    pub recording: Recording,
    source: PathBuf,
}

impl Trace {
    /// A trace of a recording just made.
    ///
    /// # Errors
    /// [`Error::Trace`] when `about` does not fit the recording: other numbers of tokens, words of
    /// tokens that are not there, an empty latent grid.
    pub fn new(about: About, recording: Recording) -> Result<Self> {
        let trace = Self { about, recording, source: PathBuf::from("trace in memory") };
        trace.validate().map_err(|reason| trace.error(reason))?;
        Ok(trace)
    }

    /// Where the trace was loaded from, for messages.
    pub fn source(&self) -> &Path {
        &self.source
    }

    /// Number of recorded steps (calls of the denoiser).
    pub fn steps(&self) -> usize {
        self.recording.timesteps.len()
    }

    /// What the calls of the denoiser are: `step`, or `noise level` where an existing picture was
    /// looked at.
    pub fn call(&self) -> &'static str {
        if self.about.is_look() { "noise level" } else { "step" }
    }

    /// A call's name, by its 0-based position: `step 3`, or `t = 450, 84 % noise` for a noise
    /// level.
    pub fn call_name(&self, index: usize) -> String {
        let Some(noise) = self.about.noise() else { return format!("step {}", index + 1) };
        let timestep = self.recording.timesteps.get(index).copied().unwrap_or_default();
        let share = noise.get(index).map(|share| format!(", {:.0}\u{a0}% noise", 100.0 * share));
        format!("t\u{a0}=\u{a0}{timestep:.0}{}", share.unwrap_or_default())
    }

    /// The maps and the prompt of one half of the guidance batch; `None` when that half was not
    /// recorded.
    pub fn half(&self, half: Half) -> Option<(&HalfMaps, &PromptInfo)> {
        match half {
            Half::Conditional => Some((&self.recording.conditional, &self.about.prompt)),
            Half::Unconditional => Some((self.recording.unconditional.as_ref()?, self.about.negative.as_ref()?)),
        }
    }

    /// The probes as words, those that are concepts too; they belong to the conditional half.
    pub fn probe_words(&self, half: Half) -> Vec<WordInfo> {
        match half {
            Half::Conditional => probe_words(&self.about.prompt, &self.about.probes),
            Half::Unconditional => Vec::new(),
        }
    }

    /// The channels of the probes and the words that they make, where the run was asked about any
    /// in cross-attention. They belong to the conditional half.
    pub fn probes(&self, half: Half) -> Option<(&ProbeMaps, Vec<WordInfo>)> {
        let maps = self.recording.probes.as_ref().filter(|_| half == Half::Conditional)?;
        Some((maps, probe_words(&self.about.prompt, &self.about.probes)))
    }

    /// What is shown of `half` when nothing is chosen: the words of its prompt in order, then the
    /// probes.
    pub fn words(&self, half: Half) -> Vec<WordInfo> {
        let own = self.half(half).map_or_else(Vec::new, |(_, prompt)| prompt.words.clone());
        own.into_iter().chain(self.probe_words(half)).collect()
    }

    /// The words, phrases and probes of `half` that `choice` names; see
    /// [`PromptInfo::select_with`].
    ///
    /// # Errors
    /// As there.
    pub fn select(&self, half: Half, choice: &str) -> Result<Vec<WordInfo>> {
        let prompt = self.half(half).map_or(&self.about.prompt, |(_, prompt)| prompt);
        prompt.select_with(choice, &self.probe_words(half))
    }

    /// Reads every number and checks that every row sums to the number of steps, and that all
    /// others are probabilities.
    ///
    /// # Errors
    /// [`Error::Trace`] naming the first tensor where it is not so.
    pub fn verify(&self) -> Result<()> {
        match self.faults().into_iter().next() {
            Some(fault) => Err(self.error(format!("{fault}; make the run again"))),
            None => Ok(()),
        }
    }

    /// What [`verify`](Self::verify) refuses, a line per tensor.
    pub fn faults(&self) -> Vec<String> {
        let steps = |name: String, values: &SiteMaps| -> Option<String> {
            let maps = values.steps.as_ref()?;
            check_shares(maps).err().map(|reason| format!("{name}: {reason}"))
        };
        let mut faults = Vec::new();
        for (half, prefix) in [(Half::Conditional, ""), (Half::Unconditional, "uncond/")] {
            let Some((maps, _)) = self.half(half) else { continue };
            let of_site = |(site, values): (&Site, &SiteMaps)| {
                let pixels = site.height * site.width;
                let rows = check_rows(&values.sum, site.heads, site.channels(maps.tokens), pixels, self.steps());
                let rows = rows.err().map(|reason| format!("{prefix}sum/{}: {reason}", site.path));
                rows.into_iter().chain(steps(format!("{prefix}step/{}", site.path), values)).collect::<Vec<_>>()
            };
            faults.par_extend(self.recording.sites.par_iter().zip(&maps.sites).flat_map_iter(of_site));
        }
        for self_attention in &self.recording.self_attention {
            faults.extend(check_self_attention(&self_attention.mean, self_attention.grid).err());
        }
        let probes = self.recording.probes.iter().flat_map(|probes| &probes.sites);
        for (site, values) in self.recording.sites.iter().zip(probes) {
            let sum = check_probabilities(&values.sum, 0, 0, 0, self.steps());
            faults.extend(sum.err().map(|reason| format!("probe/sum/{}: {reason}", site.path)));
            faults.extend(steps(format!("probe/step/{}", site.path), values));
        }
        let of_text = self.recording.text_queries.iter().flat_map(|maps| &maps.sites);
        for (site, values) in self.recording.sites.iter().zip(of_text) {
            let sum = check_probabilities(&values.sum, 0, 0, 0, self.steps());
            faults.extend(sum.err().map(|reason| format!("text_query/sum/{}: {reason}", site.path)));
            faults.extend(steps(format!("text_query/step/{}", site.path), values));
        }
        let concepts = self.recording.concepts.iter().flat_map(|concepts| &concepts.sites);
        for (site, scores) in self.recording.sites.iter().zip(concepts) {
            let wrong = scores.as_deref().and_then(|scores| check_scores(scores).err());
            faults.extend(wrong.map(|reason| format!("{}: {reason}", tensor_name(site))));
        }
        faults.extend(self.recording.goca.as_ref().and_then(|goca| check_goca(goca).err()));
        for (prefix, layers) in [("text", &self.recording.text), ("text_2", &self.recording.text_2)] {
            for (layer, text) in layers.iter().enumerate() {
                let shares = check_shares(&text.probabilities).err();
                faults.extend(shares.map(|reason| format!("{prefix}/{layer}: {reason}")));
            }
        }
        faults
    }

    /// Writes the trace to `path`, whole or not at all.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        let (about, recording) = (&self.about, &self.recording);
        let json = |value: serde_json::Result<String>| value.expect("plain data has a JSON form");
        let mut metadata = vec![
            ("format_version", FORMAT_VERSION.to_string()),
            ("writer", format!("attnmap {}", env!("CARGO_PKG_VERSION"))),
            ("prompt", about.prompt.text.clone()),
            ("tokens", json(serde_json::to_string(&about.prompt.tokens))),
            ("words", json(serde_json::to_string(&about.prompt.words))),
            ("sites", json(serde_json::to_string(&recording.sites))),
            ("timesteps", json(serde_json::to_string(&recording.timesteps))),
            ("latent", json(serde_json::to_string(&about.latent))),
            ("image", json(serde_json::to_string(&about.image))),
            ("settings", json(serde_json::to_string(&about.settings))),
            ("checkpoint", json(serde_json::to_string(&about.checkpoint))),
        ];
        if let Some(negative) = &about.negative {
            metadata.push(("negative", json(serde_json::to_string(negative))));
        }
        // Probes that are concepts stand there, so that who knows no concepts passes over them.
        if !about.probes.is_empty() && recording.probes.is_some() {
            metadata.push(("probes", json(serde_json::to_string(&about.probes))));
        }
        if !about.concepts.is_empty() {
            metadata.push(("concepts", json(serde_json::to_string(&about.concepts))));
        }
        if !about.encoders.is_empty() {
            metadata.push(("encoders", json(serde_json::to_string(&about.encoders))));
        }
        let infos: Vec<SelfAttentionInfo> = recording.self_attention.iter().map(SelfAttentionInfo::of).collect();
        if !infos.is_empty() {
            metadata.push(("self", json(serde_json::to_string(&infos))));
        }
        if let Some(goca) = &recording.goca {
            metadata.push(("goca", json(serde_json::to_string(&GocaInfo::of(goca)))));
        }
        let mut tensors = Vec::new();
        let half = |half| self.half(half).map(|(maps, _)| (maps.tokens, &maps.sites));
        let probes = recording.probes.as_ref().map(|probes| (probes.tokens, &probes.sites));
        let of_text = recording.text_queries.as_ref().map(|maps| (maps.tokens, &maps.sites));
        let kinds = [
            ("", half(Half::Conditional)),
            ("uncond/", half(Half::Unconditional)),
            ("probe/", probes),
            (TEXT_QUERIES, of_text),
        ];
        for (prefix, kind) in kinds {
            let Some((tokens, maps)) = kind else { continue };
            for (site, values) in recording.sites.iter().zip(maps) {
                let [height, width] = [site.height, site.width];
                let plain = prefix == "probe/" || prefix == TEXT_QUERIES;
                let channels = if plain { tokens } else { site.channels(tokens) };
                let shape = [site.heads, channels, height, width];
                tensors.push(NamedTensor::f32(format!("{prefix}sum/{}", site.path), &shape, &values.sum));
                if let Some(steps) = &values.steps {
                    let shape = [self.steps(), channels, height, width];
                    tensors.push(NamedTensor::f16(format!("{prefix}step/{}", site.path), &shape, steps));
                }
            }
        }
        for (prefix, layers, tokens) in [
            ("text", &recording.text, recording.conditional.tokens),
            ("text_2", &recording.text_2, about.second_tokens()),
        ] {
            for (layer, text) in layers.iter().enumerate() {
                let shape = [text.heads, tokens, tokens];
                tensors.push(NamedTensor::f16(format!("{prefix}/{layer}"), &shape, &text.probabilities));
            }
        }
        if let Some(concepts) = &recording.concepts {
            for (site, scores) in recording.sites.iter().zip(&concepts.sites) {
                let Some(scores) = scores else { continue };
                let shape = [self.steps(), concepts.concepts, site.height, site.width];
                tensors.push(NamedTensor::f32(tensor_name(site), &shape, scores));
            }
        }
        for (info, self_attention) in infos.iter().zip(&recording.self_attention) {
            let cells = self_attention.grid.cells();
            tensors.push(NamedTensor::f16(info.name(), &[cells, cells], &self_attention.mean));
        }
        if let Some(goca) = &recording.goca {
            let Grid { height, width } = goca.grid;
            let shape = [recording.conditional.tokens + 1, height, width];
            tensors.push(NamedTensor::f32(goca::SHARES.to_owned(), &shape, &goca.shares));
            let square = [height * width; 2];
            tensors.push(NamedTensor::f16(goca::SELF_ATTENTION.to_owned(), &square, &goca.self_attention));
        }
        tensors::write(path, &metadata, &tensors)
    }

    /// Opens a trace file. The numbers stay in the file until they are read.
    ///
    /// # Errors
    /// [`Error::Io`] when the file cannot be opened; [`Error::Trace`] when it is no trace, is
    /// damaged, or was written in a newer format.
    pub fn load(path: &Path) -> Result<Self> {
        TensorFile::open(path, |reader| {
            let trace = reader.read(path)?;
            trace.validate()?;
            Ok(trace)
        })
    }

    /// An [`Error::Trace`] about this trace.
    pub(crate) fn error(&self, reason: impl Into<String>) -> Error {
        Error::Trace { file: self.source.clone(), reason: reason.into() }
    }

    /// What the rest of the code relies on, whoever wrote the file.
    fn validate(&self) -> Result<(), String> {
        let side = 1..=LARGEST_SIDE;
        if !side.contains(&self.about.latent.height) || !side.contains(&self.about.latent.width) {
            return Err(format!("latent grid {:?} is empty or too large", self.about.latent));
        }
        for half in [Half::Conditional, Half::Unconditional] {
            let Some((maps, prompt)) = self.half(half) else { continue };
            let tokens = prompt.tokens.len();
            if maps.tokens != tokens {
                return Err(format!("{tokens} tokens in the prompt, {} in the maps", maps.tokens));
            }
            for word in &prompt.words {
                if word.tokens.is_empty() || word.tokens.iter().any(|&token| token >= tokens) {
                    return Err(format!("word {:?} names tokens {:?} of {tokens}", word.text, word.tokens));
                }
            }
            let ranges = prompt.words.iter().map(|word| word.start..word.end);
            let mut ranges = ranges.chain(prompt.tokens.iter().map(|token| token.start..token.end));
            if let Some(range) = ranges.find(|range| prompt.text.get(range.clone()).is_none()) {
                return Err(format!("bytes {range:?} are not a part of the prompt"));
            }
        }
        let probed = self.recording.probes.as_ref().map_or(0, |probes| probes.tokens);
        let asked: usize = self.about.probes.iter().map(|probe| probe.tokens.len()).sum();
        let concepts = self.recording.concepts.as_ref().map_or(0, |concepts| concepts.concepts);
        if concepts != self.about.concepts.len() {
            return Err(format!("{} concepts, {concepts} in the maps", self.about.concepts.len()));
        }
        let of_concepts = self.about.concepts.iter().filter(|concept| !concept.tokens.is_empty());
        let are_concepts = probed == 0
            && of_concepts.map(|concept| (&concept.text, &concept.tokens)).eq(self
                .about
                .probes
                .iter()
                .map(|probe| (&probe.text, &probe.tokens)));
        let unmapped = probed != asked && !are_concepts;
        if unmapped || self.about.probes.iter().any(|probe| probe.tokens.is_empty()) {
            return Err(format!("{asked} tokens of probes, {probed} in the maps, and each probe must have one"));
        }
        let weights = self.recording.goca.as_ref().map(|goca| goca.weights.len());
        if let Some(weights) = weights.filter(|&weights| weights != self.recording.sites.len()) {
            return Err(format!("{weights} layers' weights of GoCA's maps for {} layers", self.recording.sites.len()));
        }
        if self.recording.unconditional.is_some() && self.about.negative.is_none() {
            return Err("an unconditional half without its prompt".into());
        }
        Ok(())
    }
}

impl TensorFile {
    fn read(&self, path: &Path) -> Result<Trace, String> {
        self.version("trace", FORMAT_VERSION)?;
        let prompt =
            PromptInfo { text: self.text("prompt")?.into(), tokens: self.json("tokens")?, words: self.json("words")? };
        let negative: Option<PromptInfo> =
            if self.metadata.contains_key("negative") { Some(self.json("negative")?) } else { None };
        let sites = Site::with_depths(self.json("sites")?);
        let timesteps: Vec<f64> = self.json("timesteps")?;
        let half = |prefix: &str, tokens: usize| -> Result<HalfMaps, String> {
            let channels = |site: &Site| site.channels(tokens);
            Ok(HalfMaps { tokens, sites: self.site_maps(prefix, &sites, &channels, timesteps.len())? })
        };
        let conditional = half("", prompt.tokens.len())?;
        let traced = sites.iter().any(|site| self.tensors.contains_key(&format!("uncond/sum/{}", site.path)));
        let unconditional = match &negative {
            Some(negative) if traced => Some(half("uncond/", negative.tokens.len())?),
            _ => None,
        };
        let concepts: Vec<ConceptInfo> = match self.metadata.contains_key("concepts") {
            true => self.json("concepts")?,
            false => Vec::new(),
        };
        let own_probes = self.metadata.contains_key("probes");
        let probes: Vec<ProbeInfo> = match own_probes {
            true => self.json("probes")?,
            false => {
                let asked = concepts.iter().filter(|concept| !concept.tokens.is_empty());
                asked.map(|concept| ProbeInfo { text: concept.text.clone(), tokens: concept.tokens.clone() }).collect()
            }
        };
        let asked = if own_probes { &probes[..] } else { &[] };
        let probe_maps = match asked.iter().map(|probe| probe.tokens.len()).sum() {
            0 => None,
            tokens => {
                Some(ProbeMaps { tokens, sites: self.site_maps("probe/", &sites, &|_| tokens, timesteps.len())? })
            }
        };
        let of_text = sites.iter().any(|site| self.tensors.contains_key(&format!("{TEXT_QUERIES}sum/{}", site.path)));
        let text_queries = match prompt.tokens.len() {
            tokens if of_text => {
                Some(HalfMaps { tokens, sites: self.site_maps(TEXT_QUERIES, &sites, &|_| tokens, timesteps.len())? })
            }
            _ => None,
        };
        let scores = |site: &Site| -> Result<Option<Buffer<f32>>, String> {
            let name = tensor_name(site);
            let shape = [timesteps.len(), concepts.len(), site.height, site.width];
            self.tensors.contains_key(&name).then(|| self.tensor(&name, Dtype::F32, &shape)).transpose()
        };
        let concept_maps = match concepts.len() {
            0 => None,
            count => Some(ConceptMaps { concepts: count, sites: sites.iter().map(scores).collect::<Result<_, _>>()? }),
        };
        let self_attention = |info: SelfAttentionInfo| -> Result<SelfAttention, String> {
            let SelfAttentionInfo { height, width, sites } = info;
            if height.min(width) == 0 || height.max(width) > LARGEST_SIDE {
                return Err(format!("{} is empty or too large", info.name()));
            }
            let grid = Grid::new(height, width);
            let mean = self.tensor(&info.name(), Dtype::F16, &[grid.cells(), grid.cells()])?;
            Ok(SelfAttention { grid, sites, mean })
        };
        let infos: Vec<SelfAttentionInfo> = match self.metadata.contains_key("self") {
            true => self.json("self")?,
            false => Vec::new(),
        };
        let self_attention = infos.into_iter().map(self_attention).collect::<Result<Vec<_>, _>>()?;
        let goca = match self.metadata.contains_key("goca") {
            true => Some(self.goca(prompt.tokens.len())?),
            false => None,
        };
        let about = About {
            prompt,
            negative,
            probes,
            concepts,
            encoders: if self.metadata.contains_key("encoders") { self.json("encoders")? } else { Vec::new() },
            latent: self.json::<Grid>("latent")?,
            image: self.json::<Grid>("image")?,
            checkpoint: self.json("checkpoint")?,
            settings: self.json("settings")?,
        };
        let text = self.layers("text", about.prompt.tokens.len())?;
        let text_2 = self.layers("text_2", about.second_tokens())?;
        let recording = Recording {
            sites,
            timesteps,
            conditional,
            unconditional,
            probes: probe_maps,
            text_queries,
            concepts: concept_maps,
            goca,
            self_attention,
            text,
            text_2,
        };
        Ok(Trace { about, recording, source: path.to_path_buf() })
    }

    fn goca(&self, tokens: usize) -> Result<GocaMaps, String> {
        let GocaInfo { height, width, weights } = self.json("goca")?;
        if height.min(width) == 0 || height.max(width) > LARGEST_SIDE {
            return Err(format!("the grid {width}x{height} of GoCA's maps is empty or too large"));
        }
        let grid = Grid::new(height, width);
        Ok(GocaMaps {
            grid,
            shares: self.tensor(goca::SHARES, Dtype::F32, &[tokens + 1, height, width])?,
            self_attention: self.tensor(goca::SELF_ATTENTION, Dtype::F16, &[grid.cells(), grid.cells()])?,
            weights,
        })
    }

    /// The self-attention of a text encoder among `tokens` tokens.
    fn layers(&self, prefix: &str, tokens: usize) -> Result<Vec<TextAttention>, String> {
        let mut layers = Vec::new();
        loop {
            let name = format!("{prefix}/{}", layers.len());
            let Some((_, shape, _)) = self.tensors.get(&name) else { return Ok(layers) };
            let heads = shape.first().copied().unwrap_or(0);
            layers.push(TextAttention {
                heads,
                probabilities: self.tensor(&name, Dtype::F16, &[heads, tokens, tokens])?,
            });
        }
    }

    fn site_maps(
        &self,
        prefix: &str,
        sites: &[Site],
        channels: &dyn Fn(&Site) -> usize,
        steps: usize,
    ) -> Result<Vec<SiteMaps>, String> {
        let site = |site: &Site| {
            let ([height, width], channels) = ([site.height, site.width], channels(site));
            if site.heads.min(height).min(width) == 0 || height.max(width) > LARGEST_SIDE {
                return Err(format!("site {} is empty or too large", site.path));
            }
            let sum = format!("{prefix}sum/{}", site.path);
            let sum = self.tensor(&sum, Dtype::F32, &[site.heads, channels, height, width])?;
            let name = format!("{prefix}step/{}", site.path);
            let maps = match self.tensors.contains_key(&name) {
                true => Some(self.tensor(&name, Dtype::F16, &[steps, channels, height, width])?),
                false => None,
            };
            Ok(SiteMaps { sum, steps: maps })
        };
        sites.iter().map(site).collect()
    }
}
