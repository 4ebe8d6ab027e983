//! From a run's folder to [`ReportData`].

use super::causal;
use super::channels::{self, NegativeHalf};
use super::data::{
    CausalMap, ImageData, LayoutRow, Negative, PageWord, PromptMatrix, ReportData, RunMaps, SelfAttentionData,
    SiteData, StepImage, SweepLink, Verdict, WhyAnswer, Without,
};
use super::prompt::{all_read, probe_info, segments, token_info, word_info};
use super::settings::settings;
use crate::argument::RUN;
use crate::attribution::{Attributions, RegionAttribution, beside};
use crate::components::Components;
use crate::evidence::{Evidence, Figure, Shows, WordEvidence};
use crate::facts::WordFacts;
use crate::facts::sweep::Sweep;
use crate::heatmap::{self, Aggregate, DEFAULT, Encoder, Measure, NAMED, OfTokens, QuerySource};
use crate::pipeline::Init;
use crate::prompt::Syntax;
use crate::run::{
    Run, RunRecord, WordRecord, folder_of, kept_step_files, quoted, read_components, read_png, remapped, renewed,
};
use crate::trace::{self, Half, Queries, Stage, Trace};
use crate::{Error, Result, percent};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use half::slice::HalfFloatSliceExt;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// The page's file in a run folder.
pub const FILE: &str = "report.html";

/// What the page is made of, as [`from_run`] reads it.
struct Parts<'a> {
    /// Name of the run folder.
    name: &'a str,
    /// Where the run folder lies, as the user writes it.
    place: &'a Path,
    /// The content of `run.json`.
    record: &'a RunRecord,
    /// The recorded attention.
    trace: &'a Trace,
    /// The bytes of `image.png`.
    image: Vec<u8>,
    /// Estimates of the image by 0-based step, as PNG bytes.
    estimates: Vec<(usize, Vec<u8>)>,
    /// The picture that the run set out from.
    start: Option<Init>,
    /// What `attnmap explain` wrote, if it was run.
    evidence: Option<Evidence>,
    /// Pictures that it made, as captions and PNG bytes.
    figures: Vec<(String, Vec<u8>)>,
    /// The causal maps that it made.
    causal: Vec<CausalMap>,
    /// The same seed without words.
    without: Vec<Without>,
    /// What `attnmap why` answered.
    why: Vec<WhyAnswer>,
    /// What `attnmap attribute` found.
    attributions: Vec<RegionAttribution>,
    /// What `attnmap components` found.
    components: Option<Components>,
    /// Queries and keys, where the run kept them.
    queries: Option<Queries>,
    /// A sweep of the prompt beside the run.
    sweep: Option<SweepLink>,
    /// Whether the run is a cell of a gallery, two folders above its own.
    is_cell: bool,
}

/// Writes `report.html` into a run folder, whole or not at all, and returns its path and size in
/// bytes.
///
/// # Errors
/// Those of [`from_run`]; [`Error::Argument`] when a page is there that attnmap did not write;
/// [`Error::Io`] when it cannot be written.
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
    data.cell = data.cell.map(|_| data.name.clone());
    data.explain_command = explain_command(place);
    save(folder, &data)
}

/// The page itself names the folder that it was opened from; this is for a page that a server
/// sends.
fn explain_command(place: &Path) -> String {
    format!("attnmap explain {}", quoted(&place.to_string_lossy()))
}

/// Checks, before long work on the run in `folder`, that its page can be written.
///
/// # Errors
/// [`Error::Argument`] on `run` where a page is there that attnmap did not write; [`Error::Io`]
/// where no file can be made.
pub fn check_room(folder: &Path) -> Result<()> {
    crate::files::check_own(&folder.join(FILE), RUN)?;
    crate::files::check_writable(folder)
}

fn save(folder: &Path, data: &ReportData) -> Result<(PathBuf, usize)> {
    let file = folder.join(FILE);
    crate::files::check_own(&file, RUN)?;
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
    from_run_as(folder, None)
}

