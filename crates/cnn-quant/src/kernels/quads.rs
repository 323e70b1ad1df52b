//! Products of unsigned bytes with signed ones, four at a time added to 32 bits, filters in lanes: AVX-512 VNNI.
//!
//! As in a float matrix product, a row of the left operand is read in place, here four bytes for a float, and multiplied with a panel
//! of one or two vectors of filters. In channels-last memory the pixels under a row of a filter are one run of bytes, and the runs of
//! neighbouring pixels overlap: nothing is copied.

/// Filters of a tile: a vector of sums.
pub const TILE: usize = 16;
/// Bytes that are multiplied and added to one sum at a time.
pub const QUAD: usize = 4;
/// Rows at a time at most: with two vectors each, as many sums as registers hold.
const ROWS: usize = 12;

/// Rows of bytes, and what becomes of their sums.
#[derive(Clone, Copy)]
pub struct Rows<'a> {
    /// All that rows read.
    pub codes: &'a [u8],
    /// Where the first row begins.
    pub first: usize,
    /// From a row to the next.
    pub step: usize,
    /// Number of rows.
    pub count: usize,
    /// Where the runs begin, from the beginning of a row on.
    pub runs: &'a [usize],
    /// Quads of a run.
    pub run_quads: usize,
}

/// The right operand: `[tile][quad][filter of the tile][4]`, and for each filter what is added to its sum and what that is multiplied
/// by. All are filled up to whole tiles.
pub struct Filters<'a> {
    pub weights: &'a [i8],
    pub added: &'a [i32],
    pub steps: &'a [f32],
}

/// True if the processor has the instructions.
pub fn available(isa: cnn_core::simd::Isa) -> bool {
    #[cfg(target_arch = "x86_64")]
    return isa.name() == "avx512" && is_x86_feature_detected!("avx512vnni");
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = isa;
        false
    }
}

