//! NEON: a tile is four vectors of sums. Codes become signed bytes by turning their highest bit, which takes 128 from them.

use super::{Destination, Filters, QUAD, Rows, TILE, finish};
use std::arch::aarch64::*;
use std::arch::asm;

/// Rows at a time at most, with dot products and without: as many sums as the compiler keeps in registers.
const ROWS: [usize; 2] = [5, 2];

/// The products of blocks of rows, each a call of `$block` for so many rows.
macro_rules! blocks {
    ($name:ident, $features:literal, $most:expr, $block:ident, $($rows:literal)*) => {
        /// # Safety
        /// As [`super::Instructions::products`] checks.
        #[target_feature(enable = $features)]
        pub unsafe fn $name(rows: Rows<'_>, filters: &Filters, [from, to]: [usize; 2], out: Destination) {
            let all = (from..to).step_by(TILE).flat_map(|f| rows.by_line(out).map(move |line| (f, line)));
            for (f, (rows, out)) in all {
                // blocks of nearly equal height
                let blocks = rows.count.div_ceil($most);
                for i in 0..blocks {
                    let (start, end) = (i * rows.count / blocks, (i + 1) * rows.count / blocks);
                    let out = out.after(start, f - from);
                    // SAFETY: the rows, the filters and their places in `y` are those of the whole.
                    unsafe {
                        match end - start {
                            $($rows => {
                                let sums = $block::<$rows>(&rows, filters, start, f);
                                for (r, sums) in sums.iter().enumerate() {
                                    finish(sums, &filters.ends, f, to - f, out.after(r, 0));
                                }
                            })*
                            _ => unreachable!("blocks have at most {} rows", $most),
                        }
                    }
                }
            }
        }
    };
}

blocks!(sdot, "neon,dotprod", ROWS[0], block_sdot, 1 2 3 4 5);
blocks!(smlal, "neon", ROWS[1], block_smlal, 1 2);

/// Adds the products of a row's quad with those of a tile.
///
/// # Safety
/// Four bytes must be there to be read.
#[target_feature(enable = "neon,dotprod")]
#[inline]
unsafe fn add_dots(sums: &mut [int32x4_t; 4], quad: *const u8, w: [int8x16_t; 4]) {
    let [mut s0, mut s1, mut s2, mut s3] = *sums;
    let [w0, w1, w2, w3] = w;
    // SAFETY: the function has the features, and four bytes are read. The instruction is not yet among the intrinsics; four in one block,
    // since the compiler moves registers about between blocks.
    unsafe {
        let x = vreinterpretq_s8_u32(vdupq_n_u32(quad.cast::<u32>().read_unaligned()));
        let x = veorq_s8(x, vdupq_n_s8(-128));
        asm!(
            "sdot {s0:v}.4s, {x:v}.16b, {w0:v}.16b",
            "sdot {s1:v}.4s, {x:v}.16b, {w1:v}.16b",
            "sdot {s2:v}.4s, {x:v}.16b, {w2:v}.16b",
            "sdot {s3:v}.4s, {x:v}.16b, {w3:v}.16b",
            s0 = inout(vreg) s0, s1 = inout(vreg) s1, s2 = inout(vreg) s2, s3 = inout(vreg) s3,
            x = in(vreg) x, w0 = in(vreg) w0, w1 = in(vreg) w1, w2 = in(vreg) w2, w3 = in(vreg) w3,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    *sums = [s0, s1, s2, s3];
}

/// The sums of `R` rows from `start` on, for the tile of filters that begins at `f`.
///
/// # Safety
/// So many rows and filters must be there.
#[target_feature(enable = "neon,dotprod")]
#[inline]
unsafe fn block_sdot<const R: usize>(
    rows: &Rows<'_>,
    filters: &Filters,
    start: usize,
    f: usize,
) -> [[i32; TILE]; R] {
    let tile = rows.runs.len() * rows.run_quads * TILE * QUAD;
    let mut done = [[0; TILE]; R];
    // SAFETY: inside the operands, as the caller promises.
    unsafe {
        let first = rows.codes.as_ptr().add(rows.first + start * rows.step);
        let mut b = filters.weights.as_ptr().add(f / TILE * tile);
        let mut sums = [[vdupq_n_s32(0); TILE / 4]; R];
        for &run in rows.runs {
            let mut a = first.add(run);
            for _ in 0..rows.run_quads {
                let w = [vld1q_s8(b), vld1q_s8(b.add(16)), vld1q_s8(b.add(32)), vld1q_s8(b.add(48))];
                for (r, sums) in sums.iter_mut().enumerate() {
                    add_dots(sums, a.add(r * rows.step), w);
                }
                a = a.add(QUAD);
                b = b.add(TILE * QUAD);
            }
        }
        for (done, sums) in done.iter_mut().zip(sums) {
            for (i, sum) in sums.into_iter().enumerate() {
                vst1q_s32(done.as_mut_ptr().add(4 * i), sum);
            }
        }
    }
    done
}

/// As [`block_sdot`]; products of two quads are added in 16 bits, and then two neighbours to 32.
///
/// # Safety
/// So many rows and filters must be there, and no weight may be -128.
#[target_feature(enable = "neon")]
#[inline]
unsafe fn block_smlal<const R: usize>(
    rows: &Rows<'_>,
    filters: &Filters,
    start: usize,
    f: usize,
) -> [[i32; TILE]; R] {
    let tile = rows.runs.len() * rows.run_quads * TILE * QUAD;
    let mut done = [[0; TILE]; R];
    // SAFETY: inside the operands, as the caller promises.
    unsafe {
        let first = rows.codes.as_ptr().add(rows.first + start * rows.step);
        let mut b = filters.weights.as_ptr().add(f / TILE * tile);
        // of two filters each, two halves of a quad
        let mut sums = [[vdupq_n_s32(0); TILE / 2]; R];
        let middle = vdup_n_s8(-128);
        let code =
            |a: *const u8| veor_s8(vreinterpret_s8_u32(vdup_n_u32(a.cast::<u32>().read_unaligned())), middle);
        for &run in rows.runs {
            let mut a = first.add(run);
            for _ in 0..rows.run_quads / 2 {
                for (r, sums) in sums.iter_mut().enumerate() {
                    let (x0, x1) = (code(a.add(r * rows.step)), code(a.add(r * rows.step + QUAD)));
                    for (i, sum) in sums.iter_mut().enumerate() {
                        let w = b.add(8 * i);
                        let products = vmlal_s8(vmull_s8(x0, vld1_s8(w)), x1, vld1_s8(w.add(TILE * QUAD)));
                        *sum = vpadalq_s16(*sum, products);
                    }
                }
                a = a.add(2 * QUAD);
                b = b.add(2 * TILE * QUAD);
            }
            if !rows.run_quads.is_multiple_of(2) {
                for (r, sums) in sums.iter_mut().enumerate() {
                    let x = code(a.add(r * rows.step));
                    for (i, sum) in sums.iter_mut().enumerate() {
                        *sum = vpadalq_s16(*sum, vmull_s8(x, vld1_s8(b.add(8 * i))));
                    }
                }
                b = b.add(TILE * QUAD);
            }
        }
        for (done, sums) in done.iter_mut().zip(sums) {
            for i in 0..TILE / 4 {
                vst1q_s32(done.as_mut_ptr().add(4 * i), vpaddq_s32(sums[2 * i], sums[2 * i + 1]));
            }
        }
    }
    done
}
