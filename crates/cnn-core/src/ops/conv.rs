//! Two-dimensional convolution: forward and the gradients, any geometry.

use super::tasks::{for_each, part};
use super::{columns, depthwise, depthwise_small, direct, direct_input, direct_weights, winograd};
use crate::kernels::scratch::Shared;
use crate::simd::Isa;

/// Shapes of a convolution over NCHW images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConvGeometry {
    /// Images.
    pub n: usize,
    /// Input channels.
    pub c: usize,
    /// Input height.
    pub h: usize,
    /// Input width.
    pub w: usize,
    /// Filters, that is output channels.
    pub m: usize,
    /// Filter height and width.
    pub kernel: [usize; 2],
    /// Vertical and horizontal stride.
    pub stride: [usize; 2],
    /// Zeros at the top, left, bottom and right.
    pub pad: [usize; 4],
    /// Vertical and horizontal dilation, 1 for a dense filter.
    pub dilation: [usize; 2],
    /// Groups of channels; `c` and `m` must be multiples.
    pub groups: usize,
}

fn out_len(size: usize, pads: usize, kernel: usize, stride: usize, dilation: usize) -> usize {
    let reach = dilation * (kernel - 1) + 1;
    (size + pads).checked_sub(reach).map_or(0, |free| free / stride + 1)
}

impl ConvGeometry {
    /// Output height, 0 if the filter does not fit.
    pub fn out_h(&self) -> usize {
        let pads = self.pad[0] + self.pad[2];
        out_len(self.h, pads, self.kernel[0], self.stride[0], self.dilation[0])
    }
    /// Output width, 0 if the filter does not fit.
    pub fn out_w(&self) -> usize {
        let pads = self.pad[1] + self.pad[3];
        out_len(self.w, pads, self.kernel[1], self.stride[1], self.dilation[1])
    }
    /// Multiplications of one pass, padding included.
    pub fn macs(&self) -> u64 {
        self.out_len() as u64 * (self.c / self.groups * self.taps()) as u64
    }
    pub(crate) fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }
    pub(crate) fn in_len(&self) -> usize {
        self.n * self.c * self.h * self.w
    }
    pub(crate) fn out_len(&self) -> usize {
        self.n * self.m * self.out_h() * self.out_w()
    }
    pub(crate) fn weight_len(&self) -> usize {
        self.m * (self.c / self.groups) * self.taps()
    }
    pub(crate) fn is_depthwise(&self) -> bool {
        self.groups == self.c && self.groups > 1
    }
    /// Hard checks that the unsafe code below the entry points relies on.
    fn check(&self, x: usize, w: usize, y: usize) {
        assert!(self.groups > 0 && self.c.is_multiple_of(self.groups));
        assert!(self.m.is_multiple_of(self.groups));
        assert!(self.kernel.iter().all(|&v| v > 0));
        assert!(self.stride.iter().all(|&v| v > 0));
        assert!(self.dilation.iter().all(|&v| v > 0));
        assert_eq!(x, self.in_len(), "input length");
        assert_eq!(w, self.weight_len(), "weight length");
        assert_eq!(y, self.out_len(), "output length");
    }
}

/// `y = x * w + bias`.
///
/// `x`: `n x c x h x w`, `w`: `m x c/groups x kh x kw`, `bias`: `m`,
/// `y`: `n x m x out_h x out_w`, overwritten.
pub fn conv_forward(g: &ConvGeometry, x: &[f32], w: &[f32], bias: Option<&[f32]>, y: &mut [f32]) {
    conv_forward_on(Isa::active(), g, x, w, bias, y);
}

/// As [`conv_forward`], without Winograd's transforms, whose rounding is about 1e-6 of the largest value: for the reference
/// answer.
pub fn conv_forward_exact(g: &ConvGeometry, x: &[f32], w: &[f32], bias: Option<&[f32]>, y: &mut [f32]) {
    forward(Isa::active(), g, x, w, bias, y, false);
}

/// [`conv_forward`] on a given instruction set.
pub fn conv_forward_on(
    isa: Isa,
    g: &ConvGeometry,
    x: &[f32],
    w: &[f32],
    bias: Option<&[f32]>,
    y: &mut [f32],
) {
    forward(isa, g, x, w, bias, y, true);
}

