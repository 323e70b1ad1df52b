//! Buffers that are used again: fresh memory for every activation would cost a page fault each 4 KiB.

use crate::tensor::{Tensor, elements};
use ndarray::IxDyn;
use std::collections::HashSet;

/// Buffers by length.
#[derive(Debug, Default)]
pub struct Pool {
    free: Vec<Vec<f32>>,
    /// Addresses of the buffers that are lent. What is given back and was not lent came from elsewhere, as a loss's gradients
    /// do in every step, and is dropped: otherwise the pool would grow without end.
    lent: HashSet<usize>,
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
        self.lent.insert(values.as_ptr().addr());
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
        let values = tensor.into_raw_vec_and_offset().0;
        if self.lent.remove(&values.as_ptr().addr()) && values.capacity() > 0 {
            self.free.push(values);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_used_again_and_the_pool_does_not_grow() {
        let mut pool = Pool::default();
        for _ in 0..100 {
            let (a, b) = (pool.take(&[4, 8]), pool.take(&[3]));
            pool.give(a);
            pool.give(Tensor::zeros(IxDyn(&[5, 5]))); // from elsewhere
            pool.give(b);
            pool.give(Tensor::default(IxDyn(&[0])));
        }
        assert!(pool.free.len() <= 2, "{}", pool.free.len());
    }
}
