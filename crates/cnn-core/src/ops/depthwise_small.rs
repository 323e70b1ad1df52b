//! Depthwise convolution of small planes, channels in the lanes.
//!
//! A row of a small plane is no vector, so the planes of a block of channels
//! are transposed, and all three passes become loops over pixels.

use super::conv::ConvGeometry;
use super::tasks::for_each;
use crate::kernels::channels::{Window, forward as pixels_forward, scatter, weights};
use crate::kernels::layout::{PackNhwc, Transpose2d, UnpackNhwc};
use crate::kernels::scratch::{Shared, with_scratch};
use crate::simd::{Isa, Simd, SimdOp};

/// Largest plane, in pixels, for which transposing pays.
const PIXELS: usize = 16 * 16;

/// Whether this way is the better one.
pub fn pays(isa: Isa, g: &ConvGeometry) -> bool {
    g.m == g.c && g.c >= 2 * isa.lanes() && g.h * g.w <= PIXELS && g.out_h() * g.out_w() <= PIXELS
}

/// A padded channels-last image of a block of channels.
struct Layout {
    lanes: usize,
    /// Rows and columns of the padded image.
    padded: [usize; 2],
    out: [usize; 2],
    step: [usize; 2],
    taps: Vec<usize>,
}

impl Layout {
    fn new(isa: Isa, g: &ConvGeometry) -> Self {
        let lanes = isa.lanes();
        let out = [g.out_h(), g.out_w()];
        let size = [g.h, g.w];
        // The whole image, and what the last taps reach.
        let padded = [0, 1].map(|i| {
            let reach = (out[i] - 1) * g.stride[i] + (g.kernel[i] - 1) * g.dilation[i] + 1;
            reach.max(size[i] + g.pad[i])
        });
        let row = padded[1] * lanes;
        let rows = 0..g.kernel[0];
        let taps = rows.flat_map(|kh| {
            let cols = 0..g.kernel[1];
            cols.map(move |kw| kh * g.dilation[0] * row + kw * g.dilation[1] * lanes)
        });
        Layout { lanes, padded, out, step: [g.stride[0] * row, g.stride[1] * lanes], taps: taps.collect() }
    }
    fn window(&self) -> Window<'_> {
        Window { out: self.out, step: self.step, taps: &self.taps }
    }
    fn floats(&self) -> usize {
        self.padded[0] * self.padded[1] * self.lanes
    }
    fn out_floats(&self) -> usize {
        self.out[0] * self.out[1] * self.lanes
    }
    /// Copies `channels` planes of `size` pixels to padded channels-last.
    fn pack(
        &self,
        isa: Isa,
        src: &[f32],
        chw: [usize; 3],
        pad: [usize; 2],
        padded: [usize; 2],
        dst: &mut [f32],
    ) {
        isa.run(PackNhwc {
            src,
            chw,
            row0: -(pad[0] as isize),
            rows: padded[0],
            left: pad[1],
            width: padded[1],
            ld: self.lanes,
            dst,
        });
    }
}

/// `taps` vectors of the filters of the channels from `first` on.
fn filters(isa: Isa, w: &[f32], taps: usize, first: usize, channels: usize, dst: &mut [f32]) {
    dst.fill(0.0);
    isa.run(Transpose2d {
        src: w[first * taps..(first + channels) * taps].as_ptr(),
        src_ld: taps,
        rows: channels,
        cols: taps,
        dst: dst.as_mut_ptr(),
        dst_ld: isa.lanes(),
    });
}

/// See [`super::conv::conv_forward`].
pub fn forward(isa: Isa, g: &ConvGeometry, x: &[f32], w: &[f32], bias: Option<&[f32]>, y: &mut [f32]) {
    let p = Layout::new(isa, g);
    let (l, taps) = (p.lanes, g.taps());
    let (in_plane, out_plane) = (g.h * g.w, p.out[0] * p.out[1]);
    let blocks = g.c.div_ceil(l);
    let parts = 8usize.div_ceil(blocks).min(g.n);
    let images = g.n.div_ceil(parts);
    let out = Shared::new(y);
    for_each(blocks * parts, |task| {
        let (first, part) = (task / parts * l, task % parts);
        let channels = l.min(g.c - first);
        with_scratch((taps + 1) * l + p.floats() + p.out_floats(), |buf| {
            let (wv, rest) = buf.split_at_mut(taps * l);
            let (bv, rest) = rest.split_at_mut(l);
            let (xp, yp) = rest.split_at_mut(p.floats());
            filters(isa, w, taps, first, channels, wv);
            bv.fill(0.0);
            if let Some(b) = bias {
                bv[..channels].copy_from_slice(&b[first..first + channels]);
            }
            for n in part * images..g.n.min((part + 1) * images) {
                let plane = n * g.c + first;
                let src = &x[plane * in_plane..][..channels * in_plane];
                let pad = [g.pad[0], g.pad[1]];
                p.pack(isa, src, [channels, g.h, g.w], pad, p.padded, xp);
                isa.run(Pixels { window: p.window(), x: xp, w: wv, bias: bv, y: yp });
                isa.run(UnpackNhwc(Transpose2d {
                    src: yp.as_ptr(),
                    src_ld: l,
                    rows: out_plane,
                    cols: channels,
                    // SAFETY: planes that only this task writes.
                    dst: unsafe { out.ptr().add(plane * out_plane) },
                    dst_ld: out_plane,
                }));
            }
        });
    });
}

