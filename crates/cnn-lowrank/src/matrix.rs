//! Truncated singular value decomposition of the matrix of a linear layer.

use crate::rank::Rank;
use crate::spectrum::Spectrum;
use nalgebra::DMatrix;

/// `W ~ (V S^1/2) (S^1/2 U^T)`, cut at a rank (SPEC eq. 3 with `B = W^T = U S V^T`). The singular values are
/// shared evenly, so that both factors have gradients of the same size when they are trained on.
#[derive(Debug)]
pub(crate) struct Factors {
    /// `S^1/2 U^T`, `[r, in]`: applied first.
    pub first: DMatrix<f64>,
    /// `V S^1/2`, `[out, r]`: applied second.
    pub second: DMatrix<f64>,
    /// Share of the squared weights that is kept.
    pub energy: f64,
}

/// Cuts `w`, `[out, in]`; `None` if a value is not finite.
pub(crate) fn truncate(w: &DMatrix<f64>, rank: Rank) -> Option<Factors> {
    let wide = w.nrows() <= w.ncols();
    // the side with fewer rows: [out, in] itself, or its transpose
    let short = if wide { w.clone() } else { w.transpose() };
    let spectrum = Spectrum::of(&short)?;
    let r = rank.choose(&spectrum.energies);
    let mut near = spectrum.leading(r);
    let mut far = near.transpose() * &short;
    for (at, energy) in spectrum.energies.iter().take(r).enumerate() {
        // row `at` of `far` has the norm s: both factors get s^1/2
        let root = energy.sqrt().sqrt();
        if root > 0.0 {
            near.column_mut(at).scale_mut(root);
            far.row_mut(at).scale_mut(1.0 / root);
        }
    }
    let total: f64 = spectrum.energies.iter().sum();
    let kept: f64 = spectrum.energies.iter().take(r).sum();
    let energy = if total > 0.0 { kept / total } else { 1.0 };
    let (first, second) = if wide { (far, near) } else { (near.transpose(), far.transpose()) };
    Some(Factors { first, second, energy })
}

#[cfg(test)]
mod tests {
    use super::*;
    use nalgebra::SVD;
    use proptest::prelude::*;

    fn matrix() -> impl Strategy<Value = DMatrix<f64>> {
        (1usize..10, 1usize..10).prop_flat_map(|(r, c)| {
            proptest::collection::vec(-1.0f64..1.0, r * c)
                .prop_map(move |v| DMatrix::from_row_slice(r, c, &v))
        })
    }

    proptest! {
        /// Eckart & Young 1936: the squared error of the best rank-r matrix is the sum of the squared tail.
        #[test]
        fn error_is_the_tail(w in matrix(), rank in 1usize..10) {
            let factors = truncate(&w, Rank::Fixed(rank)).unwrap();
            let r = rank.min(w.nrows().min(w.ncols()));
            prop_assert_eq!(factors.first.shape(), (r, w.ncols()));
            prop_assert_eq!(factors.second.shape(), (w.nrows(), r));
            let svd = SVD::new(w.clone(), false, false);
            let mut singular: Vec<f64> = svd.singular_values.iter().copied().collect();
            singular.sort_by(|a, b| b.total_cmp(a));
            let tail: f64 = singular.iter().skip(r).map(|s| s * s).sum();
            let error = (&factors.second * &factors.first - &w).norm_squared();
            prop_assert!((error - tail).abs() < 1e-10, "{} {}", error, tail);
            prop_assert!((factors.energy - (1.0 - tail / w.norm_squared())).abs() < 1e-10);
        }

        #[test]
        fn the_factors_are_balanced(w in matrix()) {
            let factors = truncate(&w, Rank::Energy(0.9)).unwrap();
            for at in 0..factors.first.nrows() {
                let (a, b) = (factors.first.row(at).norm(), factors.second.column(at).norm());
                prop_assert!((a - b).abs() < 1e-6 * (1.0 + a), "{} {}", a, b);
            }
        }

        #[test]
        fn ranks_and_energies_rise(w in matrix(), a in 0.01f64..1.0, b in 0.01f64..1.0) {
            let low = truncate(&w, Rank::Energy(a.min(b))).unwrap();
            let high = truncate(&w, Rank::Energy(a.max(b))).unwrap();
            prop_assert!(low.first.nrows() <= high.first.nrows());
            prop_assert!(low.energy >= a.min(b) - 1e-12 && high.energy >= a.max(b) - 1e-12);
        }
    }

    #[test]
    fn zeros_have_rank_one() {
        let factors = truncate(&DMatrix::zeros(3, 5), Rank::Energy(0.9)).unwrap();
        assert_eq!((factors.first.nrows(), factors.energy), (1, 1.0));
        assert_eq!(&factors.second * &factors.first, DMatrix::zeros(3, 5));
    }
}
