//! The sparse convolution as a kernel of a session: channels last in and out.
//!
//! As in [`super::conv`], the rows that a band of outputs reads are laid out so that every weight sees the inputs of neighbouring
//! pixels next to each other: planes of channels, split into phases by the stride. The image is turned into planes block by
//! block, and the sums of some filters for a tile of pixels are turned back while they are in the cache.

use super::super::matrix::SparseMatrix;
use cnn_core::Result;
use cnn_core::ops::conv::ConvGeometry;
use cnn_core::session::{Epilogue, Inputs, Kernel, Lowered, Lowering, Part, Target, View};
use cnn_core::simd::{Isa, Simd, SimdOp};
use std::ops::Range;
use std::sync::Arc;

/// Lanes of the widest vector.
const LANES: usize = 16;
/// Vectors of a tile.
const VECTORS: usize = 4;
/// Multiply-adds that a part should have.
const PART: usize = 400_000;
/// Parts of an image.
const PARTS: usize = 16;
/// Pixels that a part should have.
const PIXELS: usize = 128;
/// Floats of the planes of a part: what leaves room for weights in a second-level cache.
const PLANES: usize = 96 << 10;
/// Floats that the planes may have at most, in terms of what is useful.
const BLOWN_UP: usize = 16;

/// Where the rows that a band reads lie.
#[derive(Debug, Clone, Copy)]
struct Band {
    /// Height of a phase.
    height: usize,
    /// Width of a phase.
    width: usize,
    /// Floats of a channel: all its phases.
    channel: usize,
}

impl Band {
    /// Bands of at most `rows` output rows, unless padding or stride would blow the input up beyond all measure.
    fn of(g: &ConvGeometry, rows: usize) -> Option<Band> {
        let [sh, sw] = g.stride;
        let height = rows.checked_add((g.kernel[0] - 1).checked_mul(g.dilation[0])? / sh)?;
        let width = g.w.checked_add(g.pad[1])?.checked_add(g.pad[3])?.div_ceil(sw);
        let channel = height.checked_mul(width)?.checked_mul(sh)?.checked_mul(sw)?;
        let all = channel.checked_mul(g.c)?;
        let useful = g.c * g.h * g.w + g.m * g.out_h() * g.out_w();
        let bounded = all <= useful.saturating_mul(BLOWN_UP).saturating_add(1 << 15) && all < 1 << 31;
        bounded.then_some(Band { height, width, channel })
    }

    /// Where the input of each stored weight for the first pixel of the band lies.
    fn offsets(&self, g: &ConvGeometry, w: &SparseMatrix) -> Vec<u32> {
        let ([kh, kw], [sh, sw]) = (g.kernel, g.stride);
        let tap = |ky: usize, kx: usize| {
            let (dy, dx) = (ky * g.dilation[0], kx * g.dilation[1]);
            (dy % sh * sw + dx % sw) * self.height * self.width + dy / sh * self.width + dx / sw
        };
        let mut offsets = Vec::with_capacity(w.nonzeros());
        for row in 0..g.m {
            let first = row / (g.m / g.groups) * (g.c / g.groups);
            offsets.extend(w.row(row).0.iter().map(|&column| {
                let (channel, ky, kx) =
                    (column as usize / (kh * kw), column as usize / kw % kh, column as usize % kw);
                ((first + channel) * self.channel + tap(ky, kx)) as u32
            }));
        }
        offsets
    }
}

/// Weights as they are stored, without their places.
#[derive(Debug)]
struct Weights {
    starts: Vec<usize>,
    values: Vec<f32>,
    bias: Vec<f32>,
}

#[derive(Debug)]
struct SparseConv {
    isa: Isa,
    g: ConvGeometry,
    band: Band,
    weights: Arc<Weights>,
    offsets: Vec<u32>,
    epilogue: Epilogue,
    parts: Vec<Part>,
}

/// `i` of `pieces` nearly equal pieces of `0 .. all`.
pub(super) fn piece(all: usize, pieces: usize, i: usize) -> Range<usize> {
    i * all / pieces..(i + 1) * all / pieces
}

