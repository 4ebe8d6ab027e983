//! Pictures in the layouts of VOC and COCO: what `attnmap eval` measures on them is what it
//! measures on the same pictures as scenes.

use crate::cli::{attnmap, refused};
use image::{Rgb, RgbImage};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

const CLASSES: [&str; 3] = ["apple", "frog", "penguin"];

/// The first colours of the challenge, of background and three classes.
const COLOURS: [[u8; 3]; 4] = [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0]];

/// Lengths of runs down the columns, of what is not the thing first.
fn runs(width: u32, height: u32, inside: impl Fn(u32, u32) -> bool) -> Vec<u64> {
    let (mut counts, mut on) = (vec![0u64], false);
    for (x, y) in (0..width).flat_map(|x| (0..height).map(move |y| (x, y))) {
        if inside(x, y) != on {
            counts.push(0);
            on = !on;
        }
        *counts.last_mut().unwrap() += 1;
    }
    counts
}

/// Some of the committed scenes, in three layouts.
fn write(folder: &Path) {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/scenes/final");
    let list: Value = serde_json::from_slice(&fs::read(from.join("scenes.json")).unwrap()).unwrap();
    let known = |scene: &&Value| {
        scene["nouns"].as_array().unwrap().iter().all(|noun| CLASSES.contains(&noun["word"].as_str().unwrap()))
    };
    for sub in ["scenes", "voc/JPEGImages", "voc/SegmentationClass", "coco/val2017", "coco/annotations"] {
        fs::create_dir_all(folder.join(sub)).unwrap();
    }
    let (mut scenes, mut images, mut annotations) = (Vec::new(), Vec::new(), Vec::new());
    for (index, scene) in list["scenes"].as_array().unwrap().iter().filter(known).take(3).enumerate() {
        let (name, file) = (format!("p{index}"), format!("p{index}.png"));
        let picture = image::open(from.join(scene["image"].as_str().unwrap())).unwrap().to_rgb8();
        for place in ["scenes", "voc/JPEGImages", "coco/val2017"] {
            picture.save(folder.join(place).join(&file)).unwrap();
        }
        let (width, height) = picture.dimensions();
        let mut labels = RgbImage::new(width, height);
        let mut nouns = Vec::new();
        for (class, word) in CLASSES.iter().enumerate() {
            let Some(noun) = scene["nouns"].as_array().unwrap().iter().find(|noun| noun["word"] == *word) else {
                continue;
            };
            let mask = image::open(from.join(noun["mask"].as_str().unwrap())).unwrap().to_luma8();
            let counts = runs(width, height, |x, y| mask.get_pixel(x, y).0[0] > 127);
            for (x, y, label) in labels.enumerate_pixels_mut() {
                if mask.get_pixel(x, y).0[0] > 127 {
                    *label = Rgb(COLOURS[class + 1]);
                }
            }
            mask.save(folder.join("scenes").join(format!("{name}-{word}.png"))).unwrap();
            nouns.push(json!({"word": word, "mask": format!("{name}-{word}.png")}));
            annotations.push(json!({"image_id": index, "category_id": 10 + class, "iscrowd": 0,
                "segmentation": {"counts": counts, "size": [height, width]}}));
        }
        labels.save(folder.join("voc/SegmentationClass").join(&file)).unwrap();
        images.push(json!({"id": index, "file_name": file, "width": width, "height": height}));
        let caption = nouns.iter().map(|noun| noun["word"].as_str().unwrap()).collect::<Vec<_>>().join(", ");
        scenes.push(json!({"image": file, "caption": caption, "nouns": nouns}));
    }
    assert_eq!(scenes.len(), 3);
    let categories: Vec<Value> =
        CLASSES.iter().enumerate().map(|(class, name)| json!({"id": 10 + class, "name": name})).collect();
    let coco = json!({"images": images, "annotations": annotations, "categories": categories});
    fs::write(folder.join("scenes/scenes.json"), json!({"scenes": scenes}).to_string()).unwrap();
    fs::write(folder.join("coco/annotations/instances_val2017.json"), coco.to_string()).unwrap();
    fs::write(folder.join("voc/classes.txt"), CLASSES.join("\n")).unwrap();
}

