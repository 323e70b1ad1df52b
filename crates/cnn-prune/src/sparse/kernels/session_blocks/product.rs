//! The products of a row of pixels with the stored columns of all blocks of filters.

use super::super::ending::Ending;
use super::{Block, Weights};
use cnn_core::session::{Target, View};
use cnn_core::simd::{Simd, SimdOp};
use std::ops::Range;

/// Pixels that are multiplied together, at most: with more of them the multiples of the distance between them do not stay in registers,
/// which costs more than the weights that are read less often.
const PIXELS: usize = 10;

/// Pixels at equal distances, times the blocks of a part.
pub(super) struct Product<'a, 'b> {
    pub weights: &'a Weights,
    pub bias: &'a [f32],
    pub ending: &'a Ending,
    pub residual: Option<View<'a>>,
    /// Pixels that are multiplied together, at most.
    pub most: usize,
    /// First input of the first pixel: for every pixel there are the inputs of all columns.
    pub x: *const f32,
    /// Floats from a pixel to the next.
    pub step: usize,
    /// The pixels of the output.
    pub pixels: Range<usize>,
    pub out: &'a mut Target<'b>,
}

impl SimdOp for &mut Product<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        match self.weights.filters / S::LANES {
            1 => self.rows::<S, 1>(s),
            2 => self.rows::<S, 2>(s),
            other => unreachable!("{other} vectors a block"),
        }
    }
}

impl Product<'_, '_> {
    /// `N` vectors a block.
    #[inline(always)]
    fn rows<S: Simd, const N: usize>(&mut self, s: S) {
        let all = self.pixels.len();
        let most = PIXELS.min(S::ROWS[N - 1]);
        let tiles = all.div_ceil(self.most.min(most));
        for tile in 0..tiles {
            let rows = tile * all / tiles..(tile + 1) * all / tiles;
            macro_rules! by_rows {
                ($($rows:literal $sums:literal),*) => {
                    match rows.len() {
                        $($rows if $rows <= most => self.tile::<S, N, $rows, $sums>(s, rows.start),)*
                        other => unreachable!("{other} rows"),
                    }
                };
            }
            by_rows!(1 4, 2 4, 3 3, 4 2, 5 2, 6 2, 7 2, 8 1, 9 1, 10 1);
        }
    }

    /// `R` pixels from one on for all blocks of the part.
    #[inline(always)]
    fn tile<S: Simd, const N: usize, const R: usize, const U: usize>(&mut self, s: S, first: usize) {
        let channels = self.out.part().channels.clone();
        let low = s.splat(self.ending.low);
        let high = s.splat(self.ending.high);
        let x = self.x.wrapping_add(first * self.step).cast::<u8>();
        let width = N * S::LANES;
        for at in channels.clone().step_by(width) {
            let block = &self.weights.blocks[at / width];
            let bias = &self.bias[at..at + width];
            // SAFETY: whoever built the value vouches for the inputs of all pixels.
            let sums = unsafe { self.sums::<S, N, R, U>(s, x, block, bias) };
            let count = width.min(channels.end - at);
            for (r, sums) in sums.into_iter().enumerate() {
                let pixel = self.pixels.start + first + r;
                let to = &mut self.out.pixel(pixel)[at - channels.start..][..count];
                let more = self.residual.map(|more| &more.pixel(pixel)[at..at + count]);
                for (i, sum) in sums.into_iter().enumerate() {
                    let start = i * S::LANES;
                    let lanes = count.saturating_sub(start).min(S::LANES);
                    if lanes == 0 {
                        break;
                    }
                    // SAFETY: `to` and `more` have so many lanes from `start` on.
                    unsafe {
                        let mut sum = sum;
                        if let Some(more) = more {
                            sum = s.add(sum, s.load_partial(more.as_ptr().add(start), lanes));
                        }
                        // the value second: NaN stays NaN
                        sum = s.min(high, s.max(low, sum));
                        match lanes == S::LANES {
                            true => s.store(to.as_mut_ptr().add(start), sum),
                            false => s.store_partial(to.as_mut_ptr().add(start), lanes, sum),
                        }
                    }
                }
            }
        }
    }

    /// `bias + w x` for `R` pixels, in `U` sums each where few would wait for each addition.
    ///
    /// # Safety
    /// From `x` on there must be the inputs of `R` pixels.
    #[inline(always)]
    unsafe fn sums<S: Simd, const N: usize, const R: usize, const U: usize>(
        &self,
        s: S,
        x: *const u8,
        block: &Block,
        bias: &[f32],
    ) -> [[S::V; N]; R] {
        let step = self.step * 4;
        let weights = &self.weights.values[block.start..][..block.offsets.len() * N * S::LANES];
        let mut acc = [[[s.splat(0.0); N]; R]; U];
        let mut w = weights.as_ptr();
        // SAFETY: each offset has its block of weights; the inputs are the caller's promise.
        unsafe {
            let mut start = [s.splat(0.0); N];
            for (i, start) in start.iter_mut().enumerate() {
                *start = s.load(bias[i * S::LANES..][..S::LANES].as_ptr());
            }
            acc[0] = [start; R];
            let (groups, rest) = block.offsets.as_chunks::<U>();
            for offsets in groups {
                for (&offset, acc) in offsets.iter().zip(&mut acc) {
                    multiply(s, x.add(offset as usize), step, w, acc);
                    w = w.add(N * S::LANES);
                }
            }
            for &offset in rest {
                multiply(s, x.add(offset as usize), step, w, &mut acc[0]);
                w = w.add(N * S::LANES);
            }
        }
        let mut sums = acc[0];
        for more in &acc[1..] {
            for (sums, more) in sums.iter_mut().zip(more) {
                sums.iter_mut().zip(more).for_each(|(sum, &more)| *sum = s.add(*sum, more));
            }
        }
        sums
    }
}

/// One column of weights times an input of each pixel.
///
/// # Safety
/// There must be an input every `step` bytes, and `N` vectors of weights.
#[inline(always)]
unsafe fn multiply<S: Simd, const N: usize, const R: usize>(
    s: S,
    x: *const u8,
    step: usize,
    w: *const f32,
    acc: &mut [[S::V; N]; R],
) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut weights = [s.splat(0.0); N];
        for (i, weight) in weights.iter_mut().enumerate() {
            *weight = s.load(w.add(i * S::LANES));
        }
        for (r, acc) in acc.iter_mut().enumerate() {
            let x = s.splat(*x.add(r * step).cast::<f32>());
            for (acc, weight) in acc.iter_mut().zip(weights) {
                *acc = s.fma(x, weight, *acc);
            }
        }
    }
}
