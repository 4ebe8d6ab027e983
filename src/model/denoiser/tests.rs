use std::path::Path;

use candle_core::{DType, Device, TensorId};

use super::*;
use crate::checkpoint::{Checkpoint, OpenOptions, Part, Source, TIME_IDS};
use crate::trace::Unobserved;

#[test]
fn steps_of_a_run_share_their_rotary_tables() {
    for name in ["tiny-flux-schnell", "tiny-z-image"] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
        let checkpoint = Checkpoint::open(&Source::Folder(folder), &OpenOptions::default()).unwrap();
        let weights = checkpoint.weights(Part::Transformer).unwrap();
        let network = weights.load(DType::F32, &Device::Cpu, |vb| Denoiser::new(&checkpoint.denoiser, vb)).unwrap();
        let (tables, width, pooled) = match (&network, &checkpoint.denoiser) {
            (Denoiser::Flux(flux), DenoiserConfig::Flux(own)) => {
                (&flux.rotary, own.joint_attention_dim, own.pooled_projection_dim)
            }
            (Denoiser::ZImage(z_image), DenoiserConfig::ZImage(own)) => (&z_image.rotary, own.cap_feat_dim, 1),
            _ => panic!("{name}"),
        };
        let pooled = Tensor::zeros((1, pooled), DType::F32, &Device::Cpu).unwrap();
        let states = Tensor::randn(0f32, 1.0, (1, 8, width), &Device::Cpu).unwrap();
        let added = Some(AddedConditions { pooled, time_ids: [0.0; TIME_IDS] });
        let prompt = network.prepare(&Conditioning { added, ..Conditioning::new(states) }).unwrap();
        let step = |timestep: f64, height: usize, width: usize| -> (Vec<f32>, Vec<TensorId>) {
            let latent = Tensor::ones((1, network.channels(), height, width), DType::F32, &Device::Cpu).unwrap();
            let out = network.forward(&latent, timestep, &prompt, &mut Unobserved).unwrap();
            (out.flatten_all().unwrap().to_vec1().unwrap(), tables.kept())
        };
        let (first, kept) = step(900.0, 8, 6);
        assert_eq!(step(500.0, 8, 6).1, kept, "{name}");
        assert!(step(500.0, 6, 8).1.last() != kept.last(), "{name}");
        // Made anew they are the same numbers.
        let (again, anew) = step(900.0, 8, 6);
        assert!(again == first && anew.last() != kept.last(), "{name}");
    }
}
