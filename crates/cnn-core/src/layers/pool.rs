//! Max and average pooling.

use super::one;
use crate::express::{Attribute, Express, Numbers};
use crate::layer::Layer;
use crate::model_file::{Decoder, Encoder};
use crate::ops::adaptive_pool::{
    adaptive_avg_pool, adaptive_avg_pool_backward, global_avg_pool, global_avg_pool_backward,
};
use crate::ops::avg_pool::{avg_pool, avg_pool_backward};
use crate::ops::max_pool::{
    has_compact_argmax, max_pool, max_pool_backward, max_pool_backward_from_input, max_pool_with_argmax,
};
use crate::ops::pool::PoolGeometry;
use crate::session::{Lowered, Lowering, kernels::pool};
use crate::tensor::{Tensor, nchw, slice, slice_mut, zeros};
use crate::train::{Backward, Input, Needs, Step, Trainable};
use crate::{Error, Result};

/// The window of a pooling layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Height and width.
    pub kernel: [usize; 2],
    /// Vertical and horizontal step.
    pub stride: [usize; 2],
    /// Padding: top, left, bottom, right; each less than the kernel.
    pub pad: [usize; 4],
    /// The output's size is rounded up, not down.
    pub ceil_mode: bool,
}

impl Window {
    /// A square window that moves by its own size.
    pub fn square(size: usize) -> Window {
        Window { kernel: [size; 2], stride: [size; 2], pad: [0; 4], ceil_mode: false }
    }

    /// The same step both ways.
    pub fn stride(mut self, stride: usize) -> Window {
        self.stride = [stride; 2];
        self
    }

    /// The same padding on all sides.
    pub fn pad(mut self, pad: usize) -> Window {
        self.pad = [pad; 4];
        self
    }

    fn geometry(&self, input: &[usize]) -> Result<PoolGeometry> {
        let [n, c, h, w] = nchw(input)?;
        let Window { kernel, stride, pad, ceil_mode } = *self;
        let sizes = [kernel, stride, [h, w]].concat();
        if sizes.iter().any(|&v| v == 0 || v > 1 << 24) {
            return Err(Error::Shape("window, step and image are at least 1 and at most 2^24".into()));
        }
        if kernel[0] * kernel[1] > 1 << 24 {
            return Err(Error::Shape(format!("a window of {kernel:?} is too large")));
        }
        let small = |pad: usize, k: usize| pad < k;
        if !(small(pad[0], kernel[0])
            && small(pad[2], kernel[0])
            && small(pad[1], kernel[1])
            && small(pad[3], kernel[1]))
        {
            return Err(Error::Shape(format!(
                "the padding {pad:?} must be smaller than the window {kernel:?}"
            )));
        }
        if kernel[0] > h + pad[0] + pad[2] || kernel[1] > w + pad[1] + pad[3] {
            return Err(Error::Shape(format!(
                "a window of {kernel:?} does not fit {h} x {w} padded by {pad:?}"
            )));
        }
        Ok(PoolGeometry { n, c, h, w, kernel, stride, pad, ceil_mode })
    }

    /// The attributes of the standard's `MaxPool` and `AveragePool`.
    fn attributes(&self) -> Vec<(&'static str, Attribute)> {
        vec![
            ("kernel_shape", Attribute::sizes(&self.kernel)),
            ("strides", Attribute::sizes(&self.stride)),
            ("pads", Attribute::sizes(&self.pad)),
            ("ceil_mode", Attribute::Int(i64::from(self.ceil_mode))),
        ]
    }

    fn encode(&self, out: &mut Encoder, flag: bool) -> Result<()> {
        let [k, _] = self.kernel;
        let square = Window { ceil_mode: self.ceil_mode, ..Window::square(k) };
        let plain = *self == square;
        out.byte(u8::from(plain) | u8::from(self.ceil_mode) << 1 | u8::from(flag) << 2);
        out.uint(k)?;
        if !plain {
            let rest = [self.kernel[1], self.stride[0], self.stride[1]];
            rest.iter().chain(&self.pad).try_for_each(|&v| out.uint(v))?;
        }
        Ok(())
    }

    fn decode(from: &mut Decoder<'_>) -> Result<(Window, bool)> {
        let flags = from.byte()?;
        if flags >> 3 != 0 {
            return Err(Error::malformed(format!("unknown flags {flags:#x} of a window")));
        }
        let k = from.uint()?;
        let mut window = Window { ceil_mode: flags & 2 != 0, ..Window::square(k) };
        if flags & 1 == 0 {
            window.kernel[1] = from.uint()?;
            window.stride = [from.uint()?, from.uint()?];
            window.pad = [from.uint()?, from.uint()?, from.uint()?, from.uint()?];
        }
        Ok((window, flags & 4 != 0))
    }
}

