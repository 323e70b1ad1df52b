//! Winograd's transforms for F(4x4, 3x3): 36 multiplications per channel pair
//! instead of 144 for a tile of 4x4 outputs.
//!
//! The interpolation points are 0, +-1/sqrt(2), +-sqrt(2) and infinity: the
//! errors are smaller than with 0, +-1, +-2 because no power of a point is far
//! from 1. Lanes are channels, so all transforms are plain vector arithmetic.
//!
//! The three passes share the transforms: with `y = At[(G g Gt) . (Bt d B)]A`,
//! the gradient to the filter is `Gt[(A dy At) . (Bt d B)]G`.

use crate::simd::{Simd, SimdOp};

/// Outputs of a tile along an axis.
pub const OUT: usize = 4;
/// Inputs of a tile along an axis.
pub const IN: usize = 6;
/// Products of a tile.
pub const PRODUCTS: usize = IN * IN;

/// The points `a = 1/sqrt(2)` and `b = sqrt(2)`; `a * b = 1`.
const A: f32 = std::f32::consts::FRAC_1_SQRT_2;
const B: f32 = std::f32::consts::SQRT_2;
const A2: f32 = 0.5;
const B2: f32 = 2.0;
/// Filter scales of the points: product of the differences to the other points.
const NA: f32 = 1.0 / (2.0 * A2 * (A2 - B2));
const NB: f32 = 1.0 / (2.0 * B2 * (B2 - A2));

/// `Bt d`: input transform along one axis.
#[inline(always)]
pub fn input6<S: Simd>(s: S, d: [S::V; 6]) -> [S::V; 6] {
    let (ma2, mb2, mid) = (s.splat(-A2), s.splat(-B2), s.splat(-A2 - B2));
    let even_a = s.fma(mb2, d[2], d[4]);
    let odd_a = s.fma(mb2, d[1], d[3]);
    let even_b = s.fma(ma2, d[2], d[4]);
    let odd_b = s.fma(ma2, d[1], d[3]);
    [
        s.fma(mid, d[2], s.add(d[0], d[4])),
        s.fma(s.splat(A), odd_a, even_a),
        s.fma(s.splat(-A), odd_a, even_a),
        s.fma(s.splat(B), odd_b, even_b),
        s.fma(s.splat(-B), odd_b, even_b),
        s.fma(mid, d[3], s.add(d[1], d[5])),
    ]
}

/// `At m`: output transform along one axis.
#[inline(always)]
pub fn output4<S: Simd>(s: S, m: [S::V; 6]) -> [S::V; 4] {
    let (sum_a, dif_a) = (s.add(m[1], m[2]), s.sub(m[1], m[2]));
    let (sum_b, dif_b) = (s.add(m[3], m[4]), s.sub(m[3], m[4]));
    [
        s.add(s.add(m[0], sum_a), sum_b),
        s.fma(s.splat(A), dif_a, s.mul(s.splat(B), dif_b)),
        s.fma(s.splat(A2), sum_a, s.mul(s.splat(B2), sum_b)),
        s.fma(s.splat(A * A2), dif_a, s.fma(s.splat(B * B2), dif_b, m[5])),
    ]
}

/// `A y`: the transpose of the output transform.
#[inline(always)]
fn gradient6<S: Simd>(s: S, y: [S::V; 4]) -> [S::V; 6] {
    let even_a = s.fma(s.splat(A2), y[2], y[0]);
    let even_b = s.fma(s.splat(B2), y[2], y[0]);
    let odd_a = s.fma(s.splat(A2), y[3], y[1]);
    let odd_b = s.fma(s.splat(B2), y[3], y[1]);
    [
        y[0],
        s.fma(s.splat(A), odd_a, even_a),
        s.fma(s.splat(-A), odd_a, even_a),
        s.fma(s.splat(B), odd_b, even_b),
        s.fma(s.splat(-B), odd_b, even_b),
        y[3],
    ]
}

