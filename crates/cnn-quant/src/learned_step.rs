//! Weights on grids whose steps are learned: the constraint of `quant.qat`.

use crate::grid::Grid;
use crate::int8_range::{WeightGrid, best_part};
use crate::lsq;
use cnn_core::model_file::{Decoder, Encoder};
use cnn_core::tensor::tensor;
use cnn_core::{Constraint, Param, Result, Role, Tensor};
use serde::{Deserialize, Serialize};

/// Kind of the constraint.
pub const LEARNED_STEP: &str = "quant.learned_step";

/// Where the points of a grid of weights lie (the two uniform quantizers of signal processing).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Points {
    /// At whole steps, zero among them: `-2^(b-1)` to `2^(b-1) - 1`, one more below zero than above.
    #[default]
    MidTread,
    /// Between whole steps, as many on either side: with two bits -1.5, -0.5, 0.5 and 1.5 steps. Zero is none, so that pruned weights come
    /// back. For layers of at most seven bits; others have the former.
    MidRise,
}

/// Steps that are tried.
const PARTS: usize = 64;

/// Flag of [`Points::MidRise`] beside the bits in a file.
const MID_RISE: u8 = 0x10;

/// `w <- s_m clip(round(w / s_m))` for the weights of output channel `m`, levels `-2^(b-1)` to `2^(b-1) - 1`, with the step `s_m` learned
/// beside the weights (Esser et al. 2020, eq. 1 to 3; there one step a layer). Gradients pass straight through, but not beyond the ends.
/// Between whole steps ([`Points::MidRise`]) it is `s_m (clip(floor(w / s_m)) + 1 / 2)`.
#[derive(Debug, Clone)]
pub struct LearnedStep {
    bits: u8,
    points: Points,
    /// `s`, one for each output channel.
    steps: Param,
}

impl LearnedStep {
    /// The constraint for a weight `[out, ...]`; steps begin where the squared error is smallest.
    ///
    /// # Errors
    /// None in practice.
    ///
    /// # Panics
    /// For bits that are not 2 to 8.
    pub fn new(weight: &Tensor, bits: u8, points: Points) -> Result<LearnedStep> {
        let points = if bits < 8 { points } else { Points::MidTread };
        let step = |row: ndarray::ArrayViewD<'_, f32>| {
            let row: Vec<f32> = row.iter().copied().collect();
            if points == Points::MidRise {
                return best_between(&row, bits);
            }
            let part = best_part(&row, WeightGrid::Signed, bits);
            let (min, max) = crate::grid::range(row).unwrap_or_default();
            // a constant is lossless as it is
            let part = if min == max { 1.0 } else { part };
            WeightGrid::Signed.of(min * part, max * part, bits).step
        };
        let steps: Vec<f32> = weight.outer_iter().map(step).collect();
        Ok(LearnedStep { bits, points, steps: Param::new(Role::Constraint, tensor(&[steps.len()], steps)?) })
    }

    /// Bits of the grids: those of a weight, and one more where points lie between whole steps, as odd levels of half of them.
    pub fn grid_bits(&self) -> u8 {
        self.bits + u8::from(self.points == Points::MidRise)
    }

    /// The grid of each output channel, on which the weights are.
    pub fn grids(&self) -> Vec<Grid> {
        let grid = WeightGrid::Signed.of(0.0, 0.0, self.grid_bits());
        let part = if self.points == Points::MidRise { 0.5 } else { 1.0 };
        self.steps.value().iter().map(|&step| Grid { step: lsq::positive(part * step), ..grid }).collect()
    }

    pub(crate) fn decode(from: &mut Decoder<'_>) -> Result<Box<dyn Constraint>> {
        let (bits, points) = match from.byte()? {
            bits @ 2..=8 => (bits, Points::MidTread),
            flagged if (2..=7).contains(&(flagged ^ MID_RISE)) => (flagged ^ MID_RISE, Points::MidRise),
            other => return Err(cnn_core::Error::malformed(format!("learned steps with bits {other:#x}"))),
        };
        let count = from.uint()?;
        Ok(Box::new(LearnedStep { bits, points, steps: from.param(Role::Constraint, &[count])? }))
    }
}

