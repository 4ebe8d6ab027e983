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
            // Down the columns, what is not the thing first.
            let (mut counts, mut on) = (vec![0u64], false);
            for (x, y) in (0..width).flat_map(|x| (0..height).map(move |y| (x, y))) {
                let inside = mask.get_pixel(x, y).0[0] > 127;
                if inside {
                    labels.put_pixel(x, y, Rgb(COLOURS[class + 1]));
                }
                if inside != on {
                    counts.push(0);
                    on = inside;
                }
                *counts.last_mut().unwrap() += 1;
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