/// `[outputs, inputs]`: output `o` is the mean of inputs `floor(o n / m) .. ceil((o + 1) n / m)`.
fn averaging_matrix(outputs: usize, inputs: usize) -> Vec<f32> {
    let mut matrix = vec![0.0; outputs * inputs];
    for (o, row) in matrix.chunks_mut(inputs.max(1)).enumerate() {
        let (first, end) = (o * inputs / outputs, ((o + 1) * inputs).div_ceil(outputs));
        row[first..end].fill(1.0 / (end - first) as f32);
    }
    matrix
}

fn out_shape(g: &PoolGeometry) -> Vec<usize> {
    let [h, w] = g.output_size();
    vec![g.n, g.c, h, w]
}

/// The largest value of each window. NaN wins.
#[derive(Debug, Clone, Copy)]
pub struct MaxPool2d {
    /// The window.
    pub window: Window,
}

impl MaxPool2d {
    pub(super) fn decode(from: &mut Decoder<'_>) -> Result<Box<dyn Layer>> {
        Ok(Box::new(MaxPool2d { window: Window::decode(from)?.0 }))
    }
}

impl Layer for MaxPool2d {
    fn kind(&self) -> &'static str {
        "max_pool2d"
    }

    fn output_shape(&self, inputs: &[&[usize]]) -> Result<Vec<usize>> {
        Ok(out_shape(&self.window.geometry(one(inputs)?)?))
    }

    fn infer(&self, inputs: &[&Tensor]) -> Result<Tensor> {
        let x = one(inputs)?;
        let g = self.window.geometry(x.shape())?;
        let mut y = zeros(&out_shape(&g));
        max_pool(g, slice(x)?, slice_mut(&mut y)?);
        Ok(y)
    }

    fn lower(&self, at: &Lowering<'_>) -> Option<Lowered> {
        let g = self.window.geometry(&at.inputs.first()?.shape).ok()?;
        Some(pool::lower_max(at, &g))
    }

    fn encode(&self, out: &mut Encoder) -> Result<()> {
        self.window.encode(out, false)
    }

    fn express(&self, at: &mut Express<'_>) -> Result<()> {
        let x = at.input(0)?;
        let y = at.operator("MaxPool", &[x], self.window.attributes());
        at.output(y);
        Ok(())
    }

    without_parameters!();
    same_channels!();
}

impl Trainable for MaxPool2d {
    /// Windows of up to 256 positions remember where the maximum was; for larger ones it is found again.
    fn needs(&self) -> Needs {
        let [kh, kw] = self.window.kernel;
        Needs { inputs: kh.saturating_mul(kw) > 256, output: false }
    }

    fn forward(&mut self, inputs: &mut [Input<'_>], step: &mut Step<'_>) -> Result<Tensor> {
        let x = inputs[0].get();
        let g = self.window.geometry(x.shape())?;
        let mut y = step.pool.take(&out_shape(&g));
        if has_compact_argmax(g) {
            step.saved.bytes.resize(y.len(), 0);
            max_pool_with_argmax(g, slice(x)?, slice_mut(&mut y)?, &mut step.saved.bytes);
        } else {
            max_pool(g, slice(x)?, slice_mut(&mut y)?);
        }
        Ok(y)
    }

    fn backward(&mut self, at: Backward<'_>, step: &mut Step<'_>) -> Result<Vec<Option<Tensor>>> {
        let g = self.window.geometry(at.shapes[0])?;
        let mut dx = step.pool.take(at.shapes[0]);
        if has_compact_argmax(g) {
            max_pool_backward(g, &step.saved.bytes, slice(&at.grad)?, slice_mut(&mut dx)?);
        } else {
            max_pool_backward_from_input(g, slice(at.input(0)?)?, slice(&at.grad)?, slice_mut(&mut dx)?);
        }
        step.pool.give(at.grad);
        Ok(vec![Some(dx)])
    }
}

/// The mean of each window. Padding counts in the divisor if `count_include_pad`, as in PyTorch.
#[derive(Debug, Clone, Copy)]
pub struct AvgPool2d {
    /// The window.
    pub window: Window,
    /// Whether padded positions count.
    pub count_include_pad: bool,
}

impl AvgPool2d {
    pub(super) fn decode(from: &mut Decoder<'_>) -> Result<Box<dyn Layer>> {
        let (window, count_include_pad) = Window::decode(from)?;
        Ok(Box::new(AvgPool2d { window, count_include_pad }))
    }
}

impl Layer for AvgPool2d {
    fn kind(&self) -> &'static str {
        "avg_pool2d"
    }