/// The kernel, unless the geometry is beyond all measure.
pub(in crate::sparse) fn lower_conv(
    at: &Lowering<'_>,
    g: &ConvGeometry,
    w: &SparseMatrix,
    bias: Option<&[f32]>,
) -> Option<Lowered> {
    let (rows, width) = (g.out_h(), g.out_w());
    if g.n * g.m * rows * width == 0 {
        return None;
    }
    let wanted = (w.nonzeros().saturating_mul(rows * width) / PART).clamp(1, PARTS);
    let planes = Band::of(g, rows)?.channel * g.c;
    let pieces = wanted.min((rows * width / PIXELS).max(1)).max(planes / PLANES).clamp(1, rows);
    let columns = (wanted / pieces).clamp(1, g.m.div_ceil(2 * LANES));
    let band = Band::of(g, rows.div_ceil(pieces))?;
    let blocks = g.m.div_ceil(LANES);
    let parts = (0..g.n * pieces * columns).map(|i| {
        let (image, piece_of, column) = (i / columns / pieces, i / columns % pieces, i % columns);
        let lines = piece(rows, pieces, piece_of);
        let filters = piece(blocks, columns, column);
        Part {
            pixels: (image * rows + lines.start) * width..(image * rows + lines.end) * width,
            channels: filters.start * LANES..g.m.min(filters.end * LANES),
        }
    });
    let weights = at.shared("sparse", || Weights {
        starts: w.starts().to_vec(),
        values: w.values().to_vec(),
        bias: bias.map_or_else(|| vec![0.0; g.m], <[f32]>::to_vec),
    });
    Some(Lowered::channels_last(SparseConv {
        isa: at.isa,
        g: *g,
        band,
        weights,
        offsets: band.offsets(g, w),
        epilogue: at.epilogue.clone(),
        parts: parts.collect(),
    }))
}

impl Kernel for SparseConv {
    fn algorithm(&self) -> &'static str {
        super::SPARSE
    }

    fn parts(&self) -> Vec<Part> {
        self.parts.clone()
    }

    fn scratch(&self) -> usize {
        // the last tile may read beyond the last plane; what it makes of that is dropped
        self.band.channel * self.g.c + VECTORS * LANES
    }

    fn weight_bytes(&self) -> usize {
        (self.weights.values.len() + self.offsets.len() + self.weights.bias.len()) * 4
    }

    fn run(&self, inputs: Inputs<'_>, mut out: Target<'_>, scratch: &mut [f32]) -> Result<()> {
        let (g, part) = (&self.g, out.part().clone());
        let (plane, width) = (g.out_h() * g.out_w(), g.out_w());
        let first = part.pixels.start % plane / width;
        let rows = first..first + part.pixels.len() / width;
        let planes = &mut scratch[..self.scratch()];
        let (x, image) = (inputs.get(0), part.pixels.start / plane);
        self.isa.run(Fill { g, band: &self.band, x, image, rows: rows.clone(), planes });
        self.isa.run(Sums { of: self, planes, rows: rows.len(), part: &part, inputs, out: &mut out });
        Ok(())
    }
}

/// Turns what some output rows of an image read into planes.
struct Fill<'a> {
    g: &'a ConvGeometry,
    band: &'a Band,
    x: View<'a>,
    image: usize,
    rows: Range<usize>,
    planes: &'a mut [f32],
}

impl SimdOp for Fill<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Fill { g, band, x, image, rows, planes } = self;
        let [sh, sw] = g.stride;
        if g.pad != [0; 4] {
            planes.fill(0.0);
        }
        let count = (rows.len() - 1) * sh + (g.kernel[0] - 1) * g.dilation[0] + 1;
        for i in 0..count {
            let y = (rows.start * sh + i).checked_sub(g.pad[0]).filter(|&y| y < g.h);
            let Some(y) = y else { continue };
            // the columns of one phase lie next to each other
            for start in 0..sw.min(g.w) {
                let padded = start + g.pad[1];
                let phase = i % sh * sw + padded % sw;
                let to = phase * band.height * band.width + i / sh * band.width + padded / sw;
                let from = (image * g.h + y) * g.w + start;
                turn(s, x, from, sw, (g.w - start).div_ceil(sw), &mut planes[to..], band.channel);
            }
        }
    }
}

/// `to[c * channel + k] = x[from + k step][c]` for `k < count` and all channels.
#[inline(always)]
fn turn<S: Simd>(s: S, x: View<'_>, from: usize, step: usize, count: usize, to: &mut [f32], channel: usize) {
    let (mut block, mut turned) = ([0f32; LANES * LANES], [0f32; LANES * LANES]);
    for k in (0..count).step_by(S::LANES) {
        let pixels = S::LANES.min(count - k);
        for c in (0..x.channels).step_by(S::LANES) {
            let channels = S::LANES.min(x.channels - c);
            for (j, row) in block.chunks_exact_mut(S::LANES).take(pixels).enumerate() {
                let pixel = &x.pixel(from + (k + j) * step)[c..];
                match pixel.get(..S::LANES) {
                    Some(whole) => row.copy_from_slice(whole),
                    None => row[..channels].copy_from_slice(pixel),
                }
            }
            let whole = pixels == S::LANES && channels == S::LANES;
            if whole && to.len() >= (c + S::LANES - 1) * channel + k + S::LANES {
                // SAFETY: the block is LANES x LANES, and `to` was just measured.
                unsafe {
                    s.transpose_block(block.as_ptr(), S::LANES, to.as_mut_ptr().add(c * channel + k), channel)
                };
                continue;
            }
            // SAFETY: both are LANES x LANES.
            unsafe { s.transpose_block(block.as_ptr(), S::LANES, turned.as_mut_ptr(), S::LANES) };
            for (i, turned) in turned.chunks_exact(S::LANES).take(channels).enumerate() {
                to[(c + i) * channel + k..][..pixels].copy_from_slice(&turned[..pixels]);
            }
        }
    }
}

