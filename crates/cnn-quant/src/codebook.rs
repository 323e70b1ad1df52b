//! Tied weights: the constraint under which the centroids of `quant.kmeans` are fine-tuned.

use cnn_core::model_file::{Decoder, Encoder};
use cnn_core::{Constraint, Error, Param, Result, Role, Tensor};
use ndarray::{ArrayD, Axis, IxDyn};

/// Kind of the constraint.
pub const CODEBOOK: &str = "quant.codebook";

/// `W_ij = c_k` for `k = I_ij`: every weight has the value of its centroid (Han, Mao, Dally 2016, section 3).
///
/// The gradient of a centroid is that of all its members (eq. 1): `dL/dc_k = sum_{i,j} dL/dW_ij * 1(I_ij = k)`. The base values
/// no longer matter, and get no gradient.
#[derive(Debug, Clone)]
pub struct Codebook {
    /// `I`, of the weight's shape.
    indices: ArrayD<u8>,
    /// Index 0 stands for weights that were pruned: exactly zero, for ever. Index `k + 1` is then centroid `k`.
    zero: bool,
    /// The centroids are rounded to 16-bit floats wherever they are used; their gradient passes straight through.
    half: bool,
    centroids: Param,
}

impl Codebook {
    /// Ties the weights with these indices. With `zero`, index 0 is an exact zero and centroid `k` has index `k + 1`; else
    /// centroid `k` has index `k`. With `half`, centroids are rounded to 16-bit floats.
    ///
    /// # Errors
    /// If an index has no centroid.
    pub fn new(indices: ArrayD<u8>, centroids: &[f32], zero: bool, half: bool) -> Result<Codebook> {
        let values = centroids.len() + usize::from(zero);
        if let Some(bad) = indices.iter().find(|&&i| usize::from(i) >= values) {
            return Err(Error::malformed(format!("index {bad} into a codebook of {values} values")));
        }
        let base = cnn_core::tensor::tensor(&[centroids.len()], centroids.to_vec())?;
        Ok(Codebook { indices, zero, half, centroids: Param::new(Role::Constraint, base) })
    }

    /// The index of each weight.
    pub fn indices(&self) -> &ArrayD<u8> {
        &self.indices
    }

    /// The centroids before rounding, with their gradient.
    pub fn centroids(&self) -> &Param {
        &self.centroids
    }

    /// The value of every index, in order.
    pub fn values(&self) -> Vec<f32> {
        let zero = self.zero.then_some(0.0);
        let round = |&c: &f32| if self.half { crate::half16::round(c) } else { c };
        zero.into_iter().chain(self.centroids.value().iter().map(round)).collect()
    }

    pub(crate) fn decode(from: &mut Decoder<'_>) -> Result<Box<dyn Constraint>> {
        let flags = from.byte()?;
        let shape = from.shape()?;
        let count = from.claim_shape(&shape)?;
        let indices = from.raw(count)?.to_vec();
        let centroids = from.count(256)?;
        let param = from.param(Role::Constraint, &[centroids])?;
        let indices =
            ArrayD::from_shape_vec(IxDyn(&shape), indices).map_err(|e| Error::malformed(e.to_string()))?;
        let (zero, half) = (flags & 1 != 0, flags & 2 != 0);
        let checked = Codebook::new(indices, &vec![0.0; centroids], zero, half)?;
        Ok(Box::new(Codebook { centroids: param, ..checked }))
    }
}

