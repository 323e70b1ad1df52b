//! A large linear layer for a few images: it reads the layer's own weights, row by row. They are most of the bytes of some networks, and
//! a copy in another order would be no faster, since each weight is used once.

use super::Ending;
use super::panels;
use crate::Result;
use crate::layer::Layer;
use crate::layers::Linear;
use crate::session::kernel::{Inputs, Kernel, Part, Target};
use crate::session::lowering::{Layout, Lowered, Lowering};
use crate::simd::{Isa, Simd, SimdOp};
use std::sync::Arc;

/// Weights from which on this is used.
const LARGE: usize = 1 << 20;
/// Rows that are multiplied together.
const ROWS: usize = 4;
/// Parts.
const PARTS: usize = 8;

/// The kernel, if the layer is one for it: large, and without what training leaves behind, since the layer stays alive.
pub(super) fn lower(at: &Lowering<'_>, images: usize, bias: &[f32]) -> Option<Lowered> {
    let weight = at.layer.downcast_ref::<Linear>()?.weight();
    if weight.len() < LARGE || !weight.is_bare() || at.epilogue.scale.is_some() {
        return None;
    }
    let outputs = bias.len();
    let parts = (0..PARTS).map(|i| Part { pixels: 0..images, channels: panels::piece(outputs, PARTS, i) });
    let kernel = LinearRows {
        isa: at.isa,
        layer: at.layer.clone(),
        bias: bias.to_vec(),
        ending: Ending::new(at.epilogue.activation),
        residual: at.epilogue.residual,
        parts: parts.filter(|p| !p.channels.is_empty()).collect(),
    };
    Some(Lowered { inputs: vec![Layout::Planar], output: Layout::Planar, ..Lowered::channels_last(kernel) })
}

#[derive(Debug)]
struct LinearRows {
    isa: Isa,
    /// A [`Linear`].
    layer: Arc<dyn Layer>,
    bias: Vec<f32>,
    ending: Ending,
    residual: bool,
    parts: Vec<Part>,
}

impl Kernel for LinearRows {
    fn algorithm(&self) -> &'static str {
        "rows x vector"
    }

    fn parts(&self) -> Vec<Part> {
        self.parts.clone()
    }

    fn weight_bytes(&self) -> usize {
        self.layer.downcast_ref::<Linear>().map_or(0, |l| l.weight().len() * 4) + self.bias.len() * 4
    }

    fn run(&self, inputs: Inputs<'_>, mut out: Target<'_>, _scratch: &mut [f32]) -> Result<()> {
        let weights = self.layer.downcast_ref::<Linear>().and_then(|l| l.weight().value().as_slice());
        let weights = weights.unwrap_or_default();
        let (x, part) = (inputs.get(0), out.part().clone());
        let residual = self.residual.then(|| inputs.get(1));
        for p in part.pixels.clone() {
            let x = x.pixel(p);
            for first in part.channels.clone().step_by(ROWS) {
                let last = part.channels.end.min(first + ROWS);
                let rows = &weights[first * x.len()..last * x.len()];
                let y = &mut out.pixel(p)[first - part.channels.start..last - part.channels.start];
                y.copy_from_slice(&self.bias[first..last]);
                self.isa.run(RowsVector { rows, x, y });
                if let Some(residual) = residual {
                    y.iter_mut().zip(&residual.pixel(p)[first..last]).for_each(|(y, r)| *y += r);
                }
                self.ending.clip_all(y);
            }
        }
        self.ending.finish(&mut out, part.pixels.clone());
        Ok(())
    }
}

/// `y += rows x` for up to [`ROWS`] rows.
struct RowsVector<'a> {
    rows: &'a [f32],
    x: &'a [f32],
    y: &'a mut [f32],
}

impl SimdOp for RowsVector<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let len = self.x.len();
        assert!(self.rows.len() == self.y.len() * len && self.y.len() <= ROWS);
        // fewer rows: the last one again, and its sum is not used
        let rows: [*const f32; ROWS] =
            std::array::from_fn(|r| self.rows[r.min(self.y.len() - 1) * len..].as_ptr());
        let mut sums = [[s.splat(0.0); 2]; ROWS];
        let mut i = 0;
        // SAFETY: all rows have as many floats as `x`.
        unsafe {
            while i + 2 * S::LANES <= len {
                for half in 0..2 {
                    let at = i + half * S::LANES;
                    let x = s.load(self.x.as_ptr().add(at));
                    for (sums, row) in sums.iter_mut().zip(rows) {
                        sums[half] = s.fma(x, s.load(row.add(at)), sums[half]);
                    }
                }
                i += 2 * S::LANES;
            }
            while i < len {
                let n = S::LANES.min(len - i);
                let x = s.load_partial(self.x.as_ptr().add(i), n);
                for (sums, row) in sums.iter_mut().zip(rows) {
                    sums[0] = s.fma(x, s.load_partial(row.add(i), n), sums[0]);
                }
                i += n;
            }
        }
        for (y, [a, b]) in self.y.iter_mut().zip(sums) {
            *y += s.sum(s.add(a, b));
        }
    }
}
