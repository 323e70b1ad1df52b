//! Planes cut into the phases of a stride, and put together again.
//!
//! Phase `(ph, pw)` of a padded plane holds its pixels `(i * sh + ph, j * sw + pw)`.

use crate::simd::{Simd, SimdOp};

/// Shape of a padded plane in phases: `[sh][sw][rows][cols]`.
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
        self.stride[0] * self.stride[1] * self.phase[0] * self.phase[1]
    }
    /// Where row `y` lies in the phases with `pw = 0`, if it is inside.
    #[inline(always)]
    fn row(&self, y: usize) -> Option<usize> {
        let y = y + self.pad[0];
        let (ph, i) = (y % self.stride[0], y / self.stride[0]);
        let at = (ph * self.stride[1] * self.phase[0] + i) * self.phase[1];
        (i < self.phase[0]).then_some(at)
    }
    /// First pixel of a row in phase `pw` and its column there.
    #[inline(always)]
    fn column(&self, pw: usize) -> (usize, usize) {
        let s = self.stride[1];
        let x = (pw + s - self.pad[1] % s) % s;
        (x, (x + self.pad[1]) / s)
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

impl SimdOp for SplitPlane<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let p = &self.shape;
        let [h, w] = p.size;
        assert!(self.src.len() >= h * w && self.dst.len() >= p.floats());
        let step = p.phase[0] * p.phase[1];
        for y in 0..h {
            let Some(at) = p.row(y) else { continue };
            let src = &self.src[y * w..][..w];
            match p.stride[1] {
                1 => {
                    let (x, j) = p.column(0);
                    let n = p.pixels(0);
                    // SAFETY: n pixels from x on and n columns from j on exist.
                    unsafe {
                        let dst = self.dst.as_mut_ptr().add(at + j);
                        copy(s, src.as_ptr().add(x), dst, n);
                    }
                }
                2 => {
                    // The phase that the first pixel belongs to, then the other.
                    let pw = p.pad[1] % 2;
                    let columns = [p.column(pw).1, p.column(1 - pw).1];
                    let pixels = [p.pixels(pw), p.pixels(1 - pw)];
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
                                let n = pixels[i].saturating_sub(k).min(S::LANES);
                                if n > 0 {
                                    let dst = self.dst.as_mut_ptr().add(starts[i] + k);
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

impl SimdOp for JoinPlane<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let p = &self.shape;
        let [h, w] = p.size;
        assert!(self.dst.len() >= h * w && self.src.len() >= p.floats());
        let step = p.phase[0] * p.phase[1];
        for y in 0..h {
            let dst = &mut self.dst[y * w..][..w];
            let Some(at) = p.row(y) else {
                dst.fill(0.0);
                continue;
            };
            match p.stride[1] {
                1 => {
                    let (x, j) = p.column(0);
                    let n = p.pixels(0);
                    dst[x + n..].fill(0.0);
                    // SAFETY: n pixels from x on and n columns from j on exist.
                    unsafe {
                        copy(s, self.src.as_ptr().add(at + j), dst.as_mut_ptr().add(x), n);
                    }
                }
                2 => {
                    let pw = p.pad[1] % 2;
                    let columns = [p.column(pw).1, p.column(1 - pw).1];
                    let pixels = [p.pixels(pw), p.pixels(1 - pw)];
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

/// Copies `rows` rows of `len` floats between different distances of rows.
pub struct CopyRows<'a> {
    /// Source and its distance of rows.
    pub src: &'a [f32],
    /// Distance of source rows.
    pub src_ld: usize,
    /// Destination.
    pub dst: &'a mut [f32],
    /// Distance of destination rows.
    pub dst_ld: usize,
    /// Rows.
    pub rows: usize,
    /// Floats of a row.
    pub len: usize,
}

impl SimdOp for CopyRows<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let last = self.rows.saturating_sub(1);
        assert!(self.src.len() >= last * self.src_ld + self.len);
        assert!(self.dst.len() >= last * self.dst_ld + self.len);
        for r in 0..self.rows {
            // SAFETY: rows up to the last one are inside, by the asserts.
            unsafe {
                let src = self.src.as_ptr().add(r * self.src_ld);
                copy(s, src, self.dst.as_mut_ptr().add(r * self.dst_ld), self.len);
            }
        }
    }
}

/// Copies a short row; a call of `memcpy` would cost more than the copy.
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
        if i < n {
            s.store_partial(dst.add(i), n - i, s.load_partial(src.add(i), n - i));
        }
    }
}
