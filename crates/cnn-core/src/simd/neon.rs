//! NEON of 64-bit ARM: 32 registers of 4 floats. A vector is two of them.
//!
//! Why 8 lanes: the matrix-product tile is `ROWS` rows of one or two vectors. Two vectors of 8 make it 6 x 16: 24 registers
//! of sums, 4 of `b` and 4 left for broadcasts, with 4 + 6 loads for 24 multiplications. Vectors of 4 could at most make it
//! 14 x 8, with 2 + 14 loads for 28 multiplications, more than a core with one load for two multiplications can do.

use super::vector::{Simd, SimdOp};
use std::arch::aarch64::*;
use std::arch::{asm, is_aarch64_feature_detected};

/// Token of NEON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Neon(());

impl Neon {
    /// The token, if the CPU has the instructions.
    pub(super) fn detect() -> Option<Self> {
        is_aarch64_feature_detected!("neon").then_some(Neon(()))
    }
}

#[target_feature(enable = "neon")]
#[inline(never)]
fn inside<O: SimdOp>(s: Neon, op: O) -> O::Output {
    op.run(s)
}

/// Lanes 0 to 3, and 4 to 7.
type Pair = float32x4x2_t;

/// Reads `n <= 4` floats, the other lanes are zero.
///
/// # Safety
/// NEON must be available and `p` valid for reads of `n` floats.
#[inline(always)]
unsafe fn load_up_to_4(p: *const f32, n: usize) -> float32x4_t {
    // SAFETY: no more than the caller's `n` floats are read.
    unsafe {
        let zero = vdup_n_f32(0.0);
        match n {
            0 => vdupq_n_f32(0.0),
            1 => vcombine_f32(vld1_lane_f32::<0>(p, zero), zero),
            2 => vcombine_f32(vld1_f32(p), zero),
            3 => vcombine_f32(vld1_f32(p), vld1_lane_f32::<0>(p.add(2), zero)),
            _ => vld1q_f32(p),
        }
    }
}

/// Writes the first `n <= 4` lanes.
///
/// # Safety
/// NEON must be available and `p` valid for writes of `n` floats.
#[inline(always)]
unsafe fn store_up_to_4(p: *mut f32, n: usize, v: float32x4_t) {
    // SAFETY: no more than the caller's `n` floats are written.
    unsafe {
        match n {
            0 => {}
            1 => vst1q_lane_f32::<0>(p, v),
            2 => vst1_f32(p, vget_low_f32(v)),
            3 => {
                vst1_f32(p, vget_low_f32(v));
                vst1q_lane_f32::<2>(p.add(2), v);
            }
            _ => vst1q_f32(p, v),
        }
    }
}

/// `dst[j * dst_ld + i] = src[i * src_ld + j]` for `i, j < 4`.
///
/// # Safety
/// NEON must be available, all those places valid, and the two areas apart.
#[inline(always)]
unsafe fn transpose4(src: *const f32, src_ld: usize, dst: *mut f32, dst_ld: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        let r: [float32x4_t; 4] = std::array::from_fn(|i| vld1q_f32(src.add(i * src_ld)));
        let (a, b) = (vzipq_f32(r[0], r[2]), vzipq_f32(r[1], r[3]));
        let (c, d) = (vzipq_f32(a.0, b.0), vzipq_f32(a.1, b.1));
        for (j, v) in [c.0, c.1, d.0, d.1].into_iter().enumerate() {
            vst1q_f32(dst.add(j * dst_ld), v);
        }
    }
}

impl super::vector::Sealed for Neon {}

impl Simd for Neon {
    type V = Pair;
    const LANES: usize = 8;
    const ROWS: [usize; 2] = [12, 6];

