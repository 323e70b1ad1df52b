//! The matrix of a given rank that is nearest to another.

use crate::{Error, Result};
use nalgebra::{DMatrix, SymmetricEigen};

/// `A ~ L R` of rank `r`: the first `r` terms `sigma_i u_i v_i^T` of the singular value decomposition, with
/// `L = [sqrt(sigma_i) u_i]` and `R = [sqrt(sigma_i) v_i^T]`, so that both train alike.
pub(crate) struct Factors {
    /// `L`, a row for each row of the matrix.
    pub left: DMatrix<f64>,
    /// `R`, a column for each column of the matrix.
    pub right: DMatrix<f64>,
}

/// The nearest factors of rank `rank` in least squares (Eckart & Young 1936), rounded to the single precision
/// in which layers store them. The largest element of each row of `R` is positive. In a term with
/// `sigma = 0` only one of the two is zero, so that it still trains.
///
/// # Errors
/// If the iteration for the singular values does not end.
pub(crate) fn nearest(a: &DMatrix<f64>, rank: usize) -> Result<Factors> {
    let (rows, columns) = a.shape();
    let mut factors = Factors { left: DMatrix::zeros(rows, rank), right: DMatrix::zeros(rank, columns) };
    let largest = a.amax();
    if largest == 0.0 {
        // unit vectors from the middle on: for a kernel, the first passes its middle element
        (0..rank).for_each(|i| factors.right[(i, (columns / 2 + i) % columns)] = 1.0);
        return Ok(factors);
    }
    // scaled, so that the squares in the Gram matrix of the smaller side do not underflow
    let scaled = a / largest;
    let by_columns = columns <= rows;
    let gram = if by_columns { scaled.transpose() * &scaled } else { &scaled * scaled.transpose() };
    let eigen = SymmetricEigen::try_new(gram, f64::EPSILON, 10_000).ok_or(Error::NoSingularValues)?;
    let mut order: Vec<usize> = (0..eigen.eigenvalues.len()).collect();
    order.sort_by(|&i, &j| eigen.eigenvalues[j].total_cmp(&eigen.eigenvalues[i]).then(i.cmp(&j)));
    for (term, &at) in order.iter().take(rank).enumerate() {
        let unit = eigen.eigenvectors.column(at);
        // the other side by projection, without a division by a small sigma
        let (mut u, mut v) = match by_columns {
            true => (&scaled * unit, unit.into_owned()),
            false => (unit.into_owned(), scaled.tr_mul(&unit)),
        };
        let sigma = if by_columns { u.norm() } else { v.norm() };
        let root = if sigma > 0.0 { sigma.sqrt() } else { 1.0 };
        if by_columns {
            u /= root;
            v *= root;
        } else {
            u *= root;
            v /= root;
        }
        let sign = if v[v.iamax()] < 0.0 { -1.0 } else { 1.0 };
        let scale = sign * largest.sqrt();
        factors.left.set_column(term, &(u * scale));
        factors.right.set_row(term, &(v * scale).transpose());
    }
    let single = |value: f64| f64::from(value as f32);
    Ok(Factors { left: factors.left.map(single), right: factors.right.map(single) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn matrix(most: usize) -> impl Strategy<Value = DMatrix<f64>> {
        (1..most, 1..most).prop_flat_map(|(rows, columns)| {
            proptest::collection::vec(-2.0f64..2.0, rows * columns)
                .prop_map(move |values| DMatrix::from_row_slice(rows, columns, &values))
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// What is lost is the energy of the singular values that are left out, and the factors are balanced.
        #[test]
        fn it_is_the_truncated_svd(a in matrix(9), rank in 1usize..9) {
            let rank = rank.min(a.nrows()).min(a.ncols());
            let Factors { left, right } = nearest(&a, rank).unwrap();
            let mut sigma: Vec<f64> = a.singular_values().iter().copied().collect();
            sigma.sort_by(|x, y| y.total_cmp(x));
            let lost: f64 = sigma[rank..].iter().map(|s| s * s).sum();
            let scale = a.norm_squared();
            prop_assert!(((&a - &left * &right).norm_squared() - lost).abs() < 1e-6 * scale);
            for term in 0..rank {
                let (u, v) = (left.column(term).norm_squared(), right.row(term).norm_squared());
                prop_assert!((u - v).abs() < 1e-5 * sigma[0], "{u} {v}");
                let row: Vec<f64> = right.row(term).iter().copied().collect();
                let largest = row.iter().fold(0f64, |a, &b| if b.abs() > a.abs() { b } else { a });
                prop_assert!(largest > 0.0);
            }
        }
    }

    #[test]
    fn a_matrix_whose_largest_row_is_orthogonal_to_the_answer() {
        // sigma = 0.9 sqrt(2) along (0, 1); power iteration from the largest row would stay at (1, 0)
        let a = DMatrix::from_row_slice(3, 2, &[1.0, 0.0, 0.0, 0.9, 0.0, 0.9]);
        let Factors { left, right } = nearest(&a, 1).unwrap();
        assert!(left[(0, 0)].abs() < 1e-12 && right[(0, 0)].abs() < 1e-12);
        assert!((left[(1, 0)] * right[(0, 1)] - 0.9).abs() < 1e-6);
    }

    #[test]
    fn equal_singular_values_and_tiny_weights_are_no_trouble() {
        let a = DMatrix::from_row_slice(2, 2, &[1e-30, 0.0, 0.0, 1e-30]);
        let Factors { left, right } = nearest(&a, 1).unwrap();
        assert!(((left * right).norm_squared() / 1e-60 - 1.0).abs() < 1e-6);
    }

    #[test]
    fn terms_without_energy_still_train() {
        for a in [DMatrix::zeros(4, 9), DMatrix::from_fn(4, 9, |i, j| (i * j) as f64)] {
            let Factors { left, right } = nearest(&a, 3).unwrap();
            assert!((&a - &left * &right).norm() < 1e-5);
            for term in 0..3 {
                assert!(right.row(term).norm() > 0.0 || left.column(term).norm() > 0.0);
            }
        }
    }
}
