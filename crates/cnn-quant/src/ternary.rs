//! Weights of three values: the constraint of `quant.binary` with `twn` and `ttq`.

use crate::signs::{clip, mean_size};
use cnn_core::model_file::{Decoder, Encoder};
use cnn_core::tensor::tensor;
use cnn_core::{Constraint, Error, Param, Result, Role, Tensor};

/// Kind of the constraint.
pub const TERNARY: &str = "quant.ternary";

/// Part of the mean size below which a weight is zero (Li, Zhang, Liu 2016, "Ternary Weight Networks", eq. 6).
const TWN_THRESHOLD: f32 = 0.7;

/// Part of the largest size below which a weight is zero (Zhu et al. 2017, "Trained Ternary Quantization", eq. 9 and section 5).
const TTQ_THRESHOLD: f32 = 0.05;

/// Each weight becomes zero or one of two values: exact zeros stay.
///
/// - Fitted: `alpha_m sign(w)` where `|w| > 0.7 mean |w|` in output channel `m`, with `alpha_m` the mean size of these (Ternary Weight
///   Networks, eq. 5 and 6). Gradients pass straight through.
/// - Learned: `W_p` where `w > 0.05 max |w|` in the layer, `-W_n` where it is below the negative of that (Trained Ternary Quantization).
///   Gradients come back times the value (eq. 8).
#[derive(Debug, Clone)]
pub struct Ternary {
    /// `W_p` and `W_n`, if they are learned.
    values: Option<Param>,
}

impl Ternary {
    /// The fitted form.
    pub fn fitted() -> Ternary {
        Ternary { values: None }
    }

    /// The learned form; both values begin as the mean size of the weights that they stand for.
    ///
    /// # Errors
    /// None in practice.
    pub fn learned(weight: &Tensor) -> Result<Ternary> {
        let threshold = ttq_threshold(weight);
        let above = mean_size(weight.iter().filter(|w| **w > threshold));
        let below = mean_size(weight.iter().filter(|w| **w < -threshold));
        Ok(Ternary { values: Some(Param::new(Role::Constraint, tensor(&[2], vec![above, below])?)) })
    }

    pub(crate) fn decode(from: &mut Decoder<'_>) -> Result<Box<dyn Constraint>> {
        let values = match from.byte()? {
            0 => None,
            1 => Some(from.param(Role::Constraint, &[2])?),
            other => return Err(Error::malformed(format!("three values of the unknown kind {other}"))),
        };
        Ok(Box::new(Ternary { values }))
    }
}

fn ttq_threshold(weight: &Tensor) -> f32 {
    TTQ_THRESHOLD * weight.iter().fold(0f32, |most, w| most.max(w.abs()))
}

/// `W_p` and `W_n`, which training may have driven below zero.
fn pair(values: &Param) -> [f32; 2] {
    let mut values = values.value().iter();
    std::array::from_fn(|_| values.next().copied().unwrap_or_default())
}

