//! Spatial padding with a constant.

use super::one;
use crate::express::{Express, Numbers};
use crate::layer::Layer;
use crate::model_file::{Decoder, Encoder};
use crate::ops::pad::{crop_spatial, pad_spatial};
use crate::session::{Lowered, Lowering, kernels::pad};
use crate::tensor::{Tensor, nchw, slice, slice_mut, zeros};
use crate::train::{Backward, Input, Needs, Step, Trainable};
use crate::{Error, Result};

/// A frame of `value` around each image.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pad {
    /// Top, left, bottom, right.
    pub pad: [usize; 4],
    /// What the frame is made of.
    pub value: f32,
}

impl Pad {
    pub(super) fn decode(from: &mut Decoder<'_>) -> Result<Box<dyn Layer>> {
        let pad = [from.uint()?, from.uint()?, from.uint()?, from.uint()?];
        Ok(Box::new(Pad { pad, value: from.float()? }))
    }

    /// Height and width of the input.
    fn size(&self, shape: &[usize]) -> Result<[usize; 2]> {
        let [_, _, h, w] = nchw(shape)?;
        let largest = self.pad.iter().max().copied().unwrap_or(0);
        match h > 0 && w > 0 && largest <= 1 << 24 {
            true => Ok([h, w]),
            false => Err(Error::Shape(format!("{shape:?} cannot be padded by {:?}", self.pad))),
        }
    }
}

impl Layer for Pad {
    fn kind(&self) -> &'static str {
        "pad"
    }

    fn output_shape(&self, inputs: &[&[usize]]) -> Result<Vec<usize>> {
        let shape = one(inputs)?;
        let [h, w] = self.size(shape)?;
        let [top, left, bottom, right] = self.pad;
        Ok(vec![shape[0], shape[1], top + h + bottom, left + w + right])
    }

    fn infer(&self, inputs: &[&Tensor]) -> Result<Tensor> {
        let x = one(inputs)?;
        let mut y = zeros(&self.output_shape(&[x.shape()])?);
        pad_spatial(slice(x)?, self.size(x.shape())?, self.pad, self.value, slice_mut(&mut y)?);
        Ok(y)
    }

    fn lower(&self, at: &Lowering<'_>) -> Option<Lowered> {
        pad::lower(at, [self.pad[0], self.pad[1]], self.value)
    }

    fn encode(&self, out: &mut Encoder) -> Result<()> {
        self.pad.iter().try_for_each(|&n| out.uint(n))?;
        out.float(self.value);
        Ok(())
    }

    fn express(&self, at: &mut Express<'_>) -> Result<()> {
        let [top, left, bottom, right] = self.pad.map(|p| p as i64);
        let pads = at.integers("pads", &[0, 0, top, left, 0, 0, bottom, right])?;
        let value = at.constant("value", &[], Numbers::F32(vec![self.value]))?;
        let y = at.operator("Pad", &[at.input(0)?, pads, value], Vec::new());
        at.output(y);
        Ok(())
    }

    without_parameters!();
    same_channels!();
}

impl Trainable for Pad {
    fn needs(&self) -> Needs {
        Needs::default()
    }

    fn forward(&mut self, inputs: &mut [Input<'_>], step: &mut Step<'_>) -> Result<Tensor> {
        let x = inputs[0].get();
        let mut y = step.pool.take(&self.output_shape(&[x.shape()])?);
        pad_spatial(slice(x)?, self.size(x.shape())?, self.pad, self.value, slice_mut(&mut y)?);
        Ok(y)
    }

    fn backward(&mut self, at: Backward<'_>, step: &mut Step<'_>) -> Result<Vec<Option<Tensor>>> {
        let mut dx = step.pool.take(at.shapes[0]);
        crop_spatial(slice(&at.grad)?, self.size(at.shapes[0])?, self.pad, slice_mut(&mut dx)?);
        step.pool.give(at.grad);
        Ok(vec![Some(dx)])
    }
}
