//! Depthwise convolution: `y[p][c] = f(sum over taps of w[tap][c] x[p step + tap][c] + b[c] + residual[p][c])`.
//!
//! A tile is some neighbouring pixels of an output row by a vector of channels. For each row of the kernel the weights are
//! loaded once, and each input serves all pixels of the tile that see it, so that multiplications and not loads are the limit.
//! With many registers a tile of the usual 3x3 kernel is two rows high, so that inputs come from the cache twice, not three times.
//! Rows of the kernel outside the image are skipped; columns at the border, where taps are missing, are tiles of one pixel.

use super::{Ending, load, store};
use crate::Result;
use crate::ops::conv::ConvGeometry;
use crate::session::floats::Floats;
use crate::session::kernel::{Inputs, Kernel, Part, Target};
use crate::session::lowering::{Lowered, Lowering};
use crate::simd::{Isa, Simd, SimdOp};
use std::ops::Range;
use std::sync::Arc;

/// Multiply-adds of a part, about 10 us, and the most parts.
const PART: usize = 1 << 19;
const PARTS: usize = 16;

/// Instruction sets with such vectors have registers for tiles of two rows.
const PAIR_LANES: usize = 16;

#[derive(Debug)]
struct Packed {
    /// `[vector][tap][lane]`: those of a vector of channels follow each other, wherever the channels' count would put them in the
    /// cache. The last vector overlaps the one before it.
    weights: Floats,
    /// `[channel]`
    shift: Floats,
}

#[derive(Debug)]
struct Depthwise {
    isa: Isa,
    g: ConvGeometry,
    packed: Arc<Packed>,
    residual: bool,
    end: Ending,
    parts: Vec<Part>,
}

/// The kernel for a convolution with one filter and one input channel in each group, `weight: [c, 1, kh, kw]`.
pub(crate) fn lower(at: &Lowering<'_>, g: &ConvGeometry, weight: &[f32], bias: Option<&[f32]>) -> Lowered {
    let packed = at.shared("depthwise", || {
        let (c, taps) = (g.c, g.kernel[0] * g.kernel[1]);
        let (folded, bias) = at.epilogue.fold(c, weight, bias);
        let lanes = at.isa.lanes().min(c);
        let (mut weights, mut shift) = (Floats::zeros(c.div_ceil(lanes) * lanes * taps), Floats::zeros(c));
        shift.copy_from_slice(&bias);
        for (i, w) in weights.iter_mut().enumerate() {
            let (vector, tap, lane) = (i / lanes / taps, i / lanes % taps, i % lanes);
            *w = folded[((vector * lanes).min(c - lanes) + lane) * taps + tap];
        }
        Packed { weights, shift }
    });
    let (rows, columns) = (g.n * g.out_h(), g.out_w());
    let macs = rows * columns * g.c * g.kernel[0] * g.kernel[1];
    let pieces = (macs / PART).clamp(1, PARTS).min(rows);
    let cut = |i: usize| i * rows / pieces * columns;
    let parts = (0..pieces).map(|i| Part { pixels: cut(i)..cut(i + 1), channels: 0..g.c }).collect();
    let (residual, end) = (at.epilogue.residual, Ending::new(at.epilogue.activation));
    Lowered::channels_last(Depthwise { isa: at.isa, g: *g, packed, residual, end, parts })
}

impl Kernel for Depthwise {
    fn algorithm(&self) -> &'static str {
        "depthwise"
    }

    fn parts(&self) -> Vec<Part> {
        self.parts.clone()
    }

    fn weight_bytes(&self) -> usize {
        (self.packed.weights.len() + self.packed.shift.len()) * std::mem::size_of::<f32>()
    }

    fn run(&self, inputs: Inputs<'_>, mut out: Target<'_>, _scratch: &mut [f32]) -> Result<()> {
        let (x, residual) = (inputs.get(0), self.residual.then(|| inputs.get(1)));
        let columns = self.g.out_w();
        let pixels = out.part().pixels.clone();
        let (mut row, end) = (pixels.start / columns, pixels.end / columns);
        let ConvGeometry { c, kernel, stride, dilation, .. } = self.g;
        let usual = (kernel, stride, dilation) == ([3, 3], [1, 1], [1, 1]);
        let pairs = usual && self.isa.lanes() >= PAIR_LANES && c >= self.isa.lanes();
        while row < end {
            let two = pairs && row + 1 < end && row % self.g.out_h() + 1 < self.g.out_h();
            let next = row + 1 + usize::from(two);
            self.isa.run(Row {
                g: &self.g,
                row,
                two,
                x: x.as_ptr(),
                x_pitch: x.pitch,
                weights: self.packed.weights.as_ptr(),
                shift: self.packed.shift.as_ptr(),
                y: out.as_ptr(),
                y_pitch: out.pitch(),
                residual: residual.map(|r| (r.as_ptr(), r.pitch)),
                end: self.end,
            });
            self.end.finish(&mut out, row * columns..next * columns);
            row = next;
        }
        Ok(())
    }
}

