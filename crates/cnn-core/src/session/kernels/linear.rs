//! Linear layers: for one image a product of a matrix with a vector, which is as fast as its weights are read.

use super::Ending;
use super::linear_rows;
use super::panels;
use crate::Result;
use crate::kernels::tiles::{Init, Tiles};
use crate::session::floats::Floats;
use crate::session::kernel::{Inputs, Kernel, Part, Target};
use crate::session::lowering::{Layout, Lowered, Lowering};
use crate::simd::{Isa, Simd, SimdOp};
use std::sync::Arc;

/// Vectors of a panel for one image: as many sums as hide the latency of the multiply-add.
const VECTORS: usize = 4;
/// Images from which on the product of two matrices is used.
const MATRIX: usize = 4;

/// The kernel of `y = W x + bias`; `weights`: `outputs x inputs`.
pub(crate) fn lower(
    at: &Lowering<'_>,
    outputs: usize,
    weights: &[f32],
    bias: Option<&[f32]>,
) -> Option<Lowered> {
    let &[images, inputs] = at.inputs.first()?.shape.as_slice() else { return None };
    let isa = at.isa;
    let (weights, bias) = at.epilogue.fold(outputs, weights, bias);
    if images < MATRIX
        && let Some(rows) = linear_rows::lower(at, images, &bias)
    {
        return Some(rows);
    }
    let vectors = outputs.div_ceil(isa.lanes()).min(VECTORS);
    let (width, key) = match images < MATRIX {
        true => (vectors * isa.lanes(), "linear vector"),
        false => (panels::width(isa, outputs), "linear matrix"),
    };
    let packed = at.shared(key, || panels::pack(isa, outputs, inputs, width, &weights));
    let count = outputs.div_ceil(width);
    let cost = images * inputs * packed.len() / inputs.max(1) / isa.lanes();
    let (pieces, columns) = match images < MATRIX {
        true => (1, (cost / 12_000).clamp(1, 16).min(count)),
        false => panels::cut(images, inputs, count, packed.len() * 4, cost),
    };
    let parts = (0..pieces * columns)
        .map(|i| {
            let panels = panels::piece(count, columns, i % columns);
            let channels = panels.start * width..outputs.min(panels.end * width);
            Part { pixels: panels::piece(images, pieces, i / columns), channels }
        })
        .collect();
    let kernel = Linear {
        isa,
        inputs,
        width,
        matrix: images >= MATRIX,
        bias: panels::pad(&bias, width),
        weights: packed,
        ending: Ending::new(at.epilogue.activation),
        residual: at.epilogue.residual,
        parts,
    };
    Some(Lowered { inputs: vec![Layout::Planar], output: Layout::Planar, ..Lowered::channels_last(kernel) })
}

#[derive(Debug)]
struct Linear {
    isa: Isa,
    inputs: usize,
    width: usize,
    matrix: bool,
    /// `[panel][input][width]`.
    weights: Arc<Floats>,
    bias: Floats,
    ending: Ending,
    residual: bool,
    parts: Vec<Part>,
}

impl Kernel for Linear {
    fn algorithm(&self) -> &'static str {
        if self.matrix { "matrix x matrix" } else { "matrix x vector" }
    }

    fn parts(&self) -> Vec<Part> {
        self.parts.clone()
    }

    fn weight_bytes(&self) -> usize {
        (self.weights.len() + self.bias.len()) * 4
    }

    fn run(&self, inputs: Inputs<'_>, mut out: Target<'_>, _scratch: &mut [f32]) -> Result<()> {
        let (x, part) = (inputs.get(0), out.part());
        let residual = self.residual.then(|| inputs.get(1));
        for panel in part.channels.start / self.width..part.channels.end.div_ceil(self.width) {
            let channel = panel * self.width;
            let b = self.weights[panel * self.inputs * self.width..][..self.inputs * self.width].as_ptr();
            let bias = self.bias[channel..][..self.width].as_ptr();
            let lanes = self.width.min(part.channels.end - channel);
            if self.matrix {
                self.isa.run(Tiles {
                    a: x.as_ptr().wrapping_add(part.pixels.start * x.pitch),
                    a_row: x.pitch,
                    a_inner: 1,
                    runs: &[0],
                    run_len: self.inputs,
                    b,
                    b_inner: self.width,
                    next: b.wrapping_add(self.inputs * self.width),
                    c: out.as_ptr().wrapping_add(part.pixels.start * out.pitch() + channel),
                    c_row: out.pitch(),
                    rows: part.pixels.len(),
                    outer: 1,
                    a_outer: 0,
                    c_outer: 0,
                    lanes,
                    init: Init::Row(bias),
                    finish: Some(self.ending.at(residual, part.pixels.start, channel, 0)),
                });
                continue;
            }
            for p in part.pixels.clone() {
                let y = &mut out.pixel(p)[channel - part.channels.start..][..lanes];
                self.isa.run(MatrixVector { x: x.pixel(p), b, bias, width: self.width, y: &mut *y });
                if let Some(residual) = residual {
                    let more = &residual.pixel(p)[channel..channel + lanes];
                    y.iter_mut().zip(more).for_each(|(y, r)| *y += r);
                }
                self.ending.clip_all(y);
            }
        }
        self.ending.finish(&mut out, part.pixels.clone());
        Ok(())
    }
}

/// A panel of up to [`VECTORS`] vectors times one row.
struct MatrixVector<'a> {
    x: &'a [f32],
    b: *const f32,
    bias: *const f32,
    width: usize,
    y: &'a mut [f32],
}

impl SimdOp for MatrixVector<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        // SAFETY: the panel has `x.len()` rows and the bias one, of `width` floats.
        unsafe {
            match self.width / S::LANES {
                1 => self.go::<S, 1, 4>(s),
                2 => self.go::<S, 2, 2>(s),
                3 => self.go::<S, 3, 2>(s),
                _ => self.go::<S, VECTORS, 2>(s),
            }
        }
    }
}

impl MatrixVector<'_> {
    /// `U` rows of the panel at a time into sums of their own: few sums would wait for each other.
    ///
    /// # Safety
    /// See [`MatrixVector`].
    #[inline(always)]
    unsafe fn go<S: Simd, const V: usize, const U: usize>(self, s: S) {
        let mut acc = [[s.splat(0.0); V]; U];
        let row = V * S::LANES;
        // SAFETY: the caller's promise.
        unsafe {
            for (j, acc) in acc[0].iter_mut().enumerate() {
                *acc = s.load(self.bias.add(j * S::LANES));
            }
            let whole = self.x.len() / U * U;
            for (k, x) in self.x[..whole].chunks_exact(U).enumerate() {
                for u in 0..U {
                    let (b, x) = (self.b.add((k * U + u) * row), s.splat(x[u]));
                    for (j, acc) in acc[u].iter_mut().enumerate() {
                        *acc = s.fma(x, s.load(b.add(j * S::LANES)), *acc);
                    }
                }
            }
            for (k, &x) in self.x.iter().enumerate().skip(whole) {
                for (j, acc) in acc[0].iter_mut().enumerate() {
                    *acc = s.fma(s.splat(x), s.load(self.b.add(k * row + j * S::LANES)), *acc);
                }
            }
            let (first, others) = acc.split_at(1);
            for (j, &sum) in first[0].iter().enumerate() {
                let sum = others.iter().fold(sum, |sum, more| s.add(sum, more[j]));
                let (at, left) = (j * S::LANES, self.y.len().saturating_sub(j * S::LANES));
                s.store_partial(self.y.as_mut_ptr().wrapping_add(at), left.min(S::LANES), sum);
            }
        }
    }
}
