//! Rows of a depthwise convolution of 3 x 3 by products of quads (AVX-512 VNNI): a quad is four columns of a channel, of which a pixel
//! takes the first three, and without a step between pixels its neighbour the last three.

use super::quads::Instructions;
use crate::int8_weights::Int8Weights;
use cnn_core::ops::conv::ConvGeometry;
use cnn_core::session::{Levels, Lowering};
use std::sync::Arc;

/// Channels of a block: the bytes of a vector.
const BLOCK: usize = 64;
/// Bytes that may be read behind the rows.
pub const BEHIND: usize = BLOCK;
/// Bytes of the filter for a row of taps of a block: for both pixels of a quad, four bytes a channel.
const ROW: usize = 2 * 4 * BLOCK;

/// What there is for each channel is filled up to whole blocks, in [`order`].
#[derive(Debug)]
pub struct DepthwiseQuads {
    c: usize,
    stride: usize,
    /// `[block][row of taps][pixel of the quad][channel][4]`.
    weights: Arc<Vec<i8>>,
    added: Vec<i32>,
    steps: Vec<f32>,
    scale: Option<Vec<f32>>,
    shift: Option<Vec<f32>>,
    bounds: [f32; 2],
    levels: Levels,
}

/// The channel at a place: bytes of four columns that are interleaved within the 16-byte lanes of vectors, twice, leave in vector `j` of four
/// the channels `4 j` to `4 j + 3` of each lane's 16.
fn order(at: usize) -> usize {
    let (block, j, lane, e) = (at / BLOCK, at % BLOCK / 16, at % 16 / 4, at % 4);
    block * BLOCK + lane * 16 + 4 * j + e
}

/// Rows of bytes and where their results go.
#[derive(Debug, Clone, Copy)]
pub struct Line<'a> {
    /// From the first tap of the first pixel on; after the last one there are [`BEHIND`] bytes and another pixel to be read.
    pub rows: &'a [u8],
    /// From a row of pixels to the next.
    pub down: usize,
    /// Output pixels.
    pub pixels: usize,
    pub y: *mut u8,
    /// From an output pixel to the next.
    pub pitch: usize,
}

impl DepthwiseQuads {
    /// For filters of 3 x 3 on neighbouring taps, bytes that come out, and a processor with the instructions; `starts` are what is added to
    /// the sum of each channel.
    pub fn new(
        at: &Lowering<'_>,
        g: &ConvGeometry,
        weights: &Int8Weights,
        starts: &[i32],
        bounds: [f32; 2],
        levels: Option<Levels>,
    ) -> Option<DepthwiseQuads> {
        let levels = levels?;
        let three = g.kernel == [3, 3] && g.dilation == [1, 1] && matches!(g.stride[1], 1 | 2);
        let can = Instructions::of(at.isa, weights.levels()).is_some_and(Instructions::interleaves);
        if !three || !can || at.epilogue.residual {
            return None;
        }
        let places = g.c.next_multiple_of(BLOCK);
        let ordered = |value: &dyn Fn(usize) -> f32| -> Vec<f32> {
            (0..places).map(order).map(|c| if c < g.c { value(c) } else { 0.0 }).collect()
        };
        let of_channels = |values: &Option<Vec<f32>>| values.as_ref().map(|v| ordered(&|c| v[c]));
        Some(DepthwiseQuads {
            c: g.c,
            stride: g.stride[1],
            weights: at.shared("int8 depthwise quads", || pack(g.c, weights.levels())),
            added: (0..places).map(order).map(|c| starts.get(c).copied().unwrap_or(0)).collect(),
            steps: ordered(&|c| weights.input().step * weights.grids()[c].step),
            scale: of_channels(&at.epilogue.scale),
            shift: of_channels(&at.epilogue.shift),
            bounds,
            levels,
        })
    }

    pub fn bytes(&self) -> usize {
        self.weights.len() + self.added.len() * 8
    }

    /// A row of output pixels.
    ///
    /// # Panics
    /// If the rows are too short.
    ///
    /// # Safety
    /// The pixels in `y` must be the caller's to write.
    pub unsafe fn run(&self, line: Line<'_>) {
        let last = (line.pixels.max(1) - 1) * self.stride + 3;
        assert!(line.pixels > 0 && line.rows.len() >= 2 * line.down + (last + 1) * self.c + BEHIND);
        let blocks = self.c.div_ceil(BLOCK);
        assert!(self.weights.len() >= blocks * 3 * ROW && self.added.len() >= blocks * BLOCK);
        // SAFETY: `new` found the instructions; lengths were just checked, and the pixels are the caller's.
        #[cfg(target_arch = "x86_64")]
        unsafe {
            x86::run(self, line);
        }
    }
}

