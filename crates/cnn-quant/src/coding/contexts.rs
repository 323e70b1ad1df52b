//! The adaptive form: every symbol as "is it 0?", then the bits of the symbol.
//!
//! After pruning, whole inputs and neurons fade away, so whether a weight is zero is foretold by how dense its column (the
//! same weight of the neurons before) and its row (the same neuron so far) are. Both are counted on the way by writer and reader.

use super::adaptive::{Bit, BitCoder, Reader, Writer, fewest_bytes};
use cnn_core::{Error, Result};

/// Steps in which a density is told apart, each a factor of about 1.4.
const LEVELS: usize = 20;

/// How dense, from `0` (all) to `LEVELS - 1` (next to none): about `-2 log2 ((nonzeros + 1/2) / (seen + 1))`.
fn level(nonzeros: u32, seen: u32) -> usize {
    let ratio = ((2 * u64::from(seen) + 2) << 8) / (2 * u64::from(nonzeros) + 1);
    let octave = ratio.max(256).ilog2();
    let half = ratio >> (octave - 1) & 1;
    (2 * (octave as usize - 8) + half as usize).min(LEVELS - 1)
}

/// Codes all symbols in place: a writer reads them, a reader fills them in.
fn walk(coder: &mut impl BitCoder, rows: usize, alphabet: usize, symbols: &mut [u8]) -> Result<()> {
    let cols = symbols.len() / rows.max(1);
    if cols == 0 {
        return Ok(());
    }
    // symbols 1 ..= alphabet - 1 as numbers from 0, in so many bits
    let bits = usize::BITS - alphabet.saturating_sub(2).leading_zeros();
    let mut zero = vec![Bit::default(); LEVELS * LEVELS];
    let mut tree = vec![Bit::default(); 1 << bits];
    let mut column = vec![0u32; cols];
    for (row_number, row) in symbols.chunks_mut(cols).enumerate() {
        let mut in_row = 0;
        for (at, symbol) in row.iter_mut().enumerate() {
            let context = level(column[at], row_number as u32) * LEVELS + level(in_row, at as u32);
            if coder.code(&mut zero[context], *symbol == 0)? {
                *symbol = 0;
                continue;
            }
            column[at] += 1;
            in_row += 1;
            let (number, mut node) = (symbol.wrapping_sub(1), 1usize);
            for bit in (0..bits).rev() {
                let set = coder.code(&mut tree[node], number >> bit & 1 == 1)?;
                node = 2 * node + usize::from(set);
            }
            let found = node - (1 << bits) + 1;
            if found >= alphabet {
                return Err(Error::malformed(format!("symbol {found} of {alphabet}")));
            }
            *symbol = found as u8;
        }
    }
    Ok(())
}

/// Codes `rows` rows of symbols below `alphabet`.
///
/// # Errors
/// None in practice: writing goes to memory.
pub fn write(rows: usize, alphabet: usize, symbols: &[u8]) -> Result<Vec<u8>> {
    let mut writer = Writer::default();
    walk(&mut writer, rows, alphabet, &mut symbols.to_vec())?;
    writer.finish()
}

/// Reads `count` symbols.
///
/// # Errors
/// If the bytes are damaged.
pub fn read(bytes: &[u8], rows: usize, alphabet: usize, count: usize) -> Result<Vec<u8>> {
    if bytes.len() < fewest_bytes(count) {
        return Err(Error::malformed(format!("{count} symbols cannot come from {} bytes", bytes.len())));
    }
    let mut symbols = vec![0; count];
    walk(&mut Reader::new(bytes)?, rows, alphabet, &mut symbols)?;
    Ok(symbols)
}
