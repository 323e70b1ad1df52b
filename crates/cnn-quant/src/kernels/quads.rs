//! Products of unsigned bytes with signed ones, four at a time added to 32 bits, filters in lanes: AVX-512 VNNI.
//!
//! As in a float matrix product, a row of the left operand is read in place, here four bytes for a float, and multiplied with a panel
//! of one or two vectors of filters. In channels-last memory the pixels under a row of a filter are one run of bytes, and the runs of
//! neighbouring pixels overlap: nothing is copied.

use cnn_core::session::Levels;
use std::sync::Arc;

/// Filters of a tile: a vector of sums.
pub const TILE: usize = 16;
/// Bytes that are multiplied and added to one sum at a time.
pub const QUAD: usize = 4;

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

/// The right operand, and what becomes of its sums: `y = min(max((sum + added) step scale + shift + residual, low), high)`. What there is
/// for each filter is filled up to whole tiles.
#[derive(Debug)]
pub struct Filters {
    /// `[tile][quad][filter of the tile][4]`.
    pub weights: Arc<Vec<i8>>,
    pub added: Vec<i32>,
    pub steps: Vec<f32>,
    pub scale: Option<Vec<f32>>,
    pub shift: Option<Vec<f32>>,
    pub low: f32,
    pub high: f32,
}

/// Memory of results.
#[derive(Clone, Copy)]
pub enum Results {
    Floats(*mut f32),
    /// Bytes on a grid.
    Codes(*mut u8, Levels),
}

impl Results {
    /// So many results further.
    pub fn after(self, count: usize) -> Results {
        match self {
            Results::Floats(y) => Results::Floats(y.wrapping_add(count)),
            Results::Codes(y, levels) => Results::Codes(y.wrapping_add(count), levels),
        }
    }

    /// # Safety
    /// The result must be the caller's to write.
    pub unsafe fn set(self, at: usize, value: f32) {
        // SAFETY: the caller's promise.
        unsafe {
            match self {
                Results::Floats(y) => *y.add(at) = value,
                Results::Codes(y, levels) => *y.add(at) = levels.code(value),
            }
        }
    }
}

/// Where rows of results go, and what is added to them.
#[derive(Clone, Copy)]
pub struct Destination {
    pub y: Results,
    /// From a row to the next, in results.
    pub pitch: usize,
    /// Null for nothing.
    pub residual: *const f32,
    /// From a row of the residual to the next.
    pub residual_pitch: usize,
}

/// True if the processor has the instructions; others compute the same, slowly.
pub fn available(isa: cnn_core::simd::Isa) -> bool {
    #[cfg(target_arch = "x86_64")]
    return isa.name() == "avx512" && is_x86_feature_detected!("avx512vnni");
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = isa;
        false
    }
}

/// The results for all rows and the filters `from .. to`, `from` the first of a tile. The caller knows that sums fit 32 bits.
///
/// # Panics
/// If an operand is too short.
///
/// # Safety
/// The `to - from` floats of each row of `y` must be the caller's to write, those of the residual there to be read.
pub unsafe fn products(rows: Rows<'_>, filters: &Filters, [from, to]: [usize; 2], out: Destination) {
    let quads = rows.runs.len() * rows.run_quads;
    let tiles = to.div_ceil(TILE);
    let last_run = rows.runs.iter().max().copied().unwrap_or(0) + rows.run_quads * QUAD;
    if rows.count == 0 || from >= to {
        return;
    }
    assert!(rows.first + (rows.count - 1) * rows.step + last_run <= rows.codes.len());
    assert!(from.is_multiple_of(TILE) && filters.weights.len() >= tiles * quads * TILE * QUAD);
    assert!(filters.added.len() >= tiles * TILE && filters.steps.len() >= tiles * TILE);
    assert!([&filters.scale, &filters.shift].into_iter().flatten().all(|v| v.len() >= tiles * TILE));
    #[cfg(target_arch = "x86_64")]
    if available(cnn_core::simd::Isa::active()) {
        // SAFETY: the processor has the instructions, the operands are as long as was just checked, and `out` is the caller's.
        return unsafe { x86::products(rows, filters, [from, to], out) };
    }
    // SAFETY: `out` is the caller's.
    unsafe { portable(rows, filters, [from, to], out) };
}

