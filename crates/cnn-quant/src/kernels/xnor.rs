//! Convolutions and linear layers of signs as kernels of a session.
//!
//! A part takes the signs of the rows that it reads, 64 channels a word; a filter's row meets the pixels under it as one run of words. Where
//! channels are so few that a whole row of the filter fits a word, pixels are joined with their neighbours first.

use super::lowered::{Band, bounds, piece};
use super::popcount::{Counter, Filters, TILE, Windows};
use super::quads::{Destination, Results};
use crate::xnor_weights::XnorWeights;
use bytemuck::cast_slice_mut;
use cnn_core::Result;
use cnn_core::ops::conv::ConvGeometry;
use cnn_core::session::{Epilogue, Inputs, Kernel, Layout, Lowered, Lowering, Part, Target};
use std::ops::Range;

/// Words times tiles that a part should have.
const PART: usize = 20_000;
/// Parts of an image.
const PARTS: usize = 16;

#[derive(Debug)]
struct Xnor {
    g: ConvGeometry,
    counter: Counter,
    /// Words of a pixel.
    pitch: usize,
    /// A pixel's word holds its neighbours to the right too, as many as a row of the filter has.
    joined: bool,
    /// Where the runs of a window begin, and their words.
    runs: Vec<usize>,
    run_words: usize,
    /// Words of a window are `kh x kw x word`.
    filters: Filters,
    thresholds: Vec<f32>,
    /// The taps that rows of output pixels meet, and columns: kinds of windows.
    rows: Kinds,
    columns: Kinds,
    /// `[kind of rows][kind of columns][filter]`: see [`Windows::added`].
    added: Vec<i32>,
    residual: bool,
    /// An activation that is more than bounds.
    activation: Epilogue,
    band: Band,
    parts: Vec<Part>,
}

/// Along one axis, which taps of a filter meet the image.
#[derive(Debug)]
struct Kinds {
    /// All there are.
    taps: Vec<Range<usize>>,
    /// The kind at each output position.
    of: Vec<usize>,
}

impl Kinds {
    fn new([pad, stride, dilation]: [usize; 3], size: usize, kernel: usize, outputs: usize) -> Kinds {
        let mut kinds = Kinds { taps: Vec::new(), of: Vec::with_capacity(outputs) };
        for at in 0..outputs {
            let inside =
                |tap: &usize| (at * stride + tap * dilation).checked_sub(pad).is_some_and(|i| i < size);
            let first = (0..kernel).find(inside).unwrap_or(kernel);
            let taps = first..(first..kernel).find(|tap| !inside(tap)).unwrap_or(kernel);
            let known = kinds.taps.iter().position(|k| *k == taps);
            kinds.of.push(known.unwrap_or(kinds.taps.len()));
            if known.is_none() {
                kinds.taps.push(taps);
            }
        }
        kinds
    }
}

