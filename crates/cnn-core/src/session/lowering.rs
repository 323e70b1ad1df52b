//! How a layer becomes a kernel: what a session tells it, and what it answers.

use super::kernel::{Kernel, Part, parts_by_pixels};
use crate::layer::Layer;
use crate::ops::activation::{ActivationFn, activation_in_place};
use crate::simd::Isa;
use std::any::Any;
use std::borrow::Cow;
use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;

/// How the values of an edge lie in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// As in a [`crate::Tensor`]: `[n, c, h, w]`, or whatever rank there is, without gaps.
    Planar,
    /// `[n, h, w, c]`, with a pitch from pixel to pixel of at least `c`. Only for rank 4.
    ChannelsLast,
    /// `[n, h, w, c]`, a byte each: how far a value lies above the lowest of the [`Levels`] that all readers put it on. Pixels begin at
    /// whole floats, which pitches count. Only for rank 4.
    Codes,
}

/// A grid of at most 256 points `step * level`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Levels {
    /// The distance of two points, above 0.
    pub step: f32,
    /// Lowest level.
    pub low: i16,
    /// Highest level, at most `low + 255`.
    pub high: i16,
}

impl Levels {
    /// The byte of the level nearest to a value, halves to even; NaN is level 0.
    #[inline(always)]
    pub fn code(&self, value: f32) -> u8 {
        // adding and taking away 1.5 * 2^23 rounds to even
        const MAGIC: f32 = 12_582_912.0;
        let value = if value.is_nan() { 0.0 } else { value };
        let level = (value / self.step).clamp(f32::from(self.low), f32::from(self.high)) + MAGIC;
        level.to_bits().wrapping_sub((f32::from(self.low) + MAGIC).to_bits()) as u8
    }

    /// The levels of two bounds: values between them have levels between these, so that it is enough to bound the one or the other.
    #[inline]
    pub fn bounds(&self, low: f32, high: f32) -> [f32; 2] {
        [low, high].map(|bound| f32::from(self.low) + f32::from(self.code(bound)))
    }

    /// The value of a byte.
    #[inline(always)]
    pub fn value(&self, code: u8) -> f32 {
        self.step * (f32::from(code) + f32::from(self.low))
    }
}

/// An input as it is at hand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edge {
    /// The logical shape, `[n, c, h, w]` for images.
    pub shape: Vec<usize>,
    /// The layout it has now; a kernel may ask for another one.
    pub layout: Layout,
}

/// True if the channels of a pixel lie next to each other in some layout.
pub(super) fn channels_are_rows(shape: &[usize]) -> bool {
    matches!(shape.len(), 2 | 4)
}

impl Edge {
    /// True if both layouts are the same places in memory: one pixel or one channel an image.
    pub(crate) fn is_either(shape: &[usize]) -> bool {
        match *shape {
            [_, c, h, w] => h * w == 1 || c == 1,
            _ => shape.len() == 2,
        }
    }

    /// Rows and their length, see [`Part`].
    pub(crate) fn rows(shape: &[usize], layout: Layout) -> (usize, usize) {
        match (shape, layout) {
            (&[n, c, h, w], Layout::ChannelsLast | Layout::Codes) => (n * h * w, c),
            (&[n, ..], _) => (n, shape[1..].iter().product()),
            (&[], _) => (0, 0),
        }
    }
}

/// What is still to be done with the results of a layer before they are stored: `y = f(scale x + shift + residual)`, by channel.
/// Batch normalization, a shortcut and an activation that follow a layer arrive here.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Epilogue {
    /// One factor for each channel.
    pub scale: Option<Vec<f32>>,
    /// One summand for each channel.
    pub shift: Option<Vec<f32>>,
    /// The kernel's last input, of the output's shape and layout, is added.
    pub residual: bool,
    /// Applied at the end.
    pub activation: Option<ActivationFn>,
}

impl Epilogue {
    /// True if nothing is to be done.
    pub fn is_empty(&self) -> bool {
        *self == Epilogue::default()
    }

    /// Finishes values of one pixel, those of the given channels.
    ///
    /// # Panics
    /// If the lengths do not fit.
    #[inline]
    pub fn finish(&self, channels: Range<usize>, values: &mut [f32], residual: Option<&[f32]>) {
        if let Some(scale) = &self.scale {
            values.iter_mut().zip(&scale[channels.clone()]).for_each(|(v, s)| *v *= s);
        }
        if let Some(shift) = &self.shift {
            values.iter_mut().zip(&shift[channels.clone()]).for_each(|(v, s)| *v += s);
        }
        if let Some(residual) = residual {
            values.iter_mut().zip(&residual[channels]).for_each(|(v, r)| *v += r);
        }
        if let Some(f) = self.activation {
            activation_in_place(f, values);
        }
    }

