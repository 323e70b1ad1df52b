//! Depthwise convolution: one channel in, `m / c` channels out.
//!
//! A stride cuts the padded plane into `stride x stride` phase planes; within
//! them every tap is a fixed offset, so each pass is a correlation along one
//! long row (see [`crate::kernels::flat`]), whatever stride and dilation are.

use super::conv::ConvGeometry;
use super::direct_weights::chunks;
use super::tasks::{for_each, part};
use crate::kernels::flat::{FlatCorrelate, FlatDots};
use crate::kernels::phases::{CopyRows, JoinPlane, PhaseShape, SplitPlane};
use crate::kernels::scratch::{Shared, with_scratch};
use crate::simd::Isa;

/// Planes that a task handles at least, so that tasks are worth their start.
const PLANE_FLOATS: usize = 64 * 1024;

/// Where the taps lie in the phase planes.
struct Phases {
    shape: PhaseShape,
    /// Taps in the order of the filter: offset of each.
    offsets: Vec<usize>,
    /// Taps of each phase: filter index and offset inside the phase plane.
    taps: Vec<Vec<(usize, usize)>>,
    /// Floats of the output rows laid out with the columns of a phase.
    flat: usize,
}

impl Phases {
    fn new(g: &ConvGeometry) -> Self {
        let far = |i: usize| (g.kernel[i] - 1) * g.dilation[i] / g.stride[i];
        let (oh, ow) = (g.out_h(), g.out_w());
        let (rows, cols) = (oh + far(0), ow + far(1));
        let mut offsets = Vec::new();
        let mut taps = vec![Vec::new(); g.stride[0] * g.stride[1]];
        for kh in 0..g.kernel[0] {
            for kw in 0..g.kernel[1] {
                let (y, x) = (kh * g.dilation[0], kw * g.dilation[1]);
                let phase = (y % g.stride[0]) * g.stride[1] + x % g.stride[1];
                let inside = y / g.stride[0] * cols + x / g.stride[1];
                taps[phase].push((offsets.len(), inside));
                offsets.push(phase * rows * cols + inside);
            }
        }
        Phases {
            shape: PhaseShape {
                size: [g.h, g.w],
                pad: [g.pad[0], g.pad[1]],
                stride: g.stride,
                phase: [rows, cols],
            },
            offsets,
            taps,
            flat: (oh - 1) * cols + ow,
        }
    }
}

/// Planes per task.
fn grain(plane: usize, planes: usize) -> usize {
    (PLANE_FLOATS / plane.max(1)).clamp(1, planes.div_ceil(8).max(1))
}

/// See [`super::conv::conv_forward`].
pub fn forward(isa: Isa, g: &ConvGeometry, x: &[f32], w: &[f32], bias: Option<&[f32]>, y: &mut [f32]) {
    let p = Phases::new(g);
    let (oh, ow, taps) = (g.out_h(), g.out_w(), g.taps());
    let (in_plane, out_plane, mult) = (g.h * g.w, oh * ow, g.m / g.c);
    let planes = g.n * g.c;
    let grain = grain(in_plane + out_plane, planes);
    let out = Shared::new(y);
    for_each(planes.div_ceil(grain), |task| {
        with_scratch(p.shape.floats() + p.flat, |buf| {
            let (xp, flat) = buf.split_at_mut(p.shape.floats());
            xp.fill(0.0);
            for plane in task * grain..planes.min((task + 1) * grain) {
                isa.run(SplitPlane { shape: p.shape, src: &x[plane * in_plane..][..in_plane], dst: xp });
                for j in 0..mult {
                    let m = plane % g.c * mult + j;
                    isa.run(FlatCorrelate {
                        src: xp,
                        offsets: &p.offsets,
                        w: &w[m * taps..][..taps],
                        bias: bias.map_or(0.0, |b| b[m]),
                        dst: flat,
                    });
                    // SAFETY: one output plane, which only this task writes.
                    let dst = unsafe {
                        let at = (plane * mult + j) * out_plane;
                        std::slice::from_raw_parts_mut(out.ptr().add(at), out_plane)
                    };
                    isa.run(CopyRows {
                        src: flat,
                        src_ld: p.shape.phase[1],
                        dst,
                        dst_ld: ow,
                        rows: oh,
                        len: ow,
                    });
                }
            }
        });
    });
}

