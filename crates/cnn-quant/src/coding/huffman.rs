//! Canonical Huffman codes with a code length of at most 15 bits.
//!
//! A code is given by its lengths alone: codes of one length are consecutive numbers, in the order of the symbols, and
//! shorter codes come first. An alphabet with a single used symbol needs no bits at all.

use super::bits::{BitReader, BitWriter};
use cnn_core::{Error, Result};
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Longest code: a length fits four bits.
pub const LONGEST: usize = 15;

/// Length of each symbol's code for the given counts; 0 for a symbol that does not occur. A single symbol gets length 1,
/// which stands for "no bits".
pub fn lengths(counts: &[u64]) -> Vec<u8> {
    let mut counts = counts.to_vec();
    loop {
        let lengths = unlimited(&counts);
        if lengths.iter().all(|&l| usize::from(l) <= LONGEST) {
            return lengths;
        }
        // flatter counts give shorter codes; at the latest when all are equal
        counts.iter_mut().filter(|c| **c > 0).for_each(|c| *c = (*c).div_ceil(2));
    }
}

fn unlimited(counts: &[u64]) -> Vec<u8> {
    let mut lengths = vec![0u8; counts.len()];
    // (count, number of the node), smallest first; nodes below `counts.len()` are symbols
    let mut heap: BinaryHeap<Reverse<(u64, usize)>> =
        counts.iter().enumerate().filter(|(_, c)| **c > 0).map(|(s, &c)| Reverse((c, s))).collect();
    if let (1, Some(Reverse((_, only)))) = (heap.len(), heap.peek()) {
        lengths[*only] = 1;
        return lengths;
    }
    let mut parents = vec![usize::MAX; counts.len()];
    while let (Some(Reverse((a, left))), Some(Reverse((b, right)))) = (heap.pop(), heap.pop()) {
        let node = parents.len();
        parents.push(usize::MAX);
        (parents[left], parents[right]) = (node, node);
        if heap.is_empty() {
            break;
        }
        heap.push(Reverse((a.saturating_add(b), node)));
    }
    for (symbol, length) in lengths.iter_mut().enumerate().filter(|(s, _)| counts[*s] > 0) {
        let mut at = symbol;
        while parents[at] != usize::MAX {
            at = parents[at];
            *length = length.saturating_add(1);
        }
    }
    lengths
}

/// A code, ready to write and read.
#[derive(Debug)]
pub struct Code {
    lengths: Vec<u8>,
    codes: Vec<u16>,
    /// How many codes there are of each length.
    count: [u16; LONGEST + 1],
    /// The symbols by length, then by number.
    order: Vec<usize>,
}

impl Code {
    /// The code with these lengths.
    ///
    /// # Errors
    /// If a length is above 15, or the lengths leave codes unused or use some twice.
    pub fn new(lengths: Vec<u8>) -> Result<Code> {
        let mut count = [0u16; LONGEST + 1];
        for &length in lengths.iter().filter(|l| **l > 0) {
            let slot = count
                .get_mut(usize::from(length))
                .ok_or_else(|| Error::malformed("a Huffman code is too long"))?;
            *slot += 1;
        }
        let mut order: Vec<usize> = (0..lengths.len()).filter(|&s| lengths[s] > 0).collect();
        order.sort_by_key(|&s| lengths[s]);
        let used: u32 = (1..=LONGEST).map(|l| u32::from(count[l]) << (LONGEST - l)).sum();
        let complete = used == 1 << LONGEST || (order.len() == 1 && count[1] == 1) || order.is_empty();
        if !complete {
            return Err(Error::malformed("the lengths of a Huffman code do not fit together"));
        }
        let mut codes = vec![0u16; lengths.len()];
        let (mut next, mut length) = (0u32, 0);
        for &symbol in &order {
            next <<= lengths[symbol] - length;
            length = lengths[symbol];
            codes[symbol] = next as u16;
            next += 1;
        }
        Ok(Code { lengths, codes, count, order })
    }

    /// Writes a symbol that has a code.
    pub fn write(&self, symbol: usize, out: &mut BitWriter) {
        if self.order.len() > 1 {
            out.write(self.codes[symbol], u32::from(self.lengths[symbol]));
        }
    }

    /// Reads a symbol.
    ///
    /// # Errors
    /// If the bits end, or the alphabet is empty.
    pub fn read(&self, from: &mut BitReader<'_>) -> Result<usize> {
        let none = || Error::malformed("a symbol of an empty Huffman code");
        if self.order.len() <= 1 {
            return self.order.first().copied().ok_or_else(none);
        }
        // `first` is the first code of the length at hand, `before` the number of shorter codes
        let (mut code, mut first, mut before) = (0u32, 0u32, 0usize);
        for length in 1..=LONGEST {
            code = code << 1 | u32::from(from.bit()?);
            first <<= 1;
            let count = u32::from(self.count[length]);
            if code < first + count {
                return self.order.get(before + (code - first) as usize).copied().ok_or_else(none);
            }
            first += count;
            before += count as usize;
        }
        Err(none())
    }
}

