//! Proptest strategies for tensors.

use crate::tensor::{Tensor, elements};
use ndarray::IxDyn;
use proptest::prelude::*;

/// A tensor of the given shape with values in `-1 .. 1`.
pub fn tensor(shape: &[usize]) -> BoxedStrategy<Tensor> {
    let shape = shape.to_vec();
    proptest::collection::vec(-1.0f32..1.0, elements(&shape))
        .prop_map(move |values| {
            Tensor::from_shape_vec(IxDyn(&shape), values)
                .unwrap_or_else(|_| unreachable!("as many as the shape says"))
        })
        .boxed()
}

/// A tensor with values that are pairwise at least 0.01 apart and at least 0.005 from zero, in random order, so that
/// finite differences do not step over the kink of a maximum or a ReLU.
pub fn distinct(shape: &[usize]) -> BoxedStrategy<Tensor> {
    let shape = shape.to_vec();
    let count = elements(&shape);
    Just((0..count).map(|i| 0.01 * (i as f32 - (count / 2) as f32) + 0.0057).collect::<Vec<f32>>())
        .prop_shuffle()
        .prop_map(move |values| {
            Tensor::from_shape_vec(IxDyn(&shape), values)
                .unwrap_or_else(|_| unreachable!("as many as the shape says"))
        })
        .boxed()
}