/// See [`super::conv::conv_backward_input`].
pub fn backward_input(isa: Isa, g: &ConvGeometry, w: &[f32], dy: &[f32], dx: &mut [f32]) {
    let p = Phases::new(g);
    let (oh, ow, taps) = (g.out_h(), g.out_w(), g.taps());
    let (in_plane, out_plane, mult) = (g.h * g.w, oh * ow, g.m / g.c);
    let planes = g.n * g.c;
    let grain = grain(in_plane + out_plane, planes);
    // A phase plane position i receives dy[i - offset]: zeros before and after.
    let phase_len = p.shape.phase[0] * p.shape.phase[1];
    let margin = p.taps.iter().flatten().map(|t| t.1).max().unwrap_or(0);
    // Taps that look back, as offsets from the farthest one.
    let back: Vec<Vec<usize>> = p
        .taps
        .iter()
        .map(|taps| {
            (0..mult)
                .flat_map(|j| taps.iter().map(move |t| j * (margin + phase_len) + margin - t.1))
                .collect()
        })
        .collect();
    let out = Shared::new(dx);
    for_each(planes.div_ceil(grain), |task| {
        let dy_len = mult * (margin + phase_len);
        with_scratch(dy_len + p.shape.floats(), |buf| {
            let (dyp, xp) = buf.split_at_mut(dy_len);
            dyp.fill(0.0);
            let mut weights = Vec::with_capacity(mult * taps);
            for plane in task * grain..planes.min((task + 1) * grain) {
                for j in 0..mult {
                    let src = &dy[(plane * mult + j) * out_plane..][..out_plane];
                    let dst = &mut dyp[j * (margin + phase_len) + margin..];
                    isa.run(CopyRows { src, src_ld: ow, dst, dst_ld: p.shape.phase[1], rows: oh, len: ow });
                }
                for (phase, dst) in xp.chunks_exact_mut(phase_len).enumerate() {
                    weights.clear();
                    for j in 0..mult {
                        let m = plane % g.c * mult + j;
                        weights.extend(p.taps[phase].iter().map(|t| w[m * taps + t.0]));
                    }
                    isa.run(FlatCorrelate { src: dyp, offsets: &back[phase], w: &weights, bias: 0.0, dst });
                }
                // SAFETY: one input plane, which only this task writes.
                let dst =
                    unsafe { std::slice::from_raw_parts_mut(out.ptr().add(plane * in_plane), in_plane) };
                isa.run(JoinPlane { shape: p.shape, src: xp, dst });
            }
        });
    });
}

/// See [`super::conv::conv_backward_weights`].
pub fn backward_weights(isa: Isa, g: &ConvGeometry, x: &[f32], dy: &[f32], dw: &mut [f32]) {
    let p = Phases::new(g);
    let (oh, ow, taps) = (g.out_h(), g.out_w(), g.taps());
    let (in_plane, out_plane, mult) = (g.h * g.w, oh * ow, g.m / g.c);
    // Channels are independent; images are cut only if channels are too few.
    let chunks = if g.c >= 8 { 1 } else { chunks(g.n, dw.len()) };
    let channel_tasks = g.c.min(16);
    let len = dw.len();
    with_scratch(chunks * len, |sums| {
        sums.fill(0.0);
        let shared = Shared::new(sums);
        for_each(chunks * channel_tasks, |task| {
            let (chunk, ct) = (task / channel_tasks, task % channel_tasks);
            let (n0, n1) = part(g.n, chunks, chunk);
            let (c0, c1) = part(g.c, channel_tasks, ct);
            with_scratch(p.shape.floats() + p.flat, |buf| {
                let (xp, dyp) = buf.split_at_mut(p.shape.floats());
                xp.fill(0.0);
                dyp.fill(0.0);
                for c in c0..c1 {
                    for n in n0..n1 {
                        isa.run(SplitPlane {
                            shape: p.shape,
                            src: &x[(n * g.c + c) * in_plane..][..in_plane],
                            dst: xp,
                        });
                        for j in 0..mult {
                            let m = c * mult + j;
                            let src = &dy[(n * g.m + m) * out_plane..][..out_plane];
                            isa.run(CopyRows {
                                src,
                                src_ld: ow,
                                dst: dyp,
                                dst_ld: p.shape.phase[1],
                                rows: oh,
                                len: ow,
                            });
                            // SAFETY: the sums of this chunk and filter, which
                            // only this task touches.
                            let dst = unsafe {
                                let at = chunk * len + m * taps;
                                std::slice::from_raw_parts_mut(shared.ptr().add(at), taps)
                            };
                            isa.run(FlatDots { a: dyp, src: xp, offsets: &p.offsets, dst });
                        }
                    }
                }
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
