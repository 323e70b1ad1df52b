//! Batch normalization.

use super::{one, one_shape};
use crate::cost::Cost;
use crate::express::{Attribute, Express, Numbers};
use crate::layer::{ChannelRule, Keep, Layer};
use crate::model_file::{Decoder, Encoder};
use crate::ops::norm::{bn_apply, bn_backward, bn_inv_std, bn_scale_shift, bn_stats};
use crate::param::{Param, Role};
use crate::session::{Epilogue, Lowered, Lowering, elementwise::Elementwise};
use crate::tensor::{Tensor, elements, slice, slice_mut, tensor, zeros};
use crate::train::{Backward, Input, Needs, Step, Trainable};
use crate::{Error, Result};

/// `y = gamma (x - mean) / sqrt(var + eps) + beta` per channel (Ioffe & Szegedy 2015, Algorithm 1): mean and variance of the
/// batch in training, running averages at inference.
#[derive(Debug, Clone)]
pub struct BatchNorm {
    gamma: Param,
    beta: Param,
    mean: Vec<f32>,
    var: Vec<f32>,
    /// Added to the variance.
    pub epsilon: f32,
    /// Weight of the newest batch in the running averages.
    pub momentum: f32,
}

const EPSILON: f32 = 1e-5;
const MOMENTUM: f32 = 0.1;

impl BatchNorm {
    /// A fresh normalization of `channels`: gamma 1, beta 0, mean 0, variance 1.
    pub fn new(channels: usize) -> BatchNorm {
        BatchNorm {
            gamma: Param::new(Role::Norm, Tensor::ones(ndarray::IxDyn(&[channels]))),
            beta: Param::new(Role::Norm, zeros(&[channels])),
            mean: vec![0.0; channels],
            var: vec![1.0; channels],
            epsilon: EPSILON,
            momentum: MOMENTUM,
        }
    }

    /// A trained normalization; all four of length `channels`.
    ///
    /// # Errors
    /// If the lengths differ.
    pub fn trained(
        gamma: Vec<f32>,
        beta: Vec<f32>,
        mean: Vec<f32>,
        var: Vec<f32>,
        epsilon: f32,
    ) -> Result<BatchNorm> {
        let c = gamma.len();
        if c == 0 || [beta.len(), mean.len(), var.len()] != [c; 3] {
            return Err(Error::Shape("batch normalization takes four vectors of the same length".into()));
        }
        let gamma = Param::new(Role::Norm, tensor(&[c], gamma)?);
        let beta = Param::new(Role::Norm, tensor(&[c], beta)?);
        Ok(BatchNorm { gamma, beta, mean, var, epsilon, momentum: MOMENTUM })
    }

    /// Scale, `[c]`.
    pub fn gamma(&self) -> &Param {
        &self.gamma
    }

    /// Scale, to be constrained or changed.
    pub fn gamma_mut(&mut self) -> &mut Param {
        &mut self.gamma
    }

    /// Shift, `[c]`.
    pub fn beta(&self) -> &Param {
        &self.beta
    }

    /// Shift, to be constrained or changed.
    pub fn beta_mut(&mut self) -> &mut Param {
        &mut self.beta
    }

    /// Running mean and (unbiased) variance, as used at inference.
    pub fn running(&self) -> (&[f32], &[f32]) {
        (&self.mean, &self.var)
    }

    /// The map of inference as `y = scale x + shift`, per channel.
    ///
    /// # Errors
    /// None in practice.
    pub fn scale_shift(&self) -> Result<(Vec<f32>, Vec<f32>)> {
        let inv_std = bn_inv_std(&self.var, self.epsilon);
        Ok(bn_scale_shift(&self.mean, &inv_std, slice(self.gamma.value())?, slice(self.beta.value())?))
    }

    /// Checks a shape `[n, c, ...]` and returns the batch size and the size of a plane.
    fn check(&self, shape: &[usize]) -> Result<(usize, usize)> {
        match shape {
            [n, c, rest @ ..] if *c == self.mean.len() && elements(rest) > 0 => Ok((*n, elements(rest))),
            other => {
                Err(Error::Shape(format!("normalization of {} channels got {other:?}", self.mean.len())))
            }
        }
    }

    pub(super) fn decode(from: &mut Decoder<'_>) -> Result<Box<dyn Layer>> {
        let c = from.uint()?;
        if c == 0 {
            return Err(Error::malformed("a normalization of no channels"));
        }
        let (epsilon, momentum) = match from.byte()? {
            0 => (EPSILON, MOMENTUM),
            _ => (from.float()?, from.float()?),
        };
        let gamma = from.param(Role::Norm, &[c])?;
        let beta = from.param(Role::Norm, &[c])?;
        let (mean, var) = (from.floats(c)?, from.floats(c)?);
        Ok(Box::new(BatchNorm { gamma, beta, mean, var, epsilon, momentum }))
    }
}

