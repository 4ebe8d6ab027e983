//! A word's map over the steps: an animated PNG with a colour bar and step numbers, and a sheet of
//! stills.

use crate::argument::RUN;
use crate::figures::largest;
use crate::files::{MARK, Target};
use crate::heatmap::{Aggregate, StepWindow, aggregate};
use crate::render::{Base, Display, Scale, Sheet, Tile, Typesetter, contact_sheet, fill, overlay, percent, write_png};
use crate::trace::{Half, Trace, WordInfo};
use crate::{Error, Result};
use image::{Rgb, RgbImage, imageops};
use std::path::PathBuf;

const PAPER: [u8; 3] = [0x17, 0x17, 0x1b];
const INK: [u8; 3] = [0xf2, 0xf0, 0xec];
const FAINT: [u8; 3] = [0xa3, 0xa1, 0xa8];

/// What is animated of a trace.
pub struct Animation<'a> {
    /// The trace; it must hold maps of single steps.
    pub trace: &'a Trace,
    /// The finished image.
    pub image: &'a RgbImage,
    /// The image's estimate at some steps, by 0-based step: drawn behind the map from that step on.
    pub estimates: &'a [(usize, RgbImage)],
    /// Which sites are averaged; its heads must be all and its steps are ignored.
    pub aggregate: &'a Aggregate,
    /// How the maps are drawn. [`Scale::Shared`] is one scale for all words and steps,
    /// [`Scale::Word`] one for all steps.
    pub display: &'a Display,
    /// Seconds that a step is shown.
    pub seconds: f32,
}

/// The files of one word.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Animated {
    /// The word's name.
    pub word: String,
    /// The animated PNG.
    #[serde(serialize_with = "crate::files::as_shown")]
    pub animation: PathBuf,
    /// The sheet of stills.
    #[serde(serialize_with = "crate::files::as_shown")]
    pub stills: PathBuf,
    /// Number of steps shown.
    pub steps: usize,
}

/// One step's maps of the words, mean probability, and their shares.
struct StepMaps {
    maps: Vec<Vec<f32>>,
    shares: Vec<f32>,
}

/// Draws `words` into the folder `target` as `NN-word.apng` and `NN-word-steps.png`, NN being the
/// word's place in the prompt. `None` stands for the words of the prompt, then the probes.
///
/// # Errors
/// As [`aggregate`], above all when the trace holds no single steps. [`Error::Argument`] when a
/// file is there that may not be replaced; [`Error::Io`] when a file cannot be written.
pub fn animate(target: &Target, animation: &Animation, words: Option<&[WordInfo]>) -> Result<Vec<Animated>> {
    let Animation { trace, image, display, .. } = *animation;
    display.check()?;
    let prompt = &trace.about.prompt;
    let every = trace.words(Half::Conditional);
    let chosen = words.unwrap_or(&every);
    if chosen.is_empty() {
        return Err(Error::argument(RUN, "its prompt has no word to animate"));
    }
    let places = chosen.iter().enumerate().map(|(index, word)| {
        let place = every.iter().position(|other| other == word).unwrap_or(index);
        let name = format!("{place:02}-{}", super::slug(&word.label()));
        target.within(name).files([".apng", "-steps.png"])
    });
    let places: Vec<[PathBuf; 2]> = places.collect::<Result<_>>()?;
    // The scale needs every word, also those that are not drawn.
    let all: Vec<WordInfo> = every.iter().chain(chosen).cloned().collect();
    let steps = (0..trace.steps()).map(|step| step_maps(animation, step, &all)).collect::<Result<Vec<_>>>()?;
    let highest = |map: &[f32]| largest(map.iter().copied());
    let shared = largest(steps.iter().flat_map(|step| &step.maps[..every.len()]).map(|map| highest(map)));

    std::fs::create_dir_all(target.path()).map_err(Error::io(target.path()))?;
    let base = Base::new(image, display.overlay_size)?;
    let estimates = animation.estimates.iter();
    let estimates = estimates
        .map(|(step, image)| Ok((*step, Base::new(image, display.overlay_size)?)))
        .collect::<Result<Vec<(usize, Base)>>>()?;
    let behind = |step: usize| {
        // Before the first that was kept, that one: the finished image would be too early. An
        // estimate of another size than the image cannot stand in for it.
        let kept = estimates.iter().rev().find(|(at, _)| *at <= step).or(estimates.first());
        kept.map(|(_, base)| base).filter(|kept| kept.image.dimensions() == base.image.dimensions()).unwrap_or(&base)
    };
    let mut text = Typesetter::new();
    let mut files = Vec::new();
    for (index, (word, [file, stills])) in chosen.iter().zip(places).enumerate() {
        let at = every.len() + index;
        let own = largest(steps.iter().map(|step| highest(&step.maps[at])));
        let top = if display.scale == Scale::Shared { shared } else { own };
        let label = word.label();
        let pictures: Vec<RgbImage> = steps
            .iter()
            .enumerate()
            .map(|(step, maps)| overlay(behind(step), &maps.maps[at], trace.about.latent, top, display))
            .collect();

        let frames: Vec<RgbImage> = pictures
            .iter()
            .enumerate()
            .map(|(step, picture)| {
                let caption = Caption { label: &label, step, top, share: steps[step].shares[at] };
                frame(picture, &caption, animation, &mut text)
            })
            .collect();
        let bytes = apng(&frames, animation.seconds).map_err(|e| Error::io(&file)(std::io::Error::other(e)))?;
        crate::files::write_file(&file, |out| out.write_all(&bytes))?;

        let labels: Vec<String> = (0..steps.len()).map(|step| trace.call_name(step)).collect();
        // A sheet that can be looked at: sixteen steps at most, evenly spread, first and last among
        // them.
        let count = steps.len().min(16);
        let picks = (0..count).map(|i| if count > 1 { i * (steps.len() - 1) / (count - 1) } else { 0 });
        let tiles: Vec<Tile> = picks
            .map(|step| Tile {
                label: &labels[step],
                overlay: &pictures[step],
                top,
                peak: highest(&steps[step].maps[at]),
                share: steps[step].shares[at],
            })
            .collect();
        let subtitle = format!("“{label}” over the {}s; {}", trace.call(), animation.aggregate);
        let note = format!("One scale for all {}s. Attention shows where the model looked, not why.", trace.call());
        let sheet = Sheet { title: &prompt.text, subtitle: &subtitle, note: &note };
        let sheet = contact_sheet(&base, &tiles, &sheet, display, &mut text);
        write_png(&stills, &sheet, &[("Title", &label), ("Description", &prompt.text)], true)?;
        files.push(Animated { word: label, animation: file, stills, steps: steps.len() });
    }
    Ok(files)
}

