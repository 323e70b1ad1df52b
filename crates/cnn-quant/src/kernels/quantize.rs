//! From floats to levels and back, many at a time.

use crate::grid::Grid;
use cnn_core::session::{Levels, Target, View};
use cnn_core::simd::{Isa, Simd, SimdOp};
use std::ops::Range;

/// `1.5 * 2^23`: a float of this size has steps of one, and its last bits count them.
const MAGIC: f32 = 12_582_912.0;

/// [`Grid::level`] of every value.
pub fn levels(isa: Isa, grid: Grid, x: &[f32], to: &mut [i16]) {
    isa.run(IntegerLevels { grid, x, to });
}

/// The same levels of some pixels, less the lowest one of the grid; those of a pixel begin `pitch` after those of the one before.
pub fn codes(isa: Isa, grid: Grid, x: View<'_>, pixels: Range<usize>, to: &mut [u8], pitch: usize) {
    isa.run(Codes { grid, x, pixels, to, pitch });
}

/// The same levels of some pixels as floats.
pub fn float_levels(isa: Isa, grid: Grid, x: View<'_>, pixels: Range<usize>, to: &mut [f32]) {
    isa.run(FloatLevels { grid, x, pixels, to });
}

/// The levels of codes of some pixels as floats.
pub fn levels_of_codes(isa: Isa, low: i16, x: View<'_>, pixels: Range<usize>, to: &mut [f32]) {
    isa.run(LevelsOfCodes { low, x, pixels, to });
}

/// [`Levels::code`] of a row of pixels, from floats without gaps.
pub fn row_to_codes(isa: Isa, levels: Levels, row: &[f32], pixels: Range<usize>, to: &mut Target<'_>) {
    isa.run(RowToCodes { levels, row, pixels, to });
}

/// `y_m = (sum_m + b_m) s_m`, where the sum with the bias is rounded once, as in
/// [`Int8Weights::finish`](crate::Int8Weights::finish).
pub fn scale_back<T: Copy + Into<f64>>(isa: Isa, sums: &[T], bias: &[f64], steps: &[f32], y: &mut [f32]) {
    isa.run(ScaleBack { sums, bias, steps, y });
}

/// `value / step` on the grid plus [`MAGIC`], rounded to even by the addition.
#[inline(always)]
fn shifted(grid: Grid, value: f32) -> f32 {
    let value = if value.is_nan() { 0.0 } else { value };
    (value / grid.step).clamp(f32::from(grid.low), f32::from(grid.high)) + MAGIC
}

struct IntegerLevels<'a> {
    grid: Grid,
    x: &'a [f32],
    to: &'a mut [i16],
}

impl SimdOp for IntegerLevels<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, _isa: S) {
        for (to, &x) in self.to.iter_mut().zip(self.x) {
            *to = (shifted(self.grid, x).to_bits().wrapping_sub(MAGIC.to_bits())) as i16;
        }
    }
}

struct Codes<'a> {
    grid: Grid,
    x: View<'a>,
    pixels: Range<usize>,
    to: &'a mut [u8],
    pitch: usize,
}

impl SimdOp for Codes<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, _isa: S) {
        // the float of code 0 is the lowest level's
        let lowest = (f32::from(self.grid.low) + MAGIC).to_bits();
        for (p, to) in self.pixels.zip(self.to.chunks_mut(self.pitch)) {
            for (to, &x) in to.iter_mut().zip(self.x.pixel(p)) {
                *to = shifted(self.grid, x).to_bits().wrapping_sub(lowest) as u8;
            }
        }
    }
}

struct FloatLevels<'a> {
    grid: Grid,
    x: View<'a>,
    pixels: Range<usize>,
    to: &'a mut [f32],
}

impl SimdOp for FloatLevels<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, _isa: S) {
        for (p, to) in self.pixels.zip(self.to.chunks_mut(self.x.channels)) {
            for (to, &x) in to.iter_mut().zip(self.x.pixel(p)) {
                *to = shifted(self.grid, x) - MAGIC;
            }
        }
    }
}

struct LevelsOfCodes<'a> {
    low: i16,
    x: View<'a>,
    pixels: Range<usize>,
    to: &'a mut [f32],
}

impl SimdOp for LevelsOfCodes<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, _isa: S) {
        let low = f32::from(self.low);
        for (p, to) in self.pixels.zip(self.to.chunks_mut(self.x.codes)) {
            to.iter_mut().zip(self.x.codes(p)).for_each(|(to, &code)| *to = f32::from(code) + low);
        }
    }
}

struct RowToCodes<'a, 'b> {
    levels: Levels,
    row: &'a [f32],
    pixels: Range<usize>,
    to: &'a mut Target<'b>,
}

impl SimdOp for RowToCodes<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, _isa: S) {
        let each = self.row.len() / self.pixels.len().max(1);
        for (p, row) in self.pixels.zip(self.row.chunks_exact(each.max(1))) {
            self.to.codes(p).iter_mut().zip(row).for_each(|(to, &x)| *to = self.levels.code(x));
        }
    }
}

struct ScaleBack<'a, T> {
    sums: &'a [T],
    bias: &'a [f64],
    steps: &'a [f32],
    y: &'a mut [f32],
}

impl<T: Copy + Into<f64>> SimdOp for ScaleBack<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, _isa: S) {
        let of = self.sums.iter().zip(self.bias).zip(self.steps);
        for (y, ((&sum, bias), step)) in self.y.iter_mut().zip(of) {
            // both are integers below 2^32: their sum is exact
            *y = (sum.into() + bias) as f32 * step;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_levels_are_those_of_the_grid() {
        let odd = [f32::NAN, -f32::NAN, f32::from_bits(0x7fc0_1234), f32::INFINITY, f32::NEG_INFINITY, -0.0];
        let x: Vec<f32> = (-700..700).map(|i| i as f32 / 128.0).chain(odd).collect();
        for grid in [Grid::affine(-1.0, 3.0), Grid::affine(0.5, 2.0), Grid { step: 0.25, low: -3, high: 252 }]
        {
            for isa in Isa::available() {
                let mut short = vec![7; x.len()];
                levels(isa, grid, &x, &mut short);
                for (at, &x) in x.iter().enumerate() {
                    assert_eq!(short[at], grid.level(x), "{x}");
                }
            }
        }
    }
}
