//! Convolutions of each channel alone, channels in lanes. The levels are held as floats: what 24 bits can hold is exact in any order.

use super::lowered::{Band, bounds, piece};
use super::quantize;
use crate::grid::Grid;
use crate::int8_weights::Int8Weights;
use cnn_core::Result;
use cnn_core::ops::conv::ConvGeometry;
use cnn_core::session::{Epilogue, Inputs, Kernel, Layout, Levels, Lowered, Lowering, Part, Target};
use cnn_core::simd::{Isa, Simd, SimdOp};
use std::sync::Arc;

/// Values that a part computes.
const PART: usize = 1 << 16;
/// Pixels whose sums are kept in registers.
const TILE: usize = 4;

#[derive(Debug)]
struct Depthwise {
    g: ConvGeometry,
    isa: Isa,
    input: Grid,
    /// `[tap][channel]`.
    weights: Arc<Vec<f32>>,
    /// Where sums begin: the bias.
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
    parts: Vec<Part>,
}

/// The bias of each channel.
fn bias(weights: &Int8Weights) -> Vec<i64> {
    let channels = weights.grids().len();
    weights.bias().map_or(vec![0; channels], |bias| bias.iter().map(|&b| i64::from(b)).collect())
}

/// True if no sum of a channel's products can leave 24 bits, whatever the input.
pub fn suits(weights: &Int8Weights) -> bool {
    let bias = bias(weights);
    let taps = weights.levels().len() / bias.len().max(1);
    let most =
        |(row, bias): (&[i16], &i64)| 255 * row.iter().map(|w| i64::from(w.abs())).sum::<i64>() + bias.abs();
    weights.levels().chunks(taps.max(1)).zip(&bias).map(most).all(|most| most < 1 << 24)
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
    let kernel = Depthwise {
        g: *g,
        isa: at.isa,
        input: weights.input(),
        weights: at.shared("int8 depthwise", turned),
        bias: bias(weights).into_iter().map(|b| b as f32).collect(),
        steps: weights.grids().iter().map(|w| weights.input().step * w.step).collect(),
        scale: at.epilogue.scale.clone(),
        shift: at.epilogue.shift.clone(),
        bounds,
        residual: at.epilogue.residual,
        activation,
        band: Band::of(g, g.c, rows.div_ceil(pieces))?,
        levels,
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
    /// Values of a row of output pixels.
    fn row(&self) -> usize {
        self.g.out_w() * self.g.c
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
        self.band.len() + if self.levels.is_some() { self.row() } else { 0 }
    }

    fn weight_bytes(&self) -> usize {
        (self.weights.len() + self.bias.len() + self.steps.len()) * 4
    }

    fn run(&self, inputs: Inputs<'_>, mut out: Target<'_>, scratch: &mut [f32]) -> Result<()> {
        let (g, part) = (&self.g, out.part().clone());
        let (plane, width) = (g.out_h() * g.out_w(), g.out_w());
        let first = part.pixels.start % plane / width;
        let lines = first..first + part.pixels.len() / width;
        let (x, residual) = (inputs.get(0), self.residual.then(|| inputs.get(1)));
        let (rows, row) = scratch.split_at_mut(self.band.len());
        self.band.fill(g, part.pixels.start / plane, &lines, rows, 0.0, |pixels, to| match x.codes {
            0 => quantize::float_levels(self.isa, self.input, x, pixels, to),
            _ => quantize::levels_of_codes(self.isa, self.input.low, x, pixels, to),
        });
        assert!(self.levels.is_some() == out.is_codes());
        for (i, start) in part.pixels.clone().step_by(width).enumerate() {
            let from = i * g.stride[0] * self.band.width * g.c;
            let residual = residual.map(|r| {
                assert!(start + width <= r.pixels && g.c <= r.channels);
                (r.as_ptr().wrapping_add(start * r.pitch), r.pitch)
            });
            let (y, pitch) = match self.levels {
                Some(_) => (row.as_mut_ptr(), g.c),
                None => (out.as_ptr().wrapping_add(start * out.pitch()), out.pitch()),
            };
            self.isa.run(Line { of: self, rows: &rows[from..], y, pitch, residual });
            if let Some(levels) = self.levels {
                quantize::row_to_codes(self.isa, levels, &row[..self.row()], start..start + width, &mut out);
            }
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
    rows: &'a [f32],
    /// The row's first pixel; nobody else has the row.
    y: *mut f32,
    pitch: usize,
    residual: Option<(*const f32, usize)>,
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
        let mut from = 0;
        while from < c {
            // the last vector begins earlier
            let at = from.min(c - S::LANES);
            let mut p = 0;
            while p < pixels {
                // so does the last tile
                match pixels >= TILE {
                    true => self.tile::<S, TILE>(s, at, p.min(pixels - TILE)),
                    false => self.tile::<S, 1>(s, at, p),
                }
                p += if pixels >= TILE { TILE } else { 1 };
            }
            from += S::LANES;
        }
    }
}

impl Line<'_> {
    /// A vector of channels of `P` pixels.
    #[inline(always)]
    fn tile<S: Simd, const P: usize>(&self, s: S, channel: usize, pixel: usize) {
        let (of, g) = (self.of, &self.of.g);
        let step = g.stride[1] * g.c;
        let taps = (g.kernel[0] - 1) * g.dilation[0] * of.band.width + (g.kernel[1] - 1) * g.dilation[1];
        let rows = &self.rows[pixel * step + channel..][..(P - 1) * step + taps * g.c + S::LANES];
        let weights = &of.weights[channel..][..(g.kernel[0] * g.kernel[1] - 1) * g.c + S::LANES];
        let of_channels = |v: &[f32]| {
            // SAFETY: as long as a vector.
            unsafe { s.load(v[channel..][..S::LANES].as_ptr()) }
        };
        let mut sums = [of_channels(&of.bias); P];
        for i in 0..g.kernel[0] {
            for j in 0..g.kernel[1] {
                let tap = (i * g.dilation[0] * of.band.width + j * g.dilation[1]) * g.c;
                // SAFETY: the slices end a vector after the last tap of the last pixel.
                unsafe {
                    let w = s.load(weights.as_ptr().add((i * g.kernel[1] + j) * g.c));
                    for (p, sum) in sums.iter_mut().enumerate() {
                        *sum = s.fma(s.load(rows.as_ptr().add(p * step + tap)), w, *sum);
                    }
                }
            }
        }
        let steps = of_channels(&of.steps);
        let [scale, shift] = [&of.scale, &of.shift].map(|v| v.as_deref().map(of_channels));
        let [low, high] = of.bounds.map(|bound| s.splat(bound));
        for (p, sum) in sums.into_iter().enumerate() {
            let mut value = s.mul(sum, steps);
            if let Some(scale) = scale {
                value = s.mul(value, scale);
            }
            if let Some(shift) = shift {
                value = s.add(value, shift);
            }
            // SAFETY: the pixel and its channels are in the row, which is ours, and in the residual's.
            unsafe {
                if let Some((residual, pitch)) = self.residual {
                    value = s.add(value, s.load(residual.add((pixel + p) * pitch + channel)));
                }
                // the value second: NaN stays NaN
                value = s.min(high, s.max(low, value));
                s.store(self.y.add((pixel + p) * self.pitch + channel), value);
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
                    let x = self.rows[pixel * g.stride[1] * g.c + tap + channel];
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
                *self.y.add(pixel * self.pitch + channel) = match value.is_nan() {
                    true => value,
                    false => value.max(low).min(high),
                };
            }
        }
    }
}
