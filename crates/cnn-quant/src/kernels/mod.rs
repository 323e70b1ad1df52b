//! Integer products, with 32-bit sums.

mod depthwise;
pub mod int8;
pub mod lowered;
mod pairs;
mod quantize;
