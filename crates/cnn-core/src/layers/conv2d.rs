//! Two-dimensional convolution.

use super::one;
use crate::cost::{Cost, Macs};
use crate::express::{Attribute, Express};
use crate::layer::{ChannelRule, Keep, Layer};
use crate::model_file::{Decoder, Encoder};
use crate::ops::conv::{
    ConvGeometry, conv_backward_bias, conv_backward_input, conv_backward_weights, conv_forward,
    conv_forward_exact,
};
use crate::param::{Param, Role};
use crate::session::kernels::conv;
use crate::session::{Lowered, Lowering};
use crate::tensor::{Tensor, nchw, slice, slice_mut, zeros};
use crate::train::{Backward, Input, Needs, Step, Trainable};
use crate::{Error, Result};

/// Stride, padding, dilation and groups of a convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConvOptions {
    /// Vertical and horizontal step.
    pub stride: [usize; 2],
    /// Zeros around the input: top, left, bottom, right.
    pub pad: [usize; 4],
    /// Distance between kernel elements.
    pub dilation: [usize; 2],
    /// Input and output channels are split into so many independent groups; depthwise when equal to the channels.
    pub groups: usize,
}

impl Default for ConvOptions {
    fn default() -> ConvOptions {
        ConvOptions { stride: [1, 1], pad: [0; 4], dilation: [1, 1], groups: 1 }
    }
}

impl ConvOptions {
    /// The same stride both ways.
    pub fn stride(mut self, stride: usize) -> ConvOptions {
        self.stride = [stride; 2];
        self
    }

    /// The same padding on all sides.
    pub fn pad(mut self, pad: usize) -> ConvOptions {
        self.pad = [pad; 4];
        self
    }

    /// A number of groups.
    pub fn groups(mut self, groups: usize) -> ConvOptions {
        self.groups = groups;
        self
    }

    /// The geometry of the convolution of an input `[n, c, h, w]` with `m` filters, checked.
    ///
    /// # Errors
    /// If the channels do not divide into the groups, a size is zero, or the kernel does not fit the padded input.
    pub fn geometry(&self, input: &[usize], m: usize, kernel: [usize; 2]) -> Result<ConvGeometry> {
        let [n, c, h, w] = nchw(input)?;
        let ConvOptions { stride, pad, dilation, groups } = *self;
        if kernel.contains(&0)
            || stride.contains(&0)
            || dilation.contains(&0)
            || groups == 0
            || m == 0
            || c == 0
        {
            return Err(Error::Shape("kernel, stride, dilation, groups and channels are at least 1".into()));
        }
        if !c.is_multiple_of(groups) || !m.is_multiple_of(groups) {
            return Err(Error::Shape(format!(
                "{c} input and {m} output channels do not divide into {groups} groups"
            )));
        }
        // the padded size, and by how much it exceeds the kernel: the largest step that makes a difference, plus one
        let fits = |size: usize, before: usize, after: usize, k: usize, d: usize| {
            let reach = (k - 1).checked_mul(d)?.checked_add(1)?;
            let padded = size.checked_add(before)?.checked_add(after)?;
            (size > 0).then_some((padded, padded.checked_sub(reach)? + 1))
        };
        let vertical = fits(h, pad[0], pad[2], kernel[0], dilation[0]);
        let horizontal = fits(w, pad[1], pad[3], kernel[1], dilation[1]);
        let (Some((padded_h, most_h)), Some((padded_w, most_w))) = (vertical, horizontal) else {
            return Err(Error::Shape(format!(
                "a kernel of {kernel:?} with dilation {dilation:?} does not fit an input of {h} x {w} padded by {pad:?}"
            )));
        };
        let padded = padded_h.checked_mul(padded_w).and_then(|p| p.checked_mul(c));
        if padded.is_none_or(|p| p > MOST_PADDED) {
            return Err(Error::Shape(format!("an input of {c} x {h} x {w} padded by {pad:?} is too large")));
        }
        let stride = [stride[0].min(most_h), stride[1].min(most_w)];
        Ok(ConvGeometry { n, c, h, w, m, kernel, stride, pad, dilation, groups })
    }

    /// The attributes of the standard's `Conv`.
    pub fn attributes(&self, kernel: [usize; 2]) -> Vec<(&'static str, Attribute)> {
        vec![
            ("kernel_shape", Attribute::sizes(&kernel)),
            ("strides", Attribute::sizes(&self.stride)),
            ("pads", Attribute::sizes(&self.pad)),
            ("dilations", Attribute::sizes(&self.dilation)),
            ("group", Attribute::Int(self.groups as i64)),
        ]
    }

    fn out_shape(g: &ConvGeometry) -> Vec<usize> {
        vec![g.n, g.m, g.out_h(), g.out_w()]
    }

