//! Weights, bias and grids of an 8-bit layer: what both packed layers of `quant.int8` hold.

use crate::coding::symbols;
use crate::error::Error;
use crate::grid::Grid;
use crate::int8_range::{Int8Range, WeightGrid, read_affine, read_bits, read_grid, write_affine};
use cnn_core::Tensor;
use cnn_core::model_file::{Decoder, Encoder};
use rayon::prelude::*;

/// A bias is at most `2^30` steps, so that a channel whose weights are next to nothing keeps its bias.
const BIAS_LEVELS: f64 = (1u64 << 30) as f64;

/// Levels of the weights, 32-bit bias, and the grids of weights and input.
#[derive(Debug, Clone, PartialEq)]
pub struct Int8Weights {
    shape: Vec<usize>,
    kind: WeightGrid,
    /// Of a weight.
    bits: u8,
    input: Grid,
    /// One for each output channel.
    grids: Vec<Grid>,
    /// Levels in row-major order.
    levels: Vec<i16>,
    /// In units of input step times weight step.
    bias: Option<Vec<i32>>,
}

/// Products of levels that 32 bits can sum, whatever their values.
fn most_terms(kind: WeightGrid) -> usize {
    let largest = match kind {
        WeightGrid::Symmetric => 127,
        WeightGrid::Affine => 255,
        WeightGrid::Signed => 128,
    };
    i32::MAX as usize / (255 * largest)
}

impl Int8Weights {
    /// Quantizes a weight `[out, ...]` and bias `[out]` on the grids of the constraint.
    ///
    /// A bias is rounded to a multiple of input step times weight step; where it would be more than `2^30` of them, the
    /// channel's weight step is made larger.
    ///
    /// # Errors
    /// [`Error::RowTooLong`] if a sum could overflow 32 bits, [`Error::CannotPack`] for NaN, infinity, or shapes that do not
    /// fit the constraint.
    pub fn new(weight: &Tensor, bias: Option<&Tensor>, range: &Int8Range) -> Result<Int8Weights, Error> {
        let (kind, bits) = (range.weights(), range.bits());
        Int8Weights::on_grids(weight, bias, (kind, bits), range.grids().to_vec(), range.input())
    }

    /// As [`Int8Weights::new`], with the kind and bits of the weights' grids, the grids, and that of the input.
    pub(crate) fn on_grids(
        weight: &Tensor,
        bias: Option<&Tensor>,
        (kind, bits): (WeightGrid, u8),
        mut grids: Vec<Grid>,
        input: Grid,
    ) -> Result<Int8Weights, Error> {
        let outputs = grids.len();
        let finite = weight.iter().chain(bias.into_iter().flatten()).all(|v| v.is_finite());
        if !finite || weight.shape().first() != Some(&outputs) || bias.is_some_and(|b| b.len() != outputs) {
            return Err(Error::CannotPack);
        }
        check_terms(kind, weight.len() / outputs.max(1))?;
        if let Some(bias) = bias {
            for (grid, &b) in grids.iter_mut().zip(bias) {
                let step = f64::from(b.abs()) / (f64::from(input.step) * BIAS_LEVELS);
                *grid = grid.coarser((step as f32).min(f32::MAX));
            }
        }
        let levels = weight
            .outer_iter()
            .zip(&grids)
            .flat_map(|(row, grid)| row.into_iter().map(|&w| grid.level(w)).collect::<Vec<_>>());
        let levels = levels.collect();
        let bias = bias.map(|bias| {
            let level = |(&b, grid): (&f32, &Grid)| {
                let steps = f64::from(b) / (f64::from(input.step) * f64::from(grid.step));
                steps.round_ties_even().clamp(-BIAS_LEVELS, BIAS_LEVELS) as i32
            };
            bias.iter().zip(&grids).map(level).collect()
        });
        Ok(Int8Weights { shape: weight.shape().to_vec(), kind, bits, input, grids, levels, bias })
    }

    /// The shape of the weights.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The grid of the input.
    pub fn input(&self) -> Grid {
        self.input
    }

    /// The grid of each output channel's weights.
    pub fn grids(&self) -> &[Grid] {
        &self.grids
    }

    /// The levels of the weights, -255 to 255, in row-major order.
    pub fn levels(&self) -> &[i16] {
        &self.levels
    }

    /// The bias in units of input step times weight step.
    pub fn bias(&self) -> Option<&[i32]> {
        self.bias.as_deref()
    }

    /// Number of weights and bias values.
    pub fn params(&self) -> u64 {
        (self.levels.len() + self.bias.as_ref().map_or(0, Vec::len)) as u64
    }

    /// Those of them that are not zero.
    pub fn nonzeros(&self) -> u64 {
        let weights = self.levels.iter().filter(|l| **l != 0).count();
        (weights + self.bias.iter().flatten().filter(|b| **b != 0).count()) as u64
    }

