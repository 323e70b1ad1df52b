//! Buffers that are used again: fresh memory for every activation would cost a page fault each 4 KiB.

use crate::tensor::{Tensor, elements};
use ndarray::IxDyn;

/// Buffers by length.
#[derive(Debug, Default)]
pub struct Pool {
    free: Vec<Vec<f32>>,
}

impl Pool {
    /// A tensor of the given shape with **arbitrary values**; the caller overwrites all of them.
    pub fn take(&mut self, shape: &[usize]) -> Tensor {
        let len = elements(shape);
        // the smallest buffer that holds it, unless it would waste more than half
        let best = (0..self.free.len())
            .filter(|&i| (len..=2 * len).contains(&self.free[i].capacity()))
            .min_by_key(|&i| self.free[i].capacity());
        let mut values = best.map(|i| self.free.swap_remove(i)).unwrap_or_default();
        values.resize(len, 0.0);
        Tensor::from_shape_vec(IxDyn(shape), values)
            .unwrap_or_else(|_| unreachable!("the length is the shape's"))
    }

    /// A tensor of zeros.
    pub fn zeros(&mut self, shape: &[usize]) -> Tensor {
        let mut tensor = self.take(shape);
        tensor.fill(0.0);
        tensor
    }

    /// Takes a tensor's memory back.
    pub fn give(&mut self, tensor: Tensor) {
        self.free.push(tensor.into_raw_vec_and_offset().0);
    }
}
