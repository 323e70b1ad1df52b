//! Rearranging positions along a spatial axis: slice with steps, gather, padding by copies.

use super::one;
use crate::express::{Attribute, Express, Numbers, Value};
use crate::layer::Layer;
use crate::model_file::{Decoder, Encoder};
use crate::ops::gather::{gather_channels, gather_channels_backward};
use crate::tensor::{Tensor, elements, slice, slice_mut, zeros};
use crate::train::{Backward, Input, Needs, Step, Trainable};
use crate::{Error, Result};

/// Output position `i` along one axis is input position `map[i]`, or zero: a slice with steps, a gather with constant
/// indices, a reflected or repeated edge. The same for channels is a [`ChannelMap`](super::ChannelMap).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AxisMap {
    axis: usize,
    size: usize,
    map: Vec<Option<usize>>,
}

/// First index and step, when the map goes on by equal steps and leaves nothing open.
pub(super) fn progression(map: &[Option<usize>]) -> Option<(usize, i64)> {
    let first = (*map.first()?)?;
    let step = match map.get(1) {
        Some(second) => (*second)? as i64 - first as i64,
        None => 1,
    };
    let fits =
        |(i, m): (usize, &Option<usize>)| m.is_some_and(|m| m as i64 == first as i64 + i as i64 * step);
    (step != 0 && map.iter().enumerate().all(fits)).then_some((first, step))
}

/// `count` positions along an axis from `first` on by `step`, in standard operators.
pub(super) fn slice_axis(
    at: &mut Express<'_>,
    x: Value,
    axis: usize,
    first: usize,
    step: i64,
    count: usize,
) -> Result<Value> {
    // one behind the last; a negative end would count from the back, so "before 0" is the smallest number
    let end = match first as i64 + step * count as i64 {
        end if end < 0 => i64::MIN,
        end => end,
    };
    let bounds = [("start", first as i64), ("end", end), ("axis", axis as i64), ("step", step)];
    let mut inputs = vec![x];
    for (label, value) in bounds {
        inputs.push(at.integers(label, &[value])?);
    }
    Ok(at.operator("Slice", &inputs, Vec::new()))
}

impl AxisMap {
    /// A map along `axis`, at least 2, of `size` positions.
    ///
    /// # Errors
    /// If it is empty, is along the batch or the channels, or reads a position that does not exist.
    pub fn new(axis: usize, size: usize, map: Vec<Option<usize>>) -> Result<AxisMap> {
        if axis < 2 {
            return Err(Error::Shape(format!("a map along axis {axis}: positions are on axes 2 and later")));
        }
        match map.iter().flatten().find(|&&i| i >= size) {
            Some(bad) => Err(Error::Shape(format!("the map reads position {bad} of {size}"))),
            None if map.is_empty() || size == 0 => Err(Error::Shape("a map of no positions".into())),
            None => Ok(AxisMap { axis, size, map }),
        }
    }

    /// For each output position the input position it copies.
    pub fn map(&self) -> &[Option<usize>] {
        &self.map
    }

    /// The axis along which it maps.
    pub fn axis(&self) -> usize {
        self.axis
    }

    /// Elements behind the axis.
    fn inner(&self, shape: &[usize]) -> Result<usize> {
        match shape.get(self.axis) {
            Some(&size) if size == self.size && elements(shape) > 0 => Ok(elements(&shape[self.axis + 1..])),
            _ => Err(Error::Shape(format!(
                "a map of {} positions along axis {} got {shape:?}",
                self.size, self.axis
            ))),
        }
    }

    pub(super) fn decode(from: &mut Decoder<'_>) -> Result<Box<dyn Layer>> {
        let (axis, size, count) = (from.uint()?, from.uint()?, from.uint()?);
        from.claim(count)?;
        let map = (0..count).map(|_| Ok(from.uint()?.checked_sub(1))).collect::<Result<Vec<_>>>()?;
        Ok(Box::new(AxisMap::new(axis, size, map)?))
    }
}

impl Layer for AxisMap {
    fn kind(&self) -> &'static str {
        "axis_map"
    }

    fn output_shape(&self, inputs: &[&[usize]]) -> Result<Vec<usize>> {
        self.inner(one(inputs)?)?;
        let mut shape = inputs[0].to_vec();
        shape[self.axis] = self.map.len();
        Ok(shape)
    }

    fn infer(&self, inputs: &[&Tensor]) -> Result<Tensor> {
        let x = one(inputs)?;
        let mut y = zeros(&self.output_shape(&[x.shape()])?);
        gather_channels(slice(x)?, self.size, self.inner(x.shape())?, &self.map, slice_mut(&mut y)?);
        Ok(y)
    }

    fn encode(&self, out: &mut Encoder) -> Result<()> {
        [self.axis, self.size, self.map.len()].iter().try_for_each(|&n| out.uint(n))?;
        self.map.iter().try_for_each(|m| out.uint(m.map_or(0, |i| i + 1)))
    }

    fn express(&self, at: &mut Express<'_>) -> Result<()> {
        let mut x = at.input(0)?;
        let y = if let Some((first, step)) = progression(&self.map) {
            slice_axis(at, x, self.axis, first, step, self.map.len())?
        } else {
            // where a zero is read, one is added behind first
            if self.map.contains(&None) {
                let rank = at.shape(0)?.len();
                let mut pads = vec![0; 2 * rank];
                pads[rank + self.axis] = 1;
                let pads = at.integers("pads", &pads)?;
                x = at.operator("Pad", &[x, pads], Vec::new());
            }
            let indices = self.map.iter().map(|m| m.unwrap_or(self.size) as i32).collect();
            let indices = at.constant("indices", &[self.map.len()], Numbers::I32(indices))?;
            at.operator("Gather", &[x, indices], vec![("axis", Attribute::Int(self.axis as i64))])
        };
        at.output(y);
        Ok(())
    }

    without_parameters!();
    same_channels!();
}

impl Trainable for AxisMap {
    fn needs(&self) -> Needs {
        Needs::default()
    }

    fn forward(&mut self, inputs: &mut [Input<'_>], _step: &mut Step<'_>) -> Result<Tensor> {
        self.infer(&[inputs[0].get()])
    }

    fn backward(&mut self, at: Backward<'_>, step: &mut Step<'_>) -> Result<Vec<Option<Tensor>>> {
        let inner = self.inner(at.shapes[0])?;
        let mut dx = step.pool.take(at.shapes[0]);
        gather_channels_backward(slice(&at.grad)?, self.size, inner, &self.map, slice_mut(&mut dx)?);
        step.pool.give(at.grad);
        Ok(vec![Some(dx)])
    }
}
