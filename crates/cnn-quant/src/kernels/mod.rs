//! Integer products, with 32-bit sums.

mod depthwise;
mod dot;
pub mod int8;
pub mod lowered;
mod pairs;
mod quads;
mod quantize;