    /// Writes one byte of flags and what differs from the default.
    ///
    /// # Errors
    /// As [`Encoder::uint`].
    pub fn encode(&self, out: &mut Encoder) -> Result<()> {
        let d = ConvOptions::default();
        let square_pad = self.pad == [self.pad[0]; 4];
        let flags = u8::from(self.stride != d.stride)
            | u8::from(self.pad != d.pad) << 1
            | u8::from(!square_pad) << 2
            | u8::from(self.dilation != d.dilation) << 3
            | u8::from(self.groups != d.groups) << 4;
        out.byte(flags);
        if self.stride != d.stride {
            self.stride.iter().try_for_each(|&v| out.uint(v))?;
        }
        if self.pad != d.pad {
            self.pad[..if square_pad { 1 } else { 4 }].iter().try_for_each(|&v| out.uint(v))?;
        }
        if self.dilation != d.dilation {
            self.dilation.iter().try_for_each(|&v| out.uint(v))?;
        }
        if self.groups != d.groups {
            out.uint(self.groups)?;
        }
        Ok(())
    }

    /// Reads what [`ConvOptions::encode`] wrote.
    ///
    /// # Errors
    /// If the bytes are not such options.
    pub fn decode(from: &mut Decoder<'_>) -> Result<ConvOptions> {
        let mut options = ConvOptions::default();
        let flags = from.byte()?;
        if flags >> 5 != 0 {
            return Err(Error::malformed(format!("unknown flags {flags:#x} of a convolution")));
        }
        if flags & 1 != 0 {
            options.stride = [from.uint()?, from.uint()?];
        }
        if flags & 2 != 0 {
            let first = from.uint()?;
            options.pad = match flags & 4 {
                0 => [first; 4],
                _ => [first, from.uint()?, from.uint()?, from.uint()?],
            };
        }
        if flags & 8 != 0 {
            options.dilation = [from.uint()?, from.uint()?];
        }
        if flags & 16 != 0 {
            options.groups = from.uint()?;
        }
        Ok(options)
    }
}

/// Elements of a padded image beyond which a convolution is refused: 2 GiB.
const MOST_PADDED: usize = 1 << 29;

/// Convolution of an NCHW batch with `m` filters of `c / groups x kh x kw` (cross-correlation, as everywhere in the
/// field). SPEC 1: `H W N K^2 M` multiply-adds.
#[derive(Debug, Clone)]
pub struct Conv2d {
    weight: Param,
    bias: Option<Param>,
    /// Stride, padding, dilation, groups. Replaced through graph edits when shapes change.
    pub options: ConvOptions,
}

impl Conv2d {
    /// A convolution with the given filters `[m, c / groups, kh, kw]` and bias `[m]`.
    ///
    /// # Errors
    /// If the shapes do not fit each other or the groups.
    pub fn new(weight: Tensor, bias: Option<Tensor>, options: ConvOptions) -> Result<Conv2d> {
        let [m, ..] = nchw(weight.shape())?;
        if options.groups == 0 || !m.is_multiple_of(options.groups) || weight.is_empty() {
            return Err(Error::Shape(format!(
                "filters of shape {:?} in {} groups",
                weight.shape(),
                options.groups
            )));
        }
        if let Some(b) = bias.as_ref().filter(|b| b.shape() != [m]) {
            return Err(Error::Shape(format!("a bias of shape {:?} for {m} filters", b.shape())));
        }
        Ok(Conv2d {
            weight: Param::new(Role::Weight, weight),
            bias: bias.map(|b| Param::new(Role::Bias, b)),
            options,
        })
    }

    /// The filters, `[m, c / groups, kh, kw]`.
    pub fn weight(&self) -> &Param {
        &self.weight
    }

    /// The filters, to be constrained or replaced. Shapes change through graph edits only.
    pub fn weight_mut(&mut self) -> &mut Param {
        &mut self.weight
    }

    /// The bias, `[m]`.
    pub fn bias(&self) -> Option<&Param> {
        self.bias.as_ref()
    }

    /// The bias, to be constrained or replaced.
    pub fn bias_mut(&mut self) -> Option<&mut Param> {
        self.bias.as_mut()
    }

    /// The bias, to be changed; a layer without one gets zeros.
    pub fn bias_or_zeros(&mut self) -> &mut Param {
        let outputs = self.weight.shape()[0];
        self.bias.get_or_insert_with(|| Param::new(Role::Bias, Tensor::zeros(vec![outputs])))
    }

    /// Number of filters, the output channels.
    pub fn filters(&self) -> usize {
        self.weight.shape()[0]
    }

    /// Number of input channels.
    pub fn channels_in(&self) -> usize {
        self.weight.shape()[1] * self.options.groups
    }

