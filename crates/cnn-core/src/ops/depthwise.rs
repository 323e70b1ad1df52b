//! Depthwise convolution: one channel in, `m / c` channels out.
//!
//! A stride cuts the padded plane into `stride x stride` phase planes; within
//! them every tap is a fixed offset, so each pass is a correlation along one
//! long row (see [`crate::kernels::flat`]), whatever stride and dilation are.
//!
//! Planes are handled in batches, step by step: reading a plane right after
//! writing it would wait for the writes.

use super::conv::ConvGeometry;
use super::direct_weights::chunks;
use super::tasks::{for_each, part};
use crate::kernels::flat::{correlate, dots};
use crate::kernels::phases::{JoinPlane, PhaseShape, SLACK, SplitPlane, gather_rows, spread_rows};
use crate::kernels::scratch::{Shared, with_scratch};
use crate::simd::{Isa, Simd, SimdOp};

/// Floats that a task moves at least, so that tasks are worth their start.
const TASK: usize = 64 * 1024;
/// Floats of a batch: what the first-level cache holds beside the images.
const BATCH: usize = 4 * 1024;

/// Pixels of a plane that is worth a prefetch.
const NEAR: usize = 1024;

/// Where the taps lie in the phase planes.
struct Phases {
    shape: PhaseShape,
    /// Taps in the order of the filter: offset of each.
    offsets: Vec<usize>,
    /// Taps of each phase: filter index and offset inside the phase plane.
    taps: Vec<Vec<(usize, usize)>>,
    /// Rows and columns of an output plane.
    out: [usize; 2],
    /// Floats of the output rows laid out with the columns of a phase.
    flat: usize,
}

impl Phases {
    fn new(g: &ConvGeometry) -> Self {
        let far = |i: usize| (g.kernel[i] - 1) * g.dilation[i] / g.stride[i];
        let (oh, ow) = (g.out_h(), g.out_w());
        let shape = PhaseShape {
            size: [g.h, g.w],
            pad: [g.pad[0], g.pad[1]],
            stride: g.stride,
            phase: [oh + far(0), ow + far(1)],
        };
        let mut offsets = Vec::new();
        let mut taps = vec![Vec::new(); g.stride[0] * g.stride[1]];
        for kh in 0..g.kernel[0] {
            for kw in 0..g.kernel[1] {
                let (y, x) = (kh * g.dilation[0], kw * g.dilation[1]);
                let phase = (y % g.stride[0]) * g.stride[1] + x % g.stride[1];
                let inside = y / g.stride[0] * shape.phase[1] + x / g.stride[1];
                taps[phase].push((offsets.len(), inside));
                offsets.push(phase * shape.step() + inside);
            }
        }
        Phases { shape, offsets, taps, out: [oh, ow], flat: (oh - 1) * shape.phase[1] + ow }
    }
    /// Floats of a plane's phases and of its output rows, with slack.
    fn steps(&self) -> (usize, usize) {
        (self.shape.floats() + SLACK, self.flat + SLACK)
    }
    /// Planes of a batch, if each takes `floats` of scratch.
    fn batch(floats: usize) -> usize {
        (BATCH / floats).max(1)
    }
}

/// Planes per task.
fn grain(plane: usize, planes: usize) -> usize {
    (TASK / plane.max(1)).clamp(1, planes.div_ceil(8).max(1))
}

/// See [`super::conv::conv_forward`].
pub fn forward(isa: Isa, g: &ConvGeometry, x: &[f32], w: &[f32], bias: Option<&[f32]>, y: &mut [f32]) {
    let p = Phases::new(g);
    let out_plane = p.out[0] * p.out[1] * (g.m / g.c);
    let planes = g.n * g.c;
    let grain = grain(g.h * g.w + out_plane, planes);
    let out = Shared::new(y);
    for_each(planes.div_ceil(grain), |task| {
        let (first, last) = (task * grain, planes.min((task + 1) * grain));
        // SAFETY: the output planes of this task.
        let y = unsafe {
            let at = out.ptr().add(first * out_plane);
            std::slice::from_raw_parts_mut(at, (last - first) * out_plane)
        };
        let floats = p.steps().0 + g.m / g.c * p.steps().1;
        let batch = Phases::batch(floats);
        with_scratch(batch * floats, |buf| {
            isa.run(Forward { g, p: &p, x, w, bias, first, y, buf });
        });
    });
}

/// Planes `first..` of all `n x c`, as many as `y` has room for.
struct Forward<'a> {
    g: &'a ConvGeometry,
    p: &'a Phases,
    x: &'a [f32],
    w: &'a [f32],
    bias: Option<&'a [f32]>,
    first: usize,
    y: &'a mut [f32],
    buf: &'a mut [f32],
}

