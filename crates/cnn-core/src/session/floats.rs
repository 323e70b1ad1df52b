//! Aligned memory.

use crate::kernels::scratch::Line;
use std::ops::{Deref, DerefMut};

/// Floats that start on a cache line.
#[derive(Debug, Clone, Default)]
pub struct Floats {
    lines: Vec<Line>,
    len: usize,
}

impl Floats {
    /// That many zeros.
    pub fn zeros(len: usize) -> Floats {
        Floats { lines: vec![Line([0.0; 16]); len.div_ceil(16)], len }
    }
}

impl Deref for Floats {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        // SAFETY: `Line` is sixteen floats without padding, and there are at least `len / 16` of them, rounded up.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.len) }
    }
}

impl DerefMut for Floats {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.len) }
    }
}
