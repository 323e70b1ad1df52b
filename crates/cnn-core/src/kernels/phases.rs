//! Planes cut into the phases of a stride, and put together again.
//!
//! Phase `(ph, pw)` of a padded plane holds its pixels `(i * sh + ph, j * sw + pw)`.

use crate::simd::Simd;

/// Floats behind a phase and behind every buffer that is read or written in
/// whole vectors: masks are slower than computing lanes that nobody needs.
pub const SLACK: usize = 16;

/// Shape of a padded plane in phases: `[sh][sw][rows x cols + SLACK]`.
#[derive(Debug, Clone, Copy)]
pub struct PhaseShape {
    /// Height and width of the plane without padding.
    pub size: [usize; 2],
    /// Zeros above and to the left.
    pub pad: [usize; 2],
    /// Stride.
    pub stride: [usize; 2],
    /// Rows and columns of a phase.
    pub phase: [usize; 2],
}

impl PhaseShape {
    /// Floats of all phases.
    pub fn floats(&self) -> usize {
        self.stride[0] * self.stride[1] * self.step()
    }
    /// Distance from a phase to the next.
    pub fn step(&self) -> usize {
        self.phase[0] * self.phase[1] + SLACK
    }
    /// Phase and row there of the first row of the plane.
    #[inline(always)]
    fn top(&self) -> [usize; 2] {
        [self.pad[0] % self.stride[0], self.pad[0] / self.stride[0]]
    }
    /// Where a row lies in the phases with `pw = 0`, if it is inside. Moves on
    /// to the next row: a division per row would cost as much as the row.
    #[inline(always)]
    fn next_row(&self, at: &mut [usize; 2]) -> Option<usize> {
        let [ph, i] = *at;
        *at = if ph + 1 == self.stride[0] { [0, i + 1] } else { [ph + 1, i] };
        let at = ph * self.stride[1] * self.step() + i * self.phase[1];
        (i < self.phase[0]).then_some(at)
    }
    /// First pixel of a row in phase `pw` and its column there.
    #[inline(always)]
    fn column(&self, pw: usize) -> (usize, usize) {
        let s = self.stride[1];
        let x = (pw + s - self.pad[1] % s) % s;
        (x, (x + self.pad[1]) / s)
    }
    /// For stride 1: first pixel, its column, pixels.
    #[inline(always)]
    fn one(&self) -> (usize, usize, usize) {
        let (x, j) = self.column(0);
        (x, j, self.pixels(0))
    }
    /// For stride 2: the phase of the first pixel, then for this phase and the
    /// other one the first column and the pixels.
    #[inline(always)]
    fn two(&self) -> (usize, [usize; 2], [usize; 2]) {
        let pw = self.pad[1] % 2;
        if self.stride[1] != 2 {
            return (0, [0; 2], [0; 2]);
        }
        let both = [pw, 1 - pw];
        (pw, both.map(|p| self.column(p).1), both.map(|p| self.pixels(p)))
    }
    /// Pixels of a row that phase `pw` has room for.
    #[inline(always)]
    fn pixels(&self, pw: usize) -> usize {
        let (x, j) = self.column(pw);
        let there = self.size[1].saturating_sub(x).div_ceil(self.stride[1]);
        there.min(self.phase[1].saturating_sub(j))
    }
}

/// Copies a plane into its phases. What is padding there is **not written**:
/// a caller clears the phases once and reuses them for many planes.
pub struct SplitPlane<'a> {
    /// Shape.
    pub shape: PhaseShape,
    /// The plane.
    pub src: &'a [f32],
    /// The phases.
    pub dst: &'a mut [f32],
}

impl SplitPlane<'_> {
    /// Does it.
    #[inline(always)]
    pub fn go<S: Simd>(self, s: S) {
        let p = &self.shape;
        let [h, w] = p.size;
        assert!(self.src.len() >= h * w && self.dst.len() >= p.floats());
        let step = p.step();
        let mut position = p.top();
        let (one, two) = (p.one(), p.two());
        for y in 0..h {
            let Some(at) = p.next_row(&mut position) else {
                continue;
            };
            let src = &self.src[y * w..][..w];
            match p.stride[1] {
                1 => {
                    let (x, j, n) = one;
                    // SAFETY: n pixels from x on and n columns from j on exist.
                    unsafe {
                        let dst = self.dst.as_mut_ptr().add(at + j);
                        copy(s, src.as_ptr().add(x), dst, n);
                    }
                }
                2 => {
                    let (pw, columns, pixels) = two;
                    let starts = [at + pw * step + columns[0], at + (1 - pw) * step + columns[1]];
                    let mut k = 0;
                    while 2 * k < w {
                        let left = w - 2 * k;
                        // SAFETY: loads end at w; stores end at the pixels of
                        // the row, which have room in their phases.
                        unsafe {
                            let from = src.as_ptr().add(2 * k);
                            let (lo, hi) = if left >= 2 * S::LANES {
                                (s.load(from), s.load(from.add(S::LANES)))
                            } else {
                                let n = S::LANES.min(left);
                                let rest = left - n;
                                (s.load_partial(from, n), s.load_partial(from.add(n), rest))
                            };
                            let (even, odd) = s.split_pairs(lo, hi);
                            for (v, i) in [(even, 0), (odd, 1)] {
                                let dst = self.dst.as_mut_ptr().wrapping_add(starts[i] + k);
                                let n = pixels[i].saturating_sub(k).min(S::LANES);
                                if n == left.saturating_sub(i).div_ceil(2).min(S::LANES) {
                                    if n > 0 {
                                        s.store_at_least(dst, n, v);
                                    }
                                } else if n > 0 {
                                    s.store_partial(dst, n, v);
                                }
                            }
                        }
                        k += S::LANES;
                    }
                }
                stride => {
                    for pw in 0..stride {
                        let (x, j) = p.column(pw);
                        for i in 0..p.pixels(pw) {
                            self.dst[at + pw * step + j + i] = src[x + i * stride];
                        }
                    }
                }
            }
        }
    }
}

