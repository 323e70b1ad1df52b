//! A sparse matrix in the file: the smallest of five forms, chosen for each layer.
//!
//! ```text
//! form u8     0: dense    all values, zeros included
//!             1: bitmap   one bit a weight, then the values
//!             2..=17: gaps of b = form - 1 bits   blob of codes, then the values
//!             18..=33: gaps of b = form - 17 bits between blocks of 16 rows, then the values of the blocks
//!             34: n of m  n u8, m u8, then the positions and the values of each group, see `n_of_m`
//! ```
//! A gap is the number of zeros before the next value, over the whole layer in row-major order, as in Deep
//! Compression (Han, Mao & Dally 2016, section 2). There a gap that does not fit is bridged by a padding zero
//! among the values; here the code
//! `2^b - 1` stands for that many zeros *without* a value, which saves its four bytes. The last byte is
//! filled with ones: they read as such an escape, or as no code at all. Values are `f32`. A file with form 18 or above needs a reader
//! that knows them; others say that the form is unknown.

mod in_blocks;
mod n_of_m;

use super::matrix::SparseMatrix;
use crate::bits::{BitReader, BitWriter, pack_flags, unpack_flags};
use cnn_core::model_file::{Decoder, Encoder};
use cnn_core::{Error, Result};
use n_of_m::Pattern;

/// Widest gap that is considered; wider never pays below a sparsity of 99.99 %.
const WIDEST: u32 = 16;

/// Number of the form of patterns.
const PATTERN: u8 = 2 + 2 * WIDEST as u8;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Dense,
    Bitmap,
    Gaps(u32),
    Blocks(u32),
    Pattern(Pattern),
}

/// Writes a matrix whose columns are channels by so many taps.
pub(super) fn encode(matrix: &SparseMatrix, taps: usize, out: &mut Encoder) -> Result<()> {
    match smallest(matrix, taps) {
        Form::Dense => {
            out.byte(0);
            out.floats(&matrix.to_dense());
        }
        Form::Bitmap => {
            out.byte(1);
            let mut flags = vec![false; matrix.rows() * matrix.cols()];
            matrix.positions().for_each(|at| flags[at] = true);
            out.raw(&pack_flags(flags.into_iter()));
            out.floats(matrix.values());
        }
        Form::Gaps(bits) => {
            out.byte(1 + bits as u8);
            out.blob(&gap_codes(matrix.positions(), bits))?;
            out.floats(matrix.values());
        }
        Form::Blocks(bits) => {
            out.byte(1 + (WIDEST + bits) as u8);
            in_blocks::encode(matrix, &gap_codes(in_blocks::places(matrix).into_iter(), bits), out)?;
        }
        Form::Pattern(pattern) => {
            out.byte(PATTERN);
            pattern.encode(matrix, taps, out)?;
        }
    }
    Ok(())
}

/// Reads a matrix of a known, positive shape whose elements the caller has claimed.
pub(super) fn decode(rows: usize, cols: usize, taps: usize, from: &mut Decoder<'_>) -> Result<SparseMatrix> {
    let count = rows * cols;
    if u32::try_from(cols).is_err() {
        return Err(Error::malformed(format!("a sparse row of {cols} columns")));
    }
    let positions: Vec<usize> = match from.byte()? {
        0 => {
            let dense = from.floats(count)?;
            return Ok(SparseMatrix::from_dense(rows, cols, &dense)?);
        }
        1 => {
            let flags = unpack_flags(from.raw(count.div_ceil(8))?, count)
                .ok_or_else(|| Error::malformed("a bitmap has bits beyond its end"))?;
            (0..count).filter(|&at| flags[at]).collect()
        }
        form if u32::from(form) <= WIDEST + 1 => read_gaps(from.blob()?, u32::from(form) - 1, count)?,
        PATTERN => return Pattern::decode(rows, cols, taps, from),
        form if form < PATTERN => return in_blocks::decode(rows, cols, u32::from(form) - WIDEST - 1, from),
        form => return Err(Error::malformed(format!("unknown form {form} of a sparse layer"))),
    };
    let values = from.floats(positions.len())?;
    match values.contains(&0.0) {
        false => Ok(SparseMatrix::from_positions(rows, cols, positions, values)),
        true => Err(Error::malformed("a sparse layer stores a zero")),
    }
}

/// The form with the fewest bytes; of equals the simpler one.
fn smallest(matrix: &SparseMatrix, taps: usize) -> Form {
    let count = matrix.rows() * matrix.cols();
    let values = 4 * matrix.nonzeros();
    let mut best = (4 * count, Form::Dense);
    let mut offer = |size: usize, form: Form| {
        if size < best.0 {
            best = (size, form);
        }
    };
    offer(count.div_ceil(8) + values, Form::Bitmap);
    let size = |places: &[usize], bits: u32| {
        let codes: usize = gaps(places.iter().copied()).map(|gap| 1 + gap / escape(bits)).sum();
        let bytes = (codes * bits as usize).div_ceil(8);
        uint_len(bytes) + bytes
    };
    let positions: Vec<usize> = matrix.positions().collect();
    (1..=WIDEST).for_each(|bits| offer(size(&positions, bits) + values, Form::Gaps(bits)));
    for pattern in Pattern::all(matrix, taps) {
        let [codes, values] = pattern.size(count);
        offer(2 + codes + values, Form::Pattern(pattern));
    }
    let (places, stored) = (in_blocks::places(matrix), 4 * in_blocks::stored(matrix));
    (1..=WIDEST).for_each(|bits| offer(size(&places, bits) + stored, Form::Blocks(bits)));
    best.1
}

