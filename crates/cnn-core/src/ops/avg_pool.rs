//! Average pooling, by PyTorch's divisor rule.
//!
//! The divisor of a window is (rows counted) * (columns counted). With `count_include_pad` it counts
//! the input and the padding, but not what a window of ceil mode covers beyond the padding;
//! otherwise only the input.
//!
//! As in max pooling an output row takes two steps: a sum down the columns, then across.

use super::multiversion::multiversion;
use super::parallel::for_each_task;
use super::pool::{PoolGeometry, zip_strided};

/// `y[n, c, oh, ow] = average` of each window of `x: [n, c, h, w]`.
pub fn avg_pool(g: PoolGeometry, count_include_pad: bool, x: &[f32], y: &mut [f32]) {
    let (hw, ohw) = g.check(x.len(), y.len());
    let divisors = Divisors::new(g, count_include_pad);
    for_each_task(y, ohw, hw, |first, y| {
        avg_planes(g, &divisors, &x[first * hw..][..y.len() / ohw * hw], y);
    });
}

/// Writes `dx: [n, c, h, w]` from `dy: [n, c, oh, ow]`: each input gets `dy / divisor` from every
/// window that holds it.
pub fn avg_pool_backward(g: PoolGeometry, count_include_pad: bool, dy: &[f32], dx: &mut [f32]) {
    let (hw, ohw) = g.check(dx.len(), dy.len());
    let divisors = Divisors::new(g, count_include_pad);
    for_each_task(dx, hw, hw, |first, dx| {
        spread_planes(g, &divisors, &dy[first * ohw..][..dx.len() / hw * ohw], dx);
    });
}

/// Rows counted by each output row and columns counted by each output column.
struct Divisors {
    rows: Vec<f32>,
    columns: Vec<f32>,
}

impl Divisors {
    fn new(g: PoolGeometry, count_include_pad: bool) -> Self {
        let [oh, ow] = g.output_size();
        let [kh, kw] = g.kernel;
        let [sh, sw] = g.stride;
        let [top, left, bottom, right] = g.pad;
        // Coordinates start at the leading padding; the input is before..before + size.
        let count = |start: usize, kernel: usize, before: usize, size: usize, after: usize| {
            let (lo, hi) =
                if count_include_pad { (0, before + size + after) } else { (before, before + size) };
            ((start + kernel).min(hi) - start.max(lo)) as f32
        };
        Self {
            rows: (0..oh).map(|oy| count(oy * sh, kh, top, g.h, bottom)).collect(),
            columns: (0..ow).map(|ox| count(ox * sw, kw, left, g.w, right)).collect(),
        }
    }
}

multiversion! {
    fn avg_planes(g: PoolGeometry, divisors: &Divisors, x: &[f32], y: &mut [f32]) {
        let [oh, ow] = g.output_size();
        let mut column = vec![0.0; g.padded_width()];
        for (x, y) in x.chunks_exact(g.h * g.w).zip(y.chunks_exact_mut(oh * ow)) {
            for ((oy, y), &row_count) in y.chunks_exact_mut(ow).enumerate().zip(&divisors.rows) {
                column_sum(g, x, oy, &mut column[g.pad[1]..][..g.w]);
                row_sum(g, &column, y);
                for (y, &column_count) in y.iter_mut().zip(&divisors.columns) {
                    *y /= row_count * column_count;
                }
            }
        }
    }
}

/// Sum of each input column over the rows of output row `oy`'s window.
#[inline(always)]
fn column_sum(g: PoolGeometry, x: &[f32], oy: usize, column: &mut [f32]) {
    let (rows, first) = g.window_rows(oy);
    let mut rows = x[first * g.w..][..rows.len() * g.w].chunks_exact(g.w);
    if let Some(row) = rows.next() {
        column.copy_from_slice(row);
    }
    for row in rows {
        for (c, &v) in column.iter_mut().zip(row) {
            *c += v;
        }
    }
}

/// Sum of each window of the padded row `column`.
#[inline(always)]
fn row_sum(g: PoolGeometry, column: &[f32], y: &mut [f32]) {
    y.fill(0.0);
    for kx in 0..g.kernel[1] {
        zip_strided(y, &column[kx..], g.stride[1], |sum, v| sum + v);
    }
}

multiversion! {
    fn spread_planes(g: PoolGeometry, divisors: &Divisors, dy: &[f32], dx: &mut [f32]) {
        let [oh, ow] = g.output_size();
        let mut share = vec![0.0f32; ow];
        let mut column = vec![0.0f32; g.padded_width()];
        for (dy, dx) in dy.chunks_exact(oh * ow).zip(dx.chunks_exact_mut(g.h * g.w)) {
            dx.fill(0.0);
            for ((oy, dy), &row_count) in dy.chunks_exact(ow).enumerate().zip(&divisors.rows) {
                let counted = dy.iter().zip(&divisors.columns);
                for (share, (&dy, &column_count)) in share.iter_mut().zip(counted) {
                    *share = dy / (row_count * column_count);
                }
                column.fill(0.0);
                for kx in 0..g.kernel[1] {
                    add_strided(&mut column[kx..], &share, g.stride[1]);
                }
                let (rows, first) = g.window_rows(oy);
                for row in dx[first * g.w..][..rows.len() * g.w].chunks_exact_mut(g.w) {
                    for (dx, &c) in row.iter_mut().zip(&column[g.pad[1]..]) {
                        *dx += c;
                    }
                }
            }
        }
    }
}

/// `row[i * stride] += values[i]`.
#[inline(always)]
fn add_strided(row: &mut [f32], values: &[f32], stride: usize) {
    match stride {
        1 => row.iter_mut().zip(values).for_each(|(r, v)| *r += v),
        2 => {
            let pairs = row.as_chunks_mut::<2>().0;
            pairs.iter_mut().zip(values).for_each(|(p, v)| p[0] += v);
        }
        _ => {
            let targets = row.iter_mut().step_by(stride);
            targets.zip(values).for_each(|(r, v)| *r += v);
        }
    }
}
