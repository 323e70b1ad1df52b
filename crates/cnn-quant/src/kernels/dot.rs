//! Convolutions of unsigned bytes by signed ones, where the processor multiplies four of them at a time ([`super::quads`]).
//!
//! A code is a level less the lowest one, `u = q - low`, so `sum q w = sum u w + low sum w`: the second part is known beforehand.

use super::lowered::{Band, bounds, piece};
use super::quads::{Destination, Ends, Filters, Instructions, QUAD, Results, Rows, TILE};
use super::quantize::{self, PLANES};
use crate::grid::Grid;
use crate::int8_weights::Int8Weights;
use bytemuck::{Pod, cast_slice, cast_slice_mut};
use cnn_core::Result;
use cnn_core::ops::conv::ConvGeometry;
use cnn_core::session::{Epilogue, Inputs, Kernel, Layout, Levels, Lowered, Lowering, Part, Target};
use cnn_core::simd::Isa;
use std::ops::Range;

/// Name of the algorithm.
pub const NAME: &str = "int8 dot";
/// Products of quads and tiles that a part should have, with VNNI.
const PART: usize = 15_000;
/// Parts of an image.
const PARTS: usize = 16;
/// Pixels that a part should have: fewer would read the weights for little.
const PIXELS: usize = 64;

#[derive(Debug)]
struct Dot {
    g: ConvGeometry,
    /// The input is planes of floats, not channels last.
    planar: bool,
    input: Grid,
    /// Codes of a pixel: channels, filled up to quads.
    pitch: usize,
    /// The bytes at which the runs of a window begin, and their quads.
    runs: Vec<usize>,
    run_quads: usize,
    /// Terms `kh x kw x c`; `low sum w + bias` is added.
    filters: Filters,
    with: Instructions,
    isa: Isa,
    destinations: Destinations,
    /// An activation that is more than bounds.
    activation: Epilogue,
    /// `None` where windows are pixels of the input.
    band: Option<Band>,
    parts: Vec<Part>,
}

/// Where results go, and what is added to them.
#[derive(Debug)]
pub struct Destinations {
    pub residual: bool,
    /// The grid of the output, if it is to be bytes.
    pub levels: Option<Levels>,
}

impl Destinations {
    /// For some pixels and channels of a part.
    ///
    /// # Panics
    /// If they are not of the part, or not of the residual.
    pub fn at(
        &self,
        pixels: Range<usize>,
        channels: Range<usize>,
        inputs: Inputs<'_>,
        out: &Target<'_>,
    ) -> Destination {
        let (part, residual) = (out.part(), self.residual.then(|| inputs.get(1)));
        assert!(residual.is_none_or(|r| pixels.end <= r.pixels && channels.end <= r.channels));
        assert!(part.pixels.start <= pixels.start && pixels.end <= part.pixels.end);
        assert!(part.channels.start <= channels.start && channels.end <= part.channels.end);
        assert!(self.levels.is_some() == out.is_codes());
        let (pitch, y) = match self.levels {
            Some(levels) => (4 * out.pitch(), Results::Codes(out.as_ptr().cast(), levels)),
            None => (out.pitch(), Results::Floats(out.as_ptr())),
        };
        let y = y.after(pixels.start * pitch + channels.start);
        let (residual, residual_pitch) = match residual {
            Some(r) => (r.as_ptr().wrapping_add(pixels.start * r.pitch + channels.start), r.pitch),
            None => (std::ptr::null(), 0),
        };
        Destination { y, pitch, residual, residual_pitch }
    }
}

/// Into how many bands of lines, and groups of tiles of filters, to part so many products of a quad and a tile.
pub fn pieces(products: usize, with: Instructions, lines: usize, line: usize, tiles: usize) -> [usize; 2] {
    let wanted = (products * with.cost() / PART).clamp(1, PARTS);
    let pieces = wanted.min((lines * line / PIXELS).max(1)).min(lines);
    [pieces, (wanted / pieces).min(tiles)]
}

/// So many parts of each image, with `unit` lines together, for `m` filters.
pub fn parts(
    images: usize,
    [lines, line]: [usize; 2],
    unit: usize,
    m: usize,
    [pieces, columns]: [usize; 2],
) -> Vec<Part> {
    let mut parts = Vec::new();
    for (image, i) in (0..images).flat_map(|image| (0..pieces).map(move |i| (image, i))) {
        let rows = piece(lines.div_ceil(unit), pieces, i);
        let [start, end] = [rows.start, rows.end].map(|row| (image * lines + lines.min(row * unit)) * line);
        for j in 0..columns {
            let tiles = piece(m.div_ceil(TILE), columns, j);
            parts.push(Part { pixels: start..end, channels: tiles.start * TILE..m.min(tiles.end * TILE) });
        }
    }
    parts
}

