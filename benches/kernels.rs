//! Each CPU kernel against candle's operators, at shapes of Stable Diffusion 1.5 and of the
//! embedded default.
//!
//! `cargo bench --bench kernels`

use attnmap::kernels::activation::geglu;
use attnmap::kernels::attention::PackedKeys;
use attnmap::kernels::conv::{Algorithm, Conv, Geometry, Map};
use attnmap::kernels::gemm::{Added, Format, Packed, linear};
use attnmap::kernels::norm::{Affine, group_norm};
use candle_core::{D, Device, Tensor};
use divan::{Bencher, black_box};

fn main() {
    attnmap::kernels::threads::init(None).expect("the first to size the pool");
    divan::main();
}

fn values(len: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * 7919) % 1009) as f32 / 1009.0 - 0.5).collect()
}

fn tensor(shape: &[usize]) -> Tensor {
    Tensor::from_vec(values(shape.iter().product()), shape, &Device::Cpu).expect("values of this shape")
}

const SAME: Geometry = Geometry { kernel: 3, stride: 1, before: 1, after: 1 };

/// Batch, side of the grid, channels in and out.
const CONVOLUTIONS: [(usize, usize, usize, usize); 5] =
    [(2, 64, 320, 320), (2, 32, 640, 640), (2, 16, 1280, 1280), (2, 8, 1280, 1280), (2, 16, 64, 64)];

fn convolve(
    bencher: Bencher,
    (batch, side, input, output): (usize, usize, usize, usize),
    format: Format,
    algorithm: Algorithm,
) {
    let conv = Conv::new(format, &values(output * input * 9), output, input, SAME);
    let data = values(batch * side * side * input);
    let map = Map { data: &data, batch, height: side, width: side, channels: input };
    bencher.bench(|| conv.forward_as(algorithm, black_box(map), None, Added::default()));
}

#[divan::bench(args = CONVOLUTIONS, max_time = 3)]
fn conv_winograd(bencher: Bencher, shape: (usize, usize, usize, usize)) {
    convolve(bencher, shape, Format::F32, Algorithm::Winograd);
}

#[divan::bench(args = CONVOLUTIONS, max_time = 3)]
fn conv_indirect(bencher: Bencher, shape: (usize, usize, usize, usize)) {
    convolve(bencher, shape, Format::F32, Algorithm::Indirect);
}

#[divan::bench(args = CONVOLUTIONS, max_time = 3)]
fn conv_winograd_bf16(bencher: Bencher, shape: (usize, usize, usize, usize)) {
    convolve(bencher, shape, Format::Bf16, Algorithm::Winograd);
}

#[divan::bench(args = CONVOLUTIONS, max_time = 3)]
fn conv_indirect_bf16(bencher: Bencher, shape: (usize, usize, usize, usize)) {
    convolve(bencher, shape, Format::Bf16, Algorithm::Indirect);
}

#[divan::bench(args = CONVOLUTIONS, max_time = 3)]
fn conv_candle(bencher: Bencher, (batch, side, input, output): (usize, usize, usize, usize)) {
    let (x, weight) = (tensor(&[batch, input, side, side]), tensor(&[output, input, 3, 3]));
    bencher.bench(|| black_box(&x).conv2d(&weight, 1, 1, 1, 1));
}

/// Rows, columns of the left side, columns of the right.
const PRODUCTS: [(usize, usize, usize); 4] = [(8192, 320, 320), (2048, 640, 5120), (128, 1280, 1280), (512, 64, 64)];

fn multiply(bencher: Bencher, (rows, input, output): (usize, usize, usize), format: Format) {
    let (x, weight) = (values(rows * input), Packed::transposed(format, &values(input * output), output, input));
    bencher.bench(|| linear(black_box(&x), &weight, Added::default()));
}

#[divan::bench(args = PRODUCTS, max_time = 3)]
fn linear_kernel(bencher: Bencher, shape: (usize, usize, usize)) {
    multiply(bencher, shape, Format::F32);
}

#[divan::bench(args = PRODUCTS, max_time = 3)]
fn linear_kernel_bf16(bencher: Bencher, shape: (usize, usize, usize)) {
    multiply(bencher, shape, Format::Bf16);
}

#[divan::bench(args = PRODUCTS, max_time = 3)]
fn linear_candle(bencher: Bencher, (rows, input, output): (usize, usize, usize)) {
    let (x, weight) = (tensor(&[rows, input]), tensor(&[output, input]));
    bencher.bench(|| black_box(&x).matmul(&weight.t().expect("two dimensions")));
}

/// Queries, keys, heads, width of a head; a batch of two.
const ATTENTIONS: [(usize, usize, usize, usize); 4] =
    [(4096, 4096, 8, 40), (1024, 1024, 8, 80), (4096, 77, 8, 40), (256, 256, 4, 16)];

#[divan::bench(args = ATTENTIONS, max_time = 3)]
fn attention_kernel(bencher: Bencher, shape: (usize, usize, usize, usize)) {
    attend(bencher, shape, Format::F32);
}

#[divan::bench(args = ATTENTIONS, max_time = 3)]
fn attention_kernel_bf16(bencher: Bencher, shape: (usize, usize, usize, usize)) {
    attend(bencher, shape, Format::Bf16);
}

fn attend(bencher: Bencher, (queries, keys, heads, width): (usize, usize, usize, usize), format: Format) {
    let (q, k) = (values(2 * queries * heads * width), values(2 * keys * heads * width));
    bencher.bench(|| PackedKeys::new_as(format, &k, &k, 2, keys, heads).attend(black_box(&q), None));
}

#[divan::bench(args = ATTENTIONS, max_time = 3)]
fn attention_candle(bencher: Bencher, (queries, keys, heads, width): (usize, usize, usize, usize)) {
    let (q, k) = (tensor(&[2, heads, queries, width]), tensor(&[2, heads, keys, width]));
    bencher.bench(|| {
        let scores = black_box(&q).matmul(&k.t()?)?.affine(1.0 / (width as f64).sqrt(), 0.0)?;
        candle_nn::ops::softmax_last_dim(&scores)?.matmul(&k)
    });
}

#[divan::bench]
fn group_norm_silu_kernel(bencher: Bencher) {
    let (data, ones) = (values(2 * 64 * 64 * 320), vec![1.0; 320]);
    let map = Map { data: &data, batch: 2, height: 64, width: 64, channels: 320 };
    bencher.bench(|| group_norm(black_box(map), 32, 1e-5, Affine { weight: &ones, bias: &ones }, true));
}

#[divan::bench]
fn group_norm_silu_candle(bencher: Bencher) {
    let (x, ones) =
        (tensor(&[2, 320, 64, 64]), Tensor::from_vec(vec![1f32; 320], 320, &Device::Cpu).expect("320 ones"));
    let norm = candle_nn::GroupNorm::new(ones.clone(), ones, 320, 32, 1e-5).expect("32 groups of 10");
    bencher.bench(|| candle_nn::Module::forward(&norm, black_box(&x))?.silu());
}

#[divan::bench]
fn geglu_kernel(bencher: Bencher) {
    let data = values(2048 * 2 * 1280);
    bencher.bench(|| geglu(black_box(&data), 1280));
}

#[divan::bench]
fn geglu_candle(bencher: Bencher) {
    let x = tensor(&[2048, 2 * 1280]);
    bencher.bench(|| {
        let gate = black_box(&x).narrow(D::Minus1, 1280, 1280)?.contiguous()?.gelu_erf()?;
        x.narrow(D::Minus1, 0, 1280)? * gate
    });
}