impl Constraint for Codebook {
    fn kind(&self) -> &'static str {
        CODEBOOK
    }

    fn materialize(&self, w: &mut Tensor) {
        let mut table = [0f32; 257];
        self.values().iter().zip(&mut table).for_each(|(&v, slot)| *slot = v);
        w.iter_mut().zip(&self.indices).for_each(|(w, &i)| *w = table[usize::from(i)]);
    }

    fn pull_back(&mut self, _input: &Tensor, grad: &mut Tensor) {
        let mut sums = [0f64; 257];
        grad.iter().zip(&self.indices).for_each(|(&g, &i)| sums[usize::from(i)] += f64::from(g));
        let first = usize::from(self.zero);
        self.centroids
            .write_grad(|out| out.iter_mut().zip(&sums[first..]).for_each(|(out, &sum)| *out = sum as f32));
        grad.fill(0.0);
    }

    fn params_mut(&mut self) -> Vec<&mut Param> {
        vec![&mut self.centroids]
    }

    fn select(&mut self, axis: usize, keep: &[usize]) -> Result<()> {
        let len = self.indices.shape().get(axis).copied().unwrap_or(0);
        if let Some(bad) = keep.iter().find(|&&i| i >= len) {
            return Err(Error::Edit(format!("index {bad} of axis {axis} is out of range (size {len})")));
        }
        self.indices = self.indices.select(Axis(axis), keep);
        Ok(())
    }

    fn encode(&self, out: &mut Encoder) -> Result<()> {
        out.byte(u8::from(self.zero) | u8::from(self.half) << 1);
        out.shape(self.indices.shape())?;
        out.raw(&self.indices.iter().copied().collect::<Vec<u8>>());
        out.uint(self.centroids.len())?;
        out.param(&self.centroids)
    }

    fn clone_box(&self) -> Box<dyn Constraint> {
        Box::new(self.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cnn_core::Layer;
    use cnn_core::layers::{Conv2d, ConvOptions, Linear};
    use cnn_core::tensor::{slice, tensor};
    use cnn_core::testing::strategies;
    use cnn_core::train::{Backward, Input, Pool, Saved, Step};
    use proptest::prelude::*;

    /// A linear layer 4 -> 3 whose weights are tied: index 0 is an exact zero, centroids 0.5, -1, 0.25.
    fn tied(half: bool, centroids: &[f32]) -> Linear {
        let indices =
            ArrayD::from_shape_vec(IxDyn(&[3, 4]), vec![0, 1, 2, 3, 1, 1, 0, 3, 2, 2, 2, 0]).unwrap();
        let mut linear = Linear::new(Tensor::from_elem(IxDyn(&[3, 4]), 9.0), None).unwrap();
        linear.weight_mut().constrain(Box::new(Codebook::new(indices, centroids, true, half).unwrap()));
        linear
    }

    fn forward(linear: &Linear, x: &Tensor, probe: &Tensor) -> f64 {
        let y = linear.infer(&[x]).unwrap();
        y.iter().zip(probe).map(|(&y, &p)| f64::from(y) * f64::from(p)).sum()
    }

    /// Gradient of `sum(output * probe)` by the layer's backward and the constraint's `pull_back`.
    fn gradients(linear: &mut Linear, x: &Tensor, probe: &Tensor) -> (Vec<f32>, Vec<f32>) {
        let (mut pool, mut saved) = (Pool::default(), Saved::default());
        let mut step = Step { pool: &mut pool, saved: &mut saved, seed: 0 };
        let layer = linear.trainable().unwrap();
        layer.forward(&mut [Input::Shared(x)], &mut step).unwrap();
        let inputs = [Some(x)];
        let shapes = [x.shape()];
        let at = Backward {
            inputs: &inputs,
            output: None,
            shapes: &shapes,
            grad: probe.clone(),
            wanted: &[false],
        };
        layer.backward(at, &mut step).unwrap();
        let weight = linear.weight_mut();
        weight.pull_back();
        let base = weight.grad().unwrap().iter().copied().collect();
        let codebook = weight.constraints()[0].downcast_ref::<Codebook>().unwrap();
        (base, codebook.centroids().grad().unwrap().iter().copied().collect())
    }

    proptest! {
        #[test]
        fn equation_1_against_finite_differences(x in strategies::tensor(&[2, 4]), probe in strategies::tensor(&[2, 3])) {
            let c = [0.5f32, -1.0, 0.25];
            let (base, centroids) = gradients(&mut tied(false, &c), &x, &probe);
            prop_assert!(base.iter().all(|&g| g == 0.0));
            for k in 0..3 {
                let moved = |h: f32| {
                    let mut c = c;
                    c[k] += h;
                    forward(&tied(false, &c), &x, &probe)
                };
                // the output is linear in the centroids: a large step is exact but for rounding
                let numeric = (moved(0.25) - moved(-0.25)) / 0.5;
                prop_assert!((f64::from(centroids[k]) - numeric).abs() < 1e-5, "{} and {}", centroids[k], numeric);
            }
        }

        #[test]
        fn rounding_passes_the_gradient_straight_through(x in strategies::tensor(&[2, 4]), probe in strategies::tensor(&[2, 3])) {
            let c = [0.1f32, -0.7, 0.3];
            let mut rounded = tied(true, &c);
            prop_assert!(crate::half16::all_half(slice(rounded.weight().value()).unwrap()));
            prop_assert_eq!(gradients(&mut rounded, &x, &probe).1, gradients(&mut tied(false, &c), &x, &probe).1);
        }
    }

    #[test]
    fn equation_1_in_a_convolution() {
        let indices = ArrayD::from_shape_vec(IxDyn(&[2, 1, 2, 2]), vec![0, 1, 1, 0, 1, 1, 0, 1]).unwrap();
        let grad = tensor(&[2, 1, 2, 2], vec![1., 2., 4., 8., 16., 32., 64., 128.]).unwrap();
        let mut conv =
            Conv2d::new(Tensor::zeros(IxDyn(&[2, 1, 2, 2])), None, ConvOptions::default()).unwrap();
        conv.weight_mut().constrain(Box::new(Codebook::new(indices, &[0.5, -0.5], false, false).unwrap()));
        conv.weight_mut().write_grad(|out| out.copy_from_slice(grad.as_slice().unwrap()));
        conv.weight_mut().pull_back();
        let codebook = conv.weight().constraints()[0].downcast_ref::<Codebook>().unwrap();
        assert_eq!(slice(codebook.centroids().grad().unwrap()).unwrap(), [73.0, 182.0]);
        // one step of gradient descent moves the centroids, hence all weights, and not the base
        conv.weight_mut().update(&mut |_, w, g, _| w.scaled_add(-0.001, g));
        let w = slice(conv.weight().value()).unwrap();
        assert_eq!(w[0], 0.5 - 0.001 * 73.0);
        assert_eq!(w[7], -0.5 - 0.001 * 182.0);
        assert!(conv.weight().base().iter().all(|&b| b == 0.0));
    }

    #[test]
    fn slicing_goes_along() {
        let mut linear = tied(false, &[0.5, -1.0, 0.25]);
        let before = linear.weight().value().clone();
        linear.weight_mut().select(1, &[1, 3]).unwrap();
        linear.weight_mut().select(0, &[2, 0]).unwrap();
        assert_eq!(linear.weight().value(), &before.select(Axis(1), &[1, 3]).select(Axis(0), &[2, 0]));
        let mut codebook = linear.weight().constraints()[0].downcast_ref::<Codebook>().unwrap().clone();
        assert!(codebook.select(0, &[2]).is_err() && codebook.select(7, &[0]).is_err());
    }

    #[test]
    fn an_index_without_a_centroid_is_refused() {
        let indices = ArrayD::from_elem(IxDyn(&[2]), 2u8);
        assert!(Codebook::new(indices.clone(), &[0.5], true, false).is_err());
        assert!(Codebook::new(indices, &[0.5, 1.0], true, false).is_ok());
    }
}
