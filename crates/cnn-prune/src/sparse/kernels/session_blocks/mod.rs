//! The convolution whose zeros come in blocks of neighbouring filters, as a kernel of a session: channels last in and out.
//!
//! It is the dense product with the columns left out that a block does not have: a vector holds the filters of a block, a stored
//! column of weights meets one input of several pixels. Where neighbouring blocks have the same columns, as in patterns of twice as
//! many filters, two vectors share the inputs.

mod product;

use super::super::blocks::{self, BLOCK};
use super::super::matrix::SparseMatrix;
use super::ending::Ending;
use super::session_conv::piece;
use cnn_core::Result;
use cnn_core::ops::conv::ConvGeometry;
use cnn_core::session::{Floats, Inputs, Kernel, Lowered, Lowering, Part, Target, View};
use cnn_core::simd::Isa;
use product::Product;
use std::sync::Arc;

/// Vectors of products that a part should have.
const PART: usize = 120_000;
/// Parts of an image.
const PARTS: usize = 8;
/// Bytes of weights from which on threads should share them out rather than each read all.
const HEAVY: usize = 256 << 10;
/// Bytes of inputs of the pixels that are multiplied together: they stay in the first-level cache for all filters.
const NEAR: usize = 40 << 10;

/// Floats that the copy of an image may have at most, in terms of what is useful.
const BLOWN_UP: usize = 16;

/// The columns of a block that are stored.
#[derive(Debug)]
struct Block {
    /// Bytes from the first input of a pixel to that of each column.
    offsets: Vec<u32>,
    /// Start of its weights.
    start: usize,
}

/// The weights of all blocks.
#[derive(Debug)]
struct Weights {
    /// Filters of a block here: [`BLOCK`], or twice as many.
    filters: usize,
    blocks: Vec<Block>,
    /// `[column][filter of the block]`
    values: Floats,
}

impl Weights {
    /// `place` tells how many floats the input of a channel and a tap is from the first one.
    fn of(
        w: &SparseMatrix,
        lanes: usize,
        taps: usize,
        scale: Option<&[f32]>,
        place: impl Fn(usize, usize) -> usize,
    ) -> Weights {
        // where two vectors fit the registers
        let side = if lanes == BLOCK && blocks::paired(w) { 2 } else { 1 };
        let filters = side * BLOCK;
        let all: Vec<Vec<u32>> = blocks::columns(w).step_by(side).collect();
        let mut values = Floats::zeros(all.iter().map(Vec::len).sum::<usize>() * filters);
        let (mut start, mut packed) = (0, Vec::with_capacity(all.len()));
        for (block, mut columns) in all.into_iter().enumerate() {
            // tap after tap: neighbouring channels lie in one line of the cache
            columns.sort_by_key(|&c| (c as usize % taps, c as usize / taps));
            let to = &mut values[start..][..columns.len() * filters];
            let mut index = std::collections::HashMap::with_capacity(columns.len());
            index.extend(columns.iter().enumerate().map(|(i, &column)| (column, i)));
            for (lane, row) in (block * filters..w.rows().min((block + 1) * filters)).enumerate() {
                let scale = scale.map_or(1.0, |scale| scale[row]);
                let (found, values) = w.row(row);
                for (column, value) in found.iter().zip(values) {
                    to[index[column] * filters + lane] = value * scale;
                }
            }
            let offset = |&c: &u32| (place(c as usize / taps, c as usize % taps) * 4) as u32;
            packed.push(Block { offsets: columns.iter().map(offset).collect(), start });
            start += columns.len() * filters;
        }
        Weights { filters, blocks: packed, values }
    }
}

#[derive(Debug)]
struct BlockConv {
    isa: Isa,
    g: ConvGeometry,
    /// True if pixels are read without regard to rows.
    pointwise: bool,
    weights: Arc<Weights>,
    /// Filled up to whole blocks.
    bias: Floats,
    ending: Ending,
    residual: bool,
    parts: Vec<Part>,
}

