//! Zeros that come in blocks of neighbouring filters.

use super::matrix::SparseMatrix;

/// Rows of a block: filters whose sums fill a vector.
pub(super) const BLOCK: usize = 16;

/// For each block of [`BLOCK`] rows (the last one may have fewer) the columns in which any of them is not zero, ascending.
pub(super) fn columns(w: &SparseMatrix) -> impl Iterator<Item = Vec<u32>> + '_ {
    (0..w.rows()).step_by(BLOCK).map(|first| {
        let rows = first..w.rows().min(first + BLOCK);
        let mut columns: Vec<u32> = rows.flat_map(|row| w.row(row).0.iter().copied()).collect();
        columns.sort_unstable();
        columns.dedup();
        columns
    })
}

/// Values that are stored where blocks are: those of the blocks' rows, zeros between them too.
pub(super) fn stored(w: &SparseMatrix) -> usize {
    let blocks = columns(w).enumerate();
    blocks.map(|(i, columns)| columns.len() * BLOCK.min(w.rows() - i * BLOCK)).sum()
}

/// True if each block of an even number has the same columns as its neighbour: a pattern of twice as many filters.
pub(super) fn paired(w: &SparseMatrix) -> bool {
    let all: Vec<Vec<u32>> = columns(w).collect();
    all.len().is_multiple_of(2) && all.chunks(2).all(|pair| pair[0] == pair[1])
}
