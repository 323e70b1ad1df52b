//! The selection of columns by LASSO, and the least squares that follow.

use nalgebra::{DMatrix, DVector};

/// Sweeps of coordinate descent for one penalty.
const SWEEPS: usize = 200;
/// Factor from one penalty to the next.
const GROWTH: f64 = 1.5;
/// Share of the mean diagonal that is added to it, so that columns that depend on each other can be solved for.
const RIDGE: f64 = 1e-6;

/// At most `keep` of the columns of a regression, ascending: those with `beta != 0` in
///
/// ```text
/// min over beta of  beta' G beta / 2 - b' beta + lambda |beta|_1      (He, Zhang & Sun 2017, equation 2)
/// ```
///
/// for the Gram matrix `G` of the columns and their products `b` with the target, where `lambda` grows until so few are left. When the
/// last step drops too many at once, the largest of the step before fill up.
pub(super) fn select(gram: &DMatrix<f64>, products: &DVector<f64>, keep: usize) -> Vec<usize> {
    let columns = products.len();
    let keep = keep.min(columns);
    // below this penalty nothing need be zero, above the largest everything is
    let largest = products.amax().max(f64::MIN_POSITIVE);
    let mut lambda = largest * 1e-5;
    // from zero, so that of columns that are alike one takes all
    let mut beta = DVector::zeros(columns);
    let mut before = DVector::zeros(columns);
    loop {
        descend(gram, products, lambda, &mut beta);
        if beta.iter().filter(|b| **b != 0.0).count() <= keep || lambda > largest {
            break;
        }
        before.copy_from(&beta);
        lambda *= GROWTH;
    }
    let mut chosen: Vec<usize> = (0..columns).filter(|&i| beta[i] != 0.0).collect();
    let weight = |i: usize| before[i].abs() * gram[(i, i)].max(0.0).sqrt();
    let mut rest: Vec<usize> = (0..columns).filter(|i| !chosen.contains(i)).collect();
    rest.sort_by(|&i, &j| weight(j).total_cmp(&weight(i)).then(i.cmp(&j)));
    chosen.extend(rest.into_iter().take(keep.saturating_sub(chosen.len())));
    chosen.truncate(keep);
    chosen.sort_unstable();
    chosen
}

/// Coordinate descent: `beta_j <- S(b_j - sum_{k != j} G_jk beta_k, lambda) / G_jj` with the soft threshold `S`.
fn descend(gram: &DMatrix<f64>, products: &DVector<f64>, lambda: f64, beta: &mut DVector<f64>) {
    // gradient of the smooth part without the products: G beta
    let mut g_beta = gram * &*beta;
    for _ in 0..SWEEPS {
        let mut moved = 0f64;
        for j in 0..beta.len() {
            let diagonal = gram[(j, j)];
            let old = beta[j];
            let rest = products[j] - (g_beta[j] - diagonal * old);
            let new = match diagonal > 0.0 {
                true => rest.signum() * (rest.abs() - lambda).max(0.0) / diagonal,
                false => 0.0,
            };
            if new != old {
                g_beta.axpy(new - old, &gram.column(j), 1.0);
                beta[j] = new;
                moved = moved.max((new - old).abs());
            }
        }
        if moved <= 1e-6 * beta.amax() {
            break;
        }
    }
}

/// `W + D` with the `D` of least length that makes `|Y - X (W + D)|^2` smallest, given `X'X` and `X'Y`: least squares that stay at the
/// weights there are where the samples say nothing.
pub(super) fn least_squares(
    xx: &DMatrix<f64>,
    xy: &DMatrix<f64>,
    weights: &DMatrix<f64>,
) -> Option<DMatrix<f64>> {
    let rest = xy - xx * weights;
    let mut ridged = xx.clone();
    let ridge = RIDGE * xx.trace() / xx.nrows().max(1) as f64 + f64::MIN_POSITIVE;
    (0..ridged.nrows()).for_each(|i| ridged[(i, i)] += ridge);
    Some(weights + ridged.cholesky()?.solve(&rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    #[test]
    fn the_columns_that_make_the_target_are_found() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let x = DMatrix::from_fn(200, 8, |_, _| rng.random_range(-1.0..1.0f64));
        // of eight columns three matter
        let y = x.column(1) * 2.0 + x.column(4) * -1.0 + x.column(6) * 0.5;
        let (gram, products) = (x.tr_mul(&x), x.tr_mul(&y));
        assert_eq!(select(&gram, &products, 3), [1, 4, 6]);
        assert_eq!(select(&gram, &products, 1), [1]);
        assert_eq!(select(&gram, &products, 8).len(), 8);
        assert_eq!(select(&gram, &products, 20).len(), 8);
    }

    #[test]
    fn least_squares_find_the_weights() {
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        let x = DMatrix::from_fn(50, 4, |_, _| rng.random_range(-1.0..1.0f64));
        let w = DMatrix::from_fn(4, 2, |i, j| (i + 2 * j) as f64);
        let y = &x * &w;
        let found = least_squares(&x.tr_mul(&x), &x.tr_mul(&y), &DMatrix::zeros(4, 2)).unwrap();
        assert!((found - &w).amax() < 1e-4);
        // columns that are alike can be solved for
        let mut x = x;
        let copy = x.column(1).into_owned();
        x.set_column(3, &copy);
        let y = &x * &w;
        let found = least_squares(&x.tr_mul(&x), &x.tr_mul(&y), &DMatrix::zeros(4, 2)).unwrap();
        assert!((&x * found - &y).amax() < 1e-4);
        // without samples the weights stay
        let stay = least_squares(&DMatrix::zeros(4, 4), &DMatrix::zeros(4, 2), &w).unwrap();
        assert_eq!(stay, w);
    }
}
