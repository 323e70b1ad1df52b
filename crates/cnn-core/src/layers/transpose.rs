//! Permutation of axes.

use super::one;
use crate::express::{Attribute, Express};
use crate::layer::{ChannelRule, Keep, Layer};
use crate::model_file::{Decoder, Encoder};
use crate::tensor::Tensor;
use crate::train::{Backward, Input, Needs, Step, Trainable};
use crate::{Error, Result};
use ndarray::IxDyn;

/// Output axis `i` is input axis `order[i]`; the batch stays in front.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transpose {
    order: Vec<usize>,
}

impl Transpose {
    /// A permutation that leaves axis 0 where it is.
    ///
    /// # Errors
    /// If `order` is no such permutation.
    pub fn new(order: Vec<usize>) -> Result<Transpose> {
        let mut sorted = order.clone();
        sorted.sort_unstable();
        match sorted.iter().copied().eq(0..order.len()) && order.first() == Some(&0) {
            true => Ok(Transpose { order }),
            false => {
                Err(Error::Shape(format!("{order:?} is no order of axes that leaves the batch in front")))
            }
        }
    }

    /// For each output axis the input axis.
    pub fn order(&self) -> &[usize] {
        &self.order
    }

    pub(super) fn decode(from: &mut Decoder<'_>) -> Result<Box<dyn Layer>> {
        Ok(Box::new(Transpose::new(from.shape()?)?))
    }
}

fn permuted(x: &Tensor, order: &[usize]) -> Tensor {
    x.view().permuted_axes(IxDyn(order)).as_standard_layout().into_owned()
}

impl Layer for Transpose {
    fn kind(&self) -> &'static str {
        "transpose"
    }

    fn output_shape(&self, inputs: &[&[usize]]) -> Result<Vec<usize>> {
        let shape = one(inputs)?;
        match shape.len() == self.order.len() {
            true => Ok(self.order.iter().map(|&axis| shape[axis]).collect()),
            false => Err(Error::Shape(format!("an order {:?} of the axes of {shape:?}", self.order))),
        }
    }

    fn infer(&self, inputs: &[&Tensor]) -> Result<Tensor> {
        self.output_shape(&[one(inputs)?.shape()])?;
        Ok(permuted(inputs[0], &self.order))
    }

    fn encode(&self, out: &mut Encoder) -> Result<()> {
        out.shape(&self.order)
    }

    fn express(&self, at: &mut Express<'_>) -> Result<()> {
        let y = at.operator("Transpose", &[at.input(0)?], vec![("perm", Attribute::sizes(&self.order))]);
        at.output(y);
        Ok(())
    }

    fn channels(&self, _inputs: &[&[usize]]) -> ChannelRule {
        match self.order.get(1) {
            Some(1) => ChannelRule::Same,
            _ => ChannelRule::Opaque,
        }
    }

    fn select(&mut self, _keep: Keep<'_>) -> Result<()> {
        Ok(())
    }

    without_parameters!();
}

impl Trainable for Transpose {
    fn needs(&self) -> Needs {
        Needs::default()
    }

    fn forward(&mut self, inputs: &mut [Input<'_>], _step: &mut Step<'_>) -> Result<Tensor> {
        self.infer(&[inputs[0].get()])
    }

    fn backward(&mut self, at: Backward<'_>, step: &mut Step<'_>) -> Result<Vec<Option<Tensor>>> {
        let mut back = vec![0; self.order.len()];
        self.order.iter().enumerate().for_each(|(to, &from)| back[from] = to);
        let dx = permuted(&at.grad, &back);
        step.pool.give(at.grad);
        Ok(vec![Some(dx)])
    }
}
