//! Elementwise operations with numpy's broadcasting, between tensors of the same number of axes.

use crate::tensor::{Tensor, zeros};
use crate::{Error, Result};
use ndarray::{Axis, IxDyn, Zip};

/// The common shape: an axis of size 1 is repeated.
///
/// # Errors
/// If the shapes differ elsewhere.
pub fn broadcast_shape(a: &[usize], b: &[usize]) -> Result<Vec<usize>> {
    let fits = a.len() == b.len() && a.iter().zip(b).all(|(x, y)| x == y || *x == 1 || *y == 1);
    match fits {
        true => Ok(a.iter().zip(b).map(|(&x, &y)| if x == 1 { y } else { x }).collect()),
        false => Err(Error::Shape(format!("{a:?} and {b:?} cannot be combined element by element"))),
    }
}

/// `y = f(a, b)` of the common shape.
///
/// # Errors
/// As [`broadcast_shape`].
pub fn zip_broadcast(a: &Tensor, b: &Tensor, f: impl Fn(f32, f32) -> f32) -> Result<Tensor> {
    let shape = broadcast_shape(a.shape(), b.shape())?;
    let mut y = zeros(&shape);
    let (Some(a), Some(b)) = (a.broadcast(IxDyn(&shape)), b.broadcast(IxDyn(&shape))) else {
        return Err(Error::Shape(format!("{:?} and {:?} to {shape:?}", a.shape(), b.shape())));
    };
    Zip::from(&mut y).and(a).and(b).for_each(|y, &a, &b| *y = f(a, b));
    Ok(y)
}

/// The gradient's way back through a repetition: sums over the axes that have size 1 in `shape`.
pub fn sum_to(mut grad: Tensor, shape: &[usize]) -> Tensor {
    for (axis, &size) in shape.iter().enumerate() {
        if size == 1 && grad.len_of(Axis(axis)) != 1 {
            grad = grad.sum_axis(Axis(axis)).insert_axis(Axis(axis));
        }
    }
    grad.as_standard_layout().into_owned()
}
