//! Convolution with pixels in the lanes.
//!
//! Where the channels-last way (see [`super::direct`]) would leave lanes empty
//! because the output channels are no multiple of a vector, or for 1x1 filters,
//! whose operands lie in NCHW order already: `y = w * columns`, the columns
//! being the image itself or its im2col copy.

use super::conv::ConvGeometry;
use super::direct::{SCRATCH, panel_width};
use super::tasks::for_each;
use crate::kernels::phases::{gather_rows, spread_rows};
use crate::kernels::scratch::{Shared, with_scratch};
use crate::kernels::tiles::{Init, Tiles};
use crate::simd::{Isa, Simd, SimdOp};

/// Pixels of a plane that is read in place.
const NEAR: usize = 1024;

/// Filters of one tap that read each pixel once: no copy is needed.
fn pointwise(g: &ConvGeometry) -> bool {
    g.kernel == [1, 1] && g.stride == [1, 1] && g.pad == [0; 4]
}

/// Vector operations: of the products, for `rows` rows of whole vectors.
fn products(isa: Isa, rows: usize, inner: usize, lanes: usize) -> usize {
    rows * inner * lanes.div_ceil(isa.lanes())
}

/// Vector operations of an im2col or col2im copy.
fn copies(isa: Isa, g: &ConvGeometry, inner: usize) -> usize {
    if pointwise(g) { 0 } else { 4 * inner * g.out_h() * g.out_w().div_ceil(isa.lanes()) }
}

/// Vector operations of transposing pixels to channels-last or back.
fn transposes(isa: Isa, pixels: usize, channels: usize) -> usize {
    6 * pixels * channels.div_ceil(isa.lanes())
}

fn possible(g: &ConvGeometry) -> bool {
    let inner = g.c / g.groups * g.taps();
    let pixels = g.out_h() * g.out_w();
    // Rows of large planes lie on a memory page each: too many for the TLB.
    let near = pixels <= NEAR || !pointwise(g);
    g.stride == [1, 1] && near && inner * (pixels + 16) <= 4 * SCRATCH
}

/// Whether this way is cheaper forward.
pub fn pays(isa: Isa, g: &ConvGeometry) -> bool {
    let (cg, mg) = (g.c / g.groups, g.m / g.groups);
    let (pixels, inner) = (g.out_h() * g.out_w(), cg * g.taps());
    let here = products(isa, mg, inner, pixels) + copies(isa, g, inner);
    let direct =
        products(isa, pixels, inner, mg) + transposes(isa, pixels, mg) + transposes(isa, g.h * g.w, cg);
    possible(g) && here < direct
}

/// Whether this way is cheaper for the gradient to the input.
pub fn pays_backward(isa: Isa, g: &ConvGeometry) -> bool {
    let (cg, mg) = (g.c / g.groups, g.m / g.groups);
    let (pixels, inner) = (g.out_h() * g.out_w(), cg * g.taps());
    let here = products(isa, inner, mg, pixels) + copies(isa, g, inner);
    let direct = products(isa, g.h * g.w, mg * g.taps(), cg)
        + transposes(isa, pixels, mg)
        + transposes(isa, g.h * g.w, cg);
    possible(g) && here < direct
}

/// A padded plane per channel: where the taps read.
struct Padded {
    height: usize,
    width: usize,
}

impl Padded {
    fn new(g: &ConvGeometry) -> Self {
        Padded { height: g.h + g.pad[0] + g.pad[2], width: g.w + g.pad[1] + g.pad[3] }
    }
    fn plane(&self) -> usize {
        self.height * self.width
    }
    fn pixel(&self, y: usize, x: usize) -> usize {
        y * self.width + x
    }
}

