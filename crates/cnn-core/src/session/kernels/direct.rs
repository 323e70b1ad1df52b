//! Convolution as one matrix product without a matrix of columns: implicit GEMM.
//!
//! In channels-last memory the floats under a filter row are one run, and the runs of neighbouring pixels overlap, so the left
//! operand is the image itself, or for padded images a copy of a few rows with zeros around them. A first layer reads the
//! caller's planes as they are: there the runs are pieces of rows of one plane.

use super::Ending;
use super::panels;
use crate::Result;
use crate::kernels::tiles::{Init, Tiles};
use crate::ops::conv::ConvGeometry;
use crate::session::floats::Floats;
use crate::session::kernel::{Inputs, Kernel, Part, Target, View};
use crate::session::lowering::{Layout, Lowered, Lowering};
use crate::simd::Isa;
use std::sync::Arc;

/// Name of the algorithm.
pub(super) const NAME: &str = "direct";

/// Most channels of an input that is read as planes.
const PLANES: usize = 4;

/// A dense or grouped convolution by products of panels of filters with runs of the image.
#[derive(Debug)]
pub(super) struct Direct {
    isa: Isa,
    g: ConvGeometry,
    form: Form,
    width: usize,
    /// `[group][panel][inner][width]`.
    weights: Arc<Floats>,
    /// `[group][panel][width]`.
    bias: Floats,
    ending: Ending,
    residual: bool,
    parts: Vec<Part>,
}

/// How the left operand lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// 1 x 1 with step 1: pixels are rows of the product, whatever image they are of.
    Pointwise,
    /// Channels-last, read in place.
    InPlace,
    /// Channels-last, rows copied with zeros around them.
    Padded,
    /// Planar, rows of planes copied with zeros around them.
    Planes,
}

impl Direct {
    /// `weights`: `m x c / groups x kh x kw`, `bias`: `m`, both with the epilogue folded in.
    pub fn lower(at: &Lowering<'_>, g: &ConvGeometry, weights: &[f32], bias: &[f32]) -> Lowered {
        let isa = at.isa;
        let (cg, mg, taps) = (g.c / g.groups, g.m / g.groups, g.taps());
        let unpadded = g.pad == [0; 4];
        let form = if g.groups == 1 && g.c <= PLANES && at.inputs[0].layout == Layout::Planar && taps > 1 {
            Form::Planes
        } else if taps == 1 && unpadded && g.stride == [1, 1] && g.groups == 1 {
            Form::Pointwise
        } else if unpadded {
            Form::InPlace
        } else {
            Form::Padded
        };
        let width = panels::width(isa, mg);
        let (inner, in_panels) = (taps * cg, mg.div_ceil(width));
        let key = if form == Form::Planes { "direct planes" } else { "direct" };
        let packed = at.shared(key, || {
            let mut all = Floats::zeros(g.groups * in_panels * inner * width);
            let mut turned = vec![0.0; mg * inner];
            for (group, dst) in all.chunks_mut(in_panels * inner * width).enumerate() {
                let source = &weights[group * mg * inner..][..mg * inner];
                // [m][c][tap] to [m][tap][c], the order of the runs
                for (to, from) in turned.chunks_mut(inner).zip(source.chunks(inner)) {
                    match form {
                        Form::Planes => to.copy_from_slice(from),
                        _ => (0..inner).for_each(|i| to[i] = from[i % cg * taps + i / cg]),
                    }
                }
                dst.copy_from_slice(&panels::pack(isa, mg, inner, width, &turned));
            }
            all
        });
        let mut padded_bias = Floats::zeros(g.groups * in_panels * width);
        for (to, from) in padded_bias.chunks_mut(in_panels * width).zip(bias.chunks(mg)) {
            to[..mg].copy_from_slice(from);
        }
        let mut kernel = Direct {
            isa,
            g: *g,
            form,
            width,
            weights: packed,
            bias: padded_bias,
            ending: Ending::new(at.epilogue.activation),
            residual: at.epilogue.residual,
            parts: Vec::new(),
        };
        kernel.parts = kernel.cut();
        let layout = if form == Form::Planes { Layout::Planar } else { Layout::ChannelsLast };
        Lowered { inputs: vec![layout], ..Lowered::channels_last(kernel) }
    }