impl Constraint for Ternary {
    fn kind(&self) -> &'static str {
        TERNARY
    }

    fn materialize(&self, w: &mut Tensor) {
        match &self.values {
            None => {
                for mut row in w.outer_iter_mut() {
                    let threshold = TWN_THRESHOLD * mean_size(&row);
                    let alpha = mean_size(row.iter().filter(|w| w.abs() > threshold));
                    row.mapv_inplace(|w| if w.abs() > threshold { alpha.copysign(w) } else { 0.0 });
                }
            }
            Some(values) => {
                let (threshold, [above, below]) = (ttq_threshold(w), pair(values));
                w.mapv_inplace(|w| match w {
                    w if w > threshold => above,
                    w if w < -threshold => -below,
                    _ => 0.0,
                });
            }
        }
    }

    fn pull_back(&mut self, input: &Tensor, grad: &mut Tensor) {
        let Some(values) = &mut self.values else { return };
        let (threshold, [above, below]) = (ttq_threshold(input), pair(values));
        let mut sums = [0f64; 2];
        for (&w, g) in input.iter().zip(grad) {
            if w > threshold {
                sums[0] += f64::from(*g);
                *g *= above;
            } else if w < -threshold {
                sums[1] -= f64::from(*g);
                *g *= below;
            }
        }
        // a sum over a whole layer would leap at the rate of its weights: scaled as the step of a grid is (Esser et al. 2020, section 2.2)
        let scale = 1.0 / (input.len().max(1) as f64).sqrt();
        values.write_grad(|g| g.copy_from_slice(&sums.map(|s| (s * scale) as f32)));
    }

    fn project(&mut self, base: &mut Tensor) {
        clip(base);
    }

    fn params_mut(&mut self) -> Vec<&mut Param> {
        self.values.iter_mut().collect()
    }

    fn select(&mut self, _axis: usize, _keep: &[usize]) -> Result<()> {
        Ok(())
    }

    fn encode(&self, out: &mut Encoder) -> Result<()> {
        out.byte(u8::from(self.values.is_some()));
        self.values.iter().try_for_each(|values| out.param(values))
    }

    fn clone_box(&self) -> Box<dyn Constraint> {
        Box::new(self.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signs::Signs;

    fn under(constraint: Box<dyn Constraint>, values: &[f32]) -> Param {
        let mut param = Param::new(Role::Weight, tensor(&[2, values.len() / 2], values.to_vec()).unwrap());
        param.constrain(constraint);
        param
    }

    fn values(param: &Param) -> Vec<f32> {
        param.value().iter().copied().collect()
    }

    const W: [f32; 8] = [0.5, -0.1, 0.0, 0.6, -1.0, 1.0, -0.2, -0.6];

    #[test]
    fn signs_by_hand() {
        let scaled = under(Box::new(Signs { scaled: true }), &W);
        assert_eq!(values(&scaled), [0.3, -0.3, 0.3, 0.3, -0.7, 0.7, -0.7, -0.7]);
        let plain = under(Box::new(Signs { scaled: false }), &W);
        assert_eq!(values(&plain), [1.0, -1.0, 1.0, 1.0, -1.0, 1.0, -1.0, -1.0]);
    }

    #[test]
    fn three_values_by_hand() {
        // thresholds 0.21 and 0.49
        let fitted = under(Box::new(Ternary::fitted()), &W);
        let want = [0.55, 0.0, 0.0, 0.55, -2.6 / 3.0, 2.6 / 3.0, 0.0, -2.6 / 3.0];
        assert!(values(&fitted).iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-6), "{:?}", values(&fitted));
        // threshold 0.05: zero stays zero
        let weight = tensor(&[2, 4], W.to_vec()).unwrap();
        let learned = under(Box::new(Ternary::learned(&weight).unwrap()), &W);
        let (p, n) = (0.7, 1.9 / 4.0);
        let want = [p, -n, 0.0, p, -n, p, -n, -n];
        assert!(
            values(&learned).iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-6),
            "{:?}",
            values(&learned)
        );
    }

    #[test]
    fn learned_values_get_the_derivative() {
        let weight = tensor(&[2, 4], W.to_vec()).unwrap();
        let mut param = under(Box::new(Ternary::learned(&weight).unwrap()), &W);
        let probe = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0f32];
        param.write_grad(|g| g.copy_from_slice(&probe));
        param.pull_back();
        let ternary: &Ternary = param.constraints()[0].downcast_ref().unwrap();
        let values = ternary.values.as_ref().unwrap();
        let of_values: Vec<f32> = values.grad().unwrap().iter().copied().collect();
        let wanted = [1.0 + 8.0 + 32.0, -(2.0 + 16.0 + 64.0 + 128.0)].map(|sum: f32| sum / 8f32.sqrt());
        assert!(of_values.iter().zip(wanted).all(|(a, b)| (a - b).abs() < 1e-4), "{of_values:?}");
        let of_base: Vec<f32> = param.grad().unwrap().iter().copied().collect();
        let (p, n) = (pair(values)[0], pair(values)[1]);
        assert_eq!(of_base, [p, 2.0 * n, 4.0, 8.0 * p, 16.0 * n, 32.0 * p, 64.0 * n, 128.0 * n]);
    }

    #[test]
    fn bases_are_clipped() {
        for constraint in
            [Box::new(Signs { scaled: true }) as Box<dyn Constraint>, Box::new(Ternary::fitted())]
        {
            let mut param = under(constraint, &W);
            param.write_grad(|g| g.fill(-10.0));
            param.update(&mut |_, w, g, _| w.scaled_add(-1.0, g));
            assert!(param.base().iter().all(|&w| w == 1.0));
        }
    }
}
