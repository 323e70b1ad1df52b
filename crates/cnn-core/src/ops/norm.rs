//! Batch normalization over the batch and spatial axes of `[n, c, hw]`.
//!
//! With `m = n * hw` values per channel:
//!
//! ```text
//! mean = Σ x / m        var = Σ (x - mean)² / m        inv_std = 1 / sqrt(var + eps)
//! x̂ = (x - mean) inv_std                              y = gamma x̂ + beta
//! dbeta = Σ dy          dgamma = Σ dy x̂
//! dx = gamma inv_std (dy - dbeta / m - x̂ dgamma / m)
//! ```
//!
//! A plane is the `hw` values of one image and channel.

use super::multiversion::multiversion;
use super::parallel::for_each_task;
use super::reduce::{sum_zip, sum_zip2};

/// Mean and biased variance of each channel of `x: [n, c, hw]`; two vectors of length `c`.
///
/// One pass: `d = x - pivot` with a pivot near the mean, so that `var = Σd²/m - (Σd/m)²` does not
/// cancel even when the mean is much larger than the deviation.
pub fn bn_stats(x: &[f32], n: usize, c: usize, hw: usize) -> (Vec<f32>, Vec<f32>) {
    assert_eq!(x.len(), n * c * hw);
    assert!(n * hw > 0, "statistics of an empty batch");
    let pivot = pivots(x, n, c, hw);
    let mut partial = vec![(0.0, 0.0); n * c];
    for_each_task(&mut partial, 1, hw, |first, partial| {
        let x = &x[first * hw..][..partial.len() * hw];
        pivoted_sums(x, first, hw, &pivot, partial);
    });
    let m = (n * hw) as f64;
    sum_over_images(&partial, c)
        .iter()
        .zip(&pivot)
        .map(|(&(sum, sum_sq), &pivot)| {
            let d = sum / m;
            ((f64::from(pivot) + d) as f32, (sum_sq / m - d * d).max(0.0) as f32)
        })
        .unzip()
}

/// Per-channel factors that turn normalization into `y = scale x + shift`:
/// `scale = gamma inv_std`, `shift = beta - mean scale`. All slices have length `c`.
pub fn bn_scale_shift(mean: &[f32], inv_std: &[f32], gamma: &[f32], beta: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let c = mean.len();
    assert!(inv_std.len() == c && gamma.len() == c && beta.len() == c);
    (0..c)
        .map(|i| {
            let scale = gamma[i] * inv_std[i];
            (scale, beta[i] - mean[i] * scale)
        })
        .unzip()
}

/// `1 / sqrt(var + eps)` for each channel.
pub fn bn_inv_std(var: &[f32], eps: f32) -> Vec<f32> {
    var.iter().map(|v| 1.0 / (v + eps).sqrt()).collect()
}

/// `y = scale x + shift` per channel; `x, y: [n, c, hw]`, `scale, shift: [c]`.
pub fn bn_apply(x: &[f32], y: &mut [f32], hw: usize, scale: &[f32], shift: &[f32]) {
    check_planes(x.len(), hw, scale, shift);
    assert_eq!(x.len(), y.len());
    for_each_task(y, hw, hw, |first, y| {
        affine(&x[first * hw..][..y.len()], y, first, hw, scale, shift);
    });
}

/// Replaces `dy: [n, c, hw]` by `dx` and returns `(dgamma, dbeta)`, each `[c]`.
///
/// `x` is the input of the forward pass, `mean` and `inv_std` its batch statistics.
pub fn bn_backward(
    x: &[f32],
    dy: &mut [f32],
    hw: usize,
    mean: &[f32],
    inv_std: &[f32],
    gamma: &[f32],
) -> (Vec<f32>, Vec<f32>) {
    let c = mean.len();
    check_planes(x.len(), hw, mean, inv_std);
    assert!(x.len() == dy.len() && gamma.len() == c);
    let (dgamma, dbeta) = bn_param_grads(x, dy, hw, mean, inv_std);

    // dx = a dy + b (x - mean) + e
    let m = (x.len() / c) as f32;
    let coefficients: Vec<[f32; 4]> = (0..c)
        .map(|i| {
            let a = gamma[i] * inv_std[i];
            [a, -a * inv_std[i] * dgamma[i] / m, mean[i], -a * dbeta[i] / m]
        })
        .collect();
    for_each_task(dy, hw, 2 * hw, |first, dy| {
        input_grad(&x[first * hw..][..dy.len()], dy, first, hw, &coefficients);
    });
    (dgamma, dbeta)
}

