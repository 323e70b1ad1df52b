//! Products of integers, with 32-bit sums, and of signs.

mod depthwise;
mod depthwise_quads;
mod dot;
pub mod int8;
pub mod lookup;
pub mod lowered;
mod pairs;
mod popcount;
mod quads;
mod quantize;
pub mod xnor;
