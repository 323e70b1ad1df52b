//! The portable instruction set: arrays that the compiler may vectorize itself.

use super::vector::{Simd, SimdOp};

/// Token of the portable code, which runs everywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scalar(());

impl Scalar {
    pub(super) fn new() -> Self {
        Scalar(())
    }
}

const LANES: usize = 8;

impl super::vector::Sealed for Scalar {}

impl Simd for Scalar {
    type V = [f32; LANES];
    const LANES: usize = LANES;
    const ROWS: [usize; 2] = [4, 2];

    #[inline(never)]
    fn vectorize<O: SimdOp>(self, op: O) -> O::Output {
        op.run(self)
    }
    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        [x; LANES]
    }
    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] + b[i])
    }
    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] - b[i])
    }
    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] * b[i])
    }
    #[inline(always)]
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        // `f32::mul_add` is a library call where the CPU is not known to have it; and so the bits are the same everywhere.
        std::array::from_fn(|i| a[i] * b[i] + c[i])
    }
    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn min(self, a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| if a[i] < b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn maximum(self, a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| if (b[i] > a[i]) | b[i].is_nan() { b[i] } else { a[i] })
    }
    #[inline(always)]
    fn sum(self, v: Self::V) -> f32 {
        v.iter().sum()
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> Self::V {
        // SAFETY: the caller vouches for LANES floats; an array has no stricter alignment.
        unsafe { *p.cast::<[f32; LANES]>() }
    }
    #[inline(always)]
    unsafe fn load_bytes(self, p: *const u8) -> Self::V {
        // SAFETY: the caller vouches for LANES bytes.
        unsafe { *p.cast::<[u8; LANES]>() }.map(f32::from)
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: Self::V) {
        // SAFETY: as for `load`.
        unsafe { *p.cast::<[f32; LANES]>() = v };
    }
    #[inline(always)]
    unsafe fn load_partial(self, p: *const f32, n: usize) -> Self::V {
        let mut v = [0.0; LANES];
        for (i, lane) in v.iter_mut().enumerate().take(n) {
            // SAFETY: i < n.
            *lane = unsafe { *p.add(i) };
        }
        v
    }
    #[inline(always)]
    unsafe fn store_partial(self, p: *mut f32, n: usize, v: Self::V) {
        for (i, lane) in v.iter().enumerate().take(n) {
            // SAFETY: i < n.
            unsafe { *p.add(i) = *lane };
        }
    }
    #[inline(always)]
    unsafe fn transpose_block(self, src: *const f32, src_ld: usize, dst: *mut f32, dst_ld: usize) {
        // SAFETY: the whole block is the partial block of LANES by LANES.
        unsafe { self.transpose_partial(src, src_ld, LANES, LANES, dst, dst_ld) };
    }
}
