//! Products of signs: bits that differ are counted, `sum s(x) s(w) = n - 2 popcount(x xor w)`, filters in lanes.
//!
//! Padding, which has no sign, is read as zero bits; what the filters have there is counted beforehand and taken back with `n`.

use super::quads::Destination;
use cnn_core::session::View;
use cnn_core::simd::Isa;
use std::ops::Range;
use std::sync::Arc;

/// Filters of a tile.
pub const TILE: usize = 16;

/// Windows of a row of pixels.
#[derive(Clone, Copy)]
pub struct Windows<'a> {
    /// All that the windows read.
    pub words: &'a [u64],
    /// Where the first window begins.
    pub first: usize,
    /// From a window to the next.
    pub step: usize,
    /// Where the runs of a window begin, from its beginning on.
    pub runs: &'a [usize],
    /// Words of a run.
    pub run_words: usize,
    /// The kind of each window, by which `added` differs.
    pub kinds: &'a [usize],
    /// `n`, and twice what is counted of padding, for each kind and filter: `[kind][filter]`, filled up to whole tiles.
    pub added: &'a [i32],
}

/// The filters, and what becomes of the sums: `y = min(max((alpha (added - 2 count) + bias) scale + shift + residual, low), high)`. What
/// there is for each filter is filled up to whole tiles.
#[derive(Debug)]
pub struct Filters {
    /// `[tile][word of a window][filter of the tile]`.
    pub bits: Arc<Vec<[u64; TILE]>>,
    pub alpha: Vec<f32>,
    pub bias: Vec<f32>,
    pub scale: Vec<f32>,
    pub shift: Vec<f32>,
    pub low: f32,
    pub high: f32,
}

/// What bits are counted with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counter {
    #[cfg(target_arch = "x86_64")]
    Vpopcntdq,
    #[cfg(target_arch = "x86_64")]
    Popcnt,
    Portable,
}

impl Counter {
    /// The best that the processor has, within the instruction set that is in use.
    pub fn of(isa: Isa) -> Counter {
        #[cfg(target_arch = "x86_64")]
        {
            if isa.name() == "avx512" && is_x86_feature_detected!("avx512vpopcntdq") {
                return Counter::Vpopcntdq;
            }
            if isa.name() != "scalar" && is_x86_feature_detected!("popcnt") {
                return Counter::Popcnt;
            }
        }
        let _ = isa;
        Counter::Portable
    }

