//! Convolutions of each channel alone, channels in lanes. Codes are read as floats, if not by quads: what 24 bits can hold is exact in any
//! order.
//!
//! A code is a level less the lowest one, `u = q - low`, so `sum q w = sum u w + low sum w`: the second part goes with the bias.

use super::depthwise_quads::{self, DepthwiseQuads};
use super::lowered::{Band, bounds, piece};
use super::quantize;
use crate::grid::Grid;
use crate::int8_weights::Int8Weights;
use bytemuck::cast_slice_mut;
use cnn_core::Result;
use cnn_core::ops::conv::ConvGeometry;
use cnn_core::session::{Epilogue, Inputs, Kernel, Layout, Levels, Lowered, Lowering, Part, Target};
use cnn_core::simd::{Isa, Simd, SimdOp};
use std::sync::Arc;

/// Values that a part computes.
const PART: usize = 1 << 14;
/// Pixels whose sums are kept in registers.
const TILE: usize = 4;

#[derive(Debug)]
struct Depthwise {
    g: ConvGeometry,
    isa: Isa,
    input: Grid,
    /// `[tap][channel]`.
    weights: Arc<Vec<f32>>,
    /// Where sums begin: the bias and `low sum w`.
    bias: Vec<f32>,
    steps: Vec<f32>,
    scale: Option<Vec<f32>>,
    shift: Option<Vec<f32>>,
    bounds: [f32; 2],
    residual: bool,
    /// An activation that is more than bounds.
    activation: Epilogue,
    band: Band,
    /// The grid of the output, if it is to be bytes.
    levels: Option<Levels>,
    /// Where that is faster.
    quads: Option<DepthwiseQuads>,
    parts: Vec<Part>,
}

/// Where the sum of each channel begins.
fn starts(weights: &Int8Weights) -> impl Iterator<Item = (&[i16], i64)> {
    let taps = weights.levels().len() / weights.grids().len().max(1);
    let low = i64::from(weights.input().low);
    weights.levels().chunks(taps.max(1)).enumerate().map(move |(channel, row)| {
        let bias = weights.bias().map_or(0, |bias| i64::from(bias[channel]));
        (row, bias + low * row.iter().map(|&w| i64::from(w)).sum::<i64>())
    })
}

/// True if codes are bytes, padding among them, and no sum of a channel's products can leave 24 bits, whatever the input.
pub fn suits(weights: &Int8Weights) -> bool {
    let input = weights.input();
    let most =
        |(row, start): (&[i16], i64)| 255 * row.iter().map(|w| i64::from(w.abs())).sum::<i64>() + start.abs();
    input.low <= 0 && input.high >= 0 && starts(weights).map(most).all(|most| most < 1 << 24)
}

/// The kernel, if each channel is alone and [`suits`].
pub fn lower(at: &Lowering<'_>, g: &ConvGeometry, weights: &Int8Weights) -> Option<Lowered> {
    if g.groups != g.c || g.m != g.c || !suits(weights) {
        return None;
    }
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
    let (bounds, activation) = bounds(at.epilogue.activation);
    let levels = at.levels.filter(|_| activation.is_empty());
    let reads = at.inputs.first().map_or(Layout::ChannelsLast, |e| e.layout);
    let starts: Vec<i64> = starts(weights).map(|(_, start)| start).collect();
    // within 24 bits
    let whole: Vec<i32> = starts.iter().map(|&start| start as i32).collect();
    let kernel = Depthwise {
        g: *g,
        isa: at.isa,
        input: weights.input(),
        weights: at.shared("int8 depthwise", turned),
        bias: starts.iter().map(|&start| start as f32).collect(),
        steps: weights.grids().iter().map(|w| weights.input().step * w.step).collect(),
        scale: at.epilogue.scale.clone(),
        shift: at.epilogue.shift.clone(),
        bounds,
        residual: at.epilogue.residual,
        activation,
        band: Band::of(g, g.c, rows.div_ceil(pieces))?,
        levels,
        quads: DepthwiseQuads::new(at, g, weights, &whole, bounds, levels),
        parts: parts.collect(),
    };
    Some(Lowered {
        kernel: Box::new(kernel),
        inputs: vec![if reads == Layout::Codes { reads } else { Layout::ChannelsLast }],
        output: if levels.is_some() { Layout::Codes } else { Layout::ChannelsLast },
        alternatives: Vec::new(),
    })
}