    /// Weights of `filters` rows and a bias, with the epilogue's scale and shift folded in.
    ///
    /// # Panics
    /// If the lengths do not fit.
    pub fn fold<'a>(
        &self,
        filters: usize,
        weights: &'a [f32],
        bias: Option<&[f32]>,
    ) -> (Cow<'a, [f32]>, Vec<f32>) {
        let mut weights = Cow::Borrowed(weights);
        let mut shift = bias.map_or_else(|| vec![0.0; filters], <[f32]>::to_vec);
        if let Some(scale) = &self.scale {
            let per_filter = (weights.len() / filters.max(1)).max(1);
            let rows = weights.to_mut().chunks_mut(per_filter);
            rows.zip(scale).for_each(|(w, s)| w.iter_mut().for_each(|w| *w *= s));
            shift.iter_mut().zip(scale).for_each(|(b, s)| *b *= s);
        }
        if let Some(add) = &self.shift {
            shift.iter_mut().zip(add).for_each(|(b, a)| *b += a);
        }
        (weights, shift)
    }
}

/// What a layer is told when it is to become a kernel.
#[derive(Debug)]
pub struct Lowering<'a> {
    /// The layer's inputs.
    pub inputs: &'a [Edge],
    /// The logical shape of its output.
    pub output: &'a [usize],
    /// What the kernel must do with its results before it stores them.
    pub epilogue: &'a Epilogue,
    /// What all readers round the results to: a kernel may answer [`Layout::Codes`], and store bytes.
    pub levels: Option<Levels>,
    /// The instruction set.
    pub isa: Isa,
    /// True if rounding must stay near that of the reference: no Winograd.
    pub exact: bool,
    /// The algorithm to use, one of those an earlier answer named; `None` leaves it to the layer's cost model.
    pub choice: Option<&'a str>,
    pub(crate) shared: &'a Shared,
    /// The layer itself, for a kernel that uses its weights as they are.
    pub(crate) layer: &'a Arc<dyn Layer>,
}

/// Packed weights of one layer, which the plans for all input shapes share.
#[derive(Debug, Default)]
pub struct Shared(RefCell<Vec<(String, Arc<dyn Any + Send + Sync>)>>);

impl Shared {
    /// Drops what no kernel holds.
    pub(super) fn forget_unused(&self) {
        self.0.borrow_mut().retain(|(_, packed)| Arc::strong_count(packed) > 1);
    }
}

impl Lowering<'_> {
    /// Makes packed weights, or finds those that a plan for another input shape made under the same key.
    pub fn shared<T: Any + Send + Sync>(&self, key: &str, make: impl FnOnce() -> T) -> Arc<T> {
        let known = self.shared.0.borrow().iter().find(|(k, _)| k == key).map(|(_, packed)| packed.clone());
        if let Some(packed) = known.and_then(|packed| packed.downcast::<T>().ok()) {
            return packed;
        }
        let packed = Arc::new(make());
        self.shared.0.borrow_mut().push((key.to_string(), packed.clone()));
        packed
    }

    /// True if the output has channels that lie next to each other in some layout: its rank is 2 or 4.
    pub fn by_channel(&self) -> bool {
        channels_are_rows(self.output)
    }

    /// Parts for a kernel whose output has a layout, cut by pixels so that each part costs about `cost` units of work, where a
    /// pixel costs `per_pixel`.
    pub fn parts(&self, layout: Layout, per_pixel: usize, cost: usize) -> Vec<Part> {
        let (pixels, channels) = Edge::rows(self.output, layout);
        parts_by_pixels(pixels, channels, (cost / per_pixel.max(1)).max(1))
    }
}

/// A layer's answer.
#[derive(Debug)]
pub struct Lowered {
    /// The kernel.
    pub kernel: Box<dyn Kernel>,
    /// The layout it wants, for each input of the layer; a fused residual has that of the output.
    pub inputs: Vec<Layout>,
    /// The layout of its output.
    pub output: Layout,
    /// Other algorithms that would do here, by name: candidates for measuring.
    pub alternatives: Vec<&'static str>,
}

impl Lowered {
    /// A kernel with one input, channels last in and out.
    pub fn channels_last(kernel: impl Kernel + 'static) -> Lowered {
        Lowered {
            kernel: Box::new(kernel),
            inputs: vec![Layout::ChannelsLast],
            output: Layout::ChannelsLast,
            alternatives: Vec::new(),
        }
    }
}
