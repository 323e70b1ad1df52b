//! Operations on contiguous NCHW `f32` slices, forward and backward.
//!
//! Every function gives the same bits whatever the number of threads: how work is cut depends on sizes only, and
//! partial sums are added in a fixed order. Slice lengths are asserted; the layers validate shapes.

pub mod activation;
pub mod adaptive_pool;
pub mod avg_pool;
pub mod broadcast;
mod columns;
pub mod concat;
pub mod conv;
pub mod cross_entropy;
mod depthwise;
mod depthwise_small;
mod direct;
mod direct_input;
mod direct_weights;
pub mod dropout;
mod elementwise;
mod exp;
mod filters;
pub mod gather;
pub mod gemm;
pub mod linear;
pub mod max_pool;
pub mod merge;
mod multiversion;
pub mod norm;
pub mod pad;
mod parallel;
pub mod pool;
mod reduce;
#[cfg(any(test, feature = "testing"))]
pub mod reference;
pub mod resize;
pub mod softmax;
mod tasks;
mod winograd;

#[cfg(test)]
mod tests;
