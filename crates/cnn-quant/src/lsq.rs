//! The gradients of rounding to a grid whose step is learned (Esser et al. 2020, "Learned Step Size Quantization").

use crate::grid::Grid;
use cnn_core::simd::{Isa, Simd, SimdOp};

/// Values whose parts of a sum are added up side by side.
const LANES: usize = 16;

/// With `v` a value, `s` the step and `Q_N <= 0 < Q_P` the ends of the grid, the point of the grid is `s clip(round(v / s))`. Returns its
/// derivatives by `v` and by `s`, rounding taken for the identity (eq. 3 and 5 of the paper):
///
/// - inside: `1` and `round(v / s) - v / s`;
/// - beyond: `0` and `Q_N` or `Q_P`.
#[inline(always)]
pub fn slopes(v: f32, grid: &Grid) -> (f32, f32) {
    // adding and taking away 1.5 * 2^23 rounds to even
    const MAGIC: f32 = 12_582_912.0;
    let (low, high) = (f32::from(grid.low), f32::from(grid.high));
    let at = v / grid.step;
    let nearest = at.clamp(low, high) + MAGIC - MAGIC;
    // no branches, which would keep a loop from becoming vectors
    let beyond = at <= low || at >= high;
    (if beyond { 0.0 } else { 1.0 }, nearest - if beyond { 0.0 } else { at })
}

/// The point of the grid nearest to each value.
pub fn round(grid: Grid, x: &[f32], y: &mut [f32]) {
    Isa::active().run(Round { grid, x, y });
}

struct Round<'a> {
    grid: Grid,
    x: &'a [f32],
    y: &'a mut [f32],
}

impl SimdOp for Round<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, _isa: S) {
        self.y.iter_mut().zip(self.x).for_each(|(y, &x)| *y = self.grid.round(x));
    }
}

/// Takes gradients back through [`round`]: each is multiplied by the slope by its value. Returns their sum times the slopes by the step, or
/// only of those beyond the ends.
pub fn pull_back(grid: Grid, x: &[f32], grad: &mut [f32], ends_only: bool) -> f64 {
    match ends_only {
        true => Isa::active().run(PullBack::<true> { grid, x, grad }),
        false => Isa::active().run(PullBack::<false> { grid, x, grad }),
    }
}

struct PullBack<'a, const ENDS_ONLY: bool> {
    grid: Grid,
    x: &'a [f32],
    grad: &'a mut [f32],
}

impl<const ENDS_ONLY: bool> PullBack<'_, ENDS_ONLY> {
    #[inline(always)]
    fn each(grid: &Grid, x: f32, grad: &mut f32) -> f64 {
        let (by_x, by_step) = slopes(x, grid);
        let counts = !ENDS_ONLY || by_x == 0.0;
        let part = f64::from(*grad * if counts { by_step } else { 0.0 });
        *grad *= by_x;
        part
    }
}

impl<const ENDS_ONLY: bool> SimdOp for PullBack<'_, ENDS_ONLY> {
    type Output = f64;
    #[inline(always)]
    fn run<S: Simd>(self, _isa: S) -> f64 {
        let mut sums = [0f64; LANES];
        let mut grads = self.grad.chunks_exact_mut(LANES);
        let values = self.x.chunks_exact(LANES);
        let rest = values.remainder();
        for (grads, values) in (&mut grads).zip(values) {
            for ((sum, grad), &x) in sums.iter_mut().zip(grads).zip(values) {
                *sum += Self::each(&self.grid, x, grad);
            }
        }
        let rest =
            grads.into_remainder().iter_mut().zip(rest).map(|(grad, &x)| Self::each(&self.grid, x, grad));
        sums.iter().sum::<f64>() + rest.sum::<f64>()
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
