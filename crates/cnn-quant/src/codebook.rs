//! Tied weights: the constraint under which the centroids of `quant.kmeans` are fine-tuned.

use cnn_core::model_file::{Decoder, Encoder};
use cnn_core::{Constraint, Error, Param, Result, Role, Tensor};
use ndarray::{ArrayD, Axis, IxDyn};
use serde::{Deserialize, Serialize};

/// Kind of the constraint.
pub const CODEBOOK: &str = "quant.codebook";

/// `W_ij = c_k` for `k = I_ij`: every weight has the value of its centroid (Han, Mao, Dally 2016, section 3).
///
/// The gradient of a centroid is that of all its members (eq. 1): `dL/dc_k = sum_{i,j} dL/dW_ij * 1(I_ij = k)`, or its mean. The base
/// values no longer matter, and get no gradient.
#[derive(Debug, Clone)]
pub struct Codebook {
    /// `I`, of the weight's shape.
    indices: ArrayD<u8>,
    /// The codebook of each row, which is an index of the first axis.
    books: Vec<usize>,
    /// Index 0 stands for weights that were pruned: exactly zero, for ever. Index `k + 1` is then centroid `k`.
    zero: bool,
    /// The centroids are rounded to 16-bit floats wherever they are used; their gradient passes straight through.
    half: bool,
    /// What a centroid gets of its members' gradients.
    pub gradient: CentroidGradient,
    /// Number of codebooks.
    count: usize,
    /// Centroids of each.
    length: usize,
    /// One codebook after the other.
    centroids: Param,
}

/// Where runs of rows with the same codebook end.
pub fn ends(books: &[usize]) -> Vec<usize> {
    let breaks = (1..books.len()).filter(|&row| books[row] != books[row - 1]);
    breaks.chain((!books.is_empty()).then_some(books.len())).collect()
}

/// What a centroid gets of the gradients of its members.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CentroidGradient {
    /// Their sum: the derivative (eq. 1).
    #[default]
    Sum,
    /// Their mean: steps that do not grow with the number of members, as plain SGD needs them.
    Mean,
}

impl Codebook {
    /// Ties the weights with these indices to one codebook. With `zero`, index 0 is an exact zero and centroid `k` has index `k + 1`;
    /// else centroid `k` has index `k`. With `half`, centroids are rounded to 16-bit floats.
    ///
    /// # Errors
    /// If an index has no centroid.
    pub fn new(indices: ArrayD<u8>, centroids: &[f32], zero: bool, half: bool) -> Result<Codebook> {
        let rows = indices.shape().first().copied().unwrap_or(0);
        Codebook::with_books(indices, vec![0; rows], &[centroids.to_vec()], zero, half)
    }

    /// As [`Codebook::new`], with several codebooks of one length: row `r` of the weight, the weights of output channel `r`, has the
    /// codebook `books[r]`.
    ///
    /// # Errors
    /// As [`Codebook::new`], and if a row has no codebook or lengths differ.
    pub fn with_books(
        indices: ArrayD<u8>,
        books: Vec<usize>,
        centroids: &[Vec<f32>],
        zero: bool,
        half: bool,
    ) -> Result<Codebook> {
        let rows = indices.shape().first().copied().unwrap_or(0);
        let length = centroids.first().map_or(0, Vec::len);
        if books.len() != rows
            || books.iter().any(|&b| b >= centroids.len())
            || centroids.iter().any(|c| c.len() != length)
        {
            return Err(Error::malformed(format!("{rows} rows do not share {} codebooks", centroids.len())));
        }
        let values = length + usize::from(zero);
        if let Some(bad) = indices.iter().find(|&&i| usize::from(i) >= values) {
            return Err(Error::malformed(format!("index {bad} into a codebook of {values} values")));
        }
        let count = centroids.len();
        let base = cnn_core::tensor::tensor(&[count * length], centroids.concat())?;
        let centroids = Param::new(Role::Constraint, base);
        Ok(Codebook { indices, books, zero, half, gradient: CentroidGradient::Sum, count, length, centroids })
    }

    /// The index of each weight.
    pub fn indices(&self) -> &ArrayD<u8> {
        &self.indices
    }

    /// The codebook of each row.
    pub fn books(&self) -> &[usize] {
        &self.books
    }

    /// The centroids before rounding, with their gradient; one codebook after the other.
    pub fn centroids(&self) -> &Param {
        &self.centroids
    }

    /// The value of every index of every codebook, in order.
    pub fn values(&self) -> Vec<Vec<f32>> {
        let round = |&c: &f32| if self.half { crate::half16::round(c) } else { c };
        let all: Vec<f32> = self.centroids.value().iter().map(round).collect();
        let zero = self.zero.then_some(0.0);
        let book = |b: usize| all[b * self.length..][..self.length].iter().copied();
        (0..self.count).map(|b| zero.into_iter().chain(book(b)).collect()).collect()
    }

