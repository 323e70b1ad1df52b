//! Convolutions of unsigned bytes by signed ones, where the processor multiplies four of them at a time ([`super::quads`]).
//!
//! A code is a level less the lowest one, `u = q - low`, so `sum q w = sum u w + low sum w`: the second part is known beforehand.

use super::lowered::{Band, bounds, piece};
use super::quads::{Destination, Filters, Instructions, QUAD, Results, Rows, TILE};
use super::quantize;
use crate::grid::Grid;
use crate::int8_weights::Int8Weights;
use bytemuck::cast_slice_mut;
use cnn_core::Result;
use cnn_core::ops::conv::ConvGeometry;
use cnn_core::session::{Epilogue, Inputs, Kernel, Layout, Levels, Lowered, Lowering, Part, Target};
use cnn_core::simd::Isa;
use std::ops::Range;

/// Multiply-adds of quads of vectors that a part should have.
const PART: usize = 15_000;
/// Parts of an image.
const PARTS: usize = 16;
/// Pixels that a part should have: fewer would read the weights for little.
const PIXELS: usize = 64;

#[derive(Debug)]
struct Dot {
    g: ConvGeometry,
    input: Grid,
    /// Bytes of a pixel: channels, filled up to quads.
    pitch: usize,
    /// Where the runs of a window begin, and their quads.
    runs: Vec<usize>,
    run_quads: usize,
    /// Terms `kh x kw x c`; `low sum w + bias` is added.
    filters: Filters,
    with: Instructions,
    isa: Isa,
    residual: bool,
    /// An activation that is more than bounds.
    activation: Epilogue,
    /// `None` where windows are pixels of the input.
    band: Option<Band>,
    /// The grid of the output, if it is to be bytes.
    levels: Option<Levels>,
    parts: Vec<Part>,
}

/// The instructions by which this kernel computes the layer, if it takes it: one group, weights of a byte, and padding and all codes bytes.
pub fn instructions(groups: usize, weights: &Int8Weights, isa: Isa) -> Option<Instructions> {
    let input = weights.input();
    let codes = input.low <= 0 && input.high >= 0 && input.high - input.low < 256;
    Instructions::of(isa, weights.levels()).filter(|_| groups == 1 && codes)
}

