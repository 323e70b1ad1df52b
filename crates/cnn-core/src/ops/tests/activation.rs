use super::{assert_close, assert_gradient, floats, golden, uniform, weighted};
use crate::ops::activation::*;
use crate::ops::exp::exp;

const ALL: [(&str, ActivationFn); 7] = [
    ("relu", ActivationFn::Relu),
    ("relu6", ActivationFn::Relu6),
    ("leaky_relu", ActivationFn::LeakyRelu(0.125)),
    ("sigmoid", ActivationFn::Sigmoid),
    ("hard_sigmoid", ActivationFn::HardSigmoid),
    ("hard_swish", ActivationFn::HardSwish),
    ("silu", ActivationFn::Silu),
];

fn forward(f: ActivationFn, x: &[f32]) -> Vec<f32> {
    let mut y = vec![0.0; x.len()];
    activation(f, x, &mut y);
    y
}

fn backward(f: ActivationFn, x: &[f32], dy: &[f32]) -> Vec<f32> {
    let mut grad = dy.to_vec();
    match f.backward_needs() {
        Saved::Input => activation_backward(f, x, &mut grad),
        Saved::Output => activation_backward(f, &forward(f, x), &mut grad),
    }
    grad
}

#[test]
fn agree_with_pytorch() {
    for case in golden("activation") {
        let name = case["name"].as_str().unwrap();
        let f = ALL.iter().find(|f| f.0 == name).unwrap().1;
        let x = floats(&case, "x");
        assert_close(&forward(f, &x), &floats(&case, "y"), 1e-6, name);
        assert_close(&backward(f, &x, &floats(&case, "dy")), &floats(&case, "dx"), 2e-6, name);
    }
}

#[test]
fn gradients() {
    // Away from the corners at -3, 0, 3 and 6.
    let x: Vec<f32> = uniform(1, 300)
        .iter()
        .map(|v| v * 8.0)
        .filter(|x| [-3.0f32, 0.0, 3.0, 6.0].iter().all(|corner| (x - corner).abs() > 0.02))
        .collect();
    let w = uniform(2, x.len());
    let negative_slope = ("leaky_relu below 0", ActivationFn::LeakyRelu(-0.5));
    for (name, f) in ALL.into_iter().chain([negative_slope]) {
        println!("{name}");
        let dx = backward(f, &x, &w);
        assert_gradient(&x, &dx, 0.01, 2e-3, |x| weighted(&forward(f, x), &w));
    }
}

#[test]
fn in_place_is_the_same_and_nan_stays() {
    let mut x = uniform(3, 100);
    x.extend([f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0]);
    for (name, f) in ALL {
        let y = forward(f, &x);
        let mut z = x.clone();
        activation_in_place(f, &mut z);
        let bits = |v: &[f32]| v.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&y), bits(&z), "{name}");
        assert!(y[100].is_nan(), "{name}");
    }
}

#[test]
fn exp_within_two_ulp() {
    for i in -870_000..880_000 {
        let x = i as f32 * 1e-4;
        let expected = f64::from(x).exp();
        let error = (f64::from(exp(x)) / expected - 1.0).abs();
        assert!(error < 2.0 * f64::from(f32::EPSILON) / 2.0, "exp({x}): {error:e}");
    }
    assert_eq!(exp(f32::NEG_INFINITY), 0.0);
    assert_eq!(exp(0.0), 1.0);
    assert!(exp(f32::NAN).is_nan());
    assert!(exp(f32::INFINITY) > 1e38);
}
