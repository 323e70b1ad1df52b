//! The control.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Random scores in `[0, 1)`, which depend on the seed and the position of the node.
pub(crate) fn scores(count: usize, seed: u64, at: usize) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(at as u64);
    (0..count).map(|_| rng.random()).collect()
}
