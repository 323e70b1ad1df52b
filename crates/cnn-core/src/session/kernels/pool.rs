//! Maxima and means of windows.

use super::{load, pool_codes, store};
use crate::Result;
use crate::ops::pool::PoolGeometry;
use crate::session::kernel::{Inputs, Kernel, Part, Target};
use crate::session::lowering::{Epilogue, Layout, Lowered, Lowering};
use crate::simd::{Isa, Simd, SimdOp};
use std::ops::Range;

/// Values that a part reads.
const PART: usize = 1 << 16;

/// Neighbouring maxima that are taken together.
const STRIP: usize = 4;

#[derive(Debug)]
struct Pool {
    isa: Isa,
    mean: bool,
    input: [usize; 2],
    /// For each output row its input rows, likewise columns.
    windows: [Vec<Axis>; 2],
    /// Every window is the whole image: its pixels are one run.
    global: bool,
    parts: Vec<Part>,
    epilogue: Epilogue,
}

/// The inputs of an output position on an axis, and how many count for the mean.
#[derive(Debug, Clone)]
pub(super) struct Axis {
    pub range: Range<usize>,
    count: f32,
}

/// The largest value of each window, NaN if there is one. Of codes, the largest code.
pub(crate) fn lower_max(at: &Lowering<'_>, g: &PoolGeometry) -> Lowered {
    if at.levels.is_some() && at.inputs.first().is_some_and(|e| e.layout == Layout::Codes) {
        return pool_codes::lower(at, [g.h, g.w], windows(g, false));
    }
    lower(at, [g.h, g.w], windows(g, false), false)
}

/// The mean of each window; `count_include_pad` as in [`crate::ops::avg_pool`].
pub(crate) fn lower_avg(at: &Lowering<'_>, g: &PoolGeometry, count_include_pad: bool) -> Lowered {
    lower(at, [g.h, g.w], windows(g, count_include_pad), true)
}

/// The mean of each bin `floor(i h / size) .. ceil((i + 1) h / size)` of a grid. Size 1 is the global mean.
pub(crate) fn lower_adaptive(at: &Lowering<'_>, input: [usize; 2], size: [usize; 2]) -> Lowered {
    let bins = |axis: usize| {
        let bin = |i: usize| i * input[axis] / size[axis]..((i + 1) * input[axis]).div_ceil(size[axis]);
        (0..size[axis]).map(|i| Axis { count: bin(i).len() as f32, range: bin(i) }).collect()
    };
    lower(at, input, [bins(0), bins(1)], true)
}

fn windows(g: &PoolGeometry, count_include_pad: bool) -> [Vec<Axis>; 2] {
    let (size, out) = ([g.h, g.w], g.output_size());
    [0, 1].map(|axis| {
        let (size, before, after) = (size[axis], g.pad[axis], g.pad[axis + 2]);
        let window = |i: usize| {
            let (start, end) = (i * g.stride[axis], i * g.stride[axis] + g.kernel[axis]);
            let range = start.saturating_sub(before)..(end - before.min(end)).min(size);
            let padded = end.min(before + size + after) - start;
            let count = if count_include_pad { padded } else { range.len() };
            Axis { range, count: count as f32 }
        };
        (0..out[axis]).map(window).collect()
    })
}

fn lower(at: &Lowering<'_>, input: [usize; 2], windows: [Vec<Axis>; 2], mean: bool) -> Lowered {
    let largest = |axis: &Vec<Axis>| axis.iter().map(|a| a.range.len()).max().unwrap_or(1);
    let channels = at.output.get(1).copied().unwrap_or(1);
    let each = largest(&windows[0]) * largest(&windows[1]);
    let whole = |axis: usize| windows[axis].iter().all(|a| a.range == (0..input[axis]));
    let global = mean && whole(0) && whole(1);
    let mut parts = at.parts(Layout::ChannelsLast, channels * each, PART);
    if channels * each >= 2 * PART {
        // few pixels of many values: cut by channels, at cache lines
        let pieces = (channels * each / PART).min(8);
        let cut = |i: usize| (i * channels / pieces).next_multiple_of(16).min(channels);
        let split = |p: &Part| {
            let pixels = p.pixels.clone();
            (0..pieces).map(move |i| Part { pixels: pixels.clone(), channels: cut(i)..cut(i + 1) })
        };
        parts = parts.iter().flat_map(split).filter(|p| !p.channels.is_empty()).collect();
    }
    let epilogue = at.epilogue.clone();
    Lowered::channels_last(Pool { isa: at.isa, mean, input, windows, global, parts, epilogue })
}