impl Depthwise {
    /// Floats that hold the bytes of the rows of a band, and what may be read behind them.
    fn rows(&self) -> usize {
        (self.band.len() + self.g.c + depthwise_quads::BEHIND).div_ceil(4).next_multiple_of(16)
    }
}

impl Kernel for Depthwise {
    fn algorithm(&self) -> &'static str {
        "int8 depthwise"
    }

    fn parts(&self) -> Vec<Part> {
        self.parts.clone()
    }

    fn scratch(&self) -> usize {
        // bytes, and a vector of channels of a row as floats and as bytes
        self.rows() + (self.g.out_w() * self.isa.lanes() * 5).div_ceil(4)
    }

    fn weight_bytes(&self) -> usize {
        let quads = self.quads.as_ref().map_or(0, DepthwiseQuads::bytes);
        (self.weights.len() + self.bias.len() + self.steps.len()) * 4 + quads
    }

    fn run(&self, inputs: Inputs<'_>, mut out: Target<'_>, scratch: &mut [f32]) -> Result<()> {
        let (g, part) = (&self.g, out.part().clone());
        let (plane, width) = (g.out_h() * g.out_w(), g.out_w());
        let first = part.pixels.start % plane / width;
        let lines = first..first + part.pixels.len() / width;
        let (x, residual) = (inputs.get(0), self.residual.then(|| inputs.get(1)));
        let (rows, row) = scratch.split_at_mut(self.rows());
        let rows: &mut [u8] = cast_slice_mut(rows);
        let zero = -self.input.low as u8;
        self.band.fill(g, part.pixels.start / plane, &lines, rows, zero, |pixels, to| {
            quantize::codes(self.isa, self.input, x, pixels, to, g.c);
        });
        assert!(self.levels.is_some() == out.is_codes());
        for (i, start) in part.pixels.clone().step_by(width).enumerate() {
            let from = i * g.stride[0] * self.band.width * g.c;
            let residual = residual.map(|r| {
                assert!(start + width <= r.pixels && g.c <= r.channels);
                (r.as_ptr().wrapping_add(start * r.pitch), r.pitch)
            });
            let line = |to| Line { of: self, rows: &rows[from..], to, residual };
            let y = out.as_ptr().wrapping_add(start * out.pitch());
            if let Some(quads) = &self.quads {
                let line = depthwise_quads::Line {
                    rows: &rows[from..],
                    down: self.band.width * g.c,
                    pixels: width,
                    y: y.cast(),
                    pitch: 4 * out.pitch(),
                };
                // SAFETY: the pixels are those of the part, which this thread alone writes, and bytes, as was just checked.
                unsafe { quads.run(line) };
                continue;
            }
            self.isa.run(match self.levels {
                Some(levels) => {
                    line(To::Codes { y: y.cast(), pitch: 4 * out.pitch(), levels, row: row.as_mut_ptr() })
                }
                None => line(To::Floats { y, pitch: out.pitch() }),
            });
        }
        if !self.activation.is_empty() {
            let pixels = part.pixels.clone();
            pixels.for_each(|p| self.activation.finish(0..g.c, out.pixel(p), None));
        }
        Ok(())
    }
}

/// A row of output pixels, all channels.
struct Line<'a> {
    of: &'a Depthwise,
    /// From the first tap of the first pixel on.
    rows: &'a [u8],
    to: To,
    residual: Option<(*const f32, usize)>,
}

/// Where a row of output pixels goes; nobody else has it.
#[derive(Clone, Copy)]
enum To {
    /// The row's first pixel, and from a pixel to the next.
    Floats { y: *mut f32, pitch: usize },
    /// Likewise, on a grid; with memory for a vector of channels of each pixel, as floats and as bytes.
    Codes { y: *mut u8, pitch: usize, levels: Levels, row: *mut f32 },
}

