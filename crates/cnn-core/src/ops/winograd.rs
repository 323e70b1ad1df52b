//! 3x3 convolutions with stride 1 by Winograd's F(4x4, 3x3), all three passes.
//!
//! Per block of tiles: channels-last copy, transform into 36 small matrices,
//! 36 matrix products, inverse transform. A block is sized to stay in the
//! second-level cache from one step to the next.

use super::conv::ConvGeometry;
use super::direct::panel_width;
use super::direct_weights::chunks;
use super::tasks::{for_each, part};
use crate::kernels::layout::{PackNhwc, Transpose2d, UnpackNhwc};
use crate::kernels::scratch::{Shared, with_scratch};
use crate::kernels::tiles::{Init, Tiles};
use crate::kernels::winograd::{
    FilterShape, Gather, GatherFilters, Grid, OUT, PRODUCTS, Spread, SpreadFilters, product_stride,
};
use crate::simd::{Isa, Simd, SimdOp};

/// Floats of the transformed tiles of a block: half of a 1 MB cache.
const BLOCK: usize = 128 * 1024;

/// Whether Winograd's way is possible and cheaper than the direct one.
///
/// Costs in vector operations for a tile of 4x4 outputs: direct needs 144
/// multiplications per channel pair, Winograd 36 and the transforms, which
/// also pay for outputs that do not exist when the image is no multiple of 4.
pub fn pays(isa: Isa, g: &ConvGeometry) -> bool {
    if g.kernel != [3, 3] || g.stride != [1, 1] || g.dilation != [1, 1] || g.groups != 1 {
        return false;
    }
    let lanes = isa.lanes();
    let vectors = |channels: usize| channels.div_ceil(lanes);
    let (oh, ow) = (g.out_h(), g.out_w());
    let tiles = oh.div_ceil(OUT) * ow.div_ceil(OUT);
    let direct = oh * ow * 9 * g.c * vectors(g.m);
    let products = 36 * g.c * vectors(g.m);
    let transforms = 280 * (vectors(g.c) + vectors(g.m));
    tiles * (products + transforms) < direct
}

/// The same for the gradient to the input: the convolution with `dy` as its
/// input, possible if the padding of `x` is at most that of a full convolution.
pub fn pays_backward(isa: Isa, g: &ConvGeometry) -> bool {
    g.kernel == [3, 3] && g.pad.iter().all(|&p| p <= 2) && pays(isa, &transposed(g))
}

/// The convolution that turns `dy` into `dx` with turned filters.
fn transposed(g: &ConvGeometry) -> ConvGeometry {
    ConvGeometry {
        c: g.m,
        m: g.c,
        h: g.out_h(),
        w: g.out_w(),
        pad: g.pad.map(|p| 2usize.saturating_sub(p)),
        ..*g
    }
}

/// How tiles are cut into blocks; depends on shapes only.
struct Blocks {
    /// Rows of tiles in an image, tiles in a row.
    tiles: [usize; 2],
    /// Images of a block.
    images: usize,
    /// Rows of tiles of a block.
    rows: usize,
    /// Images in all.
    n: usize,
}

impl Blocks {
    fn new(g: &ConvGeometry, channels: usize) -> Self {
        let tiles = [g.out_h().div_ceil(OUT), g.out_w().div_ceil(OUT)];
        let per_block = (BLOCK / (PRODUCTS * channels)).max(28);
        let per_image = tiles[0] * tiles[1];
        // At least eight blocks where possible, so that the threads share.
        let images = (per_block / per_image).min(g.n / 8).max(1);
        let fits = (per_block / tiles[1]).max(1);
        let rows = tiles[0].div_ceil(tiles[0].div_ceil(fits).max(8usize.div_ceil(g.n)));
        Blocks { tiles, images, rows: if images > 1 { tiles[0] } else { rows }, n: g.n }
    }
    fn strips(&self) -> usize {
        self.tiles[0].div_ceil(self.rows)
    }
    fn len(&self) -> usize {
        self.n.div_ceil(self.images) * self.strips()
    }
    /// First image, first row of tiles and the grid of a block.
    fn block(&self, i: usize) -> (usize, usize, Grid) {
        let (image, row) = (i / self.strips() * self.images, i % self.strips() * self.rows);
        let grid = Grid {
            images: self.images.min(self.n - image),
            rows: self.rows.min(self.tiles[0] - row),
            cols: self.tiles[1],
        };
        (image, row, grid)
    }
    fn most_tiles(&self) -> usize {
        self.images * self.rows * self.tiles[1]
    }
}

