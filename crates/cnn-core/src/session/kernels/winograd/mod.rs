//! 3 x 3 convolutions with step 1 by Winograd's F(2 x 2, 3 x 3) and F(4 x 4, 3 x 3) (Lavin & Gray 2016, sections 4.1 and 4.3),
//! channels-last.
//!
//! `y = At[(G g Gt) . (Bt d B)]A`: a part transforms its tiles of `IN x IN` inputs into as many matrices of `tiles x channels`, and
//! then multiplies one after the other with its matrices of some panels of filters, and transforms back panel by panel.
//! Tiles of 4 x 4 outputs save three of four multiplications, those of 2 x 2 more than half, with less than half the weights.

mod transforms;

use super::Ending;
use super::panels;
use crate::Result;
use crate::kernels::layout::Transpose2d;
use crate::kernels::winograd::product_stride;
use crate::ops::conv::ConvGeometry;
use crate::session::floats::Floats;
use crate::session::kernel::{Inputs, Kernel, Part, Target};
use crate::session::lowering::{Lowered, Lowering};
use crate::simd::Isa;
use std::sync::Arc;
use transforms::{Filters, Gather, Product, Spread};

/// Names of the algorithms.
pub(super) const NAMES: [&str; 2] = ["winograd-2x2", "winograd-4x4"];

/// Tiles of a part at most, and floats that its transformed inputs may take when it has enough tiles all the same.
const MOST_TILES: usize = 64;
const BLOCK: usize = 128 * 1024;
const FEW_TILES: usize = 28;
/// Bytes of weights from which on a part has as many tiles as it can: each reads them all.
const HEAVY: usize = 2 << 20;
/// Floats of products that are kept.
const KEPT: usize = 256 * 1024;
/// Bytes of weights that come from memory in the time of a vector multiply-add.
const STREAM: f32 = 2.5;

/// True if the transforms can be used at all.
pub(super) fn fits(g: &ConvGeometry) -> bool {
    g.kernel == [3, 3] && g.stride == [1, 1] && g.dilation == [1, 1] && g.groups == 1
}

/// The cheapest way, if it is one of Winograd's. Costs are in vector multiply-adds: those of the products and of the transforms, and
/// the time in which the weights arrive.
pub(super) fn pays(isa: Isa, g: &ConvGeometry) -> Option<&'static str> {
    let vectors = |channels: usize| channels.div_ceil(isa.lanes());
    let products = |rows: usize, count: usize| {
        let weights = count * g.c * vectors(g.m) * isa.lanes() * 4;
        rows * count * g.c * vectors(g.m) + (weights as f32 / STREAM) as usize
    };
    let winograd = |out: usize, transform: usize| {
        let tiles = g.n * g.out_h().div_ceil(out) * g.out_w().div_ceil(out);
        products(tiles, (out + 2) * (out + 2)) + tiles * transform * (vectors(g.c) + vectors(g.m))
    };
    let direct = products(g.n * g.out_h() * g.out_w(), 9);
    let ways = [winograd(2, 120), winograd(4, 300)].into_iter().zip(NAMES);
    ways.filter(|way| way.0 < direct).min().map(|way| way.1)
}

/// The kernel of that name.
pub(super) fn lower(
    name: &str,
    at: &Lowering<'_>,
    g: &ConvGeometry,
    weights: &[f32],
    bias: &[f32],
) -> Lowered {
    match name == NAMES[0] {
        true => Winograd::<2, 4>::lower(NAMES[0], at, g, weights, bias),
        false => Winograd::<4, 6>::lower(NAMES[1], at, g, weights, bias),
    }
}

/// The kernel for tiles of `IN x IN` inputs and `OUT x OUT` outputs.
#[derive(Debug)]
struct Winograd<const OUT: usize, const IN: usize> {
    name: &'static str,
    isa: Isa,
    g: ConvGeometry,
    width: usize,
    /// `[panel][IN * IN][c][width]`.
    weights: Arc<Floats>,
    bias: Floats,
    ending: Ending,
    residual: bool,
    parts: Vec<Part>,
}