/// `(dgamma, dbeta)`; arguments as [`bn_backward`]. Enough where `x` needs no gradient.
pub fn bn_param_grads(
    x: &[f32],
    dy: &[f32],
    hw: usize,
    mean: &[f32],
    inv_std: &[f32],
) -> (Vec<f32>, Vec<f32>) {
    check_planes(x.len(), hw, mean, inv_std);
    assert_eq!(x.len(), dy.len());
    let mut partial = vec![(0.0, 0.0); x.len() / hw];
    for_each_task(&mut partial, 1, 2 * hw, |first, partial| {
        let run = first * hw..(first + partial.len()) * hw;
        grad_sums(&x[run.clone()], &dy[run], first, hw, mean, partial);
    });
    sum_over_images(&partial, mean.len())
        .iter()
        .zip(inv_std)
        .map(|(&(dy_d, dy), &inv_std)| ((dy_d * f64::from(inv_std)) as f32, dy as f32))
        .unzip()
}

fn check_planes(len: usize, hw: usize, a: &[f32], b: &[f32]) {
    let c = a.len();
    assert!(c > 0 && hw > 0 && b.len() == c && len.is_multiple_of(c * hw));
}

/// A value near each channel's mean: the average over the first images, at least 64 values if the
/// batch has them.
fn pivots(x: &[f32], n: usize, c: usize, hw: usize) -> Vec<f32> {
    let images = 64usize.div_ceil(hw).min(n);
    (0..c)
        .map(|ch| {
            let sum: f64 = (0..images)
                .map(|image| &x[(image * c + ch) * hw..][..hw])
                .map(|plane| sum_zip(plane, plane, |v, _| v))
                .sum();
            (sum / (images * hw) as f64) as f32
        })
        .collect()
}

/// Sums per-plane pairs over the images, in image order.
fn sum_over_images(partial: &[(f64, f64)], c: usize) -> Vec<(f64, f64)> {
    let mut total = vec![(0.0, 0.0); c];
    for image in partial.chunks_exact(c) {
        for (total, part) in total.iter_mut().zip(image) {
            total.0 += part.0;
            total.1 += part.1;
        }
    }
    total
}

// The loops below get a run of planes; the first one is plane `first` of the tensor, which belongs
// to channel `first % c`.

multiversion! {
    /// `(Σ d, Σ d²)` with `d = x - pivot`, for each plane.
    fn pivoted_sums(x: &[f32], first: usize, hw: usize, pivot: &[f32], out: &mut [(f64, f64)]) {
        let channels = pivot.iter().cycle().skip(first % pivot.len());
        for ((x, &pivot), out) in x.chunks_exact(hw).zip(channels).zip(out) {
            *out = sum_zip2(x, x, |x, _| {
                let d = x - pivot;
                (d, d * d)
            });
        }
    }
}

multiversion! {
    /// `(Σ dy (x - mean), Σ dy)` for each plane.
    fn grad_sums(x: &[f32], dy: &[f32], first: usize, hw: usize, mean: &[f32],
                 out: &mut [(f64, f64)]) {
        let channels = mean.iter().cycle().skip(first % mean.len());
        let planes = x.chunks_exact(hw).zip(dy.chunks_exact(hw));
        for (((x, dy), &mean), out) in planes.zip(channels).zip(out) {
            *out = sum_zip2(x, dy, |x, dy| (dy * (x - mean), dy));
        }
    }
}

multiversion! {
    /// `y = scale x + shift`.
    fn affine(x: &[f32], y: &mut [f32], first: usize, hw: usize, scale: &[f32], shift: &[f32]) {
        let channels = scale.iter().zip(shift).cycle().skip(first % scale.len());
        let planes = x.chunks_exact(hw).zip(y.chunks_exact_mut(hw));
        for ((x, y), (&scale, &shift)) in planes.zip(channels) {
            for (y, &x) in y.iter_mut().zip(x) {
                *y = scale * x + shift;
            }
        }
    }
}

multiversion! {
    /// `dy = a dy + b (x - mean) + e` with per-channel `[a, b, mean, e]`.
    fn input_grad(x: &[f32], dy: &mut [f32], first: usize, hw: usize, coefficients: &[[f32; 4]]) {
        let channels = coefficients.iter().cycle().skip(first % coefficients.len());
        let planes = x.chunks_exact(hw).zip(dy.chunks_exact_mut(hw));
        for ((x, dy), &[a, b, mean, e]) in planes.zip(channels) {
            for (dy, &x) in dy.iter_mut().zip(x) {
                *dy = a * *dy + b * (x - mean) + e;
            }
        }
    }
}
