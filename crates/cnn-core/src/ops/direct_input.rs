//! Gradient of the direct convolution to its input.
//!
//! Input pixels fall into `stride x stride` phases; each phase sees a fixed
//! subset of the filter taps, and its gradient is a stride-1 convolution of
//! the output gradient with those taps. No scatter-add is needed.

use super::conv::ConvGeometry;
use super::direct::{band_rows, panel_width};
use super::filters;
use super::tasks::for_each;
use crate::kernels::layout::{PackNhwc, Transpose2d, UnpackNhwc};
use crate::kernels::scratch::{Shared, with_scratch};
use crate::kernels::tiles::{Init, Tiles};
use crate::simd::{Isa, Simd, SimdOp};

/// The taps along one axis that reach the pixels of one phase.
struct Axis {
    /// Taps as (distance in output pixels, filter index), farthest first.
    taps: Vec<(usize, usize)>,
}

impl Axis {
    fn new(phase: usize, kernel: usize, stride: usize, dilation: usize) -> Self {
        let mut taps: Vec<_> = (0..kernel)
            .filter(|k| (k * dilation) % stride == phase)
            .map(|k| ((k * dilation - phase) / stride, k))
            .collect();
        taps.sort_unstable_by(|a, b| b.cmp(a));
        Axis { taps }
    }
    /// Whether neighbouring taps are neighbours in memory too.
    fn dense(&self) -> bool {
        self.taps.windows(2).all(|t| t[0].0 == t[1].0 + 1)
    }
}

/// One phase: which taps, where they read, where their weights lie.
struct Phase {
    phase: [usize; 2],
    runs: Vec<usize>,
    run_len: usize,
    weights: usize,
    inner: usize,
}

/// Largest distance, in output pixels, of a tap from its input pixel.
fn margin(kernel: usize, stride: usize, dilation: usize) -> usize {
    (kernel - 1) * dilation / stride
}

/// See [`super::conv::conv_backward_input`].
pub fn backward_input(isa: Isa, g: &ConvGeometry, w: &[f32], dy: &[f32], dx: &mut [f32]) {
    let (cg, mg) = (g.c / g.groups, g.m / g.groups);
    let width = panel_width(isa, cg);
    let panels = cg.div_ceil(width);
    let ld = panels * width;
    let [mh, mw] = [0, 1].map(|i| margin(g.kernel[i], g.stride[i], g.dilation[i]));
    // Last output row and column that an input pixel asks for, real or not.
    let last_col = (g.w - 1 + g.pad[1]) / g.stride[1];
    let padded = mw + last_col + 1;
    let mut phases = Vec::new();
    let mut weight_len = 0;
    for ph in 0..g.stride[0] {
        for pw in 0..g.stride[1] {
            let rows = Axis::new(ph, g.kernel[0], g.stride[0], g.dilation[0]);
            let cols = Axis::new(pw, g.kernel[1], g.stride[1], g.dilation[1]);
            let dense = cols.dense() && !cols.taps.is_empty();
            let mut runs = Vec::new();
            for &(eh, _) in &rows.taps {
                let heads = if dense { &cols.taps[..1] } else { &cols.taps[..] };
                runs.extend(heads.iter().map(|&(ew, _)| ((mh - eh) * padded + mw - ew) * mg));
            }
            let inner = rows.taps.len() * cols.taps.len() * mg;
            let run_len = if dense { cols.taps.len() * mg } else { mg };
            phases.push((Phase { phase: [ph, pw], runs, run_len, weights: weight_len, inner }, rows, cols));
            weight_len += panels * inner * width;
        }
    }
    let band = band_rows(g.n * g.groups, g.h, g.w * ld + padded * mg / g.stride[0]);
    let bands = g.h.div_ceil(band);
    let all = panels * g.taps() * mg * width;
    with_scratch(g.groups * (all + weight_len), |buf| {
        let (all_taps, packed) = buf.split_at_mut(g.groups * all);
        filters::pack_inputs(isa, g, width, w, all_taps);
        // The taps of each phase, in the order of its runs.
        let tap_len = mg * width;
        for group in 0..g.groups {
            for (phase, rows, cols) in &phases {
                let taps = rows.taps.iter().flat_map(|r| {
                    let kw = move |c: &(usize, usize)| r.1 * g.kernel[1] + c.1;
                    cols.taps.iter().map(kw)
                });
                for panel in 0..panels {
                    let from = &all_taps[group * all + panel * (all / panels)..];
                    let to = group * weight_len + phase.weights + panel * phase.inner * width;
                    for (i, tap) in taps.clone().enumerate() {
                        packed[to + i * tap_len..][..tap_len]
                            .copy_from_slice(&from[tap * tap_len..][..tap_len]);
                    }
                }
            }
        }
        let packed = &*packed;
        let phases: Vec<Phase> = phases.into_iter().map(|p| p.0).collect();
        let out = Shared::new(dx);
        for_each(g.n * g.groups * bands, |task| {
            let (image, rest) = (task / (g.groups * bands), task % (g.groups * bands));
            let (gi, b) = (rest / bands, rest % bands);
            let (first, last) = (b * band, g.h.min((b + 1) * band));
            // Rows of dy that the band asks for, with the margin.
            let q0 = (first + g.pad[0]) / g.stride[0];
            let q1 = (last - 1 + g.pad[0]) / g.stride[0];
            let in_rows = q1 - q0 + 1 + mh;
            let in_len = in_rows * padded * mg;
            let plane = g.out_h() * g.out_w();
            with_scratch(in_len + 16 + (last - first) * g.w * ld, |buf| {
                let (dyp, tile) = buf.split_at_mut(in_len.next_multiple_of(16));
                isa.run(PackNhwc {
                    src: &dy[(image * g.m + gi * mg) * plane..][..mg * plane],
                    chw: [mg, g.out_h(), g.out_w()],
                    row0: q0 as isize - mh as isize,
                    rows: in_rows,
                    left: mw,
                    width: padded,
                    ld: mg,
                    dst: dyp,
                });
                isa.run(Backward {
                    g,
                    dyp,
                    padded,
                    phases: &phases,
                    weights: &packed[gi * weight_len..][..weight_len],
                    width,
                    band: [first, last],
                    tile,
                    // SAFETY: inside dx for this image, group and band.
                    out: unsafe { out.ptr().add(((image * g.c + gi * cg) * g.h + first) * g.w) },
                });
            });
        });
    });
}