    fn cut(&self) -> Vec<Part> {
        let g = &self.g;
        let (oh, ow) = (g.out_h(), g.out_w());
        let (cg, mg) = (g.c / g.groups, g.m / g.groups);
        let in_panels = mg.div_ceil(self.width);
        let inner = g.taps() * cg;
        let vectors = self.width / self.isa.lanes();
        let cost = g.n * oh * ow * inner * in_panels * vectors * g.groups;
        let weight_bytes = self.weights.len() * 4;
        let mut parts = Vec::new();
        let mut push = |pixels: std::ops::Range<usize>, columns: usize| {
            for group in 0..g.groups {
                for i in 0..columns {
                    let panels = panels::piece(in_panels, columns, i);
                    let first = group * mg + panels.start * self.width;
                    let last = group * mg + mg.min(panels.end * self.width);
                    parts.push(Part { pixels: pixels.clone(), channels: first..last });
                }
            }
        };
        if self.form == Form::Pointwise {
            let pixels = g.n * oh * ow;
            let (pieces, columns) = panels::cut(pixels, g.c, in_panels, weight_bytes, cost);
            (0..pieces).for_each(|i| push(panels::piece(pixels, pieces, i), columns));
        } else {
            let row = g.stride[0] * (ow - 1) * g.stride[1] * cg + g.kernel[1] * cg;
            let (pieces, columns) = panels::cut(oh, row, in_panels, weight_bytes, cost / (g.n * g.groups));
            for image in 0..g.n {
                for i in 0..pieces {
                    let rows = panels::piece(oh, pieces, i);
                    push((image * oh + rows.start) * ow..(image * oh + rows.end) * ow, columns);
                }
            }
        }
        parts
    }

    /// Input rows under so many output rows, and pixels in a row of a padded copy.
    fn reach(&self, rows: usize) -> (usize, usize) {
        let g = &self.g;
        let under = |count: usize, axis: usize| {
            (count - 1) * g.stride[axis] + (g.kernel[axis] - 1) * g.dilation[axis] + 1
        };
        (under(rows, 0), under(g.out_w(), 1))
    }

    /// Rows of pixels `first..last` of one plane, with zeros around.
    fn copy_plane(&self, plane: &[f32], first: isize, rows: usize, width: usize, dst: &mut [f32]) {
        let g = &self.g;
        let left = g.pad[1].min(width);
        let inside = g.w.min(width - left);
        for (r, dst) in dst.chunks_mut(width).take(rows).enumerate() {
            let y = first + r as isize;
            if y < 0 || y >= g.h as isize {
                dst.fill(0.0);
                continue;
            }
            dst[..left].fill(0.0);
            dst[left..left + inside].copy_from_slice(&plane[y as usize * g.w..][..inside]);
            dst[left + inside..].fill(0.0);
        }
    }

    /// The same for the channels of a group of channels-last pixels.
    fn copy_pixels(
        &self,
        x: View<'_>,
        image: usize,
        group: usize,
        first: isize,
        rows: usize,
        dst: &mut [f32],
    ) {
        let g = &self.g;
        let (c, c0) = (g.c / g.groups, group * (g.c / g.groups));
        let (_, width) = self.reach(1);
        let left = g.pad[1].min(width);
        let inside = g.w.min(width - left);
        for (r, dst) in dst.chunks_mut(width * c).take(rows).enumerate() {
            let y = first + r as isize;
            if y < 0 || y >= g.h as isize {
                dst.fill(0.0);
                continue;
            }
            dst[..left * c].fill(0.0);
            dst[(left + inside) * c..].fill(0.0);
            let start = (image * g.h + y as usize) * g.w;
            for (i, dst) in dst[left * c..].chunks_mut(c).take(inside).enumerate() {
                dst.copy_from_slice(&x.pixel(start + i)[c0..c0 + c]);
            }
        }
    }

    /// Starts of the runs of inner indices for the filter at one pixel; `visit` is called for each.
    fn visit_runs(&self, row: usize, pixel: usize, plane: usize, mut visit: impl FnMut(usize)) {
        let g = &self.g;
        let channels = if self.form == Form::Planes { g.c } else { 1 };
        for c in 0..channels {
            for kh in 0..g.kernel[0] {
                let start = c * plane + kh * g.dilation[0] * row;
                if self.joined(pixel) {
                    visit(start);
                } else {
                    (0..g.kernel[1]).for_each(|kw| visit(start + kw * g.dilation[1] * pixel));
                }
            }
        }
    }

    /// True if the floats under a filter row are one run.
    fn joined(&self, pixel: usize) -> bool {
        let gapless = if self.form == Form::Planes { pixel == 1 } else { pixel == self.g.c / self.g.groups };
        self.g.dilation[1] == 1 && gapless
    }
}

/// Most runs under a filter that are kept on the stack.
const MOST_RUNS: usize = 512;

