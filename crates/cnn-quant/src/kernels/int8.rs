//! Convolution and matrix product of 8-bit levels with 32-bit sums.
//!
//! Levels (values less their zero point) lie in -255 ..= 255 and are held as `i16`: products of `i16` pairs added to `i32` are one
//! instruction on all common processors. Integer sums do not depend on the order, so that results are the same bits whatever
//! the number of threads.

use super::pairs::{self, TILE};
use cnn_core::ops::conv::ConvGeometry;
use cnn_core::simd::{Isa, Simd, SimdOp};
use rayon::prelude::*;
use std::borrow::Cow;

/// Outputs of a task.
const OUTPUTS: usize = 32;
/// Rows of a linear layer are filled with zeros to a multiple of this: whole vectors, no remainder.
const VECTOR: usize = 16;

/// Rows of `terms` levels, each filled with zeros to a multiple; returns their new length too.
fn padded(rows: &[i16], terms: usize, multiple: usize) -> (Cow<'_, [i16]>, usize) {
    let padded = terms.next_multiple_of(multiple);
    if padded == terms {
        return (Cow::Borrowed(rows), terms);
    }
    let mut out = vec![0i16; rows.len() / terms.max(1) * padded];
    for (out, row) in out.chunks_exact_mut(padded).zip(rows.chunks_exact(terms)) {
        out[..terms].copy_from_slice(row);
    }
    (Cow::Owned(out), padded)
}

/// `sums[i][j] = w_i . x_j` for all rows of `w` and of `x`, of `terms` levels each; the caller knows that the sums fit 32 bits.
struct Products<'a> {
    w: &'a [i16],
    x: &'a [i16],
    terms: usize,
    sums: &'a mut [i32],
}

impl SimdOp for Products<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, _isa: S) {
        products(self.w, self.x, self.terms, self.sums);
    }
}

/// Two by two, so that each value loaded is used twice.
#[inline(always)]
fn products(w: &[i16], x: &[i16], terms: usize, sums: &mut [i32]) {
    let columns = x.len() / terms;
    for (w, sums) in w.chunks(2 * terms).zip(sums.chunks_mut(2 * columns)) {
        let (w0, w1) = w.split_at(terms);
        // of a last single row, both are the same
        let w1 = if w1.is_empty() { w0 } else { w1 };
        for (j, x) in x.chunks(2 * terms).enumerate() {
            let (x0, x1) = x.split_at(terms);
            let found = two_by_two([w0, w1], [x0, if x1.is_empty() { x0 } else { x1 }]);
            for (row, found) in sums.chunks_exact_mut(columns).zip(found) {
                row[2 * j..].iter_mut().zip(found).for_each(|(sum, found)| *sum = found);
            }
        }
    }
}

#[inline(always)]
fn two_by_two(w: [&[i16]; 2], x: [&[i16]; 2]) -> [[i32; 2]; 2] {
    let [mut a, mut b, mut c, mut d] = [0i32; 4];
    for (((&w0, &w1), &x0), &x1) in w[0].iter().zip(w[1]).zip(x[0]).zip(x[1]) {
        a += i32::from(w0) * i32::from(x0);
        b += i32::from(w0) * i32::from(x1);
        c += i32::from(w1) * i32::from(x0);
        d += i32::from(w1) * i32::from(x1);
    }
    [[a, b], [c, d]]
}

