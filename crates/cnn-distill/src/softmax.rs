//! Softmax at a temperature, in `f64`.

/// `log q_i = z_i / T - log sum_j exp(z_j / T)` (SPEC eq. 6), with the maximum taken out, so that nothing
/// overflows and no logarithm of a vanished probability is taken.
pub(crate) fn log_softmax(logits: &[f32], temperature: f64, out: &mut [f64]) {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0;
    for (out, &z) in out.iter_mut().zip(logits) {
        *out = (f64::from(z) - f64::from(max)) / temperature;
        sum += out.exp();
    }
    let log_sum = sum.ln();
    out.iter_mut().for_each(|v| *v -= log_sum);
}

/// `KL(p || q) = sum_i p_i (log p_i - log q_i)` from logarithms.
pub(crate) fn divergence(log_p: &[f64], log_q: &[f64]) -> f64 {
    log_p.iter().zip(log_q).map(|(&p, &q)| p.exp() * (p - q)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn softmax(logits: &[f32], temperature: f64) -> Vec<f64> {
        let mut out = vec![0.0; logits.len()];
        log_softmax(logits, temperature, &mut out);
        out
    }

    proptest! {
        #[test]
        fn sums_to_one_and_divergence_is_not_negative(
            (p, q) in (1usize..8).prop_flat_map(|n| {
                let logits = || proptest::collection::vec(-1e4f32..1e4, n);
                (logits(), logits())
            }),
            temperature in 0.01f64..1000.0,
        ) {
            let (p, q) = (softmax(&p, temperature), softmax(&q, temperature));
            prop_assert!((p.iter().map(|v| v.exp()).sum::<f64>() - 1.0).abs() < 1e-12);
            prop_assert!(p.iter().all(|v| v.is_finite()));
            prop_assert!(divergence(&p, &q) >= -1e-12 && divergence(&p, &p) == 0.0);
        }
    }

    #[test]
    fn by_hand() {
        let q = softmax(&[0.0, (3f32).ln()], 1.0);
        assert!((q[0].exp() - 0.25).abs() < 1e-7 && (q[1].exp() - 0.75).abs() < 1e-7);
        // at T = 2, exp(ln 9 / 2) = 3
        let q = softmax(&[(9f32).ln(), 0.0], 2.0);
        assert!((q[0].exp() - 0.75).abs() < 1e-7);
        assert!(softmax(&[3e38, -3e38], 0.01).iter().all(|v| !v.is_nan()));
        assert!(softmax(&[f32::NAN, 0.0], 1.0)[1].is_nan());
    }
}