/// The lengths in few bytes: four bits each; 0 is followed by four bits for a run of 1 to 16 zeros; zeros at the end are
/// left out.
pub fn pack_lengths(lengths: &[u8]) -> Vec<u8> {
    let used = lengths.iter().rposition(|&l| l > 0).map_or(0, |last| last + 1);
    let mut bits = BitWriter::default();
    let mut at = 0;
    while at < used {
        bits.write(u16::from(lengths[at]), 4);
        if lengths[at] == 0 {
            let run = lengths[at..used].iter().take(16).take_while(|l| **l == 0).count();
            bits.write(run as u16 - 1, 4);
            at += run;
        } else {
            at += 1;
        }
    }
    bits.finish()
}

/// Reads what [`pack_lengths`] wrote, for an alphabet of `symbols`.
///
/// # Errors
/// If there are more lengths than symbols.
pub fn unpack_lengths(bytes: &[u8], symbols: usize) -> Result<Vec<u8>> {
    let nibbles: Vec<u8> = bytes.iter().flat_map(|b| [b >> 4, b & 15]).collect();
    let mut lengths = Vec::with_capacity(symbols);
    let mut at = 0;
    while at < nibbles.len() {
        match nibbles[at] {
            // a single zero at the very end is filling
            0 => {
                lengths.resize(lengths.len() + nibbles.get(at + 1).map_or(0, |&run| usize::from(run) + 1), 0)
            }
            length => lengths.push(length),
        }
        at += if nibbles[at] == 0 { 2 } else { 1 };
    }
    if lengths.len() > symbols {
        return Err(Error::malformed(format!("{} Huffman codes for {symbols} symbols", lengths.len())));
    }
    lengths.resize(symbols, 0);
    Ok(lengths)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn counts(symbols: &[usize], alphabet: usize) -> Vec<u64> {
        let mut counts = vec![0; alphabet];
        symbols.iter().for_each(|&s| counts[s] += 1);
        counts
    }

    fn round_trip(symbols: &[usize], alphabet: usize) {
        let lengths = lengths(&counts(symbols, alphabet));
        assert_eq!(unpack_lengths(&pack_lengths(&lengths), alphabet).unwrap(), lengths);
        let code = Code::new(lengths).unwrap();
        let mut out = BitWriter::default();
        symbols.iter().for_each(|&s| code.write(s, &mut out));
        let bytes = out.finish();
        let mut from = BitReader::new(&bytes);
        let back: Vec<usize> = symbols.iter().map(|_| code.read(&mut from).unwrap()).collect();
        assert_eq!(back, symbols);
        from.finish().unwrap();
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(symbols in prop::collection::vec(0usize..256, 0..600)) {
            round_trip(&symbols, 256);
        }

        #[test]
        fn skewed_symbols(symbols in prop::collection::vec(prop_oneof![9 => Just(0usize), 1 => 0usize..20], 0..600)) {
            round_trip(&symbols, 20);
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            if let Ok(code) = unpack_lengths(&bytes, 64).and_then(Code::new) {
                let mut from = BitReader::new(&bytes);
                while code.order.len() > 1 && code.read(&mut from).is_ok() {}
            }
        }

        #[test]
        fn at_most_a_bit_above_the_entropy(counts in prop::collection::vec(0u64..1000, 2..64)) {
            let total: u64 = counts.iter().sum();
            prop_assume!(counts.iter().filter(|c| **c > 0).count() > 1);
            let lengths = lengths(&counts);
            let bits: f64 = counts.iter().zip(&lengths).map(|(&c, &l)| c as f64 * f64::from(l)).sum();
            let entropy: f64 =
                counts.iter().filter(|c| **c > 0).map(|&c| c as f64 * (total as f64 / c as f64).log2()).sum();
            prop_assert!(bits >= entropy - 1e-6 && bits < entropy + total as f64);
        }
    }

    #[test]
    fn one_symbol_and_none() {
        round_trip(&[5; 100], 8);
        round_trip(&[], 8);
        assert_eq!(lengths(&[0, 7, 0]), [0, 1, 0]);
        assert_eq!(pack_lengths(&[0; 9]), [0u8; 0]);
    }

    #[test]
    fn a_known_code() {
        assert_eq!(lengths(&[5, 2, 1, 1]), [1, 2, 3, 3]);
        let code = Code::new(vec![1, 2, 3, 3]).unwrap();
        assert_eq!(code.codes, [0b0, 0b10, 0b110, 0b111]);
    }

    #[test]
    fn very_skewed_counts_are_limited() {
        // Fibonacci counts give the longest codes there are
        let mut counts = vec![1u64, 1];
        (2..40).for_each(|i| counts.push(counts[i - 1] + counts[i - 2]));
        let lengths = lengths(&counts);
        assert!(lengths.iter().all(|&l| (1..=15).contains(&l)));
        Code::new(lengths).unwrap();
    }

    #[test]
    fn impossible_lengths_are_refused() {
        assert!(Code::new(vec![1, 1, 1]).is_err());
        assert!(Code::new(vec![2, 2]).is_err());
        assert!(Code::new(vec![16, 1]).is_err());
    }
}
