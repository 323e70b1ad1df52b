//! Arithmetic coding of bits with probabilities that are learned on the way: no table in the file.
//!
//! The range coder is that of the crate `constriction` (Bamler 2022); a bit's probability is the Krichevsky-Trofimov estimate
//! `(n1 + 1/2) / (n0 + n1 + 1)` while few bits were seen, and forgets slowly afterwards. All in integers, so that every
//! machine decodes alike.

use cnn_core::{Error, Result};
use constriction::stream::model::{DecoderModel, EncoderModel, EntropyModel};
use constriction::stream::queue::{RangeDecoder, RangeEncoder};
use constriction::stream::{Decode, Encode};
use std::borrow::Borrow;
use std::num::NonZeroU16;

/// Probabilities are in units of `2^-15`.
const BITS: usize = 15;
/// Bits after which a probability adapts no slower.
const MEMORY: u32 = 1023;

/// The probability that a bit is set, learned from the bits coded with it.
#[derive(Debug, Clone, Copy)]
pub struct Bit {
    /// Of a set bit, in units of `2^-30`.
    p: u32,
    seen: u32,
}

impl Default for Bit {
    fn default() -> Bit {
        Bit { p: 1 << 29, seen: 0 }
    }
}

impl Bit {
    fn learn(&mut self, bit: bool) {
        // p += (bit - p) / (n + 3/2)
        let step = 2 * self.seen + 3;
        match bit {
            true => self.p += 2 * ((1 << 30) - self.p) / step,
            false => self.p -= 2 * self.p / step,
        }
        self.seen = (self.seen + 1).min(MEMORY);
    }

    /// Probability of a set bit for the coder, never 0 or 1.
    fn coded(self) -> u16 {
        (self.p >> 15).clamp(1, (1 << BITS) - 1) as u16
    }
}

/// A bit with a fixed probability, as constriction wants it.
#[derive(Debug, Clone, Copy)]
struct Model {
    set: u16,
}

impl EntropyModel<BITS> for Model {
    type Symbol = bool;
    type Probability = u16;
}

impl Model {
    /// A set bit takes the lower part of the interval. `coded` keeps both parts above zero.
    fn part(self, bit: bool) -> (u16, NonZeroU16) {
        let (left, size) = if bit { (0, self.set) } else { (self.set, (1 << BITS) - self.set) };
        (left, NonZeroU16::new(size).unwrap_or(NonZeroU16::MIN))
    }
}

impl EncoderModel<BITS> for Model {
    fn left_cumulative_and_probability(&self, symbol: impl Borrow<bool>) -> Option<(u16, NonZeroU16)> {
        Some(self.part(*symbol.borrow()))
    }
}

impl DecoderModel<BITS> for Model {
    fn quantile_function(&self, quantile: u16) -> (bool, u16, NonZeroU16) {
        let bit = quantile < self.set;
        let (left, size) = self.part(bit);
        (bit, left, size)
    }
}

/// Writes or reads bits; one walk over the symbols serves both, so that the two cannot disagree.
pub trait BitCoder {
    /// Codes a bit: when writing, `bit` is written and returned; when reading, the bit read is returned.
    ///
    /// # Errors
    /// If the bytes read are damaged.
    fn code(&mut self, model: &mut Bit, bit: bool) -> Result<bool>;
}

/// Writes bits.
#[derive(Debug, Default)]
pub struct Writer {
    coder: RangeEncoder<u16, u64>,
}

impl BitCoder for Writer {
    fn code(&mut self, model: &mut Bit, bit: bool) -> Result<bool> {
        let fixed = Model { set: model.coded() };
        self.coder
            .encode_symbol(bit, fixed)
            .map_err(|e| Error::malformed(format!("cannot be coded: {e:?}")))?;
        model.learn(bit);
        Ok(bit)
    }
}

impl Writer {
    /// The bytes; zeros at the end are left out, the reader supplies them.
    ///
    /// # Errors
    /// None in practice: writing goes to memory.
    pub fn finish(self) -> Result<Vec<u8>> {
        let words =
            self.coder.into_compressed().map_err(|e| Error::malformed(format!("cannot be coded: {e:?}")))?;
        let mut bytes: Vec<u8> = words.iter().flat_map(|w| w.to_be_bytes()).collect();
        while bytes.last() == Some(&0) {
            bytes.pop();
        }
        Ok(bytes)
    }
}

/// Reads what a [`Writer`] wrote.
#[derive(Debug)]
pub struct Reader {
    coder: RangeDecoder<u16, u64, constriction::backends::Cursor<u16, Vec<u16>>>,
}

impl Reader {
    /// A reader at the first bit.
    ///
    /// # Errors
    /// None in practice: reading comes from memory.
    pub fn new(bytes: &[u8]) -> Result<Reader> {
        let words: Vec<u16> =
            bytes.chunks(2).map(|b| u16::from_be_bytes([b[0], b.get(1).copied().unwrap_or(0)])).collect();
        let coder = RangeDecoder::from_compressed(words)
            .map_err(|e| Error::malformed(format!("coded symbols: {e:?}")))?;
        Ok(Reader { coder })
    }
}

impl BitCoder for Reader {
    fn code(&mut self, model: &mut Bit, _bit: bool) -> Result<bool> {
        let fixed = Model { set: model.coded() };
        let bit =
            self.coder.decode_symbol(fixed).map_err(|_| Error::malformed("the coded symbols are damaged"))?;
        model.learn(bit);
        Ok(bit)
    }
}

/// Fewest bytes that `symbols` symbols can take: no bit is more certain than `1 - 2^-15`.
pub fn fewest_bytes(symbols: usize) -> usize {
    // each costs at least log2(1 / (1 - 2^-15)) > 2^-15 bits
    (symbols >> (BITS + 3)).saturating_sub(16)
}