#[test]
fn layouts_of_voc_and_coco_give_the_figures_of_the_scenes() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path());
    let found = ["scenes", "voc", "coco"].map(|layout| {
        let place = folder.path().join(layout).display().to_string();
        let output = attnmap(&["eval", &place, "--levels", "300", "--limit", "2", "--json"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    });
    for (found, layout) in found.iter().zip(["scenes", "VOC", "COCO"]) {
        assert_eq!((&found["scenes"]["layout"], &found["scenes"]["count"]), (&json!(layout), &json!(2)));
        assert_eq!(found["timesteps"], json!([300]));
    }
    for part in ["aggregates", "baselines"] {
        let [scenes, voc, coco] = found.each_ref().map(|found| &found[part]);
        assert!(scenes["compete"]["miou_argmax"].as_f64().unwrap_or(1.0) > 0.0);
        assert_eq!(voc, scenes, "VOC, {part}");
        assert_eq!(coco, scenes, "COCO, {part}");
    }
    let compete = &found[0]["aggregates"]["compete"];
    let whole = &found[0]["baselines"]["whole image"];
    assert!(compete["miou_with_background"].as_f64().unwrap() > whole["miou_with_background"].as_f64().unwrap());
}

/// Pictures of two things each in the layouts of VOC and COCO, two of three in their lists. COCO's
/// frogs are outlines, all else is run lengths.
fn pairs(folder: &Path) {
    const SIDE: u32 = 64;
    for sub in ["voc/JPEGImages", "voc/SegmentationClass", "voc/ImageSets/Segmentation"] {
        fs::create_dir_all(folder.join(sub)).unwrap();
    }
    for sub in ["coco/val2017", "coco/annotations"] {
        fs::create_dir_all(folder.join(sub)).unwrap();
    }
    let pictures: [[(usize, [u32; 4]); 2]; 3] = [
        [(0, [8, 8, 28, 40]), (1, [36, 20, 60, 60])],
        [(1, [4, 30, 30, 62]), (2, [34, 6, 58, 50])],
        [(0, [2, 2, 20, 20]), (2, [30, 30, 60, 60])],
    ];
    let mut annotations = Vec::new();
    for (index, things) in pictures.into_iter().enumerate() {
        let mut picture = RgbImage::from_pixel(SIDE, SIDE, Rgb([200, 200, 190]));
        let mut labels = RgbImage::new(SIDE, SIDE);
        for (class, [left, top, right, bottom]) in things {
            let inside = |x: u32, y: u32| (left..right).contains(&x) && (top..bottom).contains(&y);
            for (x, y) in (left..right).flat_map(|x| (top..bottom).map(move |y| (x, y))) {
                picture.put_pixel(x, y, Rgb([[190, 30, 30], [40, 160, 60], [30, 30, 40]][class]));
                labels.put_pixel(x, y, Rgb(COLOURS[class + 1]));
            }
            let segmentation = match CLASSES[class] {
                "frog" => json!([[left, top, right, top, right, bottom, left, bottom]]),
                _ => json!({"counts": runs(SIDE, SIDE, inside), "size": [SIDE, SIDE]}),
            };
            annotations.push(json!({"image_id": index, "category_id": 10 + class, "segmentation": segmentation}));
        }
        let file = format!("p{index}.png");
        for place in ["voc/JPEGImages", "coco/val2017"] {
            picture.save(folder.join(place).join(&file)).unwrap();
        }
        labels.save(folder.join("voc/SegmentationClass").join(&file)).unwrap();
    }
    let image = |id: usize| json!({"id": id, "file_name": format!("p{id}.png"), "width": SIDE, "height": SIDE});
    let categories: Vec<Value> =
        CLASSES.iter().enumerate().map(|(class, name)| json!({"id": 10 + class, "name": name})).collect();
    let coco = json!({"images": [image(1), image(0)], "annotations": annotations, "categories": categories});
    fs::write(folder.join("coco/annotations/instances_val2017.json"), coco.to_string()).unwrap();
    fs::write(folder.join("voc/classes.txt"), CLASSES.join("\n")).unwrap();
    fs::write(folder.join("voc/ImageSets/Segmentation/val.txt"), "p1\n\np0\n").unwrap();
}

#[test]
fn joint_attention_has_figures_of_each_of_its_aggregates() {
    let folder = tempfile::tempdir().unwrap();
    pairs(folder.path());
    for name in ["tiny-flux-schnell", "tiny-sd3"] {
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name).display().to_string();
        let found = ["voc", "coco"].map(|layout| {
            let place = folder.path().join(layout).display().to_string();
            let output = attnmap(&["eval", &place, "--model", &model, "--levels", "500", "--json"]);
            assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
            serde_json::from_slice::<Value>(&output.stdout).unwrap()
        });
        for (found, layout) in found.iter().zip(["VOC", "COCO"]) {
            let scenes = ["layout", "count", "objects"].map(|key| found["scenes"][key].clone());
            assert_eq!(scenes, [json!(layout), json!(2), json!(4)]);
        }
        for part in ["aggregates", "baselines"] {
            assert_eq!(found[0][part], found[1][part], "{name}, {part}");
        }
        assert!(found[0]["aggregates"][found[0]["default"].as_str().unwrap()].is_object(), "{name}");
        let figures = ["compete", "concept", "seg4diff"].map(|aggregate| {
            let own = &found[0]["aggregates"][aggregate];
            for figure in ["iou_0.4", "average_precision", "pointing", "miou_argmax", "miou_with_background"] {
                // What is not finite has no number in JSON.
                let value = own[figure].as_f64().unwrap_or_else(|| panic!("{name}, {aggregate}: {own}"));
                assert!((0.0..=1.0).contains(&value), "{name}, {aggregate}: {own}");
            }
            assert_eq!(own["count"], 4, "{name}, {aggregate}");
            own["average_precision"].as_f64().unwrap()
        });
        let apart = |a: usize, b: usize| (figures[a] - figures[b]).abs() > 1e-6;
        assert!(apart(0, 1) && apart(0, 2) && apart(1, 2), "{name}: {figures:?}");
    }
}

