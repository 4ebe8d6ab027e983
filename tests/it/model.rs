//! Text encoder, UNet and VAE against numbers made by diffusers (`tests/fixtures/make_numbers.py`).

use attnmap::checkpoint::{Checkpoint, OpenOptions, Part, Source};
use attnmap::model::layers::{Builder, MemoryOrder};
use attnmap::model::{AddedConditions, Conditioning, TextEncoder, TextEncoding, Unet, Vae};
use attnmap::trace::{AttentionKind, AttentionObserver, Site, Unobserved};
use candle_core::{DType, Device, IndexOp, Tensor};
use std::collections::HashMap;
use std::path::PathBuf;

/// Checkpoints of one text encoder and a UNet that is told nothing beside the prompt, whose every
/// part has numbers.
const CHECKPOINTS: [&str; 2] = ["tiny-sd1", "tiny-sd2"];

/// Those whose UNets have numbers.
const UNETS: [&str; 5] = ["tiny-sd1", "tiny-sd2", "tiny-sdxl", "tiny-ssd", "tiny-lcm"];

fn fixtures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

pub(crate) fn checkpoint(name: &str) -> Checkpoint {
    Checkpoint::open(&Source::Folder(fixtures().join(name)), &OpenOptions::default()).unwrap()
}

/// The tensors that diffusers made for a checkpoint.
pub(crate) struct Numbers(HashMap<String, Tensor>);

impl Numbers {
    pub(crate) fn of(name: &str) -> Self {
        let file = fixtures().join(format!("model/{name}.safetensors"));
        Self(candle_core::safetensors::load(file, &Device::Cpu).unwrap())
    }

    pub(crate) fn get(&self, name: &str) -> &Tensor {
        self.0.get(name).unwrap_or_else(|| panic!("no {name} in the fixture"))
    }

    /// The cases of a part: the second of the parts of a name.
    pub(crate) fn cases(&self, part: &str) -> Vec<String> {
        let case = |name: &String| name.strip_prefix(part)?.strip_prefix('/')?.split('/').next().map(str::to_string);
        let mut cases: Vec<String> = self.0.keys().filter_map(case).collect();
        cases.sort();
        cases.dedup();
        assert!(!cases.is_empty(), "no case of {part}");
        cases
    }
}

/// `|a - b| / |b|` in the Euclidean norm.
fn relative_error(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.dims(), b.dims());
    let norm = |x: &Tensor| {
        x.to_dtype(DType::F64).unwrap().sqr().unwrap().sum_all().unwrap().to_scalar::<f64>().unwrap().sqrt()
    };
    let difference = (a.to_dtype(DType::F64).unwrap() - b.to_dtype(DType::F64).unwrap()).unwrap();
    norm(&difference) / norm(b)
}

#[track_caller]
pub(crate) fn assert_close(what: &str, a: &Tensor, b: &Tensor, limit: f64) {
    let error = relative_error(a, b);
    println!("{what}: {error:.1e}");
    // Not `error > limit`: a NaN must fail.
    assert!(error <= limit, "{what}: relative error {error:.2e}, more than {limit:.0e}");
}

/// Issue 2 asks for 1e-4; this leaves room only for another order of summation.
pub(crate) const F32: f64 = 1e-5;

pub(crate) fn unet(name: &str, dtype: DType, layout: MemoryOrder) -> Unet {
    let checkpoint = checkpoint(name);
    let weights = checkpoint.weights(Part::Unet).unwrap();
    weights
        .load(dtype, &Device::Cpu, |weights| {
            Unet::build(checkpoint.denoiser.unet().unwrap(), &Builder::with_layout(weights, layout))
        })
        .unwrap()
}

pub(crate) fn vae(name: &str, dtype: DType, layout: MemoryOrder) -> Vae {
    let checkpoint = checkpoint(name);
    let weights = checkpoint.weights(Part::Vae).unwrap();
    weights
        .load(dtype, &Device::Cpu, |weights| Vae::build(&checkpoint.vae, &Builder::with_layout(weights, layout)))
        .unwrap()
}