    /// The results of all windows for the filters `from .. to`, within a tile that begins at `from`.
    ///
    /// # Panics
    /// If an operand is too short.
    ///
    /// # Safety
    /// The `to - from` floats of each row of `y` must be the caller's to write, those of the residual there to be read.
    pub unsafe fn products(
        self,
        x: Windows<'_>,
        filters: &Filters,
        [from, to]: [usize; 2],
        out: Destination,
    ) {
        let each = x.runs.len() * x.run_words;
        let last_run = x.runs.iter().max().copied().unwrap_or(0) + x.run_words;
        let all = filters.alpha.len();
        let Some(last) = x.kinds.len().checked_sub(1).filter(|_| from < to) else { return };
        assert!(x.first + last * x.step + last_run <= x.words.len());
        assert!(from.is_multiple_of(TILE) && to - from <= TILE && from + TILE <= all);
        assert!((from / TILE + 1) * each <= filters.bits.len());
        assert!([&filters.bias, &filters.scale, &filters.shift].into_iter().all(|v| v.len() == all));
        assert!(x.kinds.iter().all(|kind| (kind + 1) * all <= x.added.len()));
        match self {
            // SAFETY: the value was made by `of`, which found the instructions; lengths were just checked, and `out` is the caller's.
            #[cfg(target_arch = "x86_64")]
            Counter::Vpopcntdq => unsafe { x86::vpopcntdq(x, filters, [from, to], out) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Counter::Popcnt => unsafe { x86::popcnt(x, filters, [from, to], out) },
            // SAFETY: `out` is the caller's.
            Counter::Portable => unsafe { portable(x, filters, [from, to], out) },
        }
    }

    /// The signs of `x - t` for the channels of some pixels, a bit each, 1 for what is not negative; each pixel begins at a word.
    pub fn signs(self, x: View<'_>, pixels: Range<usize>, thresholds: &[f32], to: &mut [u64]) {
        let pitch = thresholds.len().div_ceil(64);
        assert!(x.channels == thresholds.len() && to.len() >= pixels.len() * pitch);
        match self {
            // SAFETY: the value was made by `of`, which found the instructions.
            #[cfg(target_arch = "x86_64")]
            Counter::Vpopcntdq => unsafe { x86::signs(x, pixels, thresholds, to) },
            _ => {
                for (p, to) in pixels.zip(to.chunks_exact_mut(pitch)) {
                    for ((x, t), to) in x.pixel(p).chunks(64).zip(thresholds.chunks(64)).zip(to) {
                        let bits = x.iter().zip(t).enumerate();
                        *to = bits.fold(0, |word, (bit, (x, t))| word | u64::from(x >= t) << bit);
                    }
                }
            }
        }
    }
}

/// # Safety
/// As [`Counter::products`].
#[inline(always)]
unsafe fn portable(x: Windows<'_>, filters: &Filters, [from, to]: [usize; 2], out: Destination) {
    let each = x.runs.len() * x.run_words;
    let tile = &filters.bits[from / TILE * each..][..each];
    for (p, kind) in x.kinds.iter().enumerate() {
        let mut counts = [0i32; TILE];
        for (&run, w) in x.runs.iter().zip(tile.chunks_exact(x.run_words)) {
            let words = &x.words[x.first + p * x.step + run..][..x.run_words];
            for (&x, w) in words.iter().zip(w) {
                counts.iter_mut().zip(w).for_each(|(c, w)| *c += (x ^ w).count_ones() as i32);
            }
        }
        for (f, count) in (from..to).zip(counts) {
            let sum = x.added[kind * filters.alpha.len() + f] - 2 * count;
            let mut value =
                (filters.alpha[f] * sum as f32 + filters.bias[f]) * filters.scale[f] + filters.shift[f];
            // SAFETY: the caller's promise.
            unsafe {
                if !out.residual.is_null() {
                    value += *out.residual.add(p * out.residual_pitch + f - from);
                }
                let bounded = if value.is_nan() { value } else { value.max(filters.low).min(filters.high) };
                out.y.set(p * out.pitch + f - from, bounded);
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::super::quads::Store;
    use super::{Destination, Filters, TILE, Windows};
    use cnn_core::session::View;
    use std::arch::x86_64::*;
    use std::ops::Range;

    /// Windows that share what is loaded of a filter: 12 sums of two vectors, in 32 registers.
    const MOST: usize = 6;

    /// # Safety
    /// As [`super::Counter::products`].
    #[target_feature(enable = "popcnt")]
    pub unsafe fn popcnt(x: Windows<'_>, filters: &Filters, range: [usize; 2], out: Destination) {
        // SAFETY: the caller's promise.
        unsafe { super::portable(x, filters, range, out) };
    }

    /// # Safety
    /// As [`super::Counter::products`], which has checked the lengths.
    #[target_feature(enable = "avx512f,avx512bw,avx512vpopcntdq")]
    pub unsafe fn vpopcntdq(x: Windows<'_>, filters: &Filters, range: [usize; 2], out: Destination) {
        let mut p = 0;
        while p < x.kinds.len() {
            // nearly equal blocks
            let left = x.kinds.len() - p;
            let count = left.div_ceil(left.div_ceil(MOST));
            // SAFETY: the caller's promise.
            unsafe {
                match count {
                    1 => block::<1>(x, p, filters, range, out),
                    2 => block::<2>(x, p, filters, range, out),
                    3 => block::<3>(x, p, filters, range, out),
                    4 => block::<4>(x, p, filters, range, out),
                    5 => block::<5>(x, p, filters, range, out),
                    _ => block::<MOST>(x, p, filters, range, out),
                }
            }
            p += count;
        }
    }

    /// # Safety
    /// As [`vpopcntdq`]; windows `p .. p + P` must be there.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vpopcntdq")]
    unsafe fn block<const P: usize>(
        x: Windows<'_>,
        p: usize,
        filters: &Filters,
        [from, to]: [usize; 2],
        out: Destination,
    ) {
        // SAFETY: the lengths were checked, and `out` is the caller's.
        unsafe {
            let each = x.runs.len() * x.run_words;
            let mut w: *const u64 = filters.bits.as_ptr().add(from / TILE * each).cast();
            let start = x.words.as_ptr().add(x.first + p * x.step);
            let mut counts = [[_mm512_setzero_si512(); 2]; P];
            for &run in x.runs {
                let mut word = start.add(run);
                for _ in 0..x.run_words {
                    let [w0, w1] = [w, w.add(8)].map(|w| _mm512_loadu_si512(w.cast()));
                    w = w.add(TILE);
                    for (i, counts) in counts.iter_mut().enumerate() {
                        let x = _mm512_set1_epi64(*word.add(i * x.step) as i64);
                        counts[0] = _mm512_add_epi64(counts[0], _mm512_popcnt_epi64(_mm512_xor_si512(x, w0)));
                        counts[1] = _mm512_add_epi64(counts[1], _mm512_popcnt_epi64(_mm512_xor_si512(x, w1)));
                    }
                    word = word.add(1);
                }
            }
            let [alpha, bias, scale, shift] = [&filters.alpha, &filters.bias, &filters.scale, &filters.shift]
                .map(|v| _mm512_loadu_ps(v.as_ptr().add(from)));
            let store = Store::new(out.y, filters.low, filters.high);
            let mask = if to - from < TILE { (1u16 << (to - from)) - 1 } else { u16::MAX };
            for (i, counts) in counts.into_iter().enumerate() {
                let [c0, c1] = counts.map(|c| _mm512_cvtepi64_epi32(c));
                let count = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(c0), c1);
                let added = x.added.as_ptr().add(x.kinds[p + i] * filters.alpha.len() + from);
                let sum = _mm512_sub_epi32(_mm512_loadu_si512(added.cast()), _mm512_slli_epi32::<1>(count));
                let mut value = _mm512_add_ps(_mm512_mul_ps(alpha, _mm512_cvtepi32_ps(sum)), bias);
                value = _mm512_add_ps(_mm512_mul_ps(value, scale), shift);
                if !out.residual.is_null() {
                    let residual = out.residual.add((p + i) * out.residual_pitch);
                    value = _mm512_add_ps(value, _mm512_maskz_loadu_ps(mask, residual));
                }
                store.set((p + i) * out.pitch, mask, value);
            }
        }
    }

    #[target_feature(enable = "avx512f")]
    pub fn signs(x: View<'_>, pixels: Range<usize>, thresholds: &[f32], to: &mut [u64]) {
        let pitch = thresholds.len().div_ceil(64);
        to[..pixels.len() * pitch].fill(0);
        for (i, t) in thresholds.chunks(16).enumerate() {
            let there = if t.len() < 16 { (1u16 << t.len()) - 1 } else { u16::MAX };
            // SAFETY: masked lanes are not read.
            let t = unsafe { _mm512_maskz_loadu_ps(there, t.as_ptr()) };
            for (p, to) in pixels.clone().zip(to.chunks_exact_mut(pitch)) {
                // SAFETY: the pixel has a value for each threshold; masked lanes are not read.
                let x = unsafe { _mm512_maskz_loadu_ps(there, x.pixel(p).as_ptr().add(16 * i)) };
                let bits = _mm512_mask_cmp_ps_mask::<_CMP_GE_OQ>(there, x, t);
                to[i / 4] |= u64::from(bits) << (16 * (i % 4));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::quads::Results;
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_road_counts_the_same(
            seed: u64,
            (windows, step, runs, run_words) in (1usize..15, 1usize..4, 1usize..4, 1usize..5),
            filters in 1usize..40,
        ) {
            let mut state = seed | 1;
            let mut next = || {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state
            };
            let runs: Vec<usize> = (0..runs).map(|i| 7 * i).collect();
            let each = runs.len() * run_words;
            let words: Vec<u64> = (0..2 + 14 * 3 + 14 + 5).map(|_| next()).collect();
            let all = filters.next_multiple_of(TILE);
            let bits: Vec<[u64; TILE]> = (0..all / TILE * each).map(|_| std::array::from_fn(|_| next())).collect();
            let mut floats = |size: f32| (0..all).map(|_| (next() % 64) as f32 * size - 1.0).collect::<Vec<f32>>();
            let (alpha, bias, scale, shift) = (floats(0.25), floats(1.0), floats(0.5), floats(2.0));
            let ends = (-2000.0, 3000.0);
            let of = Filters { bits: Arc::new(bits), alpha, bias, scale, shift, low: ends.0, high: ends.1 };
            let kinds: Vec<usize> = (0..windows).map(|p| p % 3).collect();
            let added: Vec<i32> = (0..3 * all as i32).collect();
            let x = Windows { words: &words, first: 2, step, runs: &runs, run_words, kinds: &kinds, added: &added };
            let residual: Vec<f32> = (0..windows * filters).map(|_| (next() % 99) as f32).collect();
            for isa in Isa::available() {
                let counter = Counter::of(isa);
                let mut y = vec![f32::NAN; windows * filters];
                for from in (0..filters).step_by(TILE) {
                    let out = Destination {
                        y: Results::Floats(y[from..].as_mut_ptr()),
                        pitch: filters,
                        residual: residual[from..].as_ptr(),
                        residual_pitch: filters,
                    };
                    // SAFETY: `y` and `residual` have been made as long.
                    unsafe { counter.products(x, &of, [from, filters.min(from + TILE)], out) };
                }
                for (p, f) in (0..windows).flat_map(|p| (0..filters).map(move |f| (p, f))) {
                    let terms = runs.iter().flat_map(|r| (0..run_words).map(move |k| r + k)).enumerate();
                    let tile = &of.bits[f / TILE * each..];
                    let count: u32 =
                        terms.map(|(k, at)| (words[2 + p * step + at] ^ tile[k][f % TILE]).count_ones()).sum();
                    let sum = added[kinds[p] * all + f] - 2 * count as i32;
                    let value = (of.alpha[f] * sum as f32 + of.bias[f]) * of.scale[f] + of.shift[f];
                    let value = (value + residual[p * filters + f]).clamp(ends.0, ends.1);
                    prop_assert_eq!(y[p * filters + f], value, "{:?}", counter);
                }
            }
        }
    }
}
