//! Softmax over the class axis: `y_k = e^(x_k - max) / Σ_j e^(x_j - max)`.
//!
//! Subtracting the maximum keeps the exponentials in range and does not change the result.

use super::exp::exp;
use super::multiversion::multiversion;
use super::parallel::for_each_task;
use super::reduce::sum_zip;

/// Softmax over `k` of `x, y: [n, k, inner]`; `inner` is 1 for logits, `h * w` for maps.
pub fn softmax(x: &[f32], k: usize, inner: usize, y: &mut [f32]) {
    let image = k * inner;
    assert!(x.len() == y.len() && image > 0 && x.len().is_multiple_of(image));
    for_each_task(y, image, image, |first, y| {
        let x = &x[first * image..][..y.len()];
        if inner == 1 {
            softmax_rows(x, k, y);
        } else {
            softmax_maps(x, k, inner, y);
        }
    });
}

/// Replaces `dy` by `dx_k = y_k (dy_k - Σ_j dy_j y_j)`; `y` is the output, shapes as [`softmax`].
pub fn softmax_backward(y: &[f32], k: usize, inner: usize, dy: &mut [f32]) {
    let image = k * inner;
    assert!(y.len() == dy.len() && image > 0 && y.len().is_multiple_of(image));
    for_each_task(dy, image, 2 * image, |first, dy| {
        let y = &y[first * image..][..dy.len()];
        if inner == 1 {
            backward_rows(y, k, dy);
        } else {
            backward_maps(y, k, inner, dy);
        }
    });
}

multiversion! {
    fn softmax_rows(x: &[f32], k: usize, y: &mut [f32]) {
        for (x, y) in x.chunks_exact(k).zip(y.chunks_exact_mut(k)) {
            let max = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            for (y, &x) in y.iter_mut().zip(x) {
                *y = exp(x - max);
            }
            let scale = (1.0 / sum_zip(y, y, |y, _| y)) as f32;
            y.iter_mut().for_each(|y| *y *= scale);
        }
    }
}

multiversion! {
    /// As [`softmax_rows`], for `inner` interleaved rows at once.
    fn softmax_maps(x: &[f32], k: usize, inner: usize, y: &mut [f32]) {
        let mut max = vec![0.0f32; inner];
        let mut sum = vec![0.0f32; inner];
        for (x, y) in x.chunks_exact(k * inner).zip(y.chunks_exact_mut(k * inner)) {
            max.fill(f32::NEG_INFINITY);
            for x in x.chunks_exact(inner) {
                for (max, &x) in max.iter_mut().zip(x) {
                    *max = max.max(x);
                }
            }
            sum.fill(0.0);
            for (x, y) in x.chunks_exact(inner).zip(y.chunks_exact_mut(inner)) {
                for (((y, &x), &max), sum) in y.iter_mut().zip(x).zip(&max).zip(&mut sum) {
                    *y = exp(x - max);
                    *sum += *y;
                }
            }
            for y in y.chunks_exact_mut(inner) {
                for (y, &sum) in y.iter_mut().zip(&sum) {
                    *y /= sum;
                }
            }
        }
    }
}

multiversion! {
    fn backward_rows(y: &[f32], k: usize, dy: &mut [f32]) {
        for (y, dy) in y.chunks_exact(k).zip(dy.chunks_exact_mut(k)) {
            let dot = sum_zip(y, dy, |y, dy| y * dy) as f32;
            for (dy, &y) in dy.iter_mut().zip(y) {
                *dy = y * (*dy - dot);
            }
        }
    }
}

multiversion! {
    fn backward_maps(y: &[f32], k: usize, inner: usize, dy: &mut [f32]) {
        let mut dot = vec![0.0f32; inner];
        for (y, dy) in y.chunks_exact(k * inner).zip(dy.chunks_exact_mut(k * inner)) {
            dot.fill(0.0);
            for (y, dy) in y.chunks_exact(inner).zip(dy.chunks_exact(inner)) {
                for ((dot, &y), &dy) in dot.iter_mut().zip(y).zip(dy) {
                    *dot += y * dy;
                }
            }
            for (y, dy) in y.chunks_exact(inner).zip(dy.chunks_exact_mut(inner)) {
                for ((dy, &y), &dot) in dy.iter_mut().zip(y).zip(&dot) {
                    *dy = y * (*dy - dot);
                }
            }
        }
    }
}