#[test]
fn a_vae_scales_and_shifts_what_the_denoiser_sees() {
    let checkpoint = checkpoint("tiny-sd1");
    let config =
        attnmap::checkpoint::VaeConfig { scaling_factor: 1.5305, shift_factor: 0.0609, ..checkpoint.vae.clone() };
    let weights = checkpoint.weights(Part::Vae).unwrap();
    let vae = weights.load(DType::F32, &Device::Cpu, |weights| Vae::new(&config, weights)).unwrap();
    let encoded = Tensor::new(&[0.5f32, -2.0, 0.0, 1.25], &Device::Cpu).unwrap().reshape((1, 4, 1, 1)).unwrap();
    // (latent - shift_factor) * scaling_factor, as `pipeline_stable_diffusion_3_img2img.py` has it.
    let latent = vae.latent_of(&encoded).unwrap();
    let expected = [0.5f32, -2.0, 0.0, 1.25].map(|value| (value - 0.0609) * 1.5305);
    for (got, want) in latent.flatten_all().unwrap().to_vec1::<f32>().unwrap().iter().zip(expected) {
        assert!((got - want).abs() < 1e-6, "{got} for {want}");
    }
    assert_close("pixels", &vae.pixels_of(&latent).unwrap(), &vae.decode(&encoded).unwrap(), F32);
}

fn text_encoder(name: &str, dtype: DType) -> TextEncoder {
    let checkpoint = checkpoint(name);
    let weights = checkpoint.weights(Part::TextEncoder).unwrap();
    weights
        .load(dtype, &Device::Cpu, |weights| TextEncoder::new(checkpoint.text_encoder.as_ref().unwrap(), weights))
        .unwrap()
}

/// Keeps every observation.
#[derive(Default)]
struct Everything {
    seen: Vec<(Site, Tensor)>,
    only: Option<AttentionKind>,
}

impl AttentionObserver for Everything {
    fn wants(&self, site: &Site) -> bool {
        self.only.is_none_or(|only| site.kind == only)
    }

    fn observe(&mut self, site: &Site, probabilities: &Tensor) -> attnmap::Result<()> {
        self.seen.push((site.clone(), probabilities.clone()));
        Ok(())
    }
}

/// One case of the UNet: conditioning, latent, timestep.
pub(crate) fn unet_case(numbers: &Numbers, case: &str) -> (Conditioning, Tensor, f64) {
    let get = |what: &str| numbers.get(&format!("unet/{case}/{what}")).clone();
    let mut conditioning = Conditioning::new(get("context"));
    conditioning.key_bias = numbers.0.get(&format!("unet/{case}/key_bias")).cloned();
    let values = |what: &str| Some(numbers.0.get(&format!("unet/{case}/{what}"))?.to_vec1::<f64>().unwrap());
    conditioning.added = values("time_ids")
        .map(|time_ids| AddedConditions { pooled: get("pooled"), time_ids: time_ids.try_into().unwrap() });
    conditioning.guidance = values("guidance").map(|scale| scale[0]);
    let timestep = get("timestep").to_vec1::<f64>().unwrap()[0];
    (conditioning, get("sample"), timestep)
}

#[test]
fn text_encoders_equal_transformers() {
    for name in ["tiny-sd1", "tiny-sd2", "tiny-sdxl", "tiny-ssd"] {
        let numbers = Numbers::of(name);
        assert_text(&format!("{name} text"), &text_encoder(name, DType::F32), &numbers, "text", |encoding| {
            ("pooled", encoding.pooled.clone())
        });
        let checkpoint = checkpoint(name);
        let Some(second) = &checkpoint.second else { continue };
        let weights = checkpoint.weights(Part::TextEncoder2).unwrap();
        let encoder = weights.load(DType::F32, &Device::Cpu, |weights| TextEncoder::new(&second.text_encoder, weights));
        assert_text(&format!("{name} text2"), &encoder.unwrap(), &numbers, "text2", |encoding| {
            ("projected", encoding.projected.clone().unwrap())
        });
    }
}