/// `G g`: filter transform along one axis.
#[inline(always)]
pub fn filter6<S: Simd>(s: S, g: [S::V; 3]) -> [S::V; 6] {
    let even_a = s.mul(s.splat(NA), s.fma(s.splat(A2), g[2], g[0]));
    let even_b = s.mul(s.splat(NB), s.fma(s.splat(B2), g[2], g[0]));
    [
        g[0],
        s.fma(s.splat(A * NA), g[1], even_a),
        s.fma(s.splat(-A * NA), g[1], even_a),
        s.fma(s.splat(B * NB), g[1], even_b),
        s.fma(s.splat(-B * NB), g[1], even_b),
        g[2],
    ]
}

/// `Gt u`: the transpose of the filter transform.
#[inline(always)]
fn filter_gradient3<S: Simd>(s: S, u: [S::V; 6]) -> [S::V; 3] {
    let (sum_a, dif_a) = (s.add(u[1], u[2]), s.sub(u[1], u[2]));
    let (sum_b, dif_b) = (s.add(u[3], u[4]), s.sub(u[3], u[4]));
    let (na, nb) = (s.splat(NA), s.splat(NB));
    [
        s.fma(na, sum_a, s.fma(nb, sum_b, u[0])),
        s.fma(s.splat(A * NA), dif_a, s.mul(s.splat(B * NB), dif_b)),
        s.fma(s.splat(A2 * NA), sum_a, s.fma(s.splat(B2 * NB), sum_b, u[5])),
    ]
}

/// A grid of tiles over several images that lie one after the other.
#[derive(Clone, Copy)]
pub struct Grid {
    /// Images.
    pub images: usize,
    /// Rows of tiles in an image.
    pub rows: usize,
    /// Tiles in a row.
    pub cols: usize,
}

impl Grid {
    /// Tiles of all images.
    pub fn tiles(&self) -> usize {
        self.images * self.rows * self.cols
    }
}

/// Distance between two of the 36 matrices of `tiles x channels`.
///
/// The extra line keeps them from competing for the same sets of the cache.
pub fn product_stride(tiles: usize, channels: usize) -> usize {
    tiles * channels + 16
}

/// Input tiles, channels-last images to 36 matrices `tiles x channels`.
///
/// `SIZE` 6 is the transform of `x` (tiles overlap by two), `SIZE` 4 the one
/// of `dy` (tiles side by side).
pub struct Spread<'a, const SIZE: usize> {
    /// The tiles.
    pub grid: Grid,
    /// Padded channels, a multiple of the lanes.
    pub channels: usize,
    /// `images x height x width x channels`.
    pub src: &'a [f32],
    /// Height and width of a source image.
    pub size: [usize; 2],
    /// 36 matrices, see [`product_stride`].
    pub dst: &'a mut [f32],
}

impl<const SIZE: usize> SimdOp for Spread<'_, SIZE> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Grid { images, rows, cols } = self.grid;
        let (c, [h, w]) = (self.channels, self.size);
        let stride = product_stride(self.grid.tiles(), c);
        assert!(c.is_multiple_of(S::LANES) && rows > 0 && cols > 0);
        assert!(h >= (rows - 1) * OUT + SIZE && w >= (cols - 1) * OUT + SIZE);
        assert!(self.src.len() >= images * h * w * c);
        assert!(self.dst.len() >= PRODUCTS * stride);
        let mut tile = 0;
        for i in 0..images {
            for y in 0..rows {
                for x in 0..cols {
                    let at = ((i * h + y * OUT) * w + x * OUT) * c;
                    let mut v = 0;
                    while v < c {
                        // SAFETY: the tile's pixels lie inside the image, and
                        // v + LANES <= c; both by the asserts.
                        unsafe {
                            let src = self.src.as_ptr().add(at + v);
                            let dst = self.dst.as_mut_ptr().add(tile * c + v);
                            let zero = s.splat(0.0);
                            let mut mid = [[zero; SIZE]; IN];
                            for k in 0..SIZE {
                                let mut column = [zero; SIZE];
                                for (r, d) in column.iter_mut().enumerate() {
                                    *d = s.load(src.add((r * w + k) * c));
                                }
                                let column = spread_axis(s, column);
                                for (mid, d) in mid.iter_mut().zip(column) {
                                    mid[k] = d;
                                }
                            }
                            for (r, mid) in mid.into_iter().enumerate() {
                                let row = spread_axis(s, mid);
                                for (k, d) in row.into_iter().enumerate() {
                                    s.store(dst.add((r * IN + k) * stride), d);
                                }
                            }
                        }
                        v += S::LANES;
                    }
                    tile += 1;
                }
            }
        }
    }
}

