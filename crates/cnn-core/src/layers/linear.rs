//! Fully connected layer.

use super::one;
use crate::cost::{Cost, Macs};
use crate::express::{Attribute, Express};
use crate::layer::{ChannelRule, Keep, Layer};
use crate::model_file::{Decoder, Encoder};
use crate::ops::linear::{
    LinearGeometry, linear_backward_bias, linear_backward_input, linear_backward_weights, linear_forward,
};
use crate::param::{Param, Role};
use crate::session::kernels::linear;
use crate::session::{Lowered, Lowering};
use crate::tensor::{Tensor, slice, slice_mut, zeros};
use crate::train::{Backward, Input, Needs, Step, Trainable};
use crate::{Error, Result};

/// `y = x W^T + b` for `x` of shape `[n, in]` and `W` of shape `[out, in]`.
#[derive(Debug, Clone)]
pub struct Linear {
    weight: Param,
    bias: Option<Param>,
}

impl Linear {
    /// A layer with the given weights `[out, in]` and bias `[out]`.
    ///
    /// # Errors
    /// If the shapes do not fit each other.
    pub fn new(weight: Tensor, bias: Option<Tensor>) -> Result<Linear> {
        let &[outputs, _] = weight.shape() else {
            return Err(Error::Shape(format!(
                "the weights of a linear layer are [out, in], got {:?}",
                weight.shape()
            )));
        };
        if weight.is_empty() {
            return Err(Error::Shape("a linear layer needs at least one input and one output".into()));
        }
        if let Some(b) = bias.as_ref().filter(|b| b.shape() != [outputs]) {
            return Err(Error::Shape(format!("a bias of shape {:?} for {outputs} outputs", b.shape())));
        }
        Ok(Linear { weight: Param::new(Role::Weight, weight), bias: bias.map(|b| Param::new(Role::Bias, b)) })
    }

    /// The weights, `[out, in]`.
    pub fn weight(&self) -> &Param {
        &self.weight
    }

    /// The weights, to be constrained or replaced. Shapes change through graph edits only.
    pub fn weight_mut(&mut self) -> &mut Param {
        &mut self.weight
    }

    /// The bias, `[out]`.
    pub fn bias(&self) -> Option<&Param> {
        self.bias.as_ref()
    }

    /// The bias, to be constrained or replaced.
    pub fn bias_mut(&mut self) -> Option<&mut Param> {
        self.bias.as_mut()
    }

    /// The bias, to be changed; a layer without one gets zeros.
    pub fn bias_or_zeros(&mut self) -> &mut Param {
        let outputs = self.weight.shape()[0];
        self.bias.get_or_insert_with(|| Param::new(Role::Bias, Tensor::zeros(vec![outputs])))
    }

    /// Number of outputs.
    pub fn outputs(&self) -> usize {
        self.weight.shape()[0]
    }

    /// Number of inputs.
    pub fn inputs(&self) -> usize {
        self.weight.shape()[1]
    }

    /// Checks an input shape and returns the batch size.
    fn check(&self, input: &[usize]) -> Result<usize> {
        match input {
            &[n, features] if features == self.inputs() => Ok(n),
            other => Err(Error::Shape(format!("a linear layer of {} inputs got {other:?}", self.inputs()))),
        }
    }

    fn geometry(&self, n: usize) -> LinearGeometry {
        LinearGeometry { n, inputs: self.inputs(), outputs: self.outputs() }
    }

    pub(super) fn decode(from: &mut Decoder<'_>) -> Result<Box<dyn Layer>> {
        let has_bias = from.byte()? != 0;
        let shape = [from.uint()?, from.uint()?];
        let weight = from.param(Role::Weight, &shape)?;
        if weight.is_empty() {
            return Err(Error::malformed("a linear layer without weights"));
        }
        let bias = if has_bias { Some(from.param(Role::Bias, &shape[..1])?) } else { None };
        Ok(Box::new(Linear { weight, bias }))
    }

    fn run(&self, n: usize, x: &Tensor, y: &mut Tensor) -> Result<()> {
        let bias = self.bias.as_ref().map(|b| slice(b.value())).transpose()?;
        linear_forward(&self.geometry(n), slice(x)?, slice(self.weight.value())?, bias, slice_mut(y)?);
        Ok(())
    }
}

