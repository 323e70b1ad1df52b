//! The geometry shared by max and average pooling.

use std::ops::Range;

use super::multiversion::unmasked;

/// Input shape `[n, c, h, w]` and window of a pooling layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolGeometry {
    /// Images.
    pub n: usize,
    /// Channels.
    pub c: usize,
    /// Height.
    pub h: usize,
    /// Width.
    pub w: usize,
    /// Window height and width.
    pub kernel: [usize; 2],
    /// Vertical and horizontal step between windows.
    pub stride: [usize; 2],
    /// Padding: top, left, bottom, right. Each must be smaller than the kernel along its axis, so
    /// that every window holds an input element.
    pub pad: [usize; 4],
    /// Round the output size up: the last window may reach past the padding.
    pub ceil_mode: bool,
}

impl PoolGeometry {
    /// Output height and width, by PyTorch's rule.
    pub fn output_size(&self) -> [usize; 2] {
        let [top, left, bottom, right] = self.pad;
        let [kh, kw] = self.kernel;
        let [sh, sw] = self.stride;
        [
            output_length(self.h, kh, sh, top, bottom, self.ceil_mode),
            output_length(self.w, kw, sw, left, right, self.ceil_mode),
        ]
    }

    /// Number of `[h, w]` planes, `n * c`.
    pub fn planes(&self) -> usize {
        self.n * self.c
    }

    /// Checks the sizes of an input and an output slice and returns the plane sizes
    /// `(h * w, oh * ow)`.
    pub(crate) fn check(&self, input_len: usize, output_len: usize) -> (usize, usize) {
        let [oh, ow] = self.output_size();
        assert_eq!(input_len, self.planes() * self.h * self.w);
        assert_eq!(output_len, self.planes() * oh * ow);
        (self.h * self.w, oh * ow)
    }

    /// The rows `ky` of the window of output row `oy` that lie inside the input, and the input row
    /// of the first one.
    #[inline(always)]
    pub(crate) fn window_rows(&self, oy: usize) -> (Range<usize>, usize) {
        let start = oy * self.stride[0];
        let top = self.pad[0];
        let first = top.saturating_sub(start);
        let end = self.kernel[0].min(self.h + top - start);
        (first..end, start + first - top)
    }

    /// Width of one padded row that covers all windows: `left` padding, the input, and what the
    /// last window reaches beyond, rounded so that pairs and triples at stride 2 can be read.
    pub(crate) fn padded_width(&self) -> usize {
        let ow = self.output_size()[1];
        let windows = (ow - 1) * self.stride[1] + self.kernel[1];
        windows.max(self.pad[1] + self.w) + 1
    }
}

fn output_length(
    input: usize,
    kernel: usize,
    stride: usize,
    before: usize,
    after: usize,
    ceil_mode: bool,
) -> usize {
    assert!(kernel > 0 && stride > 0 && input > 0);
    assert!(before < kernel && after < kernel, "padding must be smaller than the kernel");
    let padded = input + before + after;
    assert!(padded >= kernel, "window larger than the padded input");
    let steps = padded - kernel;
    if !ceil_mode {
        return steps / stride + 1;
    }
    let last = steps.div_ceil(stride);
    // The last window must start inside the input or the leading padding.
    if last * stride >= input + before { last } else { last + 1 }
}

/// `f(out[i], row[i * stride])`, with separate loops for the common strides so that they vectorize.
#[inline(always)]
pub(crate) fn zip_strided(out: &mut [f32], row: &[f32], stride: usize, f: impl Fn(f32, f32) -> f32) {
    match stride {
        1 => out.iter_mut().zip(row).for_each(|(o, &v)| *o = unmasked(f(*o, v))),
        2 => {
            let pairs = row.as_chunks::<2>().0;
            out.iter_mut().zip(pairs).for_each(|(o, p)| *o = unmasked(f(*o, p[0])));
        }
        _ => {
            let values = row.iter().step_by(stride);
            out.iter_mut().zip(values).for_each(|(o, &v)| *o = unmasked(f(*o, v)));
        }
    }
}
