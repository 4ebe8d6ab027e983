//! From a run's folder (or what `generate` still holds of it) to [`ReportData`].

use super::channels::{self, NegativeHalf};
use super::data::{
    ImageData, LayoutRow, Negative, Official, PromptMatrix, ReportData, Segment, SiteData, StepImage, TiesData,
    TokenInfo, TokenKind, Verdict, WordInfo,
};
use crate::facts::Facts;
use crate::heatmap::{self, Aggregate, LayerPattern, NAMED, Resolution, SiteFilter};
use crate::pipeline::Init;
use crate::prompt::{Syntax, weight_of};
use crate::run::{Run, RunRecord, kept_step_files, quoted, read_png};
use crate::trace::{self, Half, Trace};
use crate::{Error, Result};
use half::slice::HalfFloatSliceExt;
use safetensors::SafeTensors;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// The page's file in a run folder.
pub const FILE: &str = "report.html";

/// What the page is made of, as `generate` holds it in memory and [`from_run`] reads it.
pub struct Parts<'a> {
    /// Name of the run folder.
    pub name: &'a str,
    /// Where the run folder lies, as the user writes it.
    pub place: &'a Path,
    /// The content of `run.json`.
    pub record: &'a RunRecord,
    /// The recorded attention.
    pub trace: &'a Trace,
    /// The run's own maps, `[tokens, h, w]` on the latent grid, mean probability a step.
    pub tokens: Option<Vec<f32>>,
    /// The bytes of `image.png`.
    pub image: Vec<u8>,
    /// Estimates of the image by 0-based step, as PNG bytes.
    pub estimates: Vec<(usize, Vec<u8>)>,
    /// The picture that the run set out from.
    pub start: Option<Init>,
    /// What `attnmap explain` wrote, if it was run.
    pub evidence: Option<Value>,
    /// Pictures that it made, as captions and PNG bytes.
    pub figures: Vec<(String, Vec<u8>)>,
}

/// Writes `report.html` into a run folder, whole or not at all, and returns its path and size in bytes.
///
/// # Errors
/// Those of [`from_run`]; [`Error::Option`] when a page is there that attnmap did not write; [`Error::Io`] when it cannot be written.
pub fn write(folder: &Path) -> Result<(PathBuf, usize)> {
    save(folder, &from_run(folder)?)
}

/// As [`write()`], for a folder that will be renamed to `place` when it is complete.
///
/// # Errors
/// As [`write()`].
pub fn write_as(folder: &Path, place: &Path) -> Result<(PathBuf, usize)> {
    let mut data = from_run(folder)?;
    data.name = place.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    data.explain_command = explain_command(place);
    save(folder, &data)
}

/// The page itself names the folder that it was opened from; this is for a page that a server sends.
fn explain_command(place: &Path) -> String {
    format!("attnmap explain {}", quoted(&place.to_string_lossy()))
}

fn save(folder: &Path, data: &ReportData) -> Result<(PathBuf, usize)> {
    let file = folder.join(FILE);
    crate::files::check_own(&file, "RUN")?;
    let html = super::page(data);
    crate::files::sweep(folder);
    crate::files::write_file(&file, |out| out.write_all(html.as_bytes()))?;
    Ok((file, html.len()))
}

