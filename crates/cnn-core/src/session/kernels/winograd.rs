//! 3 x 3 convolutions with step 1 by Winograd's F(4 x 4, 3 x 3) (Lavin & Gray 2016, section 4.3), channels-last.
//!
//! `y = At[(G g Gt) . (Bt d B)]A`: a part transforms its tiles of 6 x 6 inputs into 36 matrices of `tiles x channels`, and then for
//! each panel of filters multiplies them with the 36 matrices of that panel and transforms back while they are in the cache.

use super::Ending;
use super::panels;
use crate::Result;
use crate::kernels::layout::Transpose2d;
use crate::kernels::tiles::{Finish, Init, Tiles};
use crate::kernels::winograd::{IN, OUT, PRODUCTS, both_axes_filter, input6, output4, product_stride};
use crate::ops::conv::ConvGeometry;
use crate::session::floats::Floats;
use crate::session::kernel::{Inputs, Kernel, Part, Target};
use crate::session::lowering::{Lowered, Lowering};
use crate::simd::{Isa, Simd, SimdOp};
use std::sync::Arc;

/// Name of the algorithm.
pub(super) const NAME: &str = "winograd-4x4";

/// Tiles of a part at most, and floats that its transformed inputs may take when it has enough tiles all the same.
const MOST_TILES: usize = 64;
const BLOCK: usize = 128 * 1024;
const FEW_TILES: usize = 28;
/// Bytes of weights that come from memory in the time of a vector multiply-add, carefully estimated.
const STREAM: usize = 5;

/// True if the transforms can be used at all.
pub(super) fn fits(g: &ConvGeometry) -> bool {
    g.kernel == [3, 3] && g.stride == [1, 1] && g.dilation == [1, 1] && g.groups == 1
}

/// Whether Winograd's way is cheaper, in cycles of one vector multiply-add each: 36 products a tile and the transforms, or as long as
/// its weights take to arrive, against 9 products a pixel or its weights.
pub(super) fn pays(isa: Isa, g: &ConvGeometry) -> bool {
    let vectors = |channels: usize| channels.div_ceil(isa.lanes());
    let tiles = g.n * g.out_h().div_ceil(OUT) * g.out_w().div_ceil(OUT);
    let weights = g.c * vectors(g.m) * isa.lanes() * 4;
    let products = (tiles * PRODUCTS * g.c * vectors(g.m)).max(PRODUCTS * weights / STREAM);
    let transforms = tiles * 300 * (vectors(g.c) + vectors(g.m));
    let direct = (g.n * g.out_h() * g.out_w() * 9 * g.c * vectors(g.m)).max(9 * weights / STREAM);
    products + transforms < direct
}

/// The kernel.
#[derive(Debug)]
pub(super) struct Winograd {
    isa: Isa,
    g: ConvGeometry,
    width: usize,
    /// `[panel][product][c][width]`.
    weights: Arc<Floats>,
    bias: Floats,
    ending: Ending,
    residual: bool,
    parts: Vec<Part>,
}

impl Winograd {
    pub fn lower(at: &Lowering<'_>, g: &ConvGeometry, weights: &[f32], bias: &[f32]) -> Lowered {
        let isa = at.isa;
        let width = panels::width(isa, g.m);
        let count = g.m.div_ceil(width);
        let packed = at.shared(NAME, || {
            let mut packed = Floats::zeros(count * PRODUCTS * g.c * width);
            let mut turned = Floats::zeros(g.c * 9 * width);
            for (panel, dst) in packed.chunks_mut(PRODUCTS * g.c * width).enumerate() {
                let first = panel * width;
                let filters = width.min(g.m - first);
                turned.fill(0.0);
                isa.run(Transpose2d {
                    src: weights[first * g.c * 9..(first + filters) * g.c * 9].as_ptr(),
                    src_ld: g.c * 9,
                    rows: filters,
                    cols: g.c * 9,
                    dst: turned.as_mut_ptr(),
                    dst_ld: width,
                });
                isa.run(Filters { src: &turned, c: g.c, width, dst });
            }
            packed
        });
        let kernel = Winograd {
            isa,
            g: *g,
            width,
            bias: panels::pad(bias, width),
            weights: packed,
            ending: Ending::new(at.epilogue.activation),
            residual: at.epilogue.residual,
            parts: cut(isa, g, width),
        };
        Lowered::channels_last(kernel)
    }