/// The instructions by which this kernel computes the layer, if it takes it: one group, weights of a byte, and padding and all codes bytes.
pub fn instructions(groups: usize, weights: &Int8Weights, isa: Isa) -> Option<Instructions> {
    let input = weights.input();
    let codes = input.low <= 0 && input.high >= 0 && input.high - input.low < 256;
    Instructions::of(isa, weights.levels()).filter(|_| groups == 1 && codes)
}

/// The kernel of a convolution in one group, if the processor has the instructions and the sums fit 32 bits whatever the input.
pub fn lower(at: &Lowering<'_>, g: &ConvGeometry, weights: &Int8Weights) -> Option<Lowered> {
    let with = instructions(g.groups, weights, at.isa)?;
    let (ends, activation) = ends(at, g, weights, with)?;
    let tiles = g.m.div_ceil(TILE);
    let pixelwise = g.kernel == [1, 1] && g.stride == [1, 1] && g.pad == [0; 4];
    let pitch = g.c.next_multiple_of(QUAD);
    // for pixels of which image does not matter, all are one row
    let (images, lines, line) = match pixelwise {
        true => (1, g.n * g.h * g.w, 1),
        false => (g.n, g.out_h(), g.out_w()),
    };
    let quads_of_window = g.kernel[0] * g.kernel[1] * pitch / QUAD;
    let products = lines * line * quads_of_window * tiles;
    let [pieces, columns] = pieces(products, with, lines, line, tiles);
    let band = match pixelwise {
        true => None,
        false => Some(Band::of(g, pitch, lines.div_ceil(pieces))?),
    };
    // without dilation the taps of a row of the filter are neighbours
    let width = band.map_or(0, |b| b.width);
    let whole = g.dilation[1] == 1;
    let run_taps = if whole { g.kernel[1] } else { 1 };
    let runs = (0..g.kernel[0]).flat_map(|i| {
        let row = i * g.dilation[0] * width;
        (0..g.kernel[1] / run_taps).map(move |j| (row + j * g.dilation[1]) * pitch * with.width())
    });
    let levels = at.levels.filter(|_| activation.is_empty());
    let reads = at.inputs.first().map_or(Layout::ChannelsLast, |e| e.layout);
    let planar = reads == Layout::Planar && g.c <= PLANES && band.is_some();
    let kernel = Dot {
        g: *g,
        planar,
        input: weights.input(),
        pitch,
        runs: runs.collect(),
        run_quads: run_taps * pitch / QUAD,
        filters: Filters { weights: at.shared("int8 dot", || pack(g, weights.levels(), with)), ends },
        with,
        isa: at.isa,
        destinations: Destinations { residual: at.epilogue.residual, levels },
        activation,
        band,
        parts: parts(images, [lines, line], 1, g.m, [pieces, columns]),
    };
    Some(Lowered {
        kernel: Box::new(kernel),
        inputs: vec![if planar || reads == Layout::Codes { reads } else { Layout::ChannelsLast }],
        output: if levels.is_some() { Layout::Codes } else { Layout::ChannelsLast },
        alternatives: Vec::new(),
    })
}

/// What becomes of the sums of codes, if they fit 32 bits whatever the input, and what of the activation is to be done after.
pub fn ends(
    at: &Lowering<'_>,
    g: &ConvGeometry,
    weights: &Int8Weights,
    with: Instructions,
) -> Option<(Ends, Epilogue)> {
    let terms = g.c * g.kernel[0] * g.kernel[1];
    let filters = g.m.next_multiple_of(TILE);
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
    added.resize(filters, 0);
    let full = |mut values: Vec<f32>| {
        values.resize(filters, 0.0);
        values
    };
    let ([low, high], activation) = bounds(at.epilogue.activation);
    let ends = Ends {
        added,
        steps: full(weights.grids().iter().map(|w| weights.input().step * w.step).collect()),
        scale: at.epilogue.scale.clone().map(full),
        shift: at.epilogue.shift.clone().map(full),
        low,
        high,
    };
    Some((ends, activation))
}

