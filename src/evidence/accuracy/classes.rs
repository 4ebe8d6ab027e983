//! The IoU over classes of a data set: each pixel has the class whose map is highest there.

use super::scene::Scene;
use crate::trace::normalized;
use serde::Serialize;
use std::collections::BTreeMap;

/// From this share of its own range on, the highest map makes a pixel its class's; below, the pixel
/// is background.
pub const BACKGROUND: f32 = 0.4;

/// Mean IoU over classes, each over all pixels of the data set, 0 to 1.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct ClassIou {
    /// Over the pixels of any class: which class, and not where. Scenes of a single class are right
    /// by necessity (Seg4Diff and T2S publish this as VOC20).
    #[serde(rename = "miou_argmax")]
    pub argmax: f64,
    /// Over all pixels, with the background as one more class that begins below [`BACKGROUND`]
    /// (VOC21).
    #[serde(rename = "miou_with_background")]
    pub with_background: f64,
}

/// Pixels of one class: what map and mask share, and what either has.
type ClassCounts = BTreeMap<String, [u64; 2]>;

/// Pixels of all scenes so far.
#[derive(Debug, Clone, Default)]
pub(super) struct Classes {
    argmax: ClassCounts,
    with_background: ClassCounts,
}

impl Classes {
    /// Adds the `maps` of the objects of `scene`, each at the scene's size. Maps are brought to 0
    /// to 1 by their own range; a map without a range is 1 where it is above 0.
    pub fn add(&mut self, scene: &Scene, maps: &[Vec<f32>]) {
        let maps: Vec<Vec<f32>> = maps.iter().map(|map| by_own_range(map)).collect();
        let names: Vec<String> = scene.objects.iter().map(|object| normalized(&object.word)).collect();
        for pixel in 0..scene.objects.first().map_or(0, |object| object.mask.len()) {
            if scene.ignored.get(pixel) == Some(&true) {
                continue;
            }
            let truth = scene.objects.iter().position(|object| object.mask[pixel]);
            let mut highest = 0;
            for word in 1..maps.len() {
                if maps[word][pixel] > maps[highest][pixel] {
                    highest = word;
                }
            }
            if let Some(truth) = truth {
                count(&mut self.argmax, &names[truth], &names[highest]);
            }
            let name = |word: Option<usize>| word.map_or("", |word| names[word].as_str());
            let seen = Some(highest).filter(|&word| maps[word][pixel] >= BACKGROUND);
            count(&mut self.with_background, name(truth), name(seen));
        }
    }

    pub fn iou(&self) -> ClassIou {
        let mean = |counts: &ClassCounts| {
            let all = counts.values().map(|[both, either]| *both as f64 / (*either).max(1) as f64);
            all.sum::<f64>() / counts.len().max(1) as f64
        };
        ClassIou { argmax: mean(&self.argmax), with_background: mean(&self.with_background) }
    }
}

fn count(counts: &mut ClassCounts, truth: &str, seen: &str) {
    let mut add = |class: &str, both: u64| match counts.get_mut(class) {
        Some(found) => *found = [found[0] + both, found[1] + 1],
        None => drop(counts.insert(class.to_owned(), [both, 1])),
    };
    add(truth, u64::from(truth == seen));
    if truth != seen {
        add(seen, 0);
    }
}

fn by_own_range(map: &[f32]) -> Vec<f32> {
    let (low, high) = map.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(l, h), &v| (l.min(v), h.max(v)));
    let range = high - low;
    map.iter().map(|value| if range > 0.0 { (value - low) / range } else { f32::from(u8::from(high > 0.0)) }).collect()
}

#[cfg(test)]
mod tests {
    use super::super::scene::Object;
    use super::*;
    use image::RgbImage;

    #[test]
    fn classes_are_counted_as_by_hand() {
        let object = |word: &str, mask: [u8; 4]| Object {
            word: word.to_owned(),
            range: 0..1,
            mask: mask.map(|on| on == 1).to_vec(),
        };
        let scene = Scene {
            name: String::new(),
            image: RgbImage::new(4, 1),
            caption: String::new(),
            objects: vec![object("cat", [1, 0, 0, 0]), object("dog", [0, 1, 1, 0])],
            ignored: Vec::new(),
        };
        // Highest: cat, cat, dog, dog; the last is below the background's bound in both.
        let maps = [vec![1.0, 0.9, 0.0, 0.1], vec![0.0, 0.5, 1.0, 0.2]];
        let mut classes = Classes::default();
        classes.add(&scene, &maps);
        let iou = classes.iou();
        // cat: 1 of 2 pixels; dog: 1 of 2.
        assert_eq!(iou.argmax, 0.5);
        // cat 1/2, dog 1/2, background 1/1.
        assert!((iou.with_background - 2.0 / 3.0).abs() < 1e-12, "{iou:?}");
        let mut ignored = Classes::default();
        ignored.add(&Scene { ignored: vec![false, true, false, false], ..scene }, &maps);
        assert_eq!(ignored.iou(), ClassIou { argmax: 1.0, with_background: 1.0 });
    }
}