/// What the instructions do.
///
/// # Safety
/// As [`products`].
unsafe fn portable(rows: Rows<'_>, filters: &Filters, [from, to]: [usize; 2], out: Destination) {
    let quads = rows.runs.len() * rows.run_quads;
    for (r, f) in (0..rows.count).flat_map(|r| (from..to).map(move |f| (r, f))) {
        let tile = &filters.weights[f / TILE * quads * TILE * QUAD..];
        let mut sum = filters.added[f];
        for term in 0..quads * QUAD {
            let (run, at) = (rows.runs[term / QUAD / rows.run_quads], term % (rows.run_quads * QUAD));
            let code = rows.codes[rows.first + r * rows.step + run + at];
            sum += i32::from(code) * i32::from(tile[(term / QUAD * TILE + f % TILE) * QUAD + term % QUAD]);
        }
        let mut value = sum as f32 * filters.steps[f];
        value = filters.scale.as_ref().map_or(value, |scale| value * scale[f]);
        value = filters.shift.as_ref().map_or(value, |shift| value + shift[f]);
        // SAFETY: the caller's promise.
        unsafe {
            if !out.residual.is_null() {
                value += *out.residual.add(r * out.residual_pitch + f - from);
            }
            let bounded = if value.is_nan() { value } else { value.max(filters.low).min(filters.high) };
            out.y.set(r * out.pitch + f - from, bounded);
        }
    }
}

