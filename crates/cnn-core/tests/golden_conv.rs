//! Convolution and its gradients against PyTorch (`golden/make_golden.py`).
#![allow(clippy::unwrap_used)] // also in the helpers of tests

use cnn_core::ops::conv::{
    ConvGeometry, conv_backward_bias, conv_backward_input, conv_backward_weights, conv_forward,
};
use serde_json::Value;

fn floats(case: &Value, field: &str) -> Vec<f32> {
    case[field].as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect()
}

fn sizes<const N: usize>(case: &Value, field: &str) -> [usize; N] {
    std::array::from_fn(|i| case[field][i].as_u64().unwrap() as usize)
}

fn close(actual: &[f32], expected: &[f32], what: &str) {
    assert_eq!(actual.len(), expected.len(), "{what}");
    for (a, e) in actual.iter().zip(expected) {
        assert!((a - e).abs() <= 1e-5 * (1.0 + e.abs()), "{what}: {a} instead of {e}");
    }
}

#[test]
fn agree_with_pytorch() {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/golden/conv.json")).unwrap();
    let file: Value = serde_json::from_str(&text).unwrap();
    let cases = file["cases"].as_array().unwrap();
    assert!(cases.len() >= 10);
    for case in cases {
        let name = case["name"].as_str().unwrap();
        let size = |field: &str| case[field].as_u64().unwrap() as usize;
        let g = ConvGeometry {
            n: size("n"),
            c: size("c_in"),
            h: size("h"),
            w: size("w"),
            m: size("c_out"),
            kernel: sizes(case, "kernel"),
            stride: sizes(case, "stride"),
            pad: sizes(case, "pad"),
            dilation: sizes(case, "dilation"),
            groups: size("groups"),
        };
        assert_eq!([g.out_h(), g.out_w()], sizes::<2>(case, "out"), "{name}");
        let (x, w, b, dy) =
            (floats(case, "x"), floats(case, "weight"), floats(case, "bias"), floats(case, "dy"));
        let mut y = vec![f32::NAN; dy.len()];
        conv_forward(&g, &x, &w, Some(&b), &mut y);
        close(&y, &floats(case, "y"), name);
        let mut dx = vec![f32::NAN; x.len()];
        conv_backward_input(&g, &w, &dy, &mut dx);
        close(&dx, &floats(case, "dx"), name);
        let mut dw = vec![f32::NAN; w.len()];
        conv_backward_weights(&g, &x, &dy, &mut dw);
        close(&dw, &floats(case, "dweight"), name);
        let mut db = vec![f32::NAN; b.len()];
        conv_backward_bias(&g, &dy, &mut db);
        close(&db, &floats(case, "dbias"), name);
    }
}