/// As [`from_run`], with maps made as `how` says where it says something: the folder stays as it
/// is.
///
/// # Errors
/// As [`from_run`], and as [`heatmap::aggregate`].
pub fn from_run_as(folder: &Path, how: Option<&Aggregate>) -> Result<ReportData> {
    // The largest of the files, and independent of the rest. Pages of runs whose sheet was moved
    // away do without it.
    let sheet = || super::start::sheet(&crate::files::read(&folder_of(folder).join("words.png")).ok()?);
    let (sheet, data) = rayon::join(sheet, || without_sheet(folder, how));
    Ok(ReportData { sheet, ..data? })
}

/// As [`from_run_as`], but for the sheet of the words.
fn without_sheet(folder: &Path, how: Option<&Aggregate>) -> Result<ReportData> {
    let mut run = Run::open(folder)?;
    let trace = run.trace()?;
    if let Some(how) = how {
        run.record = remapped(&run.record, &trace, how)?;
    }
    let folder = run.folder.as_path();
    run.image()?;
    let image = read(&folder.join("image.png"))?;
    // Most runs have none; the page does without what is damaged.
    // Of words in another meaning the page has none to show it at.
    let found = Evidence::of_run(&run).ok().flatten();
    let attributions = attributions(&run, &trace, found.as_ref());
    let (evidence, maps) = found.unzip();
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
    let words = &trace.about.prompt;
    let causal =
        evidence.as_ref().zip(maps).map_or_else(Vec::new, |(evidence, maps)| causal::maps(evidence, maps, words));
    let without = evidence.as_ref().map_or(Ok(Vec::new()), |evidence| causal::without(folder, evidence, words))?;
    gather(Parts {
        name: &name,
        place: folder,
        record: &run.record,
        trace: &trace,
        image,
        estimates,
        start,
        evidence,
        figures,
        causal,
        without,
        why: super::why::why(folder)?,
        attributions,
        components: read_components(folder).ok().flatten(),
        queries: run.queries(&trace).ok().flatten(),
        sweep: sweep_beside(&run),
        is_cell: folder.join("cell.json").is_file(),
    })
}

/// What was attributed, with the attention and the cuts that the run has now. The page does without
/// what is damaged.
fn attributions(run: &Run, trace: &Trace, evidence: Option<&(Evidence, Vec<Vec<f32>>)>) -> Vec<RegionAttribution> {
    let mut found = Attributions::read(&run.folder).map(|found| found.regions).unwrap_or_default();
    for region in &mut found {
        // What cannot be had is left out of its table.
        let _ = beside(region, run, trace, evidence);
    }
    found
}

