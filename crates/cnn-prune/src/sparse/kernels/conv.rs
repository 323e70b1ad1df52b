//! Convolution with sparse filters.
//!
//! The padded input is laid out so that every weight sees its inputs next to each other, whatever the stride:
//! with stride `s` the rows and columns `i = s q + p` of a channel form the *phase* `p`, a plane of its own
//! with index `q`. Output pixel `(oy, ox)` then reads at `(oy + dy, ox + dx)` of one phase, and over the
//! flattened plane, `width` apart from row to row, the whole output is one run. The few columns between the
//! rows' ends are computed too and dropped.

use super::super::matrix::SparseMatrix;
use super::TASK;
use cnn_core::ops::conv::ConvGeometry;
use cnn_core::simd::{Isa, Simd, SimdOp};
use rayon::prelude::*;

/// Pixels that are kept in registers.
const TILE: usize = 32;
/// Images whose padded copies are in memory at a time.
const IMAGES: usize = 16;

/// `y = x * w + bias`; `x`: `n x c x h x w`, `w`: a row for each filter, `y`: `n x m x out_h x out_w`,
/// overwritten. Each output is
/// `((bias + p1) + p2) + ...` over the stored weights of its filter.
pub(in crate::sparse) fn conv_forward(
    g: &ConvGeometry,
    w: &SparseMatrix,
    bias: Option<&[f32]>,
    x: &[f32],
    y: &mut [f32],
) {
    match Layout::of(g) {
        Some(layout) => run(Isa::active(), g, &layout, w, bias, x, y),
        None => direct(g, w, bias, x, y),
    }
}

/// Where the padded input of an image lies.
#[derive(Debug, Clone, Copy)]
struct Layout {
    /// Height of a phase.
    height: usize,
    /// Width of a phase.
    width: usize,
    /// Floats of a channel: all its phases.
    channel: usize,
    /// Length of the run of outputs.
    run: usize,
}

impl Layout {
    /// The layout, unless padding or stride would blow the input up beyond all measure.
    fn of(g: &ConvGeometry) -> Option<Layout> {
        let [sh, sw] = g.stride;
        let height = (g.h + g.pad[0] + g.pad[2]).div_ceil(sh);
        let width = (g.w + g.pad[1] + g.pad[3]).div_ceil(sw);
        let channel = height.checked_mul(width)?.checked_mul(sh)?.checked_mul(sw)?;
        let image = channel.checked_mul(g.c)?;
        let useful = g.c * g.h * g.w + g.m * g.out_h() * g.out_w();
        let bounded = image <= useful.saturating_mul(16).saturating_add(TASK) && image < u32::MAX as usize;
        bounded.then(|| Layout { height, width, channel, run: (g.out_h() - 1) * width + g.out_w() })
    }

    /// Where the input of weight `(ky, kx)` for the first pixel lies within a channel.
    fn tap(&self, g: &ConvGeometry, ky: usize, kx: usize) -> usize {
        let (dy, dx) = (ky * g.dilation[0], kx * g.dilation[1]);
        let [sh, sw] = g.stride;
        let phase = dy % sh * sw + dx % sw;
        phase * self.height * self.width + dy / sh * self.width + dx / sw
    }

    /// Where the input of each stored weight for the first pixel lies within an image.
    fn offsets(&self, g: &ConvGeometry, w: &SparseMatrix) -> Vec<u32> {
        let [kh, kw] = g.kernel;
        let taps: Vec<usize> = (0..kh * kw).map(|t| self.tap(g, t / kw, t % kw)).collect();
        let mut offsets = Vec::with_capacity(w.nonzeros());
        for row in 0..g.m {
            // the channel is counted up along the row: a division for each weight would cost as much as a
            // small plane
            let mut channel = row / (g.m / g.groups) * (g.c / g.groups);
            let mut first = 0;
            for &column in w.row(row).0 {
                while column as usize >= first + taps.len() {
                    first += taps.len();
                    channel += 1;
                }
                offsets.push((channel * self.channel + taps[column as usize - first]) as u32);
            }
        }
        offsets
    }

