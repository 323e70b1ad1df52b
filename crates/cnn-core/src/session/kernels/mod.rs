//! Kernels without matrices: depthwise convolution, pooling, padding, softmax. Channels are the lanes.

pub(crate) mod depthwise;
mod ending;
mod lanes;
pub(crate) mod pad;
pub(crate) mod pool;
pub(crate) mod softmax;
#[cfg(test)]
mod tests;

pub(super) use ending::Ending;
pub(super) use lanes::{load, store};
