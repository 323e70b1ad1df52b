//! Seeds by what they are for, so that no random choice depends on the order of work.

/// One seed from a seed and two numbers, such as epoch and image (the finalizer of splitmix64).
pub(super) fn mix(seed: u64, a: usize, b: usize) -> u64 {
    let mut z = seed ^ (a as u64).rotate_left(40) ^ (b as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
