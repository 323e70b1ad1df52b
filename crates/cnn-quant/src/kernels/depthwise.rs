//! Convolutions of each channel alone, channels in lanes. The levels are held as floats: what 24 bits can hold is exact in any order.

use super::lowered::{Band, Ending, piece};
use super::quantize;
use crate::grid::Grid;
use crate::int8_weights::Int8Weights;
use cnn_core::Result;
use cnn_core::ops::conv::ConvGeometry;
use cnn_core::session::{Inputs, Kernel, Lowered, Lowering, Part, Target};
use cnn_core::simd::{Simd, SimdOp};
use std::sync::Arc;

/// Values that a part computes.
const PART: usize = 1 << 16;
/// Vectors of channels whose sums are kept in registers.
const VECTORS: usize = 4;

/// True if each channel is alone and no sum of products can leave 24 bits.
pub fn fits(g: &ConvGeometry) -> bool {
    let most = g.kernel[0].saturating_mul(g.kernel[1]).saturating_mul(255 * 255);
    g.groups == g.c && g.m == g.c && most < 1 << 24
}

#[derive(Debug)]
struct Depthwise {
    g: ConvGeometry,
    input: Grid,
    /// `[tap][channel]`.
    weights: Arc<Vec<f32>>,
    ending: Ending,
    band: Band,
    parts: Vec<Part>,
}

/// The kernel, for a geometry that [`fits`].
pub fn lower(at: &Lowering<'_>, g: &ConvGeometry, weights: &Int8Weights) -> Option<Lowered> {
    let (rows, width, taps) = (g.out_h(), g.out_w(), g.kernel[0] * g.kernel[1]);
    let pieces = (rows * width * g.c / PART).clamp(1, rows);
    let parts = (0..g.n * pieces).map(|i| {
        let rows_of = piece(rows, pieces, i % pieces);
        let start = i / pieces * rows;
        Part { pixels: (start + rows_of.start) * width..(start + rows_of.end) * width, channels: 0..g.c }
    });
    let turned = || {
        let levels = weights.levels();
        (0..taps * g.c).map(|i| f32::from(levels[i % g.c * taps + i / g.c])).collect()
    };
    Some(Lowered::channels_last(Depthwise {
        g: *g,
        input: weights.input(),
        weights: at.shared("int8 depthwise", turned),
        ending: Ending::new(at, weights),
        band: Band::of(g, g.c, rows.div_ceil(pieces))?,
        parts: parts.collect(),
    }))
}

impl Kernel for Depthwise {
    fn algorithm(&self) -> &'static str {
        "int8 depthwise"
    }

    fn parts(&self) -> Vec<Part> {
        self.parts.clone()
    }

    fn scratch(&self) -> usize {
        self.band.len() + self.g.c
    }

    fn weight_bytes(&self) -> usize {
        self.weights.len() * 4 + self.ending.bytes()
    }

    fn run(&self, inputs: Inputs<'_>, mut out: Target<'_>, scratch: &mut [f32]) -> Result<()> {
        let (g, part, isa) = (&self.g, out.part().clone(), self.ending.isa);
        let (plane, width) = (g.out_h() * g.out_w(), g.out_w());
        let (sums, rows) = scratch.split_at_mut(g.c);
        let first = part.pixels.start % plane / width;
        let lines = first..first + part.pixels.len() / width;
        let x = inputs.get(0);
        self.band.fill(g, part.pixels.start / plane, &lines, rows, 0.0, |pixels, to| {
            for (p, to) in pixels.zip(to.chunks_exact_mut(g.c)) {
                quantize::float_levels(isa, self.input, x.pixel(p), to);
            }
        });
        for p in part.pixels.clone() {
            let (y, x) = (p % plane / width - first, p % width);
            let start = (y * g.stride[0] * self.band.width + x * g.stride[1]) * g.c;
            isa.run(Sums { g, width: self.band.width, rows: &rows[start..], weights: &self.weights, sums });
            self.ending.scale_back(0..g.c, sums, out.pixel(p));
            self.ending.finish(p, inputs, &mut out);
        }
        Ok(())
    }
}

/// The sums of all channels of one pixel.
struct Sums<'a> {
    g: &'a ConvGeometry,
    width: usize,
    /// From the first tap on.
    rows: &'a [f32],
    weights: &'a [f32],
    sums: &'a mut [f32],
}

impl SimdOp for Sums<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let mut done = 0;
        while done < self.sums.len() {
            done += match self.sums.len() - done {
                left if left >= VECTORS * S::LANES => self.block::<S, VECTORS>(s, done),
                left if left >= S::LANES => self.block::<S, 1>(s, done),
                left => {
                    // one vector that begins earlier, or a single one that is not full
                    let first = self.sums.len().saturating_sub(S::LANES);
                    if first + S::LANES <= self.sums.len() {
                        self.block::<S, 1>(s, first);
                    } else {
                        self.few();
                    }
                    left
                }
            };
        }
    }
}

impl Sums<'_> {
    /// `V` vectors of channels; returns how many channels that are.
    #[inline(always)]
    fn block<S: Simd, const V: usize>(&mut self, s: S, first: usize) -> usize {
        let g = self.g;
        let mut acc = [s.splat(0.0); V];
        for i in 0..g.kernel[0] {
            for j in 0..g.kernel[1] {
                let tap = (i * g.dilation[0] * self.width + j * g.dilation[1]) * g.c + first;
                let x = &self.rows[tap..][..V * S::LANES];
                let w = &self.weights[(i * g.kernel[1] + j) * g.c + first..][..V * S::LANES];
                for (v, acc) in acc.iter_mut().enumerate() {
                    // SAFETY: both have `V` vectors.
                    *acc = unsafe {
                        let (x, w) =
                            (s.load(x.as_ptr().add(v * S::LANES)), s.load(w.as_ptr().add(v * S::LANES)));
                        s.fma(x, w, *acc)
                    };
                }
            }
        }
        let sums = self.sums[first..][..V * S::LANES].chunks_exact_mut(S::LANES);
        for (acc, sums) in acc.into_iter().zip(sums) {
            // SAFETY: a chunk is a vector.
            unsafe { s.store(sums.as_mut_ptr(), acc) };
        }
        V * S::LANES
    }

    /// Fewer channels than a vector has.
    #[inline(always)]
    fn few(&mut self) {
        let g = self.g;
        self.sums.fill(0.0);
        for i in 0..g.kernel[0] {
            for j in 0..g.kernel[1] {
                let tap = (i * g.dilation[0] * self.width + j * g.dilation[1]) * g.c;
                let w = &self.weights[(i * g.kernel[1] + j) * g.c..];
                self.sums.iter_mut().zip(&self.rows[tap..]).zip(w).for_each(|((sum, x), w)| *sum += x * w);
            }
        }
    }
}
