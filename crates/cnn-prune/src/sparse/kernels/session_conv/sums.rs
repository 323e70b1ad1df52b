//! The sums of a part, for as many outputs of every lane as stay in registers.

use super::stream::{Column, Piece};
use super::strip::Strip;
use super::{Ending, LANES};
use cnn_core::session::{Target, View};
use cnn_core::simd::{Simd, SimdOp};
use std::ops::Range;

/// Outputs of a lane that are summed together, and the longest vector of them.
pub(super) const VECTORS: usize = 8;

/// Entries in a line of the cache, and how far ahead they are fetched.
const LINE: usize = 8;
const AHEAD: usize = 512;

/// What a part computes.
pub(super) struct Sums<'a, 'b> {
    pub strip: &'a Strip,
    pub column: &'a Column,
    pub bias: &'a [f32],
    pub ending: &'a Ending,
    /// Outputs of a lane that are summed together, at most.
    pub vectors: usize,
    /// `[channel][place][lane]`
    pub planes: &'a [f32],
    /// `[filter][output][lane]`, filters filled up to whole vectors.
    pub sums: &'a mut [f32],
    /// First pixel of the part, and the rows and columns that it has.
    pub first: usize,
    pub size: [usize; 2],
    /// True if the lanes are neighbouring pixels, whatever their rows.
    pub neighbours: bool,
    pub residual: Option<View<'a>>,
    pub out: &'a mut Target<'b>,
}

impl SimdOp for Sums<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let all = self.strip.outputs();
        let tiles = all.div_ceil(self.vectors);
        for tile in 0..tiles {
            let outputs = tile * all / tiles..(tile + 1) * all / tiles;
            match outputs.len() {
                1 => self.tile::<S, 1, 4>(s, outputs),
                2 => self.tile::<S, 2, 4>(s, outputs),
                3 => self.tile::<S, 3, 2>(s, outputs),
                4 => self.tile::<S, 4, 2>(s, outputs),
                5 => self.tile::<S, 5, 1>(s, outputs),
                6 => self.tile::<S, 6, 1>(s, outputs),
                7 => self.tile::<S, 7, 1>(s, outputs),
                _ => self.tile::<S, VECTORS, 1>(s, outputs),
            }
        }
    }
}

impl Sums<'_, '_> {
    /// `V` outputs of every lane for all filters of the column.
    #[inline(always)]
    fn tile<S: Simd, const V: usize, const U: usize>(&mut self, s: S, outputs: Range<usize>) {
        assert!(outputs.len() == V && V <= VECTORS);
        let filters = self.column.filters.len();
        assert!(self.sums.len() >= filters.next_multiple_of(S::LANES) * V * S::LANES);
        // bytes, as in the entries
        let places: [usize; V] = std::array::from_fn(|v| self.strip.output(outputs.start + v) * S::LANES * 4);
        let last = self.column.pieces.len() - 1;
        for (i, piece) in self.column.pieces.iter().enumerate() {
            // what is to be added first is added when the sums are turned
            let bounds = match i == last && self.residual.is_none() {
                true => (s.splat(self.ending.low), s.splat(self.ending.high)),
                false => (s.splat(f32::NEG_INFINITY), s.splat(f32::INFINITY)),
            };
            // SAFETY: the entries were made for this strip, whose places all lie in the planes.
            unsafe { self.piece::<S, V, U>(s, piece, places, i == 0, bounds) };
        }
        for (v, output) in outputs.enumerate() {
            self.turn_back::<S, V>(s, v, output);
        }
    }

