//! How sparsity grows over the rounds of pruning and retraining.

/// Zhu & Gupta 2017, equation 1: the sparsity after pruning step `t` of `n`,
///
/// ```text
/// s_t = s_f + (s_i - s_f) (1 - t / n)^3        (their t0 = 0, dt = 1)
/// ```
///
/// from `initial` (`s_i`) at `t = 0` to `last` (`s_f`) at `t = n` exactly: fast while there is much to
/// remove, slow at the end.
/// `n = 0` and `t > n` give `last`.
///
/// ```
/// use cnn_prune::schedule::cubic;
/// assert_eq!(cubic(0.0, 0.8, 0, 4), 0.0);
/// assert_eq!(cubic(0.0, 0.8, 2, 4), 0.8 * (1.0 - 0.125));
/// assert_eq!(cubic(0.0, 0.8, 4, 4), 0.8);
/// ```
pub fn cubic(initial: f64, last: f64, t: usize, n: usize) -> f64 {
    if t >= n {
        return last;
    }
    let left = 1.0 - t as f64 / n as f64;
    initial + (last - initial) * (1.0 - left.powi(3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rises_steadily_and_ever_more_slowly() {
        let steps: Vec<f64> = (0..=10).map(|t| cubic(0.1, 0.9, t, 10)).collect();
        assert_eq!((steps[0], steps[10]), (0.1, 0.9));
        let rises: Vec<f64> = steps.windows(2).map(|w| w[1] - w[0]).collect();
        assert!(rises.windows(2).all(|r| r[1] < r[0]) && rises.iter().all(|&r| r > 0.0), "{rises:?}");
        assert_eq!(cubic(0.0, 0.5, 0, 0), 0.5);
    }
}
