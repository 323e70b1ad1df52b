//! Products of signs: bits that differ are counted, `sum s(x) s(w) = n - 2 popcount(x xor w)`, filters in lanes.

use cnn_core::simd::Isa;
use std::ops::Range;

/// Filters of a tile.
pub const TILE: usize = 16;
/// Windows that are counted at a time.
pub const WINDOWS: usize = 4;

/// How many of some windows differ from each filter of a tile.
pub type Counts = [[u64; TILE]; WINDOWS];

/// Which words of a window meet which of a filter: for each run, in that order, `words[first + from + k]` meets `tile[at + k]`.
#[derive(Debug, Clone)]
pub struct Runs {
    /// Runs, by number.
    pub which: Range<usize>,
    /// Words from a run to the next.
    pub step: usize,
    /// The first word of a run.
    pub from: usize,
    /// Words of the filter from a run to the next.
    pub filter_step: usize,
    /// The first word of the filter.
    pub filter_from: usize,
    /// Words of a run.
    pub len: usize,
}

/// What a count is done with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Instructions {
    #[cfg(target_arch = "x86_64")]
    Vpopcntdq,
    #[cfg(target_arch = "x86_64")]
    Popcnt,
    Portable,
}

impl Instructions {
    /// The best that the processor has, within the instruction set that is in use.
    pub fn of(isa: Isa) -> Instructions {
        #[cfg(target_arch = "x86_64")]
        {
            if isa.name() == "avx512" && is_x86_feature_detected!("avx512vpopcntdq") {
                return Instructions::Vpopcntdq;
            }
            if isa.name() != "scalar" && is_x86_feature_detected!("popcnt") {
                return Instructions::Popcnt;
            }
        }
        let _ = isa;
        Instructions::Portable
    }

