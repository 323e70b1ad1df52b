use proptest::prelude::*;

use super::{assert_close, assert_gradient, uniform, weighted};
use crate::ops::softmax::*;

fn forward(x: &[f32], k: usize, inner: usize) -> Vec<f32> {
    let mut y = vec![0.0; x.len()];
    softmax(x, k, inner, &mut y);
    y
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn matches_naive_and_gradient(n in 1..4usize, k in 1..6usize, inner in 1..5usize, seed: u64) {
        let x: Vec<f32> = uniform(seed, n * k * inner).iter().map(|v| v * 3.0).collect();
        let y = forward(&x, k, inner);
        let naive: Vec<f32> = (0..x.len())
            .map(|i| {
                let at = |j: usize| i / (k * inner) * k * inner + j * inner + i % inner;
                let sum: f64 = (0..k).map(|j| f64::from(x[at(j)]).exp()).sum();
                (f64::from(x[i]).exp() / sum) as f32
            })
            .collect();
        assert_close(&y, &naive, 1e-6, "forward");
        let w = uniform(seed ^ 1, x.len());
        let mut dx = w.clone();
        softmax_backward(&y, k, inner, &mut dx);
        assert_gradient(&x, &dx, 0.01, 1e-3, |x| weighted(&forward(x, k, inner), &w));
    }
}

#[test]
fn large_and_masked_logits() {
    let y = forward(&[1e4, 1e4, f32::NEG_INFINITY, 0.0], 4, 1);
    assert_eq!(y, [0.5, 0.5, 0.0, 0.0]);
    assert!(forward(&[f32::NAN, 1.0], 2, 1).iter().all(|y| y.is_nan()));
}
