//! The steps of Winograd's algorithm on tiles of `IN x IN` inputs and `OUT x OUT` outputs, `IN = OUT + 2`; lanes are channels.

use crate::kernels::tiles::{Finish, Init, Tiles};
use crate::kernels::winograd::{filter6, input6, output4, product_stride};
use crate::kernels::winograd_small::{filter4, input4, output2};
use crate::simd::{Simd, SimdOp};

/// `Bt d` along one axis.
#[inline(always)]
fn input<S: Simd, const IN: usize>(s: S, d: [S::V; IN]) -> [S::V; IN] {
    let mut v = d;
    match IN {
        6 => v.copy_from_slice(&input6(s, std::array::from_fn(|i| d[i]))),
        4 => v.copy_from_slice(&input4(s, std::array::from_fn(|i| d[i]))),
        _ => unreachable!("tiles of 4 or 6 inputs"),
    }
    v
}

/// `At m` along one axis.
#[inline(always)]
fn output<S: Simd, const IN: usize, const OUT: usize>(s: S, m: [S::V; IN]) -> [S::V; OUT] {
    let mut y = [m[0]; OUT];
    match IN {
        6 => y.copy_from_slice(&output4(s, std::array::from_fn(|i| m[i]))),
        4 => y.copy_from_slice(&output2(s, std::array::from_fn(|i| m[i]))),
        _ => unreachable!("tiles of 4 or 6 inputs"),
    }
    y
}

/// `G g` along one axis.
#[inline(always)]
fn filter<S: Simd, const IN: usize>(s: S, g: [S::V; 3]) -> [S::V; IN] {
    let mut u = [g[0]; IN];
    match IN {
        6 => u.copy_from_slice(&filter6(s, g)),
        4 => u.copy_from_slice(&filter4(s, g)),
        _ => unreachable!("tiles of 4 or 6 inputs"),
    }
    u
}

/// `U = G g Gt` of the filters of a panel: `c x 9 x width` to `IN * IN x c x width`.
pub(super) struct Filters<'a, const OUT: usize, const IN: usize> {
    pub src: &'a [f32],
    pub c: usize,
    pub width: usize,
    pub dst: &'a mut [f32],
}

impl<const OUT: usize, const IN: usize> SimdOp for Filters<'_, OUT, IN> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (c, width) = (self.c, self.width);
        assert!(self.src.len() >= c * 9 * width && self.dst.len() >= IN * IN * c * width);
        assert!(width.is_multiple_of(S::LANES));
        for i in 0..c {
            let mut v = 0;
            while v < width {
                let mut g = [[s.splat(0.0); 3]; 3];
                for (k, g) in g.as_flattened_mut().iter_mut().enumerate() {
                    // SAFETY: inside `c x 9 x width` by the asserts.
                    *g = unsafe { s.load(self.src.as_ptr().add((i * 9 + k) * width + v)) };
                }
                let mut mid = [[s.splat(0.0); 3]; IN];
                for x in 0..3 {
                    let column = filter::<S, IN>(s, [g[0][x], g[1][x], g[2][x]]);
                    for (mid, d) in mid.iter_mut().zip(column) {
                        mid[x] = d;
                    }
                }
                for (r, mid) in mid.into_iter().enumerate() {
                    for (k, u) in filter::<S, IN>(s, mid).into_iter().enumerate() {
                        // SAFETY: inside the matrices by the asserts.
                        unsafe { s.store(self.dst.as_mut_ptr().add(((r * IN + k) * c + i) * width + v), u) };
                    }
                }
                v += S::LANES;
            }
        }
    }
}

/// `V = Bt d B` of the tiles of a part; what lies outside the image is zero.
pub(super) struct Spread<'a, const OUT: usize, const IN: usize> {
    pub src: *const f32,
    pub pitch: usize,
    /// Height and width of the image.
    pub size: [usize; 2],
    /// Row and column of the image at which the first tile starts.
    pub origin: [isize; 2],
    pub tiles: [usize; 2],
    pub channels: usize,
    pub dst: &'a mut [f32],
}

impl<const OUT: usize, const IN: usize> SimdOp for Spread<'_, OUT, IN> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let [rows, cols] = self.tiles;
        let cp = self.channels.next_multiple_of(S::LANES);
        let stride = product_stride(rows * cols, cp);
        assert!(self.dst.len() >= IN * IN * stride);
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
                        for (mid, d) in mid.iter_mut().zip(input::<S, IN>(s, column)) {
                            mid[k] = d;
                        }
                    }
                    for (r, mid) in mid.into_iter().enumerate() {
                        for (k, d) in input::<S, IN>(s, mid).into_iter().enumerate() {
                            // SAFETY: inside the matrices by the assert.
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

/// One of the products of a panel.
pub(super) struct Product<'a> {
    pub tiles: usize,
    pub c: usize,
    pub cp: usize,
    pub product: usize,
    /// All matrices of the inputs.
    pub spread: &'a [f32],
    /// `c x width`.
    pub weights: &'a [f32],
    /// The weights of the next one.
    pub next: *const f32,
    pub width: usize,
    pub lanes: usize,
    /// All products of the panel.
    pub products: &'a mut [f32],
}

impl SimdOp for Product<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (from, to) = (product_stride(self.tiles, self.cp), product_stride(self.tiles, self.width));
        assert!(
            self.spread.len() >= (self.product + 1) * from - 16 && self.weights.len() >= self.c * self.width
        );
        assert!(self.products.len() >= (self.product + 1) * to - 16 && self.lanes <= self.width);
        s.vectorize(Tiles {
            a: self.spread[self.product * from..].as_ptr(),
            a_row: self.cp,
            a_inner: 1,
            runs: &[0],
            run_len: self.c,
            b: self.weights.as_ptr(),
            b_inner: self.width,
            next: self.next,
            c: self.products[self.product * to..].as_mut_ptr(),
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

/// `At m A` of the products of a panel, finished and cropped to the pixels there are.
pub(super) struct Gather<'a, const OUT: usize, const IN: usize> {
    pub src: &'a [f32],
    pub tiles: [usize; 2],
    /// Rows and columns of pixels.
    pub size: [usize; 2],
    pub width: usize,
    pub lanes: usize,
    pub bias: &'a [f32],
    pub finish: Finish,
    pub dst: *mut f32,
    pub pitch: usize,
}

impl<const OUT: usize, const IN: usize> SimdOp for Gather<'_, OUT, IN> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let ([rows, cols], [h, w]) = (self.tiles, self.size);
        let stride = product_stride(rows * cols, self.width);
        assert!(self.src.len() >= IN * IN * stride - 16 && self.bias.len() >= self.width);
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
                    // SAFETY: reads stay in the matrices by the assert; pixels and channels exist.
                    unsafe {
                        let src = self.src.as_ptr().add((ty * cols + tx) * self.width + v);
                        let bias = s.load(self.bias.as_ptr().add(v));
                        for k in 0..IN {
                            let mut column = [zero; IN];
                            for (r, d) in column.iter_mut().enumerate() {
                                *d = s.load(src.add((r * IN + k) * stride));
                            }
                            for (mid, d) in mid.iter_mut().zip(output::<S, IN, OUT>(s, column)) {
                                mid[k] = d;
                            }
                        }
                        for (r, mid) in mid.into_iter().enumerate().take(ny) {
                            for (k, d) in output::<S, IN, OUT>(s, mid).into_iter().enumerate().take(nx) {
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