    /// Copies one channel of one image, `h x w`, to its phases; `to` is zeros.
    fn fill(&self, g: &ConvGeometry, from: &[f32], to: &mut [f32]) {
        let [sh, sw] = g.stride;
        for (y, from) in from.chunks_exact(g.w).enumerate() {
            let y = y + g.pad[0];
            let row = (y % sh * sw * self.height + y / sh) * self.width;
            if sw == 1 {
                to[row + g.pad[1]..][..g.w].copy_from_slice(from);
            } else {
                for (x, &v) in from.iter().enumerate() {
                    let x = x + g.pad[1];
                    to[row + x % sw * self.height * self.width + x / sw] = v;
                }
            }
        }
    }
}

fn run(
    isa: Isa,
    g: &ConvGeometry,
    at: &Layout,
    w: &SparseMatrix,
    bias: Option<&[f32]>,
    x: &[f32],
    y: &mut [f32],
) {
    let offsets = at.offsets(g, w);
    let (image, plane, out_w) = (g.c * at.channel, g.out_h() * g.out_w(), g.out_w());
    // a tile may read beyond the last image, what it makes of that is dropped
    let mut padded = vec![0f32; g.n.min(IMAGES) * image + TILE];
    let tile = [8, 16].into_iter().find(|&t| at.run <= t).unwrap_or(TILE);
    let run = at.run.next_multiple_of(tile);
    let cost = (run * w.nonzeros() / g.m).max(plane);
    for (x, y) in x.chunks(IMAGES * g.c * g.h * g.w).zip(y.chunks_mut(IMAGES * g.m * plane)) {
        let channels = padded.par_chunks_exact_mut(at.channel).zip(x.par_chunks_exact(g.h * g.w));
        channels.with_min_len(TASK.div_ceil(at.channel)).for_each(|(to, from)| at.fill(g, from, to));
        let planes = y.par_chunks_exact_mut(plane).with_min_len(TASK.div_ceil(cost)).enumerate();
        planes.for_each_init(
            || vec![0f32; run],
            |out, (index, y)| {
                let (n, m) = (index / g.m, index % g.m);
                let entries = w.starts()[m]..w.starts()[m + 1];
                let bias = bias.map_or(0.0, |b| b[m]);
                let (offsets, values) = (&offsets[entries.clone()], &w.values()[entries]);
                isa.run(Filter { tile, offsets, values, bias, x: &padded[n * image..], out });
                for (y, out) in y.chunks_exact_mut(out_w).zip(out.chunks(at.width)) {
                    y.copy_from_slice(&out[..out_w]);
                }
            },
        );
    }
}

/// The run of one filter.
struct Filter<'a> {
    tile: usize,
    offsets: &'a [u32],
    values: &'a [f32],
    bias: f32,
    x: &'a [f32],
    out: &'a mut [f32],
}

impl SimdOp for Filter<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, _isa: S) {
        tiles(self.tile, self.offsets, self.values, self.bias, self.x, self.out);
    }
}

#[inline(always)]
fn tiles(tile: usize, offsets: &[u32], values: &[f32], bias: f32, x: &[f32], out: &mut [f32]) {
    match tile {
        8 => tiles_of::<8>(offsets, values, bias, x, out),
        16 => tiles_of::<16>(offsets, values, bias, x, out),
        _ => tiles_of::<TILE>(offsets, values, bias, x, out),
    }
}

#[inline(always)]
fn tiles_of<const T: usize>(offsets: &[u32], values: &[f32], bias: f32, x: &[f32], out: &mut [f32]) {
    let (out, _) = out.as_chunks_mut::<T>();
    for (tile, out) in out.iter_mut().enumerate() {
        let x = &x[tile * T..];
        let mut sums = [bias; T];
        for (&offset, &value) in offsets.iter().zip(values) {
            let x = &x[offset as usize..][..T];
            for i in 0..T {
                sums[i] += value * x[i];
            }
        }
        *out = sums;
    }
}

