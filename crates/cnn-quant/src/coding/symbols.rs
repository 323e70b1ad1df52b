//! A tensor of symbols in the file, in whichever form is the shortest.
//!
//! Symbol 0 is special only in being expected often (pruned weights); every form is exact for all symbols.

use super::bits::{BitReader, BitWriter};
use super::huffman::{Code, lengths, pack_lengths, unpack_lengths};
use super::{contexts, sparse};
use cnn_core::model_file::{Decoder, Encoder};
use cnn_core::{Error, Result};

/// How symbols are written. The numbers are part of the file format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// The same number of bits each.
    Packed = 0,
    /// Huffman-coded.
    Huffman = 1,
    /// Gaps between symbols other than 0 and the symbols, both Huffman-coded (Han, Mao, Dally 2016, section 3).
    Sparse = 2,
    /// Arithmetic-coded with probabilities learned on the way.
    Adaptive = 3,
}

impl Form {
    /// All forms.
    pub const ALL: [Form; 4] = [Form::Packed, Form::Huffman, Form::Sparse, Form::Adaptive];
}

/// Symbols in one form: tables that layers may share, and bytes of their own.
struct Coded {
    form: Form,
    tables: Vec<Vec<u8>>,
    /// Number of steps of the sparse form.
    steps: usize,
    bytes: Vec<u8>,
}

impl Coded {
    fn new(form: Form, rows: usize, alphabet: usize, symbols: &[u8]) -> Result<Coded> {
        let (mut tables, mut steps) = (Vec::new(), 0);
        let bytes = match form {
            Form::Packed => {
                let mut out = BitWriter::default();
                symbols.iter().for_each(|&s| out.write(u16::from(s), width(alphabet)));
                out.finish()
            }
            Form::Huffman => {
                let mut counts = vec![0u64; alphabet];
                symbols.iter().for_each(|&s| counts[usize::from(s)] += 1);
                let lengths = lengths(&counts);
                tables.push(pack_lengths(&lengths));
                let code = Code::new(lengths)?;
                let mut out = BitWriter::default();
                symbols.iter().for_each(|&s| code.write(usize::from(s), &mut out));
                out.finish()
            }
            Form::Sparse => {
                let (both, count, bytes) = sparse::write(alphabet, symbols)?;
                tables.extend(both);
                steps = count;
                bytes
            }
            Form::Adaptive => contexts::write(rows, alphabet, symbols)?,
        };
        Ok(Coded { form, tables, steps, bytes })
    }

    /// Bytes in a file where no other layer has the same tables; the few bytes of counts and positions aside.
    fn len(&self) -> usize {
        self.bytes.len() + self.tables.iter().map(|t| t.len() + 2).sum::<usize>()
    }
}

/// Bits of a symbol below `alphabet`.
fn width(alphabet: usize) -> u32 {
    usize::BITS - alphabet.saturating_sub(1).leading_zeros()
}

/// Bytes that the symbols take in each form.
///
/// # Errors
/// None in practice.
pub fn sizes(rows: usize, alphabet: usize, symbols: &[u8]) -> Result<Vec<(Form, usize)>> {
    Form::ALL.iter().map(|&form| Ok((form, Coded::new(form, rows, alphabet, symbols)?.len()))).collect()
}

/// Writes `rows` rows of symbols below `alphabet` (at most 256) in the shortest form.
///
/// # Errors
/// If a symbol is not below `alphabet`.
pub fn encode(out: &mut Encoder, rows: usize, alphabet: usize, symbols: &[u8]) -> Result<()> {
    if symbols.iter().any(|&s| usize::from(s) >= alphabet) {
        return Err(Error::malformed("a symbol lies outside its alphabet"));
    }
    let mut best = Coded::new(Form::Packed, rows, alphabet, symbols)?;
    for form in [Form::Huffman, Form::Sparse, Form::Adaptive] {
        let coded = Coded::new(form, rows, alphabet, symbols)?;
        if coded.len() < best.len() {
            best = coded;
        }
    }
    out.byte(best.form as u8);
    best.tables.iter().try_for_each(|table| out.table(table))?;
    if best.form == Form::Sparse {
        out.uint(best.steps)?;
    }
    out.blob(&best.bytes)
}

/// Reads `count` symbols below `alphabet`; the caller has claimed them.
///
/// # Errors
/// If the bytes are not such symbols.
pub fn decode(from: &mut Decoder<'_>, rows: usize, alphabet: usize, count: usize) -> Result<Vec<u8>> {
    match from.byte()? {
        0 => {
            let bytes = from.blob()?;
            let width = width(alphabet);
            if bytes.len() != count.saturating_mul(width as usize).div_ceil(8) {
                return Err(Error::malformed(format!("{count} symbols in {} bytes", bytes.len())));
            }
            let mut bits = BitReader::new(bytes);
            (0..count).map(|_| below(bits.read(width)?, alphabet)).collect()
        }
        1 => {
            let table = from.table()?;
            let code = Code::new(unpack_lengths(&table, alphabet)?)?;
            let mut bits = BitReader::new(from.blob()?);
            let symbols = (0..count).map(|_| Ok(code.read(&mut bits)? as u8)).collect::<Result<_>>()?;
            bits.finish()?;
            Ok(symbols)
        }
        2 => {
            let tables = [from.table()?, from.table()?];
            let steps = from.count(count)?;
            sparse::read([&tables[0], &tables[1]], steps, from.blob()?, alphabet, count)
        }
        3 => contexts::read(from.blob()?, rows, alphabet, count),
        form => Err(Error::malformed(format!("symbols are written in the unknown form {form}"))),
    }
}

