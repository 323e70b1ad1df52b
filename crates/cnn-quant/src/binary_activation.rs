//! Activations of one bit: the layer that `quant.binary` puts before the layers it trains.

use crate::express;
use cnn_core::model_file::{Decoder, Encoder};
use cnn_core::tensor::{elements, slice, slice_mut, tensor, zeros};
use cnn_core::train::{Backward, Input, Needs, Step, Trainable};
use cnn_core::{ChannelRule, Cost, Error, Express, Keep, Layer, Param, Result, Role, Tensor};

/// `y = sign(x - t_c)`, -1 or 1, with a threshold `t_c` learned for each channel (Liu et al. 2020, "ReActNet", eq. 3): inputs behind a
/// ReLU would all be 1 at a threshold of zero. The sign at the threshold is 1, that of NaN is -1.
///
/// Gradients pass where `|x - t_c| <= 1` (Hubara et al. 2016, "Binarized Neural Networks", eq. 4), to the threshold with the other sign.
#[derive(Debug, Clone)]
pub struct BinaryActivation {
    thresholds: Param,
}

impl BinaryActivation {
    /// Kind of the layer.
    pub const KIND: &'static str = "quant.binary_activation";

    /// The layer for as many channels as thresholds.
    ///
    /// # Errors
    /// None in practice.
    pub fn new(thresholds: Vec<f32>) -> Result<BinaryActivation> {
        let thresholds = tensor(&[thresholds.len()], thresholds)?;
        Ok(BinaryActivation { thresholds: Param::new(Role::Constraint, thresholds) })
    }

    /// `t`.
    pub fn thresholds(&self) -> Vec<f32> {
        self.thresholds.value().iter().copied().collect()
    }

    pub(crate) fn decode(from: &mut Decoder<'_>) -> Result<Box<dyn Layer>> {
        let count = from.uint()?;
        Ok(Box::new(BinaryActivation { thresholds: from.param(Role::Constraint, &[count])? }))
    }

    /// Values of a channel of an image.
    fn plane(&self, shape: &[usize]) -> Result<usize> {
        match shape.get(1) {
            Some(&c) if c == self.thresholds.len() => Ok(elements(&shape[2..])),
            _ => Err(Error::Shape(format!("{} thresholds for channels of {shape:?}", self.thresholds.len()))),
        }
    }

    fn signs(&self, x: &Tensor, y: &mut Tensor) -> Result<()> {
        let plane = self.plane(x.shape())?.max(1);
        let planes = slice(x)?.chunks(plane).zip(slice_mut(y)?.chunks_mut(plane));
        for ((x, y), t) in planes.zip(self.thresholds.value().iter().cycle()) {
            y.iter_mut().zip(x).for_each(|(y, x)| *y = if x >= t { 1.0 } else { -1.0 });
        }
        Ok(())
    }
}

impl Layer for BinaryActivation {
    fn kind(&self) -> &'static str {
        BinaryActivation::KIND
    }

    fn output_shape(&self, inputs: &[&[usize]]) -> Result<Vec<usize>> {
        match inputs {
            [one] => self.plane(one).map(|_| one.to_vec()),
            _ => Err(Error::Shape(format!("signs are taken of one input, got {}", inputs.len()))),
        }
    }

    fn infer(&self, inputs: &[&Tensor]) -> Result<Tensor> {
        let shapes: Vec<&[usize]> = inputs.iter().map(|t| t.shape()).collect();
        let mut y = zeros(&self.output_shape(&shapes)?);
        self.signs(inputs[0], &mut y)?;
        Ok(y)
    }

    fn cost(&self, _inputs: &[&[usize]]) -> Result<Cost> {
        Ok(Cost {
            params: self.thresholds.len() as u64,
            nonzeros: self.thresholds.nonzeros(),
            ..Cost::default()
        })
    }

    fn encode(&self, out: &mut Encoder) -> Result<()> {
        out.uint(self.thresholds.len())?;
        out.param(&self.thresholds)
    }

    fn clone_box(&self) -> Box<dyn Layer> {
        Box::new(self.clone())
    }

    fn express(&self, at: &mut Express<'_>) -> Result<()> {
        let rank = at.shape(0)?.len();
        let y = express::signs(at, &self.thresholds(), rank)?;
        at.output(y);
        Ok(())
    }

    fn params(&self) -> Vec<&Param> {
        vec![&self.thresholds]
    }

    fn trainable(&mut self) -> Option<&mut dyn Trainable> {
        Some(self)
    }

    fn channels(&self, _inputs: &[&[usize]]) -> ChannelRule {
        ChannelRule::Same
    }

    fn select(&mut self, keep: Keep<'_>) -> Result<()> {
        keep.output.map_or(Ok(()), |kept| self.thresholds.select(0, kept))
    }
}

