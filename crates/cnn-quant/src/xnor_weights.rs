//! Signs of weights and all that makes numbers of them: what both packed layers of one bit hold.

use crate::coding::symbols;
use crate::error::Error;
use cnn_core::Tensor;
use cnn_core::model_file::{Decoder, Encoder};

/// Weights `alpha_m s`, `s` -1 or 1, for inputs that become the signs of `x - t_c`.
#[derive(Debug, Clone, PartialEq)]
pub struct XnorWeights {
    shape: Vec<usize>,
    /// 1 for a positive weight and 0 for a negative one, in row-major order.
    bits: Vec<u8>,
    /// `alpha`, one for each output channel.
    scales: Vec<f32>,
    /// `t`, one for each input channel.
    thresholds: Vec<f32>,
    bias: Option<Vec<f32>>,
}

impl XnorWeights {
    /// Weights `[out, ...]` that in each row are one number with both signs.
    ///
    /// # Errors
    /// [`Error::CannotPack`] for NaN or infinity; [`Error::TooManyValues`] where a row has several sizes of weights.
    pub fn new(weight: &Tensor, thresholds: Vec<f32>, bias: Option<&Tensor>) -> Result<XnorWeights, Error> {
        let all = weight.iter().chain(&thresholds).chain(bias.into_iter().flatten());
        if !all.into_iter().all(|v| v.is_finite()) || weight.is_empty() {
            return Err(Error::CannotPack);
        }
        let mut scales = Vec::with_capacity(weight.shape()[0]);
        for row in weight.outer_iter() {
            let size = row.iter().next().map_or(0.0, |w| w.abs());
            if row.iter().any(|w| w.abs() != size) {
                return Err(Error::TooManyValues { limit: 2 });
            }
            scales.push(size);
        }
        let bits = weight.iter().map(|&w| u8::from(w >= 0.0)).collect();
        let bias = bias.map(|b| b.iter().copied().collect());
        Ok(XnorWeights { shape: weight.shape().to_vec(), bits, scales, thresholds, bias })
    }

    /// The shape of the weights.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// 1 for a positive weight and 0 for a negative one, in row-major order.
    pub fn bits(&self) -> &[u8] {
        &self.bits
    }

    /// The threshold of each input channel, at which its sign changes.
    pub fn thresholds(&self) -> &[f32] {
        &self.thresholds
    }

    /// The scale and the bias of each output channel.
    pub fn ending(&self) -> (Vec<f32>, Vec<f32>) {
        (self.scales.clone(), self.bias.clone().unwrap_or_else(|| vec![0.0; self.scales.len()]))
    }

    /// The signs of the weights as -1 and 1.
    pub fn levels(&self) -> Vec<i16> {
        self.bits.iter().map(|&bit| 2 * i16::from(bit) - 1).collect()
    }

    /// The signs of an input whose channels have `plane` values each.
    pub fn signs(&self, x: &[f32], plane: usize) -> Vec<i16> {
        let planes = x.chunks(plane.max(1)).zip(self.thresholds.iter().cycle());
        planes.flat_map(|(x, t)| x.iter().map(move |x| if x >= t { 1 } else { -1 })).collect()
    }

    /// The value of a sum of products of signs.
    pub fn finish(&self, channel: usize, sum: i32) -> f32 {
        let bias = self.bias.as_ref().map_or(0.0, |b| b[channel]);
        self.scales[channel] * sum as f32 + bias
    }

    /// Numbers that are not thrown away: weights, scales, thresholds, bias.
    pub fn params(&self) -> u64 {
        let bias = self.bias.as_ref().map_or(0, Vec::len);
        (self.bits.len() + self.scales.len() + self.thresholds.len() + bias) as u64
    }

    /// Writes all but the shape.
    pub(crate) fn encode(&self, out: &mut Encoder) -> cnn_core::Result<()> {
        out.byte(u8::from(self.bias.is_some()));
        out.floats(&self.scales);
        out.uint(self.thresholds.len())?;
        out.floats(&self.thresholds);
        symbols::encode(out, self.scales.len(), 2, &self.bits)?;
        if let Some(bias) = &self.bias {
            out.floats(bias);
        }
        Ok(())
    }

    /// Reads what [`XnorWeights::encode`] wrote.
    pub(crate) fn decode(shape: &[usize], from: &mut Decoder<'_>) -> cnn_core::Result<XnorWeights> {
        let count = from.claim_shape(shape)?;
        let bias = match (from.byte()?, count) {
            (flags @ (0 | 1), 1..) => flags == 1,
            (flags, _) => {
                return Err(cnn_core::Error::malformed(format!("signs {shape:?} with flags {flags:#x}")));
            }
        };
        let scales = from.floats(shape[0])?;
        let channels = from.uint()?;
        let thresholds = from.floats(channels)?;
        let bits = symbols::decode(from, shape[0], 2, count)?;
        let bias = if bias { Some(from.floats(shape[0])?) } else { None };
        Ok(XnorWeights { shape: shape.to_vec(), bits, scales, thresholds, bias })
    }
}
