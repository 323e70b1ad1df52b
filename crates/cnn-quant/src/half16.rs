//! 16-bit floats (IEEE 754 binary16): rounding, the constraint that trains under it, and how values are written.

use cnn_core::model_file::{Decoder, Encoder};
use cnn_core::{Constraint, Result, Tensor};
use half::f16;

/// Kind of the constraint.
pub const HALF: &str = "quant.half";

/// The nearest 16-bit float; what lies beyond its range (65504) saturates. NaN stays.
pub fn round(value: f32) -> f32 {
    f16::from_f32(value.clamp(f16::MIN.to_f32(), f16::MAX.to_f32())).to_f32()
}

/// Values are rounded to 16-bit floats, gradients pass straight through: for biases, which then take two bytes each in the
/// file, exactly as they were trained.
#[derive(Debug, Clone, Copy, Default)]
pub struct Half;

impl Half {
    pub(crate) fn decode(_from: &mut Decoder<'_>) -> Result<Box<dyn Constraint>> {
        Ok(Box::new(Half))
    }
}

impl Constraint for Half {
    fn kind(&self) -> &'static str {
        HALF
    }

    fn materialize(&self, w: &mut Tensor) {
        w.mapv_inplace(round);
    }

    fn pull_back(&mut self, _input: &Tensor, _grad: &mut Tensor) {}

    fn select(&mut self, _axis: usize, _keep: &[usize]) -> Result<()> {
        Ok(())
    }

    fn encode(&self, _out: &mut Encoder) -> Result<()> {
        Ok(())
    }

    fn clone_box(&self) -> Box<dyn Constraint> {
        Box::new(*self)
    }
}

/// True if 16-bit floats can stand for the values: none is off by more than a thousandth of the largest. They cannot when that
/// lies beyond 65504, or all are below about 3e-5.
pub fn suits<'a>(values: impl IntoIterator<Item = &'a f32> + Clone) -> bool {
    let most = values.clone().into_iter().fold(0f32, |most, v| most.max(v.abs()));
    values.into_iter().all(|&v| (round(v) - v).abs() <= 1e-3 * most)
}

/// True if every value is a 16-bit float.
pub fn all_half(values: &[f32]) -> bool {
    values.iter().all(|&v| round(v).to_bits() == v.to_bits())
}

/// Writes values in two bytes each when `half`, else in four.
pub fn write(out: &mut Encoder, values: &[f32], half: bool) {
    match half {
        true => values.iter().for_each(|&v| out.raw(&f16::from_f32(v).to_le_bytes())),
        false => out.floats(values),
    }
}

/// Reads what [`write`] wrote.
///
/// # Errors
/// If the file ends before.
pub fn read(from: &mut Decoder<'_>, count: usize, half: bool) -> Result<Vec<f32>> {
    if !half {
        return from.floats(count);
    }
    let bytes = from.raw(count.saturating_mul(2))?;
    from.claim(count)?;
    Ok(bytes.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_idempotent_and_saturates() {
        for v in [0.1f32, -3.3e-5, 7e4, f32::INFINITY, -1e9, 1e-9, 0.0] {
            assert_eq!(round(round(v)).to_bits(), round(v).to_bits());
            assert!(all_half(&[round(v)]));
        }
        assert_eq!(round(1e9), 65504.0);
        assert!((round(0.1) - 0.1).abs() <= 0.1 / 2048.0);
        assert!(round(f32::NAN).is_nan());
        assert!(!all_half(&[0.1]));
        assert!(suits(&[0.1, -3e-7, 0.0]) && suits(&[]) && !suits(&[1e-6, 3e-6]) && !suits(&[1.0, 7e4]));
    }
}