impl Trainable for BinaryActivation {
    fn needs(&self) -> Needs {
        Needs { inputs: true, output: false }
    }

    fn forward(&mut self, inputs: &mut [Input<'_>], step: &mut Step<'_>) -> Result<Tensor> {
        let x = inputs[0].get();
        let mut y = step.pool.take(x.shape());
        self.signs(x, &mut y)?;
        Ok(y)
    }

    fn backward(&mut self, at: Backward<'_>, _step: &mut Step<'_>) -> Result<Vec<Option<Tensor>>> {
        let x = at.input(0)?;
        let plane = self.plane(x.shape())?.max(1);
        let thresholds = self.thresholds();
        let mut of_thresholds = vec![0f64; thresholds.len()];
        let mut grad = at.grad;
        let planes = slice_mut(&mut grad)?.chunks_mut(plane).zip(slice(x)?.chunks(plane));
        for (at, (grad, x)) in planes.enumerate() {
            let channel = at % thresholds.len();
            let mut sum = 0f64;
            for (g, &x) in grad.iter_mut().zip(x) {
                if (x - thresholds[channel]).abs() > 1.0 {
                    *g = 0.0;
                }
                sum += f64::from(*g);
            }
            of_thresholds[channel] -= sum;
        }
        self.thresholds.write_grad(|g| g.iter_mut().zip(&of_thresholds).for_each(|(g, &t)| *g = t as f32));
        Ok(vec![Some(grad)])
    }

    fn params_mut(&mut self) -> Vec<&mut Param> {
        vec![&mut self.thresholds]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cnn_core::Registry;
    use cnn_core::testing::check_layer;
    use cnn_core::train::{Pool, Saved};

    #[test]
    fn it_keeps_the_contract() {
        let mut registry = Registry::core();
        crate::register(&mut registry);
        let layer = BinaryActivation::new(vec![0.0, 0.3, -0.5]).unwrap();
        let x = tensor(&[2, 3, 2, 2], (0..24).map(|i| 0.1 * i as f32 - 0.7).collect()).unwrap();
        check_layer(&layer, &x, &registry).unwrap();
        let flat = tensor(&[2, 3], vec![0.0, 0.3, -0.5, f32::INFINITY, 1.0, -1.0]).unwrap();
        check_layer(&layer, &flat, &registry).unwrap();
        assert!(layer.infer(&[&zeros(&[1, 2, 2, 2])]).is_err());
    }

    #[test]
    fn gradients_by_hand() {
        let mut layer = BinaryActivation::new(vec![0.0, 0.5]).unwrap();
        let x = tensor(&[1, 2, 3], vec![-2.0, 0.5, 1.0, -0.4, 1.6, f32::NAN]).unwrap();
        let y = layer.infer(&[&x]).unwrap();
        assert_eq!(slice(&y).unwrap(), [-1.0, 1.0, 1.0, -1.0, 1.0, -1.0]);
        let (mut pool, mut saved) = (Pool::default(), Saved::default());
        let mut step = Step { pool: &mut pool, saved: &mut saved, seed: 0 };
        let x = tensor(&[1, 2, 3], vec![-2.0, 0.5, 1.0, -0.4, 1.6, 0.5]).unwrap();
        let grad = tensor(&[1, 2, 3], vec![1.0, 2.0, 4.0, 8.0, 16.0, 32.0]).unwrap();
        let at = Backward { inputs: &[Some(&x)], output: None, shapes: &[x.shape()], grad, wanted: &[true] };
        let grads = layer.backward(at, &mut step).unwrap();
        assert_eq!(slice(grads[0].as_ref().unwrap()).unwrap(), [0.0, 2.0, 4.0, 8.0, 0.0, 32.0]);
        assert_eq!(slice(layer.thresholds.grad().unwrap()).unwrap(), [-6.0, -40.0]);
    }
}