/// Everything the page shows of the run in `folder`.
///
/// # Errors
/// [`Error::Trace`] or [`Error::Io`] naming the file that is missing or damaged.
pub fn from_run(folder: &Path) -> Result<ReportData> {
    let run = Run::open(folder)?;
    let folder = run.folder.as_path();
    let trace = run.trace()?;
    run.image()?;
    let image = read(&folder.join("image.png"))?;
    let maps = folder.join("heatmaps.safetensors");
    let tokens = if maps.exists() { Some(own_maps(&maps, &run.record)?) } else { None };
    let evidence = match crate::files::read(&folder.join("evidence.json")) {
        Ok(bytes) => serde_json::from_slice(&bytes).ok(),
        Err(_) => None, // most runs have none
    };
    let steps = kept_step_files(folder).into_iter();
    let estimates = steps.map(|(step, path)| Ok((step, read_png(&path)?.1))).collect::<Result<Vec<_>>>()?;
    let name = folder.canonicalize().unwrap_or_else(|_| folder.to_path_buf());
    let name = name.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
    let figures = evidence.as_ref().map_or(Ok(Vec::new()), |evidence| figures(folder, evidence))?;
    let start = match Init::of_run(&run) {
        // The page does without a picture that was moved away.
        Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => None,
        start => start?,
    };
    gather(Parts {
        name: &name,
        place: folder,
        record: &run.record,
        trace: &trace,
        tokens,
        image,
        estimates,
        start,
        evidence,
        figures,
    })
}

/// Everything the page shows of a run that is still in memory.
///
/// # Errors
/// [`Error::Trace`] when the parts do not fit each other.
pub fn gather(parts: Parts<'_>) -> Result<ReportData> {
    let Parts { name, place, record, trace, tokens: own, image, estimates, start, evidence, figures } = parts;
    let figures = figures.into_iter().map(|(caption, bytes)| (caption, png(bytes))).collect();
    let prompt = &trace.about.prompt;
    let (recording, latent) = (&trace.recording, trace.about.latent);
    let used = used_sites(&record.aggregate, trace);
    let negative = NegativeHalf::of(trace);
    let syntax = Syntax::of_settings(&record.settings.more);
    let sites = recording.sites.iter().enumerate().map(|(index, site)| {
        let (by_head, by_step) = channels::of_site(trace, negative.as_ref(), index);
        SiteData {
            path: site.path.clone(),
            stage: site.stage,
            heads: site.heads,
            height: site.height,
            width: site.width,
            used: used.contains(&index),
            by_head,
            by_step,
        }
    });
    let count = prompt.tokens.len();
    let padded = record.settings.more.get("max_length").and_then(Value::as_u64).map_or(77, |n| n as usize);
    let chunks = prompt.tokens.iter().filter(|token| token.kind == trace::TokenKind::Start).count();
    let padded = padded * chunks;
    let about = NAMED.iter().find(|named| named.name == aggregate_name(&record.aggregate));
    let mut shares: Vec<f32> = record.tokens.iter().map(|token| token.share).collect();
    shares.push(record.padding_share);
    let mapped = count + recording.probes.as_ref().map_or(0, |probes| probes.tokens);
    // Maps that `view --half unconditional` made are of the negative prompt's tokens, however many those are.
    let of_prompt = !record.aggregate.ends_with("unconditional half");
    let official = own.filter(|own| of_prompt && own.len() == mapped * latent.cells() && shares.len() == count + 1);
    let label = |word: &trace::WordInfo| prompt.words.iter().position(|other| other == word);
    let placed = |word: &trace::WordInfo| {
        let facts = record.facts.as_ref()?.words.iter().find(|known| known.tokens == word.tokens)?;
        facts.placed
    };
    let layout = record.words.iter().filter_map(|word| {
        let l = &word.layout;
        let facts = [
            ("share", percent(l.share)),
            ("peak", l.peak.map_or("–".into(), |peak| percent(peak.value))),
            ("at x, y", l.peak.map_or("–".into(), |peak| format!("{:.2}, {:.2}", peak.x, peak.y))),
            ("centre x, y", l.centroid.map_or("–".into(), |c| format!("{:.2}, {:.2}", c.x, c.y))),
            ("area", percent(l.area)),
            ("entropy", format!("{:.2}", l.entropy)),
            (
                "in place from step",
                placed(&word.word).map_or("–".into(), |placed| format!("{} / {}", placed.step, placed.steps)),
            ),
        ];
        // The noise levels of a look are no way on which a word comes to its place.
        let shown = facts.into_iter().filter(|(name, _)| !trace.about.is_look() || !name.contains("step"));
        let facts = shown.map(|(name, value)| (name.to_string(), value)).collect();
        let centre = l.centroid.map(|centre| [centre.x, centre.y]);
        label(&word.word).map(|word| LayoutRow { word, share: l.share, centre, area: l.area, facts })
    });
    Ok(ReportData {
        name: name.to_string(),
        prompt: record.prompt.clone(),
        segments: segments(&prompt.text, &prompt.words),
        cut_off: record.cut_off.clone(),
        negative: record.negative.clone(),
        tokens: prompt.tokens.iter().map(|token| token_info(token, &prompt.text)).collect(),
        padding: if record.padding_share > 0.0 { padded.saturating_sub(count).max(1) } else { 0 },
        words: prompt.words.iter().map(|word| word_info(word, prompt, syntax)).collect(),
        probes: trace.probes(Half::Conditional).iter().flat_map(|(_, words)| words).map(probe_info).collect(),
        image: ImageData { mime: "image/png", bytes: image, width: record.image.width, height: record.image.height },
        estimates: estimates.into_iter().map(|(step, bytes)| StepImage { step, image: png(bytes) }).collect(),
        start: start.as_ref().and_then(super::start::start),
        latent: (latent.height, latent.width),
        timesteps: recording.timesteps.clone(),
        noise: trace.about.noise(),
        sites: sites.collect(),
        official: official.map(|tokens| Official {
            name: record.aggregate.clone(),
            description: about.map_or("the run’s choice of layers", |named| named.about).to_string(),
            height: latent.height,
            width: latent.width,
            tokens,
            shares,
        }),
        negative_words: negative.map(|half| negative_words(trace, &half, &record.aggregate, syntax)).transpose()?,
        ties: recording.ties.iter().map(ties_data).collect(),
        matrices: matrices(trace),
        layout: layout.collect(),
        remarks: record.facts.as_ref().map_or_else(Vec::new, Facts::sentences),
        checks: evidence.as_ref().map_or_else(Vec::new, |evidence| texts(evidence, "notes")),
        figures,
        verdicts: evidence.as_ref().map_or_else(Vec::new, |evidence| verdicts(evidence, prompt)),
        explain_command: explain_command(place),
        settings: settings(record, trace.about.levels()),
        command: record.command.clone(),
    })
}

