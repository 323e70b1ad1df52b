//! The gradients of rounding to a grid whose step is learned (Esser et al. 2020, "Learned Step Size Quantization").

use crate::grid::Grid;

/// With `v` a value, `s` the step and `Q_N <= 0 < Q_P` the ends of the grid, the point of the grid is `s clip(round(v / s))`. Returns its
/// derivatives by `v` and by `s`, rounding taken for the identity (eq. 3 and 5 of the paper):
///
/// - inside: `1` and `round(v / s) - v / s`;
/// - beyond: `0` and `Q_N` or `Q_P`.
pub fn slopes(v: f32, grid: &Grid) -> (f32, f32) {
    let (low, high) = (f32::from(grid.low), f32::from(grid.high));
    let at = v / grid.step;
    if at <= low {
        (0.0, low)
    } else if at >= high {
        (0.0, high)
    } else {
        (1.0, at.round_ties_even() - at)
    }
}

/// What the gradient of a step is multiplied by, for a grid that `count` values share: `g = 1 / sqrt(N Q_P)` (section 2.2), so that steps
/// change in proportion as much as the values do.
pub fn scale(count: usize, grid: &Grid) -> f32 {
    let most = f64::from(grid.high.max(-grid.low).max(1));
    (1.0 / (count.max(1) as f64 * most).sqrt()) as f32
}

/// A step that training drove to nothing, or below, is the smallest one.
pub fn positive(step: f32) -> f32 {
    step.max(f32::MIN_POSITIVE)
}
