//! The kernels of the core's layers. Channels are the lanes.

pub(crate) mod conv;
mod depthwise;
mod direct;
mod ending;
mod lanes;
pub(crate) mod linear;
mod linear_rows;
pub(crate) mod pad;
mod panels;
pub(crate) mod pool;
mod pool_codes;
pub(crate) mod softmax;
#[cfg(test)]
mod tests;
mod winograd;

pub(super) use ending::Ending;
pub(super) use lanes::{load, store};