impl Kernel for Pool {
    fn algorithm(&self) -> &'static str {
        if self.mean { "mean" } else { "maximum" }
    }

    fn parts(&self) -> Vec<Part> {
        self.parts.clone()
    }

    fn run(&self, inputs: Inputs<'_>, mut out: Target<'_>, _scratch: &mut [f32]) -> Result<()> {
        let x = inputs.get(0);
        let Part { pixels, channels } = out.part().clone();
        self.isa.run(Windows {
            pool: self,
            pixels: pixels.clone(),
            channels: channels.clone(),
            x: x.as_ptr(),
            x_pitch: x.pitch,
            y: out.as_ptr(),
            y_pitch: out.pitch(),
        });
        if !self.epilogue.is_empty() {
            let residual = self.epilogue.residual.then(|| inputs.get(1));
            for p in pixels {
                self.epilogue.finish(channels.clone(), out.pixel(p), residual.map(|r| r.pixel(p)));
            }
        }
        Ok(())
    }
}

struct Windows<'a> {
    pool: &'a Pool,
    pixels: Range<usize>,
    channels: Range<usize>,
    x: *const f32,
    x_pitch: usize,
    y: *mut f32,
    y_pitch: usize,
}

impl SimdOp for Windows<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        // SAFETY: windows lie inside the image, and nobody else has this part.
        unsafe {
            match self.channels.len() < S::LANES {
                true => self.all::<S, true>(s),
                false => self.all::<S, false>(s),
            }
        }
    }
}

impl Windows<'_> {
    #[inline(always)]
    unsafe fn all<S: Simd, const PARTIAL: bool>(&self, s: S) {
        let pool = self.pool;
        let ([h, w], [rows, columns]) = (pool.input, &pool.windows);
        let (oh, ow) = (rows.len(), columns.len());
        let lanes = S::LANES.min(self.channels.len());
        let mut p = self.pixels.start;
        while p < self.pixels.end {
            if self.is_strip(p) {
                // SAFETY: as above.
                unsafe { self.strip::<S, PARTIAL>(s, p) };
                p += STRIP;
                continue;
            }
            let (image, row, column) = (p / (oh * ow), &rows[p / ow % oh], &columns[p % ow]);
            let (ky, kx) = (row.range.len(), column.range.len());
            let factor = s.splat(1.0 / (row.count * column.count));
            // SAFETY: as above.
            unsafe {
                let first = ((image * h + row.range.start) * w + column.range.start) * self.x_pitch;
                let (x, y) = (self.x.add(first), self.y.add(p * self.y_pitch));
                let mut from = self.channels.start;
                while from < self.channels.end {
                    let at = from.min(self.channels.end - lanes);
                    let x = Rows { x: x.add(at), down: w * self.x_pitch, right: self.x_pitch, lanes };
                    let v = match (pool.mean, ky, kx) {
                        (true, ..) if pool.global => s.mul(factor, x.sum_run::<S, PARTIAL>(s, h * w)),
                        (true, ..) => s.mul(factor, x.sum::<S, PARTIAL>(s, ky, kx)),
                        (false, 2, 2) => x.largest::<S, PARTIAL>(s, 2, 2),
                        (false, 3, 3) => x.largest::<S, PARTIAL>(s, 3, 3),
                        (false, ..) => x.largest::<S, PARTIAL>(s, ky, kx),
                    };
                    store::<S, PARTIAL>(s, y.add(at), lanes, v);
                    from += lanes;
                }
            }
            p += 1;
        }
    }

    /// True if pixels `p .. p + STRIP` are maxima of whole windows of 3x3, two columns apart, in one row.
    #[inline(always)]
    fn is_strip(&self, p: usize) -> bool {
        let [rows, columns] = &self.pool.windows;
        let (row, column) = (&rows[p / columns.len() % rows.len()], p % columns.len());
        let Some([first, .., last]) = columns.get(column..column + STRIP) else { return false };
        let [first, last] = [&first.range, &last.range];
        !self.pool.mean
            && p + STRIP <= self.pixels.end
            && [row.range.len(), first.len(), last.len()] == [3; 3]
            && last.start == first.start + 2 * (STRIP - 1)
    }

    /// Neighbouring windows share a column: its maximum is taken once.
    #[inline(always)]
    unsafe fn strip<S: Simd, const PARTIAL: bool>(&self, s: S, p: usize) {
        let ([h, w], [rows, columns]) = (self.pool.input, &self.pool.windows);
        let (image, row) = (p / (rows.len() * columns.len()), &rows[p / columns.len() % rows.len()]);
        let first =
            ((image * h + row.range.start) * w + columns[p % columns.len()].range.start) * self.x_pitch;
        let lanes = S::LANES.min(self.channels.len());
        let mut from = self.channels.start;
        // SAFETY: as above.
        unsafe {
            let (x, y) = (self.x.add(first), self.y.add(p * self.y_pitch));
            while from < self.channels.end {
                let at = from.min(self.channels.end - lanes);
                let x = Rows { x: x.add(at), down: w * self.x_pitch, right: self.x_pitch, lanes };
                let mut column = [s.splat(0.0); 2 * STRIP + 1];
                for (j, column) in column.iter_mut().enumerate() {
                    *column = s.maximum(x.get::<S, PARTIAL>(s, 0, j), x.get::<S, PARTIAL>(s, 1, j));
                    *column = s.maximum(*column, x.get::<S, PARTIAL>(s, 2, j));
                }
                for i in 0..STRIP {
                    let v = s.maximum(s.maximum(column[2 * i], column[2 * i + 1]), column[2 * i + 2]);
                    store::<S, PARTIAL>(s, y.add(i * self.y_pitch + at), lanes, v);
                }
                from += lanes;
            }
        }
    }
}

