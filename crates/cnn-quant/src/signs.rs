//! Weights of one bit: the constraint of `quant.binary` with signs.

use cnn_core::model_file::{Decoder, Encoder};
use cnn_core::{Constraint, Error, Result, Tensor};

/// Kind of the constraint.
pub const SIGNS: &str = "quant.signs";

/// `w <- alpha_m sign(w)` for the weights of output channel `m`, with the sign of zero positive.
///
/// - Scaled, `alpha_m = mean |w|`, which is nearest to the weights in the square (Rastegari et al. 2016, "XNOR-Net", eq. 6).
/// - Not scaled, `alpha_m = 1`: a normalization follows (Courbariaux et al. 2015, "BinaryConnect", section 2.3).
///
/// Gradients pass straight through to the base values, which are clipped to -1 to 1 (BinaryConnect, section 2.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signs {
    /// Whether signs are scaled.
    pub scaled: bool,
}

impl Signs {
    pub(crate) fn decode(from: &mut Decoder<'_>) -> Result<Box<dyn Constraint>> {
        match from.byte()? {
            scaled @ (0 | 1) => Ok(Box::new(Signs { scaled: scaled == 1 })),
            other => Err(Error::malformed(format!("signs of the unknown scale {other}"))),
        }
    }
}

/// The mean of absolute values.
pub fn mean_size<'a>(values: impl IntoIterator<Item = &'a f32>) -> f32 {
    let (sum, count) = values.into_iter().fold((0f64, 0u64), |(s, n), v| (s + f64::from(v.abs()), n + 1));
    (sum / count.max(1) as f64) as f32
}

/// Base values stay where gradients count: BinaryConnect, section 2.4.
pub fn clip(base: &mut Tensor) {
    base.mapv_inplace(|w| w.clamp(-1.0, 1.0));
}

impl Constraint for Signs {
    fn kind(&self) -> &'static str {
        SIGNS
    }

    fn materialize(&self, w: &mut Tensor) {
        for mut row in w.outer_iter_mut() {
            let alpha = if self.scaled { mean_size(&row) } else { 1.0 };
            row.mapv_inplace(|w| if w >= 0.0 { alpha } else { -alpha });
        }
    }

    fn pull_back(&mut self, _input: &Tensor, _grad: &mut Tensor) {}

    fn project(&mut self, base: &mut Tensor) {
        clip(base);
    }

    fn select(&mut self, _axis: usize, _keep: &[usize]) -> Result<()> {
        Ok(())
    }

    fn encode(&self, out: &mut Encoder) -> Result<()> {
        out.byte(u8::from(self.scaled));
        Ok(())
    }

    fn clone_box(&self) -> Box<dyn Constraint> {
        Box::new(*self)
    }
}