/// Everything the page shows of a run, from its parts.
///
/// # Errors
/// [`Error::Trace`] when the parts do not fit each other.
fn gather(parts: Parts<'_>) -> Result<ReportData> {
    let Parts { name, place, record, trace, image, estimates, start, evidence, figures, .. } = parts;
    let Parts { causal, without, why, sweep, attributions, components, queries, is_cell, .. } = parts;
    // Numbers of an older format are made again, as the maps are.
    let renewed = renewed(record, trace);
    let record = renewed.as_ref().unwrap_or(record);
    let figures = figures.into_iter().map(|(caption, bytes)| (caption, png(bytes))).collect();
    let prompt = &trace.about.prompt;
    let (recording, latent) = (&trace.recording, trace.about.latent);
    let how = record.how().ok();
    // Sites that the run's aggregate takes; all of them where it cannot be read.
    let used = how.as_ref().and_then(|how| how.choose(&recording.sites, latent).ok());
    let used = used.unwrap_or_else(|| (0..recording.sites.len()).collect());
    // That half has nothing of what maps of concepts, GoCA's and those of the text are made of.
    let negative = NegativeHalf::of(trace).filter(|_| how.as_ref().is_none_or(Aggregate::is_of_places));
    let syntax = record.settings.sampling.syntax();
    let count = prompt.tokens.len();
    let padded = record.settings.max_length.unwrap_or(77);
    let chunks = prompt.tokens.iter().filter(|token| token.kind == trace::TokenKind::Start).count();
    let padded = padded * chunks;
    let mut shares: Vec<f32> = record.tokens.iter().map(|token| token.share).collect();
    shares.push(record.padding_share + record.image_share.unwrap_or(0.0));
    // Maps that `view --half unconditional` made are the negative prompt's.
    let of_prompt = how.as_ref().filter(|how| how.half == Half::Conditional && shares.len() == count + 1);
    let official = of_prompt.map(|how| official(trace, how, shares)).transpose()?;
    Ok(ReportData {
        name: name.to_string(),
        cell: is_cell.then(|| name.to_owned()),
        prompt: record.prompt.clone(),
        segments: segments(&prompt.text, &prompt.words, record.cut_off.is_empty()),
        cut_off: record.cut_off.clone(),
        tokens: prompt.tokens.iter().map(|token| token_info(token, &prompt.text)).collect(),
        padding: if record.padding_share > 0.0 { padded.saturating_sub(count).max(1) } else { 0 },
        joint: record.image_share.is_some(),
        words: prompt.words.iter().map(|word| word_info(word, prompt, syntax)).collect(),
        probes: trace.probe_words(Half::Conditional).iter().map(probe_info).collect(),
        image: ImageData { mime: "image/png", bytes: image, width: record.image.width, height: record.image.height },
        estimates: estimates.into_iter().map(|(step, bytes)| StepImage { step, image: png(bytes) }).collect(),
        display: record.display.clone(),
        threshold: record.threshold(),
        sheet: None,
        start: start.as_ref().and_then(super::start::start),
        latent: (latent.height, latent.width),
        timesteps: recording.timesteps.clone(),
        noise: trace.about.noise(),
        sites: sites(trace, negative.as_ref(), &used),
        official,
        negative_words: negative
            .map(|half| negative_words(trace, &half, how.unwrap_or_default(), syntax))
            .transpose()?,
        self_attention: recording.self_attention.iter().map(self_attention_data).collect(),
        queries,
        matrices: matrices(trace),
        layout: layout_rows(trace, record),
        remarks: remarks(record),
        causal,
        without,
        why,
        attributions,
        components: components.map(|found| components_data(&found, &recording.sites)),
        sweep,
        checks: evidence.as_ref().map_or_else(Vec::new, |evidence| evidence.notes.clone()),
        figures,
        verdicts: evidence.as_ref().map_or_else(Vec::new, |evidence| verdicts(evidence, prompt)),
        explain_command: explain_command(place),
        settings: settings(record, trace.about.levels()),
        command: record.command.clone(),
    })
}

/// Every site with its maps by head and by step; `used` are those that the run's maps take.
fn sites(trace: &Trace, negative: Option<&NegativeHalf>, used: &[usize]) -> Vec<SiteData> {
    let site = |(index, site): (usize, &trace::Site)| {
        let (by_head, by_step) = channels::of_site(trace, negative, index);
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
    };
    trace.recording.sites.iter().enumerate().map(site).collect()
}

/// Where the map of each shown word of the prompt lies, in numbers and as the page writes them.
fn layout_rows(trace: &Trace, record: &RunRecord) -> Vec<LayoutRow> {
    let prompt = &trace.about.prompt;
    let label = |word: &trace::WordInfo| prompt.words.iter().position(|other| other == word);
    let row = |word: &WordRecord| {
        let (l, known) = (&word.layout, facts_of(record, &word.word));
        let mut facts = vec![
            ("share", percent(l.share)),
            ("peak", l.peak.map_or("–".into(), |peak| percent(peak.value))),
            ("peak at", l.peak.map_or("–".into(), |peak| pixel(peak.x, peak.y, record.image))),
            ("centre", l.centroid.map_or("–".into(), |centre| pixel(centre.x, centre.y, record.image))),
            ("area", percent(l.area)),
        ];
        // The noise levels of a look are no way on which a word comes to its place.
        if !trace.about.is_look() {
            let placed = known.and_then(|known| known.placed);
            let at = placed.map_or("–".into(), |at| format!("{} of {}", at.step, at.steps));
            facts.push(("placed at step", at));
        }
        let facts = facts.into_iter().map(|(name, value)| (name.to_string(), value)).collect();
        let centre = l.centroid.map(|centre| [centre.x, centre.y]);
        label(&word.word).map(|word| LayoutRow {
            word,
            share: l.share,
            centre,
            area: l.area,
            entropy: l.entropy,
            not_drawn: known.is_some_and(|known| known.neglected == Some(true)),
            facts,
        })
    };
    record.words.iter().filter_map(row).collect()
}

