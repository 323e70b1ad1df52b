//! The sparse convolution as a kernel of a session: channels last in and out.
//!
//! Every weight that is stored meets the inputs of several vectors of pixels, which were laid out for it ([`strip`], [`fill`]); the
//! sums of all filters of a part for some of the pixels ([`sums`]) are turned back while they are in the cache.

mod fill;
mod stream;
mod strip;
mod sums;

use super::super::matrix::SparseMatrix;
use super::ending::Ending;
use cnn_core::Result;
use cnn_core::ops::conv::ConvGeometry;
use cnn_core::session::{Inputs, Kernel, Lowered, Lowering, Part, Target};
use cnn_core::simd::Isa;
use fill::{Fill, FillPixels};
use std::ops::Range;
use std::sync::Arc;
use stream::Column;
use strip::Strip;
use sums::{Sums, VECTORS};

/// Lanes of the widest vector.
const LANES: usize = 16;
/// Cycles that a part should have.
const PART: f64 = 60_000.0;
/// Parts of an image.
const PARTS: usize = 8;
/// Floats of the planes of a part: what leaves room for weights in a second-level cache.
const PLANES: usize = 128 << 10;
/// Floats that the planes may have at most, in terms of what is useful.
const BLOWN_UP: usize = 16;
/// Bytes of planes that stay in the first-level cache.
const NEAR: usize = 36 << 10;
/// Entries of a filter in a piece: with fewer, reading and writing the sums costs more than planes in the second-level cache.
const ENTRIES: usize = 8;

#[derive(Debug)]
struct SparseConv {
    isa: Isa,
    g: ConvGeometry,
    strip: Strip,
    /// True if pixels are cut and spread without regard to rows.
    pointwise: bool,
    columns: Arc<Vec<Column>>,
    bias: Vec<f32>,
    ending: Ending,
    residual: bool,
    vectors: usize,
    parts: Vec<Part>,
}

/// `i` of `pieces` nearly equal pieces of `0 .. all`.
pub(super) fn piece(all: usize, pieces: usize, i: usize) -> Range<usize> {
    i * all / pieces..(i + 1) * all / pieces
}

/// True if a pixel of the output needs that of the input alone.
fn is_pointwise(g: &ConvGeometry) -> bool {
    g.kernel == [1, 1] && g.stride == [1, 1] && g.pad == [0; 4]
}

/// Rows and columns of outputs that are cut into bands: those of an image, or one row of all pixels.
fn lines(g: &ConvGeometry) -> [usize; 2] {
    match is_pointwise(g) {
        true => [1, g.n * g.out_h() * g.out_w()],
        false => [g.out_h(), g.out_w()],
    }
}

/// Cycles of the kernel with so many stored weights, if there is one.
pub(in crate::sparse) fn conv_cycles(g: &ConvGeometry, lanes: usize, stored: usize) -> Option<f64> {
    (g.n * g.m * g.out_h() * g.out_w() > 0).then(|| Cut::of(g, lanes, stored))?.map(|cut| cut.cycles)
}

/// How the outputs are cut.
struct Cut {
    strip: Strip,
    /// Bands of an image, or of all pixels.
    bands: usize,
    /// Ranges of filters.
    columns: usize,
    /// What all of it takes.
    cycles: f64,
}

impl Cut {
    /// The bands that cost least, but some. `None` if the planes would be beyond all measure.
    fn of(g: &ConvGeometry, lanes: usize, stored: usize) -> Option<Cut> {
        let [rows, columns] = lines(g);
        let useful = g.c * g.h * g.w + g.m * g.out_h() * g.out_w();
        let most = useful.saturating_mul(BLOWN_UP).saturating_add(1 << 15);
        let along = rows * columns;
        let size = |pieces: usize| match rows {
            1 => [1, columns.div_ceil(pieces)],
            _ => [rows.div_ceil(pieces), columns],
        };
        let ways = if rows == 1 { along.div_ceil(4 * lanes) } else { rows };
        let mut best: Option<(f64, Cut)> = None;
        for bands in 1..=ways.max(1) {
            let strip = Strip::of(g, lanes, size(bands), stored)?;
            let floats = strip.channel * g.c * lanes;
            let cost = bands as f64 * strip.cost(g, stored);
            let wanted = (cost / PART).clamp(1.0, PARTS as f64);
            let room = cost / bands as f64 / 8.0 / strip.turning(g);
            let columns =
                (wanted / bands as f64).min(room).min(g.m.div_ceil(2 * LANES) as f64).max(1.0) as usize;
            let missing = (4.0 / (bands * columns) as f64 - 1.0).clamp(0.0, 3.0);
            let far = if floats > PLANES { 1.3 } else { 1.0 };
            let again = (columns - 1) as f64 * bands as f64 * strip.turning(g);
            let cycles = if rows == 1 { cost } else { cost * g.n as f64 } + again;
            let cost = (cost + again) * far * (1.0 + if wanted > 1.5 { 0.04 * missing } else { 0.0 });
            if floats <= most && best.as_ref().is_none_or(|(least, _)| cost < *least) {
                best = Some((cost, Cut { strip, bands, columns, cycles }));
            }
            if floats < PLANES / 8 {
                break;
            }
        }
        best.map(|(_, cut)| cut)
    }
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
    let (lanes, pointwise) = (at.isa.lanes(), is_pointwise(g));
    let size = lines(g);
    let Cut { strip, bands, columns, .. } = Cut::of(g, lanes, w.nonzeros())?;
    let blocks = g.m.div_ceil(LANES);
    let filters = |i: usize| {
        let blocks = piece(blocks, columns, i);
        blocks.start * LANES..g.m.min(blocks.end * LANES)
    };
    let mut parts = Vec::new();
    for image in 0..if pointwise { 1 } else { g.n } {
        for band in 0..bands {
            let pixels = match pointwise {
                true => piece(size[1], bands, band),
                false => {
                    let lines = piece(rows, bands, band);
                    (image * rows + lines.start) * width..(image * rows + lines.end) * width
                }
            };
            parts.extend((0..columns).map(|i| Part { pixels: pixels.clone(), channels: filters(i) }));
        }
    }
    let outputs = strip.outputs();
    let vectors = outputs.div_ceil(outputs.div_ceil(VECTORS));
    let near = channels_near(g, &strip, vectors, lanes, w.nonzeros());
    let epilogue = at.epilogue;
    let key = format!("sparse {strip:?} {columns} {near}");
    let packed = at.shared(&key, || -> Vec<Column> {
        let column = |i| Column::of(w, g, &strip, lanes, filters(i), near, epilogue.scale.as_deref());
        (0..columns).map(column).collect()
    });
    let mut bias = bias.map_or_else(|| vec![0.0; g.m], <[f32]>::to_vec);
    if let Some(scale) = &epilogue.scale {
        bias.iter_mut().zip(scale).for_each(|(b, s)| *b *= s);
    }
    if let Some(shift) = &epilogue.shift {
        bias.iter_mut().zip(shift).for_each(|(b, s)| *b += s);
    }
    Some(Lowered::channels_last(SparseConv {
        isa: at.isa,
        g: *g,
        strip,
        pointwise,
        columns: packed,
        bias,
        ending: Ending::new(epilogue.activation),
        residual: epilogue.residual,
        vectors,
        parts,
    }))
}

