//! Mean over axes.

use super::one;
use crate::express::{Attribute, Express};
use crate::layer::{ChannelRule, Keep, Layer};
use crate::model_file::{Decoder, Encoder};
use crate::tensor::{Tensor, elements};
use crate::train::{Backward, Input, Needs, Step, Trainable};
use crate::{Error, Result};
use ndarray::{Axis, IxDyn};

/// The mean over some axes other than the batch, which stay with size 1 or go.
///
/// The usual mean over height and width is [`GlobalAvgPool`](super::GlobalAvgPool).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mean {
    /// Sorted, without repetition.
    axes: Vec<usize>,
    keep: bool,
}

impl Mean {
    /// A mean over `axes`, each at least 1; `keep` leaves them with size 1.
    ///
    /// # Errors
    /// If there are none, one is the batch, or one comes twice.
    pub fn new(mut axes: Vec<usize>, keep: bool) -> Result<Mean> {
        axes.sort_unstable();
        let valid = axes.first().is_some_and(|&first| first > 0) && axes.windows(2).all(|w| w[0] < w[1]);
        match valid {
            true => Ok(Mean { axes, keep }),
            false => Err(Error::Shape(format!("a mean over the axes {axes:?}"))),
        }
    }

    pub(super) fn decode(from: &mut Decoder<'_>) -> Result<Box<dyn Layer>> {
        let keep = from.byte()? != 0;
        Ok(Box::new(Mean::new(from.shape()?, keep)?))
    }

    /// The input's shape with the axes set to 1.
    fn kept(&self, shape: &[usize]) -> Result<Vec<usize>> {
        if self.axes.last().is_none_or(|&last| last >= shape.len()) || elements(&shape[1..]) == 0 {
            return Err(Error::Shape(format!("a mean over the axes {:?} of {shape:?}", self.axes)));
        }
        Ok(shape.iter().enumerate().map(|(i, &d)| if self.axes.contains(&i) { 1 } else { d }).collect())
    }
}

impl Layer for Mean {
    fn kind(&self) -> &'static str {
        "mean"
    }

    fn output_shape(&self, inputs: &[&[usize]]) -> Result<Vec<usize>> {
        let kept = self.kept(one(inputs)?)?;
        if self.keep {
            return Ok(kept);
        }
        Ok(kept.into_iter().enumerate().filter(|(i, _)| !self.axes.contains(i)).map(|(_, d)| d).collect())
    }

    fn infer(&self, inputs: &[&Tensor]) -> Result<Tensor> {
        let x = one(inputs)?;
        let shape = self.output_shape(&[x.shape()])?;
        let mut y = x.clone();
        for &axis in &self.axes {
            let count = y.len_of(Axis(axis)) as f32;
            y = y.sum_axis(Axis(axis)).insert_axis(Axis(axis)) / count;
        }
        let y = y.as_standard_layout().into_owned();
        y.into_shape_with_order(IxDyn(&shape)).map_err(|e| Error::Shape(e.to_string()))
    }

    fn encode(&self, out: &mut Encoder) -> Result<()> {
        out.byte(u8::from(self.keep));
        out.shape(&self.axes)
    }

    fn express(&self, at: &mut Express<'_>) -> Result<()> {
        let attributes =
            vec![("axes", Attribute::sizes(&self.axes)), ("keepdims", Attribute::Int(i64::from(self.keep)))];
        let y = at.operator("ReduceMean", &[at.input(0)?], attributes);
        at.output(y);
        Ok(())
    }

    fn channels(&self, _inputs: &[&[usize]]) -> ChannelRule {
        match self.axes.contains(&1) {
            true => ChannelRule::Opaque,
            false => ChannelRule::Same,
        }
    }

    fn select(&mut self, _keep: Keep<'_>) -> Result<()> {
        Ok(())
    }

    without_parameters!();
}

impl Trainable for Mean {
    fn needs(&self) -> Needs {
        Needs::default()
    }

    fn forward(&mut self, inputs: &mut [Input<'_>], _step: &mut Step<'_>) -> Result<Tensor> {
        self.infer(&[inputs[0].get()])
    }

    fn backward(&mut self, at: Backward<'_>, _step: &mut Step<'_>) -> Result<Vec<Option<Tensor>>> {
        let shape = at.shapes[0];
        let kept = self.kept(shape)?;
        let count = (elements(shape) / elements(&kept)) as f32;
        let grad = at.grad.into_shape_with_order(IxDyn(&kept)).map_err(|e| Error::Shape(e.to_string()))?;
        let spread = grad.broadcast(IxDyn(shape)).map(|g| g.mapv(|g| g / count));
        Ok(vec![spread])
    }
}
