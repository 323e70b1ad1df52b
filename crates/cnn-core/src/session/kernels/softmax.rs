//! Softmax over the channels of each pixel.

use crate::Result;
use crate::ops::softmax::softmax;
use crate::session::kernel::{Inputs, Kernel, Part, Target};
use crate::session::lowering::{Epilogue, Layout, Lowered, Lowering};

/// Values that a part computes.
const PART: usize = 1 << 12;

#[derive(Debug)]
struct Softmax {
    parts: Vec<Part>,
    epilogue: Epilogue,
}

/// The kernel, for outputs whose channels lie next to each other.
pub(crate) fn lower(at: &Lowering<'_>) -> Option<Lowered> {
    let parts = at.parts(Layout::ChannelsLast, *at.output.get(1)?, PART);
    at.by_channel().then(|| Lowered::channels_last(Softmax { parts, epilogue: at.epilogue.clone() }))
}

impl Kernel for Softmax {
    fn algorithm(&self) -> &'static str {
        "softmax"
    }

    fn parts(&self) -> Vec<Part> {
        self.parts.clone()
    }

    fn run(&self, inputs: Inputs<'_>, mut out: Target<'_>, _scratch: &mut [f32]) -> Result<()> {
        let (x, channels) = (inputs.get(0), out.part().channels.clone());
        let residual = self.epilogue.residual.then(|| inputs.get(1));
        for p in out.part().pixels.clone() {
            let y = out.pixel(p);
            softmax(x.pixel(p), channels.len(), 1, y);
            if !self.epilogue.is_empty() {
                self.epilogue.finish(channels.clone(), y, residual.map(|r| r.pixel(p)));
            }
        }
        Ok(())
    }
}
