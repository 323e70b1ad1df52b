//! The tensor type and the few helpers around it.

use crate::{Error, Result};
use ndarray::{ArrayD, IxDyn};

/// Values in row-major order, images as `[n, c, h, w]` (NCHW). Every tensor that enters or leaves a layer is
/// in standard layout, so that [`slice()`] and [`slice_mut`] succeed.
pub type Tensor = ArrayD<f32>;

/// The values as one contiguous slice.
///
/// # Errors
/// If the tensor is a transposed or sliced view; make it standard with `as_standard_layout` first.
pub fn slice(t: &Tensor) -> Result<&[f32]> {
    let shape = t.shape();
    t.as_slice().ok_or_else(|| Error::Shape(format!("a tensor of shape {shape:?} is not in standard layout")))
}

/// The values as one contiguous mutable slice.
///
/// # Errors
/// As [`slice()`].
pub fn slice_mut(t: &mut Tensor) -> Result<&mut [f32]> {
    let shape = t.shape().to_vec();
    t.as_slice_mut()
        .ok_or_else(|| Error::Shape(format!("a tensor of shape {shape:?} is not in standard layout")))
}

/// A tensor from its shape and values.
///
/// # Errors
/// If the number of values is not the product of the shape.
pub fn tensor(shape: &[usize], values: Vec<f32>) -> Result<Tensor> {
    let len = values.len();
    Tensor::from_shape_vec(IxDyn(shape), values)
        .map_err(|_| Error::Shape(format!("{len} values cannot have the shape {shape:?}")))
}

/// A tensor of zeros.
pub fn zeros(shape: &[usize]) -> Tensor {
    Tensor::zeros(IxDyn(shape))
}

/// Number of elements of a shape.
pub fn elements(shape: &[usize]) -> usize {
    shape.iter().product()
}

/// Relative error `max|a - b| / max|b|` over two tensors, the measure used for logits in this project.
/// Infinite when the shapes differ or a value is not finite.
pub fn relative_error(a: &Tensor, b: &Tensor) -> f32 {
    if a.shape() != b.shape() {
        return f32::INFINITY;
    }
    let mut difference = 0f32;
    let mut scale = 0f32;
    for (&x, &y) in a.iter().zip(b) {
        if !x.is_finite() || !y.is_finite() {
            return f32::INFINITY;
        }
        difference = difference.max((x - y).abs());
        scale = scale.max(y.abs());
    }
    if difference == 0.0 { 0.0 } else { difference / scale }
}

/// The four sizes of an image batch `[n, c, h, w]`.
///
/// # Errors
/// If the shape does not have four axes.
pub fn nchw(shape: &[usize]) -> Result<[usize; 4]> {
    shape.try_into().map_err(|_| Error::Shape(format!("expected an image batch [n, c, h, w], got {shape:?}")))
}
