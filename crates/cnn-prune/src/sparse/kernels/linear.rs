//! Sparse matrix times a batch of vectors.

use super::super::matrix::SparseMatrix;
use super::TASK;
use cnn_core::simd::{Isa, Simd, SimdOp};
use rayon::prelude::*;

/// Images that are multiplied at a time.
const BLOCK: usize = 8;

/// `y = W x + bias` for each image; `x`: `n x cols`, `y`: `n x rows`, overwritten. Each output is
/// `bias + ((s0 + s1) + (s2 + s3))`, where `s_k` sums the products of every fourth stored weight of the row.
pub(in crate::sparse) fn linear_forward(w: &SparseMatrix, bias: Option<&[f32]>, x: &[f32], y: &mut [f32]) {
    run(Isa::active(), w, bias, x, y);
}

fn run(isa: Isa, w: &SparseMatrix, bias: Option<&[f32]>, x: &[f32], y: &mut [f32]) {
    let (rows, cols) = (w.rows(), w.cols());
    let y = y.par_chunks_mut(BLOCK * rows);
    y.zip(x.par_chunks(BLOCK * cols)).for_each(|(y, x)| match y.len() / rows {
        1 => {
            let (x, _) = x.as_chunks::<1>();
            let (y, _) = y.as_chunks_mut::<1>();
            block(isa, w, bias, x, y);
        }
        images => {
            // images next to each other; places without an image are zeros that nobody reads
            let mut turned = vec![[0f32; BLOCK]; cols];
            for (image, x) in x.chunks_exact(cols).enumerate() {
                turned.iter_mut().zip(x).for_each(|(t, &x)| t[image] = x);
            }
            let mut out = vec![[0f32; BLOCK]; rows];
            block(isa, w, bias, &turned, &mut out);
            for (image, y) in y.chunks_exact_mut(rows).enumerate().take(images) {
                y.iter_mut().zip(&out).for_each(|(y, out)| *y = out[image]);
            }
        }
    });
}

/// All rows for `B` images.
fn block<const B: usize>(
    isa: Isa,
    w: &SparseMatrix,
    bias: Option<&[f32]>,
    x: &[[f32; B]],
    y: &mut [[f32; B]],
) {
    let cost = (B * w.nonzeros() / w.rows()).max(1);
    y.par_iter_mut().with_min_len(TASK.div_ceil(cost)).enumerate().for_each(|(row, y)| {
        let (columns, values) = w.row(row);
        let bias = bias.map_or(0.0, |b| b[row]);
        *y = isa.run(Dot { columns, values, bias, x });
    });
}

/// [`dot`] on a given instruction set.
struct Dot<'a, const B: usize> {
    columns: &'a [u32],
    values: &'a [f32],
    bias: f32,
    x: &'a [[f32; B]],
}

impl<const B: usize> SimdOp for Dot<'_, B> {
    type Output = [f32; B];
    #[inline(always)]
    fn run<S: Simd>(self, _isa: S) -> [f32; B] {
        dot(self.columns, self.values, self.bias, self.x)
    }
}

/// One row for `B` images. Four sums, since one would wait for each addition.
#[inline(always)]
pub(super) fn dot<const B: usize>(columns: &[u32], values: &[f32], bias: f32, x: &[[f32; B]]) -> [f32; B] {
    let mut sums = [[0f32; B]; 4];
    let (columns, last_columns) = columns.as_chunks::<4>();
    let (values, last_values) = values.as_chunks::<4>();
    for (columns, values) in columns.iter().zip(values) {
        for k in 0..4 {
            let x = &x[columns[k] as usize];
            for i in 0..B {
                sums[k][i] += values[k] * x[i];
            }
        }
    }
    for ((&column, &value), sum) in last_columns.iter().zip(last_values).zip(&mut sums) {
        let x = &x[column as usize];
        for i in 0..B {
            sum[i] += value * x[i];
        }
    }
    let [a, b, c, d] = sums;
    std::array::from_fn(|i| bias + ((a[i] + b[i]) + (c[i] + d[i])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_versions_give_the_same_bits_near_the_dense_product() {
        let (rows, cols) = (7, 13);
        let number = |i: usize| ((i * 37 + 11) % 101) as f32 / 50.0 - 1.0;
        let dense: Vec<f32> = (0..rows * cols).map(|i| if i % 3 == 0 { 0.0 } else { number(i) }).collect();
        let w = SparseMatrix::from_dense(rows, cols, &dense).unwrap();
        let bias: Vec<f32> = (0..rows).map(number).collect();
        for n in [1, 2, 8, 9, 19] {
            let x: Vec<f32> = (0..n * cols).map(|i| number(i + 5)).collect();
            let outputs = Isa::available().into_iter().map(|isa| {
                let mut y = vec![f32::NAN; n * rows];
                run(isa, &w, Some(&bias), &x, &mut y);
                y
            });
            let outputs: Vec<Vec<f32>> = outputs.collect();
            assert!(outputs.iter().all(|y| y == &outputs[0]));
            for (at, &y) in outputs[0].iter().enumerate() {
                let (image, row) = (at / rows, at % rows);
                let product: f64 = (0..cols)
                    .map(|c| f64::from(dense[row * cols + c]) * f64::from(x[image * cols + c]))
                    .sum();
                assert!((f64::from(y) - product - f64::from(bias[row])).abs() < 1e-5);
            }
        }
    }
}