/// The transform that belongs to the size: inputs have 6, gradients 4 pixels.
#[inline(always)]
fn spread_axis<S: Simd, const SIZE: usize>(s: S, d: [S::V; SIZE]) -> [S::V; 6] {
    match SIZE {
        6 => input6(s, [d[0], d[1], d[2], d[3], d[SIZE - 2], d[SIZE - 1]]),
        4 => gradient6(s, [d[0], d[1], d[2], d[3]]),
        _ => unreachable!("tiles have 6 or 4 pixels"),
    }
}

/// 36 matrices of products to channels-last images, cropped to their size.
pub struct Gather<'a> {
    /// The tiles.
    pub grid: Grid,
    /// Padded channels, a multiple of the lanes.
    pub channels: usize,
    /// 36 matrices, see [`product_stride`].
    pub src: &'a [f32],
    /// `images x height x width x channels`.
    pub dst: &'a mut [f32],
    /// Height and width of a destination image.
    pub size: [usize; 2],
    /// Added to every pixel, `channels` floats.
    pub bias: Option<&'a [f32]>,
}

impl SimdOp for Gather<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Grid { images, rows, cols } = self.grid;
        let (c, [h, w]) = (self.channels, self.size);
        let stride = product_stride(self.grid.tiles(), c);
        assert!(c.is_multiple_of(S::LANES));
        assert!(self.dst.len() >= images * h * w * c);
        assert!(self.src.len() >= PRODUCTS * stride);
        assert!(self.bias.is_none_or(|b| b.len() >= c));
        let mut tile = 0;
        for i in 0..images {
            for y in 0..rows {
                for x in 0..cols {
                    let (ny, nx) = (OUT.min(h - y * OUT), OUT.min(w - x * OUT));
                    let at = ((i * h + y * OUT) * w + x * OUT) * c;
                    let mut v = 0;
                    while v < c {
                        let zero = s.splat(0.0);
                        let mut mid = [[zero; IN]; OUT];
                        // SAFETY: reads stay in the 36 matrices, writes in the
                        // ny x nx pixels that exist; both by the asserts.
                        unsafe {
                            let src = self.src.as_ptr().add(tile * c + v);
                            let dst = self.dst.as_mut_ptr().add(at + v);
                            let bias = match self.bias {
                                Some(b) => s.load(b.as_ptr().add(v)),
                                None => zero,
                            };
                            for k in 0..IN {
                                let mut column = [zero; IN];
                                for (r, d) in column.iter_mut().enumerate() {
                                    *d = s.load(src.add((r * IN + k) * stride));
                                }
                                let column = output4(s, column);
                                for (mid, d) in mid.iter_mut().zip(column) {
                                    mid[k] = d;
                                }
                            }
                            for (r, mid) in mid.into_iter().enumerate() {
                                if r < ny {
                                    let row = output4(s, mid);
                                    for (k, d) in row.into_iter().enumerate() {
                                        if k < nx {
                                            s.store(dst.add((r * w + k) * c), s.add(d, bias));
                                        }
                                    }
                                }
                            }
                        }
                        v += S::LANES;
                    }
                    tile += 1;
                }
            }
        }
    }
}

/// Where the 36 values of a filter lie: `[product][panel][input][width]`.
#[derive(Clone, Copy)]
pub struct FilterShape {
    /// Channels summed over.
    pub inputs: usize,
    /// Channels in lanes, padded to whole panels.
    pub outputs: usize,
    /// Width of a panel.
    pub width: usize,
}

impl FilterShape {
    /// Floats of the 36 matrices.
    pub fn floats(&self) -> usize {
        PRODUCTS * self.inputs * self.outputs
    }
}

