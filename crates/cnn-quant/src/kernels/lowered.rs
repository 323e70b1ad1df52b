//! Convolutions and linear layers of levels as kernels of a session.
//!
//! Between the layers values are floats, channels last. A part quantizes the rows it reads, copies the window of each pixel
//! into one run of levels, and multiplies windows with packed filters, filters in lanes: what comes out is channels last again.

use super::pairs::{self, TILE};
use super::quads::Instructions;
use super::quantize;
#[cfg(target_arch = "x86_64")]
use super::winograd;
use super::{depthwise, dot};
use crate::grid::Grid;
use crate::int8_weights::Int8Weights;
use bytemuck::cast_slice_mut;
use cnn_core::Result;
use cnn_core::layers::ConvOptions;
use cnn_core::ops::activation::ActivationFn;
use cnn_core::ops::conv::ConvGeometry;
use cnn_core::session::{Epilogue, Inputs, Kernel, Layout, Levels, Lowered, Lowering, Part, Target};
use cnn_core::simd::Isa;
use std::ops::Range;
use std::sync::Arc;

/// Multiply-adds of vectors that a part should have.
const PART: usize = 30_000;
/// Parts of an image.
const PARTS: usize = 16;
/// Pixels that a part should have: fewer would read the weights for little.
const PIXELS: usize = 64;
/// Levels of the windows that are multiplied at a time.
const WINDOWS: usize = 1 << 14;
/// Levels that a padded input may have at most, in terms of what is useful.
const BLOWN_UP: usize = 16;

/// What happens to sums: the bias is added, they are scaled back, and the layer's epilogue follows.
#[derive(Debug)]
pub struct Ending {
    pub isa: Isa,
    bias: Vec<f64>,
    steps: Vec<f32>,
    epilogue: Epilogue,
}

impl Ending {
    pub fn new(at: &Lowering<'_>, weights: &Int8Weights) -> Ending {
        let channels = weights.grids().len();
        let bias = weights.bias().map_or(vec![0.0; channels], |b| b.iter().map(|&b| f64::from(b)).collect());
        let steps = weights.grids().iter().map(|g| weights.input().step * g.step).collect();
        Ending { isa: at.isa, bias, steps, epilogue: at.epilogue.clone() }
    }

    /// Scales the sums of some channels back.
    pub fn scale_back<T: Copy + Into<f64>>(&self, channels: Range<usize>, sums: &[T], y: &mut [f32]) {
        let (bias, steps) = (&self.bias[channels.clone()], &self.steps[channels]);
        quantize::scale_back(self.isa, sums, bias, steps, y);
    }

    /// The epilogue of one pixel of a part.
    pub fn finish(&self, p: usize, inputs: Inputs<'_>, out: &mut Target<'_>) {
        if !self.epilogue.is_empty() {
            let residual = self.epilogue.residual.then(|| inputs.get(1).pixel(p));
            let channels = out.part().channels.clone();
            self.epilogue.finish(channels, out.pixel(p), residual);
        }
    }

    pub fn bytes(&self) -> usize {
        self.bias.len() * 8 + self.steps.len() * 4
    }
}

/// The rows of a padded image that a band of output rows reads.
#[derive(Debug, Clone, Copy)]
pub struct Band {
    /// Rows of the padded input that the largest band reads.
    pub height: usize,
    /// Width of the padded input.
    pub width: usize,
    /// Values of a pixel, at least its channels.
    pub pitch: usize,
}

impl Band {
    /// Bands of at most `rows` output rows, unless padding would blow up the input beyond all measure.
    pub fn of(g: &ConvGeometry, pitch: usize, rows: usize) -> Option<Band> {
        let height = (rows.checked_sub(1)? * g.stride[0])
            .checked_add((g.kernel[0] - 1).checked_mul(g.dilation[0])?.checked_add(1)?)?;
        let width = g.w.checked_add(g.pad[1])?.checked_add(g.pad[3])?;
        let size = height.checked_mul(width)?.checked_mul(pitch)?;
        let useful = g.c * g.h * g.w + g.m * g.out_h() * g.out_w();
        (size <= BLOWN_UP * useful + (1 << 16)).then_some(Band { height, width, pitch })
    }

    pub fn len(&self) -> usize {
        self.height * self.width * self.pitch
    }

