//! The sparse linear layer as a kernel of a session.

use super::super::matrix::SparseMatrix;
use super::linear::dot;
use super::session_conv::piece;
use cnn_core::Result;
use cnn_core::session::{Epilogue, Inputs, Kernel, Layout, Lowered, Lowering, Part, Target};
use cnn_core::simd::{Isa, Simd, SimdOp};
use std::sync::Arc;

/// Multiplications that a part should have.
const PART: usize = 30_000;
/// Most parts of a block of images.
const PARTS: usize = 8;

#[derive(Debug)]
struct SparseProduct {
    isa: Isa,
    w: Arc<SparseMatrix>,
    bias: Option<Vec<f32>>,
    epilogue: Epilogue,
    parts: Vec<Part>,
}

/// The kernel for `n` images; the sums are those of the reference, to the bit.
pub(in crate::sparse) fn lower_linear(
    at: &Lowering<'_>,
    n: usize,
    w: &SparseMatrix,
    bias: Option<&[f32]>,
) -> Lowered {
    // a vector of images at a time
    let block = at.isa.lanes();
    let images = n.div_ceil(block);
    let pieces = (w.nonzeros() / PART).clamp(1, PARTS).min(w.rows());
    let parts = (0..images * pieces).map(|i| {
        let start = i / pieces * block;
        Part { pixels: start..n.min(start + block), channels: piece(w.rows(), pieces, i % pieces) }
    });
    let kernel = SparseProduct {
        isa: at.isa,
        w: at.shared("sparse", || w.clone()),
        bias: bias.map(<[f32]>::to_vec),
        epilogue: at.epilogue.clone(),
        parts: parts.collect(),
    };
    Lowered { inputs: vec![Layout::Planar], output: Layout::Planar, ..Lowered::channels_last(kernel) }
}

impl Kernel for SparseProduct {
    fn algorithm(&self) -> &'static str {
        super::SPARSE
    }

    fn parts(&self) -> Vec<Part> {
        self.parts.clone()
    }

    fn scratch(&self) -> usize {
        let several = self.parts.iter().any(|p| p.pixels.len() > 1);
        if several { self.w.cols() * self.isa.lanes() } else { 0 }
    }

    fn weight_bytes(&self) -> usize {
        self.w.nonzeros() * 8 + self.w.starts().len() * 8 + self.bias.as_ref().map_or(0, |b| b.len() * 4)
    }

    fn run(&self, inputs: Inputs<'_>, mut out: Target<'_>, scratch: &mut [f32]) -> Result<()> {
        let (x, part) = (inputs.get(0), out.part().clone());
        if part.pixels.len() == 1 {
            self.isa.run(One { of: self, x: x.pixel(part.pixels.start), out: &mut out });
        } else {
            // images next to each other; places without an image are zeros that nobody reads
            let block = self.isa.lanes();
            let turned = &mut scratch[..self.w.cols() * block];
            for image in 0..block {
                let places = turned[image..].iter_mut().step_by(block);
                match part.pixels.start + image {
                    p if p < part.pixels.end => places.zip(x.pixel(p)).for_each(|(t, &x)| *t = x),
                    _ => places.for_each(|t| *t = 0.0),
                }
            }
            self.isa.run(Several { of: self, x: turned, out: &mut out });
        }
        if !self.epilogue.is_empty() {
            for p in part.pixels {
                let residual = self.epilogue.residual.then(|| inputs.get(1).pixel(p));
                self.epilogue.finish(part.channels.clone(), out.pixel(p), residual);
            }
        }
        Ok(())
    }
}

/// The rows of a part for one image.
struct One<'a, 'b> {
    of: &'a SparseProduct,
    x: &'a [f32],
    out: &'a mut Target<'b>,
}

impl SimdOp for One<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, _isa: S) {
        let Part { pixels, channels } = self.out.part().clone();
        let (x, _) = self.x.as_chunks::<1>();
        let y = self.out.pixel(pixels.start);
        for (row, y) in channels.zip(y) {
            let (columns, values) = self.of.w.row(row);
            let bias = self.of.bias.as_ref().map_or(0.0, |b| b[row]);
            [*y] = dot(columns, values, bias, x);
        }
    }
}

/// The rows of a part for a vector of images.
struct Several<'a, 'b> {
    of: &'a SparseProduct,
    /// `[column][image]`, a vector of images.
    x: &'a [f32],
    out: &'a mut Target<'b>,
}

impl SimdOp for Several<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Part { pixels, channels } = self.out.part().clone();
        for row in channels.clone() {
            let (columns, values) = self.of.w.row(row);
            let mut sums = [s.splat(0.0); 4];
            let mut add = |k: usize, column: u32, value: f32| {
                let x = &self.x[column as usize * S::LANES..][..S::LANES];
                // SAFETY: `x` is a vector.
                let x = unsafe { s.load(x.as_ptr()) };
                // as in `dot`, not fused: the same bits
                sums[k] = s.add(sums[k], s.mul(s.splat(value), x));
            };
            let (fours, last) = columns.as_chunks::<4>();
            let (values_of, last_values) = values.as_chunks::<4>();
            for (columns, values) in fours.iter().zip(values_of) {
                for k in 0..4 {
                    add(k, columns[k], values[k]);
                }
            }
            last.iter().zip(last_values).enumerate().for_each(|(k, (&column, &value))| add(k, column, value));
            let [a, b, c, d] = sums;
            let bias = s.splat(self.of.bias.as_ref().map_or(0.0, |b| b[row]));
            let mut y = [0f32; 16];
            // SAFETY: no vector is longer.
            unsafe { s.store(y.as_mut_ptr(), s.add(bias, s.add(s.add(a, b), s.add(c, d)))) };
            for (p, y) in pixels.clone().zip(y) {
                self.out.pixel(p)[row - channels.start] = y;
            }
        }
    }
}
