//! A fully connected layer of signs.

use crate::express;
use crate::kernels::{int8, xnor};
use crate::xnor_weights::XnorWeights;
use cnn_core::cost::Macs;
use cnn_core::express::Attribute;
use cnn_core::model_file::{Decoder, Encoder};
use cnn_core::session::{Lowered, Lowering};
use cnn_core::tensor::{slice, slice_mut, zeros};
use cnn_core::{Cost, Error, Express, Layer, Result, Tensor};

/// Packed form of a linear layer under `quant.binary` with binary activations; the arithmetic is that of [`crate::XnorConv2d`].
#[derive(Debug, Clone)]
pub struct XnorLinear {
    weights: XnorWeights,
}

impl XnorLinear {
    /// Kind of the layer.
    pub const KIND: &'static str = "quant.xnor_linear";

    /// A layer with weights `[out, in]` and `in` thresholds.
    ///
    /// # Errors
    /// If shape and thresholds do not fit each other.
    pub fn new(weights: XnorWeights) -> Result<XnorLinear> {
        match *weights.shape() {
            [outputs, inputs] if outputs > 0 && inputs > 0 && weights.thresholds().len() == inputs => {
                Ok(XnorLinear { weights })
            }
            _ => Err(Error::Shape(format!(
                "the weights of a linear layer are [out, in], with `in` thresholds; got {:?} and {}",
                weights.shape(),
                weights.thresholds().len()
            ))),
        }
    }

    /// Signs, scales, thresholds and bias.
    pub fn weights(&self) -> &XnorWeights {
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
        Ok(Box::new(XnorLinear::new(XnorWeights::decode(&shape, from)?)?))
    }
}

impl Layer for XnorLinear {
    fn kind(&self) -> &'static str {
        XnorLinear::KIND
    }

    fn output_shape(&self, inputs: &[&[usize]]) -> Result<Vec<usize>> {
        let [n, outputs, _] = self.sizes(inputs)?;
        Ok(vec![n, outputs])
    }

    fn infer(&self, inputs: &[&Tensor]) -> Result<Tensor> {
        let shapes: Vec<&[usize]> = inputs.iter().map(|t| t.shape()).collect();
        let [n, outputs, terms] = self.sizes(&shapes)?;
        let x = self.weights.signs(slice(inputs[0])?, 1);
        let mut y = zeros(&[n, outputs]);
        let finish = |o, sum| self.weights.finish(o, sum);
        int8::linear(&x, &self.weights.levels(), terms, slice_mut(&mut y)?, finish);
        Ok(y)
    }

    /// The bits are those of [`Layer::infer`] where the epilogue is empty.
    fn lower(&self, at: &Lowering<'_>) -> Option<Lowered> {
        let [n, _, _] = self.sizes(&[&at.inputs.first()?.shape]).ok()?;
        xnor::linear(at, n, &self.weights)
    }

    fn cost(&self, inputs: &[&[usize]]) -> Result<Cost> {
        let [n, outputs, terms] = self.sizes(inputs)?;
        let macs = Macs { binary: n as u64 * (outputs * terms) as u64, ..Macs::default() };
        Ok(Cost { params: self.weights.params(), nonzeros: self.weights.params(), macs })
    }

    fn encode(&self, out: &mut Encoder) -> Result<()> {
        self.weights.shape().iter().try_for_each(|&n| out.uint(n))?;
        self.weights.encode(out)
    }

    fn clone_box(&self) -> Box<dyn Layer> {
        Box::new(self.clone())
    }

    fn express(&self, at: &mut Express<'_>) -> Result<()> {
        let inputs = express::xnor(at, &self.weights)?;
        let sums = at.operator("Gemm", &inputs, vec![("transB", Attribute::Int(1))]);
        let y = express::scaled(at, sums, &self.weights)?;
        at.output(y);
        Ok(())
    }
}
