//! Elementwise activation functions.

use super::{one, one_shape};
use crate::layer::Layer;
use crate::model_file::{Decoder, Encoder};
use crate::ops::activation::{ActivationFn, Saved, activation, activation_backward, activation_in_place};
use crate::tensor::{Tensor, slice, slice_mut, zeros};
use crate::train::{Backward, Input, Needs, Step, Trainable};
use crate::{Error, Result};

/// An activation function on every value.
#[derive(Debug, Clone, Copy)]
pub struct Activation {
    /// The function.
    pub function: ActivationFn,
}

impl Activation {
    /// `max(x, 0)`.
    pub fn relu() -> Activation {
        Activation { function: ActivationFn::Relu }
    }

    pub(super) fn decode(from: &mut Decoder<'_>) -> Result<Box<dyn Layer>> {
        let function = match from.byte()? {
            0 => ActivationFn::Relu,
            1 => ActivationFn::Relu6,
            2 => ActivationFn::LeakyRelu(from.float()?),
            3 => ActivationFn::Sigmoid,
            4 => ActivationFn::HardSigmoid,
            5 => ActivationFn::HardSwish,
            6 => ActivationFn::Silu,
            other => return Err(Error::malformed(format!("unknown activation function {other}"))),
        };
        Ok(Box::new(Activation { function }))
    }
}

impl Layer for Activation {
    fn kind(&self) -> &'static str {
        "activation"
    }

    fn output_shape(&self, inputs: &[&[usize]]) -> Result<Vec<usize>> {
        Ok(one(inputs)?.to_vec())
    }

    fn infer(&self, inputs: &[&Tensor]) -> Result<Tensor> {
        let mut y = zeros(&one_shape(inputs)?);
        activation(self.function, slice(inputs[0])?, slice_mut(&mut y)?);
        Ok(y)
    }

    fn encode(&self, out: &mut Encoder) -> Result<()> {
        out.byte(match self.function {
            ActivationFn::Relu => 0,
            ActivationFn::Relu6 => 1,
            ActivationFn::LeakyRelu(_) => 2,
            ActivationFn::Sigmoid => 3,
            ActivationFn::HardSigmoid => 4,
            ActivationFn::HardSwish => 5,
            ActivationFn::Silu => 6,
        });
        if let ActivationFn::LeakyRelu(slope) = self.function {
            out.float(slope);
        }
        Ok(())
    }

    without_parameters!();
    same_channels!();
}

impl Trainable for Activation {
    fn needs(&self) -> Needs {
        match self.function.backward_needs() {
            Saved::Input => Needs { inputs: true, output: false },
            Saved::Output => Needs { inputs: false, output: true },
        }
    }

    fn forward(&mut self, inputs: &mut [Input<'_>], step: &mut Step<'_>) -> Result<Tensor> {
        match &mut inputs[0] {
            Input::Owned(x) => {
                let mut y = std::mem::take(x);
                activation_in_place(self.function, slice_mut(&mut y)?);
                Ok(y)
            }
            Input::Shared(x) => {
                let mut y = step.pool.take(x.shape());
                activation(self.function, slice(x)?, slice_mut(&mut y)?);
                Ok(y)
            }
        }
    }

    fn backward(&mut self, at: Backward<'_>, _step: &mut Step<'_>) -> Result<Vec<Option<Tensor>>> {
        let saved = if self.needs().inputs { at.input(0)? } else { at.output()? };
        let saved = slice(saved)?;
        let mut grad = at.grad;
        activation_backward(self.function, saved, slice_mut(&mut grad)?);
        Ok(vec![Some(grad)])
    }
}
