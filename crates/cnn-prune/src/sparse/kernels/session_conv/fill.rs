//! From channels-last pixels to planes of vectors, see [`super::strip`].

use super::LANES;
use super::strip::Strip;
use cnn_core::ops::conv::ConvGeometry;
use cnn_core::session::View;
use cnn_core::simd::{Simd, SimdOp};
use std::ops::Range;

/// Lays out pixels that are the inputs of outputs of their own, a vector of neighbours at each place.
pub(super) struct FillPixels<'a> {
    pub strip: &'a Strip,
    pub x: View<'a>,
    pub pixels: Range<usize>,
    /// `[channel][place][lane]`
    pub planes: &'a mut [f32],
}

impl SimdOp for FillPixels<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let FillPixels { strip, x, pixels, planes } = self;
        assert!(pixels.end <= x.pixels && pixels.len() <= strip.channel * S::LANES);
        assert!(planes.len() >= x.channels * strip.channel * S::LANES);
        let apart = strip.channel * S::LANES;
        for (place, first) in pixels.clone().step_by(S::LANES).enumerate() {
            let count = S::LANES.min(pixels.end - first);
            for c in (0..x.channels).step_by(S::LANES) {
                let channels = S::LANES.min(x.channels - c);
                // SAFETY: pixels and channels exist, and each channel has a vector at this place, as was measured above.
                unsafe {
                    let from = x.as_ptr().add(first * x.pitch + c);
                    let to = planes.as_mut_ptr().add(c * apart + place * S::LANES);
                    match count == S::LANES && channels == S::LANES {
                        true => s.transpose_block(from, x.pitch, to, apart),
                        false => s.transpose_partial(from, x.pitch, count, channels, to, apart),
                    }
                }
            }
        }
    }
}

/// Lays out what a band of an image reads.
pub(super) struct Fill<'a> {
    pub g: &'a ConvGeometry,
    pub strip: &'a Strip,
    pub x: View<'a>,
    /// First pixel of the image.
    pub image: usize,
    /// Input row and column under the first tap of the band, padding counted.
    pub first: [usize; 2],
    /// A zero for each channel.
    pub zeros: &'a [f32],
    /// `[channel][place][lane]`
    pub planes: &'a mut [f32],
}

impl SimdOp for Fill<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Fill { g, strip, x, image, first, zeros, planes } = self;
        assert!(strip.y.lanes * strip.x.lanes == S::LANES && zeros.len() >= g.c && x.channels == g.c);
        assert!(planes.len() >= g.c * strip.channel * S::LANES);
        let mut starts = [[0; 2]; LANES];
        for (lane, start) in starts[..S::LANES].iter_mut().enumerate() {
            let (down, right) = (lane / strip.x.lanes, lane % strip.x.lanes);
            *start = [first[0] + strip.y.start(down), first[1] + strip.x.start(right)];
        }
        let mut block = [0f32; LANES * LANES];
        let mut turned = [0f32; LANES * LANES];
        let mut rows = [zeros.as_ptr(); LANES];
        for place in 0..strip.y.places * strip.x.places {
            let down = strip.y.pixel(place / strip.x.places);
            let right = strip.x.pixel(place % strip.x.places);
            for (row, start) in rows[..S::LANES].iter_mut().zip(&starts) {
                // what lies before the image wraps around to beyond it
                let iy = (start[0] + down).wrapping_sub(g.pad[0]);
                let ix = (start[1] + right).wrapping_sub(g.pad[1]);
                *row = if iy < g.h && ix < g.w {
                    let pixel = image + iy * g.w + ix;
                    assert!(pixel < x.pixels);
                    x.as_ptr().wrapping_add(pixel * x.pitch)
                } else {
                    zeros.as_ptr()
                };
            }
            for c in (0..g.c).step_by(S::LANES) {
                let channels = S::LANES.min(g.c - c);
                // SAFETY: every row has `g.c` floats; the planes have a vector at this place for each channel, as was measured
                // above.
                unsafe {
                    let to = planes.as_mut_ptr().add((c * strip.channel + place) * S::LANES);
                    if channels == S::LANES {
                        for (row, block) in rows.iter().zip(block.chunks_exact_mut(S::LANES)).take(S::LANES) {
                            s.store(block.as_mut_ptr(), s.load(row.add(c)));
                        }
                        s.transpose_block(block.as_ptr(), S::LANES, to, strip.channel * S::LANES);
                        continue;
                    }
                    for (row, block) in rows.iter().zip(block.chunks_exact_mut(S::LANES)).take(S::LANES) {
                        s.store(block.as_mut_ptr(), s.load_partial(row.add(c), channels));
                    }
                    s.transpose_block(block.as_ptr(), S::LANES, turned.as_mut_ptr(), S::LANES);
                    for (i, turned) in turned.chunks_exact(S::LANES).take(channels).enumerate() {
                        s.store(to.add(i * strip.channel * S::LANES), s.load(turned.as_ptr()));
                    }
                }
            }
        }
    }
}
