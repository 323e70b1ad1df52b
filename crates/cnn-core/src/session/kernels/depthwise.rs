//! Depthwise convolution: `y[p][c] = f(sum over taps of w[tap][c] x[p step + tap][c] + b[c] + residual[p][c])`.
//!
//! A tile is some neighbouring pixels of an output row by a vector of channels. For each row of the kernel the weights are
//! loaded once, and each input serves all pixels of the tile that see it, so that multiplications and not loads are the limit.
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

#[derive(Debug)]
struct Packed {
    /// `[tap][channel]`
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
        let (mut weights, mut shift) = (Floats::zeros(c * taps), Floats::zeros(c));
        shift.copy_from_slice(&bias);
        for (i, w) in weights.iter_mut().enumerate() {
            *w = folded[i % c * taps + i / c];
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
        for row in pixels.start / columns..pixels.end / columns {
            self.isa.run(Row {
                g: &self.g,
                row,
                x: x.as_ptr(),
                x_pitch: x.pitch,
                weights: self.packed.weights.as_ptr(),
                shift: self.packed.shift.as_ptr(),
                y: out.as_ptr(),
                y_pitch: out.pitch(),
                residual: residual.map(|r| (r.as_ptr(), r.pitch)),
                end: self.end,
            });
            self.end.finish(&mut out, row * columns..(row + 1) * columns);
        }
        Ok(())
    }
}

/// One row of output pixels.
#[derive(Clone, Copy)]
struct Row<'a> {
    g: &'a ConvGeometry,
    /// Counted over all images.
    row: usize,
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
        // SAFETY: the pointers are to images of this geometry, and nobody else has this row.
        unsafe {
            match (g.kernel[1], g.stride[1], g.dilation[1]) {
                _ if g.c < S::LANES => self.tiles::<S, 0, 0, true>(s),
                (3, 1, 1) => self.tiles::<S, 3, 1, false>(s),
                (3, 2, 1) => self.tiles::<S, 3, 2, false>(s),
                (5, 1, 1) => self.tiles::<S, 5, 1, false>(s),
                (5, 2, 1) => self.tiles::<S, 5, 2, false>(s),
                (7, 1, 1) => self.tiles::<S, 7, 1, false>(s),
                (7, 2, 1) => self.tiles::<S, 7, 2, false>(s),
                _ => self.tiles::<S, 0, 0, false>(s),
            }
        }
    }
}

impl Row<'_> {
    /// Cuts the row into tiles. `KW` and `SW` are the kernel's width and horizontal stride, 0 if not known here.
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
        let w_row = g.kernel[1] * c;
        let pixel = self.row * g.out_w() + column;
        // SAFETY: rows `ky` and columns `kx` of the kernel are inside the image for all pixels of the tile; channels end at `c`.
        unsafe {
            let x = self.x.wrapping_add(((image * g.h + iy) * g.w + ix) * self.x_pitch);
            let w = self.weights.add(ky.start * w_row + kx.start * c);
            let y = self.y.add(pixel * self.y_pitch);
            let bounds = self.end.bounds(s);
            let mut from = 0;
            while from < c {
                let at = from.min(c - lanes);
                let mut sums = [load::<S, PARTIAL>(s, self.shift.add(at), lanes); P];
                let (mut x, mut w) = (x.wrapping_add(at), w.add(at));
                for _ in ky.clone() {
                    for j in 0..if KW == 0 { kx.len() } else { KW } {
                        let w = load::<S, PARTIAL>(s, w.add(j * c), lanes);
                        for (p, sum) in sums.iter_mut().enumerate() {
                            *sum = s.fma(load::<S, PARTIAL>(s, x.add(p * step + j * right), lanes), w, *sum);
                        }
                    }
                    x = x.wrapping_add(down);
                    w = w.wrapping_add(w_row);
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
