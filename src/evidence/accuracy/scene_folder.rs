//! Scenes with known masks from a folder: listed in `scenes.json`, or as pictures, texts and masks
//! that belong together by name.

use super::scene::{Object, Scene};
use crate::argument::SCENES;
use crate::trace::whole_words;
use crate::{Error, Result, files, picture};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

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

/// Reads a folder of scenes: those of its `scenes.json`, or else every `NAME.png` with its caption
/// in `NAME.txt`. Each word of the caption that names an object has a mask `NAME-WORD.png`, white
/// where the object is.
///
/// # Errors
/// [`Error::Argument`] naming the file that is missing, unreadable, or of another size than its
/// scene; [`Error::Io`].
pub fn read_scenes(folder: &Path) -> Result<Vec<Scene>> {
    if !folder.is_dir() {
        let reason = format!(
            "there is no folder {}; give a folder of scenes (the usual ones lie in attnmap's repository)",
            folder.display()
        );
        return Err(Error::argument(SCENES, reason));
    }
    let list = folder.join("scenes.json");
    let entries = if list.is_file() {
        let bytes = files::read(&list).map_err(Error::io(&list))?;
        let wrong = |error: serde_json::Error| Error::argument(SCENES, format!("{}: {error}", list.display()));
        let list: SceneList = serde_json::from_slice(&bytes).map_err(wrong)?;
        list.scenes
    } else {
        find_scenes(folder)?
    };
    if entries.is_empty() {
        let reason = format!("{} holds no scenes; see `attnmap eval --help` for what a folder needs", folder.display());
        return Err(Error::argument(SCENES, reason));
    }
    entries.into_iter().map(|entry| read_scene(folder, entry)).collect()
}

/// `NAME.png`, `NAME.txt`, `NAME-WORD.png`.
fn find_scenes(folder: &Path) -> Result<Vec<SceneEntry>> {
    let files = std::fs::read_dir(folder).map_err(Error::io(folder))?;
    let mut texts = BTreeMap::new();
    let mut pictures = Vec::new();
    for file in files {
        // From the folder, as `scenes.json` names its files.
        let path = PathBuf::from(file.map_err(Error::io(folder))?.file_name());
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
    for (name, path) in &texts {
        let text = folder.join(path);
        let caption = files::read(&text).map_err(Error::io(&text))?;
        let wrong = || Error::argument(SCENES, format!("{} is not UTF-8 text", text.display()));
        let caption = files::text(caption).ok_or_else(wrong)?.trim().to_owned();
        let Some((_, image)) = pictures.iter().find(|(stem, _)| stem == name) else {
            return Err(Error::argument(SCENES, format!("{} has a caption and no picture beside it", text.display())));
        };
        // `dog-2-cat.png` is of the scene `dog-2`, where there is one, and not of `dog`.
        let others: Vec<&String> = texts.keys().filter(|other| word_of(other, name).is_some()).collect();
        let masks = pictures
            .iter()
            .filter(|(stem, _)| !others.iter().any(|other| *stem == **other || word_of(stem, other).is_some()));
        let masks = masks.filter_map(|(stem, path)| Some((word_of(stem, name)?, path)));
        let nouns = masks.map(|(word, mask)| ObjectEntry { word: word.to_owned(), range: None, mask: mask.clone() });
        scenes.push(SceneEntry { image: image.clone(), caption, nouns: nouns.collect() });
    }
    scenes.retain(|scene| !scene.nouns.is_empty());
    Ok(scenes)
}

/// The word of the mask `stem`, if it is one of `scene`: `cat` of `dog-cat` and `dog`.
fn word_of<'a>(stem: &'a str, scene: &str) -> Option<&'a str> {
    stem.strip_prefix(scene)?.strip_prefix('-')
}

fn read_scene(folder: &Path, entry: SceneEntry) -> Result<Scene> {
    let read = |path: &Path| picture::read(&folder.join(path), SCENES);
    let image = read(&entry.image)?;
    let name = entry.image.display().to_string();
    let mut objects = Vec::new();
    for ObjectEntry { word, range, mask } in entry.nouns {
        let pixels = read(&mask)?;
        let (width, height) = image.dimensions();
        if pixels.dimensions() != (width, height) {
            let (found, other) = pixels.dimensions();
            let sizes = format!("{found}x{other} pixels, {name} {width}x{height}");
            let reason = format!("the mask {} has {sizes}: give one of the same size", mask.display());
            return Err(Error::argument(SCENES, reason));
        }
        let found = || whole_words(&entry.caption, &word).first().map(|range| [range.start, range.end]);
        let Some([start, end]) = range.or_else(found) else {
            return Err(Error::argument(
                SCENES,
                format!("{name}: the caption {} has no {}", crate::in_quotes(&entry.caption), crate::in_quotes(&word)),
            ));
        };
        let mask = picture::mask(&pixels, width, height).as_raw().iter().map(|&value| value > 0).collect();
        objects.push(Object { word, range: start..end, mask });
    }
    Ok(Scene { name, image, caption: entry.caption, objects, ignored: Vec::new() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::{GrayImage, RgbImage};

    #[test]
    fn a_mask_is_of_the_scene_with_the_longest_name() {
        let folder = tempfile::TempDir::new().unwrap();
        let at = |name: &str| folder.path().join(name);
        for (scene, caption) in [("dog", "a giant and an ant"), ("dog-2", "a cat")] {
            std::fs::write(at(&format!("{scene}.txt")), caption).unwrap();
            RgbImage::new(8, 8).save(at(&format!("{scene}.png"))).unwrap();
        }
        for mask in ["dog-ant.png", "dog-2-cat.png"] {
            GrayImage::new(8, 8).save(at(mask)).unwrap();
        }
        let scenes = read_scenes(folder.path()).unwrap();
        let words = |scene: &Scene| scene.objects.iter().map(|object| object.word.clone()).collect::<Vec<_>>();
        assert_eq!(scenes.iter().map(words).collect::<Vec<_>>(), [["ant"], ["cat"]]);
        // A word is not found within another.
        assert_eq!(scenes[0].objects[0].range, 15..18);
    }
}
