//! Packed layers that store and multiply only the weights that are not zero.

mod blocks;
mod choice;
mod conv2d;
mod kernels;
mod linear;
mod matrix;
mod outlook;
mod storage;

pub use conv2d::SparseConv2d;
pub use linear::SparseLinear;
pub use matrix::SparseMatrix;
pub use outlook::{Outlook, outlook};

use cnn_core::express::{Numbers, Value};
use cnn_core::{Error, Express, Result};

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

/// Input, weights and bias of a layer as its dense form takes them; the matrix has the elements of `shape`, and a file only
/// those that are not zero, where that is smaller.
fn dense(
    at: &mut Express<'_>,
    shape: &[usize],
    weight: &SparseMatrix,
    bias: Option<&[f32]>,
) -> Result<Vec<Value>> {
    let weight = at.sparse("weight", shape, weight.positions(), &Numbers::F32(weight.values().to_vec()))?;
    let mut inputs = vec![at.input(0)?, weight];
    if let Some(bias) = bias {
        inputs.push(at.constant("bias", &[bias.len()], Numbers::F32(bias.to_vec()))?);
    }
    Ok(inputs)
}
