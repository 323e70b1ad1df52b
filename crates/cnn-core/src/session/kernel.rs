//! What a session runs: kernels, which fill rectangles of their output.

use crate::Result;
use std::fmt::Debug;
use std::marker::PhantomData;
use std::ops::Range;

/// A rectangle of an output: some of its pixels by some of its channels. The unit of work of a thread.
///
/// In channels-last layout a pixel is one of `n * h * w`, in planar layout it is a whole image and its "channels" are all its
/// `c * h * w` values; for `[n, features]` both are the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Pixels, counted over the whole batch.
    pub pixels: Range<usize>,
    /// Channels.
    pub channels: Range<usize>,
}

/// A layer compiled for one input shape: its weights are packed, its algorithm is chosen.
///
/// The parts must be disjoint and cover the output, which the session checks once; they must depend on shapes only, so that
/// the bits of a result do not depend on the number of threads. `run` must not allocate.
pub trait Kernel: Debug + Send + Sync {
    /// Name of the algorithm, for profiles and recorded choices, as `"winograd-4x4"`.
    fn algorithm(&self) -> &'static str;

    /// How the work may be cut. Asked once.
    fn parts(&self) -> Vec<Part>;

    /// Floats of scratch memory that [`Kernel::run`] is lent.
    fn scratch(&self) -> usize {
        0
    }

    /// Bytes of packed weights, which every run reads.
    fn weight_bytes(&self) -> usize {
        0
    }

    /// Computes one part of the output.
    ///
    /// # Errors
    /// If the values cannot be computed; the run then ends with this error, which names the node.
    fn run(&self, inputs: Inputs<'_>, out: Target<'_>, scratch: &mut [f32]) -> Result<()>;
}

/// Where the values of an edge lie, relative to the start of its memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    /// True for the caller's images, false for the arena.
    pub external: bool,
    pub offset: usize,
    pub pixels: usize,
    /// Floats of a pixel.
    pub channels: usize,
    pub pitch: usize,
    /// Bytes of a pixel, where values are codes.
    pub codes: usize,
}

/// The inputs of a kernel.
#[derive(Clone, Copy)]
pub struct Inputs<'a> {
    pub(crate) places: &'a [Place],
    pub(crate) arena: *const f32,
    pub(crate) external: *const f32,
    pub(crate) lent: PhantomData<&'a [f32]>,
}

impl<'a> Inputs<'a> {
    /// Number of inputs, a fused residual included.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// True without inputs.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// One input.
    ///
    /// # Panics
    /// If there is none of that index.
    pub fn get(&self, i: usize) -> View<'a> {
        let place = self.places[i];
        let base = if place.external { self.external } else { self.arena };
        View {
            start: base.wrapping_add(place.offset),
            pixels: place.pixels,
            channels: place.channels,
            pitch: place.pitch,
            codes: place.codes,
            lent: PhantomData,
        }
    }
}

/// An input: `pixels` rows of `channels` floats, `pitch` apart.
#[derive(Clone, Copy)]
pub struct View<'a> {
    start: *const f32,
    /// Rows.
    pub pixels: usize,
    /// Floats in a row.
    pub channels: usize,
    /// Floats from a row to the next.
    pub pitch: usize,
    /// Bytes in a row, of values that are codes; else 0.
    pub codes: usize,
    lent: PhantomData<&'a [f32]>,
}

impl<'a> View<'a> {
    /// The channels of a pixel.
    ///
    /// # Panics
    /// If there is no such pixel.
    #[inline(always)]
    pub fn pixel(&self, p: usize) -> &'a [f32] {
        assert!(p < self.pixels, "pixel {p} of {}", self.pixels);
        // SAFETY: the session laid the edge out as these rows; nobody writes an input while a kernel that reads it runs.
        unsafe { std::slice::from_raw_parts(self.start.add(p * self.pitch), self.channels) }
    }

    /// The codes of a pixel, filled up to whole floats by bytes that mean nothing.
    ///
    /// # Panics
    /// If there is no such pixel.
    #[inline(always)]
    pub fn codes(&self, p: usize) -> &'a [u8] {
        bytemuck::cast_slice(self.pixel(p))
    }

    /// The channels of some pixels, if nothing lies between them.
    ///
    /// # Panics
    /// If a pixel is not there.
    pub fn run(&self, pixels: Range<usize>) -> Option<&'a [f32]> {
        assert!(
            pixels.start <= pixels.end && pixels.end <= self.pixels,
            "pixels {pixels:?} of {}",
            self.pixels
        );
        let floats = pixels.len() * self.channels;
        // SAFETY: rows without gaps are one slice; nobody writes an input while a kernel that reads it runs.
        let run = || unsafe { std::slice::from_raw_parts(self.start.add(pixels.start * self.pitch), floats) };
        (self.pitch == self.channels).then(run)
    }

    /// The codes of some pixels, if nothing lies between them but what fills up whole floats.
    ///
    /// # Panics
    /// If a pixel is not there.
    pub fn run_of_codes(&self, pixels: Range<usize>) -> Option<&'a [u8]> {
        self.run(pixels).map(bytemuck::cast_slice)
    }

    /// The first float, for kernels that walk over pixels themselves. Valid for the rows only: what lies between the end of a row
    /// and the next may be written by another thread.
    pub fn as_ptr(&self) -> *const f32 {
        self.start
    }
}