fn read(file: &Path) -> Result<Vec<u8>> {
    crate::files::read(file).map_err(Error::io(file))
}

fn png(bytes: Vec<u8>) -> ImageData {
    ImageData { mime: "image/png", bytes, width: 0, height: 0 }
}

/// The `tokens` of `heatmaps.safetensors`, and its `probe_tokens` after them, as mean probability a step.
pub(crate) fn own_maps(file: &Path, record: &RunRecord) -> Result<Vec<f32>> {
    let error = |reason: String| Error::Trace { file: file.to_path_buf(), reason };
    let bytes = read(file)?;
    let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|e| error(format!("not safetensors: {e}")))?;
    let steps = header.metadata().as_ref().and_then(|m| m.get("steps")).and_then(|s| s.parse::<f32>().ok());
    let steps = steps.unwrap_or(record.timesteps.len() as f32).max(1.0);
    let tensors = SafeTensors::deserialize(&bytes).map_err(|e| error(format!("not safetensors: {e}")))?;
    let tokens =
        tensors.tensor("tokens").map_err(|_| error("no tensor `tokens`; make it again with `attnmap view`".into()))?;
    let probes = tensors.tensor("probe_tokens").ok();
    let all = || [Some(&tokens), probes.as_ref()].into_iter().flatten();
    if all().any(|tokens| tokens.dtype() != safetensors::Dtype::F32) {
        return Err(error("`tokens` is not f32; make it again with `attnmap view`".into()));
    }
    let bytes = all().flat_map(|tokens| tokens.data().as_chunks::<4>().0);
    let values: Vec<f32> = bytes.map(|bytes| f32::from_le_bytes(*bytes) / steps).collect();
    match values.iter().all(|value| value.is_finite()) {
        true => Ok(values),
        false => Err(error("it holds NaN or infinity; make it again with `attnmap view`".into())),
    }
}

