//! Activations on a grid whose step is learned: the layer that `quant.qat` puts before the layers it trains.

use crate::grid::Grid;
use crate::int8_range::{read_affine, read_bits, write_affine};
use crate::lsq;
use cnn_core::model_file::{Decoder, Encoder};
use cnn_core::tensor::{slice, slice_mut, tensor, zeros};
use cnn_core::train::{Backward, Input, Needs, Step, Trainable};
use cnn_core::{ChannelRule, Cost, Error, Keep, Layer, Param, Result, Role, Tensor};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// Values that a thread works on at a time.
const CHUNK: usize = 1 << 14;

/// Weight decay of PACT's clipping level (Choi et al. 2018, section 3 and table 2).
const PACT_DECAY: f32 = 2e-4;

/// What moves the step of an activation's grid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepGradient {
    /// Rounding errors inside and the cut-off beyond (LSQ; Esser et al. 2020, eq. 3).
    #[default]
    Lsq,
    /// The cut-off alone, with weight decay: `dy / d alpha = 1` where `x >= alpha`, for the clipping level `alpha = s Q_P` (PACT; Choi et al.
    /// 2018, "PACT: Parameterized Clipping Activation for Quantized Neural Networks", eq. 3).
    Pact,
}

/// `y = s clip(round(x / s))` with a learned step `s` and as many levels as the grid it began with.
#[derive(Debug, Clone)]
pub struct LearnedGrid {
    /// Its ends; the step counts only at the beginning.
    levels: Grid,
    gradient: StepGradient,
    step: Param,
}

impl LearnedGrid {
    /// Kind of the layer.
    pub const KIND: &'static str = "quant.learned_grid";

    /// The layer, with a grid to begin with.
    ///
    /// # Errors
    /// None in practice.
    pub fn new(start: Grid, gradient: StepGradient) -> Result<LearnedGrid> {
        let step = Param::new(Role::Constraint, tensor(&[1], vec![start.step])?);
        Ok(LearnedGrid { levels: start, gradient, step })
    }

    /// The grid as it is now.
    pub fn grid(&self) -> Grid {
        let step = self.step.value().iter().next().copied().unwrap_or_default();
        Grid { step: lsq::positive(step), ..self.levels }
    }

    pub(crate) fn decode(from: &mut Decoder<'_>) -> Result<Box<dyn Layer>> {
        let bits = read_bits(from)?;
        let levels = read_affine(bits, from)?;
        let gradient = match from.byte()? {
            0 => StepGradient::Lsq,
            1 => StepGradient::Pact,
            other => return Err(Error::malformed(format!("an unknown gradient {other} of a step"))),
        };
        Ok(Box::new(LearnedGrid { levels, gradient, step: from.param(Role::Constraint, &[1])? }))
    }

    fn round(&self, x: &[f32], y: &mut [f32]) {
        let grid = self.grid();
        let chunks = y.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK));
        chunks.for_each(|(y, x)| lsq::round(grid, x, y));
    }
}

impl Layer for LearnedGrid {
    fn kind(&self) -> &'static str {
        LearnedGrid::KIND
    }

    fn output_shape(&self, inputs: &[&[usize]]) -> Result<Vec<usize>> {
        match inputs {
            [one] => Ok(one.to_vec()),
            _ => Err(Error::Shape(format!("a grid takes one input, got {}", inputs.len()))),
        }
    }

    fn infer(&self, inputs: &[&Tensor]) -> Result<Tensor> {
        let shapes: Vec<&[usize]> = inputs.iter().map(|t| t.shape()).collect();
        let mut y = zeros(&self.output_shape(&shapes)?);
        self.round(slice(inputs[0])?, slice_mut(&mut y)?);
        Ok(y)
    }

    fn cost(&self, _inputs: &[&[usize]]) -> Result<Cost> {
        Ok(Cost::default())
    }

    fn encode(&self, out: &mut Encoder) -> Result<()> {
        out.byte(self.levels.bits());
        write_affine(self.levels, out);
        out.byte(self.gradient as u8);
        out.param(&self.step)
    }

    fn clone_box(&self) -> Box<dyn Layer> {
        Box::new(self.clone())
    }

    fn params(&self) -> Vec<&Param> {
        vec![&self.step]
    }

    fn trainable(&mut self) -> Option<&mut dyn Trainable> {
        Some(self)
    }

    fn channels(&self, _inputs: &[&[usize]]) -> ChannelRule {
        ChannelRule::Same
    }

    fn select(&mut self, _keep: Keep<'_>) -> Result<()> {
        Ok(())
    }
}

