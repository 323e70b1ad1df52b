//! Light forms of a standard convolution, each nearest to it in least squares over the weights.

mod group_shuffle;
mod inverted_residual;
mod kernel;
mod low_rank;
mod separable;

pub(crate) use group_shuffle::does_not_divide;
pub use group_shuffle::{GroupShuffle, group_shuffle};
pub use inverted_residual::{InvertedResidual, inverted_residual};
pub(crate) use kernel::not_standard;
pub use separable::{Separable, separable};