/// The kernel of a convolution in one group, if the processor has the instructions and the sums fit 32 bits whatever the input.
pub fn lower(at: &Lowering<'_>, g: &ConvGeometry, weights: &Int8Weights) -> Option<Lowered> {
    let terms = g.c * g.kernel[0] * g.kernel[1];
    let with = instructions(g.groups, weights, at.isa)?;
    let lowest = i64::from(weights.input().low);
    let rows = weights.levels().chunks_exact(terms).enumerate();
    let added = rows.map(|(m, row)| {
        let bias = weights.bias().map_or(0, |b| i64::from(b[m]));
        let (sum, sizes) =
            row.iter().fold((0, 0), |(sum, sizes), &w| (sum + i64::from(w), sizes + i64::from(w).abs()));
        let added = lowest * sum + bias;
        let most = 255 * sizes + added.abs();
        // what is taken from codes leaves a sum within the same bounds
        (most <= i64::from(i32::MAX)).then_some((added + i64::from(with.taken()) * sum) as i32)
    });
    let mut added: Vec<i32> = added.collect::<Option<_>>()?;
    let tiles = g.m.div_ceil(TILE);
    added.resize(tiles * TILE, 0);
    let mut steps: Vec<f32> = weights.grids().iter().map(|w| weights.input().step * w.step).collect();
    steps.resize(tiles * TILE, 0.0);

    let full = |values: &Option<Vec<f32>>| {
        values.clone().map(|mut values| {
            values.resize(tiles * TILE, 0.0);
            values
        })
    };
    let ([low, high], activation) = bounds(at.epilogue.activation);

    let pixelwise = g.kernel == [1, 1] && g.stride == [1, 1] && g.pad == [0; 4];
    let pitch = g.c.next_multiple_of(QUAD);
    // for pixels of which image does not matter, all are one row
    let (images, lines, line) = match pixelwise {
        true => (1, g.n * g.h * g.w, 1),
        false => (g.n, g.out_h(), g.out_w()),
    };
    let quads_of_window = g.kernel[0] * g.kernel[1] * pitch / QUAD;
    let wanted = (lines * line * quads_of_window * tiles / PART).clamp(1, PARTS);
    let pieces = wanted.min((lines * line / PIXELS).max(1)).min(lines);
    let columns = (wanted / pieces).min(tiles);
    let band = match pixelwise {
        true => None,
        false => Some(Band::of(g, pitch, lines.div_ceil(pieces))?),
    };
    let mut parts = Vec::new();
    for (image, i) in (0..images).flat_map(|image| (0..pieces).map(move |i| (image, i))) {
        let rows = piece(lines, pieces, i);
        let pixels = (image * lines + rows.start) * line..(image * lines + rows.end) * line;
        for j in 0..columns {
            let tiles = piece(tiles, columns, j);
            let channels = tiles.start * TILE..g.m.min(tiles.end * TILE);
            parts.push(Part { pixels: pixels.clone(), channels });
        }
    }
    // without dilation the taps of a row of the filter are neighbours
    let width = band.map_or(0, |b| b.width);
    let whole = g.dilation[1] == 1;
    let run_taps = if whole { g.kernel[1] } else { 1 };
    let runs = (0..g.kernel[0]).flat_map(|i| {
        let row = i * g.dilation[0] * width;
        (0..g.kernel[1] / run_taps).map(move |j| (row + j * g.dilation[1]) * pitch)
    });
    let levels = at.levels.filter(|_| activation.is_empty());
    let reads = at.inputs.first().map_or(Layout::ChannelsLast, |e| e.layout);
    let kernel = Dot {
        g: *g,
        input: weights.input(),
        pitch,
        runs: runs.collect(),
        run_quads: run_taps * pitch / QUAD,
        filters: Filters {
            weights: at.shared("int8 dot", || pack(g, weights.levels())),
            added,
            steps,
            scale: full(&at.epilogue.scale),
            shift: full(&at.epilogue.shift),
            low,
            high,
        },
        with,
        isa: at.isa,
        residual: at.epilogue.residual,
        activation,
        band,
        levels,
        parts,
    };
    Some(Lowered {
        kernel: Box::new(kernel),
        inputs: vec![if reads == Layout::Codes { reads } else { Layout::ChannelsLast }],
        output: if levels.is_some() { Layout::Codes } else { Layout::ChannelsLast },
        alternatives: Vec::new(),
    })
}

/// Filters `m x c x kh x kw` to `[tile][quad][filter][4]`, terms `kh x kw x c`, channels filled up with zeros.
fn pack(g: &ConvGeometry, levels: &[i16]) -> Vec<i8> {
    let (taps, pitch) = (g.kernel[0] * g.kernel[1], g.c.next_multiple_of(QUAD));
    let tile = taps * pitch * TILE;
    let mut packed = vec![0i8; g.m.div_ceil(TILE) * tile];
    for (m, row) in levels.chunks_exact(g.c * taps).enumerate() {
        for (at, &level) in row.iter().enumerate() {
            let term = at % taps * pitch + at / taps;
            packed[m / TILE * tile + (term / QUAD * TILE + m % TILE) * QUAD + term % QUAD] = level as i8;
        }
    }
    packed
}

impl Dot {
    /// The codes that a part reads.
    fn codes(&self, longest: usize) -> usize {
        self.band.map_or(longest * self.pitch, |b| b.len())
    }