/// One band of one image: all phases, then back to NCHW.
struct Backward<'a> {
    g: &'a ConvGeometry,
    dyp: &'a [f32],
    padded: usize,
    phases: &'a [Phase],
    weights: &'a [f32],
    width: usize,
    band: [usize; 2],
    tile: &'a mut [f32],
    out: *mut f32,
}

/// First index at or after `from` whose padded position is in the phase.
fn first_of_phase(from: usize, pad: usize, stride: usize, phase: usize) -> usize {
    from + (phase + stride - (from + pad) % stride) % stride
}

impl SimdOp for Backward<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let g = self.g;
        let (cg, mg) = (g.c / g.groups, g.m / g.groups);
        let [sh, sw] = g.stride;
        let panels = cg.div_ceil(self.width);
        let ld = panels * self.width;
        let [first, last] = self.band;
        let q0 = (first + g.pad[0]) / sh;
        assert!(self.tile.len() >= (last - first) * g.w * ld);
        if self.phases.iter().any(|p| p.inner == 0) {
            self.tile[..(last - first) * g.w * ld].fill(0.0);
        }
        for p in self.phases {
            let y0 = first_of_phase(first, g.pad[0], sh, p.phase[0]);
            let x0 = first_of_phase(0, g.pad[1], sw, p.phase[1]);
            if p.inner == 0 || y0 >= last || x0 >= g.w {
                continue;
            }
            let (rows, cols) = ((last - y0).div_ceil(sh), (g.w - x0).div_ceil(sw));
            let a = (((y0 + g.pad[0]) / sh - q0) * self.padded + (x0 + g.pad[1]) / sw) * mg;
            let farthest = p.runs.iter().max().copied().unwrap_or(0) + p.run_len;
            let last_pixel = ((rows - 1) * self.padded + cols - 1) * mg;
            assert!(self.dyp.len() >= a + last_pixel + farthest);
            for panel in 0..panels {
                let at = panel * self.width;
                let weights = &self.weights[p.weights + at * p.inner..][..p.inner * self.width];
                s.vectorize(Tiles {
                    a: self.dyp[a..].as_ptr(),
                    a_row: mg,
                    a_inner: 1,
                    runs: &p.runs,
                    run_len: p.run_len,
                    b: weights.as_ptr(),
                    b_inner: self.width,
                    next: std::ptr::null(),
                    c: self.tile[((y0 - first) * g.w + x0) * ld + at..].as_mut_ptr(),
                    c_row: sw * ld,
                    rows: cols,
                    outer: rows,
                    a_outer: self.padded * mg,
                    c_outer: sh * g.w * ld,
                    lanes: self.width.min(cg - at),
                    init: Init::Zero,
                    finish: None,
                });
            }
        }
        let t = Transpose2d {
            src: self.tile.as_ptr(),
            src_ld: ld,
            rows: (last - first) * g.w,
            cols: cg,
            dst: self.out,
            dst_ld: g.h * g.w,
        };
        s.vectorize(UnpackNhwc(t));
    }
}