#[test]
fn damaged_data_sets_are_refused_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path());
    let at = |name: &str| folder.path().join(name);
    let refusal = |layout: &str, parts: &[&str]| {
        refused(&attnmap(&["eval", &at(layout).display().to_string(), "--limit", "1"]), 2, parts);
    };
    fs::write(at("voc/classes.txt"), "apple\n").unwrap();
    RgbImage::from_pixel(128, 128, Rgb([9, 9, 9])).save(at("voc/SegmentationClass/p0.png")).unwrap();
    refusal("voc", &["p0.png", "classes.txt"]);
    fs::create_dir_all(at("voc/ImageSets/Segmentation")).unwrap();
    fs::write(at("voc/ImageSets/Segmentation/val.txt"), "../../secret\n").unwrap();
    refusal("voc", &["val.txt", "is no name of a picture"]);
    let list = at("coco/annotations/instances_val2017.json");
    let coco: Value = serde_json::from_slice(&fs::read(&list).unwrap()).unwrap();
    let mut damaged = coco.clone();
    damaged["annotations"][0]["segmentation"] = json!({"counts": [0, 99_999_999], "size": [128, 128]});
    fs::write(&list, damaged.to_string()).unwrap();
    refusal("coco", &["instances_val2017.json", "longer than the picture"]);
    let mut damaged = coco;
    damaged["images"][0]["file_name"] = json!("../scenes/p0.png");
    fs::write(&list, damaged.to_string()).unwrap();
    refusal("coco", &["is no name of a picture"]);
    fs::write(&list, "{").unwrap();
    refusal("coco", &["instances_val2017.json"]);
}