    /// A row of output pixels.
    fn row(&self, codes: &[u8], first: usize, pixels: Range<usize>, inputs: Inputs<'_>, out: &Target<'_>) {
        let channels = out.part().channels.clone();
        let rows = Rows {
            codes,
            first,
            step: if self.band.is_some() { self.g.stride[1] } else { 1 } * self.pitch,
            count: pixels.len(),
            runs: &self.runs,
            run_quads: self.run_quads,
        };
        let residual = self.residual.then(|| inputs.get(1));
        assert!(residual.is_none_or(|r| pixels.end <= r.pixels && channels.end <= r.channels));
        assert!(out.part().pixels.start <= pixels.start && pixels.end <= out.part().pixels.end);
        let (pitch, y) = match self.levels {
            Some(levels) => (4 * out.pitch(), Results::Codes(out.as_ptr().cast(), levels)),
            None => (out.pitch(), Results::Floats(out.as_ptr())),
        };
        let y = y.after(pixels.start * pitch + channels.start);
        let (residual, residual_pitch) = match residual {
            Some(r) => (r.as_ptr().wrapping_add(pixels.start * r.pitch + channels.start), r.pitch),
            None => (std::ptr::null(), 0),
        };
        let to = Destination { y, pitch, residual, residual_pitch };
        // SAFETY: these pixels and channels are those of the part, which this thread alone writes; the residual has them too.
        unsafe { self.with.products(rows, &self.filters, [channels.start, channels.end], to) };
    }
}

impl Kernel for Dot {
    fn algorithm(&self) -> &'static str {
        "int8 dot"
    }

    fn parts(&self) -> Vec<Part> {
        self.parts.clone()
    }

    fn scratch(&self) -> usize {
        let longest = self.parts.iter().map(|p| p.pixels.len()).max().unwrap_or(0);
        self.codes(longest).div_ceil(4).next_multiple_of(16)
    }

    fn weight_bytes(&self) -> usize {
        self.filters.weights.len() + self.filters.added.len() * 8
    }

    fn run(&self, inputs: Inputs<'_>, mut out: Target<'_>, scratch: &mut [f32]) -> Result<()> {
        let (g, x, part) = (&self.g, inputs.get(0), out.part().clone());
        let codes: &mut [u8] = cast_slice_mut(scratch);
        let zero = -self.input.low as u8;
        let quantize = |pixels: Range<usize>, to: &mut [u8]| {
            if x.codes == 0 {
                quantize::codes(self.isa, self.input, x, pixels, to, self.pitch);
            } else if let Some(run) = x.run_of_codes(pixels.clone()) {
                to.copy_from_slice(run);
            } else {
                pixels
                    .zip(to.chunks_exact_mut(self.pitch))
                    .for_each(|(p, to)| to.copy_from_slice(x.codes(p)));
            }
        };
        assert!(self.levels.is_some() == out.is_codes() && (x.codes == 0 || 4 * x.channels == self.pitch));
        match &self.band {
            None => {
                let at_hand = if x.codes > 0 { x.run_of_codes(part.pixels.clone()) } else { None };
                let codes = match at_hand {
                    Some(run) => run,
                    None => {
                        let codes = &mut codes[..part.pixels.len() * self.pitch];
                        quantize(part.pixels.clone(), codes);
                        codes
                    }
                };
                self.row(codes, 0, part.pixels.clone(), inputs, &out);
            }
            Some(band) => {
                let (plane, width) = (g.out_h() * g.out_w(), g.out_w());
                let first = part.pixels.start % plane / width;
                let lines = first..first + part.pixels.len() / width;
                band.fill(g, part.pixels.start / plane, &lines, codes, zero, quantize);
                for (i, start) in part.pixels.clone().step_by(width).enumerate() {
                    let from = i * g.stride[0] * band.width * self.pitch;
                    self.row(codes, from, start..start + width, inputs, &out);
                }
            }
        }
        if !self.activation.is_empty() {
            let pixels = part.pixels.clone();
            pixels.for_each(|p| self.activation.finish(part.channels.clone(), out.pixel(p), None));
        }
        Ok(())
    }
}
