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

#[test]
fn running_sums() {
    let sums = |shape: &[i64], axis: i64, exclusive: i64, reverse: i64| {
        let values: Vec<f32> = (1..=shape.iter().product()).map(|v: i64| v as f32).collect();
        let file = model().constant(floats("c", shape, &values)).constant(integers("a", &[axis])).with(
            "CumSum",
            &["c", "a"],
            &["y"],
            &[("exclusive", A::I(exclusive)), ("reverse", A::I(reverse))],
        );
        numbers(file).1
    };
    assert_eq!(sums(&[4], 0, 0, 0), [1.0, 3.0, 6.0, 10.0]);
    assert_eq!(sums(&[4], -1, 1, 0), [0.0, 1.0, 3.0, 6.0]);
    assert_eq!(sums(&[4], 0, 0, 1), [10.0, 9.0, 7.0, 4.0]);
    assert_eq!(sums(&[4], 0, 1, 1), [9.0, 7.0, 4.0, 0.0]);
    assert_eq!(sums(&[2, 3], 0, 0, 0), [1.0, 2.0, 3.0, 5.0, 7.0, 9.0]);
    assert_eq!(sums(&[2, 3], 1, 0, 1), [6.0, 5.0, 3.0, 15.0, 11.0, 6.0]);
    assert_eq!(sums(&[2, 0, 3], 1, 0, 0), [0f32; 0]);
    // integers wrap in their own type
    let file = model()
        .constant(integers("c", &[100, 100, 100]))
        .constant(integers("a", &[0]))
        .with("Cast", &["c"], &["b"], &[("to", A::I(i64::from(data_type::INT8)))])
        .node("CumSum", &["b", "a"], &["y"]);
    assert_eq!(numbers(file).1, [100.0, -56.0, 44.0]);
    for axis in [&[2][..], &[-2], &[0, 0], &[]] {
        let file = model().constant(floats("c", &[2], &[1.0, 2.0])).constant(integers("a", axis));
        let file = file.node("CumSum", &["c", "a"], &["y"]);
        assert!(evaluate(&file.bytes(), &BTreeMap::new()).is_err(), "{axis:?}");
    }
}

/// `ScatterElements` into six ascending numbers of a shape.
fn scattered(
    shape: &[i64],
    axis: i64,
    (places, at, updates): (&[i64], &[i64], &[f32]),
    reduction: &'static str,
) -> Result<Vec<f32>, String> {
    let file = model()
        .constant(floats("c", shape, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]))
        .constant(TensorProto { dims: places.to_vec(), ..integers("i", at) })
        .constant(floats("u", places, updates))
        .with(
            "ScatterElements",
            &["c", "i", "u"],
            &["y"],
            &[("axis", A::I(axis)), ("reduction", A::S(reduction))],
        );
    let made = evaluate(&file.bytes(), &BTreeMap::new()).map_err(|e| e.to_string())?;
    Ok(made[0].to_f32().iter().copied().collect())
}

#[test]
fn values_are_put_at_positions() {
    let put = |shape: &[i64], axis, indices, reduction| scattered(shape, axis, indices, reduction).unwrap();
    assert_eq!(put(&[6], 0, (&[2], &[1, -1], &[9.0, 8.0]), "none"), [1.0, 9.0, 3.0, 4.0, 5.0, 8.0]);
    assert_eq!(put(&[6], 0, (&[0], &[], &[]), "none"), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    // along either axis; the other one may be shorter
    assert_eq!(put(&[2, 3], 0, (&[1, 2], &[1, 0], &[9.0, 8.0]), "none"), [1.0, 8.0, 3.0, 9.0, 5.0, 6.0]);
    assert_eq!(
        put(&[2, 3], 1, (&[2, 2], &[2, 0, 1, -1], &[9.0, 8.0, 7.0, 0.0]), "none"),
        [8.0, 2.0, 9.0, 4.0, 7.0, 0.0]
    );
    assert_eq!(
        put(&[2, 1, 3], -1, (&[1, 1, 4], &[0, 1, 2, 0], &[9.0, 8.0, 7.0, 5.0]), "none"),
        [5.0, 8.0, 7.0, 4.0, 5.0, 6.0],
        "the last one of the same place"
    );
    let twice = |reduction| put(&[6], 0, (&[3], &[1, 1, 4], &[3.0, -7.0, 0.5]), reduction);
    assert_eq!(twice("add"), [1.0, -2.0, 3.0, 4.0, 5.5, 6.0]);
    assert_eq!(twice("mul"), [1.0, -42.0, 3.0, 4.0, 2.5, 6.0]);
    assert_eq!(twice("max"), [1.0, 3.0, 3.0, 4.0, 5.0, 6.0]);
    assert_eq!(twice("min"), [1.0, -7.0, 3.0, 4.0, 0.5, 6.0]);
}

#[test]
fn positions_outside_are_refused() {
    for (shape, axis, indices, wanted) in [
        (&[6][..], 0, (&[1][..], &[6][..], &[1.0][..]), "index 6 of an axis of 6"),
        (&[6], 0, (&[1], &[-7], &[1.0]), "index -7 of an axis of 6"),
        (&[6], 0, (&[1], &[i64::MIN], &[1.0]), "of an axis of 6"),
        (&[6], 1, (&[1], &[0], &[1.0]), "axis 1 of 1"),
        (&[2, 3], 0, (&[1, 4], &[0; 4], &[1.0; 4]), "at indices of shape [1, 4] in data of shape [2, 3]"),
        (&[2, 3], 0, (&[1], &[0], &[1.0]), "in data of shape [2, 3]"),
        (&[6], 0, (&[1 << 40, 0], &[], &[]), "more than the limit"),
    ] {
        let error = scattered(shape, axis, indices, "none").unwrap_err();
        assert!(error.contains(wanted), "{error}, not {wanted}");
    }
    let error = scattered(&[6], 0, (&[1], &[0], &[1.0]), "mean").unwrap_err();
    assert!(error.contains("the reduction `mean`"), "{error}");
    // updates of another number, of another type, and positions that are no integers
    for (indices, updates) in [
        (integers("i", &[0, 1]), floats("u", &[1], &[1.0])),
        (integers("i", &[0]), integers("u", &[1])),
        (floats("i", &[1], &[0.0]), floats("u", &[1], &[1.0])),
    ] {
        let file = model().constant(floats("c", &[2], &[1.0, 2.0])).constant(indices).constant(updates);
        let file = file.node("ScatterElements", &["c", "i", "u"], &["y"]);
        assert!(evaluate(&file.bytes(), &BTreeMap::new()).is_err());
    }
}

#[test]
fn what_others_read_keeps_its_values() {
    let file = model()
        .constant(floats("c", &[3], &[1.0, 2.0, 3.0]))
        .constant(integers("i", &[0]))
        .constant(floats("u", &[1], &[10.0]))
        .node("ScatterElements", &["c", "i", "u"], &["s"])
        .node("ScatterElements", &["c", "i", "u"], &["t"])
        .node("Add", &["s", "c"], &["v"])
        .node("Sub", &["v", "t"], &["y"]);
    assert_eq!(numbers(file).1, [1.0, 2.0, 3.0]);
}
