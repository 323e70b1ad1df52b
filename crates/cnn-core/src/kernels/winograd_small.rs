//! Winograd's transforms for F(2x2, 3x3), along one axis: 16 multiplications per channel pair instead of 36 for a tile of 2x2 outputs.
//!
//! The interpolation points are 0, 1, -1 and infinity. Less is saved than with tiles of 4x4 outputs, but the filters grow from 9 to
//! 16 values and not to 36.

use crate::simd::Simd;

/// `Bt d`: input transform.
#[inline(always)]
pub fn input4<S: Simd>(s: S, d: [S::V; 4]) -> [S::V; 4] {
    [s.sub(d[0], d[2]), s.add(d[1], d[2]), s.sub(d[2], d[1]), s.sub(d[1], d[3])]
}

/// `At m`: output transform.
#[inline(always)]
pub fn output2<S: Simd>(s: S, m: [S::V; 4]) -> [S::V; 2] {
    [s.add(m[0], s.add(m[1], m[2])), s.sub(s.sub(m[1], m[2]), m[3])]
}

/// `G g`: filter transform.
#[inline(always)]
pub fn filter4<S: Simd>(s: S, g: [S::V; 3]) -> [S::V; 4] {
    let half = s.splat(0.5);
    let (even, odd) = (s.mul(half, s.add(g[0], g[2])), s.mul(half, g[1]));
    [g[0], s.add(even, odd), s.sub(even, odd), g[2]]
}
