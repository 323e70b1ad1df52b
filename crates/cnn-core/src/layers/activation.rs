//! Elementwise activation functions.

use super::{one, one_shape};
use crate::express::{Attribute, Express, Numbers, Value};
use crate::layer::Layer;
use crate::model_file::{Decoder, Encoder};
use crate::ops::activation::{ActivationFn, Saved, activation, activation_backward, activation_in_place};
use crate::session::{Epilogue, Lowered, Lowering, elementwise::Elementwise};
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
            7 => ActivationFn::Tanh,
            8 => ActivationFn::Elu(from.float()?),
            9 => {
                let (low, high) = (from.float()?, from.float()?);
                match low <= high {
                    true => ActivationFn::Clip(low, high),
                    false => return Err(Error::malformed(format!("clip from {low} to {high}"))),
                }
            }
            other => return Err(Error::malformed(format!("unknown activation function {other}"))),
        };
        Ok(Box::new(Activation { function }))
    }
}

/// The standard's `Clip`; an infinite bound is left out.
fn clip(at: &mut Express<'_>, low: f32, high: f32) -> Result<Value> {
    let mut bound = |label, value: f32| match value.is_finite() {
        true => at.constant(label, &[], Numbers::F32(vec![value])),
        false => Ok(Value::NONE),
    };
    let inputs = [bound("low", low)?, bound("high", high)?];
    Ok(at.operator("Clip", &[at.input(0)?, inputs[0], inputs[1]], Vec::new()))
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

    fn lower(&self, at: &Lowering<'_>) -> Option<Lowered> {
        let f = Epilogue { activation: Some(self.function), ..Epilogue::default() };
        at.by_channel().then(|| Elementwise::lower(at, f))
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
            ActivationFn::Tanh => 7,
            ActivationFn::Elu(_) => 8,
            ActivationFn::Clip(..) => 9,
        });
        match self.function {
            ActivationFn::LeakyRelu(parameter) | ActivationFn::Elu(parameter) => out.float(parameter),
            ActivationFn::Clip(low, high) => [low, high].into_iter().for_each(|bound| out.float(bound)),
            _ => {}
        }
        Ok(())
    }

    fn express(&self, at: &mut Express<'_>) -> Result<()> {
        let x = at.input(0)?;
        let float = |name, value| vec![(name, Attribute::Float(value))];
        let y = match self.function {
            ActivationFn::Relu => at.operator("Relu", &[x], Vec::new()),
            ActivationFn::Relu6 => clip(at, 0.0, 6.0)?,
            ActivationFn::Clip(low, high) => clip(at, low, high)?,
            ActivationFn::LeakyRelu(slope) => at.operator("LeakyRelu", &[x], float("alpha", slope)),
            ActivationFn::Elu(alpha) => at.operator("Elu", &[x], float("alpha", alpha)),
            ActivationFn::Sigmoid => at.operator("Sigmoid", &[x], Vec::new()),
            ActivationFn::Tanh => at.operator("Tanh", &[x], Vec::new()),
            // the standard's default slope is 0.2
            ActivationFn::HardSigmoid => at.operator("HardSigmoid", &[x], float("alpha", 1.0 / 6.0)),
            ActivationFn::HardSwish => at.operator("HardSwish", &[x], Vec::new()),
            ActivationFn::Silu => {
                let gate = at.operator("Sigmoid", &[x], Vec::new());
                at.operator("Mul", &[x, gate], Vec::new())
            }
        };
        at.output(y);
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