impl SimdOp for Forward<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (g, p) = (self.g, self.p);
        let (taps, mult, in_plane) = (g.taps(), g.m / g.c, g.h * g.w);
        let [oh, ow] = p.out;
        let (step, flat_step) = p.steps();
        let planes = self.y.len() / (oh * ow * mult);
        let batch = self.buf.len() / (step + mult * flat_step);
        let buf = self.buf;
        let (xp, flat) = buf.split_at_mut(batch * step);
        xp.fill(0.0);
        let mut start = 0;
        while start < planes {
            let count = batch.min(planes - start);
            for b in 0..count {
                let plane = self.first + start + b;
                SplitPlane {
                    shape: p.shape,
                    src: &self.x[plane * in_plane..][..in_plane],
                    dst: &mut xp[b * step..][..step],
                }
                .go(s);
            }
            for b in 0..count {
                for j in 0..mult {
                    let m = (self.first + start + b) % g.c * mult + j;
                    correlate(
                        s,
                        &xp[b * step..][..step],
                        &p.offsets,
                        &self.w[m * taps..][..taps],
                        self.bias.map_or(0.0, |b| b[m]),
                        &mut flat[(b * mult + j) * flat_step..][..flat_step],
                        p.flat,
                    );
                }
            }
            for b in 0..count * mult {
                let to = (start * mult + b) * oh * ow;
                gather_rows(
                    s,
                    &flat[b * flat_step..][..flat_step],
                    p.shape.phase[1],
                    oh,
                    ow,
                    &mut self.y[to..][..oh * ow],
                );
            }
            start += count;
        }
    }
}

/// See [`super::conv::conv_backward_input`].
pub fn backward_input(isa: Isa, g: &ConvGeometry, w: &[f32], dy: &[f32], dx: &mut [f32]) {
    let p = Phases::new(g);
    let in_plane = g.h * g.w;
    let planes = g.n * g.c;
    let mult = g.m / g.c;
    let grain = grain(in_plane + p.out[0] * p.out[1] * mult, planes);
    // Position i of a phase plane receives dy[i - offset]: zeros before and after.
    let margin = p.taps.iter().flatten().map(|t| t.1).max().unwrap_or(0);
    let dy_step = margin + p.shape.step() + SLACK;
    // Taps that look back, as offsets from the farthest one.
    let back = |taps: &Vec<(usize, usize)>| -> Vec<usize> {
        let shifted = |j: usize| taps.iter().map(move |t| j * dy_step + margin - t.1);
        (0..mult).flat_map(shifted).collect()
    };
    let back: Vec<_> = p.taps.iter().map(back).collect();
    let out = Shared::new(dx);
    for_each(planes.div_ceil(grain), |task| {
        let (first, last) = (task * grain, planes.min((task + 1) * grain));
        // SAFETY: the input planes of this task.
        let dx = unsafe {
            let at = out.ptr().add(first * in_plane);
            std::slice::from_raw_parts_mut(at, (last - first) * in_plane)
        };
        let floats = p.shape.floats() + mult * dy_step;
        let batch = Phases::batch(floats);
        with_scratch(batch * floats, |buf| {
            isa.run(BackwardInput { g, p: &p, w, dy, back: &back, margin, dy_step, first, dx, buf });
        });
    });
}

/// Planes `first..` of all `n x c`, as many as `dx` has room for.
struct BackwardInput<'a> {
    g: &'a ConvGeometry,
    p: &'a Phases,
    w: &'a [f32],
    dy: &'a [f32],
    back: &'a [Vec<usize>],
    margin: usize,
    dy_step: usize,
    first: usize,
    dx: &'a mut [f32],
    buf: &'a mut [f32],
}

impl SimdOp for BackwardInput<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (g, p, dy_step) = (self.g, self.p, self.dy_step);
        let (taps, mult, in_plane) = (g.taps(), g.m / g.c, g.h * g.w);
        let [oh, ow] = p.out;
        let x_step = p.shape.floats();
        let phase_len = p.shape.step() - SLACK;
        let planes = self.dx.len() / in_plane;
        let batch = self.buf.len() / (x_step + mult * dy_step);
        let mut weights = Vec::with_capacity(mult * taps);
        let buf = self.buf;
        let (dyp, xp) = buf.split_at_mut(batch * mult * dy_step);
        dyp.fill(0.0);
        let mut start = 0;
        while start < planes {
            let count = batch.min(planes - start);
            for b in 0..count * mult {
                let at = ((self.first + start) * mult + b) * oh * ow;
                spread_rows(
                    s,
                    &self.dy[at..][..oh * ow],
                    oh,
                    ow,
                    &mut dyp[b * dy_step + self.margin..(b + 1) * dy_step],
                    p.shape.phase[1],
                );
            }
            for b in 0..count {
                let c = (self.first + start + b) % g.c;
                for (phase, back) in self.back.iter().enumerate() {
                    weights.clear();
                    for m in c * mult..(c + 1) * mult {
                        let tap = |t: &(usize, usize)| self.w[m * taps + t.0];
                        weights.extend(p.taps[phase].iter().map(tap));
                    }
                    let to = b * x_step + phase * p.shape.step();
                    correlate(
                        s,
                        &dyp[b * mult * dy_step..][..mult * dy_step],
                        back,
                        &weights,
                        0.0,
                        &mut xp[to..][..p.shape.step()],
                        phase_len,
                    );
                }
            }
            for b in 0..count {
                JoinPlane {
                    shape: p.shape,
                    src: &xp[b * x_step..][..x_step],
                    dst: &mut self.dx[(start + b) * in_plane..][..in_plane],
                }
                .go(s);
            }
            start += count;
        }
    }
}

