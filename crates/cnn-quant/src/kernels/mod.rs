//! Products of integers, with 32-bit sums, and of signs.

mod depthwise;
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))] // no other processor has the kernel
mod depthwise_quads;
mod dot;
pub mod int8;
pub mod lookup;
pub mod lowered;
mod pairs;
mod popcount;
mod quads;
mod quantize;
#[cfg(target_arch = "x86_64")]
mod winograd;
pub mod xnor;
