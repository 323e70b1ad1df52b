//! What the conversion of one operator sees, and the steps that several operators share.

use crate::draft::Drafts;
use crate::names;
use crate::op::{Op, Refusal};
use crate::slot::{Budget, Inputs, Slot};
use crate::value::Value;
use cnn_core::Tensor;
use cnn_core::layers::{
    Activation, ActivationFn, ArithmeticConstant, ArithmeticOperator, AxisMap, ChannelMap, Transpose,
};
use cnn_core::tensor::tensor;

/// Longest axis that is rearranged by a list of positions.
pub(super) const LONGEST: usize = 1 << 24;

/// One operator with its inputs, and the network so far.
pub(super) struct Context<'a> {
    pub op: Op<'a>,
    pub inputs: Inputs,
    pub drafts: &'a mut Drafts,
    pub budget: &'a Budget,
}

impl Context<'_> {
    /// The name for the layer, from the node alone.
    pub fn name(&self) -> String {
        names::layer_name(&self.op, None)
    }

    /// The name for a layer whose weights are at an input.
    pub fn name_by_weights(&self, at: usize) -> String {
        names::layer_name(&self.op, self.inputs.origin(at))
    }

    /// Position and shape (with a batch of 1) of an input that is computed from the image.
    pub fn image(&self, at: usize) -> Result<(usize, Vec<usize>), Refusal> {
        let draft = self.inputs.dynamic(at)?;
        Ok((draft, self.drafts.shape(draft).to_vec()))
    }

    /// A constant input of floats, taken out.
    pub fn weights(&mut self, at: usize, what: &str) -> Result<Tensor, Refusal> {
        check_floats(self.inputs.need(at, what)?, what)?;
        Ok(self.inputs.take(at, what)?.into_f32())
    }

    pub fn activation(&mut self, name: &str, function: ActivationFn, x: usize) -> Result<usize, Refusal> {
        self.drafts.push(name, Activation { function }, &[x])
    }

    /// `x op c`, or `c op x` if swapped, for a number `c`.
    pub fn with_number(
        &mut self,
        name: &str,
        operator: ArithmeticOperator,
        number: f32,
        swapped: bool,
        x: usize,
    ) -> Result<usize, Refusal> {
        let constant = tensor(&[], vec![number])?;
        self.drafts.push(name, ArithmeticConstant::new(operator, constant, swapped)?, &[x])
    }

    /// Axes in another order; nothing is added if it is the same.
    pub fn transpose(&mut self, name: &str, x: usize, order: &[usize]) -> Result<usize, Refusal> {
        if order.iter().copied().eq(0..order.len()) {
            return Ok(x);
        }
        if order.first() != Some(&0) {
            return Err(Refusal::unsupported("a transposition that moves the batch"));
        }
        self.drafts.push(name, Transpose::new(order.to_vec())?, &[x])
    }

    /// Positions of one axis copied or set to zero; nothing is added if all stay. The budget of the file pays for the list,
    /// before it is made: a few bytes ask for a long one.
    pub fn map_axis(
        &mut self,
        name: &str,
        x: usize,
        axis: usize,
        map: impl ExactSizeIterator<Item = Option<usize>>,
    ) -> Result<usize, Refusal> {
        self.budget.claim(&[map.len()])?;
        let map: Vec<Option<usize>> = map.collect();
        let size = self.drafts.shape(x)[axis];
        if map.len() == size && map.iter().enumerate().all(|(i, m)| *m == Some(i)) {
            return Ok(x);
        }
        match axis {
            0 => Err(Refusal::unsupported("a choice of images of the batch")),
            1 => self.drafts.push(name, ChannelMap::new(size, map)?, &[x]),
            _ => self.drafts.push(name, AxisMap::new(axis, size, map)?, &[x]),
        }
    }

    /// Axes of size 1 repeated to a shape with the same number of axes.
    pub fn expand(&mut self, name: &str, mut x: usize, shape: &[usize]) -> Result<usize, Refusal> {
        let from = self.drafts.shape(x).to_vec();
        for (axis, (&have, &want)) in from.iter().zip(shape).enumerate() {
            if have != want {
                if have != 1 || want > LONGEST {
                    return Err(Refusal::invalid(format!("{from:?} does not expand to {shape:?}")));
                }
                x = self.map_axis(
                    &format!("{name}.expand{axis}"),
                    x,
                    axis,
                    std::iter::repeat_n(Some(0), want),
                )?;
            }
        }
        Ok(x)
    }

    pub fn one(at: usize) -> Vec<Slot> {
        vec![Slot::Dynamic(at)]
    }
}

/// A constant as 32-bit floats.
pub(super) fn floats(value: &Value, what: &str) -> Result<Tensor, Refusal> {
    check_floats(value, what)?;
    Ok(value.to_f32())
}

fn check_floats(value: &Value, what: &str) -> Result<(), Refusal> {
    match value.kind.is_float() && !value.is_symbolic() {
        true => Ok(()),
        false => Err(Refusal::invalid(format!("{what} of type {}", value.kind))),
    }
}