#[cfg(target_arch = "x86_64")]
pub use x86::store_codes;

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Destination, Filters, QUAD, Results, Rows, TILE};
    use cnn_core::session::Levels;
    use std::arch::x86_64::*;

    /// Rows at a time at most: with two vectors each, as many sums as registers hold.
    const ROWS: usize = 12;

    /// # Safety
    /// As [`super::products`] checks.
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    pub unsafe fn products(rows: Rows<'_>, filters: &Filters, [from, to]: [usize; 2], out: Destination) {
        let mut f = from;
        while f < to {
            let two = to - f > TILE;
            // blocks of nearly equal height
            let blocks = rows.count.div_ceil(ROWS);
            for i in 0..blocks {
                let (start, end) = (i * rows.count / blocks, (i + 1) * rows.count / blocks);
                let y = out.y.after(start * out.pitch + f - from);
                let residual = match out.residual.is_null() {
                    true => out.residual,
                    false => out.residual.wrapping_add(start * out.residual_pitch + f - from),
                };
                let block = Block { rows, filters, start, f, to, out: Destination { y, residual, ..out } };
                // SAFETY: the rows, the filters and their places in `y` are those of the whole.
                unsafe {
                    match (two, end - start) {
                        (false, 1) => block.run::<1, 1>(),
                        (false, 2) => block.run::<2, 1>(),
                        (false, 3) => block.run::<3, 1>(),
                        (false, 4) => block.run::<4, 1>(),
                        (false, 5) => block.run::<5, 1>(),
                        (false, 6) => block.run::<6, 1>(),
                        (false, 7) => block.run::<7, 1>(),
                        (false, 8) => block.run::<8, 1>(),
                        (false, 9) => block.run::<9, 1>(),
                        (false, 10) => block.run::<10, 1>(),
                        (false, 11) => block.run::<11, 1>(),
                        (false, _) => block.run::<12, 1>(),
                        (true, 1) => block.run::<1, 2>(),
                        (true, 2) => block.run::<2, 2>(),
                        (true, 3) => block.run::<3, 2>(),
                        (true, 4) => block.run::<4, 2>(),
                        (true, 5) => block.run::<5, 2>(),
                        (true, 6) => block.run::<6, 2>(),
                        (true, 7) => block.run::<7, 2>(),
                        (true, 8) => block.run::<8, 2>(),
                        (true, 9) => block.run::<9, 2>(),
                        (true, 10) => block.run::<10, 2>(),
                        (true, 11) => block.run::<11, 2>(),
                        (true, _) => block.run::<12, 2>(),
                    }
                }
            }
            f += if two { 2 * TILE } else { TILE };
        }
    }

    /// [`Levels::code`] of each value.
    ///
    /// # Safety
    /// The bytes of the mask must be the caller's to write.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    pub unsafe fn store_codes(to: *mut u8, mask: __mmask16, value: __m512, levels: Levels) {
        let number = _mm512_cmp_ps_mask::<_CMP_ORD_Q>(value, value);
        let level = _mm512_maskz_div_ps(number, value, _mm512_set1_ps(levels.step));
        let low = _mm512_set1_ps(f32::from(levels.low));
        let level = _mm512_min_ps(_mm512_max_ps(level, low), _mm512_set1_ps(f32::from(levels.high)));
        // rounds to even; what is taken away is a whole number
        let code = _mm512_sub_epi32(_mm512_cvtps_epi32(level), _mm512_cvtps_epi32(low));
        // SAFETY: the caller's promise.
        unsafe { _mm512_mask_cvtepi32_storeu_epi8(to.cast(), mask, code) };
    }

    struct Block<'a> {
        rows: Rows<'a>,
        filters: &'a Filters,
        /// First row.
        start: usize,
        /// First filter.
        f: usize,
        /// End of the filters.
        to: usize,
        /// From the first row and filter on.
        out: Destination,
    }

    impl Block<'_> {
        /// `R` rows by `V` vectors of filters.
        ///
        /// # Safety
        /// So many rows and filters must be there, in `y` too; all vectors of filters but the last are full.
        #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
        unsafe fn run<const R: usize, const V: usize>(&self) {
            let (rows, filters, out) = (&self.rows, self.filters, self.out);
            let tile = rows.runs.len() * rows.run_quads * TILE * QUAD;
            // SAFETY: inside the operands, as the caller promises.
            unsafe {
                let a = rows.codes.as_ptr().add(rows.first + self.start * rows.step);
                let mut b = filters.weights.as_ptr().add(self.f / TILE * tile);
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
                // through memory: only a short loop over all sums is unrolled, and leaves them in registers until here
                let mut done = [[[0i32; TILE]; V]; R];
                for (done, sums) in done.iter_mut().zip(sums) {
                    for (done, sum) in done.iter_mut().zip(sums) {
                        _mm512_storeu_si512(done.as_mut_ptr().cast(), sum);
                    }
                }
                for v in 0..V {
                    let f = self.f + v * TILE;
                    let added = _mm512_loadu_si512(filters.added.as_ptr().add(f).cast());
                    let step = _mm512_loadu_ps(filters.steps.as_ptr().add(f));
                    let [scale, shift] = [&filters.scale, &filters.shift]
                        .map(|v| v.as_ref().map(|v| _mm512_loadu_ps(v.as_ptr().add(f))));
                    let (low, high) = (_mm512_set1_ps(filters.low), _mm512_set1_ps(filters.high));
                    let mask = match self.to - f {
                        left if left < TILE => (1u16 << left) - 1,
                        _ => u16::MAX,
                    };
                    for (r, done) in done.iter().enumerate() {
                        let sum = _mm512_add_epi32(_mm512_loadu_si512(done[v].as_ptr().cast()), added);
                        let mut value = _mm512_mul_ps(_mm512_cvtepi32_ps(sum), step);
                        if let Some(scale) = scale {
                            value = _mm512_mul_ps(value, scale);
                        }
                        if let Some(shift) = shift {
                            value = _mm512_add_ps(value, shift);
                        }
                        if !out.residual.is_null() {
                            let residual = out.residual.add(r * out.residual_pitch + v * TILE);
                            value = _mm512_add_ps(value, _mm512_maskz_loadu_ps(mask, residual));
                        }
                        // the value second: NaN stays NaN
                        value = _mm512_min_ps(high, _mm512_max_ps(low, value));
                        match out.y {
                            Results::Floats(y) => {
                                _mm512_mask_storeu_ps(y.add(r * out.pitch + v * TILE), mask, value)
                            }
                            Results::Codes(y, levels) => {
                                store_codes(y.add(r * out.pitch + v * TILE), mask, value, levels);
                            }
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_sums_are_exact(
            (count, step, quads, runs, filters) in (1usize..30, 1usize..9, 1usize..6, 1usize..4, 1usize..70),
            seed: u32,
        ) {
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
            let shift = vec![0.5; tiles * TILE];
            let scale = Some(vec![2.0; tiles * TILE]);
            let weights = Arc::new(weights);
            let all = Filters { weights, added, steps, scale, shift: Some(shift), low: -1000.0, high: 2000.0 };
            let residual: Vec<f32> = (0..count * filters).map(|_| next() as f32).collect();
            for from in (0..filters).step_by(TILE) {
                let pitch = filters - from + 2;
                let mut y = vec![f32::NAN; (count - 1) * pitch + filters - from];
                let residual_at = residual[from..].as_ptr();
                let floats = Results::Floats(y.as_mut_ptr());
                let out = Destination { y: floats, pitch, residual: residual_at, residual_pitch: filters };
                // SAFETY: `y` and `residual` have been made as long.
                unsafe { products(rows, &all, [from, filters], out) };
                let levels = Levels { step: 7.0, low: -100, high: 110 };
                let mut bytes = vec![255u8; y.len()];
                let out = Destination { y: Results::Codes(bytes.as_mut_ptr(), levels), ..out };
                // SAFETY: as above.
                unsafe { products(rows, &all, [from, filters], out) };
                let wanted = |y: &f32| if y.is_nan() { 255 } else { levels.code(*y) };
                prop_assert_eq!(&bytes, &y.iter().map(wanted).collect::<Vec<u8>>());
                for (r, f) in (0..count).flat_map(|r| (from..filters).map(move |f| (r, f))) {
                    let tile = &all.weights[f / TILE * runs * quads * TILE * QUAD..];
                    let sum: i32 = (0..runs * quads * QUAD)
                        .map(|t| {
                            let x = codes[3 + r * step + starts[t / QUAD / quads] + t % (quads * QUAD)];
                            i32::from(x) * i32::from(tile[(t / QUAD * TILE + f % TILE) * QUAD + t % QUAD])
                        })
                        .sum();
                    let value = (sum + all.added[f]) as f32 * all.steps[f] * 2.0 + 0.5 + residual[r * filters + f];
                    prop_assert_eq!(y[r * pitch + f - from], value.clamp(-1000.0, 2000.0));
                }
                prop_assert!(y.iter().filter(|v| v.is_nan()).count() == (count - 1) * 2);
            }
        }
    }
}