    fn output_shape(&self, inputs: &[&[usize]]) -> Result<Vec<usize>> {
        Ok(out_shape(&self.window.geometry(one(inputs)?)?))
    }

    fn infer(&self, inputs: &[&Tensor]) -> Result<Tensor> {
        let x = one(inputs)?;
        let g = self.window.geometry(x.shape())?;
        let mut y = zeros(&out_shape(&g));
        avg_pool(g, self.count_include_pad, slice(x)?, slice_mut(&mut y)?);
        Ok(y)
    }

    fn lower(&self, at: &Lowering<'_>) -> Option<Lowered> {
        let g = self.window.geometry(&at.inputs.first()?.shape).ok()?;
        Some(pool::lower_avg(at, &g, self.count_include_pad))
    }

    fn encode(&self, out: &mut Encoder) -> Result<()> {
        self.window.encode(out, self.count_include_pad)
    }

    fn express(&self, at: &mut Express<'_>) -> Result<()> {
        let x = at.input(0)?;
        let mut attributes = self.window.attributes();
        attributes.push(("count_include_pad", Attribute::Int(i64::from(self.count_include_pad))));
        let y = at.operator("AveragePool", &[x], attributes);
        at.output(y);
        Ok(())
    }

    without_parameters!();
    same_channels!();
}

impl Trainable for AvgPool2d {
    fn needs(&self) -> Needs {
        Needs::default()
    }

    fn forward(&mut self, inputs: &mut [Input<'_>], step: &mut Step<'_>) -> Result<Tensor> {
        let x = inputs[0].get();
        let g = self.window.geometry(x.shape())?;
        let mut y = step.pool.take(&out_shape(&g));
        avg_pool(g, self.count_include_pad, slice(x)?, slice_mut(&mut y)?);
        Ok(y)
    }

    fn backward(&mut self, at: Backward<'_>, step: &mut Step<'_>) -> Result<Vec<Option<Tensor>>> {
        let g = self.window.geometry(at.shapes[0])?;
        let mut dx = step.pool.take(at.shapes[0]);
        avg_pool_backward(g, self.count_include_pad, slice(&at.grad)?, slice_mut(&mut dx)?);
        step.pool.give(at.grad);
        Ok(vec![Some(dx)])
    }
}

/// The mean of each channel: `[n, c, h, w]` to `[n, c, 1, 1]`.
#[derive(Debug, Clone, Copy)]
pub struct GlobalAvgPool;

impl GlobalAvgPool {
    pub(super) fn decode(_from: &mut Decoder<'_>) -> Result<Box<dyn Layer>> {
        Ok(Box::new(GlobalAvgPool))
    }
}

impl Layer for GlobalAvgPool {
    fn kind(&self) -> &'static str {
        "global_avg_pool"
    }

    fn output_shape(&self, inputs: &[&[usize]]) -> Result<Vec<usize>> {
        match nchw(one(inputs)?)? {
            [_, _, 0, _] | [_, _, _, 0] => Err(Error::Shape("an image is at least 1 x 1".into())),
            [n, c, ..] => Ok(vec![n, c, 1, 1]),
        }
    }

    fn infer(&self, inputs: &[&Tensor]) -> Result<Tensor> {
        let [_, _, h, w] = nchw(one(inputs)?.shape())?;
        let mut y = zeros(&self.output_shape(&[inputs[0].shape()])?);
        global_avg_pool(slice(inputs[0])?, h * w, slice_mut(&mut y)?);
        Ok(y)
    }

    fn lower(&self, at: &Lowering<'_>) -> Option<Lowered> {
        let [_, _, h, w] = nchw(&at.inputs.first()?.shape).ok()?;
        Some(pool::lower_adaptive(at, [h, w], [1, 1]))
    }

    fn encode(&self, _out: &mut Encoder) -> Result<()> {
        Ok(())
    }

    fn express(&self, at: &mut Express<'_>) -> Result<()> {
        let x = at.input(0)?;
        let y = at.operator("GlobalAveragePool", &[x], Vec::new());
        at.output(y);
        Ok(())
    }

    without_parameters!();
    same_channels!();
}

impl Trainable for GlobalAvgPool {
    fn needs(&self) -> Needs {
        Needs::default()
    }