/// One or two rows of output pixels.
#[derive(Clone, Copy)]
struct Row<'a> {
    g: &'a ConvGeometry,
    /// Counted over all images.
    row: usize,
    /// The next row too.
    two: bool,
    x: *const f32,
    x_pitch: usize,
    weights: *const f32,
    shift: *const f32,
    y: *mut f32,
    y_pitch: usize,
    residual: Option<(*const f32, usize)>,
    end: Ending,
}

/// The taps of a kernel axis that are inside `size` for an output position, and the input position of the first of them.
#[inline(always)]
fn taps(
    position: usize,
    stride: usize,
    pad: usize,
    kernel: usize,
    dilation: usize,
    size: usize,
) -> (Range<usize>, usize) {
    let start = position * stride;
    let first = pad.saturating_sub(start).div_ceil(dilation).min(kernel);
    let end = (size + pad).saturating_sub(start).div_ceil(dilation).clamp(first, kernel);
    (first..end, (start + first * dilation).saturating_sub(pad))
}

impl SimdOp for Row<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let g = self.g;
        match (g.kernel[1], g.stride[1], g.dilation[1]) {
            _ if g.c < S::LANES => s.vectorize(RowOf::<0, 0, true>(self)),
            // SAFETY: the pointers are to images of this geometry, and nobody else has these rows.
            _ if self.two => unsafe { self.pairs(s) },
            (3, 1, 1) => s.vectorize(RowOf::<3, 1, false>(self)),
            (3, 2, 1) => s.vectorize(RowOf::<3, 2, false>(self)),
            (5, 1, 1) => s.vectorize(RowOf::<5, 1, false>(self)),
            (5, 2, 1) => s.vectorize(RowOf::<5, 2, false>(self)),
            (7, 1, 1) => s.vectorize(RowOf::<7, 1, false>(self)),
            (7, 2, 1) => s.vectorize(RowOf::<7, 2, false>(self)),
            _ => s.vectorize(RowOf::<0, 0, false>(self)),
        }
    }
}

/// A row for a kernel of a width and a stride, 0 if not known: functions of their own, which take compilers less time than one for all.
struct RowOf<'a, const KW: usize, const SW: usize, const PARTIAL: bool>(Row<'a>);

impl<const KW: usize, const SW: usize, const PARTIAL: bool> SimdOp for RowOf<'_, KW, SW, PARTIAL> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        // SAFETY: the pointers are to images of this geometry, and nobody else has this row.
        unsafe { self.0.tiles::<S, KW, SW, PARTIAL>(s) }
    }
}