impl Layer for Linear {
    fn kind(&self) -> &'static str {
        "linear"
    }

    fn output_shape(&self, inputs: &[&[usize]]) -> Result<Vec<usize>> {
        Ok(vec![self.check(one(inputs)?)?, self.outputs()])
    }

    fn infer(&self, inputs: &[&Tensor]) -> Result<Tensor> {
        let x = one(inputs)?;
        let n = self.check(x.shape())?;
        let mut y = zeros(&[n, self.outputs()]);
        self.run(n, x, &mut y)?;
        Ok(y)
    }

    fn cost(&self, inputs: &[&[usize]]) -> Result<Cost> {
        let n = self.check(one(inputs)?)?;
        let params: u64 = self.params().iter().map(|p| p.len() as u64).sum();
        let nonzeros = self.params().iter().map(|p| p.nonzeros()).sum();
        let float = n as u64 * self.weight.len() as u64;
        Ok(Cost { params, nonzeros, macs: Macs { float, ..Macs::default() } })
    }

    fn lower(&self, at: &Lowering<'_>) -> Option<Lowered> {
        let bias = self.bias.as_ref().and_then(|b| b.value().as_slice());
        linear::lower(at, self.outputs(), self.weight.value().as_slice()?, bias)
    }

    fn encode(&self, out: &mut Encoder) -> Result<()> {
        out.byte(u8::from(self.bias.is_some()));
        self.weight.shape().iter().try_for_each(|&n| out.uint(n))?;
        self.params().into_iter().try_for_each(|p| out.param(p))
    }

    fn clone_box(&self) -> Box<dyn Layer> {
        Box::new(self.clone())
    }

    fn params(&self) -> Vec<&Param> {
        [&self.weight].into_iter().chain(&self.bias).collect()
    }

    fn trainable(&mut self) -> Option<&mut dyn Trainable> {
        Some(self)
    }

    fn channels(&self, _inputs: &[&[usize]]) -> ChannelRule {
        ChannelRule::Free
    }

    fn select(&mut self, keep: Keep<'_>) -> Result<()> {
        if let Some(inputs) = keep.inputs.first().copied().flatten() {
            self.weight.select(1, inputs)?;
        }
        if let Some(outputs) = keep.output {
            self.weight.select(0, outputs)?;
            if let Some(bias) = &mut self.bias {
                bias.select(0, outputs)?;
            }
        }
        Ok(())
    }

    fn express(&self, at: &mut Express<'_>) -> Result<()> {
        let mut inputs = vec![at.input(0)?, at.param("weight", &self.weight)?];
        if let Some(bias) = &self.bias {
            inputs.push(at.param("bias", bias)?);
        }
        let y = at.operator("Gemm", &inputs, vec![("transB", Attribute::Int(1))]);
        at.output(y);
        Ok(())
    }
}

impl Trainable for Linear {
    fn needs(&self) -> Needs {
        Needs { inputs: true, output: false }
    }

    fn forward(&mut self, inputs: &mut [Input<'_>], step: &mut Step<'_>) -> Result<Tensor> {
        let x = inputs[0].get();
        let n = self.check(x.shape())?;
        let mut y = step.pool.take(&[n, self.outputs()]);
        self.run(n, x, &mut y)?;
        Ok(y)
    }

    fn backward(&mut self, at: Backward<'_>, step: &mut Step<'_>) -> Result<Vec<Option<Tensor>>> {
        let x = at.input(0)?;
        let g = self.geometry(self.check(x.shape())?);
        let (x, dy) = (slice(x)?, slice(&at.grad)?);
        self.weight.write_grad(|dw| linear_backward_weights(&g, x, dy, dw));
        if let Some(bias) = &mut self.bias {
            bias.write_grad(|db| linear_backward_bias(&g, dy, db));
        }
        let mut dx = None;
        if at.wanted[0] {
            let mut grad = step.pool.take(at.shapes[0]);
            linear_backward_input(&g, slice(self.weight.value())?, dy, slice_mut(&mut grad)?);
            dx = Some(grad);
        }
        step.pool.give(at.grad);
        Ok(vec![dx])
    }

    fn params_mut(&mut self) -> Vec<&mut Param> {
        [&mut self.weight].into_iter().chain(&mut self.bias).collect()
    }
}
