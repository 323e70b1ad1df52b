//! AVX2, whose products of bytes would saturate: codes are held in 16 bits, and one instruction multiplies two of them for each filter.
//!
//! A quad of weights is two such pairs, `[pair][filter of the tile][2]`, and a tile two vectors of sums.

use super::{Destination, Ends, Filters, QUAD, Results, Rows, TILE};
use std::arch::x86_64::*;

/// Rows at a time at most: with two vectors each, as many sums as registers hold beside the operands.
const ROWS: usize = 5;
/// Bytes of rows that all filters are multiplied with before the next rows are: half of the nearest cache.
const NEAR: usize = 1 << 14;
/// Filters of a vector.
pub const LANES: usize = 8;

/// # Safety
/// As [`super::Instructions::products`] checks.
#[target_feature(enable = "avx2")]
pub unsafe fn products(rows: Rows<'_>, filters: &Filters, [from, to]: [usize; 2], out: Destination) {
    // of a single line, some rows at a time: there are no neighbours below that share what is near
    let near = match rows.lines {
        1 => (NEAR / (rows.step * rows.runs.len()).max(1)).max(1).next_multiple_of(ROWS),
        _ => rows.count,
    };
    let groups = (0..rows.count).step_by(near).map(|start| start..rows.count.min(start + near));
    for (group, f) in groups.flat_map(|group| (from..to).step_by(TILE).map(move |f| (group.clone(), f))) {
        let two = to - f > LANES;
        for (rows, out) in rows.by_line(out) {
            // blocks of nearly equal height
            let blocks = group.len().div_ceil(ROWS);
            for i in 0..blocks {
                let [start, end] = [i, i + 1].map(|i| group.start + i * group.len() / blocks);
                let out = out.after(start, f - from);
                let block = Block { rows, filters, start, f, count: to - f, out };
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
                unsafe { run!(1 2 3 4 5) }
            }
        }
    }
}

struct Block<'a> {
    rows: Rows<'a>,
    filters: &'a Filters,
    /// First row.
    start: usize,
    /// First filter, of a tile.
    f: usize,
    /// Filters from there on, at most a tile of which are computed.
    count: usize,
    /// From the first row and filter on.
    out: Destination,
}

impl Block<'_> {
    /// `R` rows by `V` vectors of filters.
    ///
    /// # Safety
    /// So many rows and filters must be there, in `y` too.
    #[target_feature(enable = "avx2")]
    unsafe fn run<const R: usize, const V: usize>(&self) {
        let rows = &self.rows;
        let tile = rows.runs.len() * rows.run_quads * TILE * QUAD;
        // SAFETY: inside the operands, as the caller promises.
        unsafe {
            let a = rows.codes.as_ptr().add(rows.first + self.start * rows.step);
            let b = self.filters.weights.as_ptr().add(self.f / TILE * tile);
            let sums = sums::<R, V, false>(a, rows.step, rows.runs, 2 * rows.run_quads, b);
            let ends = &self.filters.ends;
            let store = Store::new(self.out.y, ends.low, ends.high);
            for v in 0..V {
                finish(&sums, v, ends, self.f, self.count, self.out, store);
            }
        }
    }
}

/// The sums of `R` rows, each `step` bytes after the one before, and `V` vectors of the filters of a tile. Rows are runs of so many pairs of
/// 16 bits; weights have 8 bits, or 16 where they are `WIDE`.
///
/// # Safety
/// All of them must be there.
#[inline]
#[target_feature(enable = "avx2")]
pub unsafe fn sums<const R: usize, const V: usize, const WIDE: bool>(
    a: *const u8,
    step: usize,
    runs: &[usize],
    pairs: usize,
    mut b: *const i8,
) -> [[i32; TILE]; R] {
    let mut done = [[0i32; TILE]; R];
    // SAFETY: the caller's promise.
    unsafe {
        let mut sums = [[_mm256_setzero_si256(); V]; R];
        for &run in runs {
            let mut a = a.add(run);
            for _ in 0..pairs {
                let mut w = [_mm256_setzero_si256(); V];
                for (v, w) in w.iter_mut().enumerate() {
                    *w = match WIDE {
                        true => _mm256_loadu_si256(b.add(v * 4 * LANES).cast()),
                        false => _mm256_cvtepi8_epi16(_mm_loadu_si128(b.add(v * 2 * LANES).cast())),
                    };
                }
                for (r, sums) in sums.iter_mut().enumerate() {
                    let x = _mm256_set1_epi32(a.add(r * step).cast::<i32>().read_unaligned());
                    for (sum, w) in sums.iter_mut().zip(w) {
                        *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(x, w));
                    }
                }
                a = a.add(4);
                b = b.add(if WIDE { 4 } else { 2 } * TILE);
            }
        }
        // through memory: only a short loop over all sums is unrolled, and leaves them in registers until here
        for (done, sums) in done.iter_mut().zip(sums) {
            for (v, sum) in sums.into_iter().enumerate() {
                _mm256_storeu_si256(done[v * LANES..].as_mut_ptr().cast(), sum);
            }
        }
    }
    done
}

