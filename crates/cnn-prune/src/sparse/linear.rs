//! The packed form of a pruned linear layer.

use super::choice::{Cycles, sparse_or_dense};
use super::kernels::{linear_forward, lower_linear};
use super::matrix::SparseMatrix;
use super::{dense, nonzeros, one, storage};
use cnn_core::express::Attribute;
use cnn_core::layers::Linear;
use cnn_core::model_file::{Decoder, Encoder};
use cnn_core::session::{Lowered, Lowering};
use cnn_core::tensor::{Tensor, slice, slice_mut, tensor, zeros};
use cnn_core::{Cost, Error, Express, Layer, Macs, Result};

/// `y = W x + b` with only the non-zero weights of `W` (`[out, in]`) stored and multiplied.
///
/// The result is that of the masked dense layer up to rounding, not bit for bit: the dense kernel adds blocks
/// of products, zeros among them, in another order.
///
/// Cost: parameters are all weights of the layer, zeros included, so that a share of zeros can be told;
/// multiply-adds are those of the non-zero weights.
#[derive(Debug, Clone)]
pub struct SparseLinear {
    weight: SparseMatrix,
    bias: Option<Vec<f32>>,
}

impl SparseLinear {
    /// Key in files.
    pub const KIND: &'static str = "prune.sparse_linear";

    /// The packed form of a linear layer: its weights under their constraints, zeros dropped.
    ///
    /// # Errors
    /// If a row is longer than 2^32 - 1.
    pub fn from_dense(layer: &Linear) -> Result<SparseLinear> {
        let weight =
            SparseMatrix::from_dense(layer.outputs(), layer.inputs(), slice(layer.weight().value())?)?;
        let bias = layer.bias().map(|b| slice(b.value()).map(<[f32]>::to_vec)).transpose()?;
        Ok(SparseLinear { weight, bias })
    }

    /// The weights, `[out, in]`.
    pub fn weight(&self) -> &SparseMatrix {
        &self.weight
    }

    /// The bias, `[out]`.
    pub fn bias(&self) -> Option<&[f32]> {
        self.bias.as_deref()
    }

    /// The same layer with its zeros.
    ///
    /// # Errors
    /// None in practice.
    pub fn to_dense(&self) -> Result<Linear> {
        let bias = self.bias().map(|b| tensor(&[b.len()], b.to_vec())).transpose()?;
        Linear::new(tensor(&[self.weight.rows(), self.weight.cols()], self.weight.to_dense())?, bias)
    }

    pub(crate) fn decode(from: &mut Decoder<'_>) -> Result<Box<dyn Layer>> {
        let has_bias = flag(from)?;
        let (rows, cols) = (from.uint()?, from.uint()?);
        if from.claim_shape(&[rows, cols])? == 0 {
            return Err(Error::malformed("a sparse linear layer without weights"));
        }
        let weight = storage::decode(rows, cols, 1, from)?;
        let bias = if has_bias { Some(from.floats(rows)?) } else { None };
        Ok(Box::new(SparseLinear { weight, bias }))
    }

    /// What the model says about an input's shape, if the weights were as dense as those of this layer or as told.
    pub(super) fn cycles(&self, input: &[usize], lanes: usize, density: Option<f64>) -> Result<Cycles> {
        let shape = [self.weight.rows(), self.weight.cols()];
        let stored = density.map_or(self.weight.nonzeros(), |d| (d * (shape[0] * shape[1]) as f64) as usize);
        Ok(Cycles::linear(self.batch(input)?, lanes, shape, stored))
    }

    fn batch(&self, input: &[usize]) -> Result<usize> {
        match input {
            &[n, features] if features == self.weight.cols() => Ok(n),
            other => Err(Error::Shape(format!(
                "a sparse linear layer of {} inputs got {other:?}",
                self.weight.cols()
            ))),
        }
    }
}

/// A byte that is 0 or 1.
pub(super) fn flag(from: &mut Decoder<'_>) -> Result<bool> {
    match from.byte()? {
        0 => Ok(false),
        1 => Ok(true),
        other => Err(Error::malformed(format!("{other} where a flag of 0 or 1 is expected"))),
    }
}

impl Layer for SparseLinear {
    fn kind(&self) -> &'static str {
        SparseLinear::KIND
    }

    fn output_shape(&self, inputs: &[&[usize]]) -> Result<Vec<usize>> {
        Ok(vec![self.batch(one(inputs)?)?, self.weight.rows()])
    }

    fn infer(&self, inputs: &[&Tensor]) -> Result<Tensor> {
        let x = one(inputs)?;
        let n = self.batch(x.shape())?;
        let mut y = zeros(&[n, self.weight.rows()]);
        linear_forward(&self.weight, self.bias(), slice(x)?, slice_mut(&mut y)?);
        Ok(y)
    }

    /// Where few weights are zero, the kernel of the dense layer is the faster one.
    fn lower(&self, at: &Lowering<'_>) -> Option<Lowered> {
        let n = self.batch(&at.inputs.first()?.shape).ok()?;
        if n == 0 {
            return None;
        }
        let shape = [self.weight.rows(), self.weight.cols()];
        let cycles = Cycles::linear(n, at.isa.lanes(), shape, self.weight.nonzeros());
        let sparse = |_| Some(lower_linear(at, n, &self.weight, self.bias()));
        sparse_or_dense(at, &cycles, sparse, || self.to_dense().ok()?.lower(at))
    }

    fn cost(&self, inputs: &[&[usize]]) -> Result<Cost> {
        let n = self.batch(one(inputs)?)? as u64;
        let stored = self.weight.nonzeros() as u64;
        Ok(Cost {
            params: (self.weight.rows() * self.weight.cols() + self.bias().map_or(0, <[f32]>::len)) as u64,
            nonzeros: stored + nonzeros(self.bias()),
            macs: Macs { float: n.saturating_mul(stored), ..Macs::default() },
        })
    }

    fn encode(&self, out: &mut Encoder) -> Result<()> {
        out.byte(u8::from(self.bias.is_some()));
        out.uint(self.weight.rows())?;
        out.uint(self.weight.cols())?;
        storage::encode(&self.weight, 1, out)?;
        out.floats(self.bias().unwrap_or_default());
        Ok(())
    }

    fn clone_box(&self) -> Box<dyn Layer> {
        Box::new(self.clone())
    }

    /// The dense layer, whose weights standard operators fill with zeros: [`Express::sparse`].
    fn express(&self, at: &mut Express<'_>) -> Result<()> {
        let inputs = dense(at, &[self.weight.rows(), self.weight.cols()], &self.weight, self.bias())?;
        let y = at.operator("Gemm", &inputs, vec![("transB", Attribute::Int(1))]);
        at.output(y);
        Ok(())
    }
}
