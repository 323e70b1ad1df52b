//! Layers that change the shape and no value.

use super::one;
use crate::express::Express;
use crate::layer::{ChannelRule, Keep, Layer};
use crate::model_file::{Decoder, Encoder};
use crate::tensor::{Tensor, elements};
use crate::train::{Backward, Input, Needs, Step, Trainable};
use crate::{Error, Result};
use ndarray::IxDyn;

/// `[n, c, h, w]` to `[n, c h w]`.
#[derive(Debug, Clone, Copy)]
pub struct Flatten;

impl Flatten {
    pub(super) fn decode(_from: &mut Decoder<'_>) -> Result<Box<dyn Layer>> {
        Ok(Box::new(Flatten))
    }
}

/// The same values in another shape.
fn reshaped(x: Tensor, shape: &[usize]) -> Result<Tensor> {
    let from = x.shape().to_vec();
    x.into_shape_with_order(IxDyn(shape))
        .map_err(|_| Error::Shape(format!("{from:?} cannot become {shape:?}")))
}

impl Layer for Flatten {
    fn kind(&self) -> &'static str {
        "flatten"
    }

    fn output_shape(&self, inputs: &[&[usize]]) -> Result<Vec<usize>> {
        match one(inputs)? {
            [n, rest @ ..] if !rest.is_empty() => {
                let features = rest.iter().try_fold(1usize, |p, &d| p.checked_mul(d));
                Ok(vec![*n, features.ok_or_else(|| Error::Shape(format!("{rest:?} is too large")))?])
            }
            other => Err(Error::Shape(format!("flatten takes [n, ...], got {other:?}"))),
        }
    }

    fn infer(&self, inputs: &[&Tensor]) -> Result<Tensor> {
        let x = one(inputs)?;
        reshaped(x.clone(), &self.output_shape(&[x.shape()])?)
    }

    fn encode(&self, _out: &mut Encoder) -> Result<()> {
        Ok(())
    }

    fn channels(&self, inputs: &[&[usize]]) -> ChannelRule {
        match inputs {
            [[_, _, rest @ ..]] => ChannelRule::Expand(elements(rest)),
            _ => ChannelRule::Opaque,
        }
    }

    fn select(&mut self, _keep: Keep<'_>) -> Result<()> {
        Ok(())
    }

    fn express(&self, at: &mut Express<'_>) -> Result<()> {
        let y = at.operator("Flatten", &[at.input(0)?], Vec::new());
        at.output(y);
        Ok(())
    }

    without_parameters!();
}

impl Trainable for Flatten {
    fn needs(&self) -> Needs {
        Needs::default()
    }

    fn forward(&mut self, inputs: &mut [Input<'_>], step: &mut Step<'_>) -> Result<Tensor> {
        let shape = self.output_shape(&[inputs[0].get().shape()])?;
        reshaped(inputs[0].take(step.pool), &shape)
    }

    fn backward(&mut self, at: Backward<'_>, _step: &mut Step<'_>) -> Result<Vec<Option<Tensor>>> {
        Ok(vec![Some(reshaped(at.grad, at.shapes[0])?)])
    }
}

/// `[n, ...]` to `[n, shape...]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reshape {
    /// The new shape without the batch axis.
    pub shape: Vec<usize>,
}

impl Reshape {
    pub(super) fn decode(from: &mut Decoder<'_>) -> Result<Box<dyn Layer>> {
        Ok(Box::new(Reshape { shape: from.shape()? }))
    }
}

impl Layer for Reshape {
    fn kind(&self) -> &'static str {
        "reshape"
    }

    fn output_shape(&self, inputs: &[&[usize]]) -> Result<Vec<usize>> {
        let product = |s: &[usize]| s.iter().try_fold(1usize, |p, &d| p.checked_mul(d));
        match one(inputs)? {
            [n, rest @ ..] if product(rest).is_some() && product(rest) == product(&self.shape) => {
                Ok([*n].iter().chain(&self.shape).copied().collect())
            }
            other => Err(Error::Shape(format!("{other:?} cannot become [n, ...] with {:?}", self.shape))),
        }
    }

    fn infer(&self, inputs: &[&Tensor]) -> Result<Tensor> {
        let x = one(inputs)?;
        reshaped(x.clone(), &self.output_shape(&[x.shape()])?)
    }

    fn encode(&self, out: &mut Encoder) -> Result<()> {
        out.shape(&self.shape)
    }

    fn express(&self, at: &mut Express<'_>) -> Result<()> {
        // 0 takes over the batch, whatever it is
        let shape: Vec<i64> = [0].into_iter().chain(self.shape.iter().map(|&d| d as i64)).collect();
        let shape = at.integers("shape", &shape)?;
        let y = at.operator("Reshape", &[at.input(0)?, shape], Vec::new());
        at.output(y);
        Ok(())
    }

    fn channels(&self, inputs: &[&[usize]]) -> ChannelRule {
        match (inputs, self.shape.as_slice()) {
            ([[_, c, ..]], [to, ..]) if c == to => ChannelRule::Same,
            ([[_, _, rest @ ..]], [_]) => ChannelRule::Expand(elements(rest)),
            _ => ChannelRule::Opaque,
        }
    }

    fn select(&mut self, keep: Keep<'_>) -> Result<()> {
        if let (Some(kept), Some(channels)) = (keep.output, self.shape.first_mut()) {
            *channels = kept.len();
        }
        Ok(())
    }

    without_parameters!();
}

impl Trainable for Reshape {
    fn needs(&self) -> Needs {
        Needs::default()
    }

    fn forward(&mut self, inputs: &mut [Input<'_>], step: &mut Step<'_>) -> Result<Tensor> {
        let shape = self.output_shape(&[inputs[0].get().shape()])?;
        reshaped(inputs[0].take(step.pool), &shape)
    }

    fn backward(&mut self, at: Backward<'_>, _step: &mut Step<'_>) -> Result<Vec<Option<Tensor>>> {
        Ok(vec![Some(reshaped(at.grad, at.shapes[0])?)])
    }
}
