//! Layers with several inputs: residual addition, multiplication with broadcasting, concatenation.

use crate::express::{Attribute, Express};
use crate::layer::{ChannelRule, Keep, Layer};
use crate::model_file::{Decoder, Encoder};
use crate::ops::concat::{concat_channels, split_channels};
use crate::ops::merge::{add_in_place, mul, mul_grad_one};
use crate::session::{Epilogue, Lowered, Lowering, elementwise::Elementwise};
use crate::tensor::{Tensor, elements, slice, slice_mut, zeros};
use crate::train::{Backward, Input, Needs, Step, Trainable};
use crate::{Error, Result};

/// Sum of two or more inputs of the same shape: the residual connection.
#[derive(Debug, Clone, Copy)]
pub struct Add;

impl Add {
    pub(super) fn decode(_from: &mut Decoder<'_>) -> Result<Box<dyn Layer>> {
        Ok(Box::new(Add))
    }
}

impl Layer for Add {
    fn kind(&self) -> &'static str {
        "add"
    }

    fn output_shape(&self, inputs: &[&[usize]]) -> Result<Vec<usize>> {
        match inputs {
            [first, rest @ ..] if !rest.is_empty() && rest.iter().all(|s| s == first) => Ok(first.to_vec()),
            other => {
                Err(Error::Shape(format!("addition takes two or more inputs of one shape, got {other:?}")))
            }
        }
    }

    fn infer(&self, inputs: &[&Tensor]) -> Result<Tensor> {
        self.output_shape(&inputs.iter().map(|t| t.shape()).collect::<Vec<_>>())?;
        let mut y = inputs[0].clone();
        for x in &inputs[1..] {
            add_in_place(slice_mut(&mut y)?, slice(x)?);
        }
        Ok(y)
    }

    fn lower(&self, at: &Lowering<'_>) -> Option<Lowered> {
        at.by_channel().then(|| Elementwise::lower(at, Epilogue::default()))
    }

    fn encode(&self, _out: &mut Encoder) -> Result<()> {
        Ok(())
    }

    fn express(&self, at: &mut Express<'_>) -> Result<()> {
        let mut sum = at.input(0)?;
        for x in at.inputs().into_iter().skip(1) {
            sum = at.operator("Add", &[sum, x], Vec::new());
        }
        at.output(sum);
        Ok(())
    }

    without_parameters!();
    same_channels!();
}

impl Trainable for Add {
    fn needs(&self) -> Needs {
        Needs::default()
    }

    fn forward(&mut self, inputs: &mut [Input<'_>], step: &mut Step<'_>) -> Result<Tensor> {
        // start from an input whose memory may be used
        let first = inputs.iter().position(|i| matches!(i, Input::Owned(_))).unwrap_or(0);
        let mut y = inputs[first].take(step.pool);
        for (_, input) in inputs.iter().enumerate().filter(|(at, _)| *at != first) {
            add_in_place(slice_mut(&mut y)?, slice(input.get())?);
        }
        Ok(y)
    }

    fn backward(&mut self, at: Backward<'_>, step: &mut Step<'_>) -> Result<Vec<Option<Tensor>>> {
        let mut grads: Vec<Option<Tensor>> = Vec::with_capacity(at.wanted.len());
        let last = at.wanted.iter().rposition(|&w| w);
        for (i, &wanted) in at.wanted.iter().enumerate() {
            let copied = wanted && Some(i) != last;
            grads.push(copied.then(|| {
                let mut copy = step.pool.take(at.grad.shape());
                copy.assign(&at.grad);
                copy
            }));
        }
        if let Some(last) = last {
            grads[last] = Some(at.grad);
        }
        Ok(grads)
    }
}

/// Product of two inputs; an axis of size 1 is repeated: squeeze-and-excitation scales `[n, c, h, w]` by `[n, c, 1, 1]`.
#[derive(Debug, Clone, Copy)]
pub struct Mul;

impl Mul {
    pub(super) fn decode(_from: &mut Decoder<'_>) -> Result<Box<dyn Layer>> {
        Ok(Box::new(Mul))
    }
}

/// A shape of up to four axes, filled up with ones at the end.
fn four(shape: &[usize]) -> [usize; 4] {
    std::array::from_fn(|i| shape.get(i).copied().unwrap_or(1))
}

impl Layer for Mul {
    fn kind(&self) -> &'static str {
        "mul"
    }

    fn output_shape(&self, inputs: &[&[usize]]) -> Result<Vec<usize>> {
        let [a, b] = inputs else {
            return Err(Error::Shape(format!("multiplication takes two inputs, got {}", inputs.len())));
        };
        if a.len() != b.len() || a.len() > 4 || a.iter().zip(*b).any(|(x, y)| x != y && *x != 1 && *y != 1) {
            return Err(Error::Shape(format!("{a:?} and {b:?} cannot be multiplied")));
        }
        Ok(a.iter().zip(*b).map(|(&x, &y)| if x == 1 { y } else { x }).collect())
    }

    fn infer(&self, inputs: &[&Tensor]) -> Result<Tensor> {
        let mut y = zeros(&self.output_shape(&inputs.iter().map(|t| t.shape()).collect::<Vec<_>>())?);
        let (a, b) = (inputs[0], inputs[1]);
        mul(slice(a)?, four(a.shape()), slice(b)?, four(b.shape()), slice_mut(&mut y)?);
        Ok(y)
    }

