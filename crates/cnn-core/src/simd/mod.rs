//! One vocabulary of vector operations, chosen at run time.
//!
//! Kernels are written once against [`Simd`] and instantiated per instruction
//! set. A token type (`Scalar`, `Avx2`, `Avx512`, `Neon`) exists only after
//! the CPU was asked, so holding one is the proof that its instructions may run.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod isa;
#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;
#[cfg(test)]
mod tests;
mod vector;

pub use isa::Isa;
pub use vector::{Simd, SimdOp};
