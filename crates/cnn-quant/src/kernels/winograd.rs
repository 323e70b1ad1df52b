//! Convolutions of 3 x 3 in fewer products: Winograd's F(2 x 2, 3 x 3) (Lavin and Gray 2016, "Fast Algorithms for Convolutional Neural
//! Networks", section 4.1) in integers, for processors that multiply 16 bits no slower than bytes.
//!
//! `Y = A^T (sum_c (G g G^T) (B^T d B)) A` for a tile `d` of 4 x 4 codes and the 2 x 2 sums `Y`. `2 G` is whole numbers, so with
//! `U = 2G g (2G)^T` all is exact, and `4 Y` is divided by 4 without a rest: the sums are those of any other road. The transformed codes
//! have 11 bits, the transformed weights 12.

use super::dot::{self, Destinations};
use super::lowered::{Band, floats};
use super::quads::avx2::{LANES as VECTOR, Store, finish};
use super::quads::{Ends, Instructions, TILE};
use super::quantize;
use crate::grid::Grid;
use crate::int8_weights::Int8Weights;
use bytemuck::cast_slice_mut;
use cnn_core::Result;
use cnn_core::ops::conv::ConvGeometry;
use cnn_core::session::{Epilogue, Inputs, Kernel, Layout, Lowered, Lowering, Part, Target};
use cnn_core::simd::Isa;
use std::ops::Range;
use std::sync::Arc;

mod avx2;

/// Name of the algorithm.
pub const NAME: &str = "int8 winograd";
/// Products of a tile and a pair of channels: its 4 x 4 points.
const POINTS: usize = 16;
/// Codes of a vector.
const LANES: usize = 16;
/// Tiles that are multiplied at a time at most.
const CHUNK: usize = 50;
/// Tiles for which filters may come from far.
const MANY: usize = 32;
/// Bytes of transformed codes at a time at most, which the second cache holds beside the filters.
const NEAR: usize = 7 << 16;

#[derive(Debug)]
struct Winograd {
    g: ConvGeometry,
    isa: Isa,
    input: Grid,
    /// Codes of a pixel: channels, filled up to vectors.
    pitch: usize,
    /// `U`: `[tile of filters][point][pair of channels][filter of the tile][2]`.
    weights: Arc<Vec<i16>>,
    ends: Ends,
    destinations: Destinations,
    /// An activation that is more than bounds.
    activation: Epilogue,
    band: Band,
    /// Tiles that are multiplied at a time.
    chunk: usize,
    parts: Vec<Part>,
}

/// True for a convolution that this can compute with such instructions, without a sum that leaves 32 bits, whatever the input.
pub fn fits(g: &ConvGeometry, weights: &Int8Weights, with: Instructions) -> bool {
    let shape = g.kernel == [3, 3] && g.stride == [1, 1] && g.dilation == [1, 1] && g.groups == 1;
    let most = |row: &[i16]| 4 * 255 * row.iter().map(|&w| i64::from(w).abs()).sum::<i64>();
    // between the first transform and the last, sums may wrap: what comes out is right if it fits
    let sums = || weights.levels().chunks(9 * g.c).all(|row| most(row) <= i64::from(i32::MAX));
    with == Instructions::Madd && shape && sums()
}

/// True if it is likely to be faster than [`dot`]: with few channels the transforms take more than they save, and with few tiles the filters,
/// 32 bytes where those have 9, are read for too little.
pub fn pays(g: &ConvGeometry) -> bool {
    let tiles = g.out_h().div_ceil(2) * g.out_w().div_ceil(2);
    g.c >= 16 && g.m >= 16 && (tiles >= MANY || 2 * POINTS * g.c * g.m <= NEAR)
}