/// Filters `inputs x 9 x outputs` to 36 matrices.
pub struct SpreadFilters<'a> {
    /// Shape.
    pub shape: FilterShape,
    /// `inputs x 9 x outputs`.
    pub src: &'a [f32],
    /// Whether to turn the filters by 180 degrees.
    pub flip: bool,
    /// See [`FilterShape`].
    pub dst: &'a mut [f32],
}

impl SimdOp for SpreadFilters<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let FilterShape { inputs, outputs, width } = self.shape;
        assert!(outputs.is_multiple_of(width) && width.is_multiple_of(S::LANES));
        assert!(self.src.len() >= inputs * 9 * outputs);
        assert!(self.dst.len() >= self.shape.floats());
        for i in 0..inputs {
            let mut v = 0;
            while v < outputs {
                let mut g = [[s.splat(0.0); 3]; 3];
                for (k, g) in g.as_flattened_mut().iter_mut().enumerate() {
                    let k = if self.flip { 8 - k } else { k };
                    // SAFETY: inside `inputs x 9 x outputs`.
                    *g = unsafe { s.load(self.src.as_ptr().add((i * 9 + k) * outputs + v)) };
                }
                let u = both_axes_filter(s, g);
                let at = ((v / width) * inputs + i) * width + v % width;
                for (p, u) in u.as_flattened().iter().enumerate() {
                    // SAFETY: inside the 36 matrices.
                    unsafe {
                        let dst = self.dst.as_mut_ptr().add(p * inputs * outputs + at);
                        s.store(dst, *u);
                    }
                }
                v += S::LANES;
            }
        }
    }
}

#[inline(always)]
fn both_axes_filter<S: Simd>(s: S, g: [[S::V; 3]; 3]) -> [[S::V; 6]; 6] {
    let zero = s.splat(0.0);
    let mut mid = [[zero; 3]; 6];
    for x in 0..3 {
        let column = filter6(s, [g[0][x], g[1][x], g[2][x]]);
        for (mid, d) in mid.iter_mut().zip(column) {
            mid[x] = d;
        }
    }
    let mut out = [[zero; 6]; 6];
    for (out, mid) in out.iter_mut().zip(mid) {
        *out = filter6(s, mid);
    }
    out
}

/// 36 matrices `inputs x outputs` of filter gradients to `inputs x 9 x outputs`.
pub struct GatherFilters<'a> {
    /// Channels of the input.
    pub inputs: usize,
    /// Padded channels of the output.
    pub outputs: usize,
    /// 36 matrices.
    pub src: &'a [f32],
    /// `inputs x 9 x outputs`.
    pub dst: &'a mut [f32],
}

impl SimdOp for GatherFilters<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (inputs, outputs) = (self.inputs, self.outputs);
        assert!(outputs.is_multiple_of(S::LANES));
        assert!(self.src.len() >= PRODUCTS * inputs * outputs);
        assert!(self.dst.len() >= inputs * 9 * outputs);
        for i in 0..inputs {
            let mut v = 0;
            while v < outputs {
                let zero = s.splat(0.0);
                let mut mid = [[zero; 6]; 3];
                for k in 0..6 {
                    let mut column = [zero; 6];
                    for (r, d) in column.iter_mut().enumerate() {
                        let at = ((r * 6 + k) * inputs + i) * outputs + v;
                        // SAFETY: inside the 36 matrices.
                        *d = unsafe { s.load(self.src.as_ptr().add(at)) };
                    }
                    let column = filter_gradient3(s, column);
                    for (mid, d) in mid.iter_mut().zip(column) {
                        mid[k] = d;
                    }
                }
                for (r, mid) in mid.into_iter().enumerate() {
                    for (k, d) in filter_gradient3(s, mid).into_iter().enumerate() {
                        let at = (i * 9 + r * 3 + k) * outputs + v;
                        // SAFETY: inside `inputs x 9 x outputs`.
                        unsafe { s.store(self.dst.as_mut_ptr().add(at), d) };
                    }
                }
                v += S::LANES;
            }
        }
    }
}