impl Kernel for Direct {
    fn algorithm(&self) -> &'static str {
        NAME
    }

    fn parts(&self) -> Vec<Part> {
        self.parts.clone()
    }

    fn scratch(&self) -> usize {
        let g = &self.g;
        let rows = self.parts.iter().map(|p| p.pixels.len() / g.out_w()).max().unwrap_or(1).max(1);
        let (rows, width) = self.reach(rows);
        match self.form {
            Form::Pointwise | Form::InPlace => 0,
            Form::Padded => rows * width * g.c / g.groups,
            Form::Planes => rows * width * g.c,
        }
    }

    fn weight_bytes(&self) -> usize {
        (self.weights.len() + self.bias.len()) * 4
    }

    fn run(&self, inputs: Inputs<'_>, mut out: Target<'_>, scratch: &mut [f32]) -> Result<()> {
        let g = &self.g;
        let (x, part) = (inputs.get(0), out.part());
        let residual = self.residual.then(|| inputs.get(1));
        let (cg, mg) = (g.c / g.groups, g.m / g.groups);
        let (oh, ow) = (g.out_h(), g.out_w());
        let group = part.channels.start / mg;
        let inner = g.taps() * cg;
        // rows of the product, groups of rows, and their distances in the left operand
        let (rows, outer) = match self.form {
            Form::Pointwise => (part.pixels.len(), 1),
            _ => (ow, part.pixels.len() / ow),
        };
        let (image, y) = (part.pixels.start / (oh * ow), part.pixels.start / ow % oh);
        let first = (y * g.stride[0]) as isize - g.pad[0] as isize;
        let (in_rows, width) = self.reach(outer);
        let (a, row, pixel, plane) = match self.form {
            Form::Pointwise => (x.as_ptr().wrapping_add(part.pixels.start * x.pitch), 0, x.pitch, 0),
            Form::InPlace => {
                let start = ((image * g.h + y * g.stride[0]) * g.w) * x.pitch + group * cg;
                (x.as_ptr().wrapping_add(start), g.w * x.pitch, x.pitch, 0)
            }
            Form::Padded => {
                self.copy_pixels(x, image, group, first, in_rows, scratch);
                (scratch.as_ptr(), width * cg, cg, 0)
            }
            Form::Planes => {
                let (plane, floats) = (in_rows * width, g.h * g.w);
                for c in 0..g.c {
                    let source = &x.pixel(image)[c * floats..(c + 1) * floats];
                    self.copy_plane(source, first, in_rows, width, &mut scratch[c * plane..]);
                }
                (scratch.as_ptr(), width, 1, plane)
            }
        };
        let joined = self.joined(pixel);
        let run_len = match (self.form, joined) {
            (Form::Planes, true) => g.kernel[1],
            (Form::Planes, false) => 1,
            (_, true) => g.kernel[1] * cg,
            (_, false) => cg,
        };
        let mut runs = [0usize; MOST_RUNS];
        let mut count = 0;
        self.visit_runs(row, pixel, plane, |start| {
            if let Some(run) = runs.get_mut(count) {
                *run = start;
            }
            count += 1;
        });
        let runs = &runs[..count.min(MOST_RUNS)];
        let panels = (part.channels.start - group * mg) / self.width
            ..(part.channels.end - group * mg).div_ceil(self.width);
        for panel in panels {
            let at = group * mg.div_ceil(self.width) + panel;
            let channel = group * mg + panel * self.width;
            let mut b = self.weights[at * inner * self.width..][..inner * self.width].as_ptr();
            let (mut init, pieces) =
                (Init::Row(self.bias[at * self.width..].as_ptr()), pieces(runs, run_len));
            for (i, (runs, start, len)) in pieces.clone().enumerate() {
                let next = b.wrapping_add(runs.len() * len * self.width);
                let last = i + 1 == pieces.len();
                self.isa.run(Tiles {
                    a: a.wrapping_add(start),
                    a_row: pixel * if self.form == Form::Pointwise { 1 } else { g.stride[1] },
                    a_inner: 1,
                    runs,
                    run_len: len,
                    b,
                    b_inner: self.width,
                    next,
                    c: out.as_ptr().wrapping_add(part.pixels.start * out.pitch() + channel),
                    c_row: out.pitch(),
                    rows,
                    outer,
                    a_outer: row * g.stride[0],
                    c_outer: ow * out.pitch(),
                    lanes: self.width.min(part.channels.end - channel),
                    init,
                    finish: last.then(|| self.ending.at(residual, part.pixels.start, channel, ow)),
                });
                (b, init) = (next, Init::Accumulate);
            }
        }
        self.ending.finish(&mut out, part.pixels.clone());
        Ok(())
    }
}

/// Rows of a panel that stay in the first-level cache while all pixels of a part go by.
const PIECE: usize = 256;

/// The runs in pieces of about [`PIECE`] inner indices: some whole runs, or one from an index on, and the length of each.
fn pieces(runs: &[usize], len: usize) -> impl ExactSizeIterator<Item = (&[usize], usize, usize)> + Clone {
    let (together, cuts) = ((PIECE / len.max(1)).max(1), len.div_ceil(PIECE).max(1));
    let groups = runs.len().div_ceil(together);
    (0..groups * cuts).map(move |i| {
        let group = &runs[i / cuts * together..runs.len().min((i / cuts + 1) * together)];
        let piece = panels::piece(len, cuts, i % cuts);
        (group, piece.start, piece.len())
    })
}

/// True if the kernel can do this convolution: its filters have not too many separate runs.
pub(super) fn fits(g: &ConvGeometry) -> bool {
    g.taps() * if g.c <= PLANES { g.c } else { 1 } <= MOST_RUNS
}