/// The kernel of a convolution that [`fits`].
pub fn lower(at: &Lowering<'_>, g: &ConvGeometry, weights: &Int8Weights) -> Option<Lowered> {
    let (ends, activation) = dot::ends(at, g, weights, Instructions::Madd)?;
    let (high, wide) = (g.out_h().div_ceil(2), g.out_w().div_ceil(2));
    let (pitch, pairs) = (g.c.next_multiple_of(LANES), g.c.div_ceil(2));
    let products = high * wide * POINTS * pairs / 2 * g.m.div_ceil(TILE);
    // half as many parts by rows, since filters are large, and parts of more filters, since each transforms its codes
    let [pieces, columns] = dot::pieces(products, Instructions::Madd, high, wide * 2, g.m.div_ceil(4 * TILE));
    let parts = dot::parts(g.n, [g.out_h(), g.out_w()], 2, g.m, [pieces, columns]);
    let rows = high.div_ceil(pieces);
    // one more row and column than the output has, where that is odd
    let band = Band { width: 2 * wide + 2, ..Band::of(g, pitch, 2 * rows)? };
    let levels = at.levels.filter(|_| activation.is_empty());
    let reads = at.inputs.first().map_or(Layout::ChannelsLast, |e| e.layout);
    let most = (NEAR / (2 * POINTS * pitch)).clamp(1, CHUNK);
    let chunks = (rows * wide).div_ceil(most);
    let kernel = Winograd {
        g: *g,
        isa: at.isa,
        input: weights.input(),
        pitch,
        weights: at.shared(NAME, || transformed(g, weights.levels())),
        ends,
        destinations: Destinations { residual: at.epilogue.residual, levels },
        activation,
        band,
        chunk: (rows * wide).div_ceil(chunks),
        parts,
    };
    Some(Lowered {
        kernel: Box::new(kernel),
        inputs: vec![if reads == Layout::Codes { reads } else { Layout::ChannelsLast }],
        output: if levels.is_some() { Layout::Codes } else { Layout::ChannelsLast },
        alternatives: Vec::new(),
    })
}

/// `U = 2G g (2G)^T` of all filters `m x c x 3 x 3`.
fn transformed(g: &ConvGeometry, levels: &[i16]) -> Vec<i16> {
    let pairs = g.c.div_ceil(2);
    let tile = POINTS * pairs * TILE * 2;
    let mut packed = vec![0; g.m.div_ceil(TILE) * tile];
    // 2G, to three values
    let twice = |[a, b, c]: [i16; 3]| [2 * a, a + b + c, a - b + c, 2 * c];
    for (at, filter) in levels.chunks_exact(9).enumerate() {
        let (m, c) = (at / g.c, at % g.c);
        let columns: [[i16; 4]; 3] =
            std::array::from_fn(|j| twice([filter[j], filter[3 + j], filter[6 + j]]));
        for i in 0..4 {
            for (j, u) in twice(columns.map(|column| column[i])).into_iter().enumerate() {
                let pair = (4 * i + j) * pairs + c / 2;
                packed[m / TILE * tile + (pair * TILE + m % TILE) * 2 + c % 2] = u;
            }
        }
    }
    packed
}

