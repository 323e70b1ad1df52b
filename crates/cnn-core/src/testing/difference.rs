//! How far two ways to compute the same sums may be apart.

use crate::tensor::Tensor;

/// The largest difference between two outputs of layers whose weights and inputs are of size about 1, relative to the largest value or
/// to 1, which is the size of a term: a sum of which nothing is left has the rounding of its terms. Infinite where shapes differ or a
/// value is not finite.
pub fn difference(a: &Tensor, b: &Tensor) -> f32 {
    if a.shape() != b.shape() || a.iter().chain(b).any(|v| !v.is_finite()) {
        return f32::INFINITY;
    }
    let largest = b.iter().fold(1f32, |most, v| most.max(v.abs()));
    a.iter().zip(b).fold(0f32, |most, (a, b)| most.max((a - b).abs())) / largest
}