impl Row<'_> {
    /// Cuts the row into tiles.
    #[inline(always)]
    unsafe fn tiles<S: Simd, const KW: usize, const SW: usize, const PARTIAL: bool>(self, s: S) {
        let g = self.g;
        let (columns, left) = (g.out_w(), g.pad[1]);
        let (kw, sw, dw) = (g.kernel[1], g.stride[1], g.dilation[1]);
        // pixels that see all columns of the kernel
        let reach = (kw - 1) * dw;
        let first = left.div_ceil(sw).min(columns);
        let end = (g.w + left).checked_sub(reach + 1).map_or(0, |free| free / sw + 1).clamp(first, columns);
        // SAFETY: tiles inside the row; those of several pixels see whole kernel rows.
        unsafe {
            for column in (0..first).chain(end..columns) {
                let (kx, ix) = taps(column, sw, left, kw, dw, g.w);
                self.tile::<S, 0, 0, 1, PARTIAL>(s, column, kx, ix);
            }
            let mut column = first;
            let width = end - first;
            let size = tile_width(width);
            while column < end {
                // the last tile overlaps the one before it
                let at = if width >= size { column.min(end - size) } else { column };
                let ix = at * sw - left;
                match size {
                    8 => self.tile::<S, KW, SW, 8, PARTIAL>(s, at, 0..kw, ix),
                    6 => self.tile::<S, KW, SW, 6, PARTIAL>(s, at, 0..kw, ix),
                    5 => self.tile::<S, KW, SW, 5, PARTIAL>(s, at, 0..kw, ix),
                    4 => self.tile::<S, KW, SW, 4, PARTIAL>(s, at, 0..kw, ix),
                    _ => self.tile::<S, 0, 0, 1, PARTIAL>(s, at, 0..kw, ix),
                }
                column += size;
            }
        }
    }

    /// `P` pixels from `column` on, all channels; `kx` are the columns of the kernel, the first of which meets input column `ix`.
    #[inline(always)]
    unsafe fn tile<S: Simd, const KW: usize, const SW: usize, const P: usize, const PARTIAL: bool>(
        self,
        s: S,
        column: usize,
        kx: Range<usize>,
        ix: usize,
    ) {
        let g = self.g;
        let (c, lanes) = (g.c, S::LANES.min(g.c));
        let (image, oy) = (self.row / g.out_h(), self.row % g.out_h());
        let (ky, iy) = taps(oy, g.stride[0], g.pad[0], g.kernel[0], g.dilation[0], g.h);
        let step = if KW == 0 { g.stride[1] } else { SW } * self.x_pitch;
        let (down, right) =
            (g.dilation[0] * g.w * self.x_pitch, if KW == 0 { g.dilation[1] } else { 1 } * self.x_pitch);
        let w_row = g.kernel[1] * lanes;
        let taps = g.kernel[0] * w_row;
        let pixel = self.row * g.out_w() + column;
        // SAFETY: rows `ky` and columns `kx` of the kernel are inside the image for all pixels of the tile; channels end at `c`.
        unsafe {
            let x = self.x.wrapping_add(((image * g.h + iy) * g.w + ix) * self.x_pitch);
            let w = self.weights.add(ky.start * w_row + kx.start * lanes);
            let y = self.y.add(pixel * self.y_pitch);
            let bounds = self.end.bounds(s);
            let (mut from, mut w) = (0, w);
            while from < c {
                let at = from.min(c - lanes);
                let mut sums = [load::<S, PARTIAL>(s, self.shift.add(at), lanes); P];
                let (mut x, mut w_row_at) = (x.wrapping_add(at), w);
                for _ in ky.clone() {
                    for j in 0..if KW == 0 { kx.len() } else { KW } {
                        let w = load::<S, PARTIAL>(s, w_row_at.add(j * lanes), lanes);
                        for (p, sum) in sums.iter_mut().enumerate() {
                            *sum = s.fma(load::<S, PARTIAL>(s, x.add(p * step + j * right), lanes), w, *sum);
                        }
                    }
                    x = x.wrapping_add(down);
                    w_row_at = w_row_at.wrapping_add(w_row);
                }
                if let Some((r, pitch)) = self.residual {
                    for (p, sum) in sums.iter_mut().enumerate() {
                        *sum = s.add(*sum, load::<S, PARTIAL>(s, r.add((pixel + p) * pitch + at), lanes));
                    }
                }
                for (p, sum) in sums.into_iter().enumerate() {
                    let v = Ending::clip(s, bounds, sum);
                    store::<S, PARTIAL>(s, y.add(p * self.y_pitch + at), lanes, v);
                }
                from += lanes;
                w = w.wrapping_add(taps);
            }
        }
    }

    /// As [`Row::tiles`] for two rows, a kernel of 3x3, stride 1 and whole vectors.
    #[inline(always)]
    unsafe fn pairs<S: Simd>(self, s: S) {
        let g = self.g;
        let (columns, left) = (g.out_w(), g.pad[1]);
        let first = left.min(columns);
        let end = (g.w + left).saturating_sub(2).clamp(first, columns);
        // SAFETY: tiles inside the rows; those of several pixels see whole kernel rows.
        unsafe {
            for column in (0..first).chain(end..columns) {
                let (kx, ix) = taps(column, 1, left, 3, 1, g.w);
                self.pair::<S, 0, 1>(s, column, kx, ix);
            }
            let mut column = first;
            let size = tile_width(end - first);
            while column < end {
                let at = if end - first >= size { column.min(end - size) } else { column };
                match size {
                    8 => self.pair::<S, 3, 8>(s, at, 0..3, at - left),
                    6 => self.pair::<S, 3, 6>(s, at, 0..3, at - left),
                    5 => self.pair::<S, 3, 5>(s, at, 0..3, at - left),
                    4 => self.pair::<S, 3, 4>(s, at, 0..3, at - left),
                    _ => self.pair::<S, 0, 1>(s, at, 0..3, at - left),
                }
                column += size;
            }
        }
    }

    /// As [`Row::tile`]: two rows of `P` pixels, which see four rows of inputs.
    #[inline(always)]
    unsafe fn pair<S: Simd, const KW: usize, const P: usize>(
        self,
        s: S,
        column: usize,
        kx: Range<usize>,
        ix: usize,
    ) {
        let g = self.g;
        let (c, lanes, right) = (g.c, S::LANES, self.x_pitch);
        let (image, oy) = (self.row / g.out_h(), self.row % g.out_h());
        let inside: [bool; 4] = std::array::from_fn(|i| oy + i >= g.pad[0] && oy + i < g.h + g.pad[0]);
        let down = g.w * self.x_pitch;
        let pixel = self.row * g.out_w() + column;
        // SAFETY: rows that are `inside` and columns `kx` of the kernel are inside the image; channels end at `c`.
        unsafe {
            // before the image if the first row is not inside
            let x = self.x.wrapping_add((image * g.h * g.w + ix) * self.x_pitch + oy * down);
            let x = x.wrapping_sub(g.pad[0] * down);
            let mut w = self.weights.add(kx.start * lanes);
            let bounds = self.end.bounds(s);
            let mut from = 0;
            while from < c {
                let at = from.min(c - lanes);
                let mut sums = [[s.load(self.shift.add(at)); P]; 2];
                for (i, &inside) in inside.iter().enumerate() {
                    if !inside {
                        continue;
                    }
                    let x = x.wrapping_add(i * down + at);
                    for j in 0..if KW == 0 { kx.len() } else { KW } {
                        // the row is row i of the kernel for the upper pixels, i - 1 for the lower
                        let w = w.wrapping_add(j * lanes);
                        let upper = s.load(w.wrapping_add(i.min(2) * 3 * lanes));
                        let lower = s.load(w.wrapping_add(i.saturating_sub(1) * 3 * lanes));
                        let [above, below] = &mut sums;
                        for (p, (above, below)) in above.iter_mut().zip(below).enumerate() {
                            let v = s.load(x.add((p + j) * right));
                            if i < 3 {
                                *above = s.fma(v, upper, *above);
                            }
                            if i > 0 {
                                *below = s.fma(v, lower, *below);
                            }
                        }
                    }
                }
                for (r, sums) in sums.into_iter().enumerate() {
                    let pixel = pixel + r * g.out_w();
                    for (p, mut sum) in sums.into_iter().enumerate() {
                        if let Some((r, pitch)) = self.residual {
                            sum = s.add(sum, s.load(r.add((pixel + p) * pitch + at)));
                        }
                        s.store(self.y.add((pixel + p) * self.y_pitch + at), Ending::clip(s, bounds, sum));
                    }
                }
                from += lanes;
                w = w.wrapping_add(9 * lanes);
            }
        }
    }
}

/// The tile width that computes the fewest pixels twice; a tile costs about a pixel more than its pixels.
#[inline(always)]
fn tile_width(width: usize) -> usize {
    let cost = |size: usize| width.div_ceil(size) * (size + 1);
    let mut best = if width < 4 { 1 } else { 4 };
    for size in [5, 6, 8] {
        if width >= size && cost(size) <= cost(best) {
            best = size;
        }
    }
    best
}