/// The facts of `word`, where the run has them.
fn facts_of<'a>(record: &'a RunRecord, word: &trace::WordInfo) -> Option<&'a WordFacts> {
    record.facts.as_ref()?.words.iter().find(|known| known.tokens == word.tokens)
}

/// What the maps say of the run in sentences, and first what came of what was expected.
fn remarks(record: &RunRecord) -> Vec<String> {
    let expected = record.expectations.iter().map(|outcome| format!("Expected: {outcome}"));
    expected.chain(record.facts.iter().flat_map(|facts| record.sentences(facts))).collect()
}

/// The components as the page takes them: sites by position, maps as bytes of their own scale.
fn components_data(found: &Components, sites: &[trace::Site]) -> Value {
    let component = |component: &crate::components::Component| {
        let place = |path: &str| sites.iter().position(|site| site.path == path);
        let heads = component.heads.iter().filter_map(|(path, head, share)| Some((place(path)?, *head, *share)));
        let bytes: Vec<u8> = component.map.iter().map(|value| (255.0 * value).round() as u8).collect();
        json!({
            "name": component.name, "share": component.share, "words": component.words,
            "heads": heads.collect::<Vec<_>>(), "map": BASE64.encode(bytes),
        })
    };
    let components: Vec<Value> = found.components.iter().map(component).collect();
    json!({"grid": found.grid, "explained": found.explained, "components": components})
}

/// The newest sweep of the run's prompt and settings that lies beside it, under a name that `sweep`
/// gives it.
fn sweep_beside(run: &Run) -> Option<SweepLink> {
    let place = run.folder.join("..").join(crate::run::sweep_name(&run.record.prompt));
    let (folder, sweep) = Sweep::newest(&place, &run.record.about(run.record.saved_aggregate()))?;
    // A slug has no letter that means something in an address.
    let href = format!("../{}/index.html", folder.file_name()?.to_string_lossy());
    Some(SweepLink { href, seeds: sweep.seeds.len() })
}

fn read(file: &Path) -> Result<Vec<u8>> {
    crate::files::read(file).map_err(Error::io(file))
}

fn png(bytes: Vec<u8>) -> ImageData {
    ImageData { mime: "image/png", bytes, width: 0, height: 0 }
}

/// The default map as it is of this run: which of its sites are taken, and what is done with them.
fn of_default(trace: &Trace, how: &Aggregate) -> Result<String> {
    let sites = &trace.recording.sites;
    let chosen = how.choose(sites, trace.about.latent)?;
    let first = &sites[chosen[0]];
    let which = match (first.stage, chosen.len()) {
        (Stage::Transformer, count) => format!("the middle half of the depth, {count} of {} layers", sites.len()),
        (_, 1) => format!("the last layer, {}×{}", first.width, first.height),
        (..) => format!("the up blocks’ layers of {}×{}", first.width, first.height),
    };
    Ok(format!("{which}; each cell shared out among the prompt’s words"))
}

