//! A convolution of signs.

use crate::express;
use crate::kernels::{int8, xnor};
use crate::xnor_weights::XnorWeights;
use cnn_core::cost::Macs;
use cnn_core::layers::ConvOptions;
use cnn_core::model_file::{Decoder, Encoder};
use cnn_core::ops::conv::ConvGeometry;
use cnn_core::session::{Lowered, Lowering};
use cnn_core::tensor::{slice, slice_mut, zeros};
use cnn_core::{Cost, Error, Express, Layer, Result, Tensor};

/// Packed form of a convolution under `quant.binary` with binary activations: `y_m = alpha_m sum s(x - t) s(w) + b_m`, padding counting
/// nothing (Rastegari et al. 2016, "XNOR-Net", section 3.2, the scale of inputs left to the normalization that follows). A session counts bits:
/// the sum over `n` signs is `n - 2 popcount(x xor w)`.
#[derive(Debug, Clone)]
pub struct XnorConv2d {
    weights: XnorWeights,
    options: ConvOptions,
}

impl XnorConv2d {
    /// Kind of the layer.
    pub const KIND: &'static str = "quant.xnor_conv2d";

    /// A layer with the filters `[m, c / groups, kh, kw]` and a threshold for each of the `c` channels.
    ///
    /// # Errors
    /// If shape, groups and thresholds do not fit each other.
    pub fn new(weights: XnorWeights, options: ConvOptions) -> Result<XnorConv2d> {
        let valid = match *weights.shape() {
            [m, c, kh, kw] => {
                let positive = [m, c, kh, kw, options.groups].iter().all(|&n| n > 0);
                positive
                    && m % options.groups == 0
                    && c.checked_mul(options.groups) == Some(weights.thresholds().len())
            }
            _ => false,
        };
        match valid {
            true => Ok(XnorConv2d { weights, options }),
            false => Err(Error::Shape(format!(
                "filters of shape {:?} in {} groups, and {} thresholds",
                weights.shape(),
                options.groups,
                weights.thresholds().len()
            ))),
        }
    }

    /// Signs, scales, thresholds and bias.
    pub fn weights(&self) -> &XnorWeights {
        &self.weights
    }

    fn geometry(&self, inputs: &[&[usize]]) -> Result<ConvGeometry> {
        let (&[input], &[m, _, kh, kw]) = (inputs, self.weights.shape()) else {
            return Err(Error::Shape(format!("the layer takes one input, got {}", inputs.len())));
        };
        let g = self.options.geometry(input, m, [kh, kw])?;
        let expected = self.weights.thresholds().len();
        match g.c == expected {
            true => Ok(g),
            false => {
                Err(Error::Shape(format!("the filters read {expected} channels, the input has {}", g.c)))
            }
        }
    }

    pub(crate) fn decode(from: &mut Decoder<'_>) -> Result<Box<dyn Layer>> {
        let options = ConvOptions::decode(from)?;
        let shape = [from.uint()?, from.uint()?, from.uint()?, from.uint()?];
        Ok(Box::new(XnorConv2d::new(XnorWeights::decode(&shape, from)?, options)?))
    }
}

impl Layer for XnorConv2d {
    fn kind(&self) -> &'static str {
        XnorConv2d::KIND
    }

    fn output_shape(&self, inputs: &[&[usize]]) -> Result<Vec<usize>> {
        let g = self.geometry(inputs)?;
        Ok(vec![g.n, g.m, g.out_h(), g.out_w()])
    }

    fn infer(&self, inputs: &[&Tensor]) -> Result<Tensor> {
        let shapes: Vec<&[usize]> = inputs.iter().map(|t| t.shape()).collect();
        let g = self.geometry(&shapes)?;
        let x = self.weights.signs(slice(inputs[0])?, g.h * g.w);
        let mut y = zeros(&[g.n, g.m, g.out_h(), g.out_w()]);
        let finish = |m, sum| self.weights.finish(m, sum);
        int8::conv(&g, &x, &self.weights.levels(), slice_mut(&mut y)?, finish);
        Ok(y)
    }

    /// The bits are those of [`Layer::infer`] where the epilogue is empty.
    fn lower(&self, at: &Lowering<'_>) -> Option<Lowered> {
        let g = self.geometry(&[&at.inputs.first()?.shape]).ok()?;
        xnor::conv(at, &g, &self.weights)
    }

    fn cost(&self, inputs: &[&[usize]]) -> Result<Cost> {
        let macs = Macs { binary: self.geometry(inputs)?.macs(), ..Macs::default() };
        Ok(Cost { params: self.weights.params(), nonzeros: self.weights.params(), macs })
    }

    fn encode(&self, out: &mut Encoder) -> Result<()> {
        self.options.encode(out)?;
        self.weights.shape().iter().try_for_each(|&n| out.uint(n))?;
        self.weights.encode(out)
    }

    fn clone_box(&self) -> Box<dyn Layer> {
        Box::new(self.clone())
    }

    fn express(&self, at: &mut Express<'_>) -> Result<()> {
        let inputs = express::xnor(at, &self.weights)?;
        let kernel = [self.weights.shape()[2], self.weights.shape()[3]];
        let sums = at.operator("Conv", &inputs, self.options.attributes(kernel));
        let y = express::scaled(at, sums, &self.weights)?;
        at.output(y);
        Ok(())
    }
}
