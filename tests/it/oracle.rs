//! UNet and VAE against candle-transformers' own, built from the same weights: a second oracle beside diffusers.

use crate::model::{F32, Numbers, assert_close, checkpoint, unet, unet_case, vae};
use attnmap::checkpoint::Part;
use attnmap::model::layers::MemoryOrder;
use attnmap::trace::Unobserved;
use candle_core::{DType, Device};
use candle_nn::VarBuilder;
use candle_transformers::models::stable_diffusion::unet_2d::{
    BlockConfig, UNet2DConditionModel, UNet2DConditionModelConfig,
};
use candle_transformers::models::stable_diffusion::vae::{AutoEncoderKL, AutoEncoderKLConfig};

/// Loads the weights of a part into a network of candle-transformers. Every tensor must find its place there.
fn theirs<T>(name: &str, part: Part, build: impl Fn(VarBuilder) -> candle_core::Result<T>) -> T {
    let weights = checkpoint(name).weights(part).unwrap();
    weights.load(DType::F32, &Device::Cpu, |weights| Ok(build(weights)?)).unwrap()
}

/// The two checkpoints in candle-transformers' terms: width of the prompt, layers a block, linear projections, and of each block
/// the channels, heads and whether it attends to the prompt.
fn unets() -> [(&'static str, UNet2DConditionModelConfig); 2] {
    let config = |width, layers, linear, blocks: &[(usize, usize, bool)]| UNet2DConditionModelConfig {
        blocks: blocks
            .iter()
            .map(|&(out_channels, heads, attends)| BlockConfig {
                out_channels,
                use_cross_attn: attends.then_some(1),
                // diffusers' name for a number of heads.
                attention_head_dim: heads,
            })
            .collect(),
        layers_per_block: layers,
        norm_num_groups: 4,
        cross_attention_dim: width,
        use_linear_projection: linear,
        ..Default::default()
    };
    [
        ("tiny-sd1", config(32, 2, false, &[(12, 4, true), (24, 4, true), (24, 4, false)])),
        ("tiny-sd2", config(40, 1, true, &[(8, 2, true), (16, 4, true), (24, 3, true), (24, 6, true)])),
    ]
}

#[test]
fn the_unet_equals_candle_transformers() {
    let mut compared = 0;
    for (name, config) in unets() {
        let factor = 1 << (config.blocks.len() - 1);
        let own = unet(name, DType::F32, MemoryOrder::Nhwc);
        let other = theirs(name, Part::Unet, |weights| UNet2DConditionModel::new(weights, 4, 4, false, config.clone()));
        let numbers = Numbers::of(name);
        for case in numbers.cases("unet") {
            let (conditioning, latent, timestep) = unet_case(&numbers, &case);
            let (_, _, height, width) = latent.dims4().unwrap();
            // Theirs has neither hidden tokens nor grids that are rounded up.
            if conditioning.key_bias.is_some() || height % factor != 0 || width % factor != 0 {
                continue;
            }
            let output = own.forward(&latent, timestep, &own.prepare(&conditioning).unwrap(), &mut Unobserved).unwrap();
            let expected = other.forward(&latent, timestep, &conditioning.hidden_states).unwrap();
            assert_close(&format!("{name} unet {case}"), &output, &expected, F32);
            compared += 1;
        }
    }
    assert!(compared >= 2, "{compared} cases");
}

#[test]
fn the_vae_equals_candle_transformers() {
    for (name, layers, channels) in [("tiny-sd1", 1, vec![8, 16, 16])] {
        let config = AutoEncoderKLConfig {
            block_out_channels: channels,
            layers_per_block: layers,
            latent_channels: 4,
            norm_num_groups: 4,
            use_quant_conv: true,
            use_post_quant_conv: true,
        };
        let own = vae(name, DType::F32, MemoryOrder::Nhwc);
        let other = theirs(name, Part::Vae, |weights| AutoEncoderKL::new(weights, 3, 3, config.clone()));
        let numbers = Numbers::of(name);
        let get = |what: &str| numbers.get(&format!("vae/square/{what}"));
        let decoded = own.decode(get("latent")).unwrap();
        assert_close(&format!("{name} decoded"), &decoded, &other.decode(get("latent")).unwrap(), F32);
        // Their encoder gives samples with noise of its own and not the mean: it cannot be compared.
    }
}
