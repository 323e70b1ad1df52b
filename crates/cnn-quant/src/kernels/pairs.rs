//! Products of filters with the windows of many pixels, pixels in lanes.
//!
//! Terms go in pairs: one instruction multiplies two `i16` of each pixel by two of the filter and adds both products into the
//! pixel's `i32`. A window's terms are laid out as `[pair][pixel][2]`, so that no sum crosses lanes.

#[cfg(target_arch = "x86_64")]
use cnn_core::simd::Isa;

/// Pixels of a tile: two vectors of AVX-512.
pub const TILE: usize = 32;

/// `sums[f][p] = w_f . window_p` for a tile. `w`: rows of `terms` levels, `terms` even; `windows`: `[terms / 2][TILE][2]`; `sums`: `TILE`
/// for each row. The caller knows that the sums fit 32 bits.
pub fn products(w: &[i16], terms: usize, windows: &[i16], sums: &mut [i32]) {
    assert!(terms > 0 && terms.is_multiple_of(2) && w.len().is_multiple_of(terms));
    assert!(windows.len() == terms * TILE && sums.len() == w.len() / terms * TILE);
    #[cfg(target_arch = "x86_64")]
    match Isa::active().name() {
        "avx512" if is_x86_feature_detected!("avx512vnni") => {
            // SAFETY: `Isa` found avx512f and avx512bw on this machine, and the last one was just asked for.
            return unsafe { x86::vnni(w, terms, windows, sums) };
        }
        // SAFETY: `Isa` found avx512f and avx512bw on this machine.
        "avx512" => return unsafe { x86::avx512(w, terms, windows, sums) },
        // SAFETY: `Isa` found avx2 on this machine.
        "avx2" => return unsafe { x86::avx2(w, terms, windows, sums) },
        _ => {}
    }
    portable(w, terms, windows, sums);
}

