//! Packed layers that store and multiply only the weights that are not zero.

mod conv2d;
mod kernels;
mod linear;
mod matrix;
mod storage;

pub use conv2d::SparseConv2d;
pub use linear::SparseLinear;
pub use matrix::SparseMatrix;

use cnn_core::{Error, Result};

/// The only input of a layer.
fn one<T: Copy>(inputs: &[T]) -> Result<T> {
    match inputs {
        [input] => Ok(*input),
        _ => Err(Error::Shape(format!("the layer takes one input, got {}", inputs.len()))),
    }
}

/// Number of values that are not zero.
fn nonzeros(values: Option<&[f32]>) -> u64 {
    values.unwrap_or_default().iter().filter(|&&v| v != 0.0).count() as u64
}