    /// Height and width of the kernel.
    pub fn kernel(&self) -> [usize; 2] {
        [self.weight.shape()[2], self.weight.shape()[3]]
    }

    /// True if each output channel reads one input channel.
    pub fn is_depthwise(&self) -> bool {
        self.options.groups > 1 && self.weight.shape()[1] == 1
    }

    /// The checked geometry for an input shape.
    ///
    /// # Errors
    /// If the input does not fit.
    pub fn geometry(&self, input: &[usize]) -> Result<ConvGeometry> {
        let g = self.options.geometry(input, self.filters(), self.kernel())?;
        match g.c == self.channels_in() {
            true => Ok(g),
            false => Err(Error::Shape(format!(
                "the filters read {} channels, the input has {}",
                self.channels_in(),
                g.c
            ))),
        }
    }

    pub(super) fn decode(from: &mut Decoder<'_>) -> Result<Box<dyn Layer>> {
        let options = ConvOptions::decode(from)?;
        let has_bias = from.byte()? != 0;
        let shape = [from.uint()?, from.uint()?, from.uint()?, from.uint()?];
        let weight = from.param(Role::Weight, &shape)?;
        let bias = if has_bias { Some(from.param(Role::Bias, &shape[..1])?) } else { None };
        let valid =
            options.groups > 0 && shape.iter().all(|&n| n > 0) && shape[0].is_multiple_of(options.groups);
        match valid && shape[1].checked_mul(options.groups).is_some() {
            true => Ok(Box::new(Conv2d { weight, bias, options })),
            false => {
                Err(Error::malformed(format!("filters of shape {shape:?} in {} groups", options.groups)))
            }
        }
    }

    /// Which of the input channels of each group stay, as positions within the group; every group must keep the same
    /// number of inputs and outputs.
    fn select_groups(&mut self, keep: Keep<'_>) -> Result<()> {
        let groups = self.options.groups;
        let (m, per_group) = (self.filters(), self.weight.shape()[1]);
        let all_in: Vec<usize> = (0..groups * per_group).collect();
        let all_out: Vec<usize> = (0..m).collect();
        let inputs = keep.inputs.first().copied().flatten().unwrap_or(&all_in);
        let outputs = keep.output.unwrap_or(&all_out);
        let split = |kept: &[usize], size: usize| -> Vec<Vec<usize>> {
            (0..groups).map(|g| kept.iter().copied().filter(|i| i / size == g).collect()).collect()
        };
        let (inputs, outputs) = (split(inputs, per_group), split(outputs, m / groups));
        // groups that lose everything on both sides disappear
        let stay: Vec<usize> =
            (0..groups).filter(|&g| !(inputs[g].is_empty() && outputs[g].is_empty())).collect();
        let (Some(first_in), Some(first_out)) =
            (stay.first().map(|&g| inputs[g].len()), stay.first().map(|&g| outputs[g].len()))
        else {
            return Err(Error::Edit("no group would be left".into()));
        };
        let even = stay.iter().all(|&g| inputs[g].len() == first_in && outputs[g].len() == first_out);
        if !even || first_in == 0 || first_out == 0 {
            return Err(Error::Edit(format!(
                "a convolution in {groups} groups must keep the same number of channels in each group; \
                 choose channels group by group"
            )));
        }
        // rows of the weight that stay, each with its own group's input positions
        let shape = self.weight.shape().to_vec();
        let rows: Vec<usize> = stay.iter().flat_map(|&g| outputs[g].iter().copied()).collect();
        let same = stay.iter().all(|&g| {
            inputs[g].iter().map(|i| i % per_group).eq(inputs[stay[0]].iter().map(|i| i % per_group))
        });
        if first_in < per_group && !same {
            if !self.weight.constraints().is_empty() {
                return Err(Error::Edit(
                    "a constrained grouped convolution can only lose the same positions in every group"
                        .into(),
                ));
            }
            let old = self.weight.base();
            let mut new = zeros(&[rows.len(), first_in, shape[2], shape[3]]);
            for (at, &row) in rows.iter().enumerate() {
                for (to, &from) in inputs[row / (m / groups)].iter().enumerate() {
                    let source = old.slice(ndarray::s![row, from % per_group, .., ..]);
                    new.slice_mut(ndarray::s![at, to, .., ..]).assign(&source);
                }
            }
            self.weight.set_base(new);
        } else {
            self.weight.select(0, &rows)?;
            if first_in < per_group {
                let positions: Vec<usize> = inputs[stay[0]].iter().map(|i| i % per_group).collect();
                self.weight.select(1, &positions)?;
            }
        }
        self.options.groups = stay.len();
        if let Some(bias) = &mut self.bias {
            bias.select(0, &rows)?;
        }
        Ok(())
    }
}