/// `y[r][f] = (sum + added_f) step_f` for all rows `r` and the filters `from .. to`, `from` the first of a tile. Row `r` of `y` begins at
/// `r pitch`. The caller knows that sums fit 32 bits.
///
/// # Panics
/// If an operand is too short, or the processor has not the instructions ([`available`]).
///
/// # Safety
/// The `to - from` floats of each row of `y` must be the caller's to write.
pub unsafe fn products(
    rows: Rows<'_>,
    filters: &Filters<'_>,
    [from, to]: [usize; 2],
    y: *mut f32,
    pitch: usize,
) {
    let quads = rows.runs.len() * rows.run_quads;
    let tiles = to.div_ceil(TILE);
    let last_run = rows.runs.iter().max().copied().unwrap_or(0) + rows.run_quads * QUAD;
    if rows.count == 0 || from >= to {
        return;
    }
    assert!(rows.first + (rows.count - 1) * rows.step + last_run <= rows.codes.len());
    assert!(from.is_multiple_of(TILE) && filters.weights.len() >= tiles * quads * TILE * QUAD);
    assert!(filters.added.len() >= tiles * TILE && filters.steps.len() >= tiles * TILE);
    assert!(available(cnn_core::simd::Isa::active()));
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (y, pitch);
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the processor has the instructions, the operands are as long as was just checked, and `y` is the caller's.
    unsafe {
        x86::products(rows, filters, [from, to], y, pitch);
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Filters, QUAD, ROWS, Rows, TILE};
    use std::arch::x86_64::*;

    /// # Safety
    /// As [`super::products`] checks.
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    pub unsafe fn products(
        rows: Rows<'_>,
        filters: &Filters<'_>,
        [from, to]: [usize; 2],
        y: *mut f32,
        pitch: usize,
    ) {
        let mut f = from;
        while f < to {
            let two = to - f > TILE;
            // blocks of nearly equal height
            let blocks = rows.count.div_ceil(ROWS);
            for i in 0..blocks {
                let (start, end) = (i * rows.count / blocks, (i + 1) * rows.count / blocks);
                let block = Block { rows, filters, start, f, to };
                // SAFETY: the rows, the filters and their places in `y` are those of the whole.
                unsafe {
                    let y = y.add(start * pitch + f - from);
                    match (two, end - start) {
                        (false, 1) => block.run::<1, 1>(y, pitch),
                        (false, 2) => block.run::<2, 1>(y, pitch),
                        (false, 3) => block.run::<3, 1>(y, pitch),
                        (false, 4) => block.run::<4, 1>(y, pitch),
                        (false, 5) => block.run::<5, 1>(y, pitch),
                        (false, 6) => block.run::<6, 1>(y, pitch),
                        (false, 7) => block.run::<7, 1>(y, pitch),
                        (false, 8) => block.run::<8, 1>(y, pitch),
                        (false, 9) => block.run::<9, 1>(y, pitch),
                        (false, 10) => block.run::<10, 1>(y, pitch),
                        (false, 11) => block.run::<11, 1>(y, pitch),
                        (false, _) => block.run::<12, 1>(y, pitch),
                        (true, 1) => block.run::<1, 2>(y, pitch),
                        (true, 2) => block.run::<2, 2>(y, pitch),
                        (true, 3) => block.run::<3, 2>(y, pitch),
                        (true, 4) => block.run::<4, 2>(y, pitch),
                        (true, 5) => block.run::<5, 2>(y, pitch),
                        (true, 6) => block.run::<6, 2>(y, pitch),
                        (true, 7) => block.run::<7, 2>(y, pitch),
                        (true, 8) => block.run::<8, 2>(y, pitch),
                        (true, 9) => block.run::<9, 2>(y, pitch),
                        (true, 10) => block.run::<10, 2>(y, pitch),
                        (true, 11) => block.run::<11, 2>(y, pitch),
                        (true, _) => block.run::<12, 2>(y, pitch),
                    }
                }
            }
            f += if two { 2 * TILE } else { TILE };
        }
    }

    struct Block<'a> {
        rows: Rows<'a>,
        filters: &'a Filters<'a>,
        /// First row.
        start: usize,
        /// First filter.
        f: usize,
        /// End of the filters.
        to: usize,
    }

    impl Block<'_> {
        /// `R` rows by `V` vectors of filters.
        ///
        /// # Safety
        /// So many rows and filters must be there, in `y` too; all vectors of filters but the last are full.
        #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
        unsafe fn run<const R: usize, const V: usize>(&self, y: *mut f32, pitch: usize) {
            let rows = &self.rows;
            let tile = rows.runs.len() * rows.run_quads * TILE * QUAD;
            // SAFETY: inside the operands, as the caller promises.
            unsafe {
                let a = rows.codes.as_ptr().add(rows.first + self.start * rows.step);
                let mut b = self.filters.weights.as_ptr().add(self.f / TILE * tile);
                let mut sums = [[_mm512_setzero_si512(); V]; R];
                for &run in rows.runs {
                    let mut a = a.add(run);
                    for _ in 0..rows.run_quads {
                        let mut w = [_mm512_setzero_si512(); V];
                        for (v, w) in w.iter_mut().enumerate() {
                            *w = _mm512_loadu_si512(b.add(v * tile).cast());
                        }
                        for (r, sums) in sums.iter_mut().enumerate() {
                            let x = _mm512_set1_epi32(a.add(r * rows.step).cast::<i32>().read_unaligned());
                            for (sum, w) in sums.iter_mut().zip(w) {
                                // without saturation
                                *sum = _mm512_dpbusd_epi32(*sum, x, w);
                            }
                        }
                        a = a.add(QUAD);
                        b = b.add(TILE * QUAD);
                    }
                }
                for v in 0..V {
                    let f = self.f + v * TILE;
                    let added = _mm512_loadu_si512(self.filters.added.as_ptr().add(f).cast());
                    let step = _mm512_loadu_ps(self.filters.steps.as_ptr().add(f));
                    let mask = match self.to - f {
                        left if left < TILE => (1u16 << left) - 1,
                        _ => u16::MAX,
                    };
                    for (r, sums) in sums.iter().enumerate() {
                        let sum = _mm512_cvtepi32_ps(_mm512_add_epi32(sums[v], added));
                        _mm512_mask_storeu_ps(y.add(r * pitch + v * TILE), mask, _mm512_mul_ps(sum, step));
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cnn_core::simd::Isa;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_sums_are_exact(
            (count, step, quads, runs, filters) in (1usize..30, 1usize..9, 1usize..6, 1usize..4, 1usize..70),
            seed: u32,
        ) {
            if !available(Isa::active()) {
                return Ok(());
            }
            let mut state = seed | 1;
            let mut next = || {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                state >> 24
            };
            let starts: Vec<usize> = (0..runs).map(|i| i * 7).collect();
            let len = 3 + (count - 1) * step + starts[runs - 1] + quads * QUAD;
            let codes: Vec<u8> = (0..len).map(|_| next() as u8).collect();
            let tiles = filters.div_ceil(TILE);
            let weights: Vec<i8> = (0..tiles * runs * quads * TILE * QUAD).map(|_| next() as i8).collect();
            let added: Vec<i32> = (0..tiles * TILE).map(|_| next() as i32 * 1000 - 128_000).collect();
            let steps: Vec<f32> = (0..tiles * TILE).map(|_| next() as f32 / 64.0).collect();
            let rows = Rows { codes: &codes, first: 3, step, count, runs: &starts, run_quads: quads };
            let all = Filters { weights: &weights, added: &added, steps: &steps };
            for from in (0..filters).step_by(TILE) {
                let pitch = filters - from + 2;
                let mut y = vec![f32::NAN; (count - 1) * pitch + filters - from];
                // SAFETY: `y` has been made as long.
                unsafe { products(rows, &all, [from, filters], y.as_mut_ptr(), pitch) };
                for (r, f) in (0..count).flat_map(|r| (from..filters).map(move |f| (r, f))) {
                    let tile = &weights[f / TILE * runs * quads * TILE * QUAD..];
                    let sum: i32 = (0..runs * quads * QUAD)
                        .map(|t| {
                            let x = codes[3 + r * step + starts[t / QUAD / quads] + t % (quads * QUAD)];
                            i32::from(x) * i32::from(tile[(t / QUAD * TILE + f % TILE) * QUAD + t % QUAD])
                        })
                        .sum();
                    prop_assert_eq!(y[r * pitch + f - from], (sum + added[f]) as f32 * steps[f]);
                }
                prop_assert!(y.iter().filter(|v| v.is_nan()).count() == (count - 1) * 2);
            }
        }
    }
}