/// Zeros before each of ascending places.
fn gaps(places: impl Iterator<Item = usize>) -> impl Iterator<Item = usize> {
    let mut next = 0;
    places.map(move |at| {
        let gap = at - next;
        next = at + 1;
        gap
    })
}

/// The code of `bits` bits that stands for as many zeros without a value.
fn escape(bits: u32) -> usize {
    (1 << bits) - 1
}

fn gap_codes(places: impl Iterator<Item = usize>, bits: u32) -> Vec<u8> {
    let escape = escape(bits);
    let mut out = BitWriter::default();
    for gap in gaps(places) {
        (0..gap / escape).for_each(|_| out.push(escape as u32, bits));
        out.push((gap % escape) as u32, bits);
    }
    out.finish(true)
}

fn read_gaps(codes: &[u8], bits: u32, count: usize) -> Result<Vec<usize>> {
    let mut reader = BitReader::new(codes);
    let mut positions = Vec::new();
    let mut at = 0usize;
    while let Some(code) = reader.take(bits) {
        at = at.saturating_add(code as usize);
        if code as usize != escape(bits) {
            if at >= count {
                return Err(Error::malformed("a sparse layer has entries beyond its end"));
            }
            positions.push(at);
            at += 1;
        }
    }
    Ok(positions)
}

/// Bytes of [`Encoder::uint`].
fn uint_len(value: usize) -> usize {
    match value {
        0..=250 => 1,
        251..=0xffff => 3,
        0x1_0000..=0xffff_ffff => 5,
        _ => 9,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cnn_core::model_file::Purpose;
    use proptest::prelude::*;

    fn len(matrix: &SparseMatrix) -> usize {
        let mut out = Encoder::new(Purpose::Deploy);
        encode(matrix, 1, &mut out).unwrap();
        out.len()
    }

    /// A matrix of `count` weights where every `step`-th is not zero.
    fn every(step: usize, count: usize) -> SparseMatrix {
        let dense: Vec<f32> = (0..count).map(|i| if i % step == step - 1 { 1.0 } else { 0.0 }).collect();
        SparseMatrix::from_dense(1, count, &dense).unwrap()
    }

    #[test]
    fn the_form_suits_the_density() {
        assert_eq!(smallest(&every(1, 800), 1), Form::Dense);
        let coin = |i: u32| (i.wrapping_mul(2_654_435_761) >> 13 & 1) as f32;
        let uneven = SparseMatrix::from_dense(1, 800, &(0..800).map(coin).collect::<Vec<f32>>()).unwrap();
        assert_eq!(smallest(&uneven, 1), Form::Bitmap);
        // gaps of 31 zeros: 6 bits hold them; 5 would need an escape for each
        assert_eq!(smallest(&every(32, 3200), 1), Form::Gaps(6));
        assert_eq!(len(&every(32, 3200)), 1 + 1 + 75 + 400);
    }

    #[test]
    fn structured_zeros_have_forms_of_their_own() {
        // one row of 2 of each 4 channels, tap by tap; rows in blocks of 16
        let two = |i: usize| if [0, 3].contains(&((i / 3 + i / 12 + i / 96) % 4)) { 1.0 } else { 0.0 };
        let m = SparseMatrix::from_dense(2, 96, &(0..192).map(two).collect::<Vec<f32>>()).unwrap();
        assert!(matches!(smallest(&m, 3), Form::Pattern(_)));
        let block = |i: usize| if (i % 50 * 7 + i / 800 * 3) % 10 < 1 { 1.0 } else { 0.0 };
        let m = SparseMatrix::from_dense(20, 50, &(0..1000).map(block).collect::<Vec<f32>>()).unwrap();
        assert!(matches!(smallest(&m, 1), Form::Blocks(_)));
    }

    #[test]
    fn an_escape_bridges_a_wide_gap_without_a_value() {
        let m = every(1001, 1001);
        let codes = gap_codes(m.positions(), 4);
        assert_eq!(codes.len(), (1000 / 15 + 1usize).div_ceil(2));
        assert_eq!(read_gaps(&codes, 4, 1001).unwrap(), [1000]);
        assert!(read_gaps(&codes, 4, 1000).is_err());
    }

    proptest! {
        #[test]
        fn every_width_gives_the_positions_back(
            kept in proptest::collection::vec(prop::bool::weighted(0.2), 1..300),
            bits in 1u32..=WIDEST,
        ) {
            let dense: Vec<f32> = kept.iter().map(|&k| f32::from(u8::from(k))).collect();
            let m = SparseMatrix::from_dense(1, dense.len(), &dense).unwrap();
            let positions = read_gaps(&gap_codes(m.positions(), bits), bits, dense.len()).unwrap();
            prop_assert_eq!(positions, m.positions().collect::<Vec<_>>());
        }

        #[test]
        fn codes_of_any_bytes_are_no_panic(
            codes in proptest::collection::vec(any::<u8>(), 0..40),
            bits in 1u32..=WIDEST,
        ) {
            if let Ok(positions) = read_gaps(&codes, bits, 100) {
                prop_assert!(positions.is_sorted() && positions.last().is_none_or(|&p| p < 100));
            }
        }
    }
}
