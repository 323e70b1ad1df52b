//! Softmax over the channel axis.

use super::{one, one_shape};
use crate::express::{Attribute, Express};
use crate::layer::Layer;
use crate::model_file::{Decoder, Encoder};
use crate::ops::softmax::{softmax, softmax_backward};
use crate::session::{Lowered, Lowering, kernels};
use crate::tensor::{Tensor, elements, slice, slice_mut, zeros};
use crate::train::{Backward, Input, Needs, Step, Trainable};
use crate::{Error, Result};

/// `q_i = exp(z_i) / sum_j exp(z_j)` over the channels.
#[derive(Debug, Clone, Copy)]
pub struct Softmax;

impl Softmax {
    pub(super) fn decode(_from: &mut Decoder<'_>) -> Result<Box<dyn Layer>> {
        Ok(Box::new(Softmax))
    }
}

/// Number of channels and of positions.
fn sizes(shape: &[usize]) -> Result<(usize, usize)> {
    match shape {
        [_, k, rest @ ..] if *k > 0 && elements(rest) > 0 => Ok((*k, elements(rest))),
        other => Err(Error::Shape(format!("softmax over the channels of {other:?}"))),
    }
}

impl Layer for Softmax {
    fn kind(&self) -> &'static str {
        "softmax"
    }

    fn output_shape(&self, inputs: &[&[usize]]) -> Result<Vec<usize>> {
        sizes(one(inputs)?)?;
        Ok(inputs[0].to_vec())
    }

    fn infer(&self, inputs: &[&Tensor]) -> Result<Tensor> {
        let mut y = zeros(&one_shape(inputs)?);
        let (k, inner) = sizes(y.shape())?;
        softmax(slice(inputs[0])?, k, inner, slice_mut(&mut y)?);
        Ok(y)
    }

    fn lower(&self, at: &Lowering<'_>) -> Option<Lowered> {
        kernels::softmax::lower(at)
    }

    fn encode(&self, _out: &mut Encoder) -> Result<()> {
        Ok(())
    }

    fn express(&self, at: &mut Express<'_>) -> Result<()> {
        let y = at.operator("Softmax", &[at.input(0)?], vec![("axis", Attribute::Int(1))]);
        at.output(y);
        Ok(())
    }

    without_parameters!();
}

impl Trainable for Softmax {
    fn needs(&self) -> Needs {
        Needs { inputs: false, output: true }
    }

    fn forward(&mut self, inputs: &mut [Input<'_>], step: &mut Step<'_>) -> Result<Tensor> {
        let x = inputs[0].get();
        let (k, inner) = sizes(x.shape())?;
        let mut y = step.pool.take(x.shape());
        softmax(slice(x)?, k, inner, slice_mut(&mut y)?);
        Ok(y)
    }

    fn backward(&mut self, at: Backward<'_>, _step: &mut Step<'_>) -> Result<Vec<Option<Tensor>>> {
        let y = at.output()?;
        let (k, inner) = sizes(y.shape())?;
        let y = slice(y)?;
        let mut grad = at.grad;
        softmax_backward(y, k, inner, slice_mut(&mut grad)?);
        Ok(vec![Some(grad)])
    }
}