impl Trainable for LearnedGrid {
    fn needs(&self) -> Needs {
        Needs { inputs: true, output: false }
    }

    fn forward(&mut self, inputs: &mut [Input<'_>], step: &mut Step<'_>) -> Result<Tensor> {
        let x = inputs[0].get();
        let mut y = step.pool.take(x.shape());
        self.round(slice(x)?, slice_mut(&mut y)?);
        Ok(y)
    }

    fn backward(&mut self, at: Backward<'_>, _step: &mut Step<'_>) -> Result<Vec<Option<Tensor>>> {
        let x = at.input(0)?;
        let (grid, pact) = (self.grid(), self.gradient == StepGradient::Pact);
        let mut grad = at.grad;
        let chunks = slice_mut(&mut grad)?.par_chunks_mut(CHUNK).zip(slice(x)?.par_chunks(CHUNK));
        // summed in the order of the chunks, whoever did them
        let sums: Vec<f64> = chunks.map(|(grad, x)| lsq::pull_back(grid, x, grad, pact)).collect();
        let sum = sums.iter().sum::<f64>() as f32;
        let of_step = match self.gradient {
            StepGradient::Lsq => sum * lsq::scale(x.len() / x.shape()[0].max(1), &grid),
            // a step of descent for alpha = s Q_P is one of 1 / Q_P^2 as much for s
            StepGradient::Pact => {
                let ends = f32::from(grid.high.max(-grid.low));
                sum / (ends * ends) + PACT_DECAY * grid.step
            }
        };
        self.step.write_grad(|g| g[0] = of_step);
        Ok(vec![Some(grad)])
    }

    fn params_mut(&mut self) -> Vec<&mut Param> {
        vec![&mut self.step]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cnn_core::Registry;
    use cnn_core::testing::check_layer;
    use cnn_core::train::{Pool, Saved};

    fn step_gradient(layer: &mut LearnedGrid, x: &[f32], grad: &[f32]) -> (Vec<f32>, f32) {
        let x = tensor(&[1, x.len()], x.to_vec()).unwrap();
        let (mut pool, mut saved) = (Pool::default(), Saved::default());
        let mut step = Step { pool: &mut pool, saved: &mut saved, seed: 0 };
        let at = Backward {
            inputs: &[Some(&x)],
            output: None,
            shapes: &[x.shape()],
            grad: tensor(x.shape(), grad.to_vec()).unwrap(),
            wanted: &[true],
        };
        let grads = layer.backward(at, &mut step).unwrap();
        let of_step = layer.step.grad().unwrap()[[0]];
        (grads[0].as_ref().unwrap().iter().copied().collect(), of_step)
    }

    #[test]
    fn gradients_by_hand() {
        let grid = Grid { step: 0.5, low: 0, high: 3 };
        // levels: -0.2 is 0 (beyond), 0.6 is 1.2, 9.0 is beyond
        let (x, g) = ([-0.2, 0.6, 9.0], [1.0, 10.0, 100.0]);
        let (dx, ds) = step_gradient(&mut LearnedGrid::new(grid, StepGradient::Lsq).unwrap(), &x, &g);
        assert_eq!(dx, [0.0, 10.0, 0.0]);
        // 10 (1 - 1.2) + 100 x 3, over sqrt(3 values x 3)
        assert!((ds - 298.0 / 3.0).abs() < 1e-4, "{ds}");
        let (dx, ds) = step_gradient(&mut LearnedGrid::new(grid, StepGradient::Pact).unwrap(), &x, &g);
        assert_eq!(dx, [0.0, 10.0, 0.0]);
        assert!((ds - (300.0 / 9.0 + PACT_DECAY * 0.5)).abs() < 1e-4, "{ds}");
    }

    #[test]
    fn it_keeps_the_contract() {
        let mut registry = Registry::core();
        crate::register(&mut registry);
        let x = tensor(&[2, 3, 2, 2], (0..24).map(|i| 0.1 * i as f32 - 0.7).collect()).unwrap();
        for (grid, gradient) in [
            (Grid::affine_bits(-0.5, 1.0, 4), StepGradient::Lsq),
            (Grid::affine_bits(0.0, 1.0, 2), StepGradient::Pact),
        ] {
            check_layer(&LearnedGrid::new(grid, gradient).unwrap(), &x, &registry).unwrap();
        }
    }
}
