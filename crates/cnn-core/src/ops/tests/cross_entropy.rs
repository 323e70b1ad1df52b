use proptest::prelude::*;

use super::{assert_gradient, uniform};
use crate::ops::cross_entropy::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn loss_and_gradient(n in 1..5usize, k in 1..6usize, smoothing in 0f32..0.9, seed: u64) {
        let x: Vec<f32> = uniform(seed, n * k).iter().map(|v| v * 4.0).collect();
        let labels: Vec<usize> = (0..n).map(|i| (seed as usize >> (4 * i)) % k).collect();
        let mut dx = vec![f32::NAN; x.len()];
        let loss = cross_entropy(&x, &labels, k, smoothing, &mut dx);
        prop_assert_eq!(loss, cross_entropy_loss(&x, &labels, k, smoothing));

        let s = f64::from(smoothing);
        let mut naive = 0.0;
        for (x, &label) in x.chunks(k).zip(&labels) {
            let sum: f64 = x.iter().map(|&x| f64::from(x).exp()).sum();
            for (j, &x) in x.iter().enumerate() {
                let q = s / k as f64 + if j == label { 1.0 - s } else { 0.0 };
                naive -= q * (f64::from(x).exp() / sum).ln() / n as f64;
            }
        }
        prop_assert!((loss - naive).abs() < 1e-9);
        assert_gradient(&x, &dx, 0.01, 1e-4, |x| cross_entropy_loss(x, &labels, k, smoothing));
    }
}

#[test]
fn huge_logits_stay_finite() {
    let mut dx = [0.0; 2];
    assert_eq!(cross_entropy(&[1e30, -1e30], &[0], 2, 0.0, &mut dx), 0.0);
    assert_eq!(dx, [0.0, 0.0]);
    assert_eq!(cross_entropy_loss(&[0.0, f32::NEG_INFINITY], &[0], 2, 0.0), 0.0);
}