/// The run's own maps of every word of the prompt and every probe, whichever of them it was asked
/// to draw.
fn official(trace: &Trace, how: &Aggregate, shares: Vec<f32>) -> Result<RunMaps> {
    let maps = heatmap::aggregate(trace, how, &trace.words(Half::Conditional))?;
    let name = how.to_string();
    // The page says which encoder's tokens it shows.
    let of_both = Aggregate { encoder: Encoder::Both, ..how.clone() }.to_string();
    let attention = how.measure == Measure::Attention && how.queries == QuerySource::Image;
    let heads = trace.recording.sites.iter().map(|site| site.heads).max().unwrap_or(0);
    let named = NAMED.iter().find(|named| named.name == how.name);
    let about = match named {
        Some(named) if named.name == DEFAULT => of_default(trace, how)?,
        named => named.map_or("the run’s choice of layers", |named| named.about).to_owned(),
    };
    let window = how.steps.as_ref().and_then(|steps| steps.resolve(trace.steps()).ok());
    Ok(RunMaps {
        description: match of_both.strip_prefix(how.name.as_str()) {
            Some(more) => format!("{about}{more}"),
            None => about,
        },
        name,
        height: maps.grid.height,
        width: maps.grid.width,
        words: maps.words_per_step(),
        shares,
        colour: how.colour(),
        compete: how.compete,
        mean: how.of_tokens == OfTokens::Mean,
        encoder: how.encoder.name(),
        behind: trace.about.prompt.behind().filter(|_| attention),
        heads: how.heads.as_ref().map(|chosen| (0..heads).filter(|&head| chosen.contains(head)).collect()),
        steps: window.filter(|window| *window != (0..trace.steps())).map(|window| [window.start, window.end - 1]),
    })
}

/// The words of the negative prompt, with maps by `how`.
fn negative_words(trace: &Trace, half: &NegativeHalf, how: Aggregate, syntax: Syntax) -> Result<Negative> {
    let maps = heatmap::aggregate(trace, &Aggregate { half: Half::Unconditional, ..how }, &half.prompt.words)?;
    let words = half.prompt.words.iter();
    Ok(Negative {
        segments: segments(&half.prompt.text, &half.prompt.words, all_read(half.prompt)),
        words: words
            .map(|word| PageWord { tokens: half.positions(word), ..word_info(word, half.prompt, syntax) })
            .collect(),
        maps: maps.words_per_step(),
        shares: half.kept.iter().map(|&token| maps.shares[token]).collect(),
        behind: half.prompt.behind().map(|behind| half.kept.partition_point(|&token| token < behind)),
    })
}

fn self_attention_data(kept: &trace::SelfAttention) -> SelfAttentionData {
    SelfAttentionData { height: kept.grid.height, width: kept.grid.width, sites: kept.sites, mean: kept.mean.clone() }
}

/// The attention of each text encoder; without those that were not recorded or whose layers differ
/// in heads.
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

/// What the causal test said of each word of `prompt`.
fn verdicts(evidence: &Evidence, prompt: &trace::PromptInfo) -> Vec<Verdict> {
    let verdict = |tested: &WordEvidence| {
        let word = prompt.words.iter().position(|word| word.label() == tested.word)?;
        let (mattered, shows) = (tested.mattered.name(), tested.shows.name());
        let verdict = match tested.shows {
            Shows::Nothing => format!("mattered {mattered}"),
            _ => format!("mattered {mattered}, its map shows where: {shows}"),
        };
        let (changed, effect) = (tested.changed, tested.effect);
        let (sentence, measured) = (tested.sentence.clone(), tested.measured());
        Some(Verdict { word, mattered, changed, effect, shows, verdict, sentence, measured })
    };
    evidence.words.iter().filter_map(verdict).collect()
}

/// The pictures of the causal test, from the run folder. Those that are not there any more are left
/// out.
fn figures(folder: &Path, evidence: &Evidence) -> Result<Vec<(String, Vec<u8>)>> {
    let figure = |figure: &Figure| {
        let file = Path::new(&figure.file);
        // Only what lies in the folder itself.
        let inside = file.components().all(|part| matches!(part, std::path::Component::Normal(_)));
        let path = folder.join(inside.then_some(file)?);
        Some((figure.caption.clone(), path.is_file().then_some(path)?))
    };
    let there = evidence.figures.iter().filter_map(figure);
    there.map(|(caption, path)| Ok((caption, read_png(&path)?.1))).collect()
}

/// The pixel that a point lies in, as the command line names it and `--at` takes it.
fn pixel(x: f32, y: f32, size: trace::Grid) -> String {
    let [across, down] = size.pixel(x, y);
    format!("{across:.0}, {down:.0} px")
}
