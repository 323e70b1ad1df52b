//! Direct convolution over channels-last scratch.
//!
//! In a padded NHWC image the floats under one filter row are contiguous, so
//! a convolution is a matrix product whose left operand has overlapping rows:
//! no im2col copy is made.

use super::conv::ConvGeometry;
use super::filters;
use super::tasks::for_each;
use crate::kernels::layout::{PackNhwc, Transpose2d, UnpackNhwc};
use crate::kernels::scratch::{Shared, with_scratch};
use crate::kernels::tiles::{Init, Tiles};
use crate::simd::{Isa, Simd, SimdOp};

/// Floats of scratch that a task may fill with images: half of a 1 MB cache.
pub const SCRATCH: usize = 128 * 1024;

/// Panel width for `columns` columns: one or two vectors.
pub fn panel_width(isa: Isa, columns: usize) -> usize {
    let l = isa.lanes();
    if columns > l { 2 * l } else { l }
}

/// Output rows that a task computes at a time.
///
/// `per_row` is the scratch one row needs; few images are cut finer so that
/// all threads have work. Depends on shapes only.
pub fn band_rows(images: usize, rows: usize, per_row: usize) -> usize {
    let fits = (SCRATCH / per_row.max(1)).max(1);
    let bands_for_threads = 8usize.div_ceil(images.max(1));
    fits.min(rows.div_ceil(bands_for_threads)).clamp(1, rows)
}

/// Starts and length of the contiguous runs under a filter of `kernel` taps in
/// channels-last memory with rows of `row` floats and pixels of `c` floats.
pub fn tap_runs(kernel: [usize; 2], dilation: [usize; 2], row: usize, c: usize) -> (Vec<usize>, usize) {
    let starts = (0..kernel[0]).map(|kh| kh * dilation[0] * row);
    if dilation[1] == 1 {
        (starts.collect(), kernel[1] * c)
    } else {
        let cols = 0..kernel[1];
        let runs = starts.flat_map(|s| cols.clone().map(move |kw| s + kw * dilation[1] * c));
        (runs.collect(), c)
    }
}

/// See [`super::conv::conv_forward`].
pub fn forward(isa: Isa, g: &ConvGeometry, x: &[f32], w: &[f32], bias: Option<&[f32]>, y: &mut [f32]) {
    let (cg, mg) = (g.c / g.groups, g.m / g.groups);
    let (oh, ow) = (g.out_h(), g.out_w());
    let inner = g.taps() * cg;
    let width = panel_width(isa, mg);
    let panels = mg.div_ceil(width);
    let padded = (ow - 1) * g.stride[1] + (g.kernel[1] - 1) * g.dilation[1] + 1;
    let (runs, run_len) = tap_runs(g.kernel, g.dilation, padded * cg, cg);
    let reach = (g.kernel[0] - 1) * g.dilation[0] + 1;
    let band = band_rows(g.n * g.groups, oh, g.stride[0] * padded * cg + ow * panels * width);
    let bands = oh.div_ceil(band);
    with_scratch(g.groups * panels * inner * width, |packed| {
        filters::pack_outputs(isa, g, width, w, packed);
        let packed = &*packed;
        let out = Shared::new(y);
        for_each(g.n * g.groups * bands, |task| {
            let (image, rest) = (task / (g.groups * bands), task % (g.groups * bands));
            let (gi, b) = (rest / bands, rest % bands);
            let (first, last) = (b * band, oh.min((b + 1) * band));
            let rows = last - first;
            let in_rows = (rows - 1) * g.stride[0] + reach;
            let in_len = in_rows * padded * cg;
            let out_ld = panels * width;
            with_scratch(in_len + 16 + rows * ow * out_ld, |buf| {
                let (xin, tile) = buf.split_at_mut(in_len.next_multiple_of(16));
                isa.run(PackNhwc {
                    src: &x[(image * g.c + gi * cg) * g.h * g.w..][..cg * g.h * g.w],
                    chw: [cg, g.h, g.w],
                    row0: (first * g.stride[0]) as isize - g.pad[0] as isize,
                    rows: in_rows,
                    left: g.pad[1],
                    width: padded,
                    ld: cg,
                    dst: xin,
                });
                let job = Forward {
                    g,
                    xin,
                    runs: &runs,
                    run_len,
                    padded,
                    weights: &packed[gi * panels * inner * width..][..panels * inner * width],
                    width,
                    bias: bias.map(|b| &b[gi * mg..][..mg]),
                    rows,
                    tile,
                    // SAFETY: inside y for this image, group and band.
                    out: unsafe { out.ptr().add(((image * g.m + gi * mg) * oh + first) * ow) },
                };
                isa.run(job);
            });
        });
    });
}

/// One band of one image: products, then back to NCHW.
struct Forward<'a> {
    g: &'a ConvGeometry,
    xin: &'a [f32],
    runs: &'a [usize],
    run_len: usize,
    padded: usize,
    weights: &'a [f32],
    width: usize,
    bias: Option<&'a [f32]>,
    rows: usize,
    tile: &'a mut [f32],
    out: *mut f32,
}

impl SimdOp for Forward<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let g = self.g;
        let (cg, mg) = (g.c / g.groups, g.m / g.groups);
        let ow = g.out_w();
        let inner = self.runs.len() * self.run_len;
        let panels = mg.div_ceil(self.width);
        let ld = panels * self.width;
        let farthest = self.runs.iter().max().copied().unwrap_or(0) + self.run_len;
        let last_pixel = (self.rows - 1) * g.stride[0] * self.padded + (ow - 1) * g.stride[1];
        assert!(self.xin.len() >= last_pixel * cg + farthest);
        assert!(self.tile.len() >= self.rows * ow * ld);
        assert!(self.weights.len() >= panels * inner * self.width);
        for p in 0..panels {
            let lanes = self.width.min(mg - p * self.width);
            s.vectorize(Tiles {
                a: self.xin.as_ptr(),
                a_row: g.stride[1] * cg,
                a_inner: 1,
                runs: self.runs,
                run_len: self.run_len,
                b: self.weights[p * inner * self.width..].as_ptr(),
                b_inner: self.width,
                next: std::ptr::null(),
                c: self.tile[p * self.width..].as_mut_ptr(),
                c_row: ld,
                rows: ow,
                outer: self.rows,
                a_outer: g.stride[0] * self.padded * cg,
                c_outer: ow * ld,
                lanes,
                init: self.bias.map_or(Init::Zero, |b| Init::Row(b[p * self.width..].as_ptr())),
                finish: None,
            });
        }
        let t = Transpose2d {
            src: self.tile.as_ptr(),
            src_ld: ld,
            rows: self.rows * ow,
            cols: mg,
            dst: self.out,
            dst_ld: g.out_h() * ow,
        };
        s.vectorize(UnpackNhwc(t));
    }
}
