//! Inverted dropout: each element is zeroed with probability `p`, the others are scaled by
//! `1 / (1 - p)`, so that the expected value does not change and inference does nothing.
//!
//! The mask is not stored. It is a function of the seed and the position, so the backward pass is
//! the same call on the gradient with the same seed.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use rayon::prelude::*;

use super::multiversion::multiversion;

/// Elements per random stream; part of the definition of the mask.
const STREAM: usize = 1 << 14;

/// Applies the mask of `seed` to `x` in place: to activations in the forward pass, to the gradient
/// in the backward pass. `0 <= p <= 1`.
pub fn dropout_in_place(x: &mut [f32], p: f32, seed: u64) {
    assert!((0.0..=1.0).contains(&p));
    if p == 0.0 {
        return;
    }
    // A random u16 is below `threshold` with probability threshold / 2^16, the nearest to 1 - p.
    let threshold = ((1.0 - p) * 65536.0).round() as u32;
    let scale = 65536.0 / threshold.max(1) as f32;
    let run = |(stream, x): (usize, &mut [f32])| {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(stream as u64);
        let mut bytes = [0u8; 1024];
        for x in x.chunks_mut(bytes.len() / 2) {
            rng.fill_bytes(&mut bytes);
            apply_mask(x, bytes.as_chunks::<2>().0, threshold, scale);
        }
    };
    if x.len() <= STREAM {
        x.chunks_mut(STREAM).enumerate().for_each(run);
    } else {
        x.par_chunks_mut(STREAM).enumerate().for_each(run);
    }
}

multiversion! {
    /// `x = scale x` where the random number is below `threshold`, else 0.
    fn apply_mask(x: &mut [f32], random: &[[u8; 2]], threshold: u32, scale: f32) {
        for (x, bytes) in x.iter_mut().zip(random) {
            let keep = u32::from(u16::from_le_bytes(*bytes)) < threshold;
            // A product, because a branch on a random bit would be mispredicted.
            *x *= scale * f32::from(u8::from(keep));
        }
    }
}