/// The sums of a part.
struct Sums<'a, 'b> {
    of: &'a SparseConv,
    planes: &'a [f32],
    rows: usize,
    part: &'a Part,
    inputs: Inputs<'a>,
    out: &'a mut Target<'b>,
}

impl SimdOp for Sums<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let run = (self.rows - 1) * self.of.band.width + self.of.g.out_w();
        let mut from = 0;
        while from < run {
            from += match (run - from).div_ceil(S::LANES) {
                1 => self.tile::<S, 1>(s, from, run),
                2 => self.tile::<S, 2>(s, from, run),
                _ => self.tile::<S, VECTORS>(s, from, run),
            };
        }
    }
}

impl Sums<'_, '_> {
    /// All filters of the part for `V` vectors of the run, of which the columns between the rows' ends are dropped. Returns how
    /// many that were.
    #[inline(always)]
    fn tile<S: Simd, const V: usize>(&mut self, s: S, from: usize, run: usize) -> usize {
        let (width, out_w) = (self.of.band.width, self.of.g.out_w());
        let count = (V * S::LANES).min(run - from);
        // the pixel of each place
        let mut pixels = [None; VECTORS * LANES];
        let (mut row, mut column) = (from / width, from % width);
        for pixel in &mut pixels[..count] {
            *pixel = (column < out_w).then(|| self.part.pixels.start + row * out_w + column);
            column += 1;
            if column == width {
                (row, column) = (row + 1, 0);
            }
        }
        let channels = self.part.channels.clone();
        let mut sums = [0f32; LANES * VECTORS * LANES];
        let mut turned = [0f32; LANES * LANES];
        for block in channels.clone().step_by(S::LANES) {
            let filters = S::LANES.min(channels.end - block);
            for (f, sums) in sums.chunks_exact_mut(V * S::LANES).take(filters).enumerate() {
                self.filter::<S, V>(s, block + f, from, sums);
            }
            for v in 0..V {
                // SAFETY: `sums` has LANES rows of `V` vectors, `turned` LANES of one.
                unsafe {
                    let source = sums.as_ptr().add(v * S::LANES);
                    s.transpose_block(source, V * S::LANES, turned.as_mut_ptr(), S::LANES);
                }
                let places = pixels[v * S::LANES..][..S::LANES].iter().zip(turned.chunks_exact(S::LANES));
                for (&pixel, values) in places {
                    if let Some(p) = pixel {
                        let y = &mut self.out.pixel(p)[block - channels.start..];
                        match y.get_mut(..S::LANES) {
                            Some(y) if filters == S::LANES => y.copy_from_slice(values),
                            _ => y[..filters].copy_from_slice(&values[..filters]),
                        }
                    }
                }
            }
        }
        let epilogue = &self.of.epilogue;
        if !epilogue.is_empty() {
            for p in pixels.into_iter().flatten() {
                let residual = epilogue.residual.then(|| self.inputs.get(1).pixel(p));
                epilogue.finish(channels.clone(), self.out.pixel(p), residual);
            }
        }
        count
    }

    /// `bias + p1 + p2 + ...` over the stored weights of a filter, for `V` vectors of the run.
    #[inline(always)]
    fn filter<S: Simd, const V: usize>(&self, s: S, filter: usize, from: usize, sums: &mut [f32]) {
        let SparseConv { weights, offsets, .. } = self.of;
        let entries = weights.starts[filter]..weights.starts[filter + 1];
        let x = &self.planes[from..];
        let mut acc = [s.splat(weights.bias[filter]); V];
        for (&offset, &value) in offsets[entries.clone()].iter().zip(&weights.values[entries]) {
            let x = &x[offset as usize..][..V * S::LANES];
            for (v, acc) in acc.iter_mut().enumerate() {
                // SAFETY: `x` has `V` vectors.
                *acc = unsafe { s.fma(s.splat(value), s.load(x.as_ptr().add(v * S::LANES)), *acc) };
            }
        }
        for (acc, sums) in acc.into_iter().zip(sums.chunks_exact_mut(S::LANES)) {
            // SAFETY: a chunk is a vector.
            unsafe { s.store(sums.as_mut_ptr(), acc) };
        }
    }
}
