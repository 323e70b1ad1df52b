//! Weights as a codebook and an index each, in memory and in the file: what both packed layers of `quant.kmeans` hold.

use crate::coding::symbols::{self, Form};
use crate::error::Error;
use crate::half16;
use cnn_core::model_file::{Decoder, Encoder};
use cnn_core::tensor::tensor;
use cnn_core::{Result, Tensor};
use std::collections::HashMap;

/// Values that a codebook holds at most.
pub const MOST_VALUES: usize = 256;

/// A codebook of at most 256 values and an index for each weight.
#[derive(Debug, Clone, PartialEq)]
pub struct CodebookWeights {
    shape: Vec<usize>,
    /// Zero first, if it occurs, then ascending.
    codebook: Vec<f32>,
    indices: Vec<u8>,
}

impl CodebookWeights {
    /// The different values of a tensor as its codebook; exact (a negative zero becomes zero).
    ///
    /// # Errors
    /// [`Error::TooManyValues`] for more than 256 different values, [`Error::CannotPack`] for NaN or infinity.
    pub fn new(weights: &Tensor) -> Result<CodebookWeights, Error> {
        let plain = |v: f32| if v == 0.0 { 0.0 } else { v };
        let mut seen: HashMap<u32, u8> = HashMap::new();
        for &v in weights {
            if !v.is_finite() {
                return Err(Error::CannotPack);
            }
            seen.insert(plain(v).to_bits(), 0);
            if seen.len() > MOST_VALUES {
                return Err(Error::TooManyValues { limit: MOST_VALUES });
            }
        }
        let mut codebook: Vec<f32> = seen.keys().map(|&bits| f32::from_bits(bits)).collect();
        codebook.sort_by(|a, b| (*a != 0.0).cmp(&(*b != 0.0)).then(a.total_cmp(b)));
        seen.extend(codebook.iter().enumerate().map(|(i, v)| (v.to_bits(), i as u8)));
        let indices = weights.iter().map(|&v| seen.get(&plain(v).to_bits()).copied().unwrap_or(0)).collect();
        Ok(CodebookWeights { shape: weights.shape().to_vec(), codebook, indices })
    }

    /// The shape of the weights.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The values; zero first, if it occurs, then ascending.
    pub fn codebook(&self) -> &[f32] {
        &self.codebook
    }

    /// The position in the codebook of each weight, in row-major order.
    pub fn indices(&self) -> &[u8] {
        &self.indices
    }

    /// The weights as floats.
    ///
    /// # Errors
    /// None in practice.
    pub fn decoded(&self) -> Result<Tensor> {
        tensor(&self.shape, self.indices.iter().map(|&i| self.codebook[usize::from(i)]).collect())
    }

    /// Bytes that the indices take in each form of the file; the shortest one is written.
    ///
    /// # Errors
    /// None in practice.
    pub fn sizes(&self) -> Result<Vec<(Form, usize)>> {
        symbols::sizes(self.rows(), self.codebook.len(), &self.indices)
    }

    fn rows(&self) -> usize {
        self.shape.first().copied().unwrap_or(1)
    }

    /// Writes codebook, indices and the bias, whose length is the first size of the shape; not the shape.
    pub(crate) fn encode(&self, bias: Option<&[f32]>, out: &mut Encoder) -> Result<()> {
        let zero = self.codebook.first() == Some(&0.0);
        let values = &self.codebook[usize::from(zero)..];
        let (half, half_bias) = (half16::all_half(values), bias.is_some_and(half16::all_half));
        out.byte(
            u8::from(half) | u8::from(zero) << 1 | u8::from(bias.is_some()) << 2 | u8::from(half_bias) << 3,
        );
        out.uint(values.len())?;
        half16::write(out, values, half);
        symbols::encode(out, self.rows(), self.codebook.len(), &self.indices)?;
        if let Some(bias) = bias {
            half16::write(out, bias, half_bias);
        }
        Ok(())
    }

    /// Reads what [`CodebookWeights::encode`] wrote.
    pub(crate) fn decode(
        shape: &[usize],
        from: &mut Decoder<'_>,
    ) -> Result<(CodebookWeights, Option<Vec<f32>>)> {
        let flags = from.byte()?;
        if flags >> 4 != 0 {
            return Err(cnn_core::Error::malformed(format!("unknown flags {flags:#x} of a codebook")));
        }
        let zero = flags & 2 != 0;
        // once for the indices, once for the weights that are decoded from them
        let count = from.claim_shape(shape)?;
        from.claim(count)?;
        let values = from.count(MOST_VALUES - usize::from(zero))?;
        let mut codebook = half16::read(from, values, flags & 1 != 0)?;
        if zero {
            codebook.insert(0, 0.0);
        }
        if count == 0 || codebook.is_empty() {
            return Err(cnn_core::Error::malformed("a codebook layer without weights"));
        }
        let indices = symbols::decode(from, shape[0], codebook.len(), count)?;
        let bias = match flags & 4 {
            0 => None,
            _ => Some(half16::read(from, shape[0], flags & 8 != 0)?),
        };
        Ok((CodebookWeights { shape: shape.to_vec(), codebook, indices }, bias))
    }
}
