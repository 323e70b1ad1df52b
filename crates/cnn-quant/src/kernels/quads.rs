//! Products of unsigned bytes with signed ones, four at a time added to 32 bits, filters in lanes.
//!
//! As in a float matrix product, a row of the left operand is read in place, here four codes for a float, and multiplied with a panel
//! of one or two vectors of filters. In channels-last memory the pixels under a row of a filter are one run of codes, and the runs of
//! neighbouring pixels overlap: nothing is copied.

use cnn_core::session::Levels;
use cnn_core::simd::Isa;
use std::sync::Arc;

#[cfg(target_arch = "x86_64")]
pub mod avx2;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(target_arch = "x86_64")]
mod vnni;

#[cfg(target_arch = "x86_64")]
pub use vnni::{Store, ToCodes};

/// Filters of a tile: a vector of sums.
pub const TILE: usize = 16;
/// Codes that are multiplied and added to one sum at a time.
pub const QUAD: usize = 4;

/// Rows of codes, each of so many bytes as [`Instructions::width`] says.
#[derive(Clone, Copy)]
pub struct Rows<'a> {
    /// All that rows read.
    pub codes: &'a [u8],
    /// The byte at which the first row begins.
    pub first: usize,
    /// Bytes from a row to the next.
    pub step: usize,
    /// Number of rows of a line.
    pub count: usize,
    /// Bytes from the first row of a line to that of the next.
    pub down: usize,
    /// Number of lines; their results follow one another.
    pub lines: usize,
    /// The bytes at which the runs begin, from the beginning of a row on.
    pub runs: &'a [usize],
    /// Quads of a run.
    pub run_quads: usize,
}

impl Rows<'_> {
    /// Each line and where its results go. Filters are multiplied with all of them before the next filters are, which may be far away.
    fn by_line(self, out: Destination) -> impl Iterator<Item = (Self, Destination)> {
        (0..self.lines).map(move |line| {
            let rows = Rows { first: self.first + line * self.down, lines: 1, ..self };
            (rows, out.after(line * self.count, 0))
        })
    }
}

/// The right operand, and what becomes of its sums.
#[derive(Debug)]
pub struct Filters {
    /// `[tile][quad]`, and in a quad of a tile as [`Instructions::place`] says.
    pub weights: Arc<Vec<i8>>,
    pub ends: Ends,
}

/// What becomes of sums: `y = min(max((sum + added) step scale + shift + residual, low), high)`. What there is for each filter is filled up to
/// whole tiles.
#[derive(Debug)]
pub struct Ends {
    pub added: Vec<i32>,
    pub steps: Vec<f32>,
    pub scale: Option<Vec<f32>>,
    pub shift: Option<Vec<f32>>,
    pub low: f32,
    pub high: f32,
}

impl Ends {
    /// True if there is something for all filters of so many tiles.
    pub fn has(&self, tiles: usize) -> bool {
        let all = [&self.scale, &self.shift].into_iter().flatten().chain([&self.steps]);
        self.added.len() >= tiles * TILE && all.into_iter().all(|v| v.len() >= tiles * TILE)
    }
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

impl Destination {
    /// So many rows further down, and results further on.
    pub fn after(self, rows: usize, results: usize) -> Destination {
        let residual = match self.residual.is_null() {
            true => self.residual,
            false => self.residual.wrapping_add(rows * self.residual_pitch + results),
        };
        Destination { y: self.y.after(rows * self.pitch + results), residual, ..self }
    }
}

/// What multiplies quads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Instructions {
    /// AVX-512 VNNI.
    #[cfg(target_arch = "x86_64")]
    Vnni,
    /// AVX2: products of 16 bits, two of which are added.
    #[cfg(target_arch = "x86_64")]
    Madd,
    /// NEON's dot products of signed bytes.
    #[cfg(target_arch = "aarch64")]
    Sdot,
    /// NEON without them: products of 16 bits, two of which are added before they become 32.
    #[cfg(target_arch = "aarch64")]
    Smlal,
    /// What the others do, slowly: for tests.
    #[cfg(test)]
    Portable,
}

impl Instructions {
    /// The best that the processor has, within the instruction set that is in use, for such weights; `None` if there is nothing that would
    /// pay.
    pub fn of(isa: Isa, levels: &[i16]) -> Option<Instructions> {
        Instructions::available(isa).into_iter().find(|with| with.takes(levels))
    }