/// A window of one vector of channels.
#[derive(Clone, Copy)]
struct Rows {
    x: *const f32,
    down: usize,
    right: usize,
    lanes: usize,
}

impl Rows {
    #[inline(always)]
    unsafe fn get<S: Simd, const PARTIAL: bool>(self, s: S, i: usize, j: usize) -> S::V {
        // SAFETY: the caller stays inside the window.
        unsafe { load::<S, PARTIAL>(s, self.x.add(i * self.down + j * self.right), self.lanes) }
    }

    #[inline(always)]
    unsafe fn largest<S: Simd, const PARTIAL: bool>(self, s: S, ky: usize, kx: usize) -> S::V {
        // SAFETY: inside the window, which holds at least one pixel.
        unsafe {
            let mut largest = self.get::<S, PARTIAL>(s, 0, 0);
            for i in 0..ky {
                for j in usize::from(i == 0)..kx {
                    largest = s.maximum(largest, self.get::<S, PARTIAL>(s, i, j));
                }
            }
            largest
        }
    }

    /// Row sums, summed.
    #[inline(always)]
    unsafe fn sum<S: Simd, const PARTIAL: bool>(self, s: S, ky: usize, kx: usize) -> S::V {
        let mut sum = s.splat(0.0);
        for i in 0..ky {
            // SAFETY: inside the window, which holds at least one pixel.
            unsafe {
                let mut row = self.get::<S, PARTIAL>(s, i, 0);
                for j in 1..kx {
                    row = s.add(row, self.get::<S, PARTIAL>(s, i, j));
                }
                sum = s.add(sum, row);
            }
        }
        sum
    }

    /// The sum of `n` pixels in a row: trees of 16, summed 16 by 16, so that rounding grows with neither.
    #[inline(always)]
    unsafe fn sum_run<S: Simd, const PARTIAL: bool>(self, s: S, n: usize) -> S::V {
        let (mut total, mut some) = (s.splat(0.0), s.splat(0.0));
        let mut i = 0;
        // SAFETY: below n.
        unsafe {
            while i + 16 <= n {
                let tree: [S::V; 8] = std::array::from_fn(|j| {
                    s.add(self.get::<S, PARTIAL>(s, 0, i + j), self.get::<S, PARTIAL>(s, 0, i + 8 + j))
                });
                let four: [S::V; 4] = std::array::from_fn(|j| s.add(tree[j], tree[j + 4]));
                some = s.add(some, s.add(s.add(four[0], four[2]), s.add(four[1], four[3])));
                i += 16;
                if i % 256 == 0 {
                    (total, some) = (s.add(total, some), s.splat(0.0));
                }
            }
            let mut rest = s.splat(0.0);
            while i < n {
                rest = s.add(rest, self.get::<S, PARTIAL>(s, 0, i));
                i += 1;
            }
            s.add(total, s.add(some, rest))
        }
    }
}