/// See [`super::conv::conv_forward`].
pub fn forward(isa: Isa, g: &ConvGeometry, x: &[f32], w: &[f32], bias: Option<&[f32]>, y: &mut [f32]) {
    let ld = padded(isa, g.m);
    with_scratch(g.c * 9 * ld, |turned| {
        if ld > g.m {
            turned.fill(0.0);
        }
        isa.run(Transpose2d {
            src: w.as_ptr(),
            src_ld: g.c * 9,
            rows: g.m,
            cols: g.c * 9,
            dst: turned.as_mut_ptr(),
            dst_ld: ld,
        });
        convolve(isa, g, x, turned, false, bias, y);
    });
}

/// See [`super::conv::conv_backward_input`].
pub fn backward_input(isa: Isa, g: &ConvGeometry, w: &[f32], dy: &[f32], dx: &mut [f32]) {
    let ld = padded(isa, g.c);
    with_scratch(g.m * 9 * ld, |turned| {
        if ld > g.c {
            turned.fill(0.0);
        }
        for m in 0..g.m {
            isa.run(Transpose2d {
                src: w[m * g.c * 9..].as_ptr(),
                src_ld: 9,
                rows: g.c,
                cols: 9,
                dst: turned[m * 9 * ld..].as_mut_ptr(),
                dst_ld: ld,
            });
        }
        convolve(isa, &transposed(g), dy, turned, true, None, dx);
    });
}

/// Channels rounded up to whole panels.
fn padded(isa: Isa, channels: usize) -> usize {
    channels.next_multiple_of(panel_width(isa, channels))
}

/// Convolution with filters `c x 9 x padded m`.
fn convolve(
    isa: Isa,
    g: &ConvGeometry,
    x: &[f32],
    filters: &[f32],
    flip: bool,
    bias: Option<&[f32]>,
    y: &mut [f32],
) {
    let cp = g.c.next_multiple_of(isa.lanes());
    let shape = FilterShape { inputs: g.c, outputs: padded(isa, g.m), width: panel_width(isa, g.m) };
    let mp = shape.outputs;
    let blocks = Blocks::new(g, cp + mp);
    let (oh, ow) = (g.out_h(), g.out_w());
    let width = blocks.tiles[1] * OUT + 2;
    let images_len = |grid: &Grid| grid.images * (grid.rows * OUT + 2) * width * cp;
    with_scratch(shape.floats() + mp, |buf| {
        let (matrices, bias_row) = buf.split_at_mut(shape.floats());
        isa.run(SpreadFilters { shape, src: filters, flip, dst: matrices });
        if let Some(b) = bias {
            bias_row.fill(0.0);
            bias_row[..g.m].copy_from_slice(b);
        }
        let (matrices, bias_row) = (&*matrices, &*bias_row);
        let out = Shared::new(y);
        for_each(blocks.len(), |i| {
            let (image, tile_row, grid) = blocks.block(i);
            let rows = (grid.rows * OUT).min(oh - tile_row * OUT);
            let spread_len = PRODUCTS * product_stride(grid.tiles(), cp);
            let product_len = PRODUCTS * product_stride(grid.tiles(), mp);
            let pixels = rows * ow;
            // The channels-last copies before and after never live together.
            let nhwc_len = images_len(&grid).max(grid.images * pixels * mp);
            let nhwc_len = nhwc_len.next_multiple_of(16);
            with_scratch(nhwc_len + spread_len + product_len, |buf| {
                let (nhwc, rest) = buf.split_at_mut(nhwc_len);
                let (spread, products) = rest.split_at_mut(spread_len);
                let in_rows = grid.rows * OUT + 2;
                for k in 0..grid.images {
                    isa.run(PackNhwc {
                        src: &x[(image + k) * g.c * g.h * g.w..][..g.c * g.h * g.w],
                        chw: [g.c, g.h, g.w],
                        row0: (tile_row * OUT) as isize - g.pad[0] as isize,
                        rows: in_rows,
                        left: g.pad[1],
                        width,
                        ld: cp,
                        dst: &mut nhwc[k * in_rows * width * cp..][..in_rows * width * cp],
                    });
                }
                isa.run(Spread::<6> { grid, channels: cp, src: nhwc, size: [in_rows, width], dst: spread });
                isa.run(Products {
                    tiles: grid.tiles(),
                    channels: cp,
                    spread,
                    shape,
                    filters: matrices,
                    dst: products,
                });
                isa.run(Gather {
                    grid,
                    channels: mp,
                    src: products,
                    dst: nhwc,
                    size: [rows, ow],
                    bias: bias.map(|_| bias_row),
                });
                for k in 0..grid.images {
                    let at = ((image + k) * g.m * oh + tile_row * OUT) * ow;
                    isa.run(UnpackNhwc(Transpose2d {
                        src: nhwc[k * pixels * mp..].as_ptr(),
                        src_ld: mp,
                        rows: pixels,
                        cols: g.m,
                        // SAFETY: these rows of the image's planes are this task's.
                        dst: unsafe { out.ptr().add(at) },
                        dst_ld: oh * ow,
                    }));
                }
            });
        });
    });
}

