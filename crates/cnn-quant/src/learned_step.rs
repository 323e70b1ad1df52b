//! Weights on grids whose steps are learned: the constraint of `quant.qat`.

use crate::grid::Grid;
use crate::int8_range::{WeightGrid, best_part, read_bits};
use crate::lsq;
use cnn_core::model_file::{Decoder, Encoder};
use cnn_core::tensor::tensor;
use cnn_core::{Constraint, Param, Result, Role, Tensor};

/// Kind of the constraint.
pub const LEARNED_STEP: &str = "quant.learned_step";

/// `w <- s_m clip(round(w / s_m))` for the weights of output channel `m`, levels `-2^(b-1)` to `2^(b-1) - 1`, with the step `s_m` learned
/// beside the weights (Esser et al. 2020, eq. 1 to 3; there one step a layer). Gradients pass straight through, but not beyond the ends.
#[derive(Debug, Clone)]
pub struct LearnedStep {
    bits: u8,
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
    pub fn new(weight: &Tensor, bits: u8) -> Result<LearnedStep> {
        let step = |row: ndarray::ArrayViewD<'_, f32>| {
            let row: Vec<f32> = row.iter().copied().collect();
            let part = best_part(&row, WeightGrid::Signed, bits);
            let (min, max) = crate::grid::range(row).unwrap_or_default();
            // a constant is lossless as it is
            let part = if min == max { 1.0 } else { part };
            WeightGrid::Signed.of(min * part, max * part, bits).step
        };
        let steps: Vec<f32> = weight.outer_iter().map(step).collect();
        Ok(LearnedStep { bits, steps: Param::new(Role::Constraint, tensor(&[steps.len()], steps)?) })
    }

    /// Bits of a weight.
    pub fn bits(&self) -> u8 {
        self.bits
    }

    /// The grid of each output channel.
    pub fn grids(&self) -> Vec<Grid> {
        let grid = WeightGrid::Signed.of(0.0, 0.0, self.bits);
        self.steps.value().iter().map(|&step| Grid { step: lsq::positive(step), ..grid }).collect()
    }

    pub(crate) fn decode(from: &mut Decoder<'_>) -> Result<Box<dyn Constraint>> {
        let bits = read_bits(from)?;
        let count = from.uint()?;
        Ok(Box::new(LearnedStep { bits, steps: from.param(Role::Constraint, &[count])? }))
    }
}

impl Constraint for LearnedStep {
    fn kind(&self) -> &'static str {
        LEARNED_STEP
    }

    fn materialize(&self, w: &mut Tensor) {
        for (mut row, grid) in w.outer_iter_mut().zip(self.grids()) {
            row.mapv_inplace(|w| grid.round(w));
        }
    }

    fn pull_back(&mut self, input: &Tensor, grad: &mut Tensor) {
        let mut of_steps = Vec::with_capacity(self.steps.len());
        for ((w, mut g), grid) in input.outer_iter().zip(grad.outer_iter_mut()).zip(self.grids()) {
            let mut sum = 0f64;
            for (&w, g) in w.iter().zip(&mut g) {
                let (by_w, by_step) = lsq::slopes(w, &grid);
                sum += f64::from(*g * by_step);
                *g *= by_w;
            }
            of_steps.push(sum as f32 * lsq::scale(w.len(), &grid));
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
        out.byte(self.bits);
        out.uint(self.steps.len())?;
        out.param(&self.steps)
    }

    fn clone_box(&self) -> Box<dyn Constraint> {
        Box::new(self.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn constrained(values: &[f32], bits: u8) -> Param {
        let w = tensor(&[2, values.len() / 2], values.to_vec()).unwrap();
        let constraint = LearnedStep::new(&w, bits).unwrap();
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
