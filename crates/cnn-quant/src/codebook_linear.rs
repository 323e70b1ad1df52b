//! A fully connected layer whose weights are a codebook and indices.

use crate::codebook_weights::CodebookWeights;
use crate::express;
use cnn_core::express::Attribute;
use cnn_core::layers::Linear;
use cnn_core::model_file::{Decoder, Encoder};
use cnn_core::session::{Lowered, Lowering};
use cnn_core::tensor::{slice, tensor};
use cnn_core::{Cost, Express, Layer, Result, Tensor};

/// Packed form of a linear layer under `quant.kmeans`.
///
/// What is saved is storage, not arithmetic: the layer keeps the weights decoded as 32-bit floats beside the indices and
/// computes exactly what the dense layer did. Memory at run time is therefore five bytes a weight.
#[derive(Debug, Clone)]
pub struct CodebookLinear {
    weights: CodebookWeights,
    /// The same weights decoded.
    dense: Linear,
}

impl CodebookLinear {
    /// Kind of the layer.
    pub const KIND: &'static str = "quant.codebook_linear";

    /// Packs a linear layer: its values, constraints applied.
    ///
    /// # Errors
    /// If the weights have more than 256 different values or are not finite.
    pub fn pack(linear: &Linear) -> Result<CodebookLinear> {
        let weights = CodebookWeights::of(linear.weight())?;
        CodebookLinear::new(weights, linear.bias().map(|b| b.value().clone()))
    }

    /// A layer from its parts; the bias has the shape `[out]`.
    ///
    /// # Errors
    /// If the parts do not fit each other.
    pub fn new(weights: CodebookWeights, bias: Option<Tensor>) -> Result<CodebookLinear> {
        let dense = Linear::new(weights.decoded()?, bias)?;
        Ok(CodebookLinear { weights, dense })
    }

    /// Codebook and indices of the weights `[out, in]`.
    pub fn weights(&self) -> &CodebookWeights {
        &self.weights
    }

    /// The same layer with ordinary weights.
    pub fn dense(&self) -> &Linear {
        &self.dense
    }

    pub(crate) fn decode(from: &mut Decoder<'_>) -> Result<Box<dyn Layer>> {
        let shape = [from.uint()?, from.uint()?];
        let (weights, bias) = CodebookWeights::decode(&shape, from)?;
        let bias = bias.map(|b| tensor(&shape[..1], b)).transpose()?;
        Ok(Box::new(CodebookLinear::new(weights, bias)?))
    }
}

impl Layer for CodebookLinear {
    fn kind(&self) -> &'static str {
        CodebookLinear::KIND
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
        self.weights.shape().iter().try_for_each(|&n| out.uint(n))?;
        let bias = self.dense.bias().map(|b| slice(b.value())).transpose()?;
        self.weights.encode(bias, out)
    }

    fn clone_box(&self) -> Box<dyn Layer> {
        Box::new(self.clone())
    }

    fn express(&self, at: &mut Express<'_>) -> Result<()> {
        let inputs = express::codebook(at, &self.weights, self.dense.bias())?;
        let y = at.operator("Gemm", &inputs, vec![("transB", Attribute::Int(1))]);
        at.output(y);
        Ok(())
    }
}