impl SimdOp for Line<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (c, pixels) = (self.of.g.c, self.of.g.out_w());
        if c < S::LANES {
            (0..pixels).for_each(|p| self.few(p));
            return;
        }
        let g = &self.of.g;
        let three = g.kernel == [3, 3] && g.dilation == [1, 1];
        let mut from = 0;
        while from < c {
            // the last vector begins earlier
            let at = from.min(c - S::LANES);
            match (three, g.stride[1]) {
                (true, 1) => self.three::<S, 1>(s, at),
                (true, 2) => self.three::<S, 2>(s, at),
                _ => (0..pixels).for_each(|p| self.one(s, at, p)),
            }
            if let To::Codes { y, pitch, levels, row } = self.to {
                // SAFETY: the row in memory, floats and then bytes, and a vector of channels of each pixel.
                unsafe {
                    let count = pixels * S::LANES;
                    let values = std::slice::from_raw_parts(row, count);
                    let codes = std::slice::from_raw_parts_mut(row.add(count).cast::<u8>(), count);
                    // one long loop, which the compiler makes vectors of
                    codes.iter_mut().zip(values).for_each(|(code, &v)| *code = levels.code(v));
                    for (p, codes) in codes.chunks_exact(S::LANES).enumerate() {
                        y.add(p * pitch + at).copy_from_nonoverlapping(codes.as_ptr(), S::LANES);
                    }
                }
            }
            from += S::LANES;
        }
    }
}

/// A vector of what there is for each channel.
#[derive(Clone, Copy)]
struct Ends<V> {
    steps: V,
    scale: Option<V>,
    shift: Option<V>,
    bounds: [V; 2],
}

impl Line<'_> {
    /// A vector of channels of all pixels, for 3 x 3 taps. The filter stays in registers, and so do the columns that neighbouring pixels
    /// share.
    #[inline(always)]
    fn three<S: Simd, const STRIDE: usize>(&self, s: S, channel: usize) {
        let (of, c, pixels) = (self.of, self.of.g.c, self.of.g.out_w());
        let (down, ends) = (of.band.width * c, self.ends(s, channel));
        assert!(self.rows.len() >= 2 * down + ((pixels - 1) * STRIDE + 3) * c && of.weights.len() >= 9 * c);
        assert!(of.bias.len() >= c && channel + S::LANES <= c);
        // SAFETY: a vector of channels of each tap.
        let (bias, w) = unsafe {
            let w = of.weights.as_ptr().add(channel);
            let row = |i: usize| {
                [s.load(w.add(3 * i * c)), s.load(w.add((3 * i + 1) * c)), s.load(w.add((3 * i + 2) * c))]
            };
            (s.load(of.bias.as_ptr().add(channel)), [row(0), row(1), row(2)])
        };
        if pixels < TILE {
            return (0..pixels).for_each(|p| self.one(s, channel, p));
        }
        for p in (0..pixels).step_by(TILE) {
            // the last tile begins earlier
            let p = p.min(pixels - TILE);
            // SAFETY: the last tap of the last pixel is in the rows.
            let sums = unsafe {
                let x = self.rows.as_ptr().add(p * STRIDE * c + channel);
                let sums = columns::<S, STRIDE>(s, x, c, w[0], [bias; TILE]);
                let sums = columns::<S, STRIDE>(s, x.add(down), c, w[1], sums);
                columns::<S, STRIDE>(s, x.add(2 * down), c, w[2], sums)
            };
            self.finish(s, channel, p, sums[0], ends);
            self.finish(s, channel, p + 1, sums[1], ends);
            self.finish(s, channel, p + 2, sums[2], ends);
            self.finish(s, channel, p + 3, sums[3], ends);
        }
    }

    /// A vector of channels of a pixel.
    #[inline(always)]
    fn one<S: Simd>(&self, s: S, channel: usize, pixel: usize) {
        let (of, g) = (self.of, &self.of.g);
        let taps = (g.kernel[0] - 1) * g.dilation[0] * of.band.width + (g.kernel[1] - 1) * g.dilation[1];
        let rows = &self.rows[pixel * g.stride[1] * g.c + channel..][..taps * g.c + S::LANES];
        let weights = &of.weights[channel..][..(g.kernel[0] * g.kernel[1] - 1) * g.c + S::LANES];
        // SAFETY: as long as a vector.
        let mut sum = unsafe { s.load(of.bias[channel..][..S::LANES].as_ptr()) };
        for i in 0..g.kernel[0] {
            for j in 0..g.kernel[1] {
                let tap = (i * g.dilation[0] * of.band.width + j * g.dilation[1]) * g.c;
                // SAFETY: the slices end a vector after the last tap.
                unsafe {
                    let w = s.load(weights.as_ptr().add((i * g.kernel[1] + j) * g.c));
                    sum = s.fma(s.load_bytes(rows.as_ptr().add(tap)), w, sum);
                }
            }
        }
        self.finish(s, channel, pixel, sum, self.ends(s, channel));
    }

    #[inline(always)]
    fn ends<S: Simd>(&self, s: S, channel: usize) -> Ends<S::V> {
        let of = self.of;
        // SAFETY: as long as a vector.
        let of_channels = |v: &[f32]| unsafe { s.load(v[channel..][..S::LANES].as_ptr()) };
        Ends {
            steps: of_channels(&of.steps),
            scale: of.scale.as_deref().map(of_channels),
            shift: of.shift.as_deref().map(of_channels),
            bounds: of.bounds.map(|bound| s.splat(bound)),
        }
    }

    #[inline(always)]
    fn finish<S: Simd>(&self, s: S, channel: usize, pixel: usize, sum: S::V, ends: Ends<S::V>) {
        let mut value = s.mul(sum, ends.steps);
        if let Some(scale) = ends.scale {
            value = s.mul(value, scale);
        }
        if let Some(shift) = ends.shift {
            value = s.add(value, shift);
        }
        // SAFETY: the pixel and its channels are in the row, which is ours, and in the residual's.
        unsafe {
            if let Some((residual, pitch)) = self.residual {
                value = s.add(value, s.load(residual.add(pixel * pitch + channel)));
            }
            // the value second: NaN stays NaN
            value = s.min(ends.bounds[1], s.max(ends.bounds[0], value));
            match self.to {
                To::Floats { y, pitch } => s.store(y.add(pixel * pitch + channel), value),
                To::Codes { row, .. } => s.store(row.add(pixel * S::LANES), value),
            }
        }
    }

    /// A pixel of fewer channels than a vector has.
    #[inline(always)]
    fn few(&self, pixel: usize) {
        let (of, g) = (self.of, &self.of.g);
        for channel in 0..g.c {
            let mut sum = of.bias[channel];
            for i in 0..g.kernel[0] {
                for j in 0..g.kernel[1] {
                    let tap = (i * g.dilation[0] * of.band.width + j * g.dilation[1]) * g.c;
                    let x = f32::from(self.rows[pixel * g.stride[1] * g.c + tap + channel]);
                    sum += x * of.weights[(i * g.kernel[1] + j) * g.c + channel];
                }
            }
            let mut value = sum * of.steps[channel];
            value *= of.scale.as_ref().map_or(1.0, |scale| scale[channel]);
            value += of.shift.as_ref().map_or(-0.0, |shift| shift[channel]);
            // SAFETY: the pixel and its channels are in the row, which is ours, and in the residual's.
            unsafe {
                if let Some((residual, pitch)) = self.residual {
                    value += *residual.add(pixel * pitch + channel);
                }
                let [low, high] = of.bounds;
                let value = if value.is_nan() { value } else { value.max(low).min(high) };
                match self.to {
                    To::Floats { y, pitch } => *y.add(pixel * pitch + channel) = value,
                    To::Codes { y, pitch, levels, .. } => {
                        *y.add(pixel * pitch + channel) = levels.code(value)
                    }
                }
            }
        }
    }
}

