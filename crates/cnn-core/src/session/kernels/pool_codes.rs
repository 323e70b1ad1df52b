//! Maxima of windows of bytes: the code of the largest value is the largest code.

use super::pool::Axis;
use crate::Result;
use crate::session::kernel::{Inputs, Kernel, Part, Target, View};
use crate::session::lowering::{Layout, Lowered, Lowering};
use crate::simd::{Isa, Simd, SimdOp};

/// Values that a part reads.
const PART: usize = 1 << 18;

#[derive(Debug)]
struct MaxOfCodes {
    isa: Isa,
    input: [usize; 2],
    /// For each output row its input rows, likewise columns.
    windows: [Vec<Axis>; 2],
    parts: Vec<Part>,
}

pub(super) fn lower(at: &Lowering<'_>, input: [usize; 2], windows: [Vec<Axis>; 2]) -> Lowered {
    let largest = |axis: &Vec<Axis>| axis.iter().map(|a| a.range.len()).max().unwrap_or(1);
    let channels = at.output.get(1).copied().unwrap_or(1);
    let parts = at.parts(Layout::Codes, channels * largest(&windows[0]) * largest(&windows[1]), PART);
    Lowered {
        kernel: Box::new(MaxOfCodes { isa: at.isa, input, windows, parts }),
        inputs: vec![Layout::Codes],
        output: Layout::Codes,
        alternatives: Vec::new(),
    }
}

impl Kernel for MaxOfCodes {
    fn algorithm(&self) -> &'static str {
        "maximum of codes"
    }

    fn parts(&self) -> Vec<Part> {
        self.parts.clone()
    }

    fn run(&self, inputs: Inputs<'_>, out: Target<'_>, _scratch: &mut [f32]) -> Result<()> {
        self.isa.run(Windows { pool: self, x: inputs.get(0), out });
        Ok(())
    }
}

struct Windows<'a> {
    pool: &'a MaxOfCodes,
    x: View<'a>,
    out: Target<'a>,
}

impl SimdOp for Windows<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(mut self, _isa: S) {
        let ([h, w], [rows, columns]) = (self.pool.input, &self.pool.windows);
        for p in self.out.part().pixels.clone() {
            let image = p / (rows.len() * columns.len());
            let (row, column) = (&rows[p / columns.len() % rows.len()], &columns[p % columns.len()]);
            let y = self.out.codes(p);
            // below all codes: every window holds a pixel
            y.fill(0);
            for i in row.range.clone() {
                for j in column.range.clone() {
                    let x = self.x.codes((image * h + i) * w + j);
                    y.iter_mut().zip(x).for_each(|(y, &x)| *y = x.max(*y));
                }
            }
        }
    }
}
