//! Max pooling. Padding never wins; NaN in a window gives NaN.
//!
//! Each output row takes two steps: the maximum down the columns of the window rows, into one
//! padded row, then the maximum across. Both are straight loops, and a window costs `kh * stride +
//! kw` comparisons instead of `kh * kw`.
//!
//! The position of a maximum is its code `ky * kw + kx` in the window, one byte per output. Among
//! equal values the smallest code wins, as in PyTorch.

use super::multiversion::{multiversion, unmasked};
use super::parallel::{for_each_task, for_each_task2};
use super::pool::{PoolGeometry, zip_strided};

/// `y[n, c, oh, ow] = max` over each window of `x: [n, c, h, w]`.
pub fn max_pool(g: PoolGeometry, x: &[f32], y: &mut [f32]) {
    let (hw, ohw) = g.check(x.len(), y.len());
    for_each_task(y, ohw, hw, |first, y| {
        let x = &x[first * hw..][..y.len() / ohw * hw];
        if tiles_2x2(g) {
            max_2x2(g.w, x, y);
        } else {
            max_planes(g, x, y);
        }
    });
}

/// [`max_pool`] that also saves the window position of each maximum in `argmax: [n, c, oh, ow]`.
/// The window area must be at most 256.
pub fn max_pool_with_argmax(g: PoolGeometry, x: &[f32], y: &mut [f32], argmax: &mut [u8]) {
    let (hw, ohw) = g.check(x.len(), y.len());
    assert_eq!(y.len(), argmax.len());
    assert!(has_compact_argmax(g), "window area above 256");
    for_each_task2((y, ohw), (argmax, ohw), hw, |first, y, argmax| {
        let x = &x[first * hw..][..y.len() / ohw * hw];
        if tiles_2x2(g) {
            argmax_2x2(g.w, x, y, argmax);
        } else {
            argmax_planes(g, x, y, argmax);
        }
    });
}

/// Whether a window position fits the byte that [`max_pool_with_argmax`] saves.
pub fn has_compact_argmax(g: PoolGeometry) -> bool {
    g.kernel[0] * g.kernel[1] <= 256
}

/// Writes `dx: [n, c, h, w]`: each `dy: [n, c, oh, ow]` goes to the input that was the maximum.
pub fn max_pool_backward(g: PoolGeometry, argmax: &[u8], dy: &[f32], dx: &mut [f32]) {
    let (hw, ohw) = g.check(dx.len(), dy.len());
    assert_eq!(dy.len(), argmax.len());
    for_each_task(dx, hw, hw, |first, dx| {
        let run = first * ohw..(first + dx.len() / hw) * ohw;
        scatter_planes(g, &argmax[run.clone()], &dy[run], dx);
    });
}

/// [`max_pool_backward`] that finds the maxima again from the input `x`: no saved positions, any
/// window area.
pub fn max_pool_backward_from_input(g: PoolGeometry, x: &[f32], dy: &[f32], dx: &mut [f32]) {
    let (hw, ohw) = g.check(dx.len(), dy.len());
    assert_eq!(x.len(), dx.len());
    for_each_task(dx, hw, 2 * hw, |first, dx| {
        let planes = dx.len() / hw;
        let dy = &dy[first * ohw..][..planes * ohw];
        recompute_and_scatter_planes(g, &x[first * hw..][..planes * hw], dy, dx);
    });
}

/// The larger value; NaN if either is.
#[inline(always)]
fn larger(a: f32, b: f32) -> f32 {
    if (b > a) | b.is_nan() { b } else { a }
}

multiversion! {
    fn max_planes(g: PoolGeometry, x: &[f32], y: &mut [f32]) {
        let [oh, ow] = g.output_size();
        let mut column = vec![f32::NEG_INFINITY; g.padded_width()];
        for (x, y) in x.chunks_exact(g.h * g.w).zip(y.chunks_exact_mut(oh * ow)) {
            for (oy, y) in y.chunks_exact_mut(ow).enumerate() {
                column_max(g, x, oy, &mut column[g.pad[1]..][..g.w]);
                row_max(g, &column, y);
            }
        }
    }
}