    /// All that the processor has, the best first.
    fn available(isa: Isa) -> Vec<Instructions> {
        #[cfg(target_arch = "x86_64")]
        if matches!(isa.name(), "avx512" | "avx2") && is_x86_feature_detected!("avx2") {
            let vnni = isa.name() == "avx512" && is_x86_feature_detected!("avx512vnni");
            return vnni.then_some(Instructions::Vnni).into_iter().chain([Instructions::Madd]).collect();
        }
        #[cfg(target_arch = "aarch64")]
        if isa.name() == "neon" {
            let sdot = std::arch::is_aarch64_feature_detected!("dotprod").then_some(Instructions::Sdot);
            return sdot.into_iter().chain([Instructions::Smlal]).collect();
        }
        let _ = isa;
        Vec::new()
    }

    /// True if weights are bytes and no product with a code, nor what is added to it in less than 32 bits, can leave its bits.
    fn takes(self, levels: &[i16]) -> bool {
        match self {
            // two products of bytes, each at most 128 * 127, fit 16 bits; two of 128 * 128 do not
            #[cfg(target_arch = "aarch64")]
            Instructions::Smlal => levels.iter().all(|level| (-127..=127).contains(level)),
            _ => levels.iter().all(|&level| i8::try_from(level).is_ok()),
        }
    }

    /// True if there are kernels that interleave bytes for these instructions.
    pub fn interleaves(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        return self == Instructions::Vnni;
        #[cfg(not(target_arch = "x86_64"))]
        false
    }

    /// What is taken from a code, an unsigned byte, before it is multiplied: where the instructions want signed ones, their middle. So many
    /// times the sum of its weights belongs to what is added for a filter.
    pub fn taken(self) -> i32 {
        match self {
            #[cfg(target_arch = "aarch64")]
            Instructions::Sdot | Instructions::Smlal => 128,
            #[cfg(target_arch = "x86_64")]
            Instructions::Vnni | Instructions::Madd => 0,
            #[cfg(test)]
            Instructions::Portable => 0,
        }
    }

    /// Bytes in which a code is held.
    pub fn width(self) -> usize {
        #[cfg(target_arch = "x86_64")]
        if self == Instructions::Madd {
            return 2;
        }
        1
    }

    /// About how many of VNNI's products of a quad and a tile take the time of one.
    pub fn cost(self) -> usize {
        #[cfg(target_arch = "x86_64")]
        if self == Instructions::Madd {
            return 4;
        }
        1
    }

    /// Where, in a quad of a tile, the weight of a filter for one of the four codes is.
    pub fn place(self, filter: usize, code: usize) -> usize {
        #[cfg(target_arch = "x86_64")]
        if self == Instructions::Madd {
            return (code / 2 * TILE + filter) * 2 + code % 2;
        }
        filter * QUAD + code
    }

    /// The results for all rows and the filters `from .. to`, `from` the first of a tile. The caller knows that sums fit 32 bits, and that
    /// these instructions take the weights.
    ///
    /// # Panics
    /// If an operand is too short.
    ///
    /// # Safety
    /// The `to - from` results of each row of `y` must be the caller's to write, those of the residual there to be read.
    pub unsafe fn products(
        self,
        rows: Rows<'_>,
        filters: &Filters,
        [from, to]: [usize; 2],
        out: Destination,
    ) {
        let quads = rows.runs.len() * rows.run_quads;
        let tiles = to.div_ceil(TILE);
        let last_run = rows.runs.iter().max().copied().unwrap_or(0) + rows.run_quads * QUAD * self.width();
        if rows.count == 0 || rows.lines == 0 || from >= to {
            return;
        }
        let last = rows.first + (rows.lines - 1) * rows.down + (rows.count - 1) * rows.step;
        assert!(last + last_run <= rows.codes.len());
        assert!(from.is_multiple_of(TILE) && filters.weights.len() >= tiles * quads * TILE * QUAD);
        assert!(filters.ends.has(tiles));
        // SAFETY: the value was made by `available`, which found the instructions; lengths were just checked, and `out` is the caller's.
        unsafe {
            match self {
                #[cfg(target_arch = "x86_64")]
                Instructions::Vnni => vnni::products(rows, filters, [from, to], out),
                #[cfg(target_arch = "x86_64")]
                Instructions::Madd => avx2::products(rows, filters, [from, to], out),
                #[cfg(target_arch = "aarch64")]
                Instructions::Sdot => neon::sdot(rows, filters, [from, to], out),
                #[cfg(target_arch = "aarch64")]
                Instructions::Smlal => neon::smlal(rows, filters, [from, to], out),
                #[cfg(test)]
                Instructions::Portable => portable(rows, filters, [from, to], out),
            }
        }
    }
}

