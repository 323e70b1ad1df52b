//! Weights of which at most `n` of `m` neighbouring input channels are not zero, for each filter and tap.
//!
//! Which ones is a number of `log2 C(m, n)` bits, rounded up: the place of the ascending positions `p` among all choices,
//! `sum of C(p_i, i + 1)`. For 2 of 4 that is 3 bits where flags take 4, for 4 of 8 it is 7 for 8, for 1 of 4 it is 2 for 4. Where fewer
//! are not zero, zeros are stored to make it `n`.

use super::super::matrix::SparseMatrix;
use crate::bits::{BitReader, BitWriter};
use cnn_core::model_file::{Decoder, Encoder};
use cnn_core::{Error, Result};

/// Group sizes.
const SIZES: [usize; 4] = [2, 4, 8, 16];

/// How many of how many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pattern {
    n: usize,
    m: usize,
}

impl Pattern {
    /// The patterns that a matrix obeys, whose columns are `channel, tap`.
    pub fn all(w: &SparseMatrix, taps: usize) -> Vec<Pattern> {
        let channels = w.cols() / taps.max(1);
        let fits = |m: usize| taps > 0 && w.cols().is_multiple_of(taps) && channels.is_multiple_of(m);
        let pattern = |m: usize| {
            let mut most = 1;
            let mut counts = vec![0usize; w.cols() / m];
            for row in 0..w.rows() {
                counts.fill(0);
                for &column in w.row(row).0 {
                    let count = &mut counts[group(column as usize, taps, m).0];
                    *count += 1;
                    most = most.max(*count);
                }
            }
            Pattern { n: most, m }
        };
        SIZES.into_iter().filter(|&m| fits(m)).map(pattern).filter(|p| p.n < p.m).collect()
    }

    /// Bits of a group's positions.
    fn bits(self) -> u32 {
        (choices(self.m, self.n) - 1).max(1).ilog2() + 1
    }

    /// Bytes of a matrix of so many weights, positions and values.
    pub fn size(self, count: usize) -> [usize; 2] {
        let groups = count / self.m;
        [(groups * self.bits() as usize).div_ceil(8), groups * self.n * 4]
    }

    pub fn encode(self, w: &SparseMatrix, taps: usize, out: &mut Encoder) -> Result<()> {
        out.byte(self.n as u8);
        out.byte(self.m as u8);
        let mut codes = BitWriter::default();
        let mut values = Vec::new();
        let mut found: Vec<Vec<(usize, f32)>> = vec![Vec::new(); w.cols() / self.m];
        for row in 0..w.rows() {
            let (columns, of) = w.row(row);
            for (&column, &value) in columns.iter().zip(of) {
                let (group, position) = group(column as usize, taps, self.m);
                found[group].push((position, value));
            }
            for found in &mut found {
                for position in 0..self.m {
                    if found.len() < self.n && found.iter().all(|f| f.0 != position) {
                        found.push((position, 0.0));
                    }
                }
                found.sort_by_key(|f| f.0);
                let code: usize = found.iter().enumerate().map(|(i, f)| choices(f.0, i + 1)).sum();
                codes.push(code as u32, self.bits());
                values.extend(found.drain(..).map(|f| f.1));
            }
        }
        out.raw(&codes.finish(false));
        out.floats(&values);
        Ok(())
    }

    /// Reads a matrix of a known, positive shape whose elements the caller has claimed.
    pub fn decode(rows: usize, cols: usize, taps: usize, from: &mut Decoder<'_>) -> Result<SparseMatrix> {
        let (n, m) = (usize::from(from.byte()?), usize::from(from.byte()?));
        let fits = SIZES.contains(&m) && (1..m).contains(&n) && cols.is_multiple_of(m * taps);
        if !fits {
            return Err(Error::malformed(format!("{n} of {m} channels in rows of {cols} weights")));
        }
        let pattern = Pattern { n, m };
        let mut codes = BitReader::new(from.raw(pattern.size(rows * cols)[0])?);
        let values = from.floats(rows * cols / m * n)?;
        let mut dense = vec![0.0; rows * cols];
        for (at, values) in values.chunks_exact(n).enumerate() {
            let (row, group) = (at / (cols / m), at % (cols / m));
            let mut code = codes.take(pattern.bits()).unwrap_or(u32::MAX) as usize;
            if code >= choices(m, n) {
                return Err(Error::malformed("a sparse layer has a choice of channels that does not exist"));
            }
            let first = group / taps * taps * m + group % taps;
            for (i, &value) in values.iter().enumerate().rev() {
                let position = (0..m).rev().find(|&p| choices(p, i + 1) <= code).unwrap_or(0);
                code -= choices(position, i + 1);
                dense[row * cols + first + position * taps] = value;
            }
        }
        Ok(SparseMatrix::from_dense(rows, cols, &dense)?)
    }
}

/// Number of a column's group in its row, channels first, and its position there.
fn group(column: usize, taps: usize, m: usize) -> (usize, usize) {
    let (channel, tap) = (column / taps, column % taps);
    (channel / m * taps + tap, channel % m)
}

/// `C(n, k)`, for small `n`.
fn choices(n: usize, k: usize) -> usize {
    if k > n { 0 } else { (0..k).fold(1, |c, i| c * (n - i) / (i + 1)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_take_as_many_bits_as_there_are_choices() {
        let bits = |n, m| Pattern { n, m }.bits();
        assert_eq!([bits(2, 4), bits(4, 8), bits(1, 4), bits(1, 2), bits(8, 16)], [3, 7, 2, 1, 14]);
        assert_eq!((choices(8, 4), choices(3, 0), choices(2, 3)), (70, 1, 0));
    }
}
