//! Convolutions and linear layers of signs as kernels of a session.
//!
//! A part takes the signs of the rows that it reads, 64 channels a word. Padding has no sign: windows at the edge meet fewer words.

use super::lowered::{Band, bounds, piece};
use super::popcount::{Counts, Instructions, Runs, TILE, WINDOWS};
use crate::xnor_weights::XnorWeights;
use bytemuck::cast_slice_mut;
use cnn_core::Result;
use cnn_core::ops::conv::ConvGeometry;
use cnn_core::session::{Epilogue, Inputs, Kernel, Layout, Lowered, Lowering, Part, Target};
use cnn_core::simd::{Isa, Simd, SimdOp};
use std::ops::Range;
use std::sync::Arc;

/// Words times tiles that a part should have.
const PART: usize = 20_000;
/// Parts of an image.
const PARTS: usize = 16;

#[derive(Debug)]
struct Xnor {
    g: ConvGeometry,
    isa: Isa,
    instructions: Instructions,
    /// Words of a pixel.
    pitch: usize,
    /// `[tile][kh x kw x word][filter of the tile]`.
    filters: Arc<Vec<[u64; TILE]>>,
    thresholds: Vec<f32>,
    ending: Ending,
    residual: bool,
    /// An activation that is more than bounds.
    activation: Epilogue,
    band: Band,
    parts: Vec<Part>,
}

/// `y = min(max((alpha sum + bias) scale + shift + residual, low), high)`, filled up to whole tiles.
#[derive(Debug)]
struct Ending {
    alpha: Vec<f32>,
    bias: Vec<f32>,
    scale: Vec<f32>,
    shift: Vec<f32>,
    low: f32,
    high: f32,
}

/// The kernel of a convolution in one group.
pub fn conv(at: &Lowering<'_>, g: &ConvGeometry, weights: &XnorWeights) -> Option<Lowered> {
    let (lines, line) = (g.out_h(), g.out_w());
    if g.groups != 1 || g.n * g.m * lines * line == 0 {
        return None;
    }
    let pitch = g.c.div_ceil(64);
    let tiles = g.m.div_ceil(TILE);
    let cost = lines * line * tiles * pitch * g.kernel[0] * g.kernel[1];
    let wanted = (cost / PART).clamp(1, PARTS);
    let pieces = wanted.min(lines);
    let columns = (wanted / pieces).min(tiles);
    let mut parts = Vec::new();
    for (image, i) in (0..g.n).flat_map(|image| (0..pieces).map(move |i| (image, i))) {
        let rows = piece(lines, pieces, i);
        let pixels = (image * lines + rows.start) * line..(image * lines + rows.end) * line;
        for j in 0..columns {
            let tiles = piece(tiles, columns, j);
            parts.push(Part {
                pixels: pixels.clone(),
                channels: tiles.start * TILE..g.m.min(tiles.end * TILE),
            });
        }
    }
    let full = |values: Option<&Vec<f32>>, otherwise: f32| {
        let mut values = values.cloned().unwrap_or_else(|| vec![otherwise; g.m]);
        values.resize(tiles * TILE, 0.0);
        values
    };
    let (alpha, bias) = weights.ending();
    let ([low, high], activation) = bounds(at.epilogue.activation);
    Some(Lowered::channels_last(Xnor {
        g: *g,
        isa: at.isa,
        instructions: Instructions::of(at.isa),
        pitch,
        filters: at.shared("xnor", || pack(g, weights.bits())),
        thresholds: weights.thresholds().to_vec(),
        ending: Ending {
            alpha: full(Some(&alpha), 0.0),
            bias: full(Some(&bias), 0.0),
            scale: full(at.epilogue.scale.as_ref(), 1.0),
            shift: full(at.epilogue.shift.as_ref(), 0.0),
            low,
            high,
        },
        residual: at.epilogue.residual,
        activation,
        band: Band::of(g, pitch, lines.div_ceil(pieces))?,
        parts,
    }))
}

