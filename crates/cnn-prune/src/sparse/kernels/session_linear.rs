//! The sparse linear layer as a kernel of a session.

use super::super::matrix::SparseMatrix;
use super::linear::{BLOCK, dot};
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
    let images = n.div_ceil(BLOCK);
    let cost = w.nonzeros() * if n == 1 { 1 } else { BLOCK };
    let pieces = (cost / PART).clamp(1, PARTS).min(w.rows());
    let parts = (0..images * pieces).map(|i| {
        let start = i / pieces * BLOCK;
        Part { pixels: start..n.min(start + BLOCK), channels: piece(w.rows(), pieces, i % pieces) }
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
        if several { self.w.cols() * BLOCK } else { 0 }
    }

    fn weight_bytes(&self) -> usize {
        self.w.nonzeros() * 8 + self.w.starts().len() * 8 + self.bias.as_ref().map_or(0, |b| b.len() * 4)
    }

    fn run(&self, inputs: Inputs<'_>, mut out: Target<'_>, scratch: &mut [f32]) -> Result<()> {
        let (x, part) = (inputs.get(0), out.part().clone());
        if part.pixels.len() == 1 {
            let (x, _) = x.pixel(part.pixels.start).as_chunks::<1>();
            self.isa.run(Product { of: self, part: &part, x, out: &mut out });
        } else {
            // images next to each other; places without an image are zeros that nobody reads
            let (turned, _) = scratch[..self.w.cols() * BLOCK].as_chunks_mut::<BLOCK>();
            for image in 0..BLOCK {
                let p = part.pixels.start + image;
                match part.pixels.contains(&p) {
                    true => turned.iter_mut().zip(x.pixel(p)).for_each(|(t, &x)| t[image] = x),
                    false => turned.iter_mut().for_each(|t| t[image] = 0.0),
                }
            }
            self.isa.run(Product { of: self, part: &part, x: turned, out: &mut out });
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

/// The rows of a part for up to `B` images.
struct Product<'a, 'b, const B: usize> {
    of: &'a SparseProduct,
    part: &'a Part,
    x: &'a [[f32; B]],
    out: &'a mut Target<'b>,
}

impl<const B: usize> SimdOp for Product<'_, '_, B> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, _isa: S) {
        let Part { pixels, channels } = self.part;
        for row in channels.clone() {
            let (columns, values) = self.of.w.row(row);
            let bias = self.of.bias.as_ref().map_or(0.0, |b| b[row]);
            let sums = dot(columns, values, bias, self.x);
            for (p, sum) in pixels.clone().zip(sums) {
                self.out.pixel(p)[row - channels.start] = sum;
            }
        }
    }
}
