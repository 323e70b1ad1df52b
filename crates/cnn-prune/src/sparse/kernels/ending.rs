//! The activation at the end of an epilogue: in registers if it is a clip, afterwards otherwise.

use cnn_core::ops::activation::ActivationFn;
use cnn_core::session::{Epilogue, Target};

/// `min(max(x, low), high)`, then perhaps a function that is no clip.
#[derive(Debug, Clone)]
pub(super) struct Ending {
    pub low: f32,
    pub high: f32,
    /// The function alone.
    after: Epilogue,
}

impl Ending {
    pub fn new(f: Option<ActivationFn>) -> Ending {
        let (low, high, after) = match f {
            None => (f32::NEG_INFINITY, f32::INFINITY, None),
            Some(ActivationFn::Relu) => (0.0, f32::INFINITY, None),
            Some(ActivationFn::Relu6) => (0.0, 6.0, None),
            Some(ActivationFn::Clip(low, high)) => (low, high, None),
            after => (f32::NEG_INFINITY, f32::INFINITY, after),
        };
        Ending { low, high, after: Epilogue { activation: after, ..Epilogue::default() } }
    }

    /// What is left to be done with the part once it is stored.
    pub fn finish(&self, out: &mut Target<'_>) {
        if self.after.is_empty() {
            return;
        }
        let part = out.part().clone();
        for p in part.pixels {
            self.after.finish(part.channels.clone(), out.pixel(p), None);
        }
    }
}