impl Constraint for LearnedStep {
    fn kind(&self) -> &'static str {
        LEARNED_STEP
    }

    fn materialize(&self, w: &mut Tensor) {
        for (mut row, grid) in w.outer_iter_mut().zip(self.grids()) {
            match self.points {
                Points::MidTread => row.mapv_inplace(|w| grid.round(w)),
                Points::MidRise => row.mapv_inplace(|w| grid.step * odd_level(w, &grid)),
            }
        }
    }

    fn pull_back(&mut self, input: &Tensor, grad: &mut Tensor) {
        let mut of_steps = Vec::with_capacity(self.steps.len());
        for ((w, mut g), grid) in input.outer_iter().zip(grad.outer_iter_mut()).zip(self.grids()) {
            let mut sum = 0f64;
            for (&w, g) in w.iter().zip(&mut g) {
                let (by_w, by_step) = match self.points {
                    Points::MidTread => lsq::slopes(w, &grid),
                    Points::MidRise => slopes_between(w, &grid),
                };
                sum += f64::from(*g * by_step);
                *g *= by_w;
            }
            // the furthest point, in steps
            let most = match self.points {
                Points::MidTread => f32::from(grid.high.max(-grid.low)),
                Points::MidRise => 0.5 * f32::from(grid.high),
            };
            of_steps.push(sum as f32 * lsq::scale(w.len(), most));
        }
        self.steps.write_grad(|out| out.copy_from_slice(&of_steps));
    }

    fn params_mut(&mut self) -> Vec<&mut Param> {
        vec![&mut self.steps]
    }

    fn select(&mut self, axis: usize, keep: &[usize]) -> Result<()> {
        match axis {
            0 => self.steps.select(0, keep),
            _ => Ok(()),
        }
    }

    fn encode(&self, out: &mut Encoder) -> Result<()> {
        out.byte(self.bits | if self.points == Points::MidRise { MID_RISE } else { 0 });
        out.uint(self.steps.len())?;
        out.param(&self.steps)
    }

    fn clone_box(&self) -> Box<dyn Constraint> {
        Box::new(self.clone())
    }
}

/// The odd level nearest to a value, on a grid of half steps; NaN stays.
fn odd_level(w: f32, half: &Grid) -> f32 {
    let most = f32::from(half.high);
    (2.0 * (w / (2.0 * half.step)).floor() + 1.0).clamp(-most, most)
}

/// [`lsq::slopes`] for points between whole steps, `s q` with `q = clip(floor(w / s)) + 1 / 2`: inside `1` and `q - w / s`, beyond `0` and the
/// end of `q`.
fn slopes_between(w: f32, half: &Grid) -> (f32, f32) {
    let (at, q) = (w / (2.0 * half.step), 0.5 * odd_level(w, half));
    // half a step further than the last point, rounding is still to the nearest
    match at.abs() > 0.5 * (f32::from(half.high) + 1.0) {
        true => (0.0, q),
        false => (1.0, q - at),
    }
}

