//! AVX-512 VNNI: a vector is a tile, and one instruction multiplies a quad for each of its filters.

use super::{Destination, Filters, QUAD, Results, Rows, TILE};
use cnn_core::session::Levels;
use std::arch::x86_64::*;

/// Rows at a time at most: with two vectors each, as many sums as registers hold.
const ROWS: usize = 12;

/// # Safety
/// As [`super::Instructions::products`] checks.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub unsafe fn products(rows: Rows<'_>, filters: &Filters, [from, to]: [usize; 2], out: Destination) {
    let mut f = from;
    while f < to {
        let two = to - f > TILE;
        for (rows, out) in rows.by_line(out) {
            // blocks of nearly equal height
            let blocks = rows.count.div_ceil(ROWS);
            for i in 0..blocks {
                let (start, end) = (i * rows.count / blocks, (i + 1) * rows.count / blocks);
                let block = Block { rows, filters, start, f, to, out: out.after(start, f - from) };
                macro_rules! run {
                    ($($rows:literal)*) => {
                        match (two, end - start) {
                            $((false, $rows) => block.run::<$rows, 1>(),
                            (true, $rows) => block.run::<$rows, 2>(),)*
                            _ => unreachable!("blocks have at most {ROWS} rows"),
                        }
                    };
                }
                // SAFETY: the rows, the filters and their places in `y` are those of the whole.
                unsafe { run!(1 2 3 4 5 6 7 8 9 10 11 12) }
            }
        }
        f += if two { 2 * TILE } else { TILE };
    }
}

/// Bounds and a grid, in vectors.
#[derive(Clone, Copy)]
pub struct ToCodes {
    step: __m512,
    low: __m512,
    high: __m512,
    lowest: __m512i,
}

impl ToCodes {
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub fn new(levels: Levels, low: f32, high: f32) -> ToCodes {
        let [low, high] = levels.bounds(low, high).map(|bound| _mm512_set1_ps(bound));
        let (step, lowest) = (_mm512_set1_ps(levels.step), _mm512_set1_epi32(levels.low.into()));
        ToCodes { step, low, high, lowest }
    }

    /// [`Levels::code`] of values within the bounds.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub fn codes(self, value: __m512) -> __m512i {
        let number = _mm512_cmp_ps_mask::<_CMP_ORD_Q>(value, value);
        let level = _mm512_min_ps(_mm512_max_ps(_mm512_div_ps(value, self.step), self.low), self.high);
        // rounds to even; NaN is level 0
        _mm512_sub_epi32(_mm512_maskz_cvtps_epi32(number, level), self.lowest)
    }
}

/// Where results go, as floats within bounds or as codes.
#[derive(Clone, Copy)]
pub enum Store {
    Floats { y: *mut f32, low: __m512, high: __m512 },
    Codes { y: *mut u8, to: ToCodes },
}

impl Store {
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub fn new(y: Results, low: f32, high: f32) -> Store {
        match y {
            Results::Floats(y) => Store::Floats { y, low: _mm512_set1_ps(low), high: _mm512_set1_ps(high) },
            Results::Codes(y, levels) => Store::Codes { y, to: ToCodes::new(levels, low, high) },
        }
    }

    /// Writes the values of the mask.
    ///
    /// # Safety
    /// The results from `at` on, as many as the mask says, must be the caller's to write.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    pub unsafe fn set(self, at: usize, mask: __mmask16, value: __m512) {
        // SAFETY: the caller's promise. Where nothing is left out no mask is used, which some processors are slow at.
        unsafe {
            match self {
                Store::Floats { y, low, high } => {
                    // the value second: NaN stays NaN
                    let value = _mm512_min_ps(high, _mm512_max_ps(low, value));
                    match mask {
                        0xffff => _mm512_storeu_ps(y.add(at), value),
                        _ => _mm512_mask_storeu_ps(y.add(at), mask, value),
                    }
                }
                Store::Codes { y, to } => match mask {
                    0xffff => _mm_storeu_si128(y.add(at).cast(), _mm512_cvtepi32_epi8(to.codes(value))),
                    _ => _mm512_mask_cvtepi32_storeu_epi8(y.add(at).cast(), mask, to.codes(value)),
                },
            }
        }
    }
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
            let store = Store::new(out.y, filters.ends.low, filters.ends.high);
            for v in 0..V {
                let f = self.f + v * TILE;
                let added = _mm512_loadu_si512(filters.ends.added.as_ptr().add(f).cast());
                let step = _mm512_loadu_ps(filters.ends.steps.as_ptr().add(f));
                let [scale, shift] = [&filters.ends.scale, &filters.ends.shift]
                    .map(|v| v.as_ref().map(|v| _mm512_loadu_ps(v.as_ptr().add(f))));
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
                    store.set(r * out.pitch + v * TILE, mask, value);
                }
            }
        }
    }
}
