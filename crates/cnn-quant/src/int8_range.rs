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
    /// Levels -128 to 127: all that the bits have, around zero. With 2 bits, -2 to 1.
    Signed,
}

impl WeightGrid {
    /// The grid of so many bits for weights between `min` and `max`.
    pub fn of(self, min: f32, max: f32, bits: u8) -> Grid {
        match self {
            WeightGrid::Symmetric => Grid::symmetric_bits(min, max, bits),
            WeightGrid::Affine => Grid::affine_bits(min, max, bits),
            WeightGrid::Signed => Grid::signed_bits(min, max, bits),
        }
    }
}

/// How the range of a channel's weights is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WeightRange {
    /// From the smallest to the largest weight.
    #[default]
    MinMax,
    /// The part of that at which the squared error is smallest: with few bits, cutting off a few weights makes all others finer.
    Mse,
}

/// Parts of the whole range that are tried.
const CANDIDATES: [f32; 15] =
    [1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6, 0.55, 0.5, 0.45, 0.4, 0.35, 0.3];

/// `w <- s_m round(w / s_m)` for the weights of output channel `m`, by eq. 2; gradients pass straight through.
///
/// When the network is trained further, the grids follow the weights: at each step they are those of the weights before the
/// step, so that a weight beyond the range is cut off for one step at most.
#[derive(Debug, Clone, PartialEq)]
pub struct Int8Range {
    input: Grid,
    weights: WeightGrid,
    bits: u8,
    /// For each output channel, the first axis of the weight, the part of the weights' range that its grid spans.
    parts: Vec<f32>,
    /// One for each output channel.
    grids: Vec<Grid>,
}

impl Int8Range {
    /// The constraint for a weight `[out, ...]` of a layer with inputs on the grid `input`. A channel that is not finite gets a
    /// grid of its own making.
    pub fn new(weight: &Tensor, weights: WeightGrid, input: Grid) -> Int8Range {
        Int8Range::with_bits(weight, weights, 8, WeightRange::MinMax, input)
    }

    /// As [`Int8Range::new`], with `2^bits` levels for the weights (less one on the symmetric grid), over the range of `range`.
    ///
    /// # Panics
    /// For bits that are not 2 to 8.
    pub fn with_bits(
        weight: &Tensor,
        weights: WeightGrid,
        bits: u8,
        range: WeightRange,
        input: Grid,
    ) -> Int8Range {
        let parts = match range {
            WeightRange::MinMax => vec![1.0; rows(weight)],
            WeightRange::Mse => {
                let best = |row: ndarray::ArrayViewD<'_, f32>| {
                    best_part(&row.iter().copied().collect::<Vec<_>>(), weights, bits)
                };
                weight.outer_iter().map(best).collect()
            }
        };
        let grids = vec![weights.of(0.0, 0.0, bits); rows(weight)];
        let mut made = Int8Range { input, weights, bits, parts, grids };
        made.follow(weight);
        made
    }

    /// The constraint with grids that are known, one for each output channel.
    pub(crate) fn on_grids(weights: WeightGrid, bits: u8, grids: Vec<Grid>, input: Grid) -> Int8Range {
        Int8Range { input, weights, bits, parts: vec![1.0; grids.len()], grids }
    }

    /// The grid of the layer's input, from calibration.
    pub fn input(&self) -> Grid {
        self.input
    }

    /// Bits of the weights.
    pub fn bits(&self) -> u8 {
        self.bits
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
        for ((row, grid), &part) in weight.outer_iter().zip(&mut self.grids).zip(&self.parts) {
            if let Some((min, max)) = range(row.iter().copied()) {
                // a constant is lossless as it is
                let part = if min == max { 1.0 } else { part };
                *grid = self.weights.of(min * part, max * part, self.bits);
            }
        }
    }

    pub(crate) fn decode(from: &mut Decoder<'_>) -> Result<Box<dyn Constraint>> {
        let weights = match from.byte()? {
            0 => WeightGrid::Symmetric,
            1 => WeightGrid::Affine,
            2 => WeightGrid::Signed,
            other => return Err(Error::malformed(format!("weights on the unknown grid {other}"))),
        };
        let bits = read_bits(from)?;
        let input_bits = read_bits(from)?;
        let input = read_affine(input_bits, from)?;
        let count = from.uint()?;
        // at least four bytes each
        let steps = from.floats(count)?;
        let grids =
            steps.into_iter().map(|step| read_grid(weights, bits, step, from)).collect::<Result<_>>()?;
        let parts = from.floats(count)?;
        Ok(Box::new(Int8Range { input, weights, bits, parts, grids }))
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

/// Reads a number of bits that grids can have.
pub fn read_bits(from: &mut Decoder<'_>) -> Result<u8> {
    match from.byte()? {
        bits @ 2..=8 => Ok(bits),
        bits => Err(Error::malformed(format!("a grid of {bits} bits"))),
    }
}

/// Reads an affine grid.
pub fn read_affine(bits: u8, from: &mut Decoder<'_>) -> Result<Grid> {
    let step = from.float()?;
    read_grid(WeightGrid::Affine, bits, step, from)
}

/// The rest of a grid whose step is known: `z` if it is affine.
pub fn read_grid(kind: WeightGrid, bits: u8, step: f32, from: &mut Decoder<'_>) -> Result<Grid> {
    if !step.is_finite() || step <= 0.0 {
        return Err(Error::malformed(format!("a quantization step of {step}")));
    }
    let grid = kind.of(0.0, 0.0, bits);
    Ok(match kind {
        WeightGrid::Symmetric | WeightGrid::Signed => Grid { step, ..grid },
        WeightGrid::Affine => {
            let low = -i16::from(from.byte()?);
            Grid { step, low, high: low + grid.high }
        }
    })
}

/// The part of a channel's range with the smallest squared error.
pub fn best_part(weights: &[f32], kind: WeightGrid, bits: u8) -> f32 {
    let Some((min, max)) = range(weights.iter().copied()) else { return 1.0 };
    let error = |part: f32| -> f64 {
        let grid = kind.of(min * part, max * part, bits);
        weights.iter().map(|&w| f64::from(w - grid.round(w)).powi(2)).sum()
    };
    let errors = CANDIDATES.map(|part| (error(part), part));
    errors.into_iter().min_by(|a, b| a.0.total_cmp(&b.0)).map_or(1.0, |(_, part)| part)
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
            self.parts = keep.iter().map(|&at| self.parts[at]).collect();
        }
        Ok(())
    }

    fn encode(&self, out: &mut Encoder) -> Result<()> {
        out.byte(self.weights as u8);
        out.byte(self.bits);
        out.byte(self.input.bits());
        write_affine(self.input, out);
        out.uint(self.grids.len())?;
        self.grids.iter().for_each(|g| out.float(g.step));
        if self.weights == WeightGrid::Affine {
            self.grids.iter().for_each(|g| out.byte((-g.low) as u8));
        }
        self.parts.iter().for_each(|&part| out.float(part));
        Ok(())
    }

    fn clone_box(&self) -> Box<dyn Constraint> {
        Box::new(self.clone())
    }
}
