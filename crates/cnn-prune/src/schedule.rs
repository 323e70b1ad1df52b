//! How sparsity grows over the rounds of pruning and retraining.

use serde::{Deserialize, Serialize};

/// How sparsity grows over the rounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    /// Fast while there is much to remove, slow at the end: [`cubic`].
    #[default]
    Cubic,
    /// Every round removes the same number.
    Linear,
    /// Every round removes the same share of what is left, as in the iterative pruning of Han et al. 2015 and of Frankle & Carbin
    /// 2019: [`geometric`].
    Geometric,
}

impl Schedule {
    /// The part of the way, from 0 to 1, after round `t` of `n` to a share `ratio` of the weights.
    pub fn part(self, t: usize, n: usize, ratio: f64) -> f64 {
        match self {
            _ if t >= n => 1.0,
            Schedule::Cubic => cubic(0.0, 1.0, t, n),
            Schedule::Linear => t as f64 / n as f64,
            Schedule::Geometric if ratio > 0.0 => geometric(ratio, t, n) / ratio,
            Schedule::Geometric => 0.0,
        }
    }
}

/// The sparsity after round `t` of `n` when each round removes the same share of what is left:
/// `s_t = 1 - (1 - s_f)^(t / n)`.
pub fn geometric(last: f64, t: usize, n: usize) -> f64 {
    1.0 - (1.0 - last).powf(t as f64 / n.max(1) as f64)
}

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

    #[test]
    fn all_schedules_end_at_the_ratio() {
        for schedule in [Schedule::Cubic, Schedule::Linear, Schedule::Geometric] {
            let parts: Vec<f64> = (0..=5).map(|t| schedule.part(t, 5, 0.9)).collect();
            assert!(parts[0].abs() < 1e-12 && parts[5] == 1.0, "{parts:?}");
            assert!(parts.windows(2).all(|p| p[0] < p[1]), "{parts:?}");
        }
        // half of what is left in each of two rounds
        assert!((Schedule::Geometric.part(1, 2, 0.75) * 0.75 - 0.5).abs() < 1e-12);
    }
}