/// The step with which points between whole steps have the smallest squared error; that of a constant is lossless.
fn best_between(row: &[f32], bits: u8) -> f32 {
    let most = row.iter().fold(0f32, |most, w| most.max(w.abs()));
    if row.iter().all(|w| w.abs() == most) {
        return 2.0 * most;
    }
    let grid = WeightGrid::Signed.of(0.0, 0.0, bits + 1);
    let error = |step: f32| {
        let half = Grid { step: 0.5 * step, ..grid };
        row.iter().map(|&w| f64::from(w - half.step * odd_level(w, &half)).powi(2)).sum::<f64>()
    };
    // from points that lie close to the middle to such as reach the largest weight
    let steps = (1..=PARTS).map(|part| 2.0 * most / f32::from(grid.high) * part as f32 / PARTS as f32);
    let best = steps.map(|step| (step, error(step))).min_by(|a, b| a.1.total_cmp(&b.1));
    best.map_or(2.0 * most, |(step, _)| step)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn constrained(values: &[f32], bits: u8) -> Param {
        let w = tensor(&[2, values.len() / 2], values.to_vec()).unwrap();
        let constraint = LearnedStep::new(&w, bits, Points::MidTread).unwrap();
        let mut param = Param::new(Role::Weight, w);
        param.constrain(Box::new(constraint));
        param
    }

    fn grids(param: &Param) -> Vec<Grid> {
        param.constraints()[0].downcast_ref::<LearnedStep>().unwrap().grids()
    }

    proptest! {
        #[test]
        fn values_are_on_the_grid_and_zeros_stay(w in prop::collection::vec(-2f32..2.0, 12), bits in 2u8..=8) {
            let mut w = w;
            w[3] = 0.0;
            let param = constrained(&w, bits);
            for (row, grid) in param.value().outer_iter().zip(grids(&param)) {
                prop_assert!(row.iter().all(|&v| grid.value(grid.level(v)) == v));
            }
            prop_assert_eq!(param.value()[[0, 3]], 0.0);
        }

        /// The step's gradient against differences, where no value changes its level: `round` stands still, so only `s q` moves.
        #[test]
        fn beyond_the_ends_the_slope_is_that_of_the_end(over in 1.1f32..4.0) {
            let grid = Grid { step: 0.5, low: -2, high: 1 };
            prop_assert_eq!(lsq::slopes(over * 0.5, &grid), (0.0, 1.0));
            prop_assert_eq!(lsq::slopes(-2.0 * over * 0.5, &grid), (0.0, -2.0));
            let (by_v, by_s) = lsq::slopes(0.1 * over, &grid);
            prop_assert_eq!(by_v, 1.0);
            prop_assert!((by_s - ((0.2 * over).round_ties_even() - 0.2 * over)).abs() < 1e-6);
        }
    }

    proptest! {
        #[test]
        fn between_whole_steps_no_point_is_nearer(w in prop::collection::vec(-2f32..2.0, 12), bits in 2u8..=7) {
            let weight = tensor(&[2, 6], w.clone()).unwrap();
            let constraint = LearnedStep::new(&weight, bits, Points::MidRise).unwrap();
            let mut rounded = weight.clone();
            constraint.materialize(&mut rounded);
            for ((w, to), grid) in weight.outer_iter().zip(rounded.outer_iter()).zip(constraint.grids()) {
                let most = (1i16 << bits) - 1;
                prop_assert_eq!((grid.high, grid.bits()), (most, bits + 1));
                for (&w, &to) in w.iter().zip(&to) {
                    // the packed layer has it, as an odd level
                    prop_assert!(grid.level(to) % 2 != 0 && grid.value(grid.level(to)) == to);
                    let nearest = (-most..=most).step_by(2).map(|l| (grid.value(l) - w).abs());
                    let nearest = nearest.fold(f32::INFINITY, f32::min);
                    prop_assert!((to - w).abs() <= nearest * (1.0 + 1e-5) + 1e-6);
                    let (by_w, by_step) = slopes_between(w, &grid);
                    let step = 2.0 * grid.step;
                    prop_assert_eq!(by_w == 0.0, w.abs() > step * 0.5 * (f32::from(most) + 1.0));
                    prop_assert!((by_step - (to - by_w * w) / step).abs() < 1e-4);
                }
            }
        }
    }

    #[test]
    fn a_constant_is_lossless_between_whole_steps_too() {
        let w = tensor(&[2, 3], vec![0.3, -0.3, 0.3, 0.0, 0.0, 0.0]).unwrap();
        let mut rounded = w.clone();
        LearnedStep::new(&w, 2, Points::MidRise).unwrap().materialize(&mut rounded);
        assert!(cnn_core::testing::difference(&rounded, &w) < 1e-7);
    }

    #[test]
    fn steps_learn_to_fit() {
        // gradient descent on the squared error of quantization itself: the step shrinks from a bad start to a good one
        let target = [0.1f32, 0.2, 0.3, -0.1, 0.1, 0.2, 0.3, -0.1];
        let mut param = constrained(&target, 4);
        let worse = param.constraints_mut()[0].downcast_mut::<LearnedStep>().unwrap();
        worse.steps.set_base(tensor(&[2], vec![0.16, 0.16]).unwrap());
        param.refresh();
        let error = |p: &Param| p.value().iter().zip(&target).map(|(v, t)| (v - t).powi(2)).sum::<f32>();
        let before = error(&param);
        for _ in 0..200 {
            let grad: Vec<f32> = param.value().iter().zip(&target).map(|(v, t)| 2.0 * (v - t)).collect();
            param.zero_grad();
            param.write_grad(|g| g.copy_from_slice(&grad));
            param.pull_back();
            param.update(&mut |(role, _), w, g, _| {
                if role == Role::Constraint {
                    w.scaled_add(-0.05, g)
                }
            });
        }
        assert!(error(&param) < 0.1 * before, "{before} became {}", error(&param));
    }
}
