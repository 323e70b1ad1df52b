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
const PART: usize = 1 << 14;
/// Channels whose sums are kept in registers.
const BLOCK: usize = 32;

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
        band: Band::of(g, rows.div_ceil(pieces))?,
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
        self.band.len(&self.g) + self.g.c
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
        self.band.fill(g, inputs.get(0), part.pixels.start / plane, &lines, rows, |x, to| {
            quantize::float_levels(isa, self.input, x, to);
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
    fn run<S: Simd>(self, _isa: S) {
        let Sums { g, width, rows, weights, sums } = self;
        let mut done = 0;
        while done < g.c {
            let count = BLOCK.min(g.c - done);
            let mut acc = [0f32; BLOCK];
            for i in 0..g.kernel[0] {
                for j in 0..g.kernel[1] {
                    let tap = (i * g.dilation[0] * width + j * g.dilation[1]) * g.c + done;
                    let x = &rows[tap..][..count];
                    let w = &weights[(i * g.kernel[1] + j) * g.c + done..][..count];
                    match (x.as_array::<BLOCK>(), w.as_array::<BLOCK>()) {
                        (Some(x), Some(w)) => (0..BLOCK).for_each(|k| acc[k] += x[k] * w[k]),
                        _ => acc.iter_mut().zip(x).zip(w).for_each(|((acc, x), w)| *acc += x * w),
                    }
                }
            }
            sums[done..][..count].copy_from_slice(&acc[..count]);
            done += count;
        }
    }
}