fn pack(c: usize, levels: &[i16]) -> Vec<i8> {
    let mut packed = vec![0; c.div_ceil(BLOCK) * 3 * ROW];
    for (at, quad) in packed.chunks_exact_mut(4).enumerate() {
        let (block, row, pixel, place) = (at / (6 * BLOCK), at / (2 * BLOCK) % 3, at / BLOCK % 2, at % BLOCK);
        let channel = order(block * BLOCK + place);
        if let Some(taps) = levels.get(channel * 9 + row * 3..channel * 9 + row * 3 + 3) {
            quad[pixel..pixel + 3].iter_mut().zip(taps).for_each(|(to, &level)| *to = level as i8);
        }
    }
    packed
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::super::quads::ToCodes;
    use super::{BLOCK, DepthwiseQuads, Line, ROW};
    use std::arch::x86_64::*;

    /// # Safety
    /// As [`DepthwiseQuads::run`] checks.
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    pub unsafe fn run(of: &DepthwiseQuads, line: Line<'_>) {
        let to = ToCodes::new(of.levels, of.bounds[0], of.bounds[1]);
        for first in (0..of.c).step_by(BLOCK) {
            // SAFETY: the pixels are inside the rows, and the block among the channels.
            unsafe {
                match of.stride {
                    1 => {
                        for p in (0..line.pixels).step_by(2) {
                            // the last pair begins earlier
                            let p = p.min(line.pixels.saturating_sub(2));
                            let sums = sums::<2>(of, line, first, p);
                            finish(of, line, first, p, sums[0], to);
                            if line.pixels > 1 {
                                finish(of, line, first, p + 1, sums[1], to);
                            }
                        }
                    }
                    _ => {
                        for p in 0..line.pixels {
                            let [sums] = sums::<1>(of, line, first, p);
                            finish(of, line, first, p, sums, to);
                        }
                    }
                }
            }
        }
    }

    /// The sums of the pixels of a quad, from `p` on, for the block of channels from `first` on.
    ///
    /// # Safety
    /// As [`run`].
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn sums<const PIXELS: usize>(
        of: &DepthwiseQuads,
        line: Line<'_>,
        first: usize,
        p: usize,
    ) -> [[__m512i; 4]; PIXELS] {
        let mut sums = [[_mm512_setzero_si512(); 4]; PIXELS];
        // SAFETY: the caller's promise; four columns are there, and what is read behind the last channel does not count.
        unsafe {
            let x = line.rows.as_ptr().add(p * of.stride * of.c + first);
            let w = of.weights.as_ptr().add(first / BLOCK * 3 * ROW);
            for row in 0..3 {
                let (x, w) = (x.add(row * line.down), w.add(row * ROW));
                let column = |i: usize| _mm512_loadu_si512(x.add(i * of.c).cast());
                let (c0, c1, c2, c3) = (column(0), column(1), column(2), column(3));
                let (a, b) = (_mm512_unpacklo_epi8(c0, c1), _mm512_unpackhi_epi8(c0, c1));
                let (c, d) = (_mm512_unpacklo_epi8(c2, c3), _mm512_unpackhi_epi8(c2, c3));
                let quads = [
                    _mm512_unpacklo_epi16(a, c),
                    _mm512_unpackhi_epi16(a, c),
                    _mm512_unpacklo_epi16(b, d),
                    _mm512_unpackhi_epi16(b, d),
                ];
                for (pixel, sums) in sums.iter_mut().enumerate() {
                    for (j, (sum, quad)) in sums.iter_mut().zip(quads).enumerate() {
                        let w = _mm512_loadu_si512(w.add((pixel * 4 + j) * BLOCK).cast());
                        // without saturation
                        *sum = _mm512_dpbusd_epi32(*sum, quad, w);
                    }
                }
            }
        }
        sums
    }

    /// The codes of a pixel: in packing two and two vectors, lanes come back into the order of channels.
    ///
    /// # Safety
    /// As [`run`].
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn finish(
        of: &DepthwiseQuads,
        line: Line<'_>,
        first: usize,
        p: usize,
        sums: [__m512i; 4],
        to: ToCodes,
    ) {
        let mut codes = sums;
        for (j, code) in codes.iter_mut().enumerate() {
            let at = first + j * 16;
            // SAFETY: what there is for each channel is filled up to whole blocks.
            let value = unsafe {
                let sum = _mm512_add_epi32(*code, _mm512_loadu_si512(of.added.as_ptr().add(at).cast()));
                let of_channels = |v: &Vec<f32>| _mm512_loadu_ps(v.as_ptr().add(at));
                let mut value = _mm512_mul_ps(_mm512_cvtepi32_ps(sum), of_channels(&of.steps));
                if let Some(scale) = &of.scale {
                    value = _mm512_mul_ps(value, of_channels(scale));
                }
                if let Some(shift) = &of.shift {
                    value = _mm512_add_ps(value, of_channels(shift));
                }
                value
            };
            *code = to.codes(value);
        }
        let halves = [_mm512_packus_epi32(codes[0], codes[1]), _mm512_packus_epi32(codes[2], codes[3])];
        let bytes = _mm512_packus_epi16(halves[0], halves[1]);
        // SAFETY: the channels of the pixel are the caller's.
        unsafe {
            let y = line.y.add(p * line.pitch + first);
            match of.c - first {
                left @ ..BLOCK => _mm512_mask_storeu_epi8(y.cast(), (1 << left) - 1, bytes),
                _ => _mm512_storeu_si512(y.cast(), bytes),
            }
        }
    }
}