/// Maximum of each input column over the rows of output row `oy`'s window.
#[inline(always)]
fn column_max(g: PoolGeometry, x: &[f32], oy: usize, column: &mut [f32]) {
    let (rows, first) = g.window_rows(oy);
    let mut rows = x[first * g.w..][..rows.len() * g.w].chunks_exact(g.w);
    if let Some(row) = rows.next() {
        column.copy_from_slice(row);
    }
    for row in rows {
        for (c, &v) in column.iter_mut().zip(row) {
            *c = unmasked(larger(*c, v));
        }
    }
}

/// Maximum of each window of the padded row `column`.
#[inline(always)]
fn row_max(g: PoolGeometry, column: &[f32], y: &mut [f32]) {
    let pairs = column.as_chunks::<2>().0;
    match (g.kernel[1], g.stride[1]) {
        (2, 2) => {
            for (y, p) in y.iter_mut().zip(pairs) {
                *y = larger(p[0], p[1]);
            }
        }
        (3, 2) => {
            for ((y, p), q) in y.iter_mut().zip(pairs).zip(&column.as_chunks::<2>().0[1..]) {
                *y = larger(larger(p[0], p[1]), q[0]);
            }
        }
        (kw, stride) => {
            y.fill(f32::NEG_INFINITY);
            for kx in 0..kw {
                zip_strided(y, &column[kx..], stride, larger);
            }
        }
    }
}

/// A value and the code of its window position. The code is as wide as the value so that loops over
/// both vectorize.
type Coded = (f32, i32);

/// The code of padding: larger than any position, so that padding loses even against -inf.
const PADDING: i32 = 1 << 30;

/// The larger value, then the smaller code; NaN beats numbers.
#[inline(always)]
fn better(a: Coded, b: Coded) -> Coded {
    let take_b = (b.0 > a.0) | b.0.is_nan() | ((b.0 == a.0) & (b.1 < a.1));
    (if take_b { b.0 } else { a.0 }, if take_b { b.1 } else { a.1 })
}

/// The maximum of each padded input column and its code; working rows of [`search_row`].
struct CodedColumns {
    value: Vec<f32>,
    code: Vec<i32>,
}

impl CodedColumns {
    fn new(g: PoolGeometry) -> Self {
        let width = g.padded_width();
        Self { value: vec![f32::NEG_INFINITY; width], code: vec![PADDING; width] }
    }
}

/// Fills `y` and `code` with the maxima of output row `oy` of the plane `x`.
#[inline(always)]
fn search_row(
    g: PoolGeometry,
    x: &[f32],
    oy: usize,
    columns: &mut CodedColumns,
    y: &mut [f32],
    code: &mut [i32],
) {
    let inside = g.pad[1]..g.pad[1] + g.w;
    search_down(g, x, oy, &mut columns.value[inside.clone()], &mut columns.code[inside]);
    search_across(g, &columns.value, &columns.code, y, code);
}

#[inline(always)]
fn search_down(g: PoolGeometry, x: &[f32], oy: usize, value: &mut [f32], code: &mut [i32]) {
    let (rows, first) = g.window_rows(oy);
    let kw = g.kernel[1] as i32;
    let mut codes = rows.clone().map(|ky| ky as i32 * kw);
    let mut rows = x[first * g.w..][..rows.len() * g.w].chunks_exact(g.w);
    if let (Some(row), Some(row_code)) = (rows.next(), codes.next()) {
        value.copy_from_slice(row);
        code.fill(row_code);
    }
    for (row, row_code) in rows.zip(codes) {
        for ((value, code), &v) in value.iter_mut().zip(code.iter_mut()).zip(row) {
            let take = (v > *value) | v.is_nan();
            *value = if take { v } else { *value };
            *code = if take { row_code } else { *code };
        }
    }
}

