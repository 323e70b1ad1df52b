//! Sums and products of inputs, finished: addition, scaling by channel, and a normalization or activation that has no layer before
//! it to be fused into.

use super::kernel::{Inputs, Kernel, Part, Target};
use super::kernels::{Ending, load, store};
use super::lowering::{Epilogue, Layout, Lowered, Lowering};
use crate::Result;
use crate::simd::{Isa, Simd, SimdOp};
use std::ops::Range;

/// Values that a part computes.
const PART: usize = 1 << 15;

/// `f(scale (x1 + x2 + ...) + shift + residual)`, by channel; or `x1 x2` for the sum.
#[derive(Debug)]
pub(crate) struct Elementwise {
    isa: Isa,
    parts: Vec<Part>,
    combine: Combine,
    inputs: usize,
    scale: Option<Vec<f32>>,
    shift: Option<Vec<f32>>,
    residual: bool,
    end: Ending,
    /// What is done afterwards, where that does not fit into one pass.
    then: Option<Epilogue>,
}

#[derive(Debug, Clone, Copy)]
enum Combine {
    Sum,
    /// Pixel `p` of input `wide` times pixel `p / each` of the other one.
    Product {
        wide: usize,
        each: usize,
    },
}

impl Elementwise {
    /// The sum of all inputs, then `first`, then the epilogue.
    pub fn lower(at: &Lowering<'_>, first: Epilogue) -> Lowered {
        Elementwise::new(at, Combine::Sum, first)
    }

    /// The product of two inputs of one shape, or of one with another that has a value for each channel (and image).
    pub fn lower_product(at: &Lowering<'_>) -> Option<Lowered> {
        let [a, b] = at.inputs else { return None };
        let factor_of = |wide: &[usize], factor: &[usize]| match (wide, factor) {
            _ if wide == factor => Some(1),
            (&[n, c, h, w], &[m, d, 1, 1]) if c == d && n == m => Some(h * w),
            (&[_, c, ..], &[1, d, 1, 1] | &[1, d]) if c == d && wide.len() == factor.len() => {
                Some(usize::MAX)
            }
            _ => None,
        };
        let ways = [(0, factor_of(&a.shape, &b.shape)), (1, factor_of(&b.shape, &a.shape))];
        let (wide, each) = ways.into_iter().find_map(|(wide, each)| Some((wide, each?)))?;
        at.by_channel().then(|| Elementwise::new(at, Combine::Product { wide, each }, Epilogue::default()))
    }

    fn new(at: &Lowering<'_>, combine: Combine, first: Epilogue) -> Lowered {
        let layout = if at.output.len() == 4 { Layout::ChannelsLast } else { Layout::Planar };
        let parts = at.parts(layout, at.output.get(1).copied().unwrap_or(1), PART);
        let inputs = at.inputs.len();
        // one pass if the first epilogue ends where the second begins
        let (merged, then) = match (first.activation, at.epilogue.is_empty()) {
            (Some(_), false) => (first, Some(at.epilogue.clone())),
            (Some(_), true) => (first, None),
            (None, _) => (first.followed_by(at.epilogue), None),
        };
        let Epilogue { scale, shift, residual, activation } = merged;
        let end = Ending::new(activation);
        let kernel = Elementwise { isa: at.isa, parts, combine, inputs, scale, shift, residual, end, then };
        Lowered { inputs: vec![Layout::ChannelsLast; inputs], ..Lowered::channels_last(kernel) }
    }
}

impl Epilogue {
    /// This one, which ends without residual and activation, and another one as one.
    fn followed_by(&self, next: &Epilogue) -> Epilogue {
        let times = |a: &Option<Vec<f32>>, s: &Option<Vec<f32>>| match (a, s) {
            (Some(a), Some(s)) => Some(a.iter().zip(s).map(|(a, s)| a * s).collect()),
            (a, s) => a.as_ref().or(s.as_ref()).cloned(),
        };
        // s (a x + b) + t = (s a) x + (s b + t)
        let moved = self.shift.as_ref().and_then(|b| times(&Some(b.clone()), &next.scale));
        let shift = match (moved, &next.shift) {
            (Some(b), Some(t)) => Some(b.iter().zip(t).map(|(b, t)| b + t).collect()),
            (b, t) => b.or_else(|| t.clone()),
        };
        Epilogue { scale: times(&self.scale, &next.scale), shift, ..next.clone() }
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
        let Part { pixels, channels } = out.part().clone();
        let gapless = out.pitch() == channels.len()
            && (0..inputs.len()).all(|i| inputs.get(i).pitch == channels.len())
            && (self.scale.is_none() && self.shift.is_none())
            && matches!(self.combine, Combine::Sum | Combine::Product { each: 1, .. });
        self.isa.run(Pass {
            kernel: self,
            inputs,
            pixels: pixels.clone(),
            channels: channels.len(),
            gapless,
            y: out.as_ptr(),
            y_pitch: out.pitch(),
        });
        self.end.finish(&mut out, pixels.clone());
        if let Some(then) = &self.then {
            let residual = then.residual.then(|| inputs.get(self.inputs));
            for p in pixels {
                then.finish(channels.clone(), out.pixel(p), residual.map(|r| r.pixel(p)));
            }
        }
        Ok(())
    }
}