    /// Quantizes what the output rows `rows` of an image read, with `zero` around the image; `quantize` is told the pixels of a row.
    pub fn fill<T: Copy>(
        &self,
        g: &ConvGeometry,
        image: usize,
        rows: &Range<usize>,
        to: &mut [T],
        zero: T,
        quantize: impl Fn(Range<usize>, &mut [T]),
    ) {
        let count = (rows.len() - 1) * g.stride[0] + (g.kernel[0] - 1) * g.dilation[0] + 1;
        for (i, to) in to.chunks_exact_mut(self.width * self.pitch).take(count).enumerate() {
            let y = (rows.start * g.stride[0] + i).checked_sub(g.pad[0]).filter(|&y| y < g.h);
            let Some(y) = y else {
                to.fill(zero);
                continue;
            };
            let (left, rest) = to.split_at_mut(g.pad[1] * self.pitch);
            let (middle, right) = rest.split_at_mut(g.w * self.pitch);
            left.fill(zero);
            right.fill(zero);
            let from = (image * g.h + y) * g.w;
            quantize(from..from + g.w, middle);
        }
    }
}

/// An activation as bounds, and what of it is no bounds, to be done after.
pub fn bounds(activation: Option<ActivationFn>) -> ([f32; 2], Epilogue) {
    let (bounds, rest) = match activation {
        Some(ActivationFn::Relu) => ([0.0, f32::INFINITY], None),
        Some(ActivationFn::Relu6) => ([0.0, 6.0], None),
        Some(ActivationFn::Clip(low, high)) => ([low, high], None),
        other => ([f32::NEG_INFINITY, f32::INFINITY], other),
    };
    (bounds, Epilogue { activation: rest, ..Epilogue::default() })
}

/// `i` of `pieces` nearly equal pieces of `0 .. all`.
pub fn piece(all: usize, pieces: usize, i: usize) -> Range<usize> {
    i * all / pieces..(i + 1) * all / pieces
}

/// A convolution of levels. A linear layer is one over images of a single row, `n` pixels wide, with a filter of one tap.
#[derive(Debug)]
struct Int8 {
    g: ConvGeometry,
    input: Grid,
    /// Terms of a window, filled up to pairs.
    terms: usize,
    /// `[group][tile of filters][pair of terms][filter of the tile][2]`; terms are `kh x kw x c`.
    weights: Arc<Vec<i16>>,
    ending: Ending,
    /// `None` where windows are pixels of the input.
    band: Option<Band>,
    /// Windows that are multiplied at a time.
    chunk: usize,
    parts: Vec<Part>,
}

/// The kernel of a convolution.
pub fn conv(at: &Lowering<'_>, g: &ConvGeometry, weights: &Int8Weights) -> Option<Lowered> {
    if g.n * g.m * g.out_h() * g.out_w() == 0 {
        return None;
    }
    let special = depthwise::lower(at, g, weights).or_else(|| by_quads(at, g, weights));
    special.or_else(|| Some(Lowered::channels_last(Int8::new(at, g, weights)?)))
}

/// The kernel of a convolution in one group, if the processor has instructions for it: by Winograd's algorithm where that can be and pays.
#[cfg(target_arch = "x86_64")]
fn by_quads(at: &Lowering<'_>, g: &ConvGeometry, weights: &Int8Weights) -> Option<Lowered> {
    let with = dot::instructions(g.groups, weights, at.isa)?;
    if !winograd::fits(g, weights, with) {
        return dot::lower(at, g, weights);
    }
    let by_winograd = at.choice.map_or(winograd::pays(g), |choice| choice == winograd::NAME);
    let (lowered, other) = match by_winograd {
        true => (winograd::lower(at, g, weights)?, dot::NAME),
        false => (dot::lower(at, g, weights)?, winograd::NAME),
    };
    Some(Lowered { alternatives: vec![other], ..lowered })
}

#[cfg(not(target_arch = "x86_64"))]
use dot::lower as by_quads;

