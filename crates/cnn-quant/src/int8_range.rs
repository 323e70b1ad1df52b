//! The constraint between `apply` and `pack` of `quant.int8`: weights on the 8-bit grid, and the range of the layer's input.

use crate::grid::{Grid, range};
use cnn_core::model_file::{Decoder, Encoder};
use cnn_core::{Constraint, Error, Result, Tensor};
use serde::{Deserialize, Serialize};

/// Kind of the constraint.
pub const INT8_RANGE: &str = "quant.int8_range";

/// How weights are quantized, each output channel with a step of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WeightGrid {
    /// Levels -127 to 127.
    #[default]
    Symmetric,
    /// 256 levels between the channel's smallest and largest weight.
    Affine,
}

impl WeightGrid {
    /// The grid for weights between `min` and `max`.
    pub fn of(self, min: f32, max: f32) -> Grid {
        match self {
            WeightGrid::Symmetric => Grid::symmetric(min, max),
            WeightGrid::Affine => Grid::affine(min, max),
        }
    }
}

/// `w <- s_m round(w / s_m)` for the weights of output channel `m`, by eq. 2; gradients pass straight through.
///
/// When the network is trained further, the grids follow the weights: at each step they are those of the weights before the
/// step, so that a weight beyond the range is cut off for one step at most.
#[derive(Debug, Clone, PartialEq)]
pub struct Int8Range {
    input: Grid,
    weights: WeightGrid,
    /// One for each output channel, the first axis of the weight.
    grids: Vec<Grid>,
}

impl Int8Range {
    /// The constraint for a weight `[out, ...]` of a layer with inputs on the grid `input`. A channel that is not finite gets a
    /// grid of its own making.
    pub fn new(weight: &Tensor, weights: WeightGrid, input: Grid) -> Int8Range {
        let mut made = Int8Range { input, weights, grids: vec![Grid::symmetric(0.0, 0.0); rows(weight)] };
        made.follow(weight);
        made
    }

    /// The grid of the layer's input, from calibration.
    pub fn input(&self) -> Grid {
        self.input
    }

    /// The kind of the weights' grids.
    pub fn weights(&self) -> WeightGrid {
        self.weights
    }

    /// The grid of each output channel.
    pub fn grids(&self) -> &[Grid] {
        &self.grids
    }

    fn follow(&mut self, weight: &Tensor) {
        for (row, grid) in weight.outer_iter().zip(&mut self.grids) {
            if let Some((min, max)) = range(row.iter().copied()) {
                *grid = self.weights.of(min, max);
            }
        }
    }

    pub(crate) fn decode(from: &mut Decoder<'_>) -> Result<Box<dyn Constraint>> {
        let weights = match from.byte()? {
            0 => WeightGrid::Symmetric,
            1 => WeightGrid::Affine,
            other => return Err(Error::malformed(format!("weights on the unknown grid {other}"))),
        };
        let input = read_affine(from)?;
        let count = from.uint()?;
        // at least four bytes each
        let steps = from.floats(count)?;
        let grids = steps.into_iter().map(|step| read_grid(weights, step, from)).collect::<Result<_>>()?;
        Ok(Box::new(Int8Range { input, weights, grids }))
    }
}

fn rows(weight: &Tensor) -> usize {
    weight.shape().first().copied().unwrap_or(0)
}

/// Writes the step and `z` of an affine grid.
pub fn write_affine(grid: Grid, out: &mut Encoder) {
    out.float(grid.step);
    out.byte((-grid.low) as u8);
}

/// Reads an affine grid.
pub fn read_affine(from: &mut Decoder<'_>) -> Result<Grid> {
    let step = from.float()?;
    read_grid(WeightGrid::Affine, step, from)
}

/// The rest of a grid whose step is known: `z` if it is affine.
pub fn read_grid(kind: WeightGrid, step: f32, from: &mut Decoder<'_>) -> Result<Grid> {
    if !step.is_finite() || step <= 0.0 {
        return Err(Error::malformed(format!("a quantization step of {step}")));
    }
    Ok(match kind {
        WeightGrid::Symmetric => Grid { step, low: -127, high: 127 },
        WeightGrid::Affine => {
            let low = -i16::from(from.byte()?);
            Grid { step, low, high: low + 255 }
        }
    })
}

impl Constraint for Int8Range {
    fn kind(&self) -> &'static str {
        INT8_RANGE
    }

    fn materialize(&self, w: &mut Tensor) {
        for (mut row, grid) in w.outer_iter_mut().zip(&self.grids) {
            row.mapv_inplace(|w| grid.round(w));
        }
    }

    fn pull_back(&mut self, input: &Tensor, _grad: &mut Tensor) {
        self.follow(input);
    }

    fn select(&mut self, axis: usize, keep: &[usize]) -> Result<()> {
        if axis == 0 {
            let grids = keep.iter().map(|&at| self.grids.get(at).copied());
            self.grids = grids.collect::<Option<_>>().ok_or_else(|| {
                Error::Edit(format!("{} output channels, some of {keep:?} is not there", self.grids.len()))
            })?;
        }
        Ok(())
    }

    fn encode(&self, out: &mut Encoder) -> Result<()> {
        out.byte(self.weights as u8);
        write_affine(self.input, out);
        out.uint(self.grids.len())?;
        self.grids.iter().for_each(|g| out.float(g.step));
        if self.weights == WeightGrid::Affine {
            self.grids.iter().for_each(|g| out.byte((-g.low) as u8));
        }
        Ok(())
    }

    fn clone_box(&self) -> Box<dyn Constraint> {
        Box::new(self.clone())
    }
}
