//! Products with sparse matrices: by the reference executor, and (`session_*`) in sessions.
//!
//! The reference's inner loops run over what is dense, pixels of a plane or images of a batch, so that they are vectors
//! in spite of irregular weights; tiles stay in registers over all weights of a row. Every output is the same
//! sum in the same order, whatever the tile, the batch or the number of threads, and no step is fused: all
//! versions give the same bits.

mod conv;
mod ending;
mod linear;
mod session_blocks;
mod session_conv;
mod session_linear;

pub(super) use conv::conv_forward;
pub(super) use linear::linear_forward;
pub(super) use session_blocks::lower_blocks;
pub(super) use session_conv::{conv_cycles, lower_conv};
pub(super) use session_linear::lower_linear;

/// Name of the algorithm in profiles and choices.
pub(super) const SPARSE: &str = "sparse";

/// The same for zeros in blocks of filters.
pub(super) const BLOCKS: &str = "sparse-blocks";

/// True for the kernels that leave zeros out.
pub(super) fn is_sparse(algorithm: &str) -> bool {
    [SPARSE, BLOCKS].contains(&algorithm)
}

/// Multiplications a task should at least do, so that handing it to a thread pays.
const TASK: usize = 1 << 15;