    /// Adds the products of a piece to the sums: in `U` sums for each output, where few outputs would wait for each addition.
    ///
    /// # Safety
    /// The planes must hold a vector for each entry and place, the sums `V` vectors for each filter.
    #[inline(always)]
    unsafe fn piece<S: Simd, const V: usize, const U: usize>(
        &mut self,
        s: S,
        piece: &Piece,
        places: [usize; V],
        first: bool,
        bounds: (S::V, S::V),
    ) {
        let planes = self.planes.as_ptr().cast::<u8>();
        let mut entry = piece.entries.as_ptr();
        for run in &piece.runs {
            let filter = run.filter as usize;
            for line in 0..=run.count as usize / LINE {
                s.prefetch(entry.wrapping_add(AHEAD + line * LINE).cast());
            }
            // SAFETY: the caller's promise; the counts of the runs add up to the number of entries.
            unsafe {
                let sums = self.sums.as_mut_ptr().add(filter * V * S::LANES);
                let mut acc = [[s.splat(0.0); V]; U];
                let mut left = run.count as usize;
                while left >= U {
                    for acc in &mut acc {
                        let value = s.splat((*entry).value);
                        let x = planes.add((*entry).at as usize);
                        for (acc, place) in acc.iter_mut().zip(places) {
                            *acc = s.fma(value, s.load(x.add(place).cast()), *acc);
                        }
                        entry = entry.add(1);
                    }
                    left -= U;
                }
                for _ in 0..left {
                    let value = s.splat((*entry).value);
                    let x = planes.add((*entry).at as usize);
                    for (acc, place) in acc[0].iter_mut().zip(places) {
                        *acc = s.fma(value, s.load(x.add(place).cast()), *acc);
                    }
                    entry = entry.add(1);
                }
                // what there is comes last: nothing has to wait for it
                let mut before = [s.splat(0.0); V];
                if first {
                    before = [s.splat(self.bias[self.column.filters.start + filter]); V];
                } else {
                    for (v, before) in before.iter_mut().enumerate() {
                        *before = s.load(sums.add(v * S::LANES));
                    }
                }
                for v in 0..V {
                    let sum = acc.iter().fold(before[v], |sum, acc| s.add(sum, acc[v]));
                    s.store(sums.add(v * S::LANES), clip(s, bounds, sum));
                }
            }
        }
    }

    /// Stores one output of every lane.
    #[inline(always)]
    fn turn_back<S: Simd, const V: usize>(&mut self, s: S, v: usize, output: usize) {
        let filters = self.column.filters.clone();
        let part = self.out.part();
        assert!(part.channels == filters);
        let pitch = self.out.pitch();
        let at = |pixel: usize| {
            assert!(part.pixels.contains(&pixel));
            self.out.as_ptr().wrapping_add(pixel * pitch + filters.start)
        };
        // where each lane is stored, and what is added to it
        let mut to = [std::ptr::null_mut::<f32>(); LANES];
        let mut more = [std::ptr::null::<f32>(); LANES];
        for lane in 0..S::LANES {
            let [row, column] = self.place(S::LANES, lane, output);
            if row < self.size[0] && column < self.size[1] {
                let pixel = self.first + row * self.size[1] + column;
                to[lane] = at(pixel);
                if let Some(residual) = self.residual {
                    more[lane] = residual.pixel(pixel)[filters.clone()].as_ptr();
                }
            }
        }
        let whole = self.neighbours && !to[S::LANES - 1].is_null() && self.residual.is_none();
        let bounds = (s.splat(self.ending.low), s.splat(self.ending.high));
        let mut turned = [0f32; LANES * LANES];
        for block in (0..filters.len()).step_by(S::LANES) {
            let count = S::LANES.min(filters.len() - block);
            let from = self.sums[(block * V + v) * S::LANES..].as_ptr();
            // SAFETY: the sums are filled up to whole vectors of filters, as `tile` checked; `turned` is LANES x LANES; where a
            // lane is stored and what is added are `filters.len()` floats of pixels of the part and of the residual.
            unsafe {
                if whole && count == S::LANES {
                    s.transpose_block(from, V * S::LANES, to[0].add(block), pitch);
                    continue;
                }
                s.transpose_block(from, V * S::LANES, turned.as_mut_ptr(), S::LANES);
                for lane in (0..S::LANES).filter(|&lane| !to[lane].is_null()) {
                    let mut sum = s.load(turned.as_ptr().add(lane * S::LANES));
                    if !more[lane].is_null() {
                        sum = clip(s, bounds, s.add(sum, s.load_partial(more[lane].add(block), count)));
                    }
                    match count == S::LANES {
                        true => s.store(to[lane].add(block), sum),
                        false => s.store_partial(to[lane].add(block), count, sum),
                    }
                }
            }
        }
    }

    /// The row and the column of a lane's output, in the part.
    #[inline(always)]
    fn place(&self, lanes: usize, lane: usize, output: usize) -> [usize; 2] {
        let (y, x) = (&self.strip.y, &self.strip.x);
        if self.neighbours {
            return [0, output * lanes + lane];
        }
        let (oy, ox) = (output / x.outputs, output % x.outputs);
        [lane / x.lanes * y.outputs + oy, lane % x.lanes * x.outputs + ox]
    }
}

/// Applies the bounds; the value is the second operand, so that NaN stays NaN.
#[inline(always)]
fn clip<S: Simd>(s: S, (low, high): (S::V, S::V), v: S::V) -> S::V {
    s.min(high, s.max(low, v))
}
