//! The packed form of a pruned convolution.

use super::blocks;
use super::choice::{Cycles, sparse_or_dense};
use super::kernels::{BLOCKS, conv_forward, lower_blocks, lower_conv};
use super::linear::flag;
use super::matrix::SparseMatrix;
use super::{dense, nonzeros, one, storage};
use cnn_core::layers::{Conv2d, ConvOptions};
use cnn_core::model_file::{Decoder, Encoder};
use cnn_core::ops::conv::ConvGeometry;
use cnn_core::session::{Lowered, Lowering};
use cnn_core::tensor::{Tensor, slice, slice_mut, tensor, zeros};
use cnn_core::{Cost, Error, Express, Layer, Macs, Result};

/// A convolution with only the non-zero weights of its filters (`[m, c / groups, kh, kw]`, a row each) stored
/// and multiplied.
///
/// The result is that of the masked dense convolution up to rounding, not bit for bit: here the products of a
/// pixel are added one after the other to the bias, while the dense kernels add in blocks, or transform tiles
/// (Winograd).
///
/// Cost: parameters are all weights of the layer, zeros included, so that a share of zeros can be told;
/// multiply-adds are those of the non-zero weights, padding included.
#[derive(Debug, Clone)]
pub struct SparseConv2d {
    weight: SparseMatrix,
    /// Input channels of a group.
    channels: usize,
    kernel: [usize; 2],
    options: ConvOptions,
    bias: Option<Vec<f32>>,
}

impl SparseConv2d {
    /// Key in files.
    pub const KIND: &'static str = "prune.sparse_conv2d";

    /// The packed form of a convolution: its weights under their constraints, zeros dropped.
    ///
    /// # Errors
    /// If a filter has more than 2^32 - 1 weights.
    pub fn from_dense(layer: &Conv2d) -> Result<SparseConv2d> {
        let weight = layer.weight();
        let filters = layer.filters();
        let matrix = SparseMatrix::from_dense(filters, weight.len() / filters, slice(weight.value())?)?;
        let bias = layer.bias().map(|b| slice(b.value()).map(<[f32]>::to_vec)).transpose()?;
        let (kernel, options) = (layer.kernel(), layer.options);
        Ok(SparseConv2d {
            weight: matrix,
            channels: layer.channels_in() / options.groups,
            kernel,
            options,
            bias,
        })
    }

    /// The filters, one a row, flattened as `channel of the group, y, x`.
    pub fn weight(&self) -> &SparseMatrix {
        &self.weight
    }

    /// The bias, one a filter.
    pub fn bias(&self) -> Option<&[f32]> {
        self.bias.as_deref()
    }

    /// Stride, padding, dilation, groups.
    pub fn options(&self) -> &ConvOptions {
        &self.options
    }

    /// Height and width of the kernel.
    pub fn kernel(&self) -> [usize; 2] {
        self.kernel
    }

    /// The same convolution with its zeros.
    ///
    /// # Errors
    /// None in practice.
    pub fn to_dense(&self) -> Result<Conv2d> {
        let shape = [self.weight.rows(), self.channels, self.kernel[0], self.kernel[1]];
        let bias = self.bias().map(|b| tensor(&[b.len()], b.to_vec())).transpose()?;
        Conv2d::new(tensor(&shape, self.weight.to_dense())?, bias, self.options)
    }

    pub(crate) fn decode(from: &mut Decoder<'_>) -> Result<Box<dyn Layer>> {
        let options = ConvOptions::decode(from)?;
        let has_bias = flag(from)?;
        let shape = [from.uint()?, from.uint()?, from.uint()?, from.uint()?];
        let [filters, channels, kh, kw] = shape;
        let count = from.claim_shape(&shape)?;
        let grouped = options.groups > 0 && filters.is_multiple_of(options.groups);
        if count == 0 || !grouped || channels.checked_mul(options.groups).is_none() {
            return Err(Error::malformed(format!("filters of shape {shape:?} in {} groups", options.groups)));
        }
        let weight = storage::decode(filters, count / filters, kh * kw, from)?;
        let bias = if has_bias { Some(from.floats(filters)?) } else { None };
        Ok(Box::new(SparseConv2d { weight, channels, kernel: [kh, kw], options, bias }))
    }