fn aggregate_name(aggregate: &str) -> &str {
    aggregate.split(", ").next().unwrap_or_default()
}

/// Sites that the run's aggregate takes, read back from its written form; all of them where it cannot be read.
fn used_sites(aggregate: &str, trace: &Trace) -> Vec<usize> {
    let sites = &trace.recording.sites;
    let choose = || read_aggregate(aggregate)?.choose(sites, trace.about.latent);
    choose().unwrap_or_else(|_| (0..sites.len()).collect())
}

/// The aggregate of a run read back from its written form: its name and its choice of sites, over all heads and steps.
fn read_aggregate(aggregate: &str) -> Result<Aggregate> {
    let mut how = Aggregate::named(aggregate_name(aggregate))?;
    for part in aggregate.split(", ").skip(1) {
        if let Some(layers) = part.strip_prefix("layers ") {
            let patterns = layers.split(',').map(str::parse).collect::<Result<Vec<LayerPattern>>>()?;
            how = how.narrowed(SiteFilter::Layers(patterns));
        } else if let Some(sizes) = part.strip_prefix("resolution ") {
            let sizes = sizes.split(',').map(str::parse).collect::<Result<Vec<Resolution>>>()?;
            how = how.narrowed(SiteFilter::Resolutions(sizes));
        }
    }
    Ok(how)
}

/// The words of the negative prompt. An aggregate that cannot be read back gives way to the default.
fn negative_words(trace: &Trace, half: &NegativeHalf, aggregate: &str, syntax: Syntax) -> Result<Negative> {
    let how = read_aggregate(aggregate).unwrap_or_default();
    let maps = heatmap::aggregate(trace, &Aggregate { half: Half::Unconditional, ..how }, &[])?;
    let steps = maps.steps.max(1) as f32;
    let words = half.prompt.words.iter();
    Ok(Negative {
        segments: segments(&half.prompt.text, &half.prompt.words),
        words: words
            .map(|word| WordInfo { tokens: half.positions(word), ..word_info(word, half.prompt, syntax) })
            .collect(),
        tokens: half.kept.iter().flat_map(|&token| maps.token(token)).map(|value| value / steps).collect(),
        shares: half.kept.iter().map(|&token| maps.shares[token]).collect(),
    })
}

fn token_info(token: &trace::TokenInfo, text: &str) -> TokenInfo {
    let kind = match token.kind {
        trace::TokenKind::Start => TokenKind::Start,
        trace::TokenKind::Text => TokenKind::Text,
        trace::TokenKind::End | trace::TokenKind::Padding => TokenKind::End,
    };
    // The user's own letters where the token covers whole ones, else the vocabulary's.
    let own = text.get(token.start..token.end).filter(|own| !own.trim().is_empty());
    TokenInfo { text: own.map_or_else(|| token.text.replace("</w>", ""), |own| own.trim().to_string()), kind }
}

/// A word of `prompt`, read as `syntax` says.
fn word_info(word: &trace::WordInfo, prompt: &trace::PromptInfo, syntax: Syntax) -> WordInfo {
    let before = prompt.tokens.iter().take(word.tokens.first().map_or(0, |&first| first + 1));
    let starts = before.filter(|token| token.kind == trace::TokenKind::Start).count();
    WordInfo {
        text: word.text.clone(),
        occurrence: word.occurrence,
        tokens: word.tokens.clone(),
        weight: weight_of(&prompt.text, syntax, word.start),
        chunk: starts.saturating_sub(1),
    }
}

/// A probe, without the prefix of its name.
fn probe_info(probe: &trace::WordInfo) -> WordInfo {
    let text = probe.text.strip_prefix(trace::PROBE_PREFIX).unwrap_or(&probe.text);
    WordInfo { text: text.into(), occurrence: probe.occurrence, tokens: probe.tokens.clone(), weight: 1.0, chunk: 0 }
}