    /// The levels of an input.
    pub fn quantize(&self, x: &[f32]) -> Vec<i16> {
        x.par_iter().with_min_len(4096).map(|&x| self.input.level(x)).collect()
    }

    /// The value of a sum of products of levels of output channel `channel`.
    pub fn finish(&self, channel: usize, sum: i32) -> f32 {
        let bias = self.bias.as_ref().map_or(0, |b| b[channel]);
        (i64::from(sum) + i64::from(bias)) as f32 * (self.input.step * self.grids[channel].step)
    }

    /// Writes all but the shape.
    pub(crate) fn encode(&self, out: &mut Encoder) -> cnn_core::Result<()> {
        // bytes of a bias value: the fewest that hold all
        let fits = |bytes: u32| {
            let most = 1i64 << (8 * bytes - 1);
            self.bias.iter().flatten().all(|&b| (-most..most).contains(&i64::from(b)))
        };
        let width = (1..4).find(|&bytes| fits(bytes)).unwrap_or(4);
        let all_8 = (self.bits, self.input.bits()) == (8, 8);
        let few = u8::from(!all_8) << 4;
        let signed = u8::from(self.kind == WeightGrid::Signed) << 5;
        let affine = u8::from(self.kind == WeightGrid::Affine);
        out.byte(affine | u8::from(self.bias.is_some()) << 1 | (width as u8 - 1) << 2 | few | signed);
        if !all_8 {
            out.byte(self.bits);
            out.byte(self.input.bits());
        }
        write_affine(self.input, out);
        self.grids.iter().for_each(|g| out.float(g.step));
        if self.kind == WeightGrid::Affine {
            self.grids.iter().for_each(|g| out.byte((-g.low) as u8));
        }
        // a level modulo 256: zero stays zero, the reader finds the level within the grid
        let symbols: Vec<u8> = self.levels.iter().map(|&l| l as u8).collect();
        symbols::encode(out, self.grids.len(), 256, &symbols)?;
        for b in self.bias.iter().flatten() {
            out.raw(&b.to_le_bytes()[..width as usize]);
        }
        Ok(())
    }

    /// Reads what [`Int8Weights::encode`] wrote, for a shape whose sizes are not zero.
    pub(crate) fn decode(shape: &[usize], from: &mut Decoder<'_>) -> cnn_core::Result<Int8Weights> {
        // symbols first, then levels
        let count = from.claim_shape(shape)?;
        from.claim(count)?;
        let (Some(&outputs), true) = (shape.first(), count > 0) else {
            return Err(cnn_core::Error::malformed("an 8-bit layer without weights"));
        };
        let flags = from.byte()?;
        let kind = match (flags >> 5, flags & 1) {
            (0, 0) => WeightGrid::Symmetric,
            (0, 1) => WeightGrid::Affine,
            (1, 0) => WeightGrid::Signed,
            _ => {
                return Err(cnn_core::Error::malformed(format!(
                    "unknown flags {flags:#x} of an 8-bit layer"
                )));
            }
        };
        check_terms(kind, count / outputs)?;
        let (bits, input_bits) =
            if flags >> 4 & 1 == 0 { (8, 8) } else { (read_bits(from)?, read_bits(from)?) };
        let input = read_affine(input_bits, from)?;
        let steps = from.floats(outputs)?;
        let grids = steps
            .into_iter()
            .map(|step| read_grid(kind, bits, step, from))
            .collect::<cnn_core::Result<Vec<_>>>()?;
        let symbols = symbols::decode(from, outputs, 256, count)?;
        let mut levels = Vec::with_capacity(count);
        for (row, grid) in symbols.chunks(count / outputs).zip(&grids) {
            for &symbol in row {
                let level = grid.low + (i16::from(symbol) - grid.low).rem_euclid(256);
                if level > grid.high {
                    return Err(cnn_core::Error::malformed(format!(
                        "level {level} of at most {}",
                        grid.high
                    )));
                }
                levels.push(level);
            }
        }
        let mut bias = None;
        if flags & 2 != 0 {
            let width = usize::from(flags >> 2 & 3) + 1;
            let bytes = from.raw(outputs.saturating_mul(width))?;
            // the sign is in the highest byte that is there
            let value = |b: &[u8]| {
                b.iter()
                    .rev()
                    .fold(if b[width - 1] & 0x80 != 0 { -1 } else { 0 }, |v, &b| v << 8 | i32::from(b))
            };
            bias = Some(bytes.chunks_exact(width).map(value).collect());
        }
        Ok(Int8Weights { shape: shape.to_vec(), kind, bits, input, grids, levels, bias })
    }
}

fn check_terms(kind: WeightGrid, terms: usize) -> Result<(), Error> {
    let limit = most_terms(kind);
    if terms > limit { Err(Error::RowTooLong { terms, limit }) } else { Ok(()) }
}
