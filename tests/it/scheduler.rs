//! Noise and schedulers against numbers made by torch and diffusers.

use attnmap::scheduler::{TorchGenerator, randn_tensor};
use candle_core::{DType, Device, Tensor};
use serde::Deserialize;
use sha2::{Digest, Sha256};

#[derive(Deserialize)]
struct NoiseFile {
    cases: Vec<Case>,
    batch: Batch,
}

#[derive(Deserialize)]
struct Case {
    seed: String,
    draws: Vec<Draw>,
}

#[derive(Deserialize)]
struct Batch {
    seeds: Vec<String>,
    draws: Vec<Draw>,
}

#[derive(Deserialize)]
struct Draw {
    shape: Vec<usize>,
    dtype: String,
    bits: Option<Vec<u32>>,
    sha256: Option<String>,
}

impl Draw {
    fn dtype(&self) -> DType {
        match self.dtype.as_str() {
            "float32" => DType::F32,
            "float16" => DType::F16,
            "bfloat16" => DType::BF16,
            other => panic!("{other}"),
        }
    }

    #[track_caller]
    fn check(&self, drawn: &Tensor) {
        assert_eq!(drawn.dims(), self.shape);
        let drawn = drawn.flatten_all().unwrap();
        let bits: Vec<u32> = match drawn.dtype() {
            DType::F32 => drawn.to_vec1::<f32>().unwrap().iter().map(|v| v.to_bits()).collect(),
            DType::F16 => drawn.to_vec1::<half::f16>().unwrap().iter().map(|v| v.to_bits().into()).collect(),
            _ => drawn.to_vec1::<half::bf16>().unwrap().iter().map(|v| v.to_bits().into()).collect(),
        };
        if let Some(expected) = &self.bits {
            assert_eq!(&bits, expected);
        }
        if let Some(expected) = &self.sha256 {
            let width = drawn.dtype().size_in_bytes();
            let bytes: Vec<u8> = bits.iter().flat_map(|b| b.to_le_bytes()[..width].to_vec()).collect();
            let digest: String = Sha256::digest(&bytes).iter().map(|b| format!("{b:02x}")).collect();
            assert_eq!(&digest, expected);
        }
    }
}

/// Every draw equal to torch's in every bit: small, large, uneven, mixed, large seeds, half precision, one generator a row.
#[test]
fn noise_is_torchs_bit_for_bit() {
    let file: NoiseFile = serde_json::from_str(include_str!("../fixtures/noise.json")).unwrap();
    for case in &file.cases {
        let mut generator = TorchGenerator::new(case.seed.parse().unwrap());
        for draw in &case.draws {
            draw.check(&generator.randn_tensor(draw.shape.clone(), draw.dtype(), &Device::Cpu).unwrap());
        }
    }
    let mut generators: Vec<_> = file.batch.seeds.iter().map(|s| TorchGenerator::new(s.parse().unwrap())).collect();
    for draw in &file.batch.draws {
        draw.check(&randn_tensor(draw.shape.clone(), &mut generators, draw.dtype(), &Device::Cpu).unwrap());
    }
}

#[test]
fn noise_for_a_batch_needs_one_generator_or_one_a_row() {
    let mut two = [TorchGenerator::new(1), TorchGenerator::new(2)];
    let error = randn_tensor((3, 4, 2, 2), &mut two, DType::F32, &Device::Cpu).unwrap_err().to_string();
    assert!(error.contains("2 noise generators given for a batch of 3"), "{error}");
    assert!(TorchGenerator::new(0).randn_tensor((4, 4), DType::U8, &Device::Cpu).is_err());
    assert!(TorchGenerator::new(0).randn(&[0]).is_empty());
}
