//! Integer products: portable code that compilers vectorize well.

pub mod int8;