#[inline(always)]
fn search_across(g: PoolGeometry, value: &[f32], value_code: &[i32], y: &mut [f32], code: &mut [i32]) {
    if (g.kernel[1], g.stride[1]) == (3, 2) {
        return search_across_3_stride_2(value, value_code, y, code);
    }
    let stride = g.stride[1];
    y.fill(f32::NEG_INFINITY);
    code.fill(PADDING);
    for kx in 0..g.kernel[1] {
        let (value, value_code) = (&value[kx..], &value_code[kx..]);
        let update = |y: &mut f32, code: &mut i32, v: f32, c: i32| {
            (*y, *code) = better((*y, *code), (v, c + kx as i32));
        };
        let out = y.iter_mut().zip(code.iter_mut());
        match stride {
            1 => {
                let columns = value.iter().zip(value_code);
                out.zip(columns).for_each(|((y, code), (v, c))| update(y, code, *v, *c));
            }
            2 => {
                let columns = value.as_chunks::<2>().0.iter().zip(value_code.as_chunks::<2>().0);
                out.zip(columns).for_each(|((y, code), (v, c))| update(y, code, v[0], c[0]));
            }
            _ => {
                let columns = value.iter().zip(value_code).step_by(stride);
                out.zip(columns).for_each(|((y, code), (v, c))| update(y, code, *v, *c));
            }
        }
    }
}

#[inline(always)]
fn search_across_3_stride_2(value: &[f32], value_code: &[i32], y: &mut [f32], code: &mut [i32]) {
    let (values, codes) = (value.as_chunks::<2>().0, value_code.as_chunks::<2>().0);
    let left = values.iter().zip(codes);
    let right = values[1..].iter().zip(&codes[1..]);
    for (((y, code), (v, c)), (w, d)) in y.iter_mut().zip(code).zip(left).zip(right) {
        let best = better((v[0], c[0]), (v[1], c[1] + 1));
        (*y, *code) = better(best, (w[0], d[0] + 2));
    }
}

/// Whether the windows tile an even plane in 2x2 blocks, the common case with its own loop.
fn tiles_2x2(g: PoolGeometry) -> bool {
    g.kernel == [2; 2]
        && g.stride == [2; 2]
        && g.pad == [0; 4]
        && g.h.is_multiple_of(2)
        && g.w.is_multiple_of(2)
}

multiversion! {
    /// 2x2 tiles of rows of width `w`; the planes follow each other, so they are one tall plane.
    fn max_2x2(w: usize, x: &[f32], y: &mut [f32]) {
        for (rows, y) in x.chunks_exact(2 * w).zip(y.chunks_exact_mut(w / 2)) {
            let (top, bottom) = rows.split_at(w);
            let tiles = top.as_chunks::<2>().0.iter().zip(bottom.as_chunks::<2>().0);
            for (y, (t, b)) in y.iter_mut().zip(tiles) {
                *y = larger(larger(t[0], t[1]), larger(b[0], b[1]));
            }
        }
    }
}

multiversion! {
    /// As [`max_2x2`], with the codes 0, 1, 2, 3 of the maxima.
    fn argmax_2x2(w: usize, x: &[f32], y: &mut [f32], argmax: &mut [u8]) {
        let mut code = vec![0i32; w / 2];
        let out = y.chunks_exact_mut(w / 2).zip(argmax.chunks_exact_mut(w / 2));
        for (rows, (y, argmax)) in x.chunks_exact(2 * w).zip(out) {
            let (top, bottom) = rows.split_at(w);
            let tiles = top.as_chunks::<2>().0.iter().zip(bottom.as_chunks::<2>().0);
            for ((y, code), (t, b)) in y.iter_mut().zip(&mut code).zip(tiles) {
                // In code order, so on equal values the earlier one stays.
                let top = later_if_larger((t[0], 0), (t[1], 1));
                let bottom = later_if_larger((b[0], 2), (b[1], 3));
                (*y, *code) = later_if_larger(top, bottom);
            }
            for (argmax, &code) in argmax.iter_mut().zip(&code) {
                *argmax = code as u8;
            }
        }
    }
}

