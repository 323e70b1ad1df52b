//! The matrix-product tile: all the multiplications of this crate that are
//! not Winograd's transforms or depthwise pass through this loop.
//!
//! `c[r][lane] += sum over k of a[r][k] * b[k][lane]`, where `b` is a panel of
//! one or two vectors and `a` is read in place, a float at a time. Reading `a`
//! through strides is what makes convolution a matrix product without an
//! im2col copy: in channels-last memory the pixels under a filter row are one
//! run of floats, and the runs of neighbouring pixels overlap.

use crate::simd::{Simd, SimdOp};

/// What the accumulators start from.
#[derive(Clone, Copy)]
pub enum Init {
    /// Zero.
    Zero,
    /// What the destination holds.
    Accumulate,
    /// One vector row, the same for all rows (`lanes` floats are read).
    Row(*const f32),
}

/// What is done with the sums before they are stored: `min(max(sum + residual, low), high)`.
#[derive(Clone, Copy)]
pub struct Finish {
    /// Lower bound.
    pub low: f32,
    /// Upper bound.
    pub high: f32,
    /// Added to the sums, at the destination's places but with distances of its own; null for nothing.
    pub residual: *const f32,
    /// Distance of rows in `residual`.
    pub residual_row: usize,
    /// Distance of groups in `residual`.
    pub residual_outer: usize,
}

/// A column panel of a product: `outer` groups of `rows` rows.
#[derive(Clone, Copy)]
pub struct Tiles<'a> {
    /// First element of the left operand.
    pub a: *const f32,
    /// Distance from a row of `a` to the next.
    pub a_row: usize,
    /// Distance from an inner index to the next; must be 1 unless `a_row` is 1.
    pub a_inner: usize,
    /// Starts of the runs of inner indices, relative to `a`.
    pub runs: &'a [usize],
    /// Inner indices in a run.
    pub run_len: usize,
    /// Panel of the right operand: `runs.len() * run_len` rows of whole vectors.
    pub b: *const f32,
    /// Distance of the rows of `b`.
    pub b_inner: usize,
    /// What will be read as `b` after this product, as much of it; fetched meanwhile. Null for nothing.
    pub next: *const f32,
    /// Destination.
    pub c: *mut f32,
    /// Distance of destination rows.
    pub c_row: usize,
    /// Rows in a group.
    pub rows: usize,
    /// Groups of rows.
    pub outer: usize,
    /// Distance of groups in `a`.
    pub a_outer: usize,
    /// Distance of groups in `c`.
    pub c_outer: usize,
    /// Columns of the panel that exist, at most two vectors.
    pub lanes: usize,
    /// Start value.
    pub init: Init,
    /// End of the sums, where they need one.
    pub finish: Option<Finish>,
}

impl SimdOp for Tiles<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let two = self.lanes > S::LANES;
        let most = S::ROWS[usize::from(two)];
        // Blocks of nearly equal height: 32 rows are 11 + 11 + 10 and not 14 + 14 + 4.
        let blocks = self.rows.div_ceil(most);
        if blocks == 0 || self.outer == 0 {
            return;
        }
        let (small, big) = (self.rows / blocks, self.rows % blocks);
        let ahead = Ahead::new(&self, self.outer * blocks);
        let heights = [
            (0, big, small + 1, ahead),
            (big * (small + 1), blocks - big, small, ahead.after(self.outer * big)),
        ];
        for (start, blocks, height, ahead) in heights {
            self.pick(s, start, blocks, height, ahead);
        }
    }
}

/// Each block fetches its share of what comes next, a little with every row of `b`: it arrives as fast as it will be needed.
#[derive(Clone, Copy)]
struct Ahead {
    from: *const f32,
    /// Floats for every row of `b`.
    step: usize,
    /// Floats for every block.
    share: usize,
}

impl Ahead {
    #[inline(always)]
    fn new(of: &Tiles<'_>, blocks: usize) -> Ahead {
        // without a next one, a line that is there anyway
        let (from, step) = if of.next.is_null() { (of.b, 0) } else { (of.next, of.b_inner / blocks) };
        Ahead { from, step, share: step * of.runs.len() * of.run_len }
    }

    #[inline(always)]
    fn after(self, blocks: usize) -> Ahead {
        Ahead { from: self.from.wrapping_add(blocks * self.share), ..self }
    }
}

macro_rules! by_rows {
    ($self:ident, $s:ident, $start:ident, $blocks:ident, $height:ident, $ahead:ident, $nv:literal, $unit:literal, [$($n:literal)*]) => {
        match $height {
            $($n if $n <= S::ROWS[$nv - 1] => {
                let (tiles, start, blocks, ahead) = ($self, $start, $blocks, $ahead);
                $s.vectorize(Blocks::<$n, $nv, $unit> { tiles, start, blocks, ahead })
            })*
            _ => unreachable!("block height {}", $height),
        }
    };
}

/// Blocks of one height. Each height is a function of its own: as one function, all of them take compilers a quarter of the time for
/// this crate.
struct Blocks<'a, const MR: usize, const NV: usize, const UNIT: bool> {
    tiles: &'a Tiles<'a>,
    start: usize,
    blocks: usize,
    ahead: Ahead,
}