/// The kernel of a linear layer.
pub fn linear(at: &Lowering<'_>, n: usize, weights: &XnorWeights) -> Option<Lowered> {
    let &[m, c] = weights.shape() else { return None };
    let ones = ConvGeometry {
        n: 1,
        c,
        h: n,
        w: 1,
        m,
        kernel: [1, 1],
        stride: [1, 1],
        pad: [0; 4],
        dilation: [1, 1],
        groups: 1,
    };
    let lowered = conv(at, &ones, weights)?;
    Some(Lowered { inputs: vec![Layout::Planar], output: Layout::Planar, ..lowered })
}

/// Filters `m x c x kh x kw` to `[tile][kh x kw x word][filter]`.
fn pack(g: &ConvGeometry, bits: &[u8]) -> Vec<[u64; TILE]> {
    let (taps, pitch) = (g.kernel[0] * g.kernel[1], g.c.div_ceil(64));
    let mut packed = vec![[0; TILE]; g.m.div_ceil(TILE) * taps * pitch];
    for (m, row) in bits.chunks_exact(g.c * taps).enumerate() {
        for (at, &bit) in row.iter().enumerate() {
            let (c, tap) = (at / taps, at % taps);
            packed[(m / TILE * taps + tap) * pitch + c / 64][m % TILE] |= u64::from(bit) << (c % 64);
        }
    }
    packed
}

/// The taps of a filter that meet the image, for the output pixel at `at` of an axis.
fn taps([pad, stride, dilation]: [usize; 3], size: usize, kernel: usize, at: usize) -> Range<usize> {
    let inside = |tap: usize| (at * stride + tap * dilation).checked_sub(pad).is_some_and(|i| i < size);
    let first = (0..kernel).find(|&tap| inside(tap)).unwrap_or(0);
    first..(first..kernel).find(|&tap| !inside(tap)).unwrap_or(kernel)
}

/// What the filters of an output row meet.
struct Window {
    /// The word where the window of the row's first pixel begins, padding included.
    first: usize,
    /// Rows of the filters that meet the image.
    rows: Range<usize>,
    /// Columns of the filters that do.
    taps: Range<usize>,
}

impl Xnor {
    /// The output pixels `columns` of a row that begins with the pixel `start`; they have the same taps.
    fn pixels(
        &self,
        words: &[u64],
        window: Window,
        columns: Range<usize>,
        start: usize,
        inputs: Inputs<'_>,
        out: &mut Target<'_>,
    ) {
        let Window { first, rows, taps } = window;
        let (g, pitch, part) = (&self.g, self.pitch, out.part().clone());
        let residual = self.residual.then(|| inputs.get(1));
        let each = g.kernel[0] * g.kernel[1] * pitch;
        let whole = g.dilation[1] == 1;
        let count = (rows.len() * taps.len() * g.c) as i32;
        let mut counts: Counts = [[0; TILE]; WINDOWS];
        for from in columns.clone().step_by(WINDOWS) {
            let here = from..columns.end.min(from + WINDOWS);
            // the last pixel again where there are fewer
            let windows = std::array::from_fn(|i| first + (from + i).min(here.end - 1) * g.stride[1] * pitch);
            for tile in part.channels.start / TILE..part.channels.end.div_ceil(TILE) {
                let filters = &self.filters[tile * each..][..each];
                let run = |taps: Range<usize>| Runs {
                    which: rows.clone(),
                    step: g.dilation[0] * self.band.width * pitch,
                    from: taps.start * g.dilation[1] * pitch,
                    filter_step: g.kernel[1] * pitch,
                    filter_from: taps.start * pitch,
                    len: taps.len() * pitch,
                };
                if whole {
                    let runs = run(taps.clone());
                    self.instructions.differences(words, windows, &runs, filters, &mut counts);
                } else {
                    let mut sums: Counts = [[0; TILE]; WINDOWS];
                    for tap in taps.clone() {
                        let runs = run(tap..tap + 1);
                        self.instructions.differences(words, windows, &runs, filters, &mut counts);
                        let counts = counts.iter().flatten();
                        sums.iter_mut().flatten().zip(counts).for_each(|(s, c)| *s += c);
                    }
                    counts = sums;
                }
                let channels = tile * TILE..g.m.min((tile + 1) * TILE);
                for (differ, p) in counts.iter().zip(start + here.start..start + here.end) {
                    let y = &mut out.pixel(p)[channels.start - part.channels.start..][..channels.len()];
                    let residual = residual.map(|r| &r.pixel(p)[channels.clone()]);
                    let ending = &self.ending;
                    self.isa.run(Finish { count, differ, ending, from: channels.start, residual, y });
                }
            }
            if !self.activation.is_empty() {
                let done = start + here.start..start + here.end;
                done.for_each(|p| self.activation.finish(part.channels.clone(), out.pixel(p), None));
            }
        }
    }
}

