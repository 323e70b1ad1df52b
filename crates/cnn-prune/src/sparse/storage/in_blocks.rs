//! Weights whose zeros come in blocks of neighbouring filters: a gap for each block that is stored, and the block's values, zeros
//! between them too.

use super::super::blocks::{self, BLOCK};
use super::super::matrix::SparseMatrix;
use super::read_gaps;
use cnn_core::model_file::{Decoder, Encoder};
use cnn_core::{Error, Result};

/// Values that are stored.
pub(super) use super::super::blocks::stored;

/// Places of the stored blocks among all, block of rows after block of rows, ascending.
pub(super) fn places(w: &SparseMatrix) -> Vec<usize> {
    let rows = blocks::columns(w).enumerate();
    rows.flat_map(|(row, columns)| columns.into_iter().map(move |c| row * w.cols() + c as usize)).collect()
}

/// Values of the stored blocks.
pub(super) fn values(w: &SparseMatrix) -> Vec<f32> {
    let dense = w.to_dense();
    let block = |place: usize| {
        let (block, column) = (place / w.cols(), place % w.cols());
        rows(w.rows(), block).map(move |row| row * w.cols() + column)
    };
    places(w).into_iter().flat_map(block).map(|at| dense[at]).collect()
}

pub(super) fn encode(w: &SparseMatrix, codes: &[u8], out: &mut Encoder) -> Result<()> {
    out.blob(codes)?;
    out.floats(&values(w));
    Ok(())
}

/// Reads a matrix of a known, positive shape whose elements the caller has claimed.
pub(super) fn decode(of: usize, cols: usize, bits: u32, from: &mut Decoder<'_>) -> Result<SparseMatrix> {
    let places = read_gaps(from.blob()?, bits, of.div_ceil(BLOCK) * cols)?;
    let count = places.iter().map(|place| rows(of, place / cols).len()).sum();
    let mut values = from.floats(count)?.into_iter();
    let mut dense = vec![0.0; of * cols];
    for place in places {
        for row in rows(of, place / cols) {
            dense[row * cols + place % cols] = values.next().unwrap_or_default();
        }
        let stored = rows(of, place / cols).any(|row| dense[row * cols + place % cols] != 0.0);
        if !stored {
            return Err(Error::malformed("a sparse layer stores a block of zeros"));
        }
    }
    Ok(SparseMatrix::from_dense(of, cols, &dense)?)
}

/// Rows of a block.
fn rows(of: usize, block: usize) -> std::ops::Range<usize> {
    block * BLOCK..of.min((block + 1) * BLOCK)
}