    fn vectorize<O: SimdOp>(self, op: O) -> O::Output {
        // SAFETY: the token proves the feature.
        unsafe { inside(self, op) }
    }
    #[inline(always)]
    fn splat(self, x: f32) -> Pair {
        // SAFETY: the token proves the feature.
        let v = unsafe { vdupq_n_f32(x) };
        float32x4x2_t(v, v)
    }
    #[inline(always)]
    fn add(self, a: Pair, b: Pair) -> Pair {
        // SAFETY: the token proves the feature.
        unsafe { float32x4x2_t(vaddq_f32(a.0, b.0), vaddq_f32(a.1, b.1)) }
    }
    #[inline(always)]
    fn sub(self, a: Pair, b: Pair) -> Pair {
        // SAFETY: the token proves the feature.
        unsafe { float32x4x2_t(vsubq_f32(a.0, b.0), vsubq_f32(a.1, b.1)) }
    }
    #[inline(always)]
    fn mul(self, a: Pair, b: Pair) -> Pair {
        // SAFETY: the token proves the feature.
        unsafe { float32x4x2_t(vmulq_f32(a.0, b.0), vmulq_f32(a.1, b.1)) }
    }
    #[inline(always)]
    fn fma(self, a: Pair, b: Pair, c: Pair) -> Pair {
        // SAFETY: the token proves the feature.
        unsafe { float32x4x2_t(vfmaq_f32(c.0, a.0, b.0), vfmaq_f32(c.1, a.1, b.1)) }
    }
    // By comparison, because `fmax` and `fmin` return NaN if there is one.
    #[inline(always)]
    fn max(self, a: Pair, b: Pair) -> Pair {
        // SAFETY: the token proves the feature.
        unsafe {
            let larger = |a, b| vbslq_f32(vcgtq_f32(a, b), a, b);
            float32x4x2_t(larger(a.0, b.0), larger(a.1, b.1))
        }
    }
    #[inline(always)]
    fn min(self, a: Pair, b: Pair) -> Pair {
        // SAFETY: the token proves the feature.
        unsafe {
            let smaller = |a, b| vbslq_f32(vcltq_f32(a, b), a, b);
            float32x4x2_t(smaller(a.0, b.0), smaller(a.1, b.1))
        }
    }
    // `fmax` returns NaN if there is one, which is wrong for `max` and right here.
    #[inline(always)]
    fn maximum(self, a: Pair, b: Pair) -> Pair {
        // SAFETY: the token proves the feature.
        unsafe { float32x4x2_t(vmaxq_f32(a.0, b.0), vmaxq_f32(a.1, b.1)) }
    }
    /// As AVX2 does: `((0 + 4) + (1 + 5)) + ((2 + 6) + (3 + 7))`.
    #[inline(always)]
    fn sum(self, v: Pair) -> f32 {
        // SAFETY: the token proves the feature.
        unsafe {
            let four = vaddq_f32(v.0, v.1);
            vpadds_f32(vpadd_f32(vget_low_f32(four), vget_high_f32(four)))
        }
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> Pair {
        // SAFETY: token and caller.
        unsafe { float32x4x2_t(vld1q_f32(p), vld1q_f32(p.add(4))) }
    }
    #[inline(always)]
    unsafe fn load_bytes(self, p: *const u8) -> Pair {
        // SAFETY: token and caller.
        unsafe {
            let wide = vmovl_u8(vld1_u8(p));
            let [low, high] =
                [vget_low_u16(wide), vget_high_u16(wide)].map(|half| vcvtq_f32_u32(vmovl_u16(half)));
            float32x4x2_t(low, high)
        }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: Pair) {
        // SAFETY: token and caller.
        unsafe {
            vst1q_f32(p, v.0);
            vst1q_f32(p.add(4), v.1);
        }
    }
    #[inline(always)]
    unsafe fn store_at_least(self, p: *mut f32, n: usize, v: Pair) {
        // SAFETY: token and caller.
        unsafe {
            vst1q_f32(p, v.0);
            if n > 4 {
                vst1q_f32(p.add(4), v.1);
            }
        }
    }
    #[inline(always)]
    unsafe fn copy_short(self, src: *const f32, dst: *mut f32, n: usize) {
        // SAFETY: token and caller; the first and the last piece overlap.
        unsafe {
            if n >= 4 {
                let first = vld1q_f32(src);
                let last = vld1q_f32(src.add(n - 4));
                vst1q_f32(dst, first);
                vst1q_f32(dst.add(n - 4), last);
            } else {
                for i in 0..n {
                    *dst.add(i) = *src.add(i);
                }
            }
        }
    }
    #[inline(always)]
    unsafe fn load_partial(self, p: *const f32, n: usize) -> Pair {
        // SAFETY: token and caller; the second half starts at a float that is there, or is not read.
        unsafe {
            if n < 4 {
                float32x4x2_t(load_up_to_4(p, n), vdupq_n_f32(0.0))
            } else {
                float32x4x2_t(vld1q_f32(p), load_up_to_4(p.add(4), n - 4))
            }
        }
    }
    #[inline(always)]
    unsafe fn store_partial(self, p: *mut f32, n: usize, v: Pair) {
        // SAFETY: as for `load_partial`.
        unsafe {
            if n < 4 {
                store_up_to_4(p, n, v.0);
            } else {
                vst1q_f32(p, v.0);
                store_up_to_4(p.add(4), n - 4, v.1);
            }
        }
    }
    #[inline(always)]
    fn split_pairs(self, lo: Pair, hi: Pair) -> (Pair, Pair) {
        // SAFETY: the token proves the feature.
        let (lo, hi) = unsafe { (vuzpq_f32(lo.0, lo.1), vuzpq_f32(hi.0, hi.1)) };
        (float32x4x2_t(lo.0, hi.0), float32x4x2_t(lo.1, hi.1))
    }
    #[inline(always)]
    fn join_pairs(self, even: Pair, odd: Pair) -> (Pair, Pair) {
        // SAFETY: the token proves the feature.
        unsafe { (vzipq_f32(even.0, odd.0), vzipq_f32(even.1, odd.1)) }
    }
    #[inline(always)]
    fn prefetch(self, p: *const f32) {
        // SAFETY: a hint, which never faults.
        unsafe { asm!("prfm pldl2keep, [{}]", in(reg) p, options(nomem, nostack, preserves_flags)) };
    }
    #[inline(always)]
    unsafe fn transpose_block(self, src: *const f32, src_ld: usize, dst: *mut f32, dst_ld: usize) {
        // SAFETY: token and caller; four blocks of 4 x 4.
        unsafe {
            for (i, j) in [(0, 0), (4, 0), (0, 4), (4, 4)] {
                transpose4(src.add(i * src_ld + j), src_ld, dst.add(j * dst_ld + i), dst_ld);
            }
        }
    }
}