/// Results of a row from its sums, for the `count` filters from `f` on, the first of a tile.
///
/// # Safety
/// So many results in `y` must be the caller's to write, those of the residual there to be read.
#[cfg(any(target_arch = "aarch64", test))]
#[inline(always)]
unsafe fn finish(sums: &[i32; TILE], ends: &Ends, f: usize, count: usize, out: Destination) {
    // whole tiles in loops of one length, which become vectors
    let mut values = [0.0; TILE];
    let of = sums.iter().zip(&ends.added[f..][..TILE]).zip(&ends.steps[f..][..TILE]);
    for (value, ((sum, added), step)) in values.iter_mut().zip(of) {
        *value = sum.wrapping_add(*added) as f32 * step;
    }
    if let Some(scale) = &ends.scale {
        values.iter_mut().zip(&scale[f..][..TILE]).for_each(|(value, scale)| *value *= scale);
    }
    if let Some(shift) = &ends.shift {
        values.iter_mut().zip(&shift[f..][..TILE]).for_each(|(value, shift)| *value += shift);
    }
    let count = count.min(TILE);
    if !out.residual.is_null() {
        // SAFETY: the caller's promise.
        let residual = unsafe { std::slice::from_raw_parts(out.residual, count) };
        values.iter_mut().zip(residual).for_each(|(value, residual)| *value += residual);
    }
    // NaN stays NaN
    let bounded = values.map(|v| if ends.low > v { ends.low } else { v });
    let bounded = bounded.map(|v| if ends.high < v { ends.high } else { v });
    // SAFETY: the caller's promise.
    unsafe {
        match out.y {
            Results::Floats(y) => y.copy_from_nonoverlapping(bounded.as_ptr(), count),
            Results::Codes(y, levels) => {
                y.copy_from_nonoverlapping(bounded.map(|v| levels.code(v)).as_ptr(), count);
            }
        }
    }
}

