//! A fully connected layer whose weights are a codebook and indices.

use crate::codebook_weights::CodebookWeights;
use crate::express;
use crate::kernels::lookup;
use cnn_core::cost::Macs;
use cnn_core::express::Attribute;
use cnn_core::layers::Linear;
use cnn_core::model_file::{Decoder, Encoder};
use cnn_core::session::{Lowered, Lowering};
use cnn_core::tensor::{slice, tensor};
use cnn_core::{Cost, Error, Express, Layer, Param, Result, Role, Tensor};
use std::sync::OnceLock;

/// Packed form of a linear layer under `quant.kmeans`.
///
/// It computes what the dense layer did. A session looks the weights up as it multiplies them where that pays, and holds and reads their
/// indices, packed; elsewhere it reads them decoded, as does [`Layer::infer`]: four bytes a weight, made when first needed.
#[derive(Debug, Clone)]
pub struct CodebookLinear {
    weights: CodebookWeights,
    bias: Option<Param>,
    /// The same layer with the weights decoded.
    dense: OnceLock<Linear>,
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
        let shape = weights.shape();
        let bias_fits = bias.as_ref().is_none_or(|b| b.shape() == &shape[..1]);
        if shape.len() != 2 || weights.indices().is_empty() || !bias_fits {
            let bias = bias.as_ref().map(|b| b.shape());
            return Err(Error::Shape(format!(
                "linear weights of shape {shape:?} with a bias of shape {bias:?}"
            )));
        }
        let bias = bias.map(|b| Param::new(Role::Bias, b));
        Ok(CodebookLinear { weights, bias, dense: OnceLock::new() })
    }

    /// Codebook and indices of the weights `[out, in]`.
    pub fn weights(&self) -> &CodebookWeights {
        &self.weights
    }

    /// The same layer with ordinary weights.
    ///
    /// # Errors
    /// None in practice.
    pub fn dense(&self) -> Result<&Linear> {
        if let Some(dense) = self.dense.get() {
            return Ok(dense);
        }
        let bias = self.bias.as_ref().map(|b| b.value().clone());
        let dense = Linear::new(self.weights.decoded()?, bias)?;
        Ok(self.dense.get_or_init(|| dense))
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
        match (inputs, self.weights.shape()) {
            (&[&[n, features]], &[outputs, width]) if features == width => Ok(vec![n, outputs]),
            (_, shape) => {
                Err(Error::Shape(format!("linear weights of shape {shape:?} for inputs {inputs:?}")))
            }
        }
    }

    fn infer(&self, inputs: &[&Tensor]) -> Result<Tensor> {
        self.dense()?.infer(inputs)
    }

    fn lower(&self, at: &Lowering<'_>) -> Option<Lowered> {
        let bias = self.bias.as_ref().and_then(|b| b.value().as_slice());
        lookup::lower(at, &self.weights, bias).or_else(|| self.dense().ok()?.lower(at))
    }

    fn cost(&self, inputs: &[&[usize]]) -> Result<Cost> {
        let shape = self.output_shape(inputs)?;
        let weights = self.weights.indices().len() as u64;
        let biases = self.bias.as_ref().map_or([0, 0], |b| [b.len() as u64, b.nonzeros()]);
        let float = shape[0] as u64 * weights;
        Ok(Cost {
            params: weights + biases[0],
            nonzeros: self.weights.nonzeros() + biases[1],
            macs: Macs { float, ..Macs::default() },
        })
    }

    fn encode(&self, out: &mut Encoder) -> Result<()> {
        self.weights.shape().iter().try_for_each(|&n| out.uint(n))?;
        let bias = self.bias.as_ref().map(|b| slice(b.value())).transpose()?;
        self.weights.encode(bias, out)
    }

    fn clone_box(&self) -> Box<dyn Layer> {
        Box::new(self.clone())
    }

    fn express(&self, at: &mut Express<'_>) -> Result<()> {
        let inputs = express::codebook(at, &self.weights, self.bias.as_ref())?;
        let y = at.operator("Gemm", &inputs, vec![("transB", Attribute::Int(1))]);
        at.output(y);
        Ok(())
    }
}
