//! The full networks ask for exactly the weights, in exactly the shapes, that diffusers makes. They
//! are Stable Diffusion 1.5 and 2.1, SDXL and its smaller kin, and LCM.
//!
//! No weight is allocated: the builder hands out tensors of one element that are repeated without
//! being copied.

use attnmap::checkpoint::{Sd3Config, T5Config, TextEncoderConfig, UnetConfig, VaeConfig};
use attnmap::model::layers::{Builder, MemoryOrder};
use attnmap::model::{Sd3, T5, TextEncoder, Unet, Vae};
use attnmap::trace::Site;
use candle_core::{DType, Device, Shape, Tensor};
use candle_nn::VarBuilder;
use candle_nn::var_builder::SimpleBackend;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

pub(crate) type Shapes = BTreeMap<String, Vec<usize>>;

/// Remembers what it is asked for. It claims to hold no tensor but T5's table of embeddings, so
/// that optional prefixes are not taken.
#[derive(Clone, Default)]
struct Recording(Arc<Mutex<Shapes>>);

impl SimpleBackend for Recording {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        _: candle_nn::Init,
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        let before = self.0.lock().unwrap().insert(name.to_string(), shape.dims().to_vec());
        assert!(before.is_none(), "{name} is asked for twice");
        Tensor::zeros((), dtype, device)?.broadcast_as(shape)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> candle_core::Result<Tensor> {
        panic!("{name} is asked for without a shape")
    }

    fn contains_tensor(&self, name: &str) -> bool {
        name == "shared.weight"
    }
}

/// What `build` asks for.
pub(crate) fn asked_for<T>(build: impl FnOnce(&Builder) -> attnmap::Result<T>) -> Shapes {
    asked_of_weights(|weights| build(&Builder::with_layout(weights, MemoryOrder::Nchw)))
}

