//! UNet and VAE against candle-transformers' own, on the same weights: a second oracle beside
//! diffusers, in naming too.
//!
//! candle-transformers fixes 32 groups per norm in some blocks, which the tiny checkpoints of the
//! fixtures do not have. So the weights are drawn here, by name.

use crate::model::{F32, assert_close};
use attnmap::checkpoint::{UnetConfig, VaeConfig};
use attnmap::model::layers::{Builder, MemoryOrder};
use attnmap::model::{Conditioning, Unet, Vae};
use attnmap::scheduler::TorchGenerator;
use attnmap::trace::Unobserved;
use candle_core::{DType, Device, Shape, Tensor};
use candle_nn::VarBuilder;
use candle_nn::var_builder::SimpleBackend;
use candle_transformers::models::stable_diffusion::unet_2d::{
    BlockConfig, UNet2DConditionModel, UNet2DConditionModelConfig,
};
use candle_transformers::models::stable_diffusion::vae::{AutoEncoderKL, AutoEncoderKLConfig};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

/// Weights that follow from their names. It remembers which were asked for.
#[derive(Clone, Default)]
struct Drawn(Arc<Mutex<BTreeMap<String, Vec<usize>>>>);

impl Drawn {
    fn builder(&self) -> VarBuilder<'static> {
        VarBuilder::from_backend(Box::new(self.clone()), DType::F32, Device::Cpu)
    }
}

impl SimpleBackend for Drawn {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        _: candle_nn::Init,
        _: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        let dims = shape.dims().to_vec();
        // FNV-1a of the name starts a linear congruential generator.
        let mut state = name
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        let mut uniform = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        };
        let fan_in = dims.iter().skip(1).product::<usize>() as f32;
        let mut values: Vec<f32> = (0..shape.elem_count()).map(|_| uniform()).collect();
        match (dims.len(), name.ends_with("weight")) {
            (1, true) => values.iter_mut().for_each(|value| *value = 1.0 + 0.1 * *value),
            (1, false) => values.iter_mut().for_each(|value| *value *= 0.1),
            _ => values.iter_mut().for_each(|value| *value *= (3.0 / fan_in).sqrt()),
        }
        // candle's encoder draws around its mean: of a deviation of nothing, so that it can be
        // compared.
        if name.starts_with("quant_conv.") {
            let half = values.len() / 2;
            values[half..].fill(if dims.len() == 1 { -80.0 } else { 0.0 });
        }
        self.0.lock().unwrap().insert(name.to_owned(), dims);
        Tensor::from_vec(values, shape, device)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> candle_core::Result<Tensor> {
        panic!("{name} is asked for without a shape")
    }

    fn contains_tensor(&self, name: &str) -> bool {
        name.ends_with("to_q.weight")
    }
}

/// The config of a part of tiny-sd1 with these fields changed.
fn config(part: &str, changed: serde_json::Value) -> Vec<u8> {
    let file = format!("{}/tests/fixtures/tiny-sd1/{part}/config.json", env!("CARGO_MANIFEST_DIR"));
    let mut config: serde_json::Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    for (name, value) in changed.as_object().unwrap() {
        config[name] = value.clone();
    }
    serde_json::to_vec(&config).unwrap()
}

fn drawn(seed: u64, shape: impl Into<Shape>) -> Tensor {
    TorchGenerator::new(seed).randn_tensor(shape.into(), DType::F32, &Device::Cpu).unwrap()
}

/// candle-transformers takes the tanh form of GELU in its gates, where diffusers has the exact one:
/// so near, and no nearer.
const TANH_GELU: f64 = 5e-4;

#[test]
fn the_unet_equals_candle_transformers() {
    for linear in [false, true] {
        let block = |out_channels, use_cross_attn| BlockConfig { out_channels, use_cross_attn, attention_head_dim: 4 };
        let theirs = UNet2DConditionModelConfig {
            // diffusers' name for a number of heads is theirs, too.
            blocks: vec![block(32, Some(1)), block(64, Some(1)), block(64, None)],
            layers_per_block: 2,
            cross_attention_dim: 32,
            use_linear_projection: linear,
            ..Default::default()
        };
        let weights = Drawn::default();
        let other = UNet2DConditionModel::new(weights.builder(), 4, 4, false, theirs).unwrap();
        let changed = serde_json::json!({
            "block_out_channels": [32, 64, 64], "norm_num_groups": 32, "use_linear_projection": linear,
        });
        let config = UnetConfig::from_json(&config("unet", changed), Path::new("config.json")).unwrap();
        let (latent, states) = (drawn(1, (2, 4, 16, 24)), drawn(2, (2, 9, 32)));
        let expected = other.forward(&latent, 261.0, &states).unwrap();
        for layout in [MemoryOrder::Nhwc, MemoryOrder::Nchw] {
            let own = Drawn::default();
            let unet = Unet::build(&config, &Builder::with_layout(own.builder(), layout)).unwrap();
            assert_eq!(*own.0.lock().unwrap(), *weights.0.lock().unwrap(), "names and shapes");
            let prompt = unet.prepare(&Conditioning::new(states.clone())).unwrap();
            let output = unet.forward(&latent, 261.0, &prompt, &mut Unobserved).unwrap();
            assert_close(&format!("UNet {layout:?}, linear {linear}"), &output, &expected, TANH_GELU);
        }
    }
}

#[test]
fn the_vae_equals_candle_transformers() {
    let theirs = AutoEncoderKLConfig {
        block_out_channels: vec![32, 64],
        layers_per_block: 1,
        latent_channels: 4,
        norm_num_groups: 32,
        use_quant_conv: true,
        use_post_quant_conv: true,
    };
    let weights = Drawn::default();
    let other = AutoEncoderKL::new(weights.builder(), 3, 3, theirs).unwrap();
    let two = |kind: &str| vec![kind.to_owned(); 2];
    let changed = serde_json::json!({
        "block_out_channels": [32, 64], "norm_num_groups": 32, "scaling_factor": 1.0,
        "down_block_types": two("DownEncoderBlock2D"), "up_block_types": two("UpDecoderBlock2D"),
    });
    let config = VaeConfig::from_json(&config("vae", changed), Path::new("config.json")).unwrap();
    let (latent, image) = (drawn(3, (1, 4, 8, 12)), drawn(4, (1, 3, 16, 24)));
    for layout in [MemoryOrder::Nhwc, MemoryOrder::Nchw] {
        let own = Drawn::default();
        let vae = Vae::build(&config, &Builder::with_layout(own.builder(), layout)).unwrap();
        assert_eq!(*own.0.lock().unwrap(), *weights.0.lock().unwrap(), "names and shapes");
        let decoded = vae.decode(&latent).unwrap();
        assert_close(&format!("decoded {layout:?}"), &decoded, &other.decode(&latent).unwrap(), F32);
        let mean = other.encode(&image).unwrap().sample().unwrap();
        assert_close(&format!("encoded {layout:?}"), &vae.encode(&image).unwrap().mean, &mean, F32);
    }
}
