//! Aligned memory.

use std::ops::{Deref, DerefMut};

/// Floats of a cache line.
const LINE: usize = 16;

/// Floats that start on a cache line.
#[derive(Debug, Default)]
pub struct Floats {
    // Zeros of this type come untouched from the system, those of an aligned one would be written once more.
    all: Vec<f32>,
    start: usize,
    len: usize,
}

impl Floats {
    /// That many zeros.
    pub fn zeros(len: usize) -> Floats {
        let all = vec![0.0f32; len + LINE - 1];
        // a vector of floats starts at a multiple of four bytes
        let start = (LINE - all.as_ptr() as usize / 4 % LINE) % LINE;
        Floats { all, start, len }
    }
}

impl Deref for Floats {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        &self.all[self.start..][..self.len]
    }
}

impl DerefMut for Floats {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.all[self.start..][..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_float_is_on_a_cache_line() {
        for len in [0, 1, 15, 16, 17, 1000] {
            let mut floats = Floats::zeros(len);
            assert_eq!(floats.len(), len);
            assert_eq!(floats.as_ptr() as usize % 64, 0);
            floats.fill(1.0);
        }
    }
}