struct Pixels<'a> {
    window: Window<'a>,
    x: &'a [f32],
    w: &'a [f32],
    bias: &'a [f32],
    y: &'a mut [f32],
}

impl SimdOp for Pixels<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        pixels_forward(s, self.window, self.x, self.w, self.bias, self.y);
    }
}

/// See [`super::conv::conv_backward_input`].
pub fn backward_input(isa: Isa, g: &ConvGeometry, w: &[f32], dy: &[f32], dx: &mut [f32]) {
    if let Some(turned) = turned(g) {
        // A convolution of dy with the filters turned by 180 degrees.
        with_scratch(w.len(), |filters| {
            for (to, from) in filters.chunks_exact_mut(g.taps()).zip(w.chunks_exact(g.taps())) {
                to.copy_from_slice(from);
                to.reverse();
            }
            forward(isa, &turned, dy, filters, None, dx);
        });
        return;
    }
    let p = Layout::new(isa, g);
    let (l, taps) = (p.lanes, g.taps());
    let (in_plane, out_plane) = (g.h * g.w, p.out[0] * p.out[1]);
    let blocks = g.c.div_ceil(l);
    let parts = 8usize.div_ceil(blocks).min(g.n);
    let images = g.n.div_ceil(parts);
    let out = Shared::new(dx);
    for_each(blocks * parts, |task| {
        let (first, part) = (task / parts * l, task % parts);
        let channels = l.min(g.c - first);
        with_scratch(taps * l + p.floats() + p.out_floats(), |buf| {
            let (wv, rest) = buf.split_at_mut(taps * l);
            let (xp, yp) = rest.split_at_mut(p.floats());
            filters(isa, w, taps, first, channels, wv);
            for n in part * images..g.n.min((part + 1) * images) {
                let plane = n * g.c + first;
                let src = &dy[plane * out_plane..][..channels * out_plane];
                p.pack(isa, src, [channels, p.out[0], p.out[1]], [0; 2], p.out, yp);
                isa.run(ScatterPixels { window: p.window(), y: yp, w: wv, x: xp });
                // The padding goes: the image's rows move together.
                for r in 0..g.h {
                    let from = ((r + g.pad[0]) * p.padded[1] + g.pad[1]) * l;
                    xp.copy_within(from..from + g.w * l, r * g.w * l);
                }
                isa.run(UnpackNhwc(Transpose2d {
                    src: xp.as_ptr(),
                    src_ld: l,
                    rows: in_plane,
                    cols: channels,
                    // SAFETY: planes that only this task writes.
                    dst: unsafe { out.ptr().add(plane * in_plane) },
                    dst_ld: in_plane,
                }));
            }
        });
    });
}

/// For stride 1, the convolution that turns `dy` into `dx`.
fn turned(g: &ConvGeometry) -> Option<ConvGeometry> {
    if g.stride != [1, 1] {
        return None;
    }
    let mut pad = [0; 4];
    for (i, p) in pad.iter_mut().enumerate() {
        *p = ((g.kernel[i % 2] - 1) * g.dilation[i % 2]).checked_sub(g.pad[i])?;
    }
    Some(ConvGeometry { h: g.out_h(), w: g.out_w(), pad, ..*g })
}

struct ScatterPixels<'a> {
    window: Window<'a>,
    y: &'a [f32],
    w: &'a [f32],
    x: &'a mut [f32],
}

impl SimdOp for ScatterPixels<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        self.x.fill(0.0);
        scatter(s, self.window, self.y, self.w, self.x);
    }
}

/// See [`super::conv::conv_backward_weights`].
pub fn backward_weights(isa: Isa, g: &ConvGeometry, x: &[f32], dy: &[f32], dw: &mut [f32]) {
    let p = Layout::new(isa, g);
    let (l, taps) = (p.lanes, g.taps());
    let (in_plane, out_plane) = (g.h * g.w, p.out[0] * p.out[1]);
    let out = Shared::new(dw);
    for_each(g.c.div_ceil(l), |task| {
        let first = task * l;
        let channels = l.min(g.c - first);
        with_scratch(taps * l + p.floats() + p.out_floats(), |buf| {
            let (sums, rest) = buf.split_at_mut(taps * l);
            let (xp, yp) = rest.split_at_mut(p.floats());
            sums.fill(0.0);
            for n in 0..g.n {
                let plane = n * g.c + first;
                let src = &x[plane * in_plane..][..channels * in_plane];
                let pad = [g.pad[0], g.pad[1]];
                p.pack(isa, src, [channels, g.h, g.w], pad, p.padded, xp);
                let src = &dy[plane * out_plane..][..channels * out_plane];
                p.pack(isa, src, [channels, p.out[0], p.out[1]], [0; 2], p.out, yp);
                isa.run(PixelWeights { window: p.window(), x: xp, y: yp, sums });
            }
            isa.run(Transpose2d {
                src: sums.as_ptr(),
                src_ld: l,
                rows: taps,
                cols: channels,
                // SAFETY: filters that only this task writes.
                dst: unsafe { out.ptr().add(first * taps) },
                dst_ld: taps,
            });
        });
    });
}

struct PixelWeights<'a> {
    window: Window<'a>,
    x: &'a [f32],
    y: &'a [f32],
    sums: &'a mut [f32],
}

impl SimdOp for PixelWeights<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        weights(s, self.window, self.x, self.y, self.sums);
    }
}
