//! The activation at the end of an epilogue: in registers if it is a clip, afterwards otherwise.

use crate::kernels::tiles::Finish;
use crate::ops::activation::{ActivationFn, activation_in_place};
use crate::session::kernel::{Target, View};
use crate::simd::Simd;
use std::ops::Range;

/// Values that are activated at a time, few enough to stay on this thread.
const RUN: usize = 1 << 12;

/// `min(max(x, low), high)`, then perhaps a function that is no clip.
#[derive(Debug, Clone, Copy)]
pub(in crate::session) struct Ending {
    low: f32,
    high: f32,
    after: Option<ActivationFn>,
}

impl Ending {
    /// Without an activation nothing is clipped.
    pub fn new(f: Option<ActivationFn>) -> Ending {
        let (low, high, after) = match f {
            None => (f32::NEG_INFINITY, f32::INFINITY, None),
            Some(ActivationFn::Relu) => (0.0, f32::INFINITY, None),
            Some(ActivationFn::Relu6) => (0.0, 6.0, None),
            Some(ActivationFn::Clip(low, high)) => (low, high, None),
            after => (f32::NEG_INFINITY, f32::INFINITY, after),
        };
        Ending { low, high, after }
    }

    /// The bounds, one in each lane.
    #[inline(always)]
    pub fn bounds<S: Simd>(&self, s: S) -> (S::V, S::V) {
        (s.splat(self.low), s.splat(self.high))
    }

    /// For a product whose destination starts at a pixel and a channel; `outer` pixels from a group of rows to the next.
    pub fn at(&self, residual: Option<View<'_>>, pixel: usize, channel: usize, outer: usize) -> Finish {
        let (residual, residual_row) = match residual {
            Some(x) => (x.as_ptr().wrapping_add(pixel * x.pitch + channel), x.pitch),
            None => (std::ptr::null(), 0),
        };
        let Ending { low, high, .. } = *self;
        Finish { low, high, residual, residual_row, residual_outer: outer * residual_row }
    }

    /// Applies the bounds. NaN passes: the operand that is returned for NaN is the value.
    #[inline(always)]
    pub fn clip<S: Simd>(s: S, (low, high): (S::V, S::V), v: S::V) -> S::V {
        s.min(high, s.max(low, v))
    }

    /// The same for values one by one.
    pub fn clip_all(&self, values: &mut [f32]) {
        for v in values {
            // NaN stays NaN
            let raised = if *v < self.low { self.low } else { *v };
            *v = if raised > self.high { self.high } else { raised };
        }
    }

    /// What is left to be done with pixels of the part once they are stored.
    pub fn finish(&self, out: &mut Target<'_>, pixels: Range<usize>) {
        let Some(f) = self.after else { return };
        let channels = out.part().channels.len();
        if out.pitch() != channels {
            pixels.for_each(|p| activation_in_place(f, out.pixel(p)));
            return;
        }
        let step = (RUN / channels).max(1);
        for first in pixels.clone().step_by(step) {
            let last = (first + step).min(pixels.end) - 1;
            let [start, end] = [out.pixel(first).as_mut_ptr(), out.pixel(last).as_mut_ptr()];
            debug_assert!(start <= end);
            // SAFETY: pixels without gaps between them, both ends in the part.
            let run = unsafe { std::slice::from_raw_parts_mut(start, (last - first + 1) * channels) };
            activation_in_place(f, run);
        }
    }
}
