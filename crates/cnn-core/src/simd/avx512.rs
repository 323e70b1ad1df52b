//! AVX-512: 16 floats, 32 registers, mask registers for the tails.

use super::vector::{Simd, SimdOp};
use std::arch::x86_64::*;

/// Token of AVX-512 F.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Avx512(());

impl Avx512 {
    /// The token, if the CPU has the instructions.
    pub(super) fn detect() -> Option<Self> {
        let all = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma");
        all.then_some(Avx512(()))
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
#[inline(never)]
fn inside<O: SimdOp>(s: Avx512, op: O) -> O::Output {
    op.run(s)
}

#[inline(always)]
fn mask(n: usize) -> __mmask16 {
    ((1u32 << n) - 1) as __mmask16
}

/// Transposes sixteen vectors of sixteen lanes held in registers.
///
/// # Safety
/// AVX-512 F must be available.
#[inline(always)]
unsafe fn transpose16(r: &mut [__m512; 16]) {
    // SAFETY: register shuffles of AVX-512 F, which the caller has.
    unsafe {
        let mut t = *r;
        for i in 0..8 {
            t[2 * i] = _mm512_unpacklo_ps(r[2 * i], r[2 * i + 1]);
            t[2 * i + 1] = _mm512_unpackhi_ps(r[2 * i], r[2 * i + 1]);
        }
        let mut q = t;
        for i in 0..4 {
            let b = 4 * i;
            q[b] = _mm512_shuffle_ps::<0x44>(t[b], t[b + 2]);
            q[b + 1] = _mm512_shuffle_ps::<0xee>(t[b], t[b + 2]);
            q[b + 2] = _mm512_shuffle_ps::<0x44>(t[b + 1], t[b + 3]);
            q[b + 3] = _mm512_shuffle_ps::<0xee>(t[b + 1], t[b + 3]);
        }
        for i in 0..4 {
            let ab_even = _mm512_shuffle_f32x4::<0x88>(q[i], q[i + 4]);
            let ab_odd = _mm512_shuffle_f32x4::<0xdd>(q[i], q[i + 4]);
            let cd_even = _mm512_shuffle_f32x4::<0x88>(q[i + 8], q[i + 12]);
            let cd_odd = _mm512_shuffle_f32x4::<0xdd>(q[i + 8], q[i + 12]);
            r[i] = _mm512_shuffle_f32x4::<0x88>(ab_even, cd_even);
            r[i + 8] = _mm512_shuffle_f32x4::<0xdd>(ab_even, cd_even);
            r[i + 4] = _mm512_shuffle_f32x4::<0x88>(ab_odd, cd_odd);
            r[i + 12] = _mm512_shuffle_f32x4::<0xdd>(ab_odd, cd_odd);
        }
    }
}

impl super::vector::Sealed for Avx512 {}

impl Simd for Avx512 {
    type V = __m512;
    const LANES: usize = 16;
    const ROWS: [usize; 2] = [16, 14];

    fn vectorize<O: SimdOp>(self, op: O) -> O::Output {
        // SAFETY: the token proves the features.
        unsafe { inside(self, op) }
    }
    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        // SAFETY: the token proves the features.
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: the token proves the features.
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: the token proves the features.
        unsafe { _mm512_sub_ps(a, b) }
    }
    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: the token proves the features.
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: the token proves the features.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: the token proves the features.
        unsafe { _mm512_max_ps(a, b) }
    }
    #[inline(always)]
    fn min(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: the token proves the features.
        unsafe { _mm512_min_ps(a, b) }
    }
    #[inline(always)]
    fn maximum(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: the token proves the features.
        unsafe { _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_UNORD_Q>(a, a), _mm512_max_ps(a, b), a) }
    }
    #[inline(always)]
    fn sum(self, v: __m512) -> f32 {
        // SAFETY: the token proves the features.
        unsafe { _mm512_reduce_add_ps(v) }
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> __m512 {
        // SAFETY: token and caller.
        unsafe { _mm512_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn load_bytes(self, p: *const u8) -> __m512 {
        // SAFETY: token and caller.
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(p.cast()))) }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: __m512) {
        // SAFETY: token and caller.
        unsafe { _mm512_storeu_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn store_at_least(self, p: *mut f32, n: usize, v: __m512) {
        // SAFETY: token and caller.
        unsafe {
            if n <= 4 {
                _mm_storeu_ps(p, _mm512_castps512_ps128(v));
            } else if n <= 8 {
                _mm256_storeu_ps(p, _mm512_castps512_ps256(v));
            } else {
                _mm512_storeu_ps(p, v);
            }
        }
    }
    #[inline(always)]
    unsafe fn copy_short(self, src: *const f32, dst: *mut f32, n: usize) {
        // SAFETY: token and caller; the first and the last piece overlap.
        unsafe {
            if n >= 8 {
                let first = _mm256_loadu_ps(src);
                let last = _mm256_loadu_ps(src.add(n - 8));
                _mm256_storeu_ps(dst, first);
                _mm256_storeu_ps(dst.add(n - 8), last);
            } else if n >= 4 {
                let first = _mm_loadu_ps(src);
                let last = _mm_loadu_ps(src.add(n - 4));
                _mm_storeu_ps(dst, first);
                _mm_storeu_ps(dst.add(n - 4), last);
            } else {
                for i in 0..n {
                    *dst.add(i) = *src.add(i);
                }
            }
        }
    }
    #[inline(always)]
    unsafe fn load_partial(self, p: *const f32, n: usize) -> __m512 {
        // SAFETY: token and caller; masked lanes are not read.
        unsafe { _mm512_maskz_loadu_ps(mask(n), p) }
    }
    #[inline(always)]
    unsafe fn store_partial(self, p: *mut f32, n: usize, v: __m512) {
        // SAFETY: token and caller; masked lanes are not written.
        unsafe { _mm512_mask_storeu_ps(p, mask(n), v) }
    }
    #[inline(always)]
    fn split_pairs(self, lo: __m512, hi: __m512) -> (__m512, __m512) {
        // SAFETY: the token proves the features.
        unsafe {
            let even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
            let odd = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
            (_mm512_permutex2var_ps(lo, even, hi), _mm512_permutex2var_ps(lo, odd, hi))
        }
    }
    #[inline(always)]
    fn join_pairs(self, even: __m512, odd: __m512) -> (__m512, __m512) {
        // SAFETY: the token proves the features.
        unsafe {
            let lo = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
            let hi = _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
            (_mm512_permutex2var_ps(even, lo, odd), _mm512_permutex2var_ps(even, hi, odd))
        }
    }
    #[inline(always)]
    fn prefetch(self, p: *const f32) {
        // SAFETY: a hint, which never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(p.cast()) };
    }
    #[inline(always)]
    unsafe fn transpose_block(self, src: *const f32, src_ld: usize, dst: *mut f32, dst_ld: usize) {
        // SAFETY: token and caller.
        unsafe {
            let mut r = [_mm512_setzero_ps(); 16];
            for (i, v) in r.iter_mut().enumerate() {
                *v = _mm512_loadu_ps(src.add(i * src_ld));
            }
            transpose16(&mut r);
            for (j, v) in r.iter().enumerate() {
                _mm512_storeu_ps(dst.add(j * dst_ld), *v);
            }
        }
    }
    #[inline(always)]
    unsafe fn transpose_partial(
        self,
        src: *const f32,
        src_ld: usize,
        rows: usize,
        cols: usize,
        dst: *mut f32,
        dst_ld: usize,
    ) {
        // SAFETY: token and caller; rows and columns outside the block are
        // neither read nor written.
        unsafe {
            let (cm, rm) = (mask(cols), mask(rows));
            let mut r = [_mm512_setzero_ps(); 16];
            for (i, v) in r.iter_mut().enumerate() {
                if i < rows {
                    *v = _mm512_maskz_loadu_ps(cm, src.add(i * src_ld));
                }
            }
            transpose16(&mut r);
            for (j, v) in r.iter().enumerate() {
                if j < cols {
                    _mm512_mask_storeu_ps(dst.add(j * dst_ld), rm, *v);
                }
            }
        }
    }
}