/// [`better`] where `a` is known to have the smaller code.
#[inline(always)]
fn later_if_larger(a: Coded, b: Coded) -> Coded {
    let take_b = (b.0 > a.0) | b.0.is_nan();
    (if take_b { b.0 } else { a.0 }, if take_b { b.1 } else { a.1 })
}

multiversion! {
    fn argmax_planes(g: PoolGeometry, x: &[f32], y: &mut [f32], argmax: &mut [u8]) {
        let [oh, ow] = g.output_size();
        let mut columns = CodedColumns::new(g);
        let mut code = vec![0; ow];
        let out = y.chunks_exact_mut(oh * ow).zip(argmax.chunks_exact_mut(oh * ow));
        for (x, (y, argmax)) in x.chunks_exact(g.h * g.w).zip(out) {
            let rows = y.chunks_exact_mut(ow).zip(argmax.chunks_exact_mut(ow));
            for (oy, (y, argmax)) in rows.enumerate() {
                search_row(g, x, oy, &mut columns, y, &mut code);
                for (argmax, &code) in argmax.iter_mut().zip(&code) {
                    *argmax = code as u8;
                }
            }
        }
    }
}

multiversion! {
    fn scatter_planes(g: PoolGeometry, argmax: &[u8], dy: &[f32], dx: &mut [f32]) {
        let [oh, ow] = g.output_size();
        let offsets = code_offsets(g);
        let out = argmax.chunks_exact(oh * ow).zip(dy.chunks_exact(oh * ow));
        for ((argmax, dy), dx) in out.zip(dx.chunks_exact_mut(g.h * g.w)) {
            dx.fill(0.0);
            let rows = argmax.chunks_exact(ow).zip(dy.chunks_exact(ow));
            for (oy, (argmax, dy)) in rows.enumerate() {
                let codes = argmax.iter().map(|&code| usize::from(code));
                scatter_row(g, &offsets, oy, codes, dy, dx);
            }
        }
    }
}

multiversion! {
    fn recompute_and_scatter_planes(g: PoolGeometry, x: &[f32], dy: &[f32], dx: &mut [f32]) {
        let [oh, ow] = g.output_size();
        let offsets = code_offsets(g);
        let mut columns = CodedColumns::new(g);
        let (mut y, mut code) = (vec![0.0; ow], vec![0; ow]);
        let planes = x.chunks_exact(g.h * g.w).zip(dy.chunks_exact(oh * ow));
        for ((x, dy), dx) in planes.zip(dx.chunks_exact_mut(g.h * g.w)) {
            dx.fill(0.0);
            for (oy, dy) in dy.chunks_exact(ow).enumerate() {
                search_row(g, x, oy, &mut columns, &mut y, &mut code);
                let codes = code.iter().map(|&code| code as usize);
                scatter_row(g, &offsets, oy, codes, dy, dx);
            }
        }
    }
}

/// Offset `ky * w + kx` in the input plane of each position code.
fn code_offsets(g: PoolGeometry) -> Vec<usize> {
    let [kh, kw] = g.kernel;
    (0..kh * kw).map(|code| code / kw * g.w + code % kw).collect()
}

/// Adds the gradient of output row `oy` to `dx`.
#[inline(always)]
fn scatter_row(
    g: PoolGeometry,
    offsets: &[usize],
    oy: usize,
    codes: impl Iterator<Item = usize>,
    dy: &[f32],
    dx: &mut [f32],
) {
    let [top, left, ..] = g.pad;
    for (ox, (code, &dy)) in codes.zip(dy).enumerate() {
        // The window may start in the padding, so subtract that last.
        let window = oy * g.stride[0] * g.w + ox * g.stride[1];
        dx[window + offsets[code] - (top * g.w + left)] += dy;
    }
}