/// The results of vector `v` of the tile of filters that begins at `f`, at most `count` of them, from the sums of some rows.
///
/// # Safety
/// So many results must be the caller's to write, those of the residual there to be read; the ends must have the tile.
#[inline]
#[target_feature(enable = "avx2")]
pub unsafe fn finish<const R: usize>(
    sums: &[[i32; TILE]; R],
    v: usize,
    ends: &Ends,
    f: usize,
    count: usize,
    out: Destination,
    store: Store,
) {
    let at = v * LANES;
    let (f, count) = (f + at, (count - at).min(LANES));
    // SAFETY: what there is for each filter is filled up to whole tiles; the rest is the caller's promise.
    unsafe {
        let added = _mm256_loadu_si256(ends.added.as_ptr().add(f).cast());
        let step = _mm256_loadu_ps(ends.steps.as_ptr().add(f));
        let [scale, shift] =
            [&ends.scale, &ends.shift].map(|v| v.as_ref().map(|v| _mm256_loadu_ps(v.as_ptr().add(f))));
        for (r, sums) in sums.iter().enumerate() {
            let sum = _mm256_add_epi32(_mm256_loadu_si256(sums.as_ptr().add(at).cast()), added);
            let mut value = _mm256_mul_ps(_mm256_cvtepi32_ps(sum), step);
            if let Some(scale) = scale {
                value = _mm256_mul_ps(value, scale);
            }
            if let Some(shift) = shift {
                value = _mm256_add_ps(value, shift);
            }
            if !out.residual.is_null() {
                let residual = out.residual.add(r * out.residual_pitch + at);
                let residual = match count {
                    LANES => _mm256_loadu_ps(residual),
                    _ => _mm256_maskload_ps(residual, mask(count)),
                };
                value = _mm256_add_ps(value, residual);
            }
            store.set(r * out.pitch + at, count, value);
        }
    }
}

/// The first lanes.
#[inline]
#[target_feature(enable = "avx2")]
fn mask(count: usize) -> __m256i {
    let lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    _mm256_cmpgt_epi32(_mm256_set1_epi32(count as i32), lanes)
}

/// Where results go, as floats within bounds or as codes.
#[derive(Clone, Copy)]
pub enum Store {
    Floats { y: *mut f32, low: __m256, high: __m256 },
    Codes { y: *mut u8, step: __m256, low: __m256, high: __m256, lowest: __m256i },
}

impl Store {
    #[inline]
    #[target_feature(enable = "avx2")]
    pub fn new(y: Results, low: f32, high: f32) -> Store {
        match y {
            Results::Floats(y) => Store::Floats { y, low: _mm256_set1_ps(low), high: _mm256_set1_ps(high) },
            Results::Codes(y, levels) => {
                let [low, high] = levels.bounds(low, high).map(|bound| _mm256_set1_ps(bound));
                let (step, lowest) = (_mm256_set1_ps(levels.step), _mm256_set1_epi32(levels.low.into()));
                Store::Codes { y, step, low, high, lowest }
            }
        }
    }

    /// So many results further.
    pub fn after(self, count: usize) -> Store {
        match self {
            Store::Floats { y, low, high } => Store::Floats { y: y.wrapping_add(count), low, high },
            Store::Codes { y, step, low, high, lowest } => {
                Store::Codes { y: y.wrapping_add(count), step, low, high, lowest }
            }
        }
    }

    /// Writes the first `count` values of a vector.
    ///
    /// # Safety
    /// So many results from `at` on must be the caller's to write.
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn set(self, at: usize, count: usize, value: __m256) {
        // SAFETY: the caller's promise.
        unsafe {
            match self {
                Store::Floats { y, low, high } => {
                    // the value second: NaN stays NaN
                    let value = _mm256_min_ps(high, _mm256_max_ps(low, value));
                    match count {
                        LANES => _mm256_storeu_ps(y.add(at), value),
                        _ => _mm256_maskstore_ps(y.add(at), mask(count), value),
                    }
                }
                // `Levels::code`
                Store::Codes { y, step, low, high, lowest } => {
                    let number = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_ORD_Q>(value, value));
                    let level = _mm256_min_ps(_mm256_max_ps(_mm256_div_ps(value, step), low), high);
                    // rounds to even; NaN is level 0
                    let level = _mm256_and_si256(_mm256_cvtps_epi32(level), number);
                    let codes = eight_bytes(_mm256_sub_epi32(level, lowest));
                    match count {
                        LANES => y.add(at).cast::<u64>().write_unaligned(codes),
                        _ => y.add(at).copy_from_nonoverlapping(codes.to_le_bytes().as_ptr(), count),
                    }
                }
            }
        }
    }
}

/// The lowest byte of each lane.
#[inline]
#[target_feature(enable = "avx2")]
fn eight_bytes(lanes: __m256i) -> u64 {
    let first = _mm256_set1_epi32(0x0c08_0400);
    let bytes = _mm256_shuffle_epi8(lanes, first);
    let halves = _mm_unpacklo_epi32(_mm256_castsi256_si128(bytes), _mm256_extracti128_si256::<1>(bytes));
    _mm_cvtsi128_si64(halves) as u64
}
