//! From floats to levels and back, many at a time.

use crate::grid::Grid;
use bytemuck::{Pod, cast_slice_mut};
use cnn_core::session::View;
use cnn_core::simd::{Isa, Simd, SimdOp};
use std::ops::Range;

/// `1.5 * 2^23`: a float of this size has steps of one, and its last bits count them.
const MAGIC: f32 = 12_582_912.0;

/// [`Grid::level`] of every value.
pub fn levels(isa: Isa, grid: Grid, x: &[f32], to: &mut [i16]) {
    isa.run(Levels { grid, x, to });
}

/// The same levels of some pixels, less the lowest one of the grid, whether the pixels are floats or codes already; those of a pixel begin
/// `pitch` after those of the one before.
pub fn codes<T: Copy + From<u8>>(
    isa: Isa,
    grid: Grid,
    x: View<'_>,
    pixels: Range<usize>,
    to: &mut [T],
    pitch: usize,
) {
    let fill = |from: &[u8], to: &mut [T]| to.iter_mut().zip(from).for_each(|(to, &code)| *to = code.into());
    if x.codes == 0 {
        codes_of_floats(isa, grid, x, pixels, to, pitch);
    } else if let Some(run) = x.run_of_codes(pixels.clone()).filter(|run| run.len() == to.len()) {
        fill(run, to);
    } else {
        pixels.zip(to.chunks_exact_mut(pitch)).for_each(|(p, to)| fill(x.codes(p), to));
    }
}

fn codes_of_floats<T: Copy + From<u8>>(
    isa: Isa,
    grid: Grid,
    x: View<'_>,
    pixels: Range<usize>,
    to: &mut [T],
    pitch: usize,
) {
    isa.run(Codes { grid, x, pixels, to, pitch });
}

/// Channels of a pixel whose codes [`codes_of_planes`] writes, those that are not there among them.
pub const PLANES: usize = 4;

/// The codes of some pixels of an image of at most [`PLANES`] planes, channels last; where there is no plane, they are 0.
///
/// # Panics
/// If there are more planes, or pixels, than that.
pub fn codes_of_planes<T: Pod>(
    isa: Isa,
    grid: Grid,
    image: &[f32],
    plane: usize,
    pixels: Range<usize>,
    to: &mut [T],
) {
    let row = |c: usize| &image[c * plane..][pixels.clone()];
    let to = cast_slice_mut(to);
    match image.len() / plane {
        1 => isa.run(Planes { grid, planes: [row(0)], bits: 8 * size_of::<T>(), to }),
        2 => isa.run(Planes { grid, planes: [row(0), row(1)], bits: 8 * size_of::<T>(), to }),
        3 => isa.run(Planes { grid, planes: [row(0), row(1), row(2)], bits: 8 * size_of::<T>(), to }),
        4 => isa.run(Planes { grid, planes: [row(0), row(1), row(2), row(3)], bits: 8 * size_of::<T>(), to }),
        planes => panic!("{planes} planes"),
    }
}

/// `y_m = (sum_m + b_m) s_m`, where the sum with the bias is rounded once, as in
/// [`Int8Weights::finish`](crate::Int8Weights::finish).
pub fn scale_back<T: Copy + Into<f64>>(isa: Isa, sums: &[T], bias: &[f64], steps: &[f32], y: &mut [f32]) {
    isa.run(ScaleBack { sums, bias, steps, y });
}

struct Levels<'a> {
    grid: Grid,
    x: &'a [f32],
    to: &'a mut [i16],
}

impl SimdOp for Levels<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, _isa: S) {
        for (to, &x) in self.to.iter_mut().zip(self.x) {
            let value = if x.is_nan() { 0.0 } else { x };
            let (low, high) = (f32::from(self.grid.low), f32::from(self.grid.high));
            let level = (value / self.grid.step).clamp(low, high) + MAGIC;
            *to = level.to_bits().wrapping_sub(MAGIC.to_bits()) as i16;
        }
    }
}

struct Codes<'a, T> {
    grid: Grid,
    x: View<'a>,
    pixels: Range<usize>,
    to: &'a mut [T],
    pitch: usize,
}

impl<T: Copy + From<u8>> SimdOp for Codes<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, _isa: S) {
        let levels = cnn_core::session::Levels::from(self.grid);
        let code = |x: f32| T::from(levels.code(x));
        let each = self.x.channels;
        // long loops: a pixel may have but a few channels
        if let Some(x) = self.x.run(self.pixels.clone()) {
            let (packed, pitch) = (x.len(), self.pitch);
            self.to.iter_mut().zip(x).for_each(|(to, &x)| *to = code(x));
            // from the last pixel on, what lies behind it is free
            match (each, pitch) {
                _ if each == pitch => {}
                (3, 4) => {
                    for p in (0..packed / 3).rev() {
                        let pixel = [self.to[3 * p], self.to[3 * p + 1], self.to[3 * p + 2], T::from(0)];
                        self.to[4 * p..][..4].copy_from_slice(&pixel);
                    }
                }
                _ => {
                    for p in (0..packed / each).rev() {
                        self.to.copy_within(p * each..(p + 1) * each, p * pitch);
                    }
                }
            }
            return;
        }
        for (p, to) in self.pixels.zip(self.to.chunks_mut(self.pitch)) {
            to.iter_mut().zip(self.x.pixel(p)).for_each(|(to, &x)| *to = code(x));
        }
    }
}

/// Pixels are built as whole numbers, of four codes each.
struct Planes<'a, const C: usize> {
    grid: Grid,
    planes: [&'a [f32]; C],
    bits: usize,
    to: &'a mut [u8],
}

impl<const C: usize> SimdOp for Planes<'_, C> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, _isa: S) {
        let levels = cnn_core::session::Levels::from(self.grid);
        match self.bits {
            8 => {
                let to: &mut [u32] = cast_slice_mut(self.to);
                // so long as the loop, which then has no checks and becomes vectors
                let planes = self.planes.map(|plane| &plane[..to.len()]);
                for (p, to) in to.iter_mut().enumerate() {
                    let codes = planes
                        .iter()
                        .enumerate()
                        .map(|(c, plane)| u32::from(levels.code(plane[p])) << (8 * c));
                    *to = codes.fold(0, |pixel, code| pixel | code);
                }
            }
            _ => {
                let to: &mut [u64] = cast_slice_mut(self.to);
                let planes = self.planes.map(|plane| &plane[..to.len()]);
                for (p, to) in to.iter_mut().enumerate() {
                    let codes = planes
                        .iter()
                        .enumerate()
                        .map(|(c, plane)| u64::from(levels.code(plane[p])) << (16 * c));
                    *to = codes.fold(0, |pixel, code| pixel | code);
                }
            }
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