/// The kernel of a convolution in one group.
pub fn conv(at: &Lowering<'_>, g: &ConvGeometry, weights: &XnorWeights) -> Option<Lowered> {
    let (lines, line) = (g.out_h(), g.out_w());
    // counts are kept in 32 bits
    let terms = g.c.checked_mul(g.kernel[0])?.checked_mul(g.kernel[1])?;
    if g.groups != 1 || g.n * g.m * lines * line == 0 || i32::try_from(terms).is_err() {
        return None;
    }
    let pitch = g.c.div_ceil(64);
    let joined = g.kernel[1] > 1 && g.kernel[1] * g.c <= 64 && g.dilation[1] == 1;
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
    let band = Band::of(g, pitch, lines.div_ceil(pieces))?;
    let full = |values: Option<&Vec<f32>>, otherwise: f32| {
        let mut values = values.cloned().unwrap_or_else(|| vec![otherwise; g.m]);
        values.resize(tiles * TILE, 0.0);
        values
    };
    let (alpha, bias) = weights.ending();
    let ([low, high], activation) = bounds(at.epilogue.activation);
    let rows = Kinds::new([g.pad[0], g.stride[0], g.dilation[0]], g.h, g.kernel[0], lines);
    let columns = Kinds::new([g.pad[1], g.stride[1], g.dilation[1]], g.w, g.kernel[1], line);
    // without dilation the taps of a row of the filter are neighbours
    let run_taps = if g.dilation[1] == 1 { g.kernel[1] } else { 1 };
    let runs = (0..g.kernel[0]).flat_map(|i| {
        let row = i * g.dilation[0] * band.width;
        (0..g.kernel[1] / run_taps).map(move |j| (row + j * g.dilation[1]) * pitch)
    });
    let run_words = if joined { 1 } else { run_taps * pitch };
    Some(Lowered::channels_last(Xnor {
        g: *g,
        counter: Counter::of(at.isa),
        pitch,
        joined,
        runs: runs.collect(),
        run_words,
        filters: Filters {
            bits: at.shared("xnor", || pack(g, weights.bits(), joined)),
            alpha: full(Some(&alpha), 0.0),
            bias: full(Some(&bias), 0.0),
            scale: full(at.epilogue.scale.as_ref(), 1.0),
            shift: full(at.epilogue.shift.as_ref(), 0.0),
            low,
            high,
        },
        thresholds: weights.thresholds().to_vec(),
        added: added(g, weights.bits(), &rows, &columns),
        rows,
        columns,
        residual: at.epilogue.residual,
        activation,
        band,
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

/// Filters `m x c x kh x kw` to `[tile][kh x kw x word][filter]`; joined, a word is a row of a filter, `kw x c`.
fn pack(g: &ConvGeometry, bits: &[u8], joined: bool) -> Vec<[u64; TILE]> {
    let (taps, pitch) = (g.kernel[0] * g.kernel[1], g.c.div_ceil(64));
    let words = if joined { g.kernel[0] } else { taps * pitch };
    let mut packed = vec![[0; TILE]; g.m.div_ceil(TILE) * words];
    for (m, row) in bits.chunks_exact(g.c * taps).enumerate() {
        for (at, &bit) in row.iter().enumerate() {
            let (c, tap) = (at / taps, at % taps);
            let (word, shift) = match joined {
                true => (tap / g.kernel[1], tap % g.kernel[1] * g.c + c),
                false => (tap * pitch + c / 64, c % 64),
            };
            packed[m / TILE * words + word][m % TILE] |= u64::from(bit) << shift;
        }
    }
    packed
}

/// Joins each word with those to its right, `count` in all, `bits` each.
fn join(row: &mut [u64], count: usize, bits: usize) {
    // a word's own bits stay where they are, whatever joined it before
    let own = (1 << bits) - 1;
    for i in 1..count.min(row.len()) {
        let last = row.len() - i;
        let shift = i * bits;
        (0..last).for_each(|x| row[x] |= (row[x + i] & own) << shift);
    }
}

/// For each kind of window and filter, the number of products and twice the filter's bits over padding, which count as differing.
fn added(g: &ConvGeometry, bits: &[u8], rows: &Kinds, columns: &Kinds) -> Vec<i32> {
    let taps = g.kernel[0] * g.kernel[1];
    let all = g.m.next_multiple_of(TILE);
    let mut added = vec![0; rows.taps.len() * columns.taps.len() * all];
    for (m, filter) in bits.chunks_exact(g.c * taps).enumerate() {
        let mut ones = vec![0i32; taps];
        filter.iter().enumerate().for_each(|(at, &bit)| ones[at % taps] += i32::from(bit));
        for (row, rows) in rows.taps.iter().enumerate() {
            for (column, columns_there) in columns.taps.iter().enumerate() {
                let there = |tap: &usize| {
                    rows.contains(&(tap / g.kernel[1])) && columns_there.contains(&(tap % g.kernel[1]))
                };
                let of_padding: i32 = (0..taps).filter(|tap| !there(tap)).map(|tap| ones[tap]).sum();
                let products = rows.len() * columns_there.len() * g.c;
                added[(row * columns.taps.len() + column) * all + m] = products as i32 + 2 * of_padding;
            }
        }
    }
    added
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
        2 * self.band.len() + 1
    }

    fn weight_bytes(&self) -> usize {
        self.filters.bits.len() * TILE * 8
    }

    fn run(&self, inputs: Inputs<'_>, mut out: Target<'_>, scratch: &mut [f32]) -> Result<()> {
        let (g, x, part) = (&self.g, inputs.get(0), out.part().clone());
        let aligned = scratch.as_ptr().align_offset(align_of::<u64>()).min(1);
        let words: &mut [u64] = cast_slice_mut(&mut scratch[aligned..][..2 * self.band.len()]);
        let (plane, width) = (g.out_h() * g.out_w(), g.out_w());
        let first = part.pixels.start % plane / width;
        let lines = first..first + part.pixels.len() / width;
        self.band.fill(g, part.pixels.start / plane, &lines, words, 0, |pixels, to| {
            self.counter.signs(x, pixels, &self.thresholds, to);
        });
        if self.joined {
            words.chunks_exact_mut(self.band.width).for_each(|row| join(row, g.kernel[1], g.c));
        }
        let residual = self.residual.then(|| inputs.get(1));
        assert!(residual.is_none_or(|r| part.pixels.end <= r.pixels && part.channels.end <= r.channels));
        let of_row = self.added.len() / self.rows.taps.len();
        // a tile stays in the nearest cache while it meets all rows
        for from in part.channels.clone().step_by(TILE) {
            for (i, start) in part.pixels.clone().step_by(width).enumerate() {
                let windows = Windows {
                    words,
                    first: i * g.stride[0] * self.band.width * self.pitch,
                    step: g.stride[1] * self.pitch,
                    runs: &self.runs,
                    run_words: self.run_words,
                    kinds: &self.columns.of,
                    added: &self.added[self.rows.of[first + i] * of_row..][..of_row],
                };
                let pitch = out.pitch();
                let y = Results::Floats(out.as_ptr().wrapping_add(start * pitch + from));
                let (residual, residual_pitch) = match residual {
                    Some(r) => (r.as_ptr().wrapping_add(start * r.pitch + from), r.pitch),
                    None => (std::ptr::null(), 0),
                };
                let to = Destination { y, pitch, residual, residual_pitch };
                let range = [from, part.channels.end.min(from + TILE)];
                // SAFETY: these pixels and channels are those of the part, which this thread alone writes; the residual has them too.
                unsafe { self.counter.products(windows, &self.filters, range, to) };
            }
        }
        if !self.activation.is_empty() {
            let pixels = part.pixels.clone();
            pixels.for_each(|p| self.activation.finish(part.channels.clone(), out.pixel(p), None));
        }
        Ok(())
    }
}