impl Kernel for Winograd {
    fn algorithm(&self) -> &'static str {
        NAME
    }

    fn parts(&self) -> Vec<Part> {
        self.parts.clone()
    }

    fn scratch(&self) -> usize {
        floats(self.band.len()) + floats(POINTS * self.chunk * self.pitch) + POINTS * self.chunk * TILE
    }

    fn weight_bytes(&self) -> usize {
        self.weights.len() * 2 + self.ends.added.len() * 8
    }

    fn run(&self, inputs: Inputs<'_>, mut out: Target<'_>, scratch: &mut [f32]) -> Result<()> {
        let (g, part) = (&self.g, out.part().clone());
        let (plane, width) = (g.out_h() * g.out_w(), g.out_w());
        let (high, wide) = ((part.pixels.len() / width).div_ceil(2), width.div_ceil(2));
        let (products, scratch) = scratch.split_at_mut(POINTS * self.chunk * TILE);
        let (points, codes) = scratch.split_at_mut(floats(POINTS * self.chunk * self.pitch));
        let (products, points): (&mut [i32], &mut [i16]) = (cast_slice_mut(products), cast_slice_mut(points));
        let codes: &mut [u16] = cast_slice_mut(codes);

        let first = part.pixels.start % plane / width;
        let zero = u16::from(-self.input.low as u8);
        let x = inputs.get(0);
        self.band.fill(
            g,
            part.pixels.start / plane,
            &(first..first + 2 * high),
            codes,
            zero,
            |pixels, to| {
                quantize::codes(self.isa, self.input, x, pixels, to, self.pitch);
            },
        );
        let tile = POINTS * g.c.div_ceil(2) * TILE * 2;
        for start in (0..high * wide).step_by(self.chunk) {
            let tiles = start..(high * wide).min(start + self.chunk);
            let count = tiles.len();
            for (t, tile) in tiles.clone().enumerate() {
                let from = (tile / wide * 2 * self.band.width + tile % wide * 2) * self.pitch;
                let down = self.band.width * self.pitch;
                let apart = count * self.pitch;
                assert!(from + 3 * (down + self.pitch) + self.pitch <= codes.len());
                let to = &mut points[t * self.pitch..][..(POINTS - 1) * apart + self.pitch];
                // SAFETY: `fits` asked for AVX2; the tile's codes and its 16 points are there.
                unsafe {
                    avx2::points(codes[from..].as_ptr().cast(), down, self.pitch, to.as_mut_ptr(), apart)
                };
            }
            for f in part.channels.clone().step_by(TILE) {
                let (pairs, filters) = (g.c.div_ceil(2), &self.weights[f / TILE * tile..][..tile]);
                // SAFETY: `fits` asked for AVX2.
                unsafe { avx2::products(points, self.pitch, count, filters, pairs, products) };
                let of_tiles = Tiles { tiles: tiles.clone(), wide, f, products };
                // SAFETY: as above.
                unsafe { of_tiles.finish(self, inputs, &out) };
            }
        }
        if !self.activation.is_empty() {
            let pixels = part.pixels.clone();
            pixels.for_each(|p| self.activation.finish(part.channels.clone(), out.pixel(p), None));
        }
        Ok(())
    }
}

/// Some tiles, all in a part, with their products for the tile of filters that begins at `f`.
struct Tiles<'a> {
    tiles: Range<usize>,
    /// Tiles in a row.
    wide: usize,
    f: usize,
    /// `[point][tile][filter]`.
    products: &'a [i32],
}

impl Tiles<'_> {
    /// Their results.
    ///
    /// # Safety
    /// The processor must have AVX2.
    #[target_feature(enable = "avx2")]
    unsafe fn finish(&self, of: &Winograd, inputs: Inputs<'_>, out: &Target<'_>) {
        let (part, width) = (out.part(), of.g.out_w());
        let count = (part.channels.end - self.f).min(TILE);
        let lines = part.pixels.len() / width;
        assert!(
            self.products.len() >= POINTS * self.tiles.len() * TILE
                && of.ends.has((self.f + count).div_ceil(TILE))
        );
        let all = of.destinations.at(part.pixels.clone(), self.f..self.f + count, inputs, out);
        let store = Store::new(all.y, of.ends.low, of.ends.high);
        for (t, tile) in self.tiles.clone().enumerate() {
            let (y, x) = (tile / self.wide * 2, tile % self.wide * 2);
            let (rows, columns) = ((lines - y).min(2), (width - x).min(2));
            let pixel = y * width + x;
            let (to, store) = (all.after(pixel, 0), store.after(pixel * all.pitch));
            let products = &self.products[t * TILE..];
            // SAFETY: the products and ends are there, and these rows and columns are of the part.
            unsafe {
                let sums = avx2::sums_of(products, self.tiles.len() * TILE);
                for (i, sums) in sums.iter().enumerate().take(rows) {
                    let (to, store) = (to.after(i * width, 0), store.after(i * width * to.pitch));
                    for v in 0..count.div_ceil(VECTOR) {
                        match columns {
                            1 => finish(&[sums[0]], v, &of.ends, self.f, count, to, store),
                            _ => finish(sums, v, &of.ends, self.f, count, to, store),
                        }
                    }
                }
            }
        }
    }
}
