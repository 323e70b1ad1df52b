//! Integer products, with 32-bit sums.

pub mod int8;
mod pairs;
