//! Constants are evaluated as the standard says.

mod common;

use cnn_onnx::proto::{TensorProto, data_type};
use cnn_onnx::{ElementKind, Value, evaluate};
use common::{A, File, floats, integers};
use std::collections::BTreeMap;

/// The output of a model that only has constants.
fn value(file: File) -> Value {
    evaluate(&file.bytes(), &BTreeMap::new()).expect("constants").swap_remove(0)
}

fn numbers(file: File) -> (Vec<usize>, Vec<f32>) {
    let value = value(file);
    (value.shape().to_vec(), value.to_f32().iter().copied().collect())
}

fn model() -> File {
    File::new(18, &[1])
}

#[test]
fn slices_count_from_the_end_and_go_backwards() {
    let slice = |start: i64, end: i64, step: i64| {
        let file = model()
            .constant(floats("c", &[5], &[0.0, 1.0, 2.0, 3.0, 4.0]))
            .constant(integers("s", &[start]))
            .constant(integers("e", &[end]))
            .constant(integers("a", &[0]))
            .constant(integers("t", &[step]))
            .node("Slice", &["c", "s", "e", "a", "t"], &["y"]);
        numbers(file).1
    };
    assert_eq!(slice(1, 4, 2), [1.0, 3.0]);
    assert_eq!(slice(-2, i64::MAX, 1), [3.0, 4.0]);
    assert_eq!(slice(-1, i64::MIN, -2), [4.0, 2.0, 0.0]);
    assert_eq!(slice(3, 3, 1), [0f32; 0]);
    assert_eq!(slice(100, -100, -1), [4.0, 3.0, 2.0, 1.0, 0.0]);
}

#[test]
fn gathers_and_joins() {
    let file = model()
        .constant(floats("c", &[2, 3], &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]))
        .constant(integers("i", &[2, -3]))
        .with("Gather", &["c", "i"], &["g"], &[("axis", A::I(1))])
        .with("Transpose", &["c"], &["t"], &[])
        .node("Shape", &["t"], &["s"])
        .node("Reshape", &["c", "s"], &["r"])
        .with("Concat", &["g", "c"], &["j"], &[("axis", A::I(1))])
        .with("ReduceMean", &["j"], &["m"], &[("keepdims", A::I(0))])
        .node("Sub", &["j", "m"], &["y"]);
    let (shape, values) = numbers(file);
    assert_eq!(shape, [2, 5]);
    let mean = 25.0 / 10.0;
    assert_eq!(values, [2.0, 0.0, 0.0, 1.0, 2.0, 5.0, 3.0, 3.0, 4.0, 5.0].map(|v| v - mean));
}

#[test]
fn integers_divide_like_integers() {
    let binary = |kind: &str, a: i64, b: i64| {
        let file = model().constant(integers("a", &[a])).constant(integers("b", &[b])).node(
            kind,
            &["a", "b"],
            &["y"],
        );
        evaluate(&file.bytes(), &BTreeMap::new()).map(|v| v[0].to_f32()[[0]])
    };
    assert_eq!(binary("Div", -7, 2).unwrap(), -3.0);
    assert_eq!(binary("Mod", -7, 3).unwrap(), 2.0);
    assert_eq!(binary("Mod", 7, -3).unwrap(), -2.0);
    assert_eq!(binary("Pow", 3, 4).unwrap(), 81.0);
    assert!(binary("Div", 1, 0).is_err());
    assert!(binary("Mod", 1, 0).is_err());
    assert!(binary("Div", i64::MIN, -1).is_ok());
}

#[test]
fn casts_wrap_and_round() {
    let cast = |values: &[f32], to: i32| {
        let file = model().constant(floats("c", &[values.len() as i64], values)).with(
            "Cast",
            &["c"],
            &["y"],
            &[("to", A::I(i64::from(to)))],
        );
        value(file)
    };
    let ints = cast(&[1.9, -1.9, 300.0], data_type::UINT8);
    assert_eq!(ints.kind(), ElementKind::UInt8);
    assert_eq!(ints.to_f32().iter().copied().collect::<Vec<_>>(), [1.0, 255.0, 44.0]);
    assert_eq!(cast(&[0.0, 0.5], data_type::BOOL).to_f32().iter().copied().collect::<Vec<_>>(), [0.0, 1.0]);
    let half = cast(&[1.0002], data_type::FLOAT16);
    assert_eq!((half.kind(), half.to_f32()[[0]]), (ElementKind::Float16, 1.0));
}

