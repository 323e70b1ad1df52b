//! Products with sparse matrices.
//!
//! The inner loops run over what is dense, pixels of a plane or images of a batch, so that they are vectors
//! in spite of irregular weights; tiles stay in registers over all weights of a row. Every output is the same
//! sum in the same order, whatever the tile, the batch or the number of threads, and no step is fused: all
//! versions give the same bits.

mod conv;
mod linear;

pub(super) use conv::conv_forward;
pub(super) use linear::linear_forward;

/// Multiplications a task should at least do, so that handing it to a thread pays.
const TASK: usize = 1 << 15;