impl Layer for BatchNorm {
    fn kind(&self) -> &'static str {
        "batch_norm"
    }

    fn output_shape(&self, inputs: &[&[usize]]) -> Result<Vec<usize>> {
        self.check(one(inputs)?)?;
        Ok(inputs[0].to_vec())
    }

    fn infer(&self, inputs: &[&Tensor]) -> Result<Tensor> {
        let mut y = zeros(&one_shape(inputs)?);
        let (_, hw) = self.check(y.shape())?;
        let (scale, shift) = self.scale_shift()?;
        bn_apply(slice(inputs[0])?, slice_mut(&mut y)?, hw, &scale, &shift);
        Ok(y)
    }

    fn cost(&self, inputs: &[&[usize]]) -> Result<Cost> {
        self.check(one(inputs)?)?;
        let params = 2 * self.gamma.len() as u64;
        Ok(Cost { params, nonzeros: self.gamma.nonzeros() + self.beta.nonzeros(), ..Cost::default() })
    }

    fn lower(&self, at: &Lowering<'_>) -> Option<Lowered> {
        let (scale, shift) = self.scale_shift().ok()?;
        let norm = Epilogue { scale: Some(scale), shift: Some(shift), ..Epilogue::default() };
        at.by_channel().then(|| Elementwise::lower(at, norm))
    }

    fn encode(&self, out: &mut Encoder) -> Result<()> {
        out.uint(self.mean.len())?;
        let usual = self.epsilon == EPSILON && self.momentum == MOMENTUM;
        out.byte(u8::from(!usual));
        if !usual {
            out.floats(&[self.epsilon, self.momentum]);
        }
        out.param(&self.gamma)?;
        out.param(&self.beta)?;
        out.floats(&self.mean);
        out.floats(&self.var);
        Ok(())
    }

    fn clone_box(&self) -> Box<dyn Layer> {
        Box::new(self.clone())
    }

    fn params(&self) -> Vec<&Param> {
        vec![&self.gamma, &self.beta]
    }

    fn trainable(&mut self) -> Option<&mut dyn Trainable> {
        Some(self)
    }

    fn channels(&self, _inputs: &[&[usize]]) -> ChannelRule {
        ChannelRule::Same
    }

    fn select(&mut self, keep: Keep<'_>) -> Result<()> {
        if let Some(keep) = keep.output {
            self.gamma.select(0, keep)?;
            self.beta.select(0, keep)?;
            self.mean = keep.iter().map(|&c| self.mean[c]).collect();
            self.var = keep.iter().map(|&c| self.var[c]).collect();
        }
        Ok(())
    }

    fn express(&self, at: &mut Express<'_>) -> Result<()> {
        let c = self.mean.len();
        let gamma = at.param("gamma", &self.gamma)?;
        let beta = at.param("beta", &self.beta)?;
        let mean = at.constant("mean", &[c], Numbers::F32(self.mean.clone()))?;
        let var = at.constant("var", &[c], Numbers::F32(self.var.clone()))?;
        let inputs = [at.input(0)?, gamma, beta, mean, var];
        let y = at.operator("BatchNormalization", &inputs, vec![("epsilon", Attribute::Float(self.epsilon))]);
        at.output(y);
        Ok(())
    }
}

impl Trainable for BatchNorm {
    fn needs(&self) -> Needs {
        Needs { inputs: true, output: false }
    }

    fn forward(&mut self, inputs: &mut [Input<'_>], step: &mut Step<'_>) -> Result<Tensor> {
        let x = inputs[0].get();
        let (n, hw) = self.check(x.shape())?;
        let c = self.mean.len();
        let values = slice(x)?;
        let (mean, var) = bn_stats(values, n, c, hw);
        let inv_std = bn_inv_std(&var, self.epsilon);
        let (scale, shift) =
            bn_scale_shift(&mean, &inv_std, slice(self.gamma.value())?, slice(self.beta.value())?);
        let mut y = step.pool.take(x.shape());
        bn_apply(values, slice_mut(&mut y)?, hw, &scale, &shift);

        // the running variance is the unbiased one; a single value says nothing of it
        let m = (n * hw) as f32;
        let unbiased = m / (m - 1.0);
        for c in (0..c).filter(|_| m > 1.0) {
            self.mean[c] += self.momentum * (mean[c] - self.mean[c]);
            self.var[c] += self.momentum * (unbiased * var[c] - self.var[c]);
        }
        step.saved.floats = mean;
        step.saved.floats.extend(inv_std);
        Ok(y)
    }

    fn backward(&mut self, at: Backward<'_>, step: &mut Step<'_>) -> Result<Vec<Option<Tensor>>> {
        let x = at.input(0)?;
        let (_, hw) = self.check(x.shape())?;
        let x = slice(x)?;
        let (mean, inv_std) = step.saved.floats.split_at(self.mean.len());
        let mut grad = at.grad;
        let gamma = slice(self.gamma.value())?;
        let (dgamma, dbeta) = bn_backward(x, slice_mut(&mut grad)?, hw, mean, inv_std, gamma);
        self.gamma.write_grad(|g| g.copy_from_slice(&dgamma));
        self.beta.write_grad(|g| g.copy_from_slice(&dbeta));
        Ok(vec![Some(grad)])
    }

    fn params_mut(&mut self) -> Vec<&mut Param> {
        vec![&mut self.gamma, &mut self.beta]
    }
}
