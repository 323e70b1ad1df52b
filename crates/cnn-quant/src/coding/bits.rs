//! Single bits in bytes, the most significant first.

use cnn_core::{Error, Result};

/// Collects bits.
#[derive(Debug, Default)]
pub struct BitWriter {
    bytes: Vec<u8>,
    /// Bits used in the last byte, 0 when it is full.
    used: u32,
}

impl BitWriter {
    /// Writes the lowest `count` bits of `value`, at most 16.
    pub fn write(&mut self, value: u16, count: u32) {
        for at in (0..count).rev() {
            if self.used == 0 {
                self.bytes.push(0);
            }
            let bit = (value >> at & 1) as u8;
            if let Some(last) = self.bytes.last_mut() {
                *last |= bit << (7 - self.used);
            }
            self.used = (self.used + 1) % 8;
        }
    }

    /// The bytes, the last one filled with zeros.
    pub fn finish(self) -> Vec<u8> {
        self.bytes
    }
}

/// Reads what a [`BitWriter`] wrote.
#[derive(Debug)]
pub struct BitReader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> BitReader<'a> {
    /// A reader at the first bit.
    pub fn new(bytes: &'a [u8]) -> BitReader<'a> {
        BitReader { bytes, at: 0 }
    }

    /// The next bit.
    ///
    /// # Errors
    /// At the end.
    pub fn bit(&mut self) -> Result<u16> {
        let byte =
            self.bytes.get(self.at / 8).ok_or_else(|| Error::malformed("a bit stream ends too early"))?;
        let bit = byte >> (7 - self.at % 8) & 1;
        self.at += 1;
        Ok(u16::from(bit))
    }

    /// The next `count` bits, at most 16.
    ///
    /// # Errors
    /// At the end.
    pub fn read(&mut self, count: u32) -> Result<u16> {
        (0..count).try_fold(0, |value, _| Ok(value << 1 | self.bit()?))
    }

    /// Checks that nothing but the filling of the last byte is left.
    ///
    /// # Errors
    /// If there is.
    pub fn finish(self) -> Result<()> {
        match self.at.div_ceil(8) == self.bytes.len() {
            true => Ok(()),
            false => Err(Error::malformed("a bit stream is longer than it should be")),
        }
    }
}