    fn forward(&mut self, inputs: &mut [Input<'_>], step: &mut Step<'_>) -> Result<Tensor> {
        let x = inputs[0].get();
        let [n, c, h, w] = nchw(x.shape())?;
        let mut y = step.pool.take(&[n, c, 1, 1]);
        global_avg_pool(slice(x)?, h * w, slice_mut(&mut y)?);
        Ok(y)
    }

    fn backward(&mut self, at: Backward<'_>, step: &mut Step<'_>) -> Result<Vec<Option<Tensor>>> {
        let [_, _, h, w] = nchw(at.shapes[0])?;
        let mut dx = step.pool.take(at.shapes[0]);
        global_avg_pool_backward(slice(&at.grad)?, h * w, slice_mut(&mut dx)?);
        step.pool.give(at.grad);
        Ok(vec![Some(dx)])
    }
}

/// Means of a grid of bins: `[n, c, h, w]` to `[n, c, size...]`, with PyTorch's bins
/// `floor(i h / size) .. ceil((i + 1) h / size)`.
#[derive(Debug, Clone, Copy)]
pub struct AdaptiveAvgPool {
    /// Height and width of the output.
    pub size: [usize; 2],
}

impl AdaptiveAvgPool {
    pub(super) fn decode(from: &mut Decoder<'_>) -> Result<Box<dyn Layer>> {
        Ok(Box::new(AdaptiveAvgPool { size: [from.uint()?, from.uint()?] }))
    }
}

impl Layer for AdaptiveAvgPool {
    fn kind(&self) -> &'static str {
        "adaptive_avg_pool"
    }

    fn output_shape(&self, inputs: &[&[usize]]) -> Result<Vec<usize>> {
        let [n, c, h, w] = nchw(one(inputs)?)?;
        if self.size.contains(&0) || [h, w].contains(&0) {
            return Err(Error::Shape("image and grid are at least 1".into()));
        }
        Ok(vec![n, c, self.size[0], self.size[1]])
    }

    fn infer(&self, inputs: &[&Tensor]) -> Result<Tensor> {
        let x = one(inputs)?;
        let [_, _, h, w] = nchw(x.shape())?;
        let mut y = zeros(&self.output_shape(&[x.shape()])?);
        adaptive_avg_pool(slice(x)?, [h, w], self.size, slice_mut(&mut y)?);
        Ok(y)
    }

    fn lower(&self, at: &Lowering<'_>) -> Option<Lowered> {
        let [_, _, h, w] = nchw(&at.inputs.first()?.shape).ok()?;
        Some(pool::lower_adaptive(at, [h, w], self.size))
    }

    fn encode(&self, out: &mut Encoder) -> Result<()> {
        self.size.iter().try_for_each(|&v| out.uint(v))
    }

    /// The mean over windows of different sizes is a matrix on each axis: `Y = A X B^T`.
    fn express(&self, at: &mut Express<'_>) -> Result<()> {
        let [_, _, h, w] = nchw(at.shape(0)?)?;
        let [oh, ow] = self.size;
        let x = at.input(0)?;
        let rows = averaging_matrix(oh, h);
        let columns = averaging_matrix(ow, w);
        let transposed = (0..w).flat_map(|i| (0..ow).map(move |o| o * w + i)).map(|at| columns[at]).collect();
        let a = at.constant("rows", &[oh, h], Numbers::F32(rows))?;
        let b = at.constant("columns", &[w, ow], Numbers::F32(transposed))?;
        let y = at.operator("MatMul", &[a, x], Vec::new());
        let y = at.operator("MatMul", &[y, b], Vec::new());
        at.output(y);
        Ok(())
    }

    without_parameters!();
    same_channels!();
}

impl Trainable for AdaptiveAvgPool {
    fn needs(&self) -> Needs {
        Needs::default()
    }

    fn forward(&mut self, inputs: &mut [Input<'_>], step: &mut Step<'_>) -> Result<Tensor> {
        let x = inputs[0].get();
        let [_, _, h, w] = nchw(x.shape())?;
        let mut y = step.pool.take(&self.output_shape(&[x.shape()])?);
        adaptive_avg_pool(slice(x)?, [h, w], self.size, slice_mut(&mut y)?);
        Ok(y)
    }

    fn backward(&mut self, at: Backward<'_>, step: &mut Step<'_>) -> Result<Vec<Option<Tensor>>> {
        let [_, _, h, w] = nchw(at.shapes[0])?;
        let mut dx = step.pool.take(at.shapes[0]);
        adaptive_avg_pool_backward(slice(&at.grad)?, [h, w], self.size, slice_mut(&mut dx)?);
        step.pool.give(at.grad);
        Ok(vec![Some(dx)])
    }
}
