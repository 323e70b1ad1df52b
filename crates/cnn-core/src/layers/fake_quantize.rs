//! Values on a grid: quantized and back.

use super::one;
use crate::express::{Attribute, Express, Numbers};
use crate::layer::{ChannelRule, Keep, Layer};
use crate::model_file::{Decoder, Encoder};
use crate::session::{Levels, Lowered, Lowering, codes::OnGrid};
use crate::tensor::{Tensor, elements, zeros};
use crate::train::{Backward, Input, Needs, Step, Trainable};
use crate::{Error, Result};

/// `y = s (q - z)` with `q = clamp(round(x / s) + z, low, high)`, halves to even: `QuantizeLinear` and then `DequantizeLinear` of
/// the ONNX standard. One scale and zero point for all values, or one for each index of an axis.
///
/// In training the gradient passes where `x` is on the grid's range (straight-through estimator, Bengio et al. 2013).
#[derive(Debug, Clone, PartialEq)]
pub struct FakeQuantize {
    scale: Vec<f32>,
    zero_point: Vec<i32>,
    axis: usize,
    low: i32,
    high: i32,
}

impl FakeQuantize {
    /// A grid of levels `low ..= high`; `axis` counts when there are several scales.
    ///
    /// # Errors
    /// If there are no scales or not as many zero points, a scale is not positive, or a zero point is not a level.
    pub fn new(
        scale: Vec<f32>,
        zero_point: Vec<i32>,
        axis: usize,
        low: i32,
        high: i32,
    ) -> Result<FakeQuantize> {
        let lengths = !scale.is_empty() && scale.len() == zero_point.len();
        let levels = low < high && zero_point.iter().all(|z| (low..=high).contains(z));
        let scales = scale.iter().all(|s| s.is_finite() && *s > 0.0);
        match lengths && levels && scales && (axis > 0 || scale.len() == 1) {
            true => Ok(FakeQuantize { scale, zero_point, axis, low, high }),
            false => Err(Error::Shape(format!(
                "a grid of {} scales and {} zero points, levels {low} to {high}, along axis {axis}: scales are \
                 positive, zero points are levels, and the axis is not the batch",
                scale.len(),
                zero_point.len()
            ))),
        }
    }

    /// The step and the ends of the levels, zero point taken off, if there is one scale for all values.
    pub fn uniform(&self) -> Option<(f32, [i32; 2])> {
        match (self.scale.as_slice(), self.zero_point.as_slice()) {
            (&[step], &[zero]) => Some((step, [self.low - zero, self.high - zero])),
            _ => None,
        }
    }

    pub(super) fn decode(from: &mut Decoder<'_>) -> Result<Box<dyn Layer>> {
        let count = from.uint()?;
        let axis = from.uint()?;
        let [low, high] = [integer(from)?, integer(from)?];
        let scale = from.floats(count)?;
        let zero_point = (0..count).map(|_| integer(from)).collect::<Result<_>>()?;
        Ok(Box::new(FakeQuantize::new(scale, zero_point, axis, low, high)?))
    }

    /// Elements behind the axis of the scales.
    fn inner(&self, shape: &[usize]) -> Result<usize> {
        if self.scale.len() == 1 {
            return Ok(elements(shape).max(1));
        }
        match shape.get(self.axis) {
            Some(&size) if size == self.scale.len() => Ok(elements(&shape[self.axis + 1..]).max(1)),
            _ => Err(Error::Shape(format!(
                "{} scales along axis {} of {shape:?}",
                self.scale.len(),
                self.axis
            ))),
        }
    }

    /// `f(x, scale, zero point)` for each value.
    fn each(&self, x: &Tensor, f: impl Fn(f32, f32, f32) -> f32) -> Result<Tensor> {
        let inner = self.inner(x.shape())?;
        let mut y = zeros(x.shape());
        let groups =
            crate::tensor::slice(x)?.chunks(inner).zip(crate::tensor::slice_mut(&mut y)?.chunks_mut(inner));
        for (at, (x, y)) in groups.enumerate() {
            let at = at % self.scale.len();
            let (s, z) = (self.scale[at], self.zero_point[at] as f32);
            y.iter_mut().zip(x).for_each(|(y, &x)| *y = f(x, s, z));
        }
        Ok(y)
    }
}