/// The inverse of [`SplitPlane`]; pixels that have no place in the phases become zero.
pub struct JoinPlane<'a> {
    /// Shape.
    pub shape: PhaseShape,
    /// The phases.
    pub src: &'a [f32],
    /// The plane.
    pub dst: &'a mut [f32],
}

impl JoinPlane<'_> {
    /// Does it.
    #[inline(always)]
    pub fn go<S: Simd>(self, s: S) {
        let p = &self.shape;
        let [h, w] = p.size;
        assert!(self.dst.len() >= h * w && self.src.len() >= p.floats());
        let step = p.step();
        let mut position = p.top();
        let (one, two) = (p.one(), p.two());
        for y in 0..h {
            let dst = &mut self.dst[y * w..][..w];
            let Some(at) = p.next_row(&mut position) else {
                dst.fill(0.0);
                continue;
            };
            match p.stride[1] {
                1 => {
                    let (x, j, n) = one;
                    dst[x + n..].fill(0.0);
                    // SAFETY: n pixels from x on and n columns from j on exist.
                    unsafe {
                        copy(s, self.src.as_ptr().add(at + j), dst.as_mut_ptr().add(x), n);
                    }
                }
                2 => {
                    let (pw, columns, pixels) = two;
                    let starts = [at + pw * step + columns[0], at + (1 - pw) * step + columns[1]];
                    let mut k = 0;
                    while 2 * k < w {
                        let left = w - 2 * k;
                        // SAFETY: loads end at the columns of the phases that
                        // are pixels, stores at w.
                        unsafe {
                            let mut halves = [s.splat(0.0); 2];
                            for (i, v) in halves.iter_mut().enumerate() {
                                let n = pixels[i].saturating_sub(k).min(S::LANES);
                                if n > 0 {
                                    *v = s.load_partial(self.src.as_ptr().add(starts[i] + k), n);
                                }
                            }
                            let (lo, hi) = s.join_pairs(halves[0], halves[1]);
                            let to = dst.as_mut_ptr().add(2 * k);
                            if left >= 2 * S::LANES {
                                s.store(to, lo);
                                s.store(to.add(S::LANES), hi);
                            } else {
                                let n = S::LANES.min(left);
                                s.store_partial(to, n, lo);
                                s.store_partial(to.add(n), left - n, hi);
                            }
                        }
                        k += S::LANES;
                    }
                }
                stride => {
                    dst.fill(0.0);
                    for pw in 0..stride {
                        let (x, j) = p.column(pw);
                        for i in 0..p.pixels(pw) {
                            dst[x + i * stride] = self.src[at + pw * step + j + i];
                        }
                    }
                }
            }
        }
    }
}

/// Copies `rows` rows of `len` floats to rows `ld` apart.
#[inline(always)]
pub fn spread_rows<S: Simd>(s: S, src: &[f32], rows: usize, len: usize, dst: &mut [f32], ld: usize) {
    assert!(rows > 0 && src.len() >= rows * len && dst.len() >= (rows - 1) * ld + len);
    for r in 0..rows {
        // SAFETY: by the assert.
        unsafe { copy(s, src.as_ptr().add(r * len), dst.as_mut_ptr().add(r * ld), len) };
    }
}

/// The inverse of [`spread_rows`]: rows `ld` apart to rows without gaps.
#[inline(always)]
pub fn gather_rows<S: Simd>(s: S, src: &[f32], ld: usize, rows: usize, len: usize, dst: &mut [f32]) {
    assert!(rows > 0 && dst.len() >= rows * len && src.len() >= (rows - 1) * ld + len);
    for r in 0..rows {
        // SAFETY: by the assert.
        unsafe { copy(s, src.as_ptr().add(r * ld), dst.as_mut_ptr().add(r * len), len) };
    }
}

/// Copies a short row; a call of `memcpy` would cost more than the copy, and
/// so would masks or whole vectors across cache lines.
///
/// # Safety
/// Both must be valid for `n` floats.
#[inline(always)]
unsafe fn copy<S: Simd>(s: S, src: *const f32, dst: *mut f32, n: usize) {
    let mut i = 0;
    // SAFETY: every access ends at n.
    unsafe {
        while i + S::LANES <= n {
            s.store(dst.add(i), s.load(src.add(i)));
            i += S::LANES;
        }
        s.copy_short(src.add(i), dst.add(i), n - i);
    }
}