fn portable(w: &[i16], terms: usize, windows: &[i16], sums: &mut [i32]) {
    for (w, sums) in w.chunks_exact(terms).zip(sums.chunks_exact_mut(TILE)) {
        sums.fill(0);
        for (w, x) in w.chunks_exact(2).zip(windows.chunks_exact(2 * TILE)) {
            let (a, b) = (i32::from(w[0]), i32::from(w[1]));
            for (sum, x) in sums.iter_mut().zip(x.chunks_exact(2)) {
                *sum += a * i32::from(x[0]) + b * i32::from(x[1]);
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::TILE;
    use std::arch::x86_64::*;

    /// Two weights as one 32-bit lane.
    #[inline(always)]
    fn pair(w: &[i16], at: usize) -> i32 {
        i32::from(w[2 * at] as u16) | i32::from(w[2 * at + 1]) << 16
    }

    #[target_feature(enable = "avx512f,avx512bw")]
    #[inline]
    fn add_products(acc: __m512i, x: __m512i, w: __m512i) -> __m512i {
        _mm512_add_epi32(acc, _mm512_madd_epi16(x, w))
    }

    /// Products and additions for one instruction set; `$step` adds the products of pairs.
    macro_rules! avx512 {
        ($features:literal, $all:ident, $block:ident, $step:ident) => {
            #[target_feature(enable = $features)]
            pub fn $all(w: &[i16], terms: usize, windows: &[i16], sums: &mut [i32]) {
                let mut rows = w.chunks_exact(8 * terms);
                let mut outs = sums.chunks_exact_mut(8 * TILE);
                for (w, sums) in (&mut rows).zip(&mut outs) {
                    $block::<8>(w, terms, windows, sums);
                }
                let rest = rows.remainder().chunks_exact(terms);
                for (w, sums) in rest.zip(outs.into_remainder().chunks_exact_mut(TILE)) {
                    $block::<1>(w, terms, windows, sums);
                }
            }

            /// `F` filters at a time, so that a window's values are used `F` times.
            #[target_feature(enable = $features)]
            fn $block<const F: usize>(w: &[i16], terms: usize, windows: &[i16], sums: &mut [i32]) {
                let w: [&[i16]; F] = std::array::from_fn(|f| &w[f * terms..][..terms]);
                let mut acc = [[_mm512_setzero_si512(); 2]; F];
                for (t, x) in windows.chunks_exact(2 * TILE).enumerate() {
                    // SAFETY: a chunk has 64 values of 16 bits, two vectors of 64 bytes.
                    let x = unsafe {
                        [_mm512_loadu_si512(x.as_ptr().cast()), _mm512_loadu_si512(x[TILE..].as_ptr().cast())]
                    };
                    for (acc, w) in acc.iter_mut().zip(w) {
                        let w = _mm512_set1_epi32(pair(w, t));
                        acc[0] = $step(acc[0], x[0], w);
                        acc[1] = $step(acc[1], x[1], w);
                    }
                }
                for (acc, sums) in acc.iter().zip(sums.chunks_exact_mut(TILE)) {
                    // SAFETY: a chunk has 32 values of 32 bits, two vectors of 64 bytes.
                    unsafe {
                        _mm512_storeu_si512(sums.as_mut_ptr().cast(), acc[0]);
                        _mm512_storeu_si512(sums[TILE / 2..].as_mut_ptr().cast(), acc[1]);
                    }
                }
            }
        };
    }

    avx512!("avx512f,avx512bw", avx512, block512, add_products);
    // one instruction for both steps; it wraps, but what is promised to fit does not
    avx512!("avx512f,avx512bw,avx512vnni", vnni, block_vnni, _mm512_dpwssd_epi32);

    #[target_feature(enable = "avx2")]
    pub fn avx2(w: &[i16], terms: usize, windows: &[i16], sums: &mut [i32]) {
        let mut rows = w.chunks_exact(2 * terms);
        let mut outs = sums.chunks_exact_mut(2 * TILE);
        for (w, sums) in (&mut rows).zip(&mut outs) {
            block256::<2>(w, terms, windows, sums);
        }
        let rest = rows.remainder().chunks_exact(terms);
        for (w, sums) in rest.zip(outs.into_remainder().chunks_exact_mut(TILE)) {
            block256::<1>(w, terms, windows, sums);
        }
    }

    #[target_feature(enable = "avx2")]
    fn block256<const F: usize>(w: &[i16], terms: usize, windows: &[i16], sums: &mut [i32]) {
        let w: [&[i16]; F] = std::array::from_fn(|f| &w[f * terms..][..terms]);
        let mut acc = [[_mm256_setzero_si256(); 4]; F];
        for (t, x) in windows.chunks_exact(2 * TILE).enumerate() {
            for (v, x) in x.chunks_exact(TILE / 2).enumerate() {
                // SAFETY: a chunk has 16 values of 16 bits, a vector of 32 bytes.
                let x = unsafe { _mm256_loadu_si256(x.as_ptr().cast()) };
                for (acc, w) in acc.iter_mut().zip(w) {
                    acc[v] = _mm256_add_epi32(acc[v], _mm256_madd_epi16(x, _mm256_set1_epi32(pair(w, t))));
                }
            }
        }
        for (acc, sums) in acc.iter().zip(sums.chunks_exact_mut(TILE)) {
            for (acc, sums) in acc.iter().zip(sums.chunks_exact_mut(TILE / 4)) {
                // SAFETY: a chunk has 8 values of 32 bits, a vector of 32 bytes.
                unsafe { _mm256_storeu_si256(sums.as_mut_ptr().cast(), *acc) };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Version = fn(&[i16], usize, &[i16], &mut [i32]);

    /// Every version that this machine has.
    fn versions() -> Vec<(&'static str, Version)> {
        let all = [("portable", portable as Version), ("active", products)].into_iter();
        #[cfg(target_arch = "x86_64")]
        let all = all.chain(Isa::available().into_iter().flat_map(x86_versions));
        all.collect()
    }

    #[cfg(target_arch = "x86_64")]
    fn x86_versions(isa: Isa) -> Vec<(&'static str, Version)> {
        // SAFETY: `Isa` found the features on this machine.
        let avx512: (_, Version) = ("avx512", |w, t, x, s| unsafe { x86::avx512(w, t, x, s) });
        match isa.name() {
            "avx512" if is_x86_feature_detected!("avx512vnni") => {
                // SAFETY: as above, and the last one was just asked for.
                vec![avx512, ("vnni", |w, t, x, s| unsafe { x86::vnni(w, t, x, s) })]
            }
            "avx512" => vec![avx512],
            // SAFETY: as above.
            "avx2" => vec![("avx2", |w, t, x, s| unsafe { x86::avx2(w, t, x, s) })],
            _ => Vec::new(),
        }
    }

    proptest! {
        #[test]
        fn all_versions_give_the_exact_sums(
            (filters, pairs, w, x) in (1usize..20, 1usize..40).prop_flat_map(|(filters, pairs)| {
                let level = || -255i16..=255;
                let w = proptest::collection::vec(level(), filters * 2 * pairs);
                let x = proptest::collection::vec(level(), 2 * pairs * TILE);
                (Just(filters), Just(pairs), w, x)
            }),
        ) {
            let terms = 2 * pairs;
            let mut expected = vec![0i32; filters * TILE];
            for (f, sums) in expected.chunks_mut(TILE).enumerate() {
                for (p, sum) in sums.iter_mut().enumerate() {
                    *sum = (0..terms)
                        .map(|t| i32::from(w[f * terms + t]) * i32::from(x[(t / 2 * TILE + p) * 2 + t % 2]))
                        .sum();
                }
            }
            for (name, version) in versions() {
                let mut sums = vec![-1; filters * TILE];
                version(&w, terms, &x, &mut sums);
                prop_assert_eq!(&sums, &expected, "{}", name);
            }
        }
    }
}
