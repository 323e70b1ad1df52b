//! A frame of constant pixels around each image.

use crate::Result;
use crate::session::kernel::{Inputs, Kernel, Part, Target};
use crate::session::lowering::{Epilogue, Layout, Lowered, Lowering};

/// Values that a part writes.
const PART: usize = 1 << 15;

#[derive(Debug)]
struct Pad {
    parts: Vec<Part>,
    /// Height and width of input and output.
    sizes: [[usize; 2]; 2],
    /// Rows above and columns to the left.
    before: [usize; 2],
    value: f32,
    epilogue: Epilogue,
}

/// The kernel for an input `[n, c, h, w]`; `before` are the rows above and the columns to the left of it.
pub(crate) fn lower(at: &Lowering<'_>, before: [usize; 2], value: f32) -> Option<Lowered> {
    let (&[_, c, h, w], &[_, _, oh, ow]) = (at.inputs.first()?.shape.as_slice(), at.output) else {
        return None;
    };
    let parts = at.parts(Layout::ChannelsLast, c, PART);
    let sizes = [[h, w], [oh, ow]];
    Some(Lowered::channels_last(Pad { parts, sizes, before, value, epilogue: at.epilogue.clone() }))
}

impl Kernel for Pad {
    fn algorithm(&self) -> &'static str {
        "pad"
    }

    fn parts(&self) -> Vec<Part> {
        self.parts.clone()
    }

    fn run(&self, inputs: Inputs<'_>, mut out: Target<'_>, _scratch: &mut [f32]) -> Result<()> {
        let [[h, w], [oh, ow]] = self.sizes;
        let (x, channels) = (inputs.get(0), out.part().channels.clone());
        let residual = self.epilogue.residual.then(|| inputs.get(1));
        for p in out.part().pixels.clone() {
            let (image, row, column) = (p / (oh * ow), p / ow % oh, p % ow);
            // a row or column before the image wraps to one far behind it
            let (row, column) = (row.wrapping_sub(self.before[0]), column.wrapping_sub(self.before[1]));
            let y = out.pixel(p);
            match row < h && column < w {
                true => y.copy_from_slice(&x.pixel((image * h + row) * w + column)[channels.clone()]),
                false => y.fill(self.value),
            }
            if !self.epilogue.is_empty() {
                self.epilogue.finish(channels.clone(), y, residual.map(|r| r.pixel(p)));
            }
        }
        Ok(())
    }
}
