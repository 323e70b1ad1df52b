//! One-dimensional correlation with a list of offsets: the depthwise loop.
//!
//! A padded plane is one long row of floats; a filter tap is then an offset
//! into it, whatever the width of the image, so that vectors run across the
//! ends of image rows and small images do not waste lanes.

use crate::simd::{Simd, SimdOp};

/// Vectors computed together, enough to hide the latency of the additions.
const BLOCK: usize = 4;

/// `dst[i] = sum over t of w[t] * src[i + offsets[t]]`, `i < len`.
pub struct FlatCorrelate<'a> {
    /// Source.
    pub src: &'a [f32],
    /// One offset per tap.
    pub offsets: &'a [usize],
    /// One weight per tap.
    pub w: &'a [f32],
    /// Start value of every sum.
    pub bias: f32,
    /// Destination.
    pub dst: &'a mut [f32],
}

impl SimdOp for FlatCorrelate<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let len = self.dst.len();
        let reach = self.offsets.iter().copied().max().unwrap_or(0);
        assert!(self.src.len() >= len + reach && self.w.len() == self.offsets.len());
        let (src, dst) = (self.src.as_ptr(), self.dst.as_mut_ptr());
        let bias = s.splat(self.bias);
        let mut i = 0;
        // SAFETY: every read ends at i + offset + count <= len + reach, every
        // write at i + count <= len, by the assert and the loop conditions.
        unsafe {
            while i + BLOCK * S::LANES <= len {
                let mut acc = [bias; BLOCK];
                for (&w, &off) in self.w.iter().zip(self.offsets) {
                    let w = s.splat(w);
                    let p = src.add(i + off);
                    for (j, acc) in acc.iter_mut().enumerate() {
                        *acc = s.fma(w, s.load(p.add(j * S::LANES)), *acc);
                    }
                }
                for (j, acc) in acc.iter().enumerate() {
                    s.store(dst.add(i + j * S::LANES), *acc);
                }
                i += BLOCK * S::LANES;
            }
            while i < len {
                let n = S::LANES.min(len - i);
                let mut acc = bias;
                for (&w, &off) in self.w.iter().zip(self.offsets) {
                    acc = s.fma(s.splat(w), s.load_partial(src.add(i + off), n), acc);
                }
                s.store_partial(dst.add(i), n, acc);
                i += n;
            }
        }
    }
}

/// `dst[t] += sum over i of a[i] * src[i + offsets[t]]`.
pub struct FlatDots<'a> {
    /// The operand that stays in place.
    pub a: &'a [f32],
    /// The operand that the taps shift.
    pub src: &'a [f32],
    /// One offset per tap.
    pub offsets: &'a [usize],
    /// One sum per tap.
    pub dst: &'a mut [f32],
}

/// Taps summed together: each vector of `a` is read once for all of them.
const TAPS: usize = 9;

impl FlatDots<'_> {
    #[inline(always)]
    fn group<S: Simd, const T: usize>(&mut self, s: S, first: usize) {
        let len = self.a.len();
        let offsets = &self.offsets[first..first + T];
        let (a, src) = (self.a.as_ptr(), self.src.as_ptr());
        let mut acc = [s.splat(0.0); T];
        let mut i = 0;
        // SAFETY: every read ends at i + offset + count <= len + reach, which
        // `run` asserts to be inside.
        unsafe {
            while i + S::LANES <= len {
                let x = s.load(a.add(i));
                for (acc, &off) in acc.iter_mut().zip(offsets) {
                    *acc = s.fma(x, s.load(src.add(i + off)), *acc);
                }
                i += S::LANES;
            }
            if i < len {
                let n = len - i;
                let x = s.load_partial(a.add(i), n);
                for (acc, &off) in acc.iter_mut().zip(offsets) {
                    *acc = s.fma(x, s.load_partial(src.add(i + off), n), *acc);
                }
            }
        }
        for (dst, acc) in self.dst[first..first + T].iter_mut().zip(acc) {
            *dst += s.sum(acc);
        }
    }
}

impl SimdOp for FlatDots<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let reach = self.offsets.iter().copied().max().unwrap_or(0);
        assert!(self.src.len() >= self.a.len() + reach);
        assert!(self.dst.len() == self.offsets.len());
        let mut t = 0;
        while t + TAPS <= self.offsets.len() {
            self.group::<S, TAPS>(s, t);
            t += TAPS;
        }
        while t + 4 <= self.offsets.len() {
            self.group::<S, 4>(s, t);
            t += 4;
        }
        while t < self.offsets.len() {
            self.group::<S, 1>(s, t);
            t += 1;
        }
    }
}