/// What `build` asks for, of a network whose layers are candle's.
pub(crate) fn asked_of_weights<T>(build: impl FnOnce(VarBuilder<'static>) -> attnmap::Result<T>) -> Shapes {
    let backend = Recording::default();
    build(VarBuilder::from_backend(Box::new(backend.clone()), DType::F32, Device::Cpu)).unwrap();
    let shapes = backend.0.lock().unwrap();
    shapes.clone()
}

fn folder(checkpoint: &str, part: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/full-size").join(checkpoint).join(part)
}

/// What `tests/fixtures/make_shapes.py` writes for a part, each name with `prefix` before it.
pub(crate) fn shapes(checkpoint: &str, part: &str, prefix: &str) -> Shapes {
    read_tree(&folder(checkpoint, part).join("shapes.txt"), prefix)
}

/// Names and shapes of a file with one step of a path per line, each name with `prefix` before it.
pub(crate) fn read_tree(file: &Path, prefix: &str) -> Shapes {
    let text = std::fs::read_to_string(file).unwrap();
    let mut path: Vec<&str> = Vec::new();
    let mut shapes = Shapes::new();
    for line in text.lines() {
        let step = line.trim_start();
        path.truncate(line.len() - step.len());
        match step.split_once(' ') {
            None => path.push(step),
            Some((last, shape)) => {
                let name: Vec<&str> = path.iter().copied().chain([last]).collect();
                shapes.insert(
                    format!("{prefix}{}", name.join(".")),
                    shape.split('x').filter(|side| !side.is_empty()).map(|side| side.parse().unwrap()).collect(),
                );
            }
        }
    }
    shapes
}

#[track_caller]
fn assert_same(asked: &Shapes, expected: &Shapes) {
    for (name, shape) in expected {
        assert_eq!(asked.get(name), Some(shape), "{name}");
    }
    assert_eq!(asked.keys().find(|name| !expected.contains_key(*name)), None);
}

pub(crate) fn config(checkpoint: &str, part: &str) -> (Vec<u8>, PathBuf) {
    let file = folder(checkpoint, part).join("config.json");
    (std::fs::read(&file).unwrap(), file)
}

#[test]
fn unets_ask_for_every_weight_of_diffusers() {
    for (name, tensors) in [
        ("sd15", 686),
        ("sd21", 686),
        ("sdxl", 1680),
        ("ssd-1b", 944),
        ("vega", 564),
        ("koala-700m", 584),
        ("lcm-dreamshaper", 687),
        ("lcm-sdxl", 1681),
    ] {
        let (json, file) = config(name, "unet");
        let config = UnetConfig::from_json(&json, &file).unwrap();
        let expected = shapes(name, "unet", "");
        assert_eq!(expected.len(), tensors);
        assert_same(&asked_for(|b| Unet::build(&config, b)), &expected);
    }
}

#[test]
fn vaes_ask_for_every_weight_of_diffusers() {
    for name in ["sd15", "sd21", "sdxl"] {
        let (json, file) = config(name, "vae");
        let config = VaeConfig::from_json(&json, &file).unwrap();
        let expected = shapes(name, "vae", "");
        assert_eq!(expected.len(), 248);
        assert_same(&asked_for(|b| Vae::build(&config, b)), &expected);
    }
}

#[test]
fn text_encoders_ask_for_every_weight_of_transformers() {
    for (name, tensors) in [("sd15", 196), ("sd21", 372), ("sdxl", 196)] {
        let (json, file) = config(name, "text_encoder");
        let config = TextEncoderConfig::from_json(&json, &file).unwrap();
        // transformers 5 has no prefix any more; attnmap's names have.
        let expected = shapes(name, "text_encoder", "text_model.");
        assert_eq!(expected.len(), tensors);
        assert_same(&asked_for(|b| TextEncoder::build(&config, b)), &expected);
    }
}

/// An encoder with a projection keeps its prefix in transformers 5 too, so that the projection
/// stands apart.
#[test]
fn sdxls_second_text_encoder_asks_for_every_weight_of_transformers() {
    let (json, file) = config("sdxl", "text_encoder_2");
    let config = TextEncoderConfig::from_json(&json, &file).unwrap();
    let expected = shapes("sdxl", "text_encoder_2", "");
    assert_eq!((expected.len(), config.with_projection), (517, true));
    assert_same(&asked_for(|b| TextEncoder::build(&config, b)), &expected);
}

#[test]
fn transformers_of_stable_diffusion_3_ask_for_every_weight_of_diffusers() {
    for (name, tensors, heads, dual) in
        [("sd3-medium", 683, 24, 0), ("sd35-medium", 909, 24, 13), ("sd35-large", 1227, 38, 0)]
    {
        let (json, file) = config(name, "transformer");
        let config = Sd3Config::from_json(&json, &file).unwrap();
        let expected = shapes(name, "transformer", "");
        assert_eq!(expected.len(), tensors);
        assert_same(&asked_for(|b| Sd3::build(&config, b)), &expected);
        let sites = config.joint_sites([128, 96]);
        assert_eq!((sites.len(), sites[0].heads, sites[0].height, sites[0].width), (config.num_layers, heads, 64, 48));
        assert_eq!(config.self_sites([128, 128]).len(), dual);
    }
}

#[test]
fn the_other_parts_of_stable_diffusion_3_ask_for_every_weight() {
    let (json, file) = config("sd3-medium", "vae");
    let vae = VaeConfig::from_json(&json, &file).unwrap();
    assert_eq!((vae.latent_channels, vae.shift_factor), (16, 0.0609));
    assert_same(&asked_for(|b| Vae::build(&vae, b)), &shapes("sd3-medium", "vae", ""));
    let (json, file) = config("sd3-medium", "text_encoder");
    let clip = TextEncoderConfig::with_projection(&json, &file).unwrap();
    assert_same(&asked_for(|b| TextEncoder::build(&clip, b)), &shapes("sd3-medium", "text_encoder", ""));
    let (json, file) = config("sd3-medium", "text_encoder_3");
    let t5 = T5Config::from_json(&json, &file).unwrap();
    let mut expected = shapes("sd3-medium", "text_encoder_3", "");
    // The same table by its other name.
    expected.remove("encoder.embed_tokens.weight");
    assert_eq!(expected.len(), 219);
    assert_same(&asked_of_weights(|weights| T5::new(&t5, weights)), &expected);
}

/// Heads, depths and grids of SDXL and SSD-1B at 1024x1024. The sites are the attentions that the
/// network asks weights for.
#[test]
fn sdxl_sites() {
    let sites = |name: &str| {
        let (json, file) = config(name, "unet");
        let config = UnetConfig::from_json(&json, &file).unwrap();
        let asked = asked_for(|b| Unet::build(&config, b));
        let assert_asked = |layer: &str, sites: &[Site]| {
            let queries = |name: &String| Some(name.strip_suffix(".to_q.weight")?.to_owned());
            let mut weights: Vec<String> = asked.keys().filter_map(queries).filter(|at| at.ends_with(layer)).collect();
            let mut paths: Vec<String> = sites.iter().map(|site| site.path.clone()).collect();
            weights.sort();
            paths.sort();
            assert_eq!(paths, weights, "{name}");
        };
        let sites = config.cross_attention_sites([128, 128]);
        assert_asked(".attn2", &sites);
        assert_asked(".attn1", &config.self_attention_sites([128, 128]));
        sites.iter().map(|site| (site.height, site.heads)).collect::<Vec<_>>()
    };
    let (fine, coarse) = ((64, 10), (32, 20));
    assert_eq!(
        sites("sdxl"),
        [vec![fine; 4], vec![coarse; 20], vec![coarse; 10], vec![coarse; 30], vec![fine; 6]].concat()
    );
    assert_eq!(sites("ssd-1b"), [vec![fine; 4], vec![coarse; 8], vec![coarse; 18], vec![fine; 4]].concat());
    assert_eq!(sites("koala-700m"), [vec![fine; 2], vec![coarse; 5], vec![coarse; 10], vec![fine; 4]].concat());
}

/// The sites of Stable Diffusion 1.5 and 2.1, and the grids at 512x512 and at a size that does not
/// halve evenly.
#[test]
fn full_size_sites() {
    for (name, heads) in [("sd15", [8, 8, 8, 8]), ("sd21", [5, 10, 20, 20])] {
        let (json, file) = config(name, "unet");
        let config = UnetConfig::from_json(&json, &file).unwrap();
        let weights = VarBuilder::from_backend(Box::new(Recording::default()), DType::F32, Device::Cpu);
        let unet = Unet::build(&config, &Builder::with_layout(weights, MemoryOrder::Nchw)).unwrap();
        let seen: Vec<_> = unet.sites(64, 64).iter().map(|site| (site.height, site.heads)).collect();
        let expected = [
            vec![(64, heads[0]); 2],
            vec![(32, heads[1]); 2],
            vec![(16, heads[2]); 2],
            vec![(8, heads[3])],
            vec![(16, heads[2]); 3],
            vec![(32, heads[1]); 3],
            vec![(64, heads[0]); 3],
        ];
        assert_eq!(seen, expected.concat());
        let odd: Vec<_> = unet.sites(75, 50).iter().map(|site| (site.height, site.width)).collect();
        assert_eq!(
            [odd[0], odd[2], odd[4], odd[6], odd[7], odd[10], odd[13]],
            [(75, 50), (38, 25), (19, 13), (10, 7), (19, 13), (38, 25), (75, 50)]
        );
        let paths: Vec<_> = unet.self_sites(64, 64).into_iter().map(|site| site.path).collect();
        assert_eq!(paths[6], "mid_block.attentions.0.transformer_blocks.0.attn1");
        assert_eq!(paths[15], "up_blocks.3.attentions.2.transformer_blocks.0.attn1");
    }
}