/// The 36 products `tiles x channels` times `channels x outputs`.
struct Products<'a> {
    tiles: usize,
    channels: usize,
    spread: &'a [f32],
    shape: FilterShape,
    filters: &'a [f32],
    dst: &'a mut [f32],
}

impl SimdOp for Products<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let FilterShape { inputs, outputs, width } = self.shape;
        let (a_len, c_len) = (product_stride(self.tiles, self.channels), product_stride(self.tiles, outputs));
        assert!(inputs <= self.channels && self.spread.len() >= PRODUCTS * a_len);
        assert!(self.dst.len() >= PRODUCTS * c_len && self.filters.len() >= self.shape.floats());
        for p in 0..PRODUCTS {
            for panel in 0..outputs / width {
                let b = p * inputs * outputs + panel * inputs * width;
                s.vectorize(Tiles {
                    a: self.spread[p * a_len..].as_ptr(),
                    a_row: self.channels,
                    a_inner: 1,
                    runs: &[0],
                    run_len: inputs,
                    b: self.filters[b..].as_ptr(),
                    b_inner: width,
                    next: std::ptr::null(),
                    c: self.dst[p * c_len + panel * width..].as_mut_ptr(),
                    c_row: outputs,
                    rows: self.tiles,
                    outer: 1,
                    a_outer: 0,
                    c_outer: 0,
                    lanes: width,
                    init: Init::Zero,
                    finish: None,
                });
            }
        }
    }
}

