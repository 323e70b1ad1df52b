//! A convolution whose weights are a codebook and indices.

use crate::codebook_weights::CodebookWeights;
use crate::express;
use cnn_core::layers::{Conv2d, ConvOptions};
use cnn_core::model_file::{Decoder, Encoder};
use cnn_core::session::{Lowered, Lowering};
use cnn_core::tensor::{slice, tensor};
use cnn_core::{Cost, Express, Layer, Result, Tensor};

/// Packed form of a convolution under `quant.kmeans`.
///
/// What is saved is storage, not arithmetic: the layer keeps the weights decoded as 32-bit floats beside the indices and
/// computes exactly what the dense convolution did. Memory at run time is therefore five bytes a weight.
#[derive(Debug, Clone)]
pub struct CodebookConv2d {
    weights: CodebookWeights,
    /// The same weights decoded.
    dense: Conv2d,
}

impl CodebookConv2d {
    /// Kind of the layer.
    pub const KIND: &'static str = "quant.codebook_conv2d";

    /// Packs a convolution: its values, constraints applied.
    ///
    /// # Errors
    /// If the weights have more than 256 different values or are not finite.
    pub fn pack(conv: &Conv2d) -> Result<CodebookConv2d> {
        let weights = CodebookWeights::of(conv.weight())?;
        let bias = conv.bias().map(|b| b.value().clone());
        CodebookConv2d::new(weights, bias, conv.options)
    }

    /// A layer from its parts; the bias has the shape `[m]`.
    ///
    /// # Errors
    /// If the parts do not fit each other.
    pub fn new(
        weights: CodebookWeights,
        bias: Option<Tensor>,
        options: ConvOptions,
    ) -> Result<CodebookConv2d> {
        let dense = Conv2d::new(weights.decoded()?, bias, options)?;
        Ok(CodebookConv2d { weights, dense })
    }

    /// Codebook and indices of the filters `[m, c / groups, kh, kw]`.
    pub fn weights(&self) -> &CodebookWeights {
        &self.weights
    }

    /// The same convolution with ordinary weights.
    pub fn dense(&self) -> &Conv2d {
        &self.dense
    }

    pub(crate) fn decode(from: &mut Decoder<'_>) -> Result<Box<dyn Layer>> {
        let options = ConvOptions::decode(from)?;
        let shape = [from.uint()?, from.uint()?, from.uint()?, from.uint()?];
        let (weights, bias) = CodebookWeights::decode(&shape, from)?;
        let bias = bias.map(|b| tensor(&shape[..1], b)).transpose()?;
        if shape[1].checked_mul(options.groups).is_none() {
            return Err(cnn_core::Error::malformed(format!(
                "{} groups of {} channels",
                options.groups, shape[1]
            )));
        }
        Ok(Box::new(CodebookConv2d::new(weights, bias, options)?))
    }
}

impl Layer for CodebookConv2d {
    fn kind(&self) -> &'static str {
        CodebookConv2d::KIND
    }

    fn output_shape(&self, inputs: &[&[usize]]) -> Result<Vec<usize>> {
        self.dense.output_shape(inputs)
    }

    fn infer(&self, inputs: &[&Tensor]) -> Result<Tensor> {
        self.dense.infer(inputs)
    }

    /// The kernel of the dense layer: the weights are read decoded, four bytes each.
    fn lower(&self, at: &Lowering<'_>) -> Option<Lowered> {
        self.dense.lower(at)
    }

    fn cost(&self, inputs: &[&[usize]]) -> Result<Cost> {
        self.dense.cost(inputs)
    }

    fn encode(&self, out: &mut Encoder) -> Result<()> {
        self.dense.options.encode(out)?;
        self.weights.shape().iter().try_for_each(|&n| out.uint(n))?;
        let bias = self.dense.bias().map(|b| slice(b.value())).transpose()?;
        self.weights.encode(bias, out)
    }

    fn clone_box(&self) -> Box<dyn Layer> {
        Box::new(self.clone())
    }

    fn express(&self, at: &mut Express<'_>) -> Result<()> {
        let inputs = express::codebook(at, &self.weights, self.dense.bias())?;
        let y = at.operator("Conv", &inputs, self.dense.options.attributes(self.dense.kernel()));
        at.output(y);
        Ok(())
    }
}