/// See [`super::conv::conv_backward_weights`].
pub fn backward_weights(isa: Isa, g: &ConvGeometry, x: &[f32], dy: &[f32], dw: &mut [f32]) {
    let p = Phases::new(g);
    // Filters are independent; images are cut only if filters are too few.
    let chunks = if g.m >= 8 { 1 } else { chunks(g.n, dw.len()) };
    let tasks = g.m.min(16);
    let (len, taps) = (dw.len(), g.taps());
    with_scratch(chunks * len, |sums| {
        let shared = Shared::new(sums);
        for_each(chunks * tasks, |task| {
            let (chunk, task) = (task / tasks, task % tasks);
            let (first, last) = part(g.m, tasks, task);
            // SAFETY: the sums of this chunk and these filters.
            let sums = unsafe {
                let at = shared.ptr().add(chunk * len + first * taps);
                std::slice::from_raw_parts_mut(at, (last - first) * taps)
            };
            let floats = p.steps().0 + p.steps().1;
            let batch = Phases::batch(floats).min(g.n);
            with_scratch(batch * floats, |buf| {
                isa.run(BackwardWeights {
                    g,
                    p: &p,
                    x,
                    dy,
                    images: part(g.n, chunks, chunk),
                    first,
                    sums,
                    buf,
                });
            });
        });
        dw.copy_from_slice(&sums[..len]);
        for partial in sums.chunks_exact(len).skip(1) {
            for (d, s) in dw.iter_mut().zip(partial) {
                *d += s;
            }
        }
    });
}

/// Filters `first..`, as many as `sums` has room for, over some images.
struct BackwardWeights<'a> {
    g: &'a ConvGeometry,
    p: &'a Phases,
    x: &'a [f32],
    dy: &'a [f32],
    images: (usize, usize),
    first: usize,
    sums: &'a mut [f32],
    buf: &'a mut [f32],
}

impl SimdOp for BackwardWeights<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (g, p) = (self.g, self.p);
        let (taps, mult, in_plane) = (g.taps(), g.m / g.c, g.h * g.w);
        let [oh, ow] = p.out;
        let (x_step, dy_step) = p.steps();
        let batch = self.buf.len() / (x_step + dy_step);
        let buf = self.buf;
        buf.fill(0.0);
        let (xp, dyp) = buf.split_at_mut(batch * x_step);
        for (i, sums) in self.sums.chunks_exact_mut(taps).enumerate() {
            let m = self.first + i;
            sums.fill(0.0);
            let mut nine = [s.splat(0.0); 9];
            let mut n = self.images.0;
            while n < self.images.1 {
                let count = batch.min(self.images.1 - n);
                // The planes of a channel lie far apart: the hardware cannot
                // know where the next ones are.
                if in_plane <= NEAR {
                    let next = (n + count).min(self.images.1);
                    for image in next..(next + count).min(self.images.1) {
                        let x = self.x[(image * g.c + m / mult) * in_plane..].as_ptr();
                        let dy = self.dy[(image * g.m + m) * oh * ow..].as_ptr();
                        for i in (0..in_plane).step_by(16) {
                            s.prefetch(x.wrapping_add(i));
                        }
                        for i in (0..oh * ow).step_by(16) {
                            s.prefetch(dy.wrapping_add(i));
                        }
                    }
                }
                for b in 0..count {
                    SplitPlane {
                        shape: p.shape,
                        src: &self.x[((n + b) * g.c + m / mult) * in_plane..][..in_plane],
                        dst: &mut xp[b * x_step..][..x_step],
                    }
                    .go(s);
                    spread_rows(
                        s,
                        &self.dy[((n + b) * g.m + m) * oh * ow..][..oh * ow],
                        oh,
                        ow,
                        &mut dyp[b * dy_step..][..dy_step],
                        p.shape.phase[1],
                    );
                }
                let (a, b) = ((&*dyp, dy_step), (&*xp, x_step));
                if taps == 9 {
                    nine = dots(s, nine, a, b, &p.offsets, count, p.flat);
                } else {
                    for (sum, off) in sums.iter_mut().zip(p.offsets.chunks_exact(1)) {
                        let acc = [s.splat(0.0); 1];
                        let [acc] = dots(s, acc, a, b, off, count, p.flat);
                        *sum += s.sum(acc);
                    }
                }
                n += count;
            }
            if taps == 9 {
                for (sum, acc) in sums.iter_mut().zip(nine) {
                    *sum = s.sum(acc);
                }
            }
        }
    }
}