/// The same sums without a padded copy, for geometries where that would be huge.
fn direct(g: &ConvGeometry, w: &SparseMatrix, bias: Option<&[f32]>, x: &[f32], y: &mut [f32]) {
    let [kh, kw] = g.kernel;
    let (out_w, plane) = (g.out_w(), g.out_h() * g.out_w());
    // the input's position for an output's, if it is not in the padding
    let source = |out: usize, k: usize, axis: usize, size: usize| {
        (out * g.stride[axis] + k * g.dilation[axis]).checked_sub(g.pad[axis]).filter(|&at| at < size)
    };
    y.par_chunks_exact_mut(plane).enumerate().for_each(|(index, y)| {
        let (n, m) = (index / g.m, index % g.m);
        y.fill(bias.map_or(0.0, |b| b[m]));
        let (columns, values) = w.row(m);
        for (&column, &value) in columns.iter().zip(values) {
            let column = column as usize;
            let channel = m / (g.m / g.groups) * (g.c / g.groups) + column / (kh * kw);
            let (ky, kx) = (column / kw % kh, column % kw);
            let x = &x[(n * g.c + channel) * g.h * g.w..][..g.h * g.w];
            for (at, y) in y.iter_mut().enumerate() {
                if let (Some(iy), Some(ix)) = (source(at / out_w, ky, 0, g.h), source(at % out_w, kx, 1, g.w))
                {
                    *y += value * x[iy * g.w + ix];
                }
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn number(i: usize) -> f32 {
        ((i * 37 + 11) % 101) as f32 / 50.0 - 1.0
    }

    /// Output of the laid out kernel on every instruction set, and of the direct loop.
    fn both(g: &ConvGeometry, dense: &[f32]) -> (Vec<Vec<f32>>, Vec<f32>) {
        let w = SparseMatrix::from_dense(g.m, dense.len() / g.m, dense).unwrap();
        let bias: Vec<f32> = (0..g.m).map(number).collect();
        let x: Vec<f32> = (0..g.n * g.c * g.h * g.w).map(|i| number(i + 3)).collect();
        let zero = || vec![0f32; g.n * g.m * g.out_h() * g.out_w()];
        let layout = Layout::of(g).unwrap();
        let fast = Isa::available().into_iter().map(|isa| {
            let mut y = zero();
            run(isa, g, &layout, &w, Some(&bias), &x, &mut y);
            y
        });
        let mut plain = zero();
        direct(g, &w, Some(&bias), &x, &mut plain);
        (fast.collect(), plain)
    }

    proptest! {
        // added up in the same order, so the bits are the same; a product with a padding zero adds nothing
        #[test]
        fn all_versions_give_the_bits_of_the_direct_loop(
            n in 1usize..4, groups in 1usize..3, c in 1usize..3, m in 1usize..3,
            h in 3usize..12, w in 3usize..12, kernel in [1usize..4, 1usize..4],
            stride in [1usize..4, 1usize..4], pad in [0usize..3, 0usize..3, 0usize..3, 0usize..3],
            dilation in [1usize..3, 1usize..3], sparse in 2usize..7,
        ) {
            let (channels, filters) = (c * groups, m * groups);
            let g = ConvGeometry { n, c: channels, h, w, m: filters, kernel, stride, pad, dilation, groups };
            prop_assume!(g.out_h() > 0 && g.out_w() > 0);
            let count = g.m * c * kernel[0] * kernel[1];
            let dense: Vec<f32> = (0..count).map(|i| if i % sparse == 0 { number(i) } else { 0.0 }).collect();
            let (fast, plain) = both(&g, &dense);
            for fast in fast {
                prop_assert_eq!(&fast, &plain);
            }
        }
    }

    #[test]
    fn a_huge_stride_takes_no_memory() {
        let big = 1 << 24;
        let g = ConvGeometry {
            n: 1,
            c: 1,
            h: 1,
            w: 1,
            m: 1,
            kernel: [1, 1],
            stride: [big, big],
            pad: [0, 0, big, big],
            dilation: [1, 1],
            groups: 1,
        };
        assert!(Layout::of(&g).is_none());
        let w = SparseMatrix::from_dense(1, 1, &[2.0]).unwrap();
        let mut y = vec![0.0; g.out_h() * g.out_w()];
        conv_forward(&g, &w, None, &[3.0], &mut y);
        assert_eq!(y[0], 6.0);
    }
}