/// `y = finish(channel, sum)` of a linear layer. `x`: `n` rows, `w`: one row an output, both of `terms` levels; `y`: `n` rows of
/// as many values as `w` has rows.
pub fn linear(x: &[i16], w: &[i16], terms: usize, y: &mut [f32], finish: impl Fn(usize, i32) -> f32 + Sync) {
    if w.is_empty() || x.is_empty() {
        return;
    }
    let (outputs, n) = (w.len() / terms, x.len() / terms);
    let (x, _) = padded(x, terms, VECTOR);
    let (w, terms) = padded(w, terms, VECTOR);
    let results: Vec<Vec<i32>> = w
        .par_chunks(OUTPUTS * terms)
        .map(|w| {
            let mut sums = vec![0; w.len() / terms * n];
            Isa::active().run(Products { w, x: &x, terms, sums: &mut sums });
            sums
        })
        .collect();
    for (row, y) in y.chunks_exact_mut(outputs).enumerate() {
        let sums = results.iter().flat_map(|sums| sums.chunks_exact(n));
        y.iter_mut().zip(sums).enumerate().for_each(|(o, (y, sums))| *y = finish(o, sums[row]));
    }
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
    let (w, row) = padded(w, terms, 2);
    let tiles = pixels.div_ceil(TILE);
    let tasks = g.n * g.groups * tiles;
    // each task: one image, one group, a tile of pixels; its sums are filter by filter
    let results: Vec<Vec<i32>> = (0..tasks)
        .into_par_iter()
        .map(|task| {
            let (image, group, tile) = (task / tiles / g.groups, task / tiles % g.groups, task % tiles);
            let (first, last) = (tile * TILE, pixels.min((tile + 1) * TILE));
            let x = &x[(image * g.c + group * channels) * g.h * g.w..][..channels * g.h * g.w];
            let windows = gather(g, x, row, first, last);
            let mut sums = vec![0; filters * TILE];
            pairs::products(&w[group * filters * row..][..filters * row], row, &windows, &mut sums);
            sums
        })
        .collect();
    y.par_chunks_mut(pixels).enumerate().for_each(|(plane, y)| {
        let (image, filter) = (plane / g.m, plane % g.m);
        let (group, row) = (filter / filters, filter % filters);
        for (tile, y) in y.chunks_mut(TILE).enumerate() {
            let result = &results[(image * g.groups + group) * tiles + tile];
            let sums = &result[row * TILE..][..y.len()];
            y.iter_mut().zip(sums).for_each(|(y, &sum)| *y = finish(filter, sum));
        }
    });
}

/// The windows that the output pixels `first .. last` read, as `[pair of terms][pixel of a tile][2]`; the terms are
/// `channels x kh x kw`, filled up with zeros to `row`.
fn gather(g: &ConvGeometry, x: &[i16], row: usize, first: usize, last: usize) -> Vec<i16> {
    let [kh, kw] = g.kernel;
    let mut windows = vec![0i16; row * TILE];
    for (c, plane) in x.chunks_exact(g.h * g.w).enumerate() {
        for i in 0..kh {
            for j in 0..kw {
                let term = (c * kh + i) * kw + j;
                let out = &mut windows[term / 2 * 2 * TILE..][..2 * TILE];
                place(g, plane, [i, j], first, last, &mut out[term % 2..]);
            }
        }
    }
    windows
}

/// Writes one term of the pixels `first .. last` to every second place of `out`.
fn place(g: &ConvGeometry, plane: &[i16], [i, j]: [usize; 2], first: usize, last: usize, out: &mut [i16]) {
    let out_w = g.out_w();
    let mut pixel = first;
    while pixel < last {
        // the pixels of one output row
        let (oy, ox) = (pixel / out_w, pixel % out_w);
        let count = (out_w - ox).min(last - pixel);
        let to = out[2 * (pixel - first)..].iter_mut().step_by(2).take(count);
        let y = (oy * g.stride[0] + i * g.dilation[0]).checked_sub(g.pad[0]).filter(|&y| y < g.h);
        if let Some(line) = y.map(|y| &plane[y * g.w..][..g.w]) {
            let at = ox * g.stride[1] + j * g.dilation[1];
            match at.checked_sub(g.pad[1]).and_then(|at| line.get(at..at + count)) {
                Some(run) if g.stride[1] == 1 => to.zip(run).for_each(|(to, &v)| *to = v),
                _ => {
                    for (step, to) in to.enumerate() {
                        let x = (at + step * g.stride[1]).checked_sub(g.pad[1]);
                        *to = x.and_then(|x| line.get(x)).copied().unwrap_or(0);
                    }
                }
            }
        }
        pixel += count;
    }
}