/// The kernel, for convolutions without groups.
pub(in crate::sparse) fn lower_blocks(
    at: &Lowering<'_>,
    g: &ConvGeometry,
    w: &SparseMatrix,
    bias: Option<&[f32]>,
) -> Option<Lowered> {
    let (rows, width) = (g.out_h(), g.out_w());
    if g.groups != 1 || g.n * g.m * rows * width == 0 {
        return None;
    }
    let pointwise = g.kernel == [1, 1] && g.stride == [1, 1] && g.pad == [0; 4];
    let row = padded_width(g)?.checked_mul(g.c)?;
    // offsets are bytes in 32 bits, and the copy must not be beyond all measure
    let field = (g.kernel[0] - 1).checked_mul(g.dilation[0])?.checked_add(1)?;
    let copy = (rows - 1).checked_mul(g.stride[0])?.checked_add(field)?.checked_mul(row)?;
    let useful = g.c * g.h * g.w + g.m * rows * width;
    let bounded = copy <= useful.saturating_mul(BLOWN_UP).saturating_add(1 << 15);
    field.checked_mul(row)?.checked_mul(4).filter(|&bytes| bounded && bytes < 1 << 31)?;

    let key = format!("blocks {row}");
    let scale = at.epilogue.scale.as_deref();
    let weights = at.shared(&key, || {
        Weights::of(w, at.isa.lanes(), g.kernel[0] * g.kernel[1], scale, |channel, tap| {
            let (ky, kx) = (tap / g.kernel[1], tap % g.kernel[1]);
            ky * g.dilation[0] * row + kx * g.dilation[1] * g.c + channel
        })
    });
    let mut padded = Floats::zeros(g.m.next_multiple_of(weights.filters));
    for (m, to) in padded[..g.m].iter_mut().enumerate() {
        let bias = bias.map_or(0.0, |b| b[m]) * scale.map_or(1.0, |s| s[m]);
        *to = bias + at.epilogue.shift.as_ref().map_or(0.0, |s| s[m]);
    }
    let mut kernel = BlockConv {
        isa: at.isa,
        g: *g,
        pointwise,
        weights,
        bias: padded,
        ending: Ending::new(at.epilogue.activation),
        residual: at.epilogue.residual,
        parts: Vec::new(),
    };
    kernel.parts = kernel.cut();
    Some(Lowered::channels_last(kernel))
}

/// Pixels in a row of a padded copy.
fn padded_width(g: &ConvGeometry) -> Option<usize> {
    let field = (g.kernel[1] - 1).checked_mul(g.dilation[1])?.checked_add(1)?;
    (g.out_w() - 1).checked_mul(g.stride[1])?.checked_add(field)
}

impl BlockConv {
    fn cut(&self) -> Vec<Part> {
        let g = &self.g;
        let (rows, width) = (g.out_h(), g.out_w());
        let (images, lines, line) =
            if self.pointwise { (1, g.n * rows * width, 1) } else { (g.n, rows, width) };
        let work = self.weights.values.len() / BLOCK * lines * line;
        let want = (work / PART).clamp(1, PARTS);
        let heavy = self.weights.values.len() * 4;
        let filters = self.weights.filters;
        let (bands, columns) = match heavy > HEAVY && heavy > g.c * lines * line * 4 {
            true => (1, want.min(self.weights.blocks.len())),
            false => (want.min(lines), 1),
        };
        let mut parts = Vec::with_capacity(images * bands * columns);
        for image in 0..images {
            for band in 0..bands {
                let lines_of = piece(lines, bands, band);
                let pixels = (image * lines + lines_of.start) * line..(image * lines + lines_of.end) * line;
                for column in 0..columns {
                    let blocks = piece(self.weights.blocks.len(), columns, column);
                    let channels = blocks.start * filters..g.m.min(blocks.end * filters);
                    parts.push(Part { pixels: pixels.clone(), channels });
                }
            }
        }
        parts
    }

    /// True if no pixel is read for two outputs, nor one that is not there.
    fn in_place(&self) -> bool {
        self.g.kernel == [1, 1] && self.g.pad == [0; 4]
    }