/// Filters `m x c x kh x kw` to `[tile][quad]` and places in it, terms `kh x kw x c`, channels filled up with zeros.
fn pack(g: &ConvGeometry, levels: &[i16], with: Instructions) -> Vec<i8> {
    let (taps, pitch) = (g.kernel[0] * g.kernel[1], g.c.next_multiple_of(QUAD));
    let tile = taps * pitch * TILE;
    let mut packed = vec![0i8; g.m.div_ceil(TILE) * tile];
    for (m, row) in levels.chunks_exact(g.c * taps).enumerate() {
        for (at, &level) in row.iter().enumerate() {
            let term = at % taps * pitch + at / taps;
            let place = with.place(m % TILE, term % QUAD);
            packed[m / TILE * tile + term / QUAD * TILE * QUAD + place] = level as i8;
        }
    }
    packed
}

impl Dot {
    /// The codes that a part reads.
    fn codes(&self, longest: usize) -> usize {
        self.band.map_or(longest * self.pitch, |b| b.len())
    }

    /// Lines of output pixels, whose windows begin with the codes.
    fn lines(&self, codes: &[u8], lines: usize, inputs: Inputs<'_>, out: &Target<'_>) {
        let (pixels, channels) = (out.part().pixels.clone(), out.part().channels.clone());
        let width = self.band.map_or(0, |b| b.width);
        let rows = Rows {
            codes,
            first: 0,
            step: if self.band.is_some() { self.g.stride[1] } else { 1 } * self.pitch * self.with.width(),
            count: pixels.len() / lines,
            down: self.g.stride[0] * width * self.pitch * self.with.width(),
            lines,
            runs: &self.runs,
            run_quads: self.run_quads,
        };
        let to = self.destinations.at(pixels, channels.clone(), inputs, out);
        // SAFETY: these pixels and channels are those of the part, which this thread alone writes; the residual has them too.
        unsafe { self.with.products(rows, &self.filters, [channels.start, channels.end], to) };
    }
}

impl Kernel for Dot {
    fn algorithm(&self) -> &'static str {
        NAME
    }

    fn parts(&self) -> Vec<Part> {
        self.parts.clone()
    }

    fn scratch(&self) -> usize {
        let longest = self.parts.iter().map(|p| p.pixels.len()).max().unwrap_or(0);
        (self.codes(longest) * self.with.width()).div_ceil(4).next_multiple_of(16)
    }

    fn weight_bytes(&self) -> usize {
        self.filters.weights.len() + self.filters.ends.added.len() * 8
    }

    fn run(&self, inputs: Inputs<'_>, out: Target<'_>, scratch: &mut [f32]) -> Result<()> {
        match self.with.width() {
            1 => self.run_on::<u8>(inputs, out, scratch),
            _ => self.run_on::<u16>(inputs, out, scratch),
        }
        Ok(())
    }
}

impl Dot {
    /// With codes that are held as the instructions want them.
    fn run_on<T: From<u8> + Pod>(&self, inputs: Inputs<'_>, mut out: Target<'_>, scratch: &mut [f32]) {
        let (g, x, part) = (&self.g, inputs.get(0), out.part().clone());
        let codes: &mut [T] = cast_slice_mut(scratch);
        let zero = T::from(-self.input.low as u8);
        let quantize = |pixels: Range<usize>, to: &mut [T]| {
            if self.planar {
                let (image, plane) = (pixels.start / (g.h * g.w), g.h * g.w);
                let inside = pixels.start % plane..pixels.start % plane + pixels.len();
                return quantize::codes_of_planes(self.isa, self.input, x.pixel(image), plane, inside, to);
            }
            quantize::codes(self.isa, self.input, x, pixels, to, self.pitch);
        };
        assert!(x.codes == 0 || 4 * x.channels == self.pitch);
        match &self.band {
            None => {
                let as_they_are = x.codes > 0 && self.with.width() == 1;
                let at_hand = as_they_are.then(|| x.run_of_codes(part.pixels.clone())).flatten();
                let codes = at_hand.unwrap_or_else(|| {
                    let codes = &mut codes[..part.pixels.len() * self.pitch];
                    quantize(part.pixels.clone(), codes);
                    cast_slice(codes)
                });
                self.lines(codes, 1, inputs, &out);
            }
            Some(band) => {
                let (plane, width) = (g.out_h() * g.out_w(), g.out_w());
                let first = part.pixels.start % plane / width;
                let lines = first..first + part.pixels.len() / width;
                band.fill(g, part.pixels.start / plane, &lines, codes, zero, quantize);
                self.lines(cast_slice(codes), lines.len(), inputs, &out);
            }
        }
        if !self.activation.is_empty() {
            let pixels = part.pixels.clone();
            pixels.for_each(|p| self.activation.finish(part.channels.clone(), out.pixel(p), None));
        }
    }
}
