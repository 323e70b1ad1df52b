//! Vectors that may be wider than the channels.
//!
//! A kernel walks over channels in whole vectors, the last of which overlaps the one before it: the same values are computed
//! twice, and no masks are needed. Only where there are fewer channels than lanes are vectors `PARTIAL`.

use crate::simd::Simd;

/// Reads a vector, or its first `n` lanes if it is partial.
///
/// # Safety
/// As for [`Simd::load`] and [`Simd::load_partial`].
#[inline(always)]
pub(in crate::session) unsafe fn load<S: Simd, const PARTIAL: bool>(s: S, p: *const f32, n: usize) -> S::V {
    // SAFETY: the caller's promise.
    unsafe { if PARTIAL { s.load_partial(p, n) } else { s.load(p) } }
}

/// Writes a vector, or its first `n` lanes if it is partial.
///
/// # Safety
/// As for [`Simd::store`] and [`Simd::store_partial`].
#[inline(always)]
pub(in crate::session) unsafe fn store<S: Simd, const PARTIAL: bool>(s: S, p: *mut f32, n: usize, v: S::V) {
    // SAFETY: the caller's promise.
    unsafe { if PARTIAL { s.store_partial(p, n, v) } else { s.store(p, v) } }
}
