//! How a product ends: residual and bounds while it is in registers, any other activation right after.

use crate::kernels::tiles::Finish;
use crate::ops::activation::{ActivationFn, activation_in_place};
use crate::session::kernel::{Inputs, Target};
use crate::session::lowering::Epilogue;

/// An epilogue whose scale and shift are folded into weights and bias.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ending {
    low: f32,
    high: f32,
    /// Index of the residual among the inputs.
    residual: Option<usize>,
    /// An activation that is no clipping.
    after: Option<ActivationFn>,
}

impl Ending {
    /// `inputs`: the number of inputs without the residual.
    pub fn new(epilogue: &Epilogue, inputs: usize) -> Ending {
        let (low, high, after) = match epilogue.activation {
            None => (f32::NEG_INFINITY, f32::INFINITY, None),
            Some(ActivationFn::Relu) => (0.0, f32::INFINITY, None),
            Some(ActivationFn::Relu6) => (0.0, 6.0, None),
            Some(ActivationFn::Clip(low, high)) => (low, high, None),
            other => (f32::NEG_INFINITY, f32::INFINITY, other),
        };
        Ending { low, high, residual: epilogue.residual.then_some(inputs), after }
    }

    /// For the pixel and channel at which a destination starts; `outer` pixels from a group of rows to the next.
    pub fn at(&self, inputs: Inputs<'_>, pixel: usize, channel: usize, outer: usize) -> Finish {
        let (residual, row) = match self.residual {
            Some(i) => {
                let x = inputs.get(i);
                (x.as_ptr().wrapping_add(pixel * x.pitch + channel), x.pitch)
            }
            None => (std::ptr::null(), 0),
        };
        let Ending { low, high, .. } = *self;
        Finish { low, high, residual, residual_row: row, residual_outer: outer * row }
    }

    /// What is left when all of a part is stored.
    pub fn after(&self, out: &mut Target<'_>) {
        if let Some(f) = self.after {
            for p in out.part().pixels.clone() {
                activation_in_place(f, out.pixel(p));
            }
        }
    }
}
