//! A convolution in 8-bit integers.

use crate::express;
use crate::int8_weights::Int8Weights;
use crate::kernels::{int8, lowered};
use cnn_core::cost::Macs;
use cnn_core::layers::ConvOptions;
use cnn_core::model_file::{Decoder, Encoder};
use cnn_core::ops::conv::ConvGeometry;
use cnn_core::session::{Levels, Lowered, Lowering};
use cnn_core::simd::Isa;
use cnn_core::tensor::{slice, slice_mut, zeros};
use cnn_core::{Cost, Error, Express, Layer, Result, Tensor};

/// Packed form of a convolution under `quant.int8`: the input is put on its grid of 256 levels, products of levels are summed
/// in 32 bits, and the sum with the bias is scaled back: `y_m = s_x s_m (sum (q_x - z_x) (q_w - z_m) + b_m)`.
///
/// Between the first rounding and the last product all arithmetic is exact. Input values beyond the calibrated range are cut
/// off; NaN counts as 0.
#[derive(Debug, Clone)]
pub struct Conv2dI8 {
    weights: Int8Weights,
    options: ConvOptions,
}

impl Conv2dI8 {
    /// Kind of the layer.
    pub const KIND: &'static str = "quant.conv2d_i8";

    /// A layer with the filters `[m, c / groups, kh, kw]`.
    ///
    /// # Errors
    /// If the shape is not that of filters in so many groups.
    pub fn new(weights: Int8Weights, options: ConvOptions) -> Result<Conv2dI8> {
        let valid = match *weights.shape() {
            [m, c, kh, kw] => {
                let positive = [m, c, kh, kw, options.groups].iter().all(|&n| n > 0);
                positive && m % options.groups == 0 && c.checked_mul(options.groups).is_some()
            }
            _ => false,
        };
        match valid {
            true => Ok(Conv2dI8 { weights, options }),
            false => Err(Error::Shape(format!(
                "filters of shape {:?} in {} groups",
                weights.shape(),
                options.groups
            ))),
        }
    }

    /// Weights, bias and grids.
    pub fn weights(&self) -> &Int8Weights {
        &self.weights
    }

    /// Stride, padding, dilation, groups.
    pub fn options(&self) -> ConvOptions {
        self.options
    }

    fn geometry(&self, inputs: &[&[usize]]) -> Result<ConvGeometry> {
        let (&[input], &[m, c, kh, kw]) = (inputs, self.weights.shape()) else {
            return Err(Error::Shape(format!("the layer takes one input, got {}", inputs.len())));
        };
        let g = self.options.geometry(input, m, [kh, kw])?;
        match g.c == c * g.groups {
            true => Ok(g),
            false => Err(Error::Shape(format!(
                "the filters read {} channels, the input has {}",
                c * g.groups,
                g.c
            ))),
        }
    }

    pub(crate) fn decode(from: &mut Decoder<'_>) -> Result<Box<dyn Layer>> {
        let options = ConvOptions::decode(from)?;
        let shape = [from.uint()?, from.uint()?, from.uint()?, from.uint()?];
        Ok(Box::new(Conv2dI8::new(Int8Weights::decode(&shape, from)?, options)?))
    }
}

impl Layer for Conv2dI8 {
    fn kind(&self) -> &'static str {
        Conv2dI8::KIND
    }

    fn output_shape(&self, inputs: &[&[usize]]) -> Result<Vec<usize>> {
        let g = self.geometry(inputs)?;
        Ok(vec![g.n, g.m, g.out_h(), g.out_w()])
    }

    fn infer(&self, inputs: &[&Tensor]) -> Result<Tensor> {
        let shapes: Vec<&[usize]> = inputs.iter().map(|t| t.shape()).collect();
        let g = self.geometry(&shapes)?;
        let x = self.weights.quantize(slice(inputs[0])?);
        let mut y = zeros(&[g.n, g.m, g.out_h(), g.out_w()]);
        int8::conv(&g, &x, self.weights.levels(), slice_mut(&mut y)?, |m, sum| self.weights.finish(m, sum));
        Ok(y)
    }

    fn reads(&self, isa: Isa) -> Option<Levels> {
        lowered::reads(&self.options, &self.weights, isa)
    }

    /// The bits are those of [`Layer::infer`] where the epilogue is empty.
    fn lower(&self, at: &Lowering<'_>) -> Option<Lowered> {
        let g = self.geometry(&[&at.inputs.first()?.shape]).ok()?;
        lowered::conv(at, &g, &self.weights)
    }

    fn cost(&self, inputs: &[&[usize]]) -> Result<Cost> {
        let macs = Macs { int8: self.geometry(inputs)?.macs(), ..Macs::default() };
        Ok(Cost { params: self.weights.params(), nonzeros: self.weights.nonzeros(), macs })
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
        let inputs = express::int8(at, &self.weights)?;
        let &[_, _, kh, kw] = self.weights.shape() else {
            return Err(Error::Shape(format!("filters of shape {:?}", self.weights.shape())));
        };
        let y = at.operator("Conv", &inputs, self.options.attributes([kh, kw]));
        at.output(y);
        Ok(())
    }
}