    /// Input rows under so many output rows.
    fn reach(&self, rows: usize) -> usize {
        (rows - 1) * self.g.stride[0] + (self.g.kernel[0] - 1) * self.g.dilation[0] + 1
    }

    /// Floats of a padded row.
    fn row(&self) -> usize {
        padded_width(&self.g).unwrap_or(0) * self.g.c
    }

    /// Copies the input rows under some output rows, with zeros around them.
    fn copy(&self, x: View<'_>, first: usize, rows: usize, to: &mut [f32]) {
        let g = &self.g;
        let (image, row) = (first / g.out_h(), first % g.out_h());
        for (i, to) in to.chunks_exact_mut(self.row()).take(self.reach(rows)).enumerate() {
            // what lies before the image wraps around to beyond it
            let y = (row * g.stride[0] + i).wrapping_sub(g.pad[0]);
            if y >= g.h {
                to.fill(0.0);
                continue;
            }
            for (i, to) in to.chunks_exact_mut(g.c).enumerate() {
                match i.wrapping_sub(g.pad[1]) {
                    x_of if x_of < g.w => to.copy_from_slice(x.pixel((image * g.h + y) * g.w + x_of)),
                    _ => to.fill(0.0),
                }
            }
        }
    }
}

impl Kernel for BlockConv {
    fn algorithm(&self) -> &'static str {
        super::BLOCKS
    }

    fn parts(&self) -> Vec<Part> {
        self.parts.clone()
    }

    fn scratch(&self) -> usize {
        if self.in_place() {
            return 0;
        }
        let rows = self.parts.iter().map(|p| p.pixels.len() / self.g.out_w()).max().unwrap_or(1);
        self.reach(rows.max(1)) * self.row()
    }

    fn weight_bytes(&self) -> usize {
        self.weights.values.len() * 4
            + self.weights.values.len() / self.weights.filters * 4
            + self.bias.len() * 4
    }

    fn run(&self, inputs: Inputs<'_>, mut out: Target<'_>, scratch: &mut [f32]) -> Result<()> {
        let (g, part, x) = (&self.g, out.part().clone(), inputs.get(0));
        let residual = self.residual.then(|| inputs.get(1));
        let product = |x: &mut Product<'_, '_>| self.isa.run(x);
        let pixel_bytes =
            if self.pointwise { g.c } else { g.c * g.kernel[0] * g.stride[1].min(g.kernel[1]) } * 4;
        let mut of = Product {
            weights: &self.weights,
            bias: &self.bias,
            ending: &self.ending,
            residual,
            most: (NEAR / pixel_bytes).max(6),
            x: std::ptr::null(),
            step: 0,
            pixels: part.pixels.clone(),
            out: &mut out,
        };
        if self.pointwise {
            assert!(part.pixels.end <= x.pixels && x.channels == g.c);
            of.x = x.as_ptr().wrapping_add(part.pixels.start * x.pitch);
            of.step = x.pitch;
            product(&mut of);
        } else {
            let width = g.out_w();
            let (first, rows) = (part.pixels.start / width, part.pixels.len() / width);
            let in_place = self.in_place();
            let copy = &mut scratch[..if in_place { 0 } else { self.reach(rows) * self.row() }];
            if in_place {
                assert!(x.pixels == g.n * g.h * g.w && x.channels == g.c);
                of.step = g.stride[1] * x.pitch;
            } else {
                self.copy(x, first, rows, copy);
                of.step = g.stride[1] * g.c;
            }
            for row in first..first + rows {
                of.x = if in_place {
                    let line = row / g.out_h() * g.h + row % g.out_h() * g.stride[0];
                    x.as_ptr().wrapping_add(line * g.w * x.pitch)
                } else {
                    copy[(row - first) * g.stride[0] * self.row()..].as_ptr()
                };
                of.pixels = row * width..(row + 1) * width;
                product(&mut of);
            }
        }
        self.ending.finish(&mut out);
        Ok(())
    }
}
