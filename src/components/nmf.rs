//! Non-negative matrix factorisation: `V` is about `W H`, and no entry is below 0 (Lee and Seung,
//! 1999).
//!
//! The squared error is made small by coordinate descent, an entry at a time (Cichocki and Phan,
//! 2009), as scikit-learn's `NMF(solver="cd")` does. It begins from the singular vectors (NNDSVDa;
//! Boutsidis and Gallopoulos, 2008), so that the same matrix gives the same factors every time.

use candle_core::{DType, Device, Tensor};
use rand_mt::Mt;
use rayon::prelude::*;

use crate::Result;

/// Descent stops when an iteration moves the gradient by less than this share of the first one's.
pub const TOLERANCE: f64 = 1e-4;

/// The most iterations, each over both factors.
pub const MOST_ITERATIONS: usize = 200;

/// A matrix without negative entries, row by row.
#[derive(Debug, Clone, PartialEq)]
pub struct Matrix {
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub columns: usize,
    /// `[rows, columns]`.
    pub values: Vec<f32>,
}

impl Matrix {
    fn tensor(&self) -> Result<Tensor> {
        Ok(Tensor::from_slice(&self.values, (self.rows, self.columns), &Device::Cpu)?)
    }

    /// The sum of the squares of all entries.
    pub fn energy(&self) -> f64 {
        self.values.iter().map(|&value| f64::from(value).powi(2)).sum()
    }
}

/// Two factors.
#[derive(Debug, Clone, PartialEq)]
pub struct Factors {
    /// How many components, `k`.
    pub count: usize,
    /// `[rows, k]`: how much of each component is in a row.
    pub w: Vec<f64>,
    /// `[k, columns]`: the components.
    pub h: Vec<f64>,
}

/// Makes `count` components of `v`, from [`nndsvd`].
///
/// # Errors
/// Those of the tensors.
pub fn factorise(v: &Matrix, count: usize) -> Result<Factors> {
    descend(v, nndsvd(v, count)?)
}

/// Makes the error of `start` smaller until it hardly changes.
///
/// # Errors
/// Those of the tensors.
pub fn descend(v: &Matrix, start: Factors) -> Result<Factors> {
    let Factors { count, mut w, mut h } = start;
    let matrix = v.tensor()?;
    let turned = matrix.t()?.contiguous()?;
    let mut first = None;
    // `H` by its columns, so that both factors are the same to the descent.
    let mut ht = transposed(&h, count, v.columns);
    for _ in 0..MOST_ITERATIONS {
        let mut moved = update(&mut w, &gram(&ht, count), &product(&matrix, &ht, count)?, count);
        moved += update(&mut ht, &gram(&w, count), &product(&turned, &w, count)?, count);
        let first = *first.get_or_insert(moved);
        if first == 0.0 || moved / first <= TOLERANCE {
            break;
        }
    }
    h.copy_from_slice(&transposed(&ht, v.columns, count));
    Ok(Factors { count, w, h })
}

/// One descent over `factor` `[rows, k]`, with the other factor's `gram` `[k, k]` and its `product`
/// with the matrix, `[rows, k]`. Returns how far the gradient would still go.
fn update(factor: &mut [f64], gram: &[f64], product: &[f64], count: usize) -> f64 {
    let rows = factor.par_chunks_exact_mut(count).zip(product.par_chunks_exact(count));
    let moved = rows.map(|(row, product)| {
        let mut moved = 0.0;
        for at in 0..count {
            let own = &gram[at * count..][..count];
            let gradient = own.iter().zip(&*row).map(|(a, b)| a * b).sum::<f64>() - product[at];
            // At 0 an entry can only grow.
            moved += if row[at] == 0.0 { gradient.min(0.0).abs() } else { gradient.abs() };
            if own[at] > 0.0 {
                row[at] = (row[at] - gradient / own[at]).max(0.0);
            }
        }
        moved
    });
    // Summed in order, so that the same matrix stops at the same iteration on any number of
    // threads.
    moved.collect::<Vec<f64>>().into_iter().sum()
}

/// `factor^T factor` `[k, k]` of `factor` `[rows, k]`.
fn gram(factor: &[f64], count: usize) -> Vec<f64> {
    let mut gram = vec![0.0; count * count];
    for row in factor.chunks_exact(count) {
        for (a, left) in row.iter().enumerate() {
            row.iter().enumerate().for_each(|(b, right)| gram[a * count + b] += left * right);
        }
    }
    gram
}

/// `matrix` `[rows, columns]` times `factor` `[columns, k]`.
fn product(matrix: &Tensor, factor: &[f64], count: usize) -> Result<Vec<f64>> {
    let factor: Vec<f32> = factor.iter().map(|&value| value as f32).collect();
    let factor = Tensor::from_vec(factor, (matrix.dim(1)?, count), &Device::Cpu)?;
    Ok(matrix.matmul(&factor)?.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?)
}