/// Channels of a piece: as many as have planes that stay near for a tile of outputs, but enough for some entries.
fn channels_near(g: &ConvGeometry, strip: &Strip, vectors: usize, lanes: usize, stored: usize) -> usize {
    let mut places: Vec<usize> = Vec::new();
    for output in 0..vectors {
        for tap in 0..g.kernel[0] * g.kernel[1] {
            places.push(strip.output(output) + strip.tap(tap / g.kernel[1], tap % g.kernel[1]));
        }
    }
    places.sort_unstable();
    places.dedup();
    let near = NEAR / (places.len() * lanes * 4);
    let entries = stored as f64 / (g.m * g.c) as f64 * g.groups as f64;
    let enough = (ENTRIES as f64 / entries.max(1e-6)).min(g.c as f64).ceil() as usize;
    let channels = near.max(enough).clamp(1, g.c);
    // nearly equal pieces
    g.c.div_ceil(g.c.div_ceil(channels))
}

impl SparseConv {
    /// Floats of the planes, and of the sums of a tile.
    fn floats(&self) -> [usize; 2] {
        let filters = self.columns.iter().map(|c| c.filters.len()).max().unwrap_or(0);
        let lanes = self.isa.lanes();
        [self.strip.channel * self.g.c * lanes, filters.next_multiple_of(lanes) * self.vectors * lanes]
    }
}

impl Kernel for SparseConv {
    fn algorithm(&self) -> &'static str {
        super::SPARSE
    }

    fn parts(&self) -> Vec<Part> {
        self.parts.clone()
    }

    fn scratch(&self) -> usize {
        let [planes, sums] = self.floats();
        LANES + planes + sums + self.g.c
    }

    fn weight_bytes(&self) -> usize {
        self.columns.iter().map(Column::bytes).sum::<usize>() + self.bias.len() * 4
    }

    fn run(&self, inputs: Inputs<'_>, mut out: Target<'_>, scratch: &mut [f32]) -> Result<()> {
        let (part, [planes, sums]) = (out.part().clone(), self.floats());
        let Some(column) = self.columns.iter().find(|c| c.filters == part.channels) else { return Ok(()) };
        // no vector crosses a line of the cache
        let start = scratch.as_ptr().align_offset(LANES * 4).min(LANES);
        let (planes, rest) = scratch[start..].split_at_mut(planes);
        let (sums, rest) = rest.split_at_mut(sums);
        let (g, x) = (&self.g, inputs.get(0));
        let size = if self.pointwise {
            let pixels = part.pixels.clone();
            self.isa.run(FillPixels { strip: &self.strip, x, pixels, planes });
            [1, part.pixels.len()]
        } else {
            let width = g.out_w();
            let plane = g.out_h() * width;
            let (image, row) = (part.pixels.start / plane * g.h * g.w, part.pixels.start % plane / width);
            let first = [row * g.stride[0], 0];
            let zeros = &mut rest[..g.c];
            zeros.fill(0.0);
            self.isa.run(Fill { g, strip: &self.strip, x, image, first, zeros, planes });
            [part.pixels.len() / width, width]
        };
        self.isa.run(Sums {
            strip: &self.strip,
            column,
            bias: &self.bias,
            ending: &self.ending,
            vectors: self.vectors,
            planes,
            sums,
            first: part.pixels.start,
            size,
            neighbours: self.pointwise,
            residual: self.residual.then(|| inputs.get(1)),
            out: &mut out,
        });
        self.ending.finish(&mut out);
        Ok(())
    }
}