/// See [`super::conv::conv_forward`].
pub fn forward(isa: Isa, g: &ConvGeometry, x: &[f32], w: &[f32], bias: Option<&[f32]>, y: &mut [f32]) {
    let (cg, mg) = (g.c / g.groups, g.m / g.groups);
    let (inner, pixels) = (cg * g.taps(), g.out_h() * g.out_w());
    let in_len = cg * g.h * g.w;
    let padded = Padded::new(g);
    let width = panel_width(isa, pixels);
    let direct = pointwise(g) && pixels.is_multiple_of(isa.lanes());
    let ld = if direct { pixels } else { pixels.next_multiple_of(width) };
    // Few images: the filters are cut too. Shapes only, as always.
    let parts = 8usize.div_ceil(g.n * g.groups).min(mg.div_ceil(16));
    let rows = mg.div_ceil(parts);
    let out = Shared::new(y);
    for_each(g.n * g.groups * parts, |task| {
        let (image, rest) = (task / (g.groups * parts), task % (g.groups * parts));
        let (group, first) = (rest / parts, rest % parts * rows);
        let rows = rows.min(mg.saturating_sub(first));
        if rows == 0 {
            return;
        }
        let filter = group * mg + first;
        let x = &x[(image * g.groups + group) * in_len..][..in_len];
        // SAFETY: the output planes of this task.
        let y = unsafe {
            let at = out.ptr().add((image * g.m + filter) * pixels);
            std::slice::from_raw_parts_mut(at, rows * pixels)
        };
        if let Some(b) = bias {
            for (plane, b) in y.chunks_exact_mut(pixels).zip(&b[filter..]) {
                plane.fill(*b);
            }
        }
        let product = |columns: &[f32], y: &mut [f32]| {
            isa.run(Product {
                a: &w[filter * inner..][..rows * inner],
                a_row: inner,
                a_inner: 1,
                inner,
                b: columns,
                b_inner: ld,
                c: y,
                c_row: pixels,
                rows,
                columns: pixels,
                width,
                accumulate: bias.is_some(),
            });
        };
        if direct {
            product(x, y);
        } else {
            let planes = if pointwise(g) { 0 } else { cg * padded.plane() };
            with_scratch(planes + inner * ld, |buf| {
                let (xp, columns) = buf.split_at_mut(planes);
                isa.run(Unfold { g, padded: &padded, x, xp, columns, ld });
                product(columns, y);
            });
        }
    });
}

/// See [`super::conv::conv_backward_input`].
pub fn backward_input(isa: Isa, g: &ConvGeometry, w: &[f32], dy: &[f32], dx: &mut [f32]) {
    let (cg, mg) = (g.c / g.groups, g.m / g.groups);
    let (taps, pixels) = (g.taps(), g.out_h() * g.out_w());
    let (inner, in_plane) = (cg * taps, g.h * g.w);
    let padded = Padded::new(g);
    let width = panel_width(isa, pixels);
    let direct = pixels.is_multiple_of(isa.lanes());
    let ld = if direct { pixels } else { pixels.next_multiple_of(width) };
    let folds = !pointwise(g);
    let parts = 8usize.div_ceil(g.n * g.groups).min(cg.div_ceil(16));
    let channels = cg.div_ceil(parts);
    let out = Shared::new(dx);
    for_each(g.n * g.groups * parts, |task| {
        let (image, rest) = (task / (g.groups * parts), task % (g.groups * parts));
        let (group, first) = (rest / parts, rest % parts * channels);
        let channels = channels.min(cg.saturating_sub(first));
        if channels == 0 {
            return;
        }
        let rows = channels * taps;
        // SAFETY: the input planes of this task.
        let dx = unsafe {
            let at = (image * g.c + group * cg + first) * in_plane;
            std::slice::from_raw_parts_mut(out.ptr().add(at), channels * in_plane)
        };
        let dy = &dy[(image * g.groups + group) * mg * pixels..][..mg * pixels];
        let copied = if direct { 0 } else { mg * ld };
        let (folded, planes) = if folds { (rows * ld, channels * padded.plane()) } else { (0, 0) };
        with_scratch(copied + folded + planes, |buf| {
            let (dyp, rest) = buf.split_at_mut(copied);
            let (columns, dxp) = rest.split_at_mut(folded);
            if !direct {
                isa.run(WidenRows { src: dy, rows: mg, len: pixels, dst: dyp, ld });
            }
            let a = group * mg * inner + first * taps;
            isa.run(Product {
                a: &w[a..a + (mg - 1) * inner + rows],
                a_row: 1,
                a_inner: inner,
                inner: mg,
                b: if direct { dy } else { dyp },
                b_inner: ld,
                c: if folds { &mut *columns } else { &mut *dx },
                c_row: if folds { ld } else { pixels },
                rows,
                columns: pixels,
                width,
                accumulate: false,
            });
            if folds {
                isa.run(Fold { g, padded: &padded, columns, ld, dxp, dx });
            }
        });
    });
}

/// `c = a * b` or `c += a * b`, the columns in panels.
struct Product<'a> {
    a: &'a [f32],
    a_row: usize,
    a_inner: usize,
    inner: usize,
    b: &'a [f32],
    b_inner: usize,
    c: &'a mut [f32],
    c_row: usize,
    rows: usize,
    columns: usize,
    width: usize,
    accumulate: bool,
}

impl SimdOp for Product<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (rows, columns, inner) = (self.rows, self.columns, self.inner);
        assert!(rows > 0 && columns > 0 && inner > 0);
        assert!(self.a.len() > (rows - 1) * self.a_row + (inner - 1) * self.a_inner);
        let whole = columns.next_multiple_of(S::LANES);
        assert!(self.b_inner >= whole && self.b.len() >= (inner - 1) * self.b_inner + whole);
        assert!(self.c.len() >= (rows - 1) * self.c_row + columns);
        for at in (0..columns).step_by(self.width) {
            s.vectorize(Tiles {
                a: self.a.as_ptr(),
                a_row: self.a_row,
                a_inner: self.a_inner,
                runs: &[0],
                run_len: inner,
                b: self.b[at..].as_ptr(),
                b_inner: self.b_inner,
                next: std::ptr::null(),
                c: self.c[at..].as_mut_ptr(),
                c_row: self.c_row,
                rows,
                outer: 1,
                a_outer: 0,
                c_outer: 0,
                lanes: self.width.min(columns - at),
                init: if self.accumulate { Init::Accumulate } else { Init::Zero },
                finish: None,
            });
        }
    }
}

