//! The steps with AVX2.

use super::super::quads::TILE;
use super::super::quads::avx2::{LANES as VECTOR, sums};
use super::{LANES, POINTS};
use std::arch::x86_64::*;

/// Tiles whose sums registers hold.
const ROWS: usize = 5;

/// `V = B^T d B` for the codes of a tile, vector by vector: `d` has rows `down` after one another and pixels of `pitch`; points are written
/// `apart`.
///
/// # Safety
/// The codes and the points must be there, and the processor must have AVX2.
#[target_feature(enable = "avx2")]
pub unsafe fn points(d: *const i16, down: usize, pitch: usize, to: *mut i16, apart: usize) {
    for k in (0..pitch).step_by(LANES) {
        // SAFETY: the caller's promise.
        unsafe {
            let load = |i: usize, j: usize| _mm256_loadu_si256(d.add(i * down + j * pitch + k).cast());
            let column = |j| half([load(0, j), load(1, j), load(2, j), load(3, j)]);
            let columns = [column(0), column(1), column(2), column(3)];
            let rows = [0, 1, 2, 3].map(|i| [columns[0][i], columns[1][i], columns[2][i], columns[3][i]]);
            for (i, row) in rows.into_iter().enumerate() {
                for (j, point) in half(row).into_iter().enumerate() {
                    _mm256_storeu_si256(to.add((4 * i + j) * apart + k).cast(), point);
                }
            }
        }
    }
}

/// `B^T`, to four vectors.
#[inline]
#[target_feature(enable = "avx2")]
fn half([a, b, c, d]: [__m256i; 4]) -> [__m256i; 4] {
    [_mm256_sub_epi16(a, c), _mm256_add_epi16(b, c), _mm256_sub_epi16(c, b), _mm256_sub_epi16(b, d)]
}

/// `sum_c U V` for the points of `count` tiles, `[point][tile][pitch]`, and a tile of filters, `[point][pair][filter][2]`:
/// `[point][tile][filter]`.
///
/// # Panics
/// If an operand is too short.
///
/// # Safety
/// The processor must have AVX2.
#[target_feature(enable = "avx2")]
pub unsafe fn products(
    points: &[i16],
    pitch: usize,
    count: usize,
    filters: &[i16],
    pairs: usize,
    to: &mut [i32],
) {
    assert!(points.len() >= POINTS * count * pitch && 2 * pairs <= pitch);
    assert!(filters.len() >= POINTS * pairs * TILE * 2 && to.len() >= POINTS * count * TILE);
    let operands = filters.chunks_exact(pairs * TILE * 2).zip(points.chunks_exact(count * pitch));
    for ((filters, points), to) in operands.zip(to.chunks_exact_mut(count * TILE)) {
        // blocks of nearly equal height
        let blocks = count.div_ceil(ROWS);
        for i in 0..blocks {
            let [start, end] = [i, i + 1].map(|i| i * count / blocks);
            let (a, b) = (points[start * pitch..].as_ptr().cast(), filters.as_ptr().cast());
            let to = &mut to[start * TILE..end * TILE];
            macro_rules! run {
                ($($rows:literal)*) => {
                    match end - start {
                        // SAFETY: the rows are among the points, as the filters are; their lengths were checked.
                        $($rows => to.copy_from_slice(unsafe { sums::<$rows, 2, true>(a, 2 * pitch, &[0], pairs, b) }.as_flattened()),)*
                        _ => unreachable!("blocks have at most {ROWS} rows"),
                    }
                };
            }
            run!(1 2 3 4 5)
        }
    }
}

/// `Y = A^T M A / 4` of a tile whose products begin with these, `each` from a point to the next.
///
/// # Panics
/// If there are fewer.
///
/// # Safety
/// The processor must have AVX2.
#[inline]
#[target_feature(enable = "avx2")]
pub unsafe fn sums_of(products: &[i32], each: usize) -> [[[i32; TILE]; 2]; 2] {
    assert!(products.len() >= (POINTS - 1) * each + TILE);
    let mut y = [[[0i32; TILE]; 2]; 2];
    for v in (0..TILE).step_by(VECTOR) {
        // SAFETY: each point has a tile of products, as was just checked; a vector of a tile is written.
        unsafe {
            let m = products.as_ptr().add(v);
            let load = |i: usize, j: usize| _mm256_loadu_si256(m.add((4 * i + j) * each).cast());
            let column = |j| ends([load(0, j), load(1, j), load(2, j), load(3, j)]);
            let columns = [column(0), column(1), column(2), column(3)];
            for (i, y) in y.iter_mut().enumerate() {
                let row = ends([columns[0][i], columns[1][i], columns[2][i], columns[3][i]]);
                for (y, four) in y.iter_mut().zip(row) {
                    _mm256_storeu_si256(y[v..].as_mut_ptr().cast(), _mm256_srai_epi32::<2>(four));
                }
            }
        }
    }
    y
}

/// `A^T`, to four vectors.
#[inline]
#[target_feature(enable = "avx2")]
fn ends([a, b, c, d]: [__m256i; 4]) -> [__m256i; 2] {
    let (sum, difference) = (_mm256_add_epi32(b, c), _mm256_sub_epi32(b, c));
    [_mm256_add_epi32(a, sum), _mm256_sub_epi32(difference, d)]
}