/// `[a, b]` as `[b, a]`.
fn transposed(values: &[f64], a: usize, b: usize) -> Vec<f64> {
    (0..b).flat_map(|column| (0..a).map(move |row| values[row * b + column])).collect()
}

/// The squared error of `factors`, over the energy of `v`: 0 where nothing is left out.
///
/// # Errors
/// Those of the tensors.
pub fn error(v: &Matrix, factors: &Factors) -> Result<f64> {
    let Factors { count, w, h } = factors;
    let narrow = |values: &[f64]| values.iter().map(|&value| value as f32).collect::<Vec<f32>>();
    let w = Tensor::from_vec(narrow(w), (v.rows, *count), &Device::Cpu)?;
    let h = Tensor::from_vec(narrow(h), (*count, v.columns), &Device::Cpu)?;
    let left = (v.tensor()? - w.matmul(&h)?)?.to_dtype(DType::F64)?.sqr()?.sum_all()?.to_scalar::<f64>()?;
    let energy = v.energy();
    Ok(if energy > 0.0 { left / energy } else { 0.0 })
}

/// Where the descent begins: of each of the first singular pairs the positive or the negative part,
/// whichever is larger; zeros become the matrix's mean.
///
/// # Errors
/// Those of the tensors.
pub fn nndsvd(v: &Matrix, count: usize) -> Result<Factors> {
    let (mut w, mut h) = (vec![0.0; v.rows * count], vec![0.0; count * v.columns]);
    for (at, (left, value, right)) in singular(v, count)?.into_iter().enumerate() {
        let part = |vector: &[f64], sign: f64| vector.iter().map(|x| (sign * x).max(0.0)).collect::<Vec<f64>>();
        let length = |vector: &[f64]| vector.iter().map(|x| x * x).sum::<f64>().sqrt();
        let side = |sign: f64| {
            let (left, right) = (part(&left, sign), part(&right, sign));
            let (a, b) = (length(&left), length(&right));
            (a * b, left, right, a, b)
        };
        let (plus, minus) = (side(1.0), side(-1.0));
        let (size, left, right, a, b) = if plus.0 >= minus.0 { plus } else { minus };
        if size == 0.0 {
            continue;
        }
        let scale = (value * size).sqrt();
        left.iter().enumerate().for_each(|(row, x)| w[row * count + at] = scale * x / a);
        right.iter().enumerate().for_each(|(column, x)| h[at * v.columns + column] = scale * x / b);
    }
    let mean = v.values.iter().map(|&value| f64::from(value)).sum::<f64>() / v.values.len().max(1) as f64;
    for value in w.iter_mut().chain(&mut h) {
        if *value < 1e-6 {
            *value = mean;
        }
    }
    Ok(Factors { count, w, h })
}

/// A left singular vector, its value, and the right one.
type Singular = (Vec<f64>, f64, Vec<f64>);

/// The first `count` singular vectors, left and right, with their values, by subspace iteration
/// (Halko et al., 2011) from a fixed start.
fn singular(v: &Matrix, count: usize) -> Result<Vec<Singular>> {
    const ITERATIONS: usize = 12;
    let width = (count + 8).min(v.rows).min(v.columns);
    let matrix = v.tensor()?;
    let turned = matrix.t()?.contiguous()?;
    let mut generator = Mt::new(0);
    let mut draw = || f64::from(generator.next_u32()) / f64::from(u32::MAX) - 0.5;
    let mut right: Vec<f64> = (0..v.columns * width).map(|_| draw()).collect();
    orthonormal(&mut right, width);
    for _ in 0..ITERATIONS {
        let mut left = product(&matrix, &right, width)?;
        orthonormal(&mut left, width);
        right = product(&turned, &left, width)?;
        orthonormal(&mut right, width);
    }
    // In the subspace the matrix is small: its own singular vectors turn the subspace's.
    let image = product(&matrix, &right, width)?;
    let (values, vectors) = symmetric(gram(&image, width), width);
    let turn = |rows: &[f64], at: usize| -> Vec<f64> {
        rows.chunks_exact(width)
            .map(|row| row.iter().enumerate().map(|(i, x)| x * vectors[i * width + at]).sum())
            .collect()
    };
    let pair = |at: usize| {
        let value = values[at].max(0.0).sqrt();
        let left = turn(&image, at).into_iter().map(|x| if value > 0.0 { x / value } else { 0.0 }).collect();
        (left, value, turn(&right, at))
    };
    Ok((0..count.min(width)).map(pair).collect())
}