    /// How many bits of the windows that begin at `firsts` differ from each filter of the tile.
    ///
    /// # Panics
    /// If a run leaves the words or the tile.
    #[inline]
    pub fn differences(
        self,
        words: &[u64],
        firsts: [usize; WINDOWS],
        runs: &Runs,
        tile: &[[u64; TILE]],
        to: &mut Counts,
    ) {
        if let Some(last) = runs.which.end.checked_sub(1).filter(|last| runs.which.contains(last)) {
            let most = firsts.iter().max().copied().unwrap_or(0);
            assert!(most + runs.from + last * runs.step + runs.len <= words.len());
            assert!(runs.filter_from + last * runs.filter_step + runs.len <= tile.len());
        }
        match self {
            // SAFETY: the value was made by `of`, which found the instructions; lengths were just checked.
            #[cfg(target_arch = "x86_64")]
            Instructions::Vpopcntdq => unsafe { x86::vpopcntdq(words, firsts, runs, tile, to) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Instructions::Popcnt => unsafe { x86::popcnt(words, firsts, runs, tile, to) },
            Instructions::Portable => count(words, firsts, runs, tile, to),
        }
    }

    /// The signs of `x - t`, a bit each, 1 for a sum that is not negative.
    pub fn signs(self, x: &[f32], thresholds: &[f32], to: &mut [u64]) {
        match self {
            // SAFETY: the value was made by `of`, which found the instructions.
            #[cfg(target_arch = "x86_64")]
            Instructions::Vpopcntdq => unsafe { x86::signs(x, thresholds, to) },
            _ => {
                for ((x, t), to) in x.chunks(64).zip(thresholds.chunks(64)).zip(to) {
                    let bits = x.iter().zip(t).enumerate();
                    *to = bits.fold(0, |word, (bit, (x, t))| word | u64::from(x >= t) << bit);
                }
            }
        }
    }
}

#[inline(always)]
fn count(words: &[u64], firsts: [usize; WINDOWS], runs: &Runs, tile: &[[u64; TILE]], to: &mut Counts) {
    for (to, first) in to.iter_mut().zip(firsts) {
        let mut counts = [0u64; TILE];
        for run in runs.which.clone() {
            let x = &words[first + runs.from + run * runs.step..][..runs.len];
            let w = &tile[runs.filter_from + run * runs.filter_step..][..runs.len];
            for (&x, w) in x.iter().zip(w) {
                counts.iter_mut().zip(w).for_each(|(c, w)| *c += u64::from((x ^ w).count_ones()));
            }
        }
        *to = counts;
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Counts, Runs, TILE, WINDOWS};
    use std::arch::x86_64::*;

    #[target_feature(enable = "popcnt")]
    pub fn popcnt(
        words: &[u64],
        firsts: [usize; WINDOWS],
        runs: &Runs,
        tile: &[[u64; TILE]],
        to: &mut Counts,
    ) {
        super::count(words, firsts, runs, tile, to);
    }

    /// # Safety
    /// Runs must stay within words and tile.
    #[target_feature(enable = "avx512f,avx512vpopcntdq")]
    pub unsafe fn vpopcntdq(
        words: &[u64],
        firsts: [usize; WINDOWS],
        runs: &Runs,
        tile: &[[u64; TILE]],
        to: &mut Counts,
    ) {
        let mut counts = [[_mm512_setzero_si512(); 2]; WINDOWS];
        for run in runs.which.clone() {
            // SAFETY: the caller's promise.
            unsafe {
                let x = words.as_ptr().add(runs.from + run * runs.step);
                let x = firsts.map(|first| x.add(first));
                let w = tile.as_ptr().add(runs.filter_from + run * runs.filter_step);
                for k in 0..runs.len {
                    let w: *const u64 = w.add(k).cast();
                    let w = [_mm512_loadu_si512(w.cast()), _mm512_loadu_si512(w.add(8).cast())];
                    for (counts, x) in counts.iter_mut().zip(x) {
                        let x = _mm512_set1_epi64(*x.add(k) as i64);
                        for (count, w) in counts.iter_mut().zip(w) {
                            *count = _mm512_add_epi64(*count, _mm512_popcnt_epi64(_mm512_xor_si512(x, w)));
                        }
                    }
                }
            }
        }
        for (to, counts) in to.iter_mut().zip(counts) {
            for (to, count) in to.chunks_exact_mut(8).zip(counts) {
                // SAFETY: eight words.
                unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), count) };
            }
        }
    }

    #[target_feature(enable = "avx512f")]
    pub fn signs(x: &[f32], thresholds: &[f32], to: &mut [u64]) {
        for ((x, t), to) in x.chunks(64).zip(thresholds.chunks(64)).zip(to) {
            let mut word = 0;
            for (i, (x, t)) in x.chunks(16).zip(t.chunks(16)).enumerate() {
                let there = if x.len() < 16 { (1u16 << x.len()) - 1 } else { u16::MAX };
                let bits = match x.len().min(t.len()) {
                    // SAFETY: masked lanes are not read; both have as many values as the mask.
                    n if n == x.len() => unsafe {
                        let [x, t] = [x, t].map(|v| _mm512_maskz_loadu_ps(there, v.as_ptr()));
                        _mm512_mask_cmp_ps_mask::<_CMP_GE_OQ>(there, x, t)
                    },
                    _ => 0,
                };
                word |= u64::from(bits) << (16 * i);
            }
            *to = word;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_road_counts_the_same(seed: u64, (runs, len) in (0usize..4, 1usize..7), skip in 0usize..3, channels in 1usize..200) {
            let mut state = seed | 1;
            let mut next = || {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state
            };
            let words: Vec<u64> = (0..60).map(|_| next()).collect();
            let tile: Vec<[u64; TILE]> = (0..40).map(|_| std::array::from_fn(|_| next())).collect();
            let runs = Runs { which: skip..skip + runs, step: 8, from: 2, filter_step: len, filter_from: 1, len };
            let firsts = [0, 3, 4, 9];
            let x: Vec<f32> = (0..channels).map(|i| if i == 7 { f32::NAN } else { (next() % 9) as f32 - 4.0 }).collect();
            let t: Vec<f32> = (0..channels).map(|_| (next() % 9) as f32 - 4.0).collect();
            let mut bits = vec![0; channels.div_ceil(64)];
            for isa in Isa::available() {
                let found = Instructions::of(isa);
                let mut counts = [[0; TILE]; WINDOWS];
                found.differences(&words, firsts, &runs, &tile, &mut counts);
                for (counts, first) in counts.iter().zip(firsts) {
                    for (f, &count) in counts.iter().enumerate() {
                        let terms = runs.which.clone().flat_map(|r| (0..len).map(move |k| (r, k)));
                        let wanted: u32 = terms
                            .map(|(r, k)| (words[first + 2 + 8 * r + k] ^ tile[1 + len * r + k][f]).count_ones())
                            .sum();
                        prop_assert_eq!(count, u64::from(wanted), "{:?}", found);
                    }
                }
                found.signs(&x, &t, &mut bits);
                for c in 0..64 * bits.len() {
                    let wanted = c < channels && x[c] >= t[c];
                    prop_assert_eq!(bits[c / 64] >> (c % 64) & 1 == 1, wanted, "{:?} channel {}", found, c);
                }
            }
        }
    }
}
