//! Sums of inputs, finished: addition, and a normalization or activation that has no layer before it to be fused into.

use super::kernel::{Inputs, Kernel, Part, Target};
use super::lowering::{Epilogue, Layout, Lowered, Lowering};
use crate::Result;

/// Values that a part computes.
const PART: usize = 1 << 14;

/// `f(scale (x1 + x2 + ...) + shift + residual)`, by channel.
#[derive(Debug)]
pub(crate) struct Elementwise {
    parts: Vec<Part>,
    summands: usize,
    /// Done before the epilogue.
    first: Epilogue,
    epilogue: Epilogue,
}

impl Elementwise {
    /// The sum of all inputs, then `first`, then the epilogue.
    pub fn lower(at: &Lowering<'_>, first: Epilogue) -> Lowered {
        let per_pixel = at.output.get(1).copied().unwrap_or(1);
        let summands = at.inputs.len();
        let parts = at.parts(
            if at.output.len() == 4 { Layout::ChannelsLast } else { Layout::Planar },
            per_pixel,
            PART,
        );
        let kernel = Elementwise { parts, summands, first, epilogue: at.epilogue.clone() };
        Lowered { inputs: vec![Layout::ChannelsLast; summands], ..Lowered::channels_last(kernel) }
    }
}

impl Kernel for Elementwise {
    fn algorithm(&self) -> &'static str {
        "elementwise"
    }

    fn parts(&self) -> Vec<Part> {
        self.parts.clone()
    }

    fn run(&self, inputs: Inputs<'_>, mut out: Target<'_>, _scratch: &mut [f32]) -> Result<()> {
        let channels = out.part().channels.clone();
        for p in out.part().pixels.clone() {
            let row = out.pixel(p);
            row.copy_from_slice(&inputs.get(0).pixel(p)[channels.clone()]);
            for i in 1..self.summands {
                row.iter_mut().zip(&inputs.get(i).pixel(p)[channels.clone()]).for_each(|(y, x)| *y += x);
            }
            self.first.finish(channels.clone(), row, None);
            let residual = self.epilogue.residual.then(|| inputs.get(self.summands).pixel(p));
            self.epilogue.finish(channels.clone(), row, residual);
        }
        Ok(())
    }
}
