//! Global and adaptive average pooling.
//!
//! Adaptive pooling cuts an axis of `input` elements into `output` bins; bin `i` is
//! `floor(i input / output) .. ceil((i + 1) input / output)`, so neighbours may overlap.

use std::ops::Range;

use super::multiversion::multiversion;
use super::parallel::for_each_task;
use super::reduce::sum_zip;

/// `y[n * c] = mean` of each plane of `x: [n * c, hw]`.
pub fn global_avg_pool(x: &[f32], hw: usize, y: &mut [f32]) {
    assert!(hw > 0 && x.len() == y.len() * hw);
    for_each_task(y, 1, hw, |first, y| {
        mean_planes(&x[first * hw..][..y.len() * hw], hw, y);
    });
}

/// Writes `dx: [n * c, hw]`: `dy: [n * c]` spread evenly, `dx = dy / hw`.
pub fn global_avg_pool_backward(dy: &[f32], hw: usize, dx: &mut [f32]) {
    assert!(hw > 0 && dx.len() == dy.len() * hw);
    for_each_task(dx, hw, hw, |first, dx| {
        for (dx, &dy) in dx.chunks_exact_mut(hw).zip(&dy[first..]) {
            dx.fill(dy / hw as f32);
        }
    });
}

multiversion! {
    fn mean_planes(x: &[f32], hw: usize, y: &mut [f32]) {
        for (y, x) in y.iter_mut().zip(x.chunks_exact(hw)) {
            *y = (sum_zip(x, x, |x, _| x) / hw as f64) as f32;
        }
    }
}

/// Averages `x: [planes, h, w]` into `y: [planes, oh, ow]`; `input = [h, w]`, `output = [oh, ow]`.
pub fn adaptive_avg_pool(x: &[f32], input: [usize; 2], output: [usize; 2], y: &mut [f32]) {
    let ([h, w], [oh, ow]) = (input, output);
    check(x.len(), input, y.len(), output);
    for_each_task(y, oh * ow, h * w, |first, y| {
        for (y, x) in y.chunks_exact_mut(oh * ow).zip(x[first * h * w..].chunks_exact(h * w)) {
            for (i, y) in y.iter_mut().enumerate() {
                let (rows, columns) = (bin(i / ow, h, oh), bin(i % ow, w, ow));
                let count = (rows.len() * columns.len()) as f32;
                let sum: f32 = rows.map(|r| x[r * w..][columns.clone()].iter().sum::<f32>()).sum();
                *y = sum / count;
            }
        }
    });
}

/// Writes `dx: [planes, h, w]` from `dy: [planes, oh, ow]`: each input gets `dy / bin size` from
/// every bin that holds it.
pub fn adaptive_avg_pool_backward(dy: &[f32], input: [usize; 2], output: [usize; 2], dx: &mut [f32]) {
    let ([h, w], [oh, ow]) = (input, output);
    check(dx.len(), input, dy.len(), output);
    for_each_task(dx, h * w, h * w, |first, dx| {
        let dy = dy[first * oh * ow..].chunks_exact(oh * ow);
        for (dx, dy) in dx.chunks_exact_mut(h * w).zip(dy) {
            dx.fill(0.0);
            for (i, &dy) in dy.iter().enumerate() {
                let (rows, columns) = (bin(i / ow, h, oh), bin(i % ow, w, ow));
                let share = dy / (rows.len() * columns.len()) as f32;
                for r in rows {
                    dx[r * w..][columns.clone()].iter_mut().for_each(|dx| *dx += share);
                }
            }
        }
    });
}

fn bin(i: usize, input: usize, output: usize) -> Range<usize> {
    i * input / output..((i + 1) * input).div_ceil(output)
}

fn check(input_len: usize, [h, w]: [usize; 2], output_len: usize, [oh, ow]: [usize; 2]) {
    assert!(h * w > 0 && oh * ow > 0);
    assert_eq!(input_len * oh * ow, output_len * h * w);
    assert!(input_len.is_multiple_of(h * w));
}