impl<const OUT: usize, const IN: usize> Winograd<OUT, IN> {
    fn lower(
        name: &'static str,
        at: &Lowering<'_>,
        g: &ConvGeometry,
        weights: &[f32],
        bias: &[f32],
    ) -> Lowered {
        let isa = at.isa;
        let width = panels::width(isa, g.m);
        let count = g.m.div_ceil(width);
        let packed = at.shared(name, || {
            let mut packed = Floats::zeros(count * IN * IN * g.c * width);
            let mut turned = Floats::zeros(g.c * 9 * width);
            for (panel, dst) in packed.chunks_mut(IN * IN * g.c * width).enumerate() {
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
                isa.run(Filters::<OUT, IN> { src: &turned, c: g.c, width, dst });
            }
            packed
        });
        let kernel = Winograd::<OUT, IN> {
            name,
            isa,
            g: *g,
            width,
            bias: panels::pad(bias, width),
            weights: packed,
            ending: Ending::new(at.epilogue.activation),
            residual: at.epilogue.residual,
            parts: cut::<OUT, IN>(isa, g, width),
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
        let floats = |channels| (IN * IN * product_stride(rows * cols, channels)).next_multiple_of(16);
        (floats(cp), floats(self.width))
    }

    /// Panels whose products are kept before they are transformed back.
    fn group(&self, part: &Part) -> usize {
        (KEPT / self.lengths(part).1).clamp(1, part.channels.len().div_ceil(self.width))
    }
}

/// Bands of whole rows of tiles, by groups of panels.
fn cut<const OUT: usize, const IN: usize>(isa: Isa, g: &ConvGeometry, width: usize) -> Vec<Part> {
    let (oh, ow) = (g.out_h(), g.out_w());
    let (tile_rows, tile_cols) = (oh.div_ceil(OUT), ow.div_ceil(OUT));
    let count = g.m.div_ceil(width);
    let cost = tile_rows * tile_cols * IN * IN * g.c * count * (width / isa.lanes());
    let want = (cost / 12_000).clamp(1, 8);
    let heavy = IN * IN * g.c * g.m * 4 > HEAVY;
    let for_cache = match heavy {
        true => MOST_TILES,
        false => (BLOCK / (IN * IN * g.c)).clamp(FEW_TILES, MOST_TILES),
    };
    let rows = (for_cache / tile_cols).clamp(1, tile_rows);
    let (bands, columns) = if heavy {
        let bands = tile_rows.div_ceil(rows);
        // each column transforms the inputs again
        (bands, (4 / (bands * g.n)).clamp(1, want.min(count)))
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

impl<const OUT: usize, const IN: usize> Kernel for Winograd<OUT, IN> {
    fn algorithm(&self) -> &'static str {
        self.name
    }

    fn parts(&self) -> Vec<Part> {
        self.parts.clone()
    }

    fn scratch(&self) -> usize {
        let floats = |part| {
            let (inputs, products) = self.lengths(part);
            inputs + products * self.group(part)
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
        let (spread, products) = scratch.split_at_mut(spread_len);
        let (oh, ow) = (g.out_h(), g.out_w());
        let (image, y) = (part.pixels.start / (oh * ow), part.pixels.start / ow % oh);
        let cp = g.c.next_multiple_of(self.isa.lanes());
        self.isa.run(Spread::<OUT, IN> {
            src: x.as_ptr().wrapping_add(image * g.h * g.w * x.pitch),
            pitch: x.pitch,
            size: [g.h, g.w],
            origin: [y as isize - g.pad[0] as isize, -(g.pad[1] as isize)],
            tiles: [rows, cols],
            channels: g.c,
            dst: spread,
        });
        let per_product = g.c * self.width;
        let weights = |panel: usize, product: usize| (panel * IN * IN + product) * per_product;
        let (last, group) = (part.channels.end.div_ceil(self.width), self.group(part));
        let mut first = part.channels.start / self.width;
        while first < last {
            let panels = first..last.min(first + group);
            // a matrix of inputs stays in the cache while the panels go by
            for product in 0..IN * IN {
                for panel in panels.clone() {
                    let next = if panel + 1 < panels.end {
                        weights(panel + 1, product)
                    } else if product + 1 < IN * IN {
                        weights(first, product + 1)
                    } else {
                        weights(panels.end, 0)
                    };
                    self.isa.run(Product {
                        tiles: rows * cols,
                        c: g.c,
                        cp,
                        product,
                        spread,
                        weights: &self.weights[weights(panel, product)..][..per_product],
                        next: self.weights.as_ptr().wrapping_add(next),
                        width: self.width,
                        lanes: self.width.min(part.channels.end - panel * self.width),
                        products: &mut products[(panel - first) * product_len..][..product_len],
                    });
                }
            }
            for panel in panels.clone() {
                let channel = panel * self.width;
                self.isa.run(Gather::<OUT, IN> {
                    src: &products[(panel - first) * product_len..][..product_len],
                    tiles: [rows, cols],
                    size: [part.pixels.len() / ow, ow],
                    width: self.width,
                    lanes: self.width.min(part.channels.end - channel),
                    bias: &self.bias[channel..][..self.width],
                    finish: self.ending.at(residual, part.pixels.start, channel, 0),
                    dst: out.as_ptr().wrapping_add(part.pixels.start * out.pitch() + channel),
                    pitch: out.pitch(),
                });
            }
            first = panels.end;
        }
        self.ending.finish(&mut out, part.pixels.clone());
        Ok(())
    }
}