impl Layer for Conv2d {
    fn kind(&self) -> &'static str {
        "conv2d"
    }

    fn output_shape(&self, inputs: &[&[usize]]) -> Result<Vec<usize>> {
        Ok(ConvOptions::out_shape(&self.geometry(one(inputs)?)?))
    }

    fn infer(&self, inputs: &[&Tensor]) -> Result<Tensor> {
        let x = one(inputs)?;
        let g = self.geometry(x.shape())?;
        let mut y = zeros(&ConvOptions::out_shape(&g));
        let bias = self.bias.as_ref().map(|b| slice(b.value())).transpose()?;
        conv_forward_exact(&g, slice(x)?, slice(self.weight.value())?, bias, slice_mut(&mut y)?);
        Ok(y)
    }

    fn cost(&self, inputs: &[&[usize]]) -> Result<Cost> {
        let g = self.geometry(one(inputs)?)?;
        let params: u64 = self.params().iter().map(|p| p.len() as u64).sum();
        let nonzeros = self.params().iter().map(|p| p.nonzeros()).sum();
        Ok(Cost { params, nonzeros, macs: Macs { float: g.macs(), ..Macs::default() } })
    }

    fn lower(&self, at: &Lowering<'_>) -> Option<Lowered> {
        let g = self.geometry(&at.inputs.first()?.shape).ok()?;
        let bias = self.bias.as_ref().and_then(|b| b.value().as_slice());
        conv::lower(at, &g, self.weight.value().as_slice()?, bias)
    }

    fn encode(&self, out: &mut Encoder) -> Result<()> {
        self.options.encode(out)?;
        out.byte(u8::from(self.bias.is_some()));
        self.weight.shape().iter().try_for_each(|&n| out.uint(n))?;
        self.params().into_iter().try_for_each(|p| out.param(p))
    }

    fn clone_box(&self) -> Box<dyn Layer> {
        Box::new(self.clone())
    }

    fn params(&self) -> Vec<&Param> {
        [&self.weight].into_iter().chain(&self.bias).collect()
    }

    fn trainable(&mut self) -> Option<&mut dyn Trainable> {
        Some(self)
    }

    fn channels(&self, _inputs: &[&[usize]]) -> ChannelRule {
        match self.is_depthwise() {
            true => ChannelRule::Expand(self.filters() / self.options.groups),
            false => ChannelRule::Free,
        }
    }

    fn select(&mut self, keep: Keep<'_>) -> Result<()> {
        if self.options.groups > 1 {
            return self.select_groups(keep);
        }
        if let Some(inputs) = keep.inputs.first().copied().flatten() {
            self.weight.select(1, inputs)?;
        }
        if let Some(outputs) = keep.output {
            self.weight.select(0, outputs)?;
            if let Some(bias) = &mut self.bias {
                bias.select(0, outputs)?;
            }
        }
        Ok(())
    }

    fn express(&self, at: &mut Express<'_>) -> Result<()> {
        let mut inputs = vec![at.input(0)?, at.param("weight", &self.weight)?];
        if let Some(bias) = &self.bias {
            inputs.push(at.param("bias", bias)?);
        }
        let y = at.operator("Conv", &inputs, self.options.attributes(self.kernel()));
        at.output(y);
        Ok(())
    }
}

impl Trainable for Conv2d {
    fn needs(&self) -> Needs {
        Needs { inputs: true, output: false }
    }

    fn forward(&mut self, inputs: &mut [Input<'_>], step: &mut Step<'_>) -> Result<Tensor> {
        let x = inputs[0].get();
        let g = self.geometry(x.shape())?;
        let mut y = step.pool.take(&ConvOptions::out_shape(&g));
        let bias = self.bias.as_ref().map(|b| slice(b.value())).transpose()?;
        conv_forward(&g, slice(x)?, slice(self.weight.value())?, bias, slice_mut(&mut y)?);
        Ok(y)
    }

    fn backward(&mut self, at: Backward<'_>, step: &mut Step<'_>) -> Result<Vec<Option<Tensor>>> {
        let x = at.input(0)?;
        let g = self.geometry(x.shape())?;
        let (x, dy) = (slice(x)?, slice(&at.grad)?);
        self.weight.write_grad(|dw| conv_backward_weights(&g, x, dy, dw));
        if let Some(bias) = &mut self.bias {
            bias.write_grad(|db| conv_backward_bias(&g, dy, db));
        }
        let mut dx = None;
        if at.wanted[0] {
            let mut grad = step.pool.take(at.shapes[0]);
            conv_backward_input(&g, slice(self.weight.value())?, dy, slice_mut(&mut grad)?);
            dx = Some(grad);
        }
        step.pool.give(at.grad);
        Ok(vec![dx])
    }

    fn params_mut(&mut self) -> Vec<&mut Param> {
        [&mut self.weight].into_iter().chain(&mut self.bias).collect()
    }
}
