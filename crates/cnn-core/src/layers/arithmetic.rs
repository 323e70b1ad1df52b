//! Elementwise arithmetic with broadcasting: between two inputs, and with a constant.

use super::one;
use crate::express::Express;
use crate::layer::{ChannelRule, Keep, Layer};
use crate::model_file::{Decoder, Encoder};
use crate::ops::broadcast::{broadcast_shape, sum_to, zip_broadcast};
use crate::tensor::{Tensor, tensor};
use crate::train::{Backward, Input, Needs, Step, Trainable};
use crate::{Error, Result};
use ndarray::{Axis, IxDyn};

/// An operation on two numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArithmeticOperator {
    /// `a + b`
    Add,
    /// `a - b`
    Sub,
    /// `a b`
    Mul,
    /// `a / b`
    Div,
}

impl ArithmeticOperator {
    /// The result.
    pub fn apply(self, a: f32, b: f32) -> f32 {
        match self {
            ArithmeticOperator::Add => a + b,
            ArithmeticOperator::Sub => a - b,
            ArithmeticOperator::Mul => a * b,
            ArithmeticOperator::Div => a / b,
        }
    }

    /// The derivatives by `a` and by `b`.
    fn slopes(self, a: f32, b: f32) -> [f32; 2] {
        match self {
            ArithmeticOperator::Add => [1.0, 1.0],
            ArithmeticOperator::Sub => [1.0, -1.0],
            ArithmeticOperator::Mul => [b, a],
            ArithmeticOperator::Div => [1.0 / b, -a / (b * b)],
        }
    }

    /// The standard's name.
    fn name(self) -> &'static str {
        match self {
            ArithmeticOperator::Add => "Add",
            ArithmeticOperator::Sub => "Sub",
            ArithmeticOperator::Mul => "Mul",
            ArithmeticOperator::Div => "Div",
        }
    }

    fn decode(from: &mut Decoder<'_>) -> Result<ArithmeticOperator> {
        match from.byte()? {
            0 => Ok(ArithmeticOperator::Add),
            1 => Ok(ArithmeticOperator::Sub),
            2 => Ok(ArithmeticOperator::Mul),
            3 => Ok(ArithmeticOperator::Div),
            other => Err(Error::malformed(format!("unknown arithmetic operator {other}"))),
        }
    }
}

/// An operation on two inputs with the same number of axes; an axis of size 1 is repeated, but not the batch.
///
/// Residual sums are [`Add`](super::Add), gates of squeeze-and-excitation [`Mul`](super::Mul).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arithmetic {
    /// What is done.
    pub operator: ArithmeticOperator,
}

impl Arithmetic {
    pub(super) fn decode(from: &mut Decoder<'_>) -> Result<Box<dyn Layer>> {
        Ok(Box::new(Arithmetic { operator: ArithmeticOperator::decode(from)? }))
    }
}

impl Layer for Arithmetic {
    fn kind(&self) -> &'static str {
        "arithmetic"
    }

    fn output_shape(&self, inputs: &[&[usize]]) -> Result<Vec<usize>> {
        match inputs {
            [a, b] if a.first() == b.first() => broadcast_shape(a, b),
            other => Err(Error::Shape(format!("{} of {other:?}", self.operator.name()))),
        }
    }

    fn infer(&self, inputs: &[&Tensor]) -> Result<Tensor> {
        self.output_shape(&inputs.iter().map(|t| t.shape()).collect::<Vec<_>>())?;
        zip_broadcast(inputs[0], inputs[1], |a, b| self.operator.apply(a, b))
    }

    fn encode(&self, out: &mut Encoder) -> Result<()> {
        out.byte(self.operator as u8);
        Ok(())
    }

    fn express(&self, at: &mut Express<'_>) -> Result<()> {
        let y = at.operator(self.operator.name(), &[at.input(0)?, at.input(1)?], Vec::new());
        at.output(y);
        Ok(())
    }

    fn channels(&self, inputs: &[&[usize]]) -> ChannelRule {
        match inputs {
            [a, b] if a.get(1) == b.get(1) => ChannelRule::Same,
            _ => ChannelRule::Opaque,
        }
    }

    fn select(&mut self, _keep: Keep<'_>) -> Result<()> {
        Ok(())
    }

    without_parameters!();
}

impl Trainable for Arithmetic {
    fn needs(&self) -> Needs {
        Needs { inputs: true, output: false }
    }

    fn forward(&mut self, inputs: &mut [Input<'_>], _step: &mut Step<'_>) -> Result<Tensor> {
        self.infer(&[inputs[0].get(), inputs[1].get()])
    }

    fn backward(&mut self, at: Backward<'_>, _step: &mut Step<'_>) -> Result<Vec<Option<Tensor>>> {
        let (a, b) = (at.input(0)?, at.input(1)?);
        let mut grads = vec![None, None];
        for side in [0, 1] {
            if at.wanted[side] {
                let slopes = zip_broadcast(a, b, |a, b| self.operator.slopes(a, b)[side])?;
                grads[side] = Some(sum_to(slopes * &at.grad, at.shapes[side]));
            }
        }
        Ok(grads)
    }
}

/// An operation between the input and a constant, which is not trained.
#[derive(Debug, Clone, PartialEq)]
pub struct ArithmeticConstant {
    operator: ArithmeticOperator,
    constant: Tensor,
    swapped: bool,
}

impl ArithmeticConstant {
    /// `x op constant`, or `constant op x` if `swapped`. The constant has at most as many axes as the input, aligned at the
    /// last, and is repeated along axes of size 1; the output has the input's shape. Channels can only be removed if it has one
    /// element or all axes.
    ///
    /// # Errors
    /// If the constant is empty or has more than eight axes.
    pub fn new(operator: ArithmeticOperator, constant: Tensor, swapped: bool) -> Result<ArithmeticConstant> {
        if constant.is_empty() || constant.ndim() > 8 {
            return Err(Error::Shape(format!("a constant of shape {:?}", constant.shape())));
        }
        Ok(ArithmeticConstant { operator, constant: constant.as_standard_layout().into_owned(), swapped })
    }

