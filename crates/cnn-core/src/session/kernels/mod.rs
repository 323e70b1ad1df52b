//! The kernels of the core's layers.

pub(crate) mod conv;
mod direct;
mod ending;
pub(crate) mod linear;
mod panels;
mod winograd;