    fn lower(&self, at: &Lowering<'_>) -> Option<Lowered> {
        Elementwise::lower_product(at)
    }

    fn encode(&self, _out: &mut Encoder) -> Result<()> {
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

    fn express(&self, at: &mut Express<'_>) -> Result<()> {
        let y = at.operator("Mul", &[at.input(0)?, at.input(1)?], Vec::new());
        at.output(y);
        Ok(())
    }

    without_parameters!();
}

impl Trainable for Mul {
    fn needs(&self) -> Needs {
        Needs { inputs: true, output: false }
    }

    fn forward(&mut self, inputs: &mut [Input<'_>], step: &mut Step<'_>) -> Result<Tensor> {
        let (a, b) = (inputs[0].get(), inputs[1].get());
        let mut y = step.pool.take(&self.output_shape(&[a.shape(), b.shape()])?);
        mul(slice(a)?, four(a.shape()), slice(b)?, four(b.shape()), slice_mut(&mut y)?);
        Ok(y)
    }

    fn backward(&mut self, at: Backward<'_>, step: &mut Step<'_>) -> Result<Vec<Option<Tensor>>> {
        let mut grads = vec![None, None];
        for (side, other) in [(0, 1), (1, 0)] {
            if at.wanted[side] {
                let mut grad = step.pool.take(at.shapes[side]);
                let factor = (slice(at.input(other)?)?, four(at.shapes[other]));
                mul_grad_one(slice(&at.grad)?, factor, four(at.shapes[side]), slice_mut(&mut grad)?);
                grads[side] = Some(grad);
            }
        }
        step.pool.give(at.grad);
        Ok(grads)
    }
}

/// The channels of all inputs one after the other.
#[derive(Debug, Clone, Copy)]
pub struct Concat;

impl Concat {
    pub(super) fn decode(_from: &mut Decoder<'_>) -> Result<Box<dyn Layer>> {
        Ok(Box::new(Concat))
    }
}

/// Elements of one image of each input.
fn sizes(shapes: &[&[usize]]) -> Vec<usize> {
    shapes.iter().map(|s| elements(&s[1..])).collect()
}

impl Layer for Concat {
    fn kind(&self) -> &'static str {
        "concat"
    }

    fn output_shape(&self, inputs: &[&[usize]]) -> Result<Vec<usize>> {
        let Some((first, rest)) = inputs.split_first().filter(|(first, _)| first.len() >= 2) else {
            return Err(Error::Shape("concatenation takes inputs with channels".into()));
        };
        let fits = |s: &&[usize]| s.len() == first.len() && s[0] == first[0] && s[2..] == first[2..];
        if !rest.iter().all(fits) {
            return Err(Error::Shape(format!("{inputs:?} differ in more than the channels")));
        }
        let mut shape = first.to_vec();
        let channels = inputs.iter().try_fold(0usize, |sum, s| sum.checked_add(s[1]));
        shape[1] = channels.ok_or_else(|| Error::Shape(format!("{inputs:?} have too many channels")))?;
        Ok(shape)
    }

    fn infer(&self, inputs: &[&Tensor]) -> Result<Tensor> {
        let shapes: Vec<&[usize]> = inputs.iter().map(|t| t.shape()).collect();
        let mut y = zeros(&self.output_shape(&shapes)?);
        let parts =
            inputs.iter().zip(sizes(&shapes)).map(|(x, s)| Ok((slice(x)?, s))).collect::<Result<Vec<_>>>()?;
        concat_channels(&parts, slice_mut(&mut y)?);
        Ok(y)
    }

    fn encode(&self, _out: &mut Encoder) -> Result<()> {
        Ok(())
    }

    fn channels(&self, _inputs: &[&[usize]]) -> ChannelRule {
        ChannelRule::Concat
    }

    fn select(&mut self, _keep: Keep<'_>) -> Result<()> {
        Ok(())
    }

    fn express(&self, at: &mut Express<'_>) -> Result<()> {
        let y = at.operator("Concat", &at.inputs(), vec![("axis", Attribute::Int(1))]);
        at.output(y);
        Ok(())
    }

    without_parameters!();
}

impl Trainable for Concat {
    fn needs(&self) -> Needs {
        Needs::default()
    }

    fn forward(&mut self, inputs: &mut [Input<'_>], step: &mut Step<'_>) -> Result<Tensor> {
        let shapes: Vec<&[usize]> = inputs.iter().map(|t| t.get().shape()).collect();
        let mut y = step.pool.take(&self.output_shape(&shapes)?);
        let parts = inputs
            .iter()
            .zip(sizes(&shapes))
            .map(|(x, s)| Ok((slice(x.get())?, s)))
            .collect::<Result<Vec<_>>>()?;
        concat_channels(&parts, slice_mut(&mut y)?);
        Ok(y)
    }

    fn backward(&mut self, at: Backward<'_>, step: &mut Step<'_>) -> Result<Vec<Option<Tensor>>> {
        let mut grads: Vec<Tensor> = at.shapes.iter().map(|s| step.pool.take(s)).collect();
        let mut parts = grads
            .iter_mut()
            .zip(sizes(at.shapes))
            .map(|(g, s)| Ok((slice_mut(g)?, s)))
            .collect::<Result<Vec<_>>>()?;
        split_channels(slice(&at.grad)?, &mut parts);
        step.pool.give(at.grad);
        Ok(grads.into_iter().map(Some).collect())
    }
}
