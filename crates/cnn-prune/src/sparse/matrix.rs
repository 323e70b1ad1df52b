//! Compressed sparse rows.

use crate::error::PruneError;

/// A matrix in compressed sparse row form: for each row the columns and values that are not zero, columns
/// ascending. A row is an output: a neuron, or a filter flattened as `channel, y, x`.
#[derive(Debug, Clone, PartialEq)]
pub struct SparseMatrix {
    rows: usize,
    cols: usize,
    /// Row `r` is entries `starts[r]..starts[r + 1]`.
    starts: Vec<usize>,
    columns: Vec<u32>,
    values: Vec<f32>,
}

impl SparseMatrix {
    /// The non-zero entries of a dense row-major matrix. Zeros of either sign are dropped.
    ///
    /// # Errors
    /// [`PruneError::Matrix`] if the number of values is not `rows * cols`.
    pub fn from_dense(rows: usize, cols: usize, dense: &[f32]) -> Result<SparseMatrix, PruneError> {
        let fits = rows.checked_mul(cols) == Some(dense.len()) && u32::try_from(cols).is_ok();
        if !fits || dense.is_empty() {
            return Err(PruneError::Matrix { rows, cols, values: dense.len() });
        }
        let kept = dense.iter().enumerate().filter(|(_, v)| **v != 0.0);
        let (positions, values) = kept.map(|(at, &v)| (at, v)).unzip();
        Ok(SparseMatrix::from_positions(rows, cols, positions, values))
    }

    /// A matrix from ascending row-major positions below `rows * cols` and as many values.
    pub(super) fn from_positions(
        rows: usize,
        cols: usize,
        positions: Vec<usize>,
        values: Vec<f32>,
    ) -> SparseMatrix {
        let mut starts = Vec::with_capacity(rows + 1);
        let mut at = 0;
        for row in 0..rows {
            starts.push(at);
            at += positions[at..].iter().take_while(|&&p| p < (row + 1) * cols).count();
        }
        starts.push(at);
        let columns = positions.iter().map(|p| (p % cols) as u32).collect();
        SparseMatrix { rows, cols, starts, columns, values }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Number of entries that are stored.
    pub fn nonzeros(&self) -> usize {
        self.values.len()
    }

    /// Columns and values of one row, columns ascending.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn row(&self, row: usize) -> (&[u32], &[f32]) {
        let range = self.starts[row]..self.starts[row + 1];
        (&self.columns[range.clone()], &self.values[range])
    }

    /// All values, row after row.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// First entry of each row, and the end.
    pub(super) fn starts(&self) -> &[usize] {
        &self.starts
    }

    /// Row-major positions of the entries, ascending.
    pub(super) fn positions(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.rows)
            .flat_map(move |row| self.row(row).0.iter().map(move |&col| row * self.cols + col as usize))
    }

    /// The whole matrix, row-major, zeros included.
    pub fn to_dense(&self) -> Vec<f32> {
        let mut dense = vec![0.0; self.rows * self.cols];
        self.positions().zip(&self.values).for_each(|(at, &v)| dense[at] = v);
        dense
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_what_is_not_zero() {
        let m = SparseMatrix::from_dense(3, 2, &[0.0, 1.5, 0.0, -0.0, -2.0, 3.0]).unwrap();
        assert_eq!(m.nonzeros(), 3);
        assert_eq!(m.row(0), (&[1u32][..], &[1.5f32][..]));
        assert_eq!(m.row(1), (&[][..], &[][..]));
        assert_eq!(m.row(2), (&[0u32, 1][..], &[-2.0f32, 3.0][..]));
        assert_eq!(m.to_dense(), [0.0, 1.5, 0.0, 0.0, -2.0, 3.0]);
    }

    #[test]
    fn sizes_must_fit() {
        assert!(SparseMatrix::from_dense(2, 2, &[1.0; 3]).is_err());
        assert!(SparseMatrix::from_dense(0, 2, &[]).is_err());
    }
}
