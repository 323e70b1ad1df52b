//! One-dimensional correlation with a list of offsets: the depthwise loops.
//!
//! A padded plane is one long row of floats; a filter tap is then an offset
//! into it, whatever the width of the image, so that vectors run across the
//! ends of image rows and small images do not waste lanes.

use super::phases::SLACK;
use crate::simd::Simd;

/// Vectors computed together, enough to hide the latency of the additions.
const BLOCK: usize = 4;

/// `dst[i] = bias + sum over t of w[t] * src[i + offsets[t]]`, `i < len`.
///
/// Works in whole vectors: both slices need [`SLACK`] behind their ends.
#[inline(always)]
pub fn correlate<S: Simd>(
    s: S,
    src: &[f32],
    offsets: &[usize],
    w: &[f32],
    bias: f32,
    dst: &mut [f32],
    len: usize,
) {
    let reach = offsets.iter().copied().max().unwrap_or(0);
    assert!(S::LANES <= SLACK && w.len() == offsets.len());
    assert!(src.len() >= len + reach + SLACK && dst.len() >= len + SLACK);
    let bias = s.splat(bias);
    match (offsets.first_chunk::<9>(), w.first_chunk::<9>()) {
        (Some(o), Some(w)) if offsets.len() == 9 => {
            let w = w.map(|w| s.splat(w));
            let mut i = 0;
            while i + BLOCK * S::LANES <= len + S::LANES {
                // SAFETY: as the asserts say, with i + BLOCK * LANES <= len + SLACK.
                unsafe { nine::<S, BLOCK>(s, src.as_ptr(), o, w, bias, dst.as_mut_ptr(), i) };
                i += BLOCK * S::LANES;
            }
            while i < len {
                // SAFETY: as the asserts say, with i < len.
                unsafe { nine::<S, 1>(s, src.as_ptr(), o, w, bias, dst.as_mut_ptr(), i) };
                i += S::LANES;
            }
        }
        _ => {
            let mut i = 0;
            while i < len {
                let mut acc = bias;
                for (&w, &off) in w.iter().zip(offsets) {
                    // SAFETY: i < len, and SLACK floats follow.
                    let v = unsafe { s.load(src.as_ptr().add(i + off)) };
                    acc = s.fma(s.splat(w), v, acc);
                }
                // SAFETY: i < len, and SLACK floats follow.
                unsafe { s.store(dst.as_mut_ptr().add(i), acc) };
                i += S::LANES;
            }
        }
    }
}

/// `N` vectors of the most common filter, its weights in registers.
///
/// # Safety
/// `dst` must be valid for the vectors at `i`, `src` for the same shifted by each offset.
#[inline(always)]
unsafe fn nine<S: Simd, const N: usize>(
    s: S,
    src: *const f32,
    offsets: &[usize; 9],
    w: [S::V; 9],
    bias: S::V,
    dst: *mut f32,
    i: usize,
) {
    let mut acc = [bias; N];
    for (w, &off) in w.into_iter().zip(offsets) {
        for (j, acc) in acc.iter_mut().enumerate() {
            // SAFETY: the caller's promise.
            *acc = s.fma(w, unsafe { s.load(src.add(i + off + j * S::LANES)) }, *acc);
        }
    }
    for (j, acc) in acc.into_iter().enumerate() {
        // SAFETY: the caller's promise.
        unsafe { s.store(dst.add(i + j * S::LANES), acc) };
    }
}

/// `T` sums `sum over planes, i of a[i] * src[i + offsets[t]]`.
///
/// `planes` pairs lie `a_step` and `src_step` apart. `a` must be zero from
/// `len` to the end of its last vector, and both need [`SLACK`].
#[inline(always)]
pub fn dots<S: Simd, const T: usize>(
    s: S,
    mut acc: [S::V; T],
    (a, a_step): (&[f32], usize),
    (src, src_step): (&[f32], usize),
    offsets: &[usize],
    planes: usize,
    len: usize,
) -> [S::V; T] {
    let reach = offsets.iter().copied().max().unwrap_or(0);
    assert!(planes > 0 && S::LANES <= SLACK && offsets.len() == T);
    assert!(a.len() >= (planes - 1) * a_step + len + SLACK);
    assert!(src.len() >= (planes - 1) * src_step + len + reach + SLACK);
    for p in 0..planes {
        let mut i = 0;
        while i < len {
            // SAFETY: i < len, and SLACK floats follow, by the asserts.
            unsafe {
                let x = s.load(a.as_ptr().add(p * a_step + i));
                let src = src.as_ptr().add(p * src_step + i);
                for (acc, &off) in acc.iter_mut().zip(offsets) {
                    *acc = s.fma(x, s.load(src.add(off)), *acc);
                }
            }
            i += S::LANES;
        }
    }
    acc
}
