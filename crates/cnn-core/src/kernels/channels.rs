//! Depthwise loops with channels in the lanes, for planes so small that their
//! rows are no vectors. One block of `LANES` channels, channels-last.

use crate::simd::Simd;

/// Pixels computed together, enough to hide the latency of the additions.
const BLOCK: usize = 4;

/// Where output pixels and taps lie in a padded channels-last image.
#[derive(Clone, Copy)]
pub struct Window<'a> {
    /// Output rows and columns.
    pub out: [usize; 2],
    /// Floats between the first taps of neighbouring output rows and pixels.
    pub step: [usize; 2],
    /// Offset of each tap.
    pub taps: &'a [usize],
}

impl Window<'_> {
    /// Floats of the image that the taps reach.
    pub fn reach(&self, lanes: usize) -> usize {
        let last = |i: usize| (self.out[i] - 1) * self.step[i];
        last(0) + last(1) + self.taps.iter().max().copied().unwrap_or(0) + lanes
    }
}

/// `y[pixel] = bias + sum over taps of w[tap] * x[tap of pixel]`.
#[inline(always)]
pub fn forward<S: Simd>(s: S, v: Window, x: &[f32], w: &[f32], bias: &[f32], y: &mut [f32]) {
    let l = S::LANES;
    let [oh, ow] = v.out;
    assert!(x.len() >= v.reach(l) && w.len() >= v.taps.len() * l);
    assert!(bias.len() >= l && y.len() >= oh * ow * l);
    // SAFETY: pixels below `out` and the taps stay inside by the asserts.
    unsafe {
        let bias = s.load(bias.as_ptr());
        for r in 0..oh {
            let mut c = 0;
            while c < ow {
                let from = x.as_ptr().add(r * v.step[0] + c * v.step[1]);
                let to = y.as_mut_ptr().add((r * ow + c) * l);
                if c + BLOCK <= ow {
                    let mut acc = [bias; BLOCK];
                    for (t, &off) in v.taps.iter().enumerate() {
                        let w = s.load(w.as_ptr().add(t * l));
                        for (j, acc) in acc.iter_mut().enumerate() {
                            *acc = s.fma(w, s.load(from.add(off + j * v.step[1])), *acc);
                        }
                    }
                    for (j, acc) in acc.into_iter().enumerate() {
                        s.store(to.add(j * l), acc);
                    }
                    c += BLOCK;
                } else {
                    let mut acc = bias;
                    for (t, &off) in v.taps.iter().enumerate() {
                        acc = s.fma(s.load(w.as_ptr().add(t * l)), s.load(from.add(off)), acc);
                    }
                    s.store(to, acc);
                    c += 1;
                }
            }
        }
    }
}

/// `x[tap of pixel] += w[tap] * y[pixel]`.
#[inline(always)]
pub fn scatter<S: Simd>(s: S, v: Window, y: &[f32], w: &[f32], x: &mut [f32]) {
    let l = S::LANES;
    let [oh, ow] = v.out;
    assert!(x.len() >= v.reach(l) && w.len() >= v.taps.len() * l && y.len() >= oh * ow * l);
    for r in 0..oh {
        for c in 0..ow {
            // SAFETY: as in `forward`.
            unsafe {
                let d = s.load(y.as_ptr().add((r * ow + c) * l));
                let to = x.as_mut_ptr().add(r * v.step[0] + c * v.step[1]);
                for (t, &off) in v.taps.iter().enumerate() {
                    let w = s.load(w.as_ptr().add(t * l));
                    let p = to.add(off);
                    s.store(p, s.fma(w, d, s.load(p)));
                }
            }
        }
    }
}

/// `sums[tap] += sum over pixels of y[pixel] * x[tap of pixel]`.
#[inline(always)]
pub fn weights<S: Simd>(s: S, v: Window, x: &[f32], y: &[f32], sums: &mut [f32]) {
    let l = S::LANES;
    assert!(x.len() >= v.reach(l) && y.len() >= v.out[0] * v.out[1] * l);
    assert!(sums.len() >= v.taps.len() * l);
    let mut first = 0;
    while first < v.taps.len() {
        let left = v.taps.len() - first;
        // SAFETY: as in `forward`; the taps of the group exist.
        unsafe {
            let sums = sums.as_mut_ptr().add(first * l);
            if left >= 9 {
                tap_group::<S, 9>(s, v, first, x, y, sums);
                first += 9;
            } else if left >= 3 {
                tap_group::<S, 3>(s, v, first, x, y, sums);
                first += 3;
            } else {
                tap_group::<S, 1>(s, v, first, x, y, sums);
                first += 1;
            }
        }
    }
}

/// `T` taps, their sums in registers.
///
/// # Safety
/// See `weights`, which checks.
#[inline(always)]
unsafe fn tap_group<S: Simd, const T: usize>(
    s: S,
    v: Window,
    first: usize,
    x: &[f32],
    y: &[f32],
    sums: *mut f32,
) {
    let l = S::LANES;
    let taps = &v.taps[first..first + T];
    let mut acc = [s.splat(0.0); T];
    // SAFETY: the caller's promise.
    unsafe {
        for (t, acc) in acc.iter_mut().enumerate() {
            *acc = s.load(sums.add(t * l));
        }
        for r in 0..v.out[0] {
            for c in 0..v.out[1] {
                let d = s.load(y.as_ptr().add((r * v.out[1] + c) * l));
                let from = x.as_ptr().add(r * v.step[0] + c * v.step[1]);
                for (acc, &off) in acc.iter_mut().zip(taps) {
                    *acc = s.fma(d, s.load(from.add(off)), *acc);
                }
            }
        }
        for (t, acc) in acc.into_iter().enumerate() {
            s.store(sums.add(t * l), acc);
        }
    }
}
