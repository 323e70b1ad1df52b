//! Entropy coding of symbols: what makes the file of a quantized network small.

mod adaptive;
mod bits;
mod contexts;
mod huffman;
mod sparse;
pub mod symbols;