fn forward(
    isa: Isa,
    g: &ConvGeometry,
    x: &[f32],
    w: &[f32],
    bias: Option<&[f32]>,
    y: &mut [f32],
    transforms: bool,
) {
    g.check(x.len(), w.len(), y.len());
    assert!(bias.is_none_or(|b| b.len() == g.m), "bias length");
    if y.is_empty() {
        return;
    }
    if g.is_depthwise() && depthwise_small::pays(isa, g) {
        depthwise_small::forward(isa, g, x, w, bias, y);
    } else if g.is_depthwise() {
        depthwise::forward(isa, g, x, w, bias, y);
    } else if transforms && winograd::pays(isa, g) {
        winograd::forward(isa, g, x, w, bias, y);
    } else if columns::pays(isa, g) {
        columns::forward(isa, g, x, w, bias, y);
    } else {
        direct::forward(isa, g, x, w, bias, y);
    }
}

/// Gradient to the input: `dx` (`n x c x h x w`, overwritten) from
/// `w` (`m x c/groups x kh x kw`) and `dy` (`n x m x out_h x out_w`).
pub fn conv_backward_input(g: &ConvGeometry, w: &[f32], dy: &[f32], dx: &mut [f32]) {
    conv_backward_input_on(Isa::active(), g, w, dy, dx);
}

/// [`conv_backward_input`] on a given instruction set.
pub fn conv_backward_input_on(isa: Isa, g: &ConvGeometry, w: &[f32], dy: &[f32], dx: &mut [f32]) {
    g.check(dx.len(), w.len(), dy.len());
    if dy.is_empty() || dx.is_empty() {
        dx.fill(0.0);
    } else if g.is_depthwise() && depthwise_small::pays(isa, g) {
        depthwise_small::backward_input(isa, g, w, dy, dx);
    } else if g.is_depthwise() {
        depthwise::backward_input(isa, g, w, dy, dx);
    } else if winograd::pays_backward(isa, g) {
        winograd::backward_input(isa, g, w, dy, dx);
    } else if columns::pays_backward(isa, g) {
        columns::backward_input(isa, g, w, dy, dx);
    } else {
        direct_input::backward_input(isa, g, w, dy, dx);
    }
}

/// Gradient to the weights: `dw` (`m x c/groups x kh x kw`, overwritten) from
/// `x` (`n x c x h x w`) and `dy` (`n x m x out_h x out_w`).
pub fn conv_backward_weights(g: &ConvGeometry, x: &[f32], dy: &[f32], dw: &mut [f32]) {
    conv_backward_weights_on(Isa::active(), g, x, dy, dw);
}

/// [`conv_backward_weights`] on a given instruction set.
pub fn conv_backward_weights_on(isa: Isa, g: &ConvGeometry, x: &[f32], dy: &[f32], dw: &mut [f32]) {
    g.check(x.len(), dw.len(), dy.len());
    if dy.is_empty() || dw.is_empty() {
        dw.fill(0.0);
    } else if g.is_depthwise() && depthwise_small::pays(isa, g) {
        depthwise_small::backward_weights(isa, g, x, dy, dw);
    } else if g.is_depthwise() {
        depthwise::backward_weights(isa, g, x, dy, dw);
    } else if winograd::pays(isa, g) {
        winograd::backward_weights(isa, g, x, dy, dw);
    } else {
        direct_weights::backward_weights(isa, g, x, dy, dw);
    }
}

/// Gradient to the bias: `db` (`m`, overwritten) sums `dy` (`n x m x out_h x out_w`)
/// over images and pixels.
pub fn conv_backward_bias(g: &ConvGeometry, dy: &[f32], db: &mut [f32]) {
    assert_eq!(dy.len(), g.out_len(), "output length");
    assert_eq!(db.len(), g.m, "bias length");
    let plane = g.out_h() * g.out_w();
    let parts = g.m.min(8);
    let out = Shared::new(db);
    for_each(parts, |i| {
        let (first, last) = part(g.m, parts, i);
        for m in first..last {
            let mut sum = 0.0;
            for n in 0..g.n {
                let at = (n * g.m + m) * plane;
                sum += plane_sum(&dy[at..at + plane]);
            }
            // SAFETY: m < db.len(), and each m belongs to one part.
            unsafe { *out.ptr().add(m) = sum };
        }
    });
}

/// Sum with sixteen partial sums, which the compiler turns into vectors.
fn plane_sum(plane: &[f32]) -> f32 {
    let mut lanes = [0.0f32; 16];
    let chunks = plane.chunks_exact(16);
    let rest: f32 = chunks.remainder().iter().sum();
    for chunk in chunks {
        for (lane, v) in lanes.iter_mut().zip(chunk) {
            *lane += v;
        }
    }
    lanes.iter().sum::<f32>() + rest
}