    fn tiles(&self, part: &Part) -> (usize, usize) {
        let rows = part.pixels.len() / self.g.out_w();
        (rows.div_ceil(OUT), self.g.out_w().div_ceil(OUT))
    }

    /// Floats of the transformed inputs, and of the products of a panel.
    fn lengths(&self, part: &Part) -> (usize, usize) {
        let (rows, cols) = self.tiles(part);
        let cp = self.g.c.next_multiple_of(self.isa.lanes());
        let floats = |channels| (PRODUCTS * product_stride(rows * cols, channels)).next_multiple_of(16);
        (floats(cp), floats(self.width))
    }
}

/// Bands of whole rows of tiles, by groups of panels.
fn cut(isa: Isa, g: &ConvGeometry, width: usize) -> Vec<Part> {
    let (oh, ow) = (g.out_h(), g.out_w());
    let (tile_rows, tile_cols) = (oh.div_ceil(OUT), ow.div_ceil(OUT));
    let count = g.m.div_ceil(width);
    let cost = tile_rows * tile_cols * PRODUCTS * g.c * count * (width / isa.lanes());
    let want = (cost / 12_000).clamp(1, 8);
    let for_cache = (BLOCK / (PRODUCTS * g.c)).clamp(FEW_TILES, MOST_TILES);
    let rows = (for_cache / tile_cols).clamp(1, tile_rows);
    let heavy = PRODUCTS * g.c * g.m * 4 > 2 * 1024 * 1024;
    let (bands, columns) = if heavy {
        (tile_rows.div_ceil(rows), 4.min(want).min(count))
    } else {
        let bands = tile_rows.div_ceil(rows).max((want / g.n).clamp(1, tile_rows));
        (bands, (want / (bands * g.n)).clamp(1, count))
    };
    let mut parts = Vec::new();
    for image in 0..g.n {
        for band in 0..bands {
            let tiles = panels::piece(tile_rows, bands, band);
            let pixels = (image * oh + tiles.start * OUT) * ow..(image * oh + oh.min(tiles.end * OUT)) * ow;
            for column in 0..columns {
                let panels = panels::piece(count, columns, column);
                let channels = panels.start * width..g.m.min(panels.end * width);
                parts.push(Part { pixels: pixels.clone(), channels });
            }
        }
    }
    parts
}

impl Kernel for Winograd {
    fn algorithm(&self) -> &'static str {
        NAME
    }

    fn parts(&self) -> Vec<Part> {
        self.parts.clone()
    }

    fn scratch(&self) -> usize {
        let floats = |part| {
            let (inputs, products) = self.lengths(part);
            inputs + products
        };
        self.parts.iter().map(floats).max().unwrap_or(0)
    }

    fn weight_bytes(&self) -> usize {
        (self.weights.len() + self.bias.len()) * 4
    }

    fn run(&self, inputs: Inputs<'_>, mut out: Target<'_>, scratch: &mut [f32]) -> Result<()> {
        let g = &self.g;
        let (x, part) = (inputs.get(0), out.part());
        let residual = self.residual.then(|| inputs.get(1));
        let (rows, cols) = self.tiles(part);
        let (spread_len, product_len) = self.lengths(part);
        let (spread, rest) = scratch.split_at_mut(spread_len);
        let products = &mut rest[..product_len];
        let (oh, ow) = (g.out_h(), g.out_w());
        let (image, y) = (part.pixels.start / (oh * ow), part.pixels.start / ow % oh);
        let cp = g.c.next_multiple_of(self.isa.lanes());
        self.isa.run(Spread {
            src: x.as_ptr().wrapping_add(image * g.h * g.w * x.pitch),
            pitch: x.pitch,
            size: [g.h, g.w],
            origin: [y as isize - g.pad[0] as isize, -(g.pad[1] as isize)],
            tiles: [rows, cols],
            channels: g.c,
            dst: spread,
        });
        for panel in part.channels.start / self.width..part.channels.end.div_ceil(self.width) {
            let channel = panel * self.width;
            let lanes = self.width.min(part.channels.end - channel);
            let per_product = g.c * self.width;
            self.isa.run(Products {
                tiles: rows * cols,
                c: g.c,
                cp,
                spread,
                weights: &self.weights[panel * PRODUCTS * per_product..][..PRODUCTS * per_product],
                width: self.width,
                lanes,
                products,
            });
            self.isa.run(Gather {
                src: products,
                tiles: [rows, cols],
                size: [part.pixels.len() / ow, ow],
                width: self.width,
                lanes,
                bias: &self.bias[channel..][..self.width],
                finish: self.ending.at(residual, part.pixels.start, channel, 0),
                dst: out.as_ptr().wrapping_add(part.pixels.start * out.pitch() + channel),
                pitch: out.pitch(),
            });
        }
        self.ending.finish(&mut out, part.pixels.clone());
        Ok(())
    }
}