/// The kernel of a linear layer.
pub fn linear(at: &Lowering<'_>, n: usize, weights: &Int8Weights) -> Option<Lowered> {
    let &[m, c] = weights.shape() else { return None };
    let g = ConvGeometry {
        n: 1,
        c,
        h: 1,
        w: n,
        m,
        kernel: [1, 1],
        stride: [1, 1],
        pad: [0; 4],
        dilation: [1, 1],
        groups: 1,
    };
    if n == 0 {
        return None;
    }
    let lowered =
        dot::lower(at, &g, weights).or_else(|| Some(Lowered::channels_last(Int8::new(at, &g, weights)?)))?;
    Some(Lowered { inputs: vec![Layout::Planar], output: Layout::Planar, ..lowered })
}

/// The grid of the input, if the kernel of a convolution reads bytes.
pub fn reads(options: &ConvOptions, weights: &Int8Weights, isa: Isa) -> Option<Levels> {
    let depthwise = weights.shape()[..2] == [options.groups, 1] && depthwise::suits(weights);
    let some = Instructions::of(isa, &[]).is_some();
    let reads = some && depthwise || dot::instructions(options.groups, weights, isa).is_some();
    reads.then(|| weights.input().into())
}

impl Int8 {
    fn new(at: &Lowering<'_>, g: &ConvGeometry, weights: &Int8Weights) -> Option<Int8> {
        let pixelwise = g.kernel == [1, 1] && g.stride == [1, 1] && g.pad == [0; 4] && g.groups == 1;
        let terms = (g.c / g.groups * g.kernel[0] * g.kernel[1]).next_multiple_of(2);
        let tiles = (g.m / g.groups).div_ceil(TILE);
        // for pixels of which image does not matter, all are one row
        let (images, lines, line) = match pixelwise {
            true => (1, g.n * g.h * g.w, 1),
            false => (g.n, g.out_h(), g.out_w()),
        };
        let cost = lines * line * terms * tiles * g.groups;
        let wanted = (cost / PART).clamp(1, PARTS);
        let most = (lines * line / PIXELS).max(1);
        let pieces = wanted.min(most).min(lines);
        let columns = if g.groups > 1 { 1 } else { (wanted / pieces).min(tiles) };
        let band = match pixelwise {
            true => None,
            false => Some(Band::of(g, g.c, lines.div_ceil(pieces))?),
        };
        let mut parts = Vec::new();
        for image in 0..images {
            for i in 0..pieces {
                let rows = piece(lines, pieces, i);
                let pixels = (image * lines + rows.start) * line..(image * lines + rows.end) * line;
                for j in 0..columns {
                    let tiles = piece(tiles, columns, j);
                    let channels = match columns {
                        1 => 0..g.m,
                        _ => tiles.start * TILE..g.m.min(tiles.end * TILE),
                    };
                    parts.push(Part { pixels: pixels.clone(), channels });
                }
            }
        }
        let longest = parts.iter().map(|p| p.pixels.len()).max().unwrap_or(1);
        Some(Int8 {
            g: *g,
            input: weights.input(),
            terms,
            weights: at.shared("int8", || pack(g, weights.levels())),
            ending: Ending::new(at, weights),
            band,
            chunk: (WINDOWS / terms).clamp(8, PIXELS).next_multiple_of(8).min(longest),
            parts,
        })
    }

    /// The window of an output pixel in the quantized rows of its band, for one group.
    fn window(&self, band: &Band, rows: &[i16], [y, x]: [usize; 2], group: usize, to: &mut [i16]) {
        let g = &self.g;
        let each = g.c / g.groups;
        let start = (y * g.stride[0] * band.width + x * g.stride[1]) * g.c + group * each;
        let run = if g.groups == 1 && g.dilation[1] == 1 { g.kernel[1] * g.c } else { each };
        let mut to = to;
        for i in 0..g.kernel[0] {
            let row = start + i * g.dilation[0] * band.width * g.c;
            for j in 0..g.kernel[1] * each / run {
                let (run_to, rest) = to.split_at_mut(run);
                run_to.copy_from_slice(&rows[row + j * g.dilation[1] * g.c..][..run]);
                to = rest;
            }
        }
        to.fill(0);
    }
}