fn ties_data(ties: &trace::Ties) -> TiesData {
    TiesData { height: ties.grid.height, width: ties.grid.width, sites: ties.sites, mean: ties.mean.clone() }
}

/// Cuts `text` into the words and what lies between them. What follows the last word is kept only where it is short: text
/// beyond the model's length is listed apart.
fn segments(text: &str, words: &[trace::WordInfo]) -> Vec<Segment> {
    let mut out = Vec::new();
    let mut at = 0;
    for (index, word) in words.iter().enumerate() {
        let (Some(between), Some(own)) = (text.get(at..word.start), text.get(word.start..word.end)) else { continue };
        if !between.is_empty() {
            out.push(Segment { text: between.into(), word: None });
        }
        out.push(Segment { text: own.into(), word: Some(index) });
        at = word.end;
    }
    if let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty() && rest.len() < 200) {
        out.push(Segment { text: rest.into(), word: None });
    }
    out
}

/// The attention of each text encoder; without those that were not recorded or whose layers differ in heads.
fn matrices(trace: &Trace) -> Vec<PromptMatrix> {
    let (prompt, recording) = (&trace.about.prompt, &trace.recording);
    let second = trace.about.encoders.get(1).map_or(&[][..], |encoder| &encoder.tokens[..]);
    let matrix = |(name, layers, tokens): (&str, &[trace::TextAttention], &[trace::TokenInfo])| {
        let (heads, values) = (layers.first()?.heads, tokens.len() * tokens.len());
        let fits = |layer: &trace::TextAttention| layer.heads == heads && layer.probabilities.len() == heads * values;
        layers.iter().all(fits).then(|| PromptMatrix {
            name: name.to_string(),
            tokens: tokens.iter().map(|token| token_info(token, &prompt.text)).collect(),
            layers: layers.len(),
            heads,
            values: layers.iter().flat_map(|layer| layer.probabilities.to_f32_vec()).collect(),
        })
    };
    let encoders = [("text", &recording.text[..], &prompt.tokens[..]), ("text_2", &recording.text_2[..], second)];
    encoders.into_iter().filter_map(matrix).collect()
}

/// Verdicts in an `evidence.json`: an object a word with `word` (its label), `verdict` and `sentence`, under `words`.
fn verdicts(evidence: &Value, prompt: &trace::PromptInfo) -> Vec<Verdict> {
    let list = evidence.get("words").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let text = |entry: &Value, key: &str| entry.get(key).and_then(Value::as_str).unwrap_or_default().to_string();
    list.iter()
        .filter_map(|entry| {
            let name = text(entry, "word");
            let word = prompt.words.iter().position(|word| prompt.label(word) == name)?;
            Some(Verdict { word, verdict: text(entry, "verdict"), sentence: text(entry, "sentence") })
        })
        .collect()
}

/// The strings under `key` of an `evidence.json`.
fn texts(evidence: &Value, key: &str) -> Vec<String> {
    let list = evidence.get(key).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    list.iter().filter_map(|text| Some(text.as_str()?.to_string())).collect()
}

/// Pictures in an `evidence.json`: an object each with `caption` and `file` (from the run folder), under `figures`. Those that are not
/// there any more are left out.
fn figures(folder: &Path, evidence: &Value) -> Result<Vec<(String, Vec<u8>)>> {
    let list = evidence.get("figures").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let figure = |entry: &Value| {
        let text = |key: &str| entry.get(key).and_then(Value::as_str).map(str::to_string);
        let file = text("file")?;
        // Only what lies in the folder itself.
        let inside = Path::new(&file).components().all(|part| matches!(part, std::path::Component::Normal(_)));
        let path = folder.join(inside.then_some(file)?);
        Some((text("caption")?, path.is_file().then_some(path)?))
    };
    list.iter().filter_map(figure).map(|(caption, path)| Ok((caption, read_png(&path)?.1))).collect()
}