/// Adds a row of three taps to the sums of four pixels, for a vector of channels. Written out: sums in a loop would live in memory.
///
/// # Safety
/// From `x` on there must be `3 STRIDE + 3` pixels, `c` apart, with a vector of channels.
#[inline(always)]
unsafe fn columns<S: Simd, const STRIDE: usize>(
    s: S,
    x: *const u8,
    c: usize,
    [a, b, d]: [S::V; 3],
    [s0, s1, s2, s3]: [S::V; TILE],
) -> [S::V; TILE] {
    // SAFETY: the caller's promise.
    let at = |k: usize| unsafe { s.load_bytes(x.add(k * c)) };
    let three = |x0: S::V, x1: S::V, x2: S::V, sum: S::V| s.fma(x2, d, s.fma(x1, b, s.fma(x0, a, sum)));
    let (x0, x1, x2, x3, x4, x5) = (at(0), at(1), at(2), at(3), at(4), at(5));
    if STRIDE == 1 {
        return [three(x0, x1, x2, s0), three(x1, x2, x3, s1), three(x2, x3, x4, s2), three(x3, x4, x5, s3)];
    }
    let (x6, x7, x8) = (at(6), at(7), at(8));
    [three(x0, x1, x2, s0), three(x2, x3, x4, s1), three(x4, x5, x6, s2), three(x6, x7, x8, s3)]
}
