//! The sparse form of Deep Compression (section 3): gaps between symbols other than 0, and those symbols, both Huffman-coded.
//!
//! A gap is the number of zeros before a symbol, within the flattened weight. A run longer than 254 takes filling steps:
//! step 255 means 255 zeros and no symbol yet. Zeros after the last symbol are implied.

use super::bits::{BitReader, BitWriter};
use super::huffman::{Code, lengths, pack_lengths, unpack_lengths};
use cnn_core::{Error, Result};

const ESCAPE: usize = 255;

/// Steps and symbols in the order in which they are written.
fn steps(symbols: &[u8]) -> Vec<(usize, u8)> {
    let mut steps = Vec::new();
    let mut gap = 0;
    for &symbol in symbols {
        if symbol == 0 {
            gap += 1;
            continue;
        }
        while gap >= ESCAPE {
            steps.push((ESCAPE, 0));
            gap -= ESCAPE;
        }
        steps.push((gap, symbol));
        gap = 0;
    }
    steps
}

/// The tables of both codes, and the bits behind the number of steps.
///
/// # Errors
/// None in practice.
pub fn write(alphabet: usize, symbols: &[u8]) -> Result<([Vec<u8>; 2], usize, Vec<u8>)> {
    let steps = steps(symbols);
    let (mut gaps, mut values) = (vec![0u64; ESCAPE + 1], vec![0u64; alphabet]);
    for &(gap, symbol) in &steps {
        gaps[gap] += 1;
        if gap != ESCAPE {
            values[usize::from(symbol)] += 1;
        }
    }
    let (gaps, values) = (lengths(&gaps), lengths(&values));
    let tables = [pack_lengths(&gaps), pack_lengths(&values)];
    let (gaps, values) = (Code::new(gaps)?, Code::new(values)?);
    let mut out = BitWriter::default();
    for &(gap, symbol) in &steps {
        gaps.write(gap, &mut out);
        if gap != ESCAPE {
            values.write(usize::from(symbol), &mut out);
        }
    }
    Ok((tables, steps.len(), out.finish()))
}

/// Reads `count` symbols.
///
/// # Errors
/// If the tables or the bits are damaged.
pub fn read(
    tables: [&[u8]; 2],
    steps: usize,
    bytes: &[u8],
    alphabet: usize,
    count: usize,
) -> Result<Vec<u8>> {
    let gaps = Code::new(unpack_lengths(tables[0], ESCAPE + 1)?)?;
    let values = Code::new(unpack_lengths(tables[1], alphabet)?)?;
    let mut symbols = vec![0; count];
    let mut from = BitReader::new(bytes);
    let mut at = 0usize;
    for _ in 0..steps {
        let gap = gaps.read(&mut from)?;
        at += gap;
        if gap == ESCAPE {
            continue;
        }
        let symbol = values.read(&mut from)?;
        *symbols.get_mut(at).ok_or_else(|| Error::malformed("a sparse symbol lies outside its tensor"))? =
            symbol as u8;
        at += 1;
    }
    from.finish()?;
    Ok(symbols)
}