fn integer(from: &mut Decoder<'_>) -> Result<i32> {
    let b = from.raw(4)?;
    Ok(i32::from_le_bytes([b[0], b[1], b[2], b[3]]))
}

impl Layer for FakeQuantize {
    fn kind(&self) -> &'static str {
        "fake_quantize"
    }

    fn output_shape(&self, inputs: &[&[usize]]) -> Result<Vec<usize>> {
        let shape = one(inputs)?;
        self.inner(shape)?;
        Ok(shape.to_vec())
    }

    fn infer(&self, inputs: &[&Tensor]) -> Result<Tensor> {
        let (low, high) = (self.low as f32, self.high as f32);
        self.each(one(inputs)?, |x, s, z| (((x / s).round_ties_even() + z).clamp(low, high) - z) * s)
    }

    fn lower(&self, at: &Lowering<'_>) -> Option<Lowered> {
        let (step, [low, high]) = self.uniform()?;
        let (low, high) = (i16::try_from(low).ok()?, i16::try_from(high).ok()?);
        OnGrid::lower(at, Levels { step, low, high })
    }

    fn encode(&self, out: &mut Encoder) -> Result<()> {
        out.uint(self.scale.len())?;
        out.uint(self.axis)?;
        [self.low, self.high].iter().for_each(|n| out.raw(&n.to_le_bytes()));
        out.floats(&self.scale);
        self.zero_point.iter().for_each(|n| out.raw(&n.to_le_bytes()));
        Ok(())
    }

    fn express(&self, at: &mut Express<'_>) -> Result<()> {
        let zero_point = match (self.low, self.high) {
            (-128, 127) => Numbers::I8(self.zero_point.iter().map(|&z| z as i8).collect()),
            (0, 255) => Numbers::U8(self.zero_point.iter().map(|&z| z as u8).collect()),
            other => {
                return Err(Error::Shape(format!("levels {other:?}: the standard has those of a byte")));
            }
        };
        let shape: &[usize] = if self.scale.len() == 1 { &[] } else { &[self.scale.len()] };
        let scale = at.constant("scale", shape, Numbers::F32(self.scale.clone()))?;
        let zero_point = at.constant("zero_point", shape, zero_point)?;
        let axis = match self.scale.len() {
            1 => Vec::new(),
            _ => vec![("axis", Attribute::Int(self.axis as i64))],
        };
        let q = at.operator("QuantizeLinear", &[at.input(0)?, scale, zero_point], axis.clone());
        let y = at.operator("DequantizeLinear", &[q, scale, zero_point], axis);
        at.output(y);
        Ok(())
    }

    fn channels(&self, _inputs: &[&[usize]]) -> ChannelRule {
        ChannelRule::Same
    }

    fn select(&mut self, keep: Keep<'_>) -> Result<()> {
        if let Some(kept) = keep.output
            && self.scale.len() > 1
            && self.axis == 1
        {
            self.scale = kept.iter().map(|&c| self.scale[c]).collect();
            self.zero_point = kept.iter().map(|&c| self.zero_point[c]).collect();
        }
        Ok(())
    }

    without_parameters!();
}

impl Trainable for FakeQuantize {
    fn needs(&self) -> Needs {
        Needs { inputs: true, output: false }
    }

    fn forward(&mut self, inputs: &mut [Input<'_>], _step: &mut Step<'_>) -> Result<Tensor> {
        self.infer(&[inputs[0].get()])
    }

    fn backward(&mut self, at: Backward<'_>, _step: &mut Step<'_>) -> Result<Vec<Option<Tensor>>> {
        let (low, high) = (self.low as f32, self.high as f32);
        let inside = self.each(at.input(0)?, |x, s, z| {
            let level = x / s + z;
            if level >= low && level <= high { 1.0 } else { 0.0 }
        })?;
        Ok(vec![Some(inside * &at.grad)])
    }
}
