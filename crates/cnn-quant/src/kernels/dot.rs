//! Convolutions of unsigned bytes by signed ones, where the processor multiplies four of them at a time ([`quads`]).
//!
//! A code is a level less the lowest one, `u = q - low`, so `sum q w = sum u w + low sum w`: the second part is known beforehand.

use super::lowered::{Band, Ending, piece};
use super::quads::{self, Filters, QUAD, Rows, TILE};
use super::quantize;
use crate::grid::Grid;
use crate::int8_weights::Int8Weights;
use bytemuck::cast_slice_mut;
use cnn_core::Result;
use cnn_core::ops::conv::ConvGeometry;
use cnn_core::session::{Inputs, Kernel, Lowered, Lowering, Part, Target};
use std::ops::Range;
use std::sync::Arc;

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
    /// `[tile of filters][quad of terms][filter][4]`, terms `kh x kw x c`.
    weights: Arc<Vec<i8>>,
    /// `low sum w + bias` for each filter, filled up to tiles.
    added: Vec<i32>,
    /// Likewise.
    steps: Vec<f32>,
    ending: Ending,
    /// `None` where windows are pixels of the input.
    band: Option<Band>,
    parts: Vec<Part>,
}

/// The kernel of a convolution in one group, if the processor has the instructions and the sums fit 32 bits whatever the input.
pub fn lower(at: &Lowering<'_>, g: &ConvGeometry, weights: &Int8Weights) -> Option<Lowered> {
    let terms = g.c * g.kernel[0] * g.kernel[1];
    let bytes = weights.levels().iter().all(|l| i8::try_from(*l).is_ok());
    let input = weights.input();
    // padding is level 0, and all codes are bytes
    let codes = input.low <= 0 && input.high >= 0 && input.high - input.low < 256;
    if g.groups != 1 || !bytes || !codes || !quads::available(at.isa) {
        return None;
    }
    let low = i64::from(input.low);
    let rows = weights.levels().chunks_exact(terms).enumerate();
    let added = rows.map(|(m, row)| {
        let bias = weights.bias().map_or(0, |b| i64::from(b[m]));
        let (sum, sizes) =
            row.iter().fold((0, 0), |(sum, sizes), &w| (sum + i64::from(w), sizes + i64::from(w).abs()));
        let added = low * sum + bias;
        let most = 255 * sizes + added.abs();
        (most <= i64::from(i32::MAX)).then_some(added as i32)
    });
    let mut added: Vec<i32> = added.collect::<Option<_>>()?;
    let tiles = g.m.div_ceil(TILE);
    added.resize(tiles * TILE, 0);
    let mut steps: Vec<f32> = weights.grids().iter().map(|w| weights.input().step * w.step).collect();
    steps.resize(tiles * TILE, 0.0);

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
    Some(Lowered::channels_last(Dot {
        g: *g,
        input: weights.input(),
        pitch,
        runs: runs.collect(),
        run_quads: run_taps * pitch / QUAD,
        weights: at.shared("int8 dot", || pack(g, weights.levels())),
        added,
        steps,
        ending: Ending::new(at, weights),
        band,
        parts,
    }))
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

    /// The sums of a row of output pixels, scaled back.
    fn row(&self, codes: &[u8], first: usize, pixels: Range<usize>, out: &Target<'_>) {
        let channels = out.part().channels.clone();
        let rows = Rows {
            codes,
            first,
            step: if self.band.is_some() { self.g.stride[1] } else { 1 } * self.pitch,
            count: pixels.len(),
            runs: &self.runs,
            run_quads: self.run_quads,
        };
        let filters = Filters { weights: &self.weights, added: &self.added, steps: &self.steps };
        assert!(out.part().pixels.start <= pixels.start && pixels.end <= out.part().pixels.end);
        let (pitch, range) = (out.pitch(), [channels.start, channels.end]);
        // SAFETY: these pixels and channels are those of the part, which this thread alone writes.
        unsafe {
            let y = out.as_ptr().add(pixels.start * pitch + channels.start);
            quads::products(rows, &filters, range, y, pitch);
        }
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
        self.weights.len() + self.ending.bytes()
    }

    fn run(&self, inputs: Inputs<'_>, mut out: Target<'_>, scratch: &mut [f32]) -> Result<()> {
        let (g, x, part, isa) = (&self.g, inputs.get(0), out.part().clone(), self.ending.isa);
        let codes: &mut [u8] = cast_slice_mut(scratch);
        let zero = -self.input.low as u8;
        let quantize = |x: &[f32], to: &mut [u8]| quantize::codes(isa, self.input, x, to);
        match &self.band {
            None => {
                for (p, to) in part.pixels.clone().zip(codes.chunks_exact_mut(self.pitch)) {
                    quantize(x.pixel(p), &mut to[..g.c]);
                }
                self.row(codes, 0, part.pixels.clone(), &out);
            }
            Some(band) => {
                let (plane, width) = (g.out_h() * g.out_w(), g.out_w());
                let first = part.pixels.start % plane / width;
                let lines = first..first + part.pixels.len() / width;
                band.fill(g, x, part.pixels.start / plane, &lines, codes, zero, quantize);
                for (i, start) in part.pixels.clone().step_by(width).enumerate() {
                    let from = i * g.stride[0] * band.width * self.pitch;
                    self.row(codes, from, start..start + width, &out);
                }
            }
        }
        part.pixels.clone().for_each(|p| self.ending.finish(p, inputs, &mut out));
        Ok(())
    }
}