/// The part of the output that a call of a kernel fills.
pub struct Target<'a> {
    pub(crate) start: *mut f32,
    pub(crate) pitch: usize,
    pub(crate) codes: bool,
    pub(crate) part: &'a Part,
}

impl<'a> Target<'a> {
    /// The part to fill.
    pub fn part(&self) -> &'a Part {
        self.part
    }

    /// The part's channels of one of its pixels (`p` counts over the whole output).
    ///
    /// # Panics
    /// If the pixel is not in the part, or the output is codes.
    #[inline(always)]
    pub fn pixel(&mut self, p: usize) -> &mut [f32] {
        assert!(self.part.pixels.contains(&p) && !self.codes, "pixel {p} is not in {:?}", self.part.pixels);
        let channels = &self.part.channels;
        // SAFETY: the session checked that parts are disjoint and inside the output, and runs each part once at a time.
        unsafe {
            let row = self.start.add(p * self.pitch + channels.start);
            std::slice::from_raw_parts_mut(row, channels.len())
        }
    }

    /// The part's channels of one of its pixels, of an output that is codes.
    ///
    /// # Panics
    /// If the pixel is not in the part, or the output is floats.
    #[inline(always)]
    pub fn codes(&mut self, p: usize) -> &mut [u8] {
        assert!(self.part.pixels.contains(&p) && self.codes, "pixel {p} is not in {:?}", self.part.pixels);
        let channels = &self.part.channels;
        // SAFETY: as in `pixel`; a row of floats has at least as many bytes as channels.
        unsafe {
            let row = self.start.add(p * self.pitch).cast::<u8>().add(channels.start);
            std::slice::from_raw_parts_mut(row, channels.len())
        }
    }

    /// True if the output is codes, a byte each.
    pub fn is_codes(&self) -> bool {
        self.codes
    }

    /// First float of channel 0 of pixel 0 of the whole output; only the part may be written.
    pub fn as_ptr(&self) -> *mut f32 {
        self.start
    }

    /// Floats from a pixel to the next.
    pub fn pitch(&self) -> usize {
        self.pitch
    }
}

/// Cuts `pixels` into pieces of at most `most`, nearly equal, each with all of `channels`.
pub fn parts_by_pixels(pixels: usize, channels: usize, most: usize) -> Vec<Part> {
    let pieces = pixels.div_ceil(most.max(1)).max(1);
    (0..pieces)
        .map(|i| Part { pixels: i * pixels / pieces..(i + 1) * pixels / pieces, channels: 0..channels })
        .filter(|part| !part.pixels.is_empty())
        .collect()
}

/// True if the parts are disjoint and cover `pixels` by `channels`.
pub(crate) fn cover(parts: &[Part], pixels: usize, channels: usize) -> bool {
    let inside = |p: &Part| {
        p.pixels.start < p.pixels.end
            && p.pixels.end <= pixels
            && p.channels.start < p.channels.end
            && p.channels.end <= channels
    };
    let apart = |a: &Range<usize>, b: &Range<usize>| a.end <= b.start || b.end <= a.start;
    let area: usize = parts.iter().map(|p| p.pixels.len() * p.channels.len()).sum();
    let disjoint = parts.iter().enumerate().all(|(i, a)| {
        parts[i + 1..].iter().all(|b| apart(&a.pixels, &b.pixels) || apart(&a.channels, &b.channels))
    });
    parts.iter().all(inside) && area == pixels * channels && disjoint
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_disjoint_parts_that_cover_the_output_pass() {
        let part = |pixels, channels| Part { pixels, channels };
        assert!(cover(&[part(0..2, 0..3), part(2..4, 0..3)], 4, 3));
        assert!(cover(&[part(0..4, 0..1), part(0..4, 1..3)], 4, 3));
        assert!(!cover(&[part(0..2, 0..3)], 4, 3), "a gap");
        assert!(!cover(&[part(0..3, 0..3), part(2..3, 0..3)], 4, 3), "an overlap of the right area");
        assert!(!cover(&[part(0..5, 0..3)], 4, 3), "too far");
        assert!(cover(&parts_by_pixels(10, 3, 4), 10, 3));
        assert_eq!(parts_by_pixels(10, 3, 4).len(), 3);
    }
}
