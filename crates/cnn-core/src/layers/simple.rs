//! Layers that change nothing at inference: the input, identity and dropout.

use super::one;
use crate::cost::Cost;
use crate::express::Express;
use crate::layer::Layer;
use crate::model_file::{Decoder, Encoder};
use crate::ops::dropout::dropout_in_place;
use crate::tensor::{Tensor, slice_mut};
use crate::train::{Backward, Needs, Step, Trainable};
use crate::{Error, Result};

/// The graph's input: always its first node, and only that one.
#[derive(Debug, Clone)]
pub struct Input {
    /// Shape without the batch axis, as `[c, h, w]`.
    pub shape: Vec<usize>,
}

impl Input {
    pub(super) fn decode(from: &mut Decoder<'_>) -> Result<Box<dyn Layer>> {
        Ok(Box::new(Input { shape: from.shape()? }))
    }
}

impl Layer for Input {
    fn kind(&self) -> &'static str {
        "input"
    }

    fn output_shape(&self, inputs: &[&[usize]]) -> Result<Vec<usize>> {
        if !inputs.is_empty() || self.shape.contains(&0) {
            return Err(Error::Shape(format!(
                "an input has no inputs and no empty axis, got {:?}",
                self.shape
            )));
        }
        Ok([1].iter().chain(&self.shape).copied().collect())
    }

    fn infer(&self, _inputs: &[&Tensor]) -> Result<Tensor> {
        Err(Error::Edit("the input is given, not computed".into()))
    }

    fn cost(&self, _inputs: &[&[usize]]) -> Result<Cost> {
        Ok(Cost::default())
    }

    fn encode(&self, out: &mut Encoder) -> Result<()> {
        out.shape(&self.shape)
    }

    fn clone_box(&self) -> Box<dyn Layer> {
        Box::new(self.clone())
    }
}

/// Passes its input on.
#[derive(Debug, Clone, Copy)]
pub struct Identity;

impl Identity {
    pub(super) fn decode(_from: &mut Decoder<'_>) -> Result<Box<dyn Layer>> {
        Ok(Box::new(Identity))
    }
}

impl Layer for Identity {
    fn kind(&self) -> &'static str {
        "identity"
    }

    fn output_shape(&self, inputs: &[&[usize]]) -> Result<Vec<usize>> {
        Ok(one(inputs)?.to_vec())
    }

    fn infer(&self, inputs: &[&Tensor]) -> Result<Tensor> {
        Ok(one(inputs)?.clone())
    }

    fn encode(&self, _out: &mut Encoder) -> Result<()> {
        Ok(())
    }

    fn express(&self, at: &mut Express<'_>) -> Result<()> {
        at.output(at.input(0)?);
        Ok(())
    }

    without_parameters!();
    same_channels!();
}

impl Trainable for Identity {
    fn needs(&self) -> Needs {
        Needs::default()
    }

    fn forward(&mut self, inputs: &mut [crate::train::Input<'_>], step: &mut Step<'_>) -> Result<Tensor> {
        Ok(inputs[0].take(step.pool))
    }

    fn backward(&mut self, at: Backward<'_>, _step: &mut Step<'_>) -> Result<Vec<Option<Tensor>>> {
        Ok(vec![Some(at.grad)])
    }
}

/// In training, sets each value to zero with probability `p` and scales the others by `1 / (1 - p)` (Srivastava et al.
/// 2014); nothing at inference.
#[derive(Debug, Clone, Copy)]
pub struct Dropout {
    p: f32,
}

impl Dropout {
    /// A dropout of probability `p`.
    ///
    /// # Errors
    /// If `p` is not in `[0, 1)`.
    pub fn new(p: f32) -> Result<Dropout> {
        match (0.0..1.0).contains(&p) {
            true => Ok(Dropout { p }),
            false => Err(Error::invalid("dropout", format!("a probability in [0, 1), got {p}"))),
        }
    }

    pub(super) fn decode(from: &mut Decoder<'_>) -> Result<Box<dyn Layer>> {
        Ok(Box::new(Dropout::new(from.float()?)?))
    }
}

impl Layer for Dropout {
    fn kind(&self) -> &'static str {
        "dropout"
    }

    fn output_shape(&self, inputs: &[&[usize]]) -> Result<Vec<usize>> {
        Ok(one(inputs)?.to_vec())
    }

    fn infer(&self, inputs: &[&Tensor]) -> Result<Tensor> {
        Ok(one(inputs)?.clone())
    }

    fn encode(&self, out: &mut Encoder) -> Result<()> {
        out.float(self.p);
        Ok(())
    }

    fn express(&self, at: &mut Express<'_>) -> Result<()> {
        at.output(at.input(0)?);
        Ok(())
    }

    without_parameters!();
    same_channels!();
}

impl Trainable for Dropout {
    fn needs(&self) -> Needs {
        Needs::default()
    }

    fn forward(&mut self, inputs: &mut [crate::train::Input<'_>], step: &mut Step<'_>) -> Result<Tensor> {
        let mut y = inputs[0].take(step.pool);
        dropout_in_place(slice_mut(&mut y)?, self.p, step.seed);
        Ok(y)
    }

    /// The same mask, from the same seed.
    fn backward(&mut self, at: Backward<'_>, step: &mut Step<'_>) -> Result<Vec<Option<Tensor>>> {
        let mut dx = at.grad;
        dropout_in_place(slice_mut(&mut dx)?, self.p, step.seed);
        Ok(vec![Some(dx)])
    }
}