/// Filters `m x c x kh x kw` to `[group][tile][pair][filter][2]`, terms `kh x kw x c`.
fn pack(g: &ConvGeometry, levels: &[i16]) -> Vec<i16> {
    let (each, filters, taps) = (g.c / g.groups, g.m / g.groups, g.kernel[0] * g.kernel[1]);
    let (count, tiles) = (each * taps, filters.div_ceil(TILE));
    let terms = count.next_multiple_of(2);
    let mut packed = vec![0; g.groups * tiles * terms * TILE];
    for (m, row) in levels.chunks_exact(count).enumerate() {
        let (group, filter) = (m / filters, m % filters);
        let tile = &mut packed[(group * tiles + filter / TILE) * terms * TILE..][..terms * TILE];
        for (at, &level) in row.iter().enumerate() {
            let term = at % taps * each + at / taps;
            tile[(term / 2 * TILE + filter % TILE) * 2 + term % 2] = level;
        }
    }
    packed
}

/// Floats that hold so many levels; a whole number of cache lines.
pub fn floats(levels: usize) -> usize {
    levels.div_ceil(2).next_multiple_of(16)
}

impl Kernel for Int8 {
    fn algorithm(&self) -> &'static str {
        "int8"
    }

    fn parts(&self) -> Vec<Part> {
        self.parts.clone()
    }

    fn scratch(&self) -> usize {
        let rows = self.band.map_or(0, |b| b.len());
        floats(rows) + floats(self.chunk * self.terms) + self.chunk * TILE
    }

    fn weight_bytes(&self) -> usize {
        self.weights.len() * 2 + self.ending.bytes()
    }

    fn run(&self, inputs: Inputs<'_>, mut out: Target<'_>, scratch: &mut [f32]) -> Result<()> {
        let (g, x, part, isa) = (&self.g, inputs.get(0), out.part().clone(), self.ending.isa);
        let (sums, scratch) = scratch.split_at_mut(self.chunk * TILE);
        let (windows, rows) = scratch.split_at_mut(floats(self.chunk * self.terms));
        let (sums, windows): (&mut [i32], &mut [i16]) = (cast_slice_mut(sums), cast_slice_mut(windows));
        let rows: &mut [i16] = cast_slice_mut(rows);
        let (plane, width) = (g.out_h() * g.out_w(), g.out_w());
        let first = part.pixels.start % plane / width;
        if let Some(band) = &self.band {
            let lines = first..first + part.pixels.len() / width;
            let image = part.pixels.start / plane;
            band.fill(g, image, &lines, rows, 0, |pixels, to| {
                for (p, to) in pixels.zip(to.chunks_exact_mut(g.c)) {
                    quantize::levels(isa, self.input, x.pixel(p), to);
                }
            });
        }
        let filters = g.m / g.groups;
        let tiles = filters.div_ceil(TILE);
        let mut from = part.pixels.start;
        while from < part.pixels.end {
            let pixels = from..part.pixels.end.min(from + self.chunk);
            for group in part.channels.start / filters..part.channels.end.div_ceil(filters) {
                let windows = &mut windows[..pixels.len() * self.terms];
                for (p, to) in pixels.clone().zip(windows.chunks_exact_mut(self.terms)) {
                    match &self.band {
                        None => {
                            let (to, rest) = to.split_at_mut(g.c);
                            quantize::levels(isa, self.input, x.pixel(p), to);
                            rest.fill(0);
                        }
                        Some(band) => {
                            let at = [p % plane / width - first, p % width];
                            self.window(band, rows, at, group, to);
                        }
                    }
                }
                // the part's filters of this group
                let inside = part.channels.start.saturating_sub(group * filters)
                    ..filters.min(part.channels.end - group * filters);
                for tile in inside.start / TILE..inside.end.div_ceil(TILE) {
                    let size = self.terms * TILE;
                    let weights = &self.weights[(group * tiles + tile) * size..][..size];
                    let sums = &mut sums[..pixels.len() * TILE];
                    pairs::products(windows, self.terms, weights, sums);
                    let channels =
                        group * filters + tile * TILE..group * filters + filters.min((tile + 1) * TILE);
                    for (p, sums) in pixels.clone().zip(sums.chunks_exact(TILE)) {
                        let y = &mut out.pixel(p)[channels.start - part.channels.start..][..channels.len()];
                        self.ending.scale_back(channels.clone(), &sums[..channels.len()], y);
                    }
                }
            }
            pixels.clone().for_each(|p| self.ending.finish(p, inputs, &mut out));
            from = pixels.end;
        }
        Ok(())
    }
}