    pub(crate) fn decode(from: &mut Decoder<'_>) -> Result<Box<dyn Constraint>> {
        let flags = from.byte()?;
        let shape = from.shape()?;
        let count = from.claim_shape(&shape)?;
        let indices = from.raw(count)?.to_vec();
        let indices =
            ArrayD::from_shape_vec(IxDyn(&shape), indices).map_err(|e| Error::malformed(e.to_string()))?;
        let rows = shape.first().copied().unwrap_or(0);
        let (count, books) = match flags & BOOKS {
            0 => (1, vec![0; rows]),
            _ => (from.count(rows)?, (0..rows).map(|_| from.uint()).collect::<Result<_>>()?),
        };
        let length = from.count(256)?;
        let param = from.param(Role::Constraint, &[count * length])?;
        let (zero, half) = (flags & ZERO != 0, flags & HALF != 0);
        let checked = Codebook::with_books(indices, books, &vec![vec![0.0; length]; count], zero, half)?;
        let gradient = if flags & MEAN != 0 { CentroidGradient::Mean } else { CentroidGradient::Sum };
        Ok(Box::new(Codebook { centroids: param, gradient, ..checked }))
    }
}

// flags in a checkpoint
const ZERO: u8 = 1;
const HALF: u8 = 2;
const BOOKS: u8 = 4;
const MEAN: u8 = 8;

impl Constraint for Codebook {
    fn kind(&self) -> &'static str {
        CODEBOOK
    }

    fn materialize(&self, w: &mut Tensor) {
        let values = self.values();
        let rows = w.outer_iter_mut().zip(self.indices.outer_iter()).zip(&self.books);
        for ((mut w, indices), &book) in rows {
            let mut table = [0f32; 257];
            values[book].iter().zip(&mut table).for_each(|(&v, slot)| *slot = v);
            w.iter_mut().zip(&indices).for_each(|(w, &i)| *w = table[usize::from(i)]);
        }
    }

    fn pull_back(&mut self, _input: &Tensor, grad: &mut Tensor) {
        let mut sums = vec![([0f64; 257], [0u32; 257]); self.count];
        for ((grad, indices), &book) in grad.outer_iter().zip(self.indices.outer_iter()).zip(&self.books) {
            let (sums, members) = &mut sums[book];
            for (&g, &i) in grad.iter().zip(&indices) {
                sums[usize::from(i)] += f64::from(g);
                members[usize::from(i)] += 1;
            }
        }
        let (length, mean) = (self.length, self.gradient == CentroidGradient::Mean);
        let zero = usize::from(self.zero);
        self.centroids.write_grad(|out| {
            for (out, (sums, members)) in out.chunks_mut(length.max(1)).zip(&sums) {
                for (k, out) in out.iter_mut().enumerate() {
                    let members = if mean { members[k + zero].max(1) } else { 1 };
                    *out = (sums[k + zero] / f64::from(members)) as f32;
                }
            }
        });
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
        if axis == 0 {
            self.books = keep.iter().map(|&row| self.books[row]).collect();
        }
        Ok(())
    }

    fn encode(&self, out: &mut Encoder) -> Result<()> {
        let flag = |set: bool, flag: u8| if set { flag } else { 0 };
        let mean = self.gradient == CentroidGradient::Mean;
        out.byte(
            flag(self.zero, ZERO) | flag(self.half, HALF) | flag(self.count > 1, BOOKS) | flag(mean, MEAN),
        );
        out.shape(self.indices.shape())?;
        out.raw(&self.indices.iter().copied().collect::<Vec<u8>>());
        if self.count > 1 {
            out.uint(self.count)?;
            self.books.iter().try_for_each(|&book| out.uint(book))?;
        }
        out.uint(self.length)?;
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
        assert!(Codebook::new(indices.clone(), &[0.5, 1.0], true, false).is_ok());
        for (books, centroids) in [
            (vec![0], vec![vec![0.5; 3]]),
            (vec![0, 1], vec![vec![0.5; 3]]),
            (vec![0, 1], vec![vec![0.5; 3], vec![0.5]]),
        ] {
            assert!(Codebook::with_books(indices.clone(), books, &centroids, false, false).is_err());
        }
    }

    #[test]
    fn each_row_has_its_codebook() {
        let indices = ArrayD::from_shape_vec(IxDyn(&[3, 2]), vec![0, 1, 1, 1, 2, 0]).unwrap();
        let books = [vec![0.5, 1.0], vec![-0.5, -1.0]];
        let mut codebook = Codebook::with_books(indices, vec![0, 1, 0], &books, true, false).unwrap();
        let mut w = Tensor::zeros(IxDyn(&[3, 2]));
        codebook.materialize(&mut w);
        assert_eq!(slice(&w).unwrap(), [0.0, 0.5, -0.5, -0.5, 1.0, 0.0]);

        let grad = tensor(&[3, 2], vec![1., 2., 4., 8., 16., 32.]).unwrap();
        codebook.pull_back(&w, &mut grad.clone());
        assert_eq!(slice(codebook.centroids().grad().unwrap()).unwrap(), [2.0, 16.0, 12.0, 0.0]);
        codebook.gradient = CentroidGradient::Mean;
        codebook.pull_back(&w, &mut grad.clone());
        // added to what was there
        assert_eq!(slice(codebook.centroids().grad().unwrap()).unwrap(), [4.0, 32.0, 18.0, 0.0]);

        codebook.select(0, &[2, 1]).unwrap();
        let mut w = Tensor::zeros(IxDyn(&[2, 2]));
        codebook.materialize(&mut w);
        assert_eq!(slice(&w).unwrap(), [1.0, 0.0, -0.5, -0.5]);
    }
}
