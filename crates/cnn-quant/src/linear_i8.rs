//! A fully connected layer in 8-bit integers.

use crate::express;
use crate::int8_weights::Int8Weights;
use crate::kernels::{int8, lowered};
use cnn_core::cost::Macs;
use cnn_core::express::Attribute;
use cnn_core::model_file::{Decoder, Encoder};
use cnn_core::session::{Lowered, Lowering};
use cnn_core::tensor::{slice, slice_mut, zeros};
use cnn_core::{Cost, Error, Express, Layer, Result, Tensor};

/// Packed form of a linear layer under `quant.int8`; the arithmetic is that of [`crate::Conv2dI8`].
#[derive(Debug, Clone)]
pub struct LinearI8 {
    weights: Int8Weights,
}

impl LinearI8 {
    /// Kind of the layer.
    pub const KIND: &'static str = "quant.linear_i8";

    /// A layer with weights `[out, in]`.
    ///
    /// # Errors
    /// If the shape does not have two sizes above 0.
    pub fn new(weights: Int8Weights) -> Result<LinearI8> {
        match *weights.shape() {
            [outputs, inputs] if outputs > 0 && inputs > 0 => Ok(LinearI8 { weights }),
            _ => Err(Error::Shape(format!(
                "the weights of a linear layer are [out, in], got {:?}",
                weights.shape()
            ))),
        }
    }

    /// Weights, bias and grids.
    pub fn weights(&self) -> &Int8Weights {
        &self.weights
    }

    /// Rows of the input, outputs, and inputs.
    fn sizes(&self, inputs: &[&[usize]]) -> Result<[usize; 3]> {
        match (inputs, self.weights.shape()) {
            (&[&[n, features]], &[outputs, expected]) if features == expected => Ok([n, outputs, expected]),
            _ => Err(Error::Shape(format!(
                "a linear layer with weights {:?} got {inputs:?}",
                self.weights.shape()
            ))),
        }
    }

    pub(crate) fn decode(from: &mut Decoder<'_>) -> Result<Box<dyn Layer>> {
        let shape = [from.uint()?, from.uint()?];
        Ok(Box::new(LinearI8::new(Int8Weights::decode(&shape, from)?)?))
    }
}

impl Layer for LinearI8 {
    fn kind(&self) -> &'static str {
        LinearI8::KIND
    }

    fn output_shape(&self, inputs: &[&[usize]]) -> Result<Vec<usize>> {
        let [n, outputs, _] = self.sizes(inputs)?;
        Ok(vec![n, outputs])
    }

    fn infer(&self, inputs: &[&Tensor]) -> Result<Tensor> {
        let shapes: Vec<&[usize]> = inputs.iter().map(|t| t.shape()).collect();
        let [n, outputs, terms] = self.sizes(&shapes)?;
        let x = self.weights.quantize(slice(inputs[0])?);
        let mut y = zeros(&[n, outputs]);
        int8::linear(&x, self.weights.levels(), terms, slice_mut(&mut y)?, |o, sum| {
            self.weights.finish(o, sum)
        });
        Ok(y)
    }

    /// The bits are those of [`Layer::infer`] where the epilogue is empty.
    fn lower(&self, at: &Lowering<'_>) -> Option<Lowered> {
        let [n, _, _] = self.sizes(&[&at.inputs.first()?.shape]).ok()?;
        lowered::linear(at, n, &self.weights)
    }

    fn cost(&self, inputs: &[&[usize]]) -> Result<Cost> {
        let [n, outputs, terms] = self.sizes(inputs)?;
        let macs = Macs { int8: n as u64 * (outputs * terms) as u64, ..Macs::default() };
        Ok(Cost { params: self.weights.params(), nonzeros: self.weights.nonzeros(), macs })
    }

    fn encode(&self, out: &mut Encoder) -> Result<()> {
        self.weights.shape().iter().try_for_each(|&n| out.uint(n))?;
        self.weights.encode(out)
    }

    fn clone_box(&self) -> Box<dyn Layer> {
        Box::new(self.clone())
    }

    fn express(&self, at: &mut Express<'_>) -> Result<()> {
        let inputs = express::int8(at, &self.weights)?;
        let y = at.operator("Gemm", &inputs, vec![("transB", Attribute::Int(1))]);
        at.output(y);
        Ok(())
    }
}