struct Finish<'a> {
    count: i32,
    differ: &'a [u64; TILE],
    ending: &'a Ending,
    from: usize,
    residual: Option<&'a [f32]>,
    y: &'a mut [f32],
}

impl SimdOp for Finish<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, _isa: S) {
        let of = |values: &'_ [f32]| -> [f32; TILE] { std::array::from_fn(|f| values[self.from + f]) };
        let e = self.ending;
        let (alpha, bias, scale, shift) = (of(&e.alpha), of(&e.bias), of(&e.scale), of(&e.shift));
        let mut values: [f32; TILE] = std::array::from_fn(|f| {
            let sum = self.count - 2 * self.differ[f] as i32;
            (alpha[f] * sum as f32 + bias[f]) * scale[f] + shift[f]
        });
        if let Some(residual) = self.residual {
            values.iter_mut().zip(residual).for_each(|(v, r)| *v += r);
        }
        // NaN, which a residual may be, stays
        let bounded = values.map(|v| {
            if v < e.low {
                e.low
            } else if v > e.high {
                e.high
            } else {
                v
            }
        });
        self.y.iter_mut().zip(bounded).for_each(|(y, v)| *y = v);
    }
}

impl Kernel for Xnor {
    fn algorithm(&self) -> &'static str {
        "xnor"
    }

    fn parts(&self) -> Vec<Part> {
        self.parts.clone()
    }

    fn scratch(&self) -> usize {
        // words lie at multiples of eight bytes
        2 * self.band.len() + 2
    }

    fn weight_bytes(&self) -> usize {
        self.filters.len() * TILE * 8
    }

    fn run(&self, inputs: Inputs<'_>, mut out: Target<'_>, scratch: &mut [f32]) -> Result<()> {
        let (g, x, part) = (&self.g, inputs.get(0), out.part().clone());
        let aligned = scratch.as_ptr().align_offset(8).min(1);
        let words: &mut [u64] = cast_slice_mut(&mut scratch[aligned..][..2 * self.band.len()]);
        let (plane, width) = (g.out_h() * g.out_w(), g.out_w());
        let first = part.pixels.start % plane / width;
        let lines = first..first + part.pixels.len() / width;
        self.band.fill(g, part.pixels.start / plane, &lines, words, 0, |pixels, to| {
            for (p, to) in pixels.zip(to.chunks_exact_mut(self.pitch)) {
                self.instructions.signs(x.pixel(p), &self.thresholds, to);
            }
        });
        let of_columns = |x| taps([g.pad[1], g.stride[1], g.dilation[1]], g.w, g.kernel[1], x);
        for (i, start) in part.pixels.clone().step_by(width).enumerate() {
            let rows = taps([g.pad[0], g.stride[0], g.dilation[0]], g.h, g.kernel[0], first + i);
            let window = i * g.stride[0] * self.band.width * self.pitch;
            let mut from = 0;
            while from < width {
                let taps = of_columns(from);
                let to = (from + 1..width).find(|&x| of_columns(x) != taps).unwrap_or(width);
                let window = Window { first: window, rows: rows.clone(), taps };
                self.pixels(words, window, from..to, start, inputs, &mut out);
                from = to;
            }
        }
        Ok(())
    }
}