fn below(symbol: u16, alphabet: usize) -> Result<u8> {
    match usize::from(symbol) < alphabet {
        true => Ok(symbol as u8),
        false => Err(Error::malformed(format!("symbol {symbol} of {alphabet}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cnn_core::model_file::Purpose;
    use proptest::prelude::*;

    /// Every form on its own, without the file around it.
    fn read(coded: &Coded, rows: usize, alphabet: usize, count: usize) -> Result<Vec<u8>> {
        match coded.form {
            Form::Adaptive => contexts::read(&coded.bytes, rows, alphabet, count),
            Form::Sparse => {
                sparse::read([&coded.tables[0], &coded.tables[1]], coded.steps, &coded.bytes, alphabet, count)
            }
            Form::Huffman => {
                let code = Code::new(unpack_lengths(&coded.tables[0], alphabet)?)?;
                let mut bits = BitReader::new(&coded.bytes);
                (0..count).map(|_| Ok(code.read(&mut bits)? as u8)).collect()
            }
            Form::Packed => {
                let mut bits = BitReader::new(&coded.bytes);
                (0..count).map(|_| below(bits.read(width(alphabet))?, alphabet)).collect()
            }
        }
    }

    fn round_trip(rows: usize, alphabet: usize, symbols: &[u8]) {
        for form in Form::ALL {
            let coded = Coded::new(form, rows, alphabet, symbols).unwrap();
            assert_eq!(read(&coded, rows, alphabet, symbols.len()).unwrap(), symbols, "{form:?}");
        }
    }

    proptest! {
        #[test]
        fn every_form_is_exact(
            rows in 1usize..6,
            cols in 0usize..200,
            alphabet in 1usize..=256,
            density in 0u32..100,
            seed in any::<u32>(),
        ) {
            let mut state = seed;
            let mut random = || {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                state >> 8
            };
            let symbols: Vec<u8> = (0..rows * cols)
                .map(|_| if random() % 100 < density { (random() as usize % alphabet) as u8 } else { 0 })
                .collect();
            round_trip(rows, alphabet, &symbols);
        }

        #[test]
        fn damaged_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..60), alphabet in 1usize..=256) {
            for form in Form::ALL {
                let tables = vec![bytes.clone(), bytes.clone()];
                let coded = Coded { form, tables, steps: 30, bytes: bytes.clone() };
                if let Ok(symbols) = read(&coded, 3, alphabet, 90) {
                    prop_assert!(symbols.iter().all(|&s| usize::from(s) < alphabet));
                }
            }
        }
    }

    #[test]
    fn long_gaps_take_filling_steps() {
        let mut symbols = vec![0u8; 2000];
        for at in [254, 510, 766, 1900] {
            symbols[at] = 3;
        }
        round_trip(4, 5, &symbols);
        round_trip(4, 1, &[0; 2000]);
        round_trip(1, 256, &(0..=255).collect::<Vec<u8>>());
    }

    #[test]
    fn pruned_symbols_come_near_their_entropy() {
        // 1 of 16 is not zero and takes one of 30 values: about 0.337 + 4.907 / 16 bits each
        let mut state = 1u64;
        let mut random = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            state >> 33
        };
        let symbols: Vec<u8> =
            (0..400_000).map(|_| if random() % 16 == 0 { 1 + (random() % 30) as u8 } else { 0 }).collect();
        let mut counts = [0u32; 31];
        symbols.iter().for_each(|&s| counts[usize::from(s)] += 1);
        let bits = |&c: &u32| f64::from(c) * (400_000.0 / f64::from(c)).log2();
        let entropy = counts.iter().map(bits).sum::<f64>() / 8.0;
        assert!((entropy - 32_198.0).abs() < 500.0, "{entropy}");
        let sizes = sizes(500, 31, &symbols).unwrap();
        let of = |form: Form| sizes.iter().find(|(f, _)| *f == form).unwrap().1 as f64;
        assert!(of(Form::Adaptive) < 1.01 * entropy, "{sizes:?} of {entropy}");
        assert!(of(Form::Sparse) < 1.03 * entropy, "{sizes:?} of {entropy}");
        assert!(of(Form::Huffman) > 1.5 * entropy && of(Form::Packed) == 250_000.0);
    }

    #[test]
    fn dead_columns_cost_next_to_nothing() {
        let symbols: Vec<u8> =
            (0..100_000).map(|i| if i % 500 < 25 { 1 + (i / 7 % 3) as u8 } else { 0 }).collect();
        let sizes = sizes(200, 4, &symbols).unwrap();
        let sparse = sizes[Form::Sparse as usize].1;
        let adaptive = sizes[Form::Adaptive as usize].1;
        assert!(adaptive < 5000 * 2 / 8 + 300, "{sizes:?}");
        assert!(sparse > adaptive, "{sizes:?}");
    }

    #[test]
    fn symbols_outside_the_alphabet_are_refused() {
        let mut out = Encoder::new(Purpose::Deploy);
        assert!(encode(&mut out, 1, 3, &[0, 3]).is_err());
    }
}