    /// What the model says about an input's shape, if all weights were as dense as those of this layer or as told.
    pub(super) fn cycles(&self, input: &[usize], lanes: usize, density: Option<f64>) -> Result<Cycles> {
        let all = (self.weight.rows() * self.weight.cols()) as f64;
        let stored = density.map_or(self.weight.nonzeros(), |d| (d * all) as usize);
        let by = stored as f64 / self.weight.nonzeros().max(1) as f64;
        let blocks = (blocks::stored(&self.weight) as f64 * by).min(all) as usize;
        let paired = blocks::paired(&self.weight);
        Ok(Cycles::conv(&self.geometry(input)?, lanes, stored, blocks, paired))
    }

    fn geometry(&self, input: &[usize]) -> Result<ConvGeometry> {
        let g = self.options.geometry(input, self.weight.rows(), self.kernel)?;
        let wanted = self.channels * self.options.groups;
        match g.c == wanted {
            true => Ok(g),
            false => Err(Error::Shape(format!("the filters read {wanted} channels, the input has {}", g.c))),
        }
    }
}

impl Layer for SparseConv2d {
    fn kind(&self) -> &'static str {
        SparseConv2d::KIND
    }

    fn output_shape(&self, inputs: &[&[usize]]) -> Result<Vec<usize>> {
        let g = self.geometry(one(inputs)?)?;
        Ok(vec![g.n, g.m, g.out_h(), g.out_w()])
    }

    fn infer(&self, inputs: &[&Tensor]) -> Result<Tensor> {
        let x = one(inputs)?;
        let g = self.geometry(x.shape())?;
        let mut y = zeros(&[g.n, g.m, g.out_h(), g.out_w()]);
        conv_forward(&g, &self.weight, self.bias(), slice(x)?, slice_mut(&mut y)?);
        Ok(y)
    }

    /// Where few weights are zero, the kernel of the dense convolution is the faster one.
    fn lower(&self, at: &Lowering<'_>) -> Option<Lowered> {
        let g = self.geometry(&at.inputs.first()?.shape).ok()?;
        let (w, lanes) = (&self.weight, at.isa.lanes());
        let cycles = Cycles::conv(&g, lanes, w.nonzeros(), blocks::stored(w), blocks::paired(w));
        let sparse = |name| match name {
            BLOCKS => lower_blocks(at, &g, &self.weight, self.bias()),
            _ => lower_conv(at, &g, &self.weight, self.bias()),
        };
        sparse_or_dense(at, &cycles, sparse, || self.to_dense().ok()?.lower(at))
    }

    fn cost(&self, inputs: &[&[usize]]) -> Result<Cost> {
        let g = self.geometry(one(inputs)?)?;
        let stored = self.weight.nonzeros() as u64;
        let pixels =
            [g.n, g.out_h(), g.out_w()].iter().fold(1u64, |product, &n| product.saturating_mul(n as u64));
        Ok(Cost {
            params: (self.weight.rows() * self.weight.cols() + self.bias().map_or(0, <[f32]>::len)) as u64,
            nonzeros: stored + nonzeros(self.bias()),
            macs: Macs { float: stored.saturating_mul(pixels), ..Macs::default() },
        })
    }

    fn encode(&self, out: &mut Encoder) -> Result<()> {
        self.options.encode(out)?;
        out.byte(u8::from(self.bias.is_some()));
        [self.weight.rows(), self.channels, self.kernel[0], self.kernel[1]]
            .iter()
            .try_for_each(|&n| out.uint(n))?;
        storage::encode(&self.weight, self.kernel[0] * self.kernel[1], out)?;
        out.floats(self.bias().unwrap_or_default());
        Ok(())
    }

    fn clone_box(&self) -> Box<dyn Layer> {
        Box::new(self.clone())
    }

    /// The dense convolution, whose weights standard operators fill with zeros: [`Express::sparse`].
    fn express(&self, at: &mut Express<'_>) -> Result<()> {
        let shape = [self.weight.rows(), self.channels, self.kernel[0], self.kernel[1]];
        let inputs = dense(at, &shape, &self.weight, self.bias())?;
        let y = at.operator("Conv", &inputs, self.options.attributes(self.kernel));
        at.output(y);
        Ok(())
    }
}