/// `pooled` takes what is called so in the fixture.
fn assert_text(
    what: &str,
    encoder: &TextEncoder,
    numbers: &Numbers,
    part: &str,
    pooled: fn(&TextEncoding) -> (&'static str, Tensor),
) {
    for case in numbers.cases(part) {
        let get = |what: &str| numbers.get(&format!("{part}/{case}/{what}"));
        let result = encoder.forward_attentions(get("ids")).unwrap();
        let what = |of: &str| format!("{what} {case} {of}");
        assert_close(&what("last"), &result.last_hidden_state, get("last_hidden_state"), F32);
        assert_close(&what("penultimate"), result.penultimate(), get("penultimate"), F32);
        let (name, pooled) = pooled(&result);
        assert_close(&what(name), &pooled, get(name), F32);
        if case == "short" {
            let attentions = Tensor::stack(&result.attentions, 0).unwrap();
            assert_close(&what("attentions"), &attentions, get("attentions"), F32);
        }
        let unobserved = encoder.forward(get("ids")).unwrap();
        assert!(unobserved.attentions.is_empty());
        assert_close(&what("unobserved"), &unobserved.last_hidden_state, get("last_hidden_state"), F32);
    }
}

#[test]
fn unet_equals_diffusers_on_even_odd_and_oblong_latents() {
    for name in UNETS {
        let numbers = Numbers::of(name);
        for layout in [MemoryOrder::Nchw, MemoryOrder::Nhwc] {
            let unet = unet(name, DType::F32, layout);
            for case in numbers.cases("unet") {
                let (conditioning, latent, timestep) = unet_case(&numbers, &case);
                let context = unet.prepare(&conditioning).unwrap();
                let output = unet.forward(&latent, timestep, &context, &mut Unobserved).unwrap();
                assert_close(
                    &format!("{name} unet {case} {layout:?}"),
                    &output,
                    numbers.get(&format!("unet/{case}/output")),
                    F32,
                );
            }
        }
    }
}

#[test]
fn observers_are_shown_the_probabilities_of_diffusers() {
    for name in UNETS {
        let (unet, numbers) = (unet(name, DType::F32, MemoryOrder::Nchw), Numbers::of(name));
        for case in numbers.cases("unet") {
            let (conditioning, latent, timestep) = unet_case(&numbers, &case);
            let context = unet.prepare(&conditioning).unwrap();
            let mut observer = Everything { only: Some(AttentionKind::Cross), ..Default::default() };
            if case == "half-odd" {
                observer.only = None; // the fixture has the self-attentions of this case alone
            }
            let output = unet.forward(&latent, timestep, &context, &mut observer).unwrap();
            assert_close(&format!("{name} observed {case}"), &output, numbers.get(&format!("unet/{case}/output")), F32);

            let prefix = format!("unet/{case}/probabilities/");
            let expected = numbers.0.keys().filter(|name| name.starts_with(&prefix)).count();
            assert_eq!(observer.seen.len(), expected);
            let (mut worst, mut largest) = (0f64, 0f64);
            for (site, probabilities) in &observer.seen {
                assert_eq!(probabilities.dtype(), DType::F32);
                let keys = match site.kind {
                    AttentionKind::Cross | AttentionKind::Joint => context.tokens(),
                    AttentionKind::SelfAttention => site.height * site.width,
                };
                assert_eq!(probabilities.dims(), [latent.dims()[0], site.heads, site.height * site.width, keys]);
                let truth = numbers.get(&format!("{prefix}{}", site.path));
                worst = worst.max(relative_error(probabilities, truth));
                largest = largest.max(f64::from(truth.max_all().unwrap().to_scalar::<f32>().unwrap()));
                let sums = probabilities.sum(3).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
                assert!(sums.iter().all(|sum| (sum - 1.0).abs() < 1e-5));
            }
            println!("{name} probabilities {case}: {worst:.1e}, largest probability {largest:.2}");
            assert!(worst <= F32, "{name} {case}: {worst:.2e}");
            assert!(largest > 0.6, "the fixture's attention is too uniform to prove anything");
        }
    }
}

#[test]
fn sites_are_those_that_are_observed() {
    for name in UNETS {
        let unet = unet(name, DType::F32, MemoryOrder::Nchw);
        let numbers = Numbers::of(name);
        for case in numbers.cases("unet") {
            let (conditioning, latent, timestep) = unet_case(&numbers, &case);
            let (_, _, height, width) = latent.dims4().unwrap();
            let mut observer = Everything::default();
            unet.forward(&latent, timestep, &unet.prepare(&conditioning).unwrap(), &mut observer).unwrap();
            let (cross, own): (Vec<_>, Vec<_>) =
                observer.seen.into_iter().map(|(site, _)| site).partition(|site| site.kind == AttentionKind::Cross);
            assert_eq!(cross, unet.sites(height, width));
            assert_eq!(own, unet.self_sites(height, width));
            assert!(cross.iter().enumerate().all(|(index, site)| site.index == index));
        }
    }
    let sites = unet("tiny-sd2", DType::F32, MemoryOrder::Nchw).sites(9, 13);
    let grids: Vec<_> = sites.iter().map(|site| (site.height, site.width)).collect();
    assert_eq!(grids[..6], [(9, 13), (5, 7), (3, 4), (2, 2), (2, 2), (2, 2)]);
    assert_eq!(grids[12], (9, 13));
    assert_eq!(sites[4].path, "mid_block.attentions.0.transformer_blocks.0.attn2");
    assert_eq!(sites.iter().map(|site| site.heads).collect::<Vec<_>>()[..6], [2, 4, 3, 6, 6, 6]);
}

#[test]
fn vae_equals_diffusers() {
    for name in CHECKPOINTS {
        let numbers = Numbers::of(name);
        for layout in [MemoryOrder::Nchw, MemoryOrder::Nhwc] {
            let vae = vae(name, DType::F32, layout);
            for case in numbers.cases("vae") {
                let get = |what: &str| numbers.get(&format!("vae/{case}/{what}"));
                let what = |part: &str| format!("{name} vae {case} {part} {layout:?}");
                let posterior = vae.encode(get("image")).unwrap();
                assert_close(&what("mean"), &posterior.mean, get("mean"), F32);
                if case == "uneven" {
                    continue; // sides that are no multiple of the factor: encoded only
                }
                assert_close(&what("logvar"), &posterior.logvar, get("logvar"), F32);
                assert_close(&what("sampled"), &posterior.sample(get("noise")).unwrap(), get("sampled"), F32);
                assert_close(&what("decoded"), &vae.decode(get("latent")).unwrap(), get("decoded"), F32);
            }
        }
    }
}

/// Weights in half precision, against the f32 truth. On a CPU the products are formed in f32, so
/// that what remains is the rounding of the weights. The tiny checkpoints' weights are exact in
/// f16.
#[test]
fn half_precision_weights_run_on_a_cpu() {
    for name in CHECKPOINTS {
        let numbers = Numbers::of(name);
        for (dtype, limit) in [(DType::F16, F32), (DType::BF16, 1e-2)] {
            let (conditioning, latent, timestep) = unet_case(&numbers, "square");
            let unet = unet(name, dtype, MemoryOrder::Nchw);
            let context = unet.prepare(&conditioning).unwrap();
            let output = unet.forward(&latent, timestep, &context, &mut Unobserved).unwrap();
            assert_eq!(output.dtype(), DType::F32);
            assert_close(&format!("{name} unet {dtype:?}"), &output, numbers.get("unet/square/output"), limit);

            let decoded = vae(name, dtype, MemoryOrder::Nchw).decode(numbers.get("vae/square/latent")).unwrap();
            assert_close(&format!("{name} vae {dtype:?}"), &decoded, numbers.get("vae/square/decoded"), limit);
            let text = text_encoder(name, dtype).forward(numbers.get("text/short/ids")).unwrap();
            let truth = numbers.get("text/short/last_hidden_state");
            assert_close(&format!("{name} text {dtype:?}"), &text.last_hidden_state, truth, limit);
        }
    }
}

#[test]
fn a_removed_token_is_not_looked_at_and_changes_nothing() {
    let unet = unet("tiny-sd1", DType::F32, MemoryOrder::Nchw);
    let (conditioning, latent, timestep) = unet_case(&Numbers::of("tiny-sd1"), "odd");
    let (batch, tokens, width) = conditioning.hidden_states.dims3().unwrap();
    assert_eq!(batch, 1);
    let run = |conditioning: &Conditioning| {
        let mut observer = Everything { only: Some(AttentionKind::Cross), ..Default::default() };
        let context = unet.prepare(conditioning).unwrap();
        (unet.forward(&latent, timestep, &context, &mut observer).unwrap(), observer.seen)
    };
    // Without the second token, and with it but out of view.
    let states = &conditioning.hidden_states;
    let without = [states.i((.., ..1)).unwrap(), states.i((.., 2..)).unwrap()];
    let without = Conditioning::new(Tensor::cat(&without, 1).unwrap());
    let mut bias = vec![0f32; tokens];
    bias[1] = f32::NEG_INFINITY;
    let mut hidden = Conditioning::new(states.clone());
    hidden.key_bias = Some(Tensor::from_vec(bias, (1, tokens), &Device::Cpu).unwrap());
    let (expected, _) = run(&without);
    let (output, seen) = run(&hidden);
    assert_close("removed", &output, &expected, F32);
    for (_, probabilities) in seen {
        assert_eq!(
            probabilities.i((.., .., .., 1)).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap(),
            0.0
        );
    }
    assert_eq!(width, 32);
}

#[test]
fn what_does_not_fit_is_an_error() {
    let unet = unet("tiny-sd1", DType::F32, MemoryOrder::Nchw);
    let states =
        |shape: (usize, usize, usize)| Conditioning::new(Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap());
    let error = unet.prepare(&states((1, 5, 40))).unwrap_err().to_string();
    assert!(error.contains("width 40") && error.contains("width 32"), "{error}");
    let context = unet.prepare(&states((2, 5, 32))).unwrap();
    let latent = Tensor::zeros((1, 4, 8, 8), DType::F32, &Device::Cpu).unwrap();
    assert!(unet.forward(&latent, 1.0, &context, &mut Unobserved).is_err());

    let encoder = text_encoder("tiny-sd1", DType::F32);
    let ids = |ids: Vec<u32>| Tensor::from_vec(ids.clone(), (1, ids.len()), &Device::Cpu).unwrap();
    let error = encoder.forward(&ids(vec![1; 78])).unwrap_err().to_string();
    assert!(error.contains("78 tokens"), "{error}");
    let error = encoder.forward(&ids(vec![1475])).unwrap_err().to_string();
    assert!(error.contains("token id 1475"), "{error}");

    let image = Tensor::zeros((1, 3, 3, 64), DType::F32, &Device::Cpu).unwrap();
    let error = vae("tiny-sd1", DType::F32, MemoryOrder::Nchw).encode(&image).unwrap_err().to_string();
    assert!(error.contains("64x3"), "{error}");
}

/// An observer's error ends the pass and comes out as it is.
#[test]
fn an_observer_may_fail() {
    struct Fails;
    impl AttentionObserver for Fails {
        fn wants(&self, _: &Site) -> bool {
            true
        }
        fn observe(&mut self, _: &Site, _: &Tensor) -> attnmap::Result<()> {
            Err(attnmap::Error::Interrupted)
        }
    }
    let unet = unet("tiny-sd1", DType::F32, MemoryOrder::Nchw);
    let (conditioning, latent, timestep) = unet_case(&Numbers::of("tiny-sd1"), "odd");
    let context = unet.prepare(&conditioning).unwrap();
    let result = unet.forward(&latent, timestep, &context, &mut Fails);
    assert!(matches!(result, Err(attnmap::Error::Interrupted)));
}

/// The smallest images that there can be: every level of the UNet is a single place.
#[test]
fn the_smallest_sizes_run() {
    for name in CHECKPOINTS {
        let unet = unet(name, DType::F32, MemoryOrder::Nchw);
        let width = checkpoint(name).text_encoder.unwrap().hidden_size;
        let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
        let context = unet.prepare(&Conditioning::new(zeros(&[1, 1, width]))).unwrap();
        let output = unet.forward(&zeros(&[1, 4, 1, 1]), 10.0, &context, &mut Unobserved).unwrap();
        assert_eq!(output.dims(), [1, 4, 1, 1]);
        assert!(unet.forward(&zeros(&[1, 4, 0, 1]), 10.0, &context, &mut Unobserved).is_err());
        let vae = vae(name, DType::F32, MemoryOrder::Nchw);
        let image = vae.decode(&zeros(&[1, 4, 1, 1])).unwrap();
        assert_eq!(vae.encode(&image).unwrap().mean.dims(), [1, 4, 1, 1]);
    }
}