/// `U = G g Gt` of the filters of a panel: `c x 9 x width` to `36 x c x width`.
struct Filters<'a> {
    src: &'a [f32],
    c: usize,
    width: usize,
    dst: &'a mut [f32],
}

impl SimdOp for Filters<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (c, width) = (self.c, self.width);
        assert!(self.src.len() >= c * 9 * width && self.dst.len() >= PRODUCTS * c * width);
        assert!(width.is_multiple_of(S::LANES));
        for i in 0..c {
            let mut v = 0;
            while v < width {
                let mut g = [[s.splat(0.0); 3]; 3];
                for (k, g) in g.as_flattened_mut().iter_mut().enumerate() {
                    // SAFETY: inside `c x 9 x width` by the asserts.
                    *g = unsafe { s.load(self.src.as_ptr().add((i * 9 + k) * width + v)) };
                }
                for (p, u) in both_axes_filter(s, g).as_flattened().iter().enumerate() {
                    // SAFETY: inside `36 x c x width` by the asserts.
                    unsafe { s.store(self.dst.as_mut_ptr().add((p * c + i) * width + v), *u) };
                }
                v += S::LANES;
            }
        }
    }
}

/// `V = Bt d B` of the tiles of a part; what lies outside the image is zero.
struct Spread<'a> {
    src: *const f32,
    pitch: usize,
    /// Height and width of the image.
    size: [usize; 2],
    /// Row and column of the image at which the first tile starts.
    origin: [isize; 2],
    tiles: [usize; 2],
    channels: usize,
    dst: &'a mut [f32],
}

impl SimdOp for Spread<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let [rows, cols] = self.tiles;
        let cp = self.channels.next_multiple_of(S::LANES);
        let stride = product_stride(rows * cols, cp);
        assert!(self.dst.len() >= PRODUCTS * stride);
        for ty in 0..rows {
            for tx in 0..cols {
                let y = self.origin[0] + (ty * OUT) as isize;
                let x = self.origin[1] + (tx * OUT) as isize;
                let [h, w] = self.size.map(|n| n as isize);
                // the rows and columns of the tile that the image has
                let valid = |at: isize, size: isize| {
                    ((-at).clamp(0, IN as isize) as usize, (size - at).clamp(0, IN as isize) as usize)
                };
                let ((y0, y1), (x0, x1)) = (valid(y, h), valid(x, w));
                let whole = (y0, y1, x0, x1) == (0, IN, 0, IN);
                let start = (y * w + x) * self.pitch as isize;
                let mut v = 0;
                while v < self.channels {
                    let lanes = S::LANES.min(self.channels - v);
                    let src = self.src.wrapping_offset(start + v as isize);
                    let at = |r: usize, k: usize| src.wrapping_add((r * self.size[1] + k) * self.pitch);
                    let zero = s.splat(0.0);
                    let mut mid = [[zero; IN]; IN];
                    for k in 0..IN {
                        let mut column = [zero; IN];
                        for (r, d) in column.iter_mut().enumerate() {
                            // SAFETY: pixels inside the image, and of those `lanes` channels.
                            unsafe {
                                if whole && lanes == S::LANES {
                                    *d = s.load(at(r, k));
                                } else if (y0..y1).contains(&r) && (x0..x1).contains(&k) {
                                    *d = s.load_partial(at(r, k), lanes);
                                }
                            }
                        }
                        for (mid, d) in mid.iter_mut().zip(input6(s, column)) {
                            mid[k] = d;
                        }
                    }
                    for (r, mid) in mid.into_iter().enumerate() {
                        for (k, d) in input6(s, mid).into_iter().enumerate() {
                            // SAFETY: inside the 36 matrices by the assert.
                            unsafe {
                                let to = (r * IN + k) * stride + (ty * cols + tx) * cp + v;
                                s.store(self.dst.as_mut_ptr().add(to), d);
                            }
                        }
                    }
                    v += S::LANES;
                }
            }
        }
    }
}