/// See [`super::conv::conv_backward_weights`].
pub fn backward_weights(isa: Isa, g: &ConvGeometry, x: &[f32], dy: &[f32], dw: &mut [f32]) {
    let cp = g.c.next_multiple_of(isa.lanes());
    let panel = panel_width(isa, g.m);
    let mp = padded(isa, g.m);
    let blocks = Blocks::new(g, cp + mp);
    let (oh, ow) = (g.out_h(), g.out_w());
    let cols = blocks.tiles[1] * OUT;
    let sum_len = PRODUCTS * g.c * mp;
    let chunks = chunks(blocks.len(), sum_len);
    with_scratch(chunks * sum_len, |sums| {
        let shared = Shared::new(sums);
        for_each(chunks, |chunk| {
            // SAFETY: each task has its own part of the sums.
            let sum = unsafe { std::slice::from_raw_parts_mut(shared.ptr().add(chunk * sum_len), sum_len) };
            sum.fill(0.0);
            let most = blocks.most_tiles();
            let x_len = PRODUCTS * product_stride(most, cp);
            let dy_len = PRODUCTS * product_stride(most, mp);
            let pixels = blocks.images * (blocks.rows * OUT + 2) * (cols + 2);
            with_scratch(x_len + dy_len + pixels * cp.max(mp), |buf| {
                let (xs, rest) = buf.split_at_mut(x_len);
                let (dys, nhwc) = rest.split_at_mut(dy_len);
                let (start, end) = part(blocks.len(), chunks, chunk);
                for i in start..end {
                    let (image, tile_row, grid) = blocks.block(i);
                    let [rows, width] = [grid.rows * OUT + 2, cols + 2];
                    for k in 0..grid.images {
                        isa.run(PackNhwc {
                            src: &x[(image + k) * g.c * g.h * g.w..][..g.c * g.h * g.w],
                            chw: [g.c, g.h, g.w],
                            row0: (tile_row * OUT) as isize - g.pad[0] as isize,
                            rows,
                            left: g.pad[1],
                            width,
                            ld: cp,
                            dst: &mut nhwc[k * rows * width * cp..][..rows * width * cp],
                        });
                    }
                    isa.run(Spread::<6> { grid, channels: cp, src: nhwc, size: [rows, width], dst: xs });
                    let rows = grid.rows * OUT;
                    for k in 0..grid.images {
                        isa.run(PackNhwc {
                            src: &dy[(image + k) * g.m * oh * ow..][..g.m * oh * ow],
                            chw: [g.m, oh, ow],
                            row0: (tile_row * OUT) as isize,
                            rows,
                            left: 0,
                            width: cols,
                            ld: mp,
                            dst: &mut nhwc[k * rows * cols * mp..][..rows * cols * mp],
                        });
                    }
                    isa.run(Spread::<4> { grid, channels: mp, src: nhwc, size: [rows, cols], dst: dys });
                    isa.run(FilterProducts {
                        tiles: grid.tiles(),
                        channels: [g.c, cp, mp],
                        panel,
                        x: xs,
                        dy: dys,
                        sum,
                    });
                }
            });
        });
        for chunk in 1..chunks {
            let (total, rest) = sums.split_at_mut(sum_len);
            let partial = &rest[(chunk - 1) * sum_len..][..sum_len];
            for (t, p) in total.iter_mut().zip(partial) {
                *t += p;
            }
        }
        with_scratch(g.c * 9 * mp, |turned| {
            isa.run(GatherFilters { inputs: g.c, outputs: mp, src: sums, dst: turned });
            isa.run(Transpose2d {
                src: turned.as_ptr(),
                src_ld: mp,
                rows: g.c * 9,
                cols: g.m,
                dst: dw.as_mut_ptr(),
                dst_ld: g.c * 9,
            });
        });
    });
}

/// Adds the 36 products of the transposed inputs with the output gradients.
struct FilterProducts<'a> {
    tiles: usize,
    channels: [usize; 3],
    panel: usize,
    x: &'a [f32],
    dy: &'a [f32],
    sum: &'a mut [f32],
}

impl SimdOp for FilterProducts<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let [c, cp, mp] = self.channels;
        let (a_len, b_len) = (product_stride(self.tiles, cp), product_stride(self.tiles, mp));
        assert!(c <= cp && self.x.len() >= PRODUCTS * a_len && self.dy.len() >= PRODUCTS * b_len);
        assert!(self.sum.len() >= PRODUCTS * c * mp);
        for p in 0..PRODUCTS {
            for lane in (0..mp).step_by(self.panel) {
                s.vectorize(Tiles {
                    a: self.x[p * a_len..].as_ptr(),
                    a_row: 1,
                    a_inner: cp,
                    runs: &[0],
                    run_len: self.tiles,
                    b: self.dy[p * b_len + lane..].as_ptr(),
                    b_inner: mp,
                    next: std::ptr::null(),
                    c: self.sum[p * c * mp + lane..].as_mut_ptr(),
                    c_row: mp,
                    rows: c,
                    outer: 1,
                    a_outer: 0,
                    c_outer: 0,
                    lanes: self.panel,
                    init: Init::Accumulate,
                    finish: None,
                });
            }
        }
    }
}
