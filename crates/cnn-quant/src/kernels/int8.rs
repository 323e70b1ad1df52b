//! Convolution and matrix product of 8-bit levels with 32-bit sums.
//!
//! Levels (values less their zero point) lie in -255 ..= 255 and are held as `i16`: products of `i16` pairs added to `i32` are one
//! instruction on all common processors. Integer sums do not depend on the order, so that results are the same bits whatever
//! the number of threads.

use cnn_core::ops::conv::ConvGeometry;
use rayon::prelude::*;

/// Pixels of a task.
const TILE: usize = 128;

/// `sum_i a_i b_i`; the caller knows that it fits 32 bits.
pub fn dot(a: &[i16], b: &[i16]) -> i32 {
    a.iter().zip(b).map(|(&a, &b)| i32::from(a) * i32::from(b)).sum()
}

/// A filter with two pixels at once: the weights are read once for both.
fn dot2(w: &[i16], a: &[i16], b: &[i16]) -> [i32; 2] {
    let (mut first, mut second) = (0i32, 0i32);
    for ((&w, &a), &b) in w.iter().zip(a).zip(b) {
        first += i32::from(w) * i32::from(a);
        second += i32::from(w) * i32::from(b);
    }
    [first, second]
}

/// `y = finish(channel, sum)` of a linear layer. `x`: `n` rows, `w`: one row an output, both of `terms` levels; `y`: `n` rows of
/// as many values as `w` has rows.
pub fn linear(x: &[i16], w: &[i16], terms: usize, y: &mut [f32], finish: impl Fn(usize, i32) -> f32 + Sync) {
    let outputs = w.len() / terms.max(1);
    if outputs == 0 {
        return;
    }
    y.par_chunks_mut(outputs).zip(x.par_chunks(terms)).for_each(|(y, x)| {
        y.par_iter_mut()
            .with_min_len(16)
            .enumerate()
            .for_each(|(o, y)| *y = finish(o, dot(&w[o * terms..][..terms], x)));
    });
}

/// `y = finish(channel, sum)` of a convolution. `x`: levels `n x c x h x w`; `w`: levels `m x c / groups x kh x kw`; `y`:
/// `n x m x out_h x out_w`. Padding is level 0.
pub fn conv(
    g: &ConvGeometry,
    x: &[i16],
    w: &[i16],
    y: &mut [f32],
    finish: impl Fn(usize, i32) -> f32 + Sync,
) {
    let pixels = g.out_h() * g.out_w();
    let (channels, filters) = (g.c / g.groups, g.m / g.groups);
    let terms = channels * g.kernel[0] * g.kernel[1];
    if pixels == 0 || y.is_empty() {
        return;
    }
    let tiles = pixels.div_ceil(TILE);
    let tasks = g.n * g.groups * tiles;
    // each task: one image, one group, a tile of pixels; its results are filter by filter
    let results: Vec<Vec<f32>> = (0..tasks)
        .into_par_iter()
        .map(|task| {
            let (image, group, tile) = (task / tiles / g.groups, task / tiles % g.groups, task % tiles);
            let (first, last) = (tile * TILE, pixels.min((tile + 1) * TILE));
            let x = &x[(image * g.c + group * channels) * g.h * g.w..][..channels * g.h * g.w];
            let windows = gather(g, x, channels, first, last);
            let mut out = Vec::with_capacity(filters * (last - first));
            for filter in group * filters..(group + 1) * filters {
                let w = &w[filter * terms..][..terms];
                let mut pairs = windows.chunks_exact(2 * terms);
                for pair in pairs.by_ref() {
                    let (a, b) = pair.split_at(terms);
                    out.extend(dot2(w, a, b).map(|sum| finish(filter, sum)));
                }
                if !pairs.remainder().is_empty() {
                    out.push(finish(filter, dot(w, pairs.remainder())));
                }
            }
            out
        })
        .collect();
    y.par_chunks_mut(pixels).enumerate().for_each(|(plane, y)| {
        let (image, filter) = (plane / g.m, plane % g.m);
        let (group, row) = (filter / filters, filter % filters);
        for (tile, y) in y.chunks_mut(TILE).enumerate() {
            let result = &results[(image * g.groups + group) * tiles + tile];
            y.copy_from_slice(&result[row * y.len()..][..y.len()]);
        }
    });
}

/// The windows that the output pixels `first .. last` read, one row of `channels x kh x kw` levels each.
fn gather(g: &ConvGeometry, x: &[i16], channels: usize, first: usize, last: usize) -> Vec<i16> {
    let [kh, kw] = g.kernel;
    let terms = channels * kh * kw;
    let mut windows = vec![0i16; terms * (last - first)];
    let out_w = g.out_w();
    for (pixel, window) in (first..last).zip(windows.chunks_mut(terms)) {
        // position of the window in the padded image
        let (top, left) = (pixel / out_w * g.stride[0], pixel % out_w * g.stride[1]);
        for (c, plane) in x.chunks_exact(g.h * g.w).enumerate() {
            for i in 0..kh {
                let Some(row) = (top + i * g.dilation[0]).checked_sub(g.pad[0]).filter(|&r| r < g.h) else {
                    continue;
                };
                let row = &plane[row * g.w..][..g.w];
                let out = &mut window[(c * kh + i) * kw..][..kw];
                match (g.dilation[1], left.checked_sub(g.pad[1])) {
                    (1, Some(at)) if at + kw <= g.w => out.copy_from_slice(&row[at..at + kw]),
                    (dilation, _) => {
                        for (j, out) in out.iter_mut().enumerate() {
                            let column = (left + j * dilation).checked_sub(g.pad[1]);
                            *out = column.and_then(|at| row.get(at)).copied().unwrap_or(0);
                        }
                    }
                }
            }
        }
    }
    windows
}