/// The 36 products of a panel.
struct Products<'a> {
    tiles: usize,
    c: usize,
    cp: usize,
    spread: &'a [f32],
    weights: &'a [f32],
    width: usize,
    lanes: usize,
    products: &'a mut [f32],
}

impl SimdOp for Products<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (from, to) = (product_stride(self.tiles, self.cp), product_stride(self.tiles, self.width));
        for p in 0..PRODUCTS {
            s.vectorize(Tiles {
                a: self.spread[p * from..].as_ptr(),
                a_row: self.cp,
                a_inner: 1,
                runs: &[0],
                run_len: self.c,
                b: self.weights[p * self.c * self.width..].as_ptr(),
                b_inner: self.width,
                c: self.products[p * to..].as_mut_ptr(),
                c_row: self.width,
                rows: self.tiles,
                outer: 1,
                a_outer: 0,
                c_outer: 0,
                lanes: self.width.min(self.lanes.next_multiple_of(S::LANES)),
                init: Init::Zero,
                finish: None,
            });
        }
    }
}

/// `At m A` of the products of a panel, finished and cropped to the pixels there are.
struct Gather<'a> {
    src: &'a [f32],
    tiles: [usize; 2],
    /// Rows and columns of pixels.
    size: [usize; 2],
    width: usize,
    lanes: usize,
    bias: &'a [f32],
    finish: Finish,
    dst: *mut f32,
    pitch: usize,
}

impl SimdOp for Gather<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let ([rows, cols], [h, w]) = (self.tiles, self.size);
        let stride = product_stride(rows * cols, self.width);
        assert!(self.src.len() >= PRODUCTS * stride - 16 && self.bias.len() >= self.width);
        let (low, high) = (s.splat(self.finish.low), s.splat(self.finish.high));
        for ty in 0..rows {
            for tx in 0..cols {
                let (ny, nx) = (OUT.min(h - ty * OUT), OUT.min(w - tx * OUT));
                let pixel = ty * OUT * w + tx * OUT;
                let mut v = 0;
                while v < self.lanes {
                    let lanes = S::LANES.min(self.lanes - v);
                    let zero = s.splat(0.0);
                    let mut mid = [[zero; IN]; OUT];
                    // SAFETY: reads stay in the 36 matrices by the assert; pixels and channels exist.
                    unsafe {
                        let src = self.src.as_ptr().add((ty * cols + tx) * self.width + v);
                        let bias = s.load(self.bias.as_ptr().add(v));
                        for k in 0..IN {
                            let mut column = [zero; IN];
                            for (r, d) in column.iter_mut().enumerate() {
                                *d = s.load(src.add((r * IN + k) * stride));
                            }
                            for (mid, d) in mid.iter_mut().zip(output4(s, column)) {
                                mid[k] = d;
                            }
                        }
                        for (r, mid) in mid.into_iter().enumerate().take(ny) {
                            for (k, d) in output4(s, mid).into_iter().enumerate().take(nx) {
                                let at = pixel + r * w + k;
                                let mut y = s.add(d, bias);
                                if !self.finish.residual.is_null() {
                                    let x = self.finish.residual.add(at * self.finish.residual_row + v);
                                    let x =
                                        if lanes == S::LANES { s.load(x) } else { s.load_partial(x, lanes) };
                                    y = s.add(y, x);
                                }
                                y = s.min(high, s.max(low, y));
                                let to = self.dst.add(at * self.pitch + v);
                                match lanes == S::LANES {
                                    true => s.store(to, y),
                                    false => s.store_partial(to, lanes, y),
                                }
                            }
                        }
                    }
                    v += S::LANES;
                }
            }
        }
    }
}