/// Rows copied to a larger distance, zeros between.
struct WidenRows<'a> {
    src: &'a [f32],
    rows: usize,
    len: usize,
    dst: &'a mut [f32],
    ld: usize,
}

impl SimdOp for WidenRows<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for row in self.dst.chunks_exact_mut(self.ld) {
            row[self.len..].fill(0.0);
        }
        spread_rows(s, self.src, self.rows, self.len, self.dst, self.ld);
    }
}

/// im2col: the pixels under each tap as a row of `columns`.
struct Unfold<'a> {
    g: &'a ConvGeometry,
    padded: &'a Padded,
    x: &'a [f32],
    xp: &'a mut [f32],
    columns: &'a mut [f32],
    ld: usize,
}

impl SimdOp for Unfold<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (g, p) = (self.g, self.padded);
        let (in_plane, pixels) = (g.h * g.w, g.out_h() * g.out_w());
        for row in self.columns.chunks_exact_mut(self.ld) {
            row[pixels..].fill(0.0);
        }
        let cg = g.c / g.groups;
        if self.xp.is_empty() {
            spread_rows(s, self.x, cg, pixels, self.columns, self.ld);
            return;
        }
        self.xp.fill(0.0);
        let mut rows = self.columns.chunks_exact_mut(self.ld);
        for c in 0..cg {
            let plane = &mut self.xp[c * p.plane()..][..p.plane()];
            let inside = &mut plane[p.pixel(g.pad[0], g.pad[1])..];
            spread_rows(s, &self.x[c * in_plane..][..in_plane], g.h, g.w, inside, p.width);
            for kh in 0..g.kernel[0] {
                for kw in 0..g.kernel[1] {
                    let from = p.pixel(kh * g.dilation[0], kw * g.dilation[1]);
                    if let Some(row) = rows.next() {
                        gather_rows(s, &plane[from..], p.width, g.out_h(), g.out_w(), row);
                    }
                }
            }
        }
    }
}

/// `to += from`, in pieces that are not masked: masked writes could not be
/// read back by the next tap without waiting.
#[inline(always)]
fn add_row<S: Simd>(s: S, to: &mut [f32], from: &[f32]) {
    let n = to.len().min(from.len());
    let mut i = 0;
    while i + S::LANES <= n {
        // SAFETY: i + LANES <= n, which is inside both slices.
        unsafe {
            let d = to.as_mut_ptr().add(i);
            s.store(d, s.add(s.load(d), s.load(from.as_ptr().add(i))));
        }
        i += S::LANES;
    }
    let (to, to_rest) = to[i..n].as_chunks_mut::<4>();
    let (from, from_rest) = from[i..n].as_chunks::<4>();
    for (d, v) in to.iter_mut().zip(from) {
        *d = [d[0] + v[0], d[1] + v[1], d[2] + v[2], d[3] + v[3]];
    }
    for (d, v) in to_rest.iter_mut().zip(from_rest) {
        *d += v;
    }
}

/// col2im: adds the rows of `columns` to the pixels under each tap.
struct Fold<'a> {
    g: &'a ConvGeometry,
    padded: &'a Padded,
    columns: &'a [f32],
    ld: usize,
    dxp: &'a mut [f32],
    dx: &'a mut [f32],
}

impl SimdOp for Fold<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (g, p) = (self.g, self.padded);
        let (oh, ow, in_plane) = (g.out_h(), g.out_w(), g.h * g.w);
        self.dxp.fill(0.0);
        let mut rows = self.columns.chunks_exact(self.ld);
        let planes = self.dxp.chunks_exact_mut(p.plane());
        for (plane, dx) in planes.zip(self.dx.chunks_exact_mut(in_plane)) {
            for kh in 0..g.kernel[0] {
                for kw in 0..g.kernel[1] {
                    let Some(row) = rows.next() else { return };
                    for y in 0..oh {
                        let at = p.pixel(y + kh * g.dilation[0], kw * g.dilation[1]);
                        let to = &mut plane[at..at + ow];
                        let from = &row[y * ow..(y + 1) * ow];
                        add_row(s, to, from);
                    }
                }
            }
            let inside = &plane[p.pixel(g.pad[0], g.pad[1])..];
            gather_rows(s, inside, p.width, g.h, g.w, dx);
        }
    }
}
