use proptest::prelude::*;

use super::{assert_close, assert_gradient, floats, golden, size, sizes, uniform, weighted};
use crate::ops::norm::*;

const EPS: f32 = 1e-3;

fn forward(x: &[f32], n: usize, hw: usize, gamma: &[f32], beta: &[f32]) -> Vec<f32> {
    let (mean, var) = bn_stats(x, n, gamma.len(), hw);
    let (scale, shift) = bn_scale_shift(&mean, &bn_inv_std(&var, EPS), gamma, beta);
    let mut y = vec![0.0; x.len()];
    bn_apply(x, &mut y, hw, &scale, &shift);
    y
}

fn naive_stats(x: &[f32], n: usize, c: usize, hw: usize) -> (Vec<f32>, Vec<f32>) {
    let m = (n * hw) as f64;
    let channel =
        |ch: usize| (0..n).flat_map(move |i| x[(i * c + ch) * hw..][..hw].iter().map(|&v| f64::from(v)));
    (0..c)
        .map(|ch| {
            let mean = channel(ch).sum::<f64>() / m;
            let var = channel(ch).map(|v| (v - mean).powi(2)).sum::<f64>() / m;
            (mean as f32, var as f32)
        })
        .unzip()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn stats_match_naive(n in 1..5usize, c in 1..5usize, hw in 1..90usize, seed: u64,
                         offset in -1000f32..1000.0) {
        let x: Vec<f32> = uniform(seed, n * c * hw).iter().map(|v| v + offset).collect();
        let (mean, var) = bn_stats(&x, n, c, hw);
        let (naive_mean, naive_var) = naive_stats(&x, n, c, hw);
        assert_close(&mean, &naive_mean, 1e-6, "mean");
        assert_close(&var, &naive_var, 1e-6, "var");
    }

    #[test]
    fn gradients(n in 1..4usize, c in 1..4usize, hw in 1..7usize, seed: u64) {
        prop_assume!(n * hw > 2);
        let x = uniform(seed, n * c * hw);
        let w = uniform(seed ^ 1, x.len());
        let gamma = uniform(seed ^ 2, c);
        let beta = uniform(seed ^ 3, c);
        let (mean, var) = bn_stats(&x, n, c, hw);
        // A tiny variance makes the function too curved for the step.
        prop_assume!(var.iter().all(|&v| v > 0.05));
        let mut dx = w.clone();
        let (dgamma, dbeta) = bn_backward(&x, &mut dx, hw, &mean, &bn_inv_std(&var, EPS), &gamma);
        assert_gradient(&x, &dx, 2e-3, 5e-3, |x| weighted(&forward(x, n, hw, &gamma, &beta), &w));
        assert_gradient(&gamma, &dgamma, 0.1, 1e-4, |gamma| {
            weighted(&forward(&x, n, hw, gamma, &beta), &w)
        });
        assert_gradient(&beta, &dbeta, 0.1, 1e-4, |beta| {
            weighted(&forward(&x, n, hw, &gamma, beta), &w)
        });
    }

    #[test]
    fn apply_is_affine(planes in 1..6usize, c in 1..4usize, hw in 1..40usize, seed: u64) {
        let x = uniform(seed, planes * c * hw);
        let (scale, shift) = (uniform(seed ^ 1, c), uniform(seed ^ 2, c));
        let expected: Vec<f32> = (0..x.len())
            .map(|i| scale[i / hw % c] * x[i] + shift[i / hw % c])
            .collect();
        let mut y = vec![0.0; x.len()];
        bn_apply(&x, &mut y, hw, &scale, &shift);
        assert_eq!(&y, &expected);
    }
}

#[test]
fn variance_of_long_channels_with_a_large_mean() {
    let (n, c, hw) = (16, 2, 96 * 96);
    let x: Vec<f32> = uniform(7, n * c * hw).iter().map(|v| 1000.0 + 0.01 * v).collect();
    let (mean, var) = bn_stats(&x, n, c, hw);
    let (naive_mean, naive_var) = naive_stats(&x, n, c, hw);
    for ch in 0..c {
        assert!((mean[ch] - naive_mean[ch]).abs() <= 1e-4);
        assert!((var[ch] / naive_var[ch] - 1.0).abs() < 1e-5, "{} {}", var[ch], naive_var[ch]);
    }
}

#[test]
fn agrees_with_pytorch() {
    for case in golden("batch_norm") {
        let name = case["name"].as_str().unwrap();
        let (n, c) = (size(&case, "n"), size(&case, "c"));
        let hw = sizes::<2>(&case, "hw").iter().product();
        let eps = case["eps"].as_f64().unwrap() as f32;
        let x = floats(&case, "x");
        let gamma = floats(&case, "gamma");
        let (mean, var) = bn_stats(&x, n, c, hw);
        assert_close(&mean, &floats(&case, "mean"), 1e-6, name);
        assert_close(&var, &floats(&case, "var"), 1e-5, name);
        let inv_std = bn_inv_std(&var, eps);
        let (scale, shift) = bn_scale_shift(&mean, &inv_std, &gamma, &floats(&case, "beta"));
        let mut y = vec![0.0; x.len()];
        bn_apply(&x, &mut y, hw, &scale, &shift);
        // shift = beta - mean * scale loses digits when the mean is 100, here as in PyTorch.
        assert_close(&y, &floats(&case, "y"), 3e-5, name);
        let mut dx = floats(&case, "dy");
        let (dgamma, dbeta) = bn_backward(&x, &mut dx, hw, &mean, &inv_std, &gamma);
        assert_close(&dx, &floats(&case, "dx"), 2e-5, name);
        assert_close(&dgamma, &floats(&case, "dgamma"), 2e-5, name);
        assert_close(&dbeta, &floats(&case, "dbeta"), 1e-6, name);
    }
}
