//! Filters between their NCHW order and the panels of the products.

use super::conv::ConvGeometry;
use super::tasks::for_each;
use crate::kernels::layout::Transpose2d;
use crate::kernels::scratch::{Shared, with_scratch};
use crate::simd::Isa;

/// Filters with output channels in lanes:
/// `dst[group][panel][tap][input channel][width]`, zero beyond the channels.
pub fn pack_outputs(isa: Isa, g: &ConvGeometry, width: usize, w: &[f32], dst: &mut [f32]) {
    let (cg, mg, taps) = (g.c / g.groups, g.m / g.groups, g.taps());
    let (panels, inner) = (mg.div_ceil(width), taps * cg);
    assert_eq!(dst.len(), g.groups * panels * inner * width);
    assert_eq!(w.len(), g.m * inner);
    let out = Shared::new(dst);
    for_each(g.groups * panels, |i| {
        let (group, panel) = (i / panels, i % panels);
        let lanes = width.min(mg - panel * width);
        // SAFETY: each task has a panel of its own.
        let dst = unsafe { std::slice::from_raw_parts_mut(out.ptr().add(i * inner * width), inner * width) };
        let turn = |to: &mut [f32]| {
            if lanes < width {
                to.fill(0.0);
            }
            isa.run(Transpose2d {
                src: w[(group * mg + panel * width) * inner..].as_ptr(),
                src_ld: inner,
                rows: lanes,
                cols: inner,
                dst: to.as_mut_ptr(),
                dst_ld: width,
            });
        };
        if taps == 1 {
            turn(dst);
        } else {
            with_scratch(inner * width, |rows| {
                turn(rows);
                for (k, row) in dst.chunks_exact_mut(width).enumerate() {
                    let from = (k % cg * taps + k / cg) * width;
                    row.copy_from_slice(&rows[from..from + width]);
                }
            });
        }
    });
}

/// Filters with input channels in lanes:
/// `dst[group][panel][tap][output channel][width]`, zero beyond the channels.
pub fn pack_inputs(isa: Isa, g: &ConvGeometry, width: usize, w: &[f32], dst: &mut [f32]) {
    let (cg, mg, taps) = (g.c / g.groups, g.m / g.groups, g.taps());
    let (panels, inner) = (cg.div_ceil(width), taps * mg);
    assert_eq!(dst.len(), g.groups * panels * inner * width);
    assert_eq!(w.len(), g.m * cg * taps);
    let out = Shared::new(dst);
    for_each(g.groups * panels, |i| {
        let (group, panel) = (i / panels, i % panels);
        let lanes = width.min(cg - panel * width);
        // SAFETY: each task has a panel of its own.
        let dst = unsafe { std::slice::from_raw_parts_mut(out.ptr().add(i * inner * width), inner * width) };
        if lanes < width {
            dst.fill(0.0);
        }
        for m in 0..mg {
            let src = &w[((group * mg + m) * cg + panel * width) * taps..][..lanes * taps];
            let to = &mut dst[m * width..];
            if taps == 1 {
                to[..lanes].copy_from_slice(src);
            } else {
                isa.run(Transpose2d {
                    src: src.as_ptr(),
                    src_ld: taps,
                    rows: lanes,
                    cols: taps,
                    dst: to.as_mut_ptr(),
                    dst_ld: mg * width,
                });
            }
        }
    });
}

/// Adds up partial filter gradients and brings them to the order of the filters.
///
/// `sums`: `chunks x groups x taps x input channels x ld`, output channels in lanes.
pub fn unpack_sums(isa: Isa, g: &ConvGeometry, ld: usize, chunks: usize, sums: &[f32], dw: &mut [f32]) {
    let (cg, mg, taps) = (g.c / g.groups, g.m / g.groups, g.taps());
    let inner = taps * cg;
    assert_eq!(sums.len(), chunks * g.groups * inner * ld);
    assert_eq!(dw.len(), g.m * inner);
    // Blocks of input channels: whole vectors of the transposition.
    const CHANNELS: usize = 32;
    let parts = cg.div_ceil(CHANNELS);
    let out = Shared::new(dw);
    for_each(g.groups * parts, |i| {
        let (group, first) = (i / parts, i % parts * CHANNELS);
        let channels = CHANNELS.min(cg - first);
        with_scratch(channels * taps * ld, |rows| {
            for (r, row) in rows.chunks_exact_mut(ld).enumerate() {
                let k = r % taps * cg + first + r / taps;
                let at = |chunk: usize| ((chunk * g.groups + group) * inner + k) * ld;
                row.copy_from_slice(&sums[at(0)..][..ld]);
                for chunk in 1..chunks {
                    for (t, p) in row.iter_mut().zip(&sums[at(chunk)..][..ld]) {
                        *t += p;
                    }
                }
            }
            isa.run(Transpose2d {
                src: rows.as_ptr(),
                src_ld: ld,
                rows: channels * taps,
                cols: mg,
                // SAFETY: inside dw; each task writes other columns.
                dst: unsafe { out.ptr().add(group * mg * inner + first * taps) },
                dst_ld: inner,
            });
        });
    });
}
