//! Gradient of the direct convolution to its weights.
//!
//! With images and output gradients channels-last, the gradient of one filter
//! row is a product over all pixels: runs of `x` times vectors of `dy`.

use super::conv::ConvGeometry;
use super::direct::{band_rows, panel_width};
use super::filters;
use super::tasks::{for_each, part};
use crate::kernels::layout::PackNhwc;
use crate::kernels::scratch::{Shared, with_scratch};
use crate::kernels::tiles::{Init, Tiles};
use crate::simd::{Isa, Simd, SimdOp};

/// Floats that all the partial sums together may take.
const PARTIALS: usize = 1024 * 1024;

/// How many partial sums the images are cut into: enough for the threads to
/// share the work, few enough that adding them up is cheap. Shapes only, so
/// that the order of additions never depends on the threads.
pub fn chunks(units: usize, len: usize) -> usize {
    (PARTIALS / len.max(1)).clamp(2, 8).min(units)
}

/// See [`super::conv::conv_backward_weights`].
pub fn backward_weights(isa: Isa, g: &ConvGeometry, x: &[f32], dy: &[f32], dw: &mut [f32]) {
    let (cg, mg) = (g.c / g.groups, g.m / g.groups);
    let (oh, ow) = (g.out_h(), g.out_w());
    let taps = g.taps();
    let width = panel_width(isa, mg);
    let ld = mg.div_ceil(width) * width;
    let padded = (ow - 1) * g.stride[1] + (g.kernel[1] - 1) * g.dilation[1] + 1;
    let reach = (g.kernel[0] - 1) * g.dilation[0] + 1;
    let band = band_rows(g.n, oh, g.stride[0] * padded * cg + ow * ld);
    let bands = oh.div_ceil(band);
    let units = g.n * bands;
    let part_len = g.groups * taps * cg * ld;
    let chunks = chunks(units, part_len);
    with_scratch(chunks * part_len, |sums| {
        let shared = Shared::new(sums);
        for_each(chunks * g.groups, |task| {
            let (chunk, gi) = (task / g.groups, task % g.groups);
            let group_len = taps * cg * ld;
            // SAFETY: each task has its own part of the sums.
            let sum = unsafe {
                let p = shared.ptr().add(chunk * part_len + gi * group_len);
                std::slice::from_raw_parts_mut(p, group_len)
            };
            sum.fill(0.0);
            let (start, end) = part(units, chunks, chunk);
            for unit in start..end {
                let (image, b) = (unit / bands, unit % bands);
                let (first, last) = (b * band, oh.min((b + 1) * band));
                let rows = last - first;
                let in_rows = (rows - 1) * g.stride[0] + reach;
                let in_len = (in_rows * padded * cg).next_multiple_of(16);
                with_scratch(in_len + rows * ow * ld, |buf| {
                    let (xp, dyp) = buf.split_at_mut(in_len);
                    isa.run(PackNhwc {
                        src: &x[(image * g.c + gi * cg) * g.h * g.w..][..cg * g.h * g.w],
                        chw: [cg, g.h, g.w],
                        row0: (first * g.stride[0]) as isize - g.pad[0] as isize,
                        rows: in_rows,
                        left: g.pad[1],
                        width: padded,
                        ld: cg,
                        dst: xp,
                    });
                    isa.run(PackNhwc {
                        src: &dy[(image * g.m + gi * mg) * oh * ow..][..mg * oh * ow],
                        chw: [mg, oh, ow],
                        row0: first as isize,
                        rows,
                        left: 0,
                        width: ow,
                        ld,
                        dst: dyp,
                    });
                    isa.run(Accumulate { g, xp, dyp, padded, rows, width, sum });
                });
            }
        });
        filters::unpack_sums(isa, g, ld, chunks, sums, dw);
    });
}

/// Adds the products of one band of one image to the sums `taps x c x ld`.
struct Accumulate<'a> {
    g: &'a ConvGeometry,
    xp: &'a [f32],
    dyp: &'a [f32],
    padded: usize,
    rows: usize,
    width: usize,
    sum: &'a mut [f32],
}

impl SimdOp for Accumulate<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let g = self.g;
        let (cg, mg) = (g.c / g.groups, g.m / g.groups);
        let ow = g.out_w();
        let panels = mg.div_ceil(self.width);
        let ld = panels * self.width;
        let row = self.padded * cg;
        let dense = g.dilation[1] == 1;
        let (heads, run) = if dense { (1, g.kernel[1] * cg) } else { (g.kernel[1], cg) };
        let starts: Vec<usize> = (0..self.rows).map(|r| r * g.stride[0] * row).collect();
        assert!(self.dyp.len() >= self.rows * ow * ld && self.sum.len() >= g.taps() * cg * ld);
        for kh in 0..g.kernel[0] {
            for kw in 0..heads {
                let at = kh * g.dilation[0] * row + kw * g.dilation[1] * cg;
                let last = (self.rows - 1) * g.stride[0] * row + (ow - 1) * g.stride[1] * cg + run;
                assert!(self.xp.len() >= at + last);
                for p in 0..panels {
                    let lane = p * self.width;
                    let to = (kh * g.kernel[1] + kw) * cg * ld + lane;
                    s.vectorize(Tiles {
                        a: self.xp[at..].as_ptr(),
                        a_row: 1,
                        a_inner: g.stride[1] * cg,
                        runs: &starts,
                        run_len: ow,
                        b: self.dyp[lane..].as_ptr(),
                        b_inner: ld,
                        next: std::ptr::null(),
                        c: self.sum[to..].as_mut_ptr(),
                        c_row: ld,
                        rows: run,
                        outer: 1,
                        a_outer: 0,
                        c_outer: 0,
                        lanes: self.width.min(mg - lane),
                        init: Init::Accumulate,
                        finish: None,
                    });
                }
            }
        }
    }
}