/// Settings as the page lists them, with the noise levels of a look in words.
fn settings(record: &RunRecord, levels: Option<String>) -> Vec<(String, String)> {
    let s = &record.settings;
    let calls = levels.map_or(("steps", s.steps.to_string()), |levels| ("noise levels", levels));
    let mut list = vec![
        ("checkpoint", record.checkpoint.id.clone()),
        ("digest", record.checkpoint.digest.clone()),
        ("seed", s.seed.to_string()),
        calls,
        ("guidance scale", s.guidance_scale.to_string()),
        ("scheduler", s.scheduler.clone()),
        ("size", format!("{}×{}", s.width, s.height)),
        ("number type", s.dtype.clone()),
        ("device", s.device.clone()),
        ("maps", record.aggregate.clone()),
        ("attnmap", record.attnmap.clone()),
    ];
    list.retain(|(_, value)| !value.is_empty());
    let named = [trace::LEVELS_KEY, trace::NOISE_KEY];
    let more = s.more.iter().filter(|(key, value)| !value.is_null() && !named.contains(&key.as_str()));
    let more = more.map(|(key, value)| {
        let value = match key.as_str() {
            "loras" | "embeddings" => files(value),
            _ => value.as_str().map_or_else(|| value.to_string(), str::to_string),
        };
        let name = match key.as_str() {
            "loras" => "LoRA".to_string(),
            "embeddings" => "embedding".to_string(),
            _ => key.replace('_', " "),
        };
        (name, value)
    });
    let probes: Vec<&str> = record.probes.iter().map(|probe| probe.word.text.trim_start_matches("probe:")).collect();
    let beside = [("negative prompt", record.negative.clone().unwrap_or_default()), ("probes", probes.join(", "))];
    let beside =
        beside.into_iter().filter(|(_, value)| !value.is_empty()).map(|(name, value)| (name.to_string(), value));
    let warnings = record.warnings.iter().map(|warning| ("warning".to_string(), warning.clone()));
    list.into_iter().map(|(key, value)| (key.to_string(), value)).chain(beside).chain(more).chain(warnings).collect()
}

/// LoRAs or embeddings as `run.json` records them, in words: `style.safetensors at 0.8`, `cat.safetensors as <cat>`.
fn files(list: &Value) -> String {
    let file = |entry: &Value| -> Option<String> {
        let name = Path::new(entry.get("file")?.as_str()?).file_name()?.to_string_lossy().into_owned();
        let weight = entry.get("weight").and_then(Value::as_f64).map(|weight| format!(" at {weight}"));
        let word = entry.get("word").and_then(Value::as_str).map(|word| format!(" as {word}"));
        Some(name + &weight.or(word).unwrap_or_default())
    };
    let files: Option<Vec<String>> = list.as_array().and_then(|list| list.iter().map(file).collect());
    files.map_or_else(|| list.to_string(), |files| files.join(", "))
}

fn percent(value: f32) -> String {
    format!("{:.1} %", 100.0 * value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(text: &str, start: usize) -> trace::WordInfo {
        trace::WordInfo { text: text.into(), start, end: start + text.len(), tokens: vec![], occurrence: 1 }
    }

    #[test]
    fn segments_put_together_are_the_prompt() {
        let text = "  सेब, \"red\" apple!\n";
        let words = [word("सेब", 2), word("red", text.find("red").unwrap()), word("apple", text.find("apple").unwrap())];
        let cut = segments(text, &words);
        assert_eq!(cut.iter().map(|s| s.text.as_str()).collect::<String>(), text);
        assert_eq!(cut.iter().filter_map(|s| s.word).collect::<Vec<_>>(), [0, 1, 2]);
    }

    #[test]
    fn ranges_that_do_not_fit_the_text_are_left_out() {
        assert_eq!(segments("é", &[word("x", 1)]).len(), 1);
        assert!(segments("", &[]).is_empty());
    }
}