/// What the instructions do.
///
/// # Safety
/// As [`Instructions::products`].
#[cfg(test)]
unsafe fn portable(rows: Rows<'_>, filters: &Filters, [from, to]: [usize; 2], out: Destination) {
    let quads = rows.runs.len() * rows.run_quads;
    let all = rows.by_line(out).flat_map(|(rows, out)| (0..rows.count).map(move |r| (rows, out, r)));
    for ((rows, out, r), f) in all.flat_map(|row| (from..to).step_by(TILE).map(move |f| (row, f))) {
        let mut sums = [0i32; TILE];
        for term in 0..quads * QUAD {
            let (run, at) = (rows.runs[term / QUAD / rows.run_quads], term % (rows.run_quads * QUAD));
            let code = i32::from(rows.codes[rows.first + r * rows.step + run + at]);
            for (lane, sum) in sums.iter_mut().enumerate() {
                let quad = f / TILE * quads + term / QUAD;
                *sum += code * i32::from(filters.weights[(quad * TILE + lane) * QUAD + term % QUAD]);
            }
        }
        // SAFETY: the caller's promise.
        unsafe { finish(&sums, &filters.ends, f, to - f, out.after(r, f - from)) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// All that this machine has.
    fn versions() -> Vec<Instructions> {
        let all = Isa::available().into_iter().flat_map(Instructions::available);
        all.chain([Instructions::Portable]).collect()
    }

    proptest! {
        #[test]
        fn the_sums_are_exact(
            (count, lines, step, down) in (1usize..30, 1usize..4, 1usize..9, 0usize..60),
            (quads, runs, filters) in (1usize..6, 1usize..4, 1usize..70),
            (seed, extreme, lowest) in (any::<u32>(), any::<bool>(), prop_oneof![Just(-128i8), Just(-127)]),
        ) {
            let mut state = seed | 1;
            let mut next = || {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                state >> 24
            };
            let starts: Vec<usize> = (0..runs).map(|i| i * 7).collect();
            let len = 3 + (lines - 1) * down + (count - 1) * step + starts[runs - 1] + quads * QUAD;
            let mut byte = || match (next() as u8, extreme) {
                (byte, false) => byte,
                (byte, true) if byte < 128 => 0,
                _ => 255,
            };
            let codes: Vec<u8> = (0..len).map(|_| byte()).collect();
            let tiles = filters.div_ceil(TILE);
            let terms = runs * quads * QUAD;
            let weight = || (i16::from(byte()) - 128).max(i16::from(lowest)) as i8;
            let weights: Vec<i8> = std::iter::repeat_with(weight).take(tiles * terms * TILE).collect();
            let levels: Vec<i16> = weights.iter().map(|&w| i16::from(w)).collect();
            let added: Vec<i32> = (0..tiles * TILE).map(|_| next() as i32 * 1000 - 128_000).collect();
            let steps: Vec<f32> = (0..tiles * TILE).map(|_| next() as f32 / 64.0).collect();
            let wide: Vec<u8> = codes.iter().flat_map(|&code| [code, 0]).collect();
            let wide_starts: Vec<usize> = starts.iter().map(|start| 2 * start).collect();
            let shift = vec![0.5; tiles * TILE];
            let scale = Some(vec![2.0; tiles * TILE]);
            let residual: Vec<f32> = (0..lines * count * filters).map(|_| next() as f32).collect();
            let of_filter = |f: usize, t: usize| {
                i32::from(weights[(f / TILE * terms / QUAD + t / QUAD) * TILE * QUAD + f % TILE * QUAD + t % QUAD])
            };
            let sum_of = |f: usize| (0..terms).map(|t| of_filter(f, t)).sum::<i32>();
            for with in versions().into_iter().filter(|with| with.takes(&levels)) {
                let rows = match with.width() {
                    1 => Rows { codes: &codes, first: 3, step, count, down, lines, runs: &starts, run_quads: quads },
                    _ => {
                        let (step, down, runs) = (2 * step, 2 * down, &wide_starts[..]);
                        Rows { codes: &wide, first: 6, step, count, down, lines, runs, run_quads: quads }
                    }
                };
                let mut placed = weights.clone();
                for (placed, weights) in placed.chunks_mut(TILE * QUAD).zip(weights.chunks(TILE * QUAD)) {
                    for (f, t) in (0..TILE).flat_map(|f| (0..QUAD).map(move |t| (f, t))) {
                        placed[with.place(f, t)] = weights[f * QUAD + t];
                    }
                }
                let taken = added.iter().enumerate().map(|(f, added)| added + with.taken() * sum_of(f));
                let all = Filters {
                    weights: Arc::new(placed),
                    ends: Ends {
                        added: taken.collect(),
                        steps: steps.clone(),
                        scale: scale.clone(),
                        shift: Some(shift.clone()),
                        low: -1000.0,
                        high: 2000.0,
                    },
                };
                for from in (0..filters).step_by(TILE) {
                    let pitch = filters - from + 2;
                    let mut y = vec![f32::NAN; (lines * count - 1) * pitch + filters - from];
                    let residual_at = residual[from..].as_ptr();
                    let floats = Results::Floats(y.as_mut_ptr());
                    let out = Destination { y: floats, pitch, residual: residual_at, residual_pitch: filters };
                    // SAFETY: `y` and `residual` have been made as long.
                    unsafe { with.products(rows, &all, [from, filters], out) };
                    let levels = Levels { step: 7.0, low: -100, high: 110 };
                    let mut bytes = vec![255u8; y.len()];
                    let out = Destination { y: Results::Codes(bytes.as_mut_ptr(), levels), ..out };
                    // SAFETY: as above.
                    unsafe { with.products(rows, &all, [from, filters], out) };
                    let wanted = |y: &f32| if y.is_nan() { 255 } else { levels.code(*y) };
                    prop_assert_eq!(&bytes, &y.iter().map(wanted).collect::<Vec<u8>>());
                    for (r, f) in (0..lines * count).flat_map(|r| (from..filters).map(move |f| (r, f))) {
                        let row = 3 + r / count * down + r % count * step;
                        let code = |t: usize| codes[row + starts[t / QUAD / quads] + t % (quads * QUAD)];
                        let sum: i32 = (0..terms).map(|t| i32::from(code(t)) * of_filter(f, t)).sum();
                        let value = (sum + added[f]) as f32 * steps[f] * 2.0 + 0.5 + residual[r * filters + f];
                        prop_assert_eq!(y[r * pitch + f - from], value.clamp(-1000.0, 2000.0), "{:?}", with);
                    }
                    prop_assert!(y.iter().filter(|v| v.is_nan()).count() == (lines * count - 1) * 2);
                }
            }
        }
    }
}