impl<const MR: usize, const NV: usize, const UNIT: bool> SimdOp for Blocks<'_, MR, NV, UNIT> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        // no code for heights for which the vectors have not enough registers
        if const { MR <= S::ROWS[NV - 1] } {
            // SAFETY: whoever built the value vouches for the pointers.
            unsafe { self.tiles.blocks::<S, MR, NV, UNIT>(s, self.start, self.blocks, self.ahead) }
        }
    }
}

impl Tiles<'_> {
    #[inline(always)]
    fn pick<S: Simd>(&self, s: S, start: usize, blocks: usize, height: usize, ahead: Ahead) {
        if blocks == 0 {
            return;
        }
        match (self.lanes > S::LANES, self.a_row == 1) {
            (false, false) => {
                by_rows!(self, s, start, blocks, height, ahead, 1, false, [1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16])
            }
            (false, true) => {
                by_rows!(self, s, start, blocks, height, ahead, 1, true, [1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16])
            }
            (true, false) => {
                by_rows!(self, s, start, blocks, height, ahead, 2, false, [1 2 3 4 5 6 7 8 9 10 11 12 13 14])
            }
            (true, true) => {
                by_rows!(self, s, start, blocks, height, ahead, 2, true, [1 2 3 4 5 6 7 8 9 10 11 12 13 14])
            }
        }
    }

    /// `blocks` blocks of `MR` rows from row `start` on, in every group.
    ///
    /// # Safety
    /// All places the fields describe must be valid, and `c` apart from `a` and `b`.
    #[inline(always)]
    unsafe fn blocks<S: Simd, const MR: usize, const NV: usize, const UNIT: bool>(
        &self,
        s: S,
        start: usize,
        blocks: usize,
        ahead: Ahead,
    ) {
        let a_row = if UNIT { 1 } else { self.a_row };
        let a_inner = if UNIT { self.a_inner } else { 1 };
        let tail = self.lanes - (NV - 1) * S::LANES;
        for o in 0..self.outer {
            for block in 0..blocks {
                let row = start + block * MR;
                // SAFETY: rows, runs and lanes stay inside what the caller vouches for.
                unsafe {
                    let a = self.a.add(o * self.a_outer + row * a_row);
                    let c = self.c.add(o * self.c_outer + row * self.c_row);
                    let mut acc = [[s.splat(0.0); NV]; MR];
                    match self.init {
                        Init::Zero => {}
                        Init::Row(p) => {
                            let mut v = [s.splat(0.0); NV];
                            for (j, v) in v.iter_mut().enumerate() {
                                *v = if j + 1 == NV {
                                    s.load_partial(p.add(j * S::LANES), tail)
                                } else {
                                    s.load(p.add(j * S::LANES))
                                };
                            }
                            acc = [v; MR];
                        }
                        Init::Accumulate => {
                            for (r, acc) in acc.iter_mut().enumerate() {
                                let p = c.add(r * self.c_row);
                                for (j, acc) in acc.iter_mut().enumerate() {
                                    *acc = if j + 1 == NV && tail < S::LANES {
                                        s.load_partial(p.add(j * S::LANES), tail)
                                    } else {
                                        s.load(p.add(j * S::LANES))
                                    };
                                }
                            }
                        }
                    }
                    let mut b = self.b;
                    let mut next = ahead.after(o * blocks + block).from;
                    for &run in self.runs {
                        let mut a = a.add(run);
                        for _ in 0..self.run_len {
                            let mut bv = [s.splat(0.0); NV];
                            for (j, bv) in bv.iter_mut().enumerate() {
                                *bv = s.load(b.add(j * S::LANES));
                            }
                            for (r, acc) in acc.iter_mut().enumerate() {
                                let x = s.splat(*a.add(r * a_row));
                                for (acc, bv) in acc.iter_mut().zip(bv) {
                                    *acc = s.fma(x, bv, *acc);
                                }
                            }
                            s.prefetch(next);
                            next = next.wrapping_add(ahead.step);
                            a = a.add(a_inner);
                            b = b.add(self.b_inner);
                        }
                    }
                    if let Some(f) = &self.finish {
                        let (low, high) = (s.splat(f.low), s.splat(f.high));
                        if !f.residual.is_null() {
                            let residual = f.residual.add(o * f.residual_outer + row * f.residual_row);
                            for (r, acc) in acc.iter_mut().enumerate() {
                                let p = residual.add(r * f.residual_row);
                                for (j, acc) in acc.iter_mut().enumerate() {
                                    let p = p.add(j * S::LANES);
                                    let v = match j + 1 == NV && tail < S::LANES {
                                        true => s.load_partial(p, tail),
                                        false => s.load(p),
                                    };
                                    *acc = s.add(*acc, v);
                                }
                            }
                        }
                        for acc in &mut acc {
                            for acc in acc {
                                // the value second: NaN stays NaN
                                *acc = s.min(high, s.max(low, *acc));
                            }
                        }
                    }
                    for (r, acc) in acc.iter().enumerate() {
                        let p = c.add(r * self.c_row);
                        for (j, acc) in acc.iter().enumerate() {
                            if j + 1 == NV && tail < S::LANES {
                                s.store_partial(p.add(j * S::LANES), tail, *acc);
                            } else {
                                s.store(p.add(j * S::LANES), *acc);
                            }
                        }
                    }
                }
            }
        }
    }
}