#[test]
fn grids() {
    let bytes = |name: &str, values: &[u8]| TensorProto {
        name: name.into(),
        dims: vec![values.len() as i64],
        data_type: data_type::UINT8,
        raw_data: Some(values.to_vec().into()),
        ..Default::default()
    };
    let file = model()
        .constant(floats("c", &[5], &[-100.0, 0.25, 0.75, 1.0, 1000.0]))
        .constant(floats("s", &[], &[0.5]))
        .constant(TensorProto { dims: vec![], ..bytes("z", &[10]) })
        .node("QuantizeLinear", &["c", "s", "z"], &["q"])
        .node("DequantizeLinear", &["q", "s", "z"], &["y"]);
    // halves go to the even level; levels end at 0 and 255
    assert_eq!(numbers(file).1, [-5.0, 0.0, 1.0, 1.0, 122.5]);
}

#[test]
fn ranges_are_bounded() {
    let range = |from: f32, to: f32, step: f32| {
        let file = model()
            .constant(floats("a", &[], &[from]))
            .constant(floats("b", &[], &[to]))
            .constant(floats("c", &[], &[step]))
            .node("Range", &["a", "b", "c"], &["y"]);
        evaluate(&file.bytes(), &BTreeMap::new()).map(|v| v[0].to_f32().iter().copied().collect::<Vec<_>>())
    };
    assert_eq!(range(1.0, 2.0, 0.25).unwrap(), [1.0, 1.25, 1.5, 1.75]);
    assert_eq!(range(3.0, 0.0, -2.0).unwrap(), [3.0, 1.0]);
    assert_eq!(range(3.0, 0.0, 1.0).unwrap(), [0f32; 0]);
    for step in [0.0, f32::NAN, 1e-30] {
        assert!(range(0.0, 1.0, step).is_err(), "{step}");
    }
    assert!(range(0.0, f32::INFINITY, 1.0).is_err());
}

#[test]
fn the_batch_stays_a_symbol() {
    // [n, 2, 3, 3] to [n, 18] by n * 18 / (n * 18 / n ...), as exporters compute it
    let file = File::new(17, &[2, 3, 3])
        .constant(integers("zero", &[0]))
        .constant(integers("minus", &[-1]))
        .constant(integers("ones", &[1, 1]))
        .node("Shape", &["x"], &["s"])
        .node("Size", &["x"], &["all"])
        .node("Gather", &["s", "zero"], &["n"])
        .node("Div", &["all", "n"], &["features"])
        .with("Concat", &["n", "features"], &["t"], &[("axis", A::I(0))])
        .node("Equal", &["t", "minus"], &["open"])
        .node("Where", &["open", "ones", "t"], &["u"])
        .with("Cast", &["u"], &["f"], &[("to", A::I(1))])
        .node("Floor", &["f"], &["g"])
        .with("Cast", &["g"], &["v"], &[("to", A::I(7))])
        .node("Reshape", &["x", "v"], &["y"]);
    assert_eq!(file.kinds(), ["flatten"]);
    let odd = File::new(17, &[2, 3, 3])
        .constant(integers("zero", &[0]))
        .constant(integers("two", &[2]))
        .constant(integers("rest", &[-1]))
        .node("Shape", &["x"], &["s"])
        .node("Gather", &["s", "zero"], &["n"])
        .node("Div", &["n", "two"], &["half"])
        .with("Concat", &["half", "rest"], &["t"], &[("axis", A::I(0))])
        .node("Reshape", &["x", "t"], &["y"]);
    assert!(odd.error().contains("depend on the size of the batch"), "{}", odd.error());
}
