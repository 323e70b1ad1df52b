//! From floats to bytes on a grid and back, where a kernel does not do it itself.

use super::kernel::{Inputs, Kernel, Part, Target, parts_by_pixels};
use super::lowering::{Edge, Epilogue, Layout, Levels, Lowered, Lowering};
use crate::Result;
use crate::simd::{Isa, Simd, SimdOp};

/// Values that a part converts.
const PART: usize = 1 << 15;

/// Floats, channels last, to codes.
#[derive(Debug)]
pub(super) struct Quantize {
    levels: Levels,
    parts: Vec<Part>,
}

/// Codes to floats, channels last.
#[derive(Debug)]
pub(super) struct Dequantize {
    levels: Levels,
    parts: Vec<Part>,
}

fn parts(shape: &[usize]) -> Vec<Part> {
    let (pixels, channels) = Edge::rows(shape, Layout::ChannelsLast);
    parts_by_pixels(pixels, channels, (PART / channels.max(1)).max(1))
}

impl Quantize {
    pub fn new(shape: &[usize], levels: Levels) -> Quantize {
        Quantize { levels, parts: parts(shape) }
    }
}

impl Dequantize {
    pub fn new(shape: &[usize], levels: Levels) -> Dequantize {
        Dequantize { levels, parts: parts(shape) }
    }
}

impl Kernel for Quantize {
    fn algorithm(&self) -> &'static str {
        "to codes"
    }

    fn parts(&self) -> Vec<Part> {
        self.parts.clone()
    }

    fn run(&self, inputs: Inputs<'_>, mut out: Target<'_>, _scratch: &mut [f32]) -> Result<()> {
        for p in out.part().pixels.clone() {
            Isa::active().run(ToCodes { levels: self.levels, x: inputs.get(0).pixel(p), to: out.codes(p) });
        }
        Ok(())
    }
}

impl Kernel for Dequantize {
    fn algorithm(&self) -> &'static str {
        "from codes"
    }

    fn parts(&self) -> Vec<Part> {
        self.parts.clone()
    }

    fn run(&self, inputs: Inputs<'_>, mut out: Target<'_>, _scratch: &mut [f32]) -> Result<()> {
        for p in out.part().pixels.clone() {
            let codes = inputs.get(0).codes(p);
            out.pixel(p).iter_mut().zip(codes).for_each(|(y, &code)| *y = self.levels.value(code));
        }
        Ok(())
    }
}

/// Values on a grid, as floats: quantized and back.
#[derive(Debug)]
pub(crate) struct OnGrid {
    levels: Levels,
    epilogue: Epilogue,
    parts: Vec<Part>,
}

impl OnGrid {
    /// The kernel for values that have channels.
    pub fn lower(at: &Lowering<'_>, levels: Levels) -> Option<Lowered> {
        at.by_channel().then(|| {
            let epilogue = at.epilogue.clone();
            Lowered::channels_last(OnGrid { levels, epilogue, parts: parts(at.output) })
        })
    }
}

impl Kernel for OnGrid {
    fn algorithm(&self) -> &'static str {
        "on a grid"
    }

    fn parts(&self) -> Vec<Part> {
        self.parts.clone()
    }

    fn run(&self, inputs: Inputs<'_>, mut out: Target<'_>, _scratch: &mut [f32]) -> Result<()> {
        let residual = self.epilogue.residual.then(|| inputs.get(1));
        let channels = out.part().channels.clone();
        for p in out.part().pixels.clone() {
            let y = out.pixel(p);
            Isa::active().run(Round { levels: self.levels, x: inputs.get(0).pixel(p), y });
            if !self.epilogue.is_empty() {
                self.epilogue.finish(channels.clone(), y, residual.map(|r| r.pixel(p)));
            }
        }
        Ok(())
    }
}

/// The point of the grid nearest to each value; NaN stays.
struct Round<'a> {
    levels: Levels,
    x: &'a [f32],
    y: &'a mut [f32],
}

impl SimdOp for Round<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, _isa: S) {
        // adding and taking away 1.5 * 2^23 rounds to even
        const MAGIC: f32 = 12_582_912.0;
        let Levels { step, low, high } = self.levels;
        let (low, high) = (f32::from(low), f32::from(high));
        for (y, &x) in self.y.iter_mut().zip(self.x) {
            *y = ((x / step).clamp(low, high) + MAGIC - MAGIC) * step;
        }
    }
}

/// [`Levels::code`] of every value.
struct ToCodes<'a> {
    levels: Levels,
    x: &'a [f32],
    to: &'a mut [u8],
}

impl SimdOp for ToCodes<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, _isa: S) {
        self.to.iter_mut().zip(self.x).for_each(|(to, &x)| *to = self.levels.code(x));
    }
}