fn step_maps(animation: &Animation, step: usize, words: &[WordInfo]) -> Result<StepMaps> {
    let how = Aggregate { steps: Some(StepWindow::Numbers(step + 1, step + 1)), ..animation.aggregate.clone() };
    let maps = aggregate(animation.trace, &how, words)?;
    Ok(StepMaps {
        maps: (0..words.len()).map(|word| maps.word(word).to_vec()).collect(),
        shares: words.iter().map(|word| maps.share(word)).collect(),
    })
}

/// What stands below a frame.
struct Caption<'a> {
    label: &'a str,
    step: usize,
    top: f32,
    share: f32,
}

/// A step's picture with the word, the step and the colour bar in numbers below it.
fn frame(picture: &RgbImage, caption: &Caption, animation: &Animation, text: &mut Typesetter) -> RgbImage {
    let (width, height) = picture.dimensions();
    let size = (width.min(height) as f32 / 24.0).max(9.0);
    let margin = (0.6 * size).ceil();
    let strip = (4.4 * size).ceil() as u32;
    let mut canvas = RgbImage::from_pixel(width, height + strip, Rgb(PAPER));
    imageops::replace(&mut canvas, picture, 0, 0);
    let (left, inner, top) = (margin, width as f32 - 2.0 * margin, height as f32);
    let (trace, steps) = (animation.trace, animation.trace.steps());
    let timestep = trace.recording.timesteps.get(caption.step).copied().unwrap_or_default();
    let right = match trace.about.is_look() {
        true => format!("noise level {}", trace.call_name(caption.step)),
        false => format!("step {} of {steps}, t = {timestep:.0}", caption.step + 1),
    };
    let right = text.set(&right, 0.8 * size, inner, 1);
    let word = text.set(&format!("{}  {}", caption.label, percent(caption.share)), size, inner - right.width - size, 1);
    text.draw(&mut canvas, &word, left, top + 0.4 * size, INK);
    text.draw(&mut canvas, &right, left + inner - right.width, top + 0.55 * size, FAINT);
    let (bar_top, thick) = ((top + 2.0 * size) as u32, (0.45 * size).max(3.0) as u32);
    for x in 0..inner as u32 {
        let colour = animation.display.colormap.at(x as f32 / inner.max(1.0));
        fill(&mut canvas, (left as i32 + x as i32, bar_top as i32), (1, thick as i32), colour);
    }
    // The steps gone by, as a line that fills.
    let done = (inner * (caption.step + 1) as f32 / steps.max(1) as f32) as i32;
    fill(&mut canvas, (left as i32, (height + strip) as i32 - 2), (done, 1), FAINT);
    for (share, anchor) in [(0.0, 0.0), (0.5, 0.5), (1.0, 1.0)] {
        let number = text.set(&percent(share * caption.top), 0.68 * size, inner, 1);
        let x = left + anchor * (inner - number.width);
        text.draw(&mut canvas, &number, x, bar_top as f32 + thick as f32 + 0.15 * size, FAINT);
    }
    canvas
}

/// An animated PNG that plays for ever, `seconds` per frame and longer on the last.
fn apng(frames: &[RgbImage], seconds: f32) -> Result<Vec<u8>, png::EncodingError> {
    let (width, height) = frames.first().map_or((1, 1), RgbImage::dimensions);
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_compression(png::Compression::Balanced);
    encoder.add_itxt_chunk("Software".into(), MARK.into())?;
    encoder.set_animated(frames.len() as u32, 0)?;
    let mut writer = encoder.write_header()?;
    for (index, frame) in frames.iter().enumerate() {
        // The last step stays a while, so that the eye can rest on it.
        let hold = if index + 1 == frames.len() { 6.0 } else { 1.0 };
        writer.set_frame_delay((1000.0 * seconds * hold).clamp(1.0, 60_000.0) as u16, 1000)?;
        writer.write_image_data(frame.as_raw())?;
    }
    writer.finish()?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_apng_says_how_many_frames_it_has_and_how_long_they_last() {
        let frames: Vec<RgbImage> = (0..3).map(|i| RgbImage::from_pixel(5, 4, Rgb([i * 90, 0, 0]))).collect();
        let bytes = apng(&frames, 0.25).unwrap();
        let mut reader = png::Decoder::new(std::io::Cursor::new(&bytes)).read_info().unwrap();
        let control = reader.info().animation_control.unwrap();
        assert_eq!((control.num_frames, control.num_plays), (3, 0));
        let mut buffer = vec![0; 5 * 4 * 3];
        for (index, delay) in [(0u8, 250), (1, 250), (2, 1500)] {
            reader.next_frame(&mut buffer).unwrap();
            assert_eq!((buffer[0], reader.info().frame_control.unwrap().delay_num), (index * 90, delay));
        }
    }
}
