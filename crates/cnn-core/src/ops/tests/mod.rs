//! Tests of the operations: naive loops, finite differences, PyTorch values, equal bits for any
//! number of threads.

mod activation;
mod cross_entropy;
mod determinism;
mod dropout;
mod gather;
mod merge;
mod norm;
mod pad;
mod pool;
mod softmax;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;

/// Uniform values in -1..1.
fn uniform(seed: u64, len: usize) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..len).map(|_| rng.random_range(-1.0..1.0)).collect()
}

/// Different values with a spacing of 1, in random order: no maximum changes by a step below 1/2.
fn distinct(seed: u64, len: usize) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut values: Vec<f32> = (0..len).map(|i| i as f32).collect();
    for i in (1..len).rev() {
        values.swap(i, rng.random_range(0..=i));
    }
    values
}

/// `Σ y w`: the scalar whose gradient in `y` is `w`.
fn weighted(y: &[f32], w: &[f32]) -> f64 {
    y.iter().zip(w).map(|(&y, &w)| f64::from(y) * f64::from(w)).sum()
}

/// Compares `dx` with central differences of `loss` at `x`.
#[track_caller]
fn assert_gradient(x: &[f32], dx: &[f32], step: f32, tolerance: f64, loss: impl Fn(&[f32]) -> f64) {
    assert_eq!(x.len(), dx.len());
    let mut moved = x.to_vec();
    for i in 0..x.len() {
        let (hi, lo) = (x[i] + step, x[i] - step);
        moved[i] = hi;
        let above = loss(&moved);
        moved[i] = lo;
        let below = loss(&moved);
        moved[i] = x[i];
        let expected = (above - below) / f64::from(hi - lo);
        let error = (expected - f64::from(dx[i])).abs();
        assert!(error <= tolerance * (1.0 + expected.abs()), "element {i}: {} instead of {expected}", dx[i]);
    }
}

#[track_caller]
fn assert_close(actual: &[f32], expected: &[f32], tolerance: f32, what: &str) {
    assert_eq!(actual.len(), expected.len(), "{what}");
    for (i, (a, e)) in actual.iter().zip(expected).enumerate() {
        let close = (a - e).abs() <= tolerance * (1.0 + e.abs());
        assert!(close, "{what}, element {i}: {a} instead of {e}");
    }
}

/// The cases of `golden/<name>.json`.
fn golden(name: &str) -> Vec<Value> {
    let path = format!("{}/golden/{name}.json", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).unwrap();
    let file: Value = serde_json::from_str(&text).unwrap();
    file["cases"].as_array().unwrap().clone()
}

fn floats(case: &Value, field: &str) -> Vec<f32> {
    let values = case[field].as_array().unwrap();
    values.iter().map(|v| v.as_f64().unwrap() as f32).collect()
}

fn sizes<const N: usize>(case: &Value, field: &str) -> [usize; N] {
    let values = case[field].as_array().unwrap();
    std::array::from_fn(|i| values[i].as_u64().unwrap() as usize)
}

fn size(case: &Value, field: &str) -> usize {
    case[field].as_u64().unwrap() as usize
}