/// Some pixels, all their channels.
struct Pass<'a> {
    kernel: &'a Elementwise,
    inputs: Inputs<'a>,
    pixels: Range<usize>,
    channels: usize,
    /// The pixels are one run of values, all alike.
    gapless: bool,
    y: *mut f32,
    y_pitch: usize,
}

impl SimdOp for Pass<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Pass { pixels, channels, .. } = &self;
        // SAFETY: pixels of the part, or all their values as one row.
        unsafe {
            if self.gapless {
                let row = Row { pixel: pixels.start, len: pixels.len() * channels };
                row.go(s, &self);
            } else {
                for pixel in pixels.clone() {
                    Row { pixel, len: *channels }.go(s, &self);
                }
            }
        }
    }
}

#[derive(Clone, Copy)]
struct Row {
    pixel: usize,
    len: usize,
}

impl Row {
    #[inline(always)]
    unsafe fn go<S: Simd>(self, s: S, pass: &Pass<'_>) {
        // SAFETY: the caller's promise.
        unsafe {
            match self.len < S::LANES {
                true => self.vectors::<S, true>(s, pass),
                false => self.vectors::<S, false>(s, pass),
            }
        }
    }

    #[inline(always)]
    unsafe fn vectors<S: Simd, const PARTIAL: bool>(self, s: S, pass: &Pass<'_>) {
        let (kernel, p) = (pass.kernel, self.pixel);
        let place = |i: usize, p: usize| {
            let view = pass.inputs.get(i);
            view.as_ptr().wrapping_add(p * view.pitch)
        };
        let lanes = S::LANES.min(self.len);
        let bounds = kernel.end.bounds(s);
        let (first, second, summands) = match kernel.combine {
            Combine::Sum => (place(0, p), (kernel.inputs > 1).then(|| place(1, p)), kernel.inputs),
            Combine::Product { wide, each } => (place(wide, p), Some(place(1 - wide, p / each)), 2),
        };
        let product = matches!(kernel.combine, Combine::Product { .. });
        let residual = kernel.residual.then(|| place(kernel.inputs, p));
        let scale = kernel.scale.as_ref().map(|v| v.as_ptr());
        let shift = kernel.shift.as_ref().map(|v| v.as_ptr());
        let y = pass.y.wrapping_add(p * pass.y_pitch);
        let mut from = 0;
        // SAFETY: `at + lanes` is at most the row's length, that of all inputs and by-channel values.
        unsafe {
            while from < self.len {
                let at = from.min(self.len - lanes);
                let mut v = load::<S, PARTIAL>(s, first.add(at), lanes);
                if let Some(second) = second {
                    let w = load::<S, PARTIAL>(s, second.add(at), lanes);
                    v = if product { s.mul(v, w) } else { s.add(v, w) };
                }
                for i in 2..summands {
                    v = s.add(v, load::<S, PARTIAL>(s, place(i, p).add(at), lanes));
                }
                if let Some(scale) = scale {
                    v = s.mul(v, load::<S, PARTIAL>(s, scale.add(at), lanes));
                }
                if let Some(shift) = shift {
                    v = s.add(v, load::<S, PARTIAL>(s, shift.add(at), lanes));
                }
                if let Some(residual) = residual {
                    v = s.add(v, load::<S, PARTIAL>(s, residual.add(at), lanes));
                }
                store::<S, PARTIAL>(s, y.add(at), lanes, Ending::clip(s, bounds, v));
                from += lanes;
            }
        }
    }
}