    /// The constant.
    pub fn constant(&self) -> &Tensor {
        &self.constant
    }

    pub(super) fn decode(from: &mut Decoder<'_>) -> Result<Box<dyn Layer>> {
        let operator = ArithmeticOperator::decode(from)?;
        let swapped = from.byte()? != 0;
        let shape = from.shape()?;
        let count = from.claim_shape(&shape)?;
        let constant = tensor(&shape, from.floats(count)?)?;
        Ok(Box::new(ArithmeticConstant::new(operator, constant, swapped)?))
    }

    /// The constant with as many axes as the input.
    fn aligned(&self, shape: &[usize]) -> Result<Tensor> {
        let own = self.constant.shape();
        let fits = own.len() <= shape.len()
            && own.iter().rev().zip(shape.iter().rev()).all(|(&c, &x)| c == 1 || c == x)
            && (own.len() < shape.len() || own.first().is_none_or(|&batch| batch == 1));
        if !fits {
            return Err(Error::Shape(format!("a constant of shape {own:?} with an input of {shape:?}")));
        }
        let mut full = vec![1; shape.len() - own.len()];
        full.extend(own);
        tensor(&full, self.constant.iter().copied().collect())
    }

    fn values(&self, x: &Tensor, f: impl Fn(f32, f32) -> f32) -> Result<Tensor> {
        let constant = self.aligned(x.shape())?;
        zip_broadcast(x, &constant, |x, c| if self.swapped { f(c, x) } else { f(x, c) })
    }
}

impl Layer for ArithmeticConstant {
    fn kind(&self) -> &'static str {
        "arithmetic_constant"
    }

    fn output_shape(&self, inputs: &[&[usize]]) -> Result<Vec<usize>> {
        let shape = one(inputs)?;
        self.aligned(shape)?;
        Ok(shape.to_vec())
    }

    fn infer(&self, inputs: &[&Tensor]) -> Result<Tensor> {
        self.values(one(inputs)?, |a, b| self.operator.apply(a, b))
    }

    fn encode(&self, out: &mut Encoder) -> Result<()> {
        out.byte(self.operator as u8);
        out.byte(u8::from(self.swapped));
        out.shape(self.constant.shape())?;
        out.floats(crate::tensor::slice(&self.constant)?);
        Ok(())
    }

    fn express(&self, at: &mut Express<'_>) -> Result<()> {
        let constant = at.tensor("constant", &self.constant)?;
        let x = at.input(0)?;
        let inputs = if self.swapped { [constant, x] } else { [x, constant] };
        let y = at.operator(self.operator.name(), &inputs, Vec::new());
        at.output(y);
        Ok(())
    }

    /// Only a constant with all axes, `[1, c, ...]`, says where its channels are.
    fn channels(&self, inputs: &[&[usize]]) -> ChannelRule {
        match inputs {
            [x] if self.constant.len() == 1 || self.constant.ndim() == x.len() => ChannelRule::Same,
            _ => ChannelRule::Opaque,
        }
    }

    fn select(&mut self, keep: Keep<'_>) -> Result<()> {
        if let Some(kept) = keep.output
            && self.constant.len() > 1
            && self.constant.shape()[1] > 1
        {
            self.constant = self.constant.select(Axis(1), kept).as_standard_layout().into_owned();
        }
        Ok(())
    }

    without_parameters!();
}

impl Trainable for ArithmeticConstant {
    fn needs(&self) -> Needs {
        Needs { inputs: self.swapped && self.operator == ArithmeticOperator::Div, output: false }
    }

    fn forward(&mut self, inputs: &mut [Input<'_>], _step: &mut Step<'_>) -> Result<Tensor> {
        self.infer(&[inputs[0].get()])
    }

    fn backward(&mut self, at: Backward<'_>, _step: &mut Step<'_>) -> Result<Vec<Option<Tensor>>> {
        let side = usize::from(self.swapped);
        let slopes = if self.needs().inputs {
            self.values(at.input(0)?, |a, b| self.operator.slopes(a, b)[side])?
        } else {
            // the slope by x does not depend on x
            let constant = self.aligned(at.shapes[0])?;
            let slopes = constant.mapv(|c| match self.swapped {
                true => self.operator.slopes(c, 1.0)[1],
                false => self.operator.slopes(1.0, c)[0],
            });
            slopes.broadcast(IxDyn(at.shapes[0])).map(|s| s.to_owned()).unwrap_or_default()
        };
        Ok(vec![Some(slopes * &at.grad)])
    }
}