/// Makes the columns of `basis` `[rows, width]` orthogonal and of length 1 (Gram and Schmidt,
/// twice).
fn orthonormal(basis: &mut [f64], width: usize) {
    for at in 0..width {
        for _ in 0..2 {
            for other in 0..at {
                let along: f64 = basis.chunks_exact(width).map(|row| row[at] * row[other]).sum();
                basis.chunks_exact_mut(width).for_each(|row| row[at] -= along * row[other]);
            }
        }
        let length = basis.chunks_exact(width).map(|row| row[at] * row[at]).sum::<f64>().sqrt();
        // What depends on the others is left out.
        let scale = if length > 1e-12 { 1.0 / length } else { 0.0 };
        basis.chunks_exact_mut(width).for_each(|row| row[at] *= scale);
    }
}

/// Eigenvalues, largest first, and eigenvectors (columns) of a symmetric matrix, by Jacobi's
/// rotations.
fn symmetric(mut a: Vec<f64>, n: usize) -> (Vec<f64>, Vec<f64>) {
    let mut v: Vec<f64> = (0..n * n).map(|at| if at / n == at % n { 1.0 } else { 0.0 }).collect();
    let scale: f64 = a.iter().map(|x| x * x).sum::<f64>();
    for _ in 0..60 {
        let off: f64 = (0..n * n).filter(|at| at / n != at % n).map(|at| a[at] * a[at]).sum();
        if off <= 1e-28 * scale {
            break;
        }
        for p in 0..n {
            for q in p + 1..n {
                let apq = a[p * n + q];
                if apq == 0.0 {
                    continue;
                }
                let theta = (a[q * n + q] - a[p * n + p]) / (2.0 * apq);
                let t = theta.signum() / (theta.abs() + (theta * theta + 1.0).sqrt());
                let t = if theta == 0.0 { 1.0 } else { t };
                let c = 1.0 / (t * t + 1.0).sqrt();
                let s = t * c;
                for k in 0..n {
                    let (x, y) = (a[k * n + p], a[k * n + q]);
                    (a[k * n + p], a[k * n + q]) = (c * x - s * y, s * x + c * y);
                }
                for k in 0..n {
                    let (x, y) = (a[p * n + k], a[q * n + k]);
                    (a[p * n + k], a[q * n + k]) = (c * x - s * y, s * x + c * y);
                    let (x, y) = (v[k * n + p], v[k * n + q]);
                    (v[k * n + p], v[k * n + q]) = (c * x - s * y, s * x + c * y);
                }
            }
        }
    }
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|&x, &y| a[y * n + y].total_cmp(&a[x * n + x]));
    let values = order.iter().map(|&at| a[at * n + at]).collect();
    let vectors = (0..n).flat_map(|row| order.iter().map(move |&at| (row, at))).map(|(row, at)| v[row * n + at]);
    (values, vectors.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix(rows: usize, columns: usize) -> Matrix {
        let mut generator = Mt::new(5);
        let mut draw = || (f64::from(generator.next_u32()) / f64::from(u32::MAX)) as f32;
        // Three patterns and some noise.
        let w: Vec<f32> = (0..rows * 3).map(|_| draw().powi(3)).collect();
        let h: Vec<f32> = (0..3 * columns).map(|_| draw().powi(4)).collect();
        let value = |row: usize, column: usize| (0..3).map(|k| w[row * 3 + k] * h[k * columns + column]).sum::<f32>();
        let cells = (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column)));
        let values = cells.map(|(row, column)| value(row, column) + 0.01 * draw()).collect();
        Matrix { rows, columns, values }
    }

    #[test]
    fn singular_pairs_rebuild_the_matrix() {
        let v = matrix(9, 6);
        let pairs = singular(&v, 6).unwrap();
        assert!(pairs.is_sorted_by(|a, b| a.1 >= b.1));
        for row in 0..9 {
            for column in 0..6 {
                let sum: f64 = pairs.iter().map(|(left, value, right)| left[row] * value * right[column]).sum();
                assert!((sum - f64::from(v.values[row * 6 + column])).abs() < 1e-5);
            }
        }
    }

    #[test]
    fn three_patterns_are_found_and_nothing_is_negative() {
        let v = matrix(40, 30);
        let found = factorise(&v, 3).unwrap();
        assert!(found.w.iter().chain(&found.h).all(|value| *value >= 0.0));
        assert!(error(&v, &found).unwrap() < 2e-3, "{}", error(&v, &found).unwrap());
        assert_eq!(found, factorise(&v, 3).unwrap());
        let errors: Vec<f64> = (1..=4).map(|k| error(&v, &factorise(&v, k).unwrap()).unwrap()).collect();
        assert!(errors.is_sorted_by(|a, b| a >= b), "{errors:?}");
    }

    #[test]
    fn an_empty_matrix_has_empty_components() {
        let v = Matrix { rows: 3, columns: 4, values: vec![0.0; 12] };
        let found = factorise(&v, 2).unwrap();
        assert!(found.w.iter().chain(&found.h).all(|value| value.is_finite()));
        assert_eq!(error(&v, &found).unwrap(), 0.0);
    }
}
