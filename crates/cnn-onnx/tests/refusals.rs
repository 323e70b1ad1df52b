//! What cannot be read is refused with an error that names the thing and the remedy.

mod common;

use cnn_onnx::proto::{TensorProto, data_type};
use cnn_onnx::{Error, ImportOptions, from_bytes};
use common::{A, File, floats, image, integers, ramp, value_info};

fn refused(bytes: &[u8]) -> String {
    from_bytes(bytes, None, &ImportOptions::default()).expect_err("it must be refused").to_string()
}

#[test]
fn other_files_are_recognized() {
    for (bytes, wanted) in [
        (&b"<!DOCTYPE html><html>"[..], "a web page"),
        (b"\n <html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1", "git lfs pull"),
        (b"PK\x03\x04...", "torch.onnx.export"),
        (b"CNN\x01", "native format"),
        (b"", "empty"),
        (b"\x0a\xff\xff\xff\xff\x0f", "damaged"),
        (b"hello world", "damaged"),
    ] {
        let error = refused(bytes);
        assert!(error.contains(wanted), "{bytes:?}: {error}");
    }
}

#[test]
fn a_cut_file_is_damaged() {
    let bytes = File::new(17, &[2, 3, 3]).node("Relu", &["x"], &["y"]).bytes();
    for end in 0..bytes.len() {
        assert!(from_bytes(&bytes[..end], None, &ImportOptions::default()).is_err(), "cut at {end}");
    }
}

#[test]
fn everything_unsupported_is_listed_at_once() {
    let mut file = File::new(17, &[2, 4, 4])
        .constant(floats("w", &[2, 2, 1, 1], &ramp(4)))
        .node("Exotic", &["x"], &["a"])
        .node("Relu", &["a"], &["b"])
        .node("Strange", &["b"], &["c"])
        .node("Conv", &["x", "x"], &["d"])
        .with("ReduceMean", &["x"], &["e"], &[("axes", A::Is(&[0, 2]))])
        .node("If", &["x"], &["f"])
        .node("Custom", &["x"], &["g"])
        .node("Sum", &["c", "d", "e", "f", "g"], &["y"]);
    file.graph().node[6].domain = "com.example".into();
    let Err(Error::Unsupported(unsupported)) = file.import() else { panic!("it must be unsupported") };
    let listed: Vec<(&str, &str)> =
        unsupported.items.iter().map(|i| (i.operator.as_str(), i.node.as_str())).collect();
    assert_eq!(
        listed,
        [
            ("Exotic", "/a/Exotic"),
            ("Strange", "/c/Strange"),
            ("Conv", "/d/Conv"),
            ("ReduceMean", "/e/ReduceMean"),
            ("If", "/f/If"),
            ("com.example.Custom", "/g/Custom"),
        ]
    );
    let text = file.error();
    assert!(text.contains("Conv (node `/d/Conv`): weights computed from the image"), "{text}");
    assert!(text.contains("com.example.Custom (node `/g/Custom`)"), "{text}");
}

#[test]
fn what_follows_an_unsupported_operator_is_looked_at_too() {
    let mut file = File::new(17, &[2, 4, 4])
        .node("Exotic", &["x"], &["a"])
        .with("MaxPool", &["a"], &["b"], &[("kernel_shape", A::Is(&[2, 2])), ("pads", A::Is(&[-1, 0, 0, 0]))])
        .node("Relu", &["b"], &["y"]);
    file.graph().value_info =
        vec![common::value_info("a", data_type::FLOAT, &[None, Some(2), Some(4), Some(4)])];
    let Err(Error::Unsupported(unsupported)) = file.import() else { panic!("it must be unsupported") };
    assert_eq!(unsupported.items.len(), 2, "{unsupported}");
    assert!(unsupported.items[1].why.as_deref().is_some_and(|w| w.contains("negative padding")));
}

#[test]
fn versions_out_of_range() {
    let error = File::new(7, &[2]).node("Relu", &["x"], &["y"]).error();
    assert!(error.contains("opset 7; opsets 9 to 28") && error.contains("opset_version=17"), "{error}");
    let error = File::new(99, &[2]).node("Relu", &["x"], &["y"]).error();
    assert!(error.contains("opset 99"), "{error}");
}

#[test]
fn contradictions() {
    let relu = |inputs: &[&str], outputs: &[&str]| File::new(17, &[2, 3, 3]).node("Relu", inputs, outputs);
    for (file, wanted) in [
        (relu(&["nowhere"], &["y"]), "reads the value `nowhere`, which nothing makes"),
        (relu(&["x"], &["y"]).node("Relu", &["x"], &["y"]), "`y` is made twice"),
        (relu(&["x"], &["x"]), "`x` is made twice"),
        (relu(&["b"], &["a"]).node("Relu", &["a"], &["b"]).node("Relu", &["b"], &["y"]), "cycle"),
        (relu(&["x"], &["z"]), "nothing makes the output `y`"),
        (
            File::new(17, &[2]).constant(floats("c", &[1], &[1.0])).node("Relu", &["c"], &["y"]),
            "does not depend on any input",
        ),
        (
            File::new(17, &[2, 3, 3]).constant(integers("w", &[1, 2])).node("Conv", &["x", "w"], &["y"]),
            "weights of type int64",
        ),
        (
            File::new(17, &[2, 3, 3]).constant(floats("w", &[2, 5, 1, 1], &ramp(10))).node(
                "Conv",
                &["x", "w"],
                &["y"],
            ),
            "(Conv)",
        ),
        (
            File::new(17, &[2, 3, 3]).with("MaxPool", &["x"], &["y"], &[("kernel_shape", A::Is(&[9, 9]))]),
            "(MaxPool)",
        ),
        (
            File::new(17, &[2, 3, 3]).with("MaxPool", &["x"], &["y"], &[("kernel_shape", A::I(2))]),
            "`kernel_shape` has the wrong type",
        ),
        (
            File::new(17, &[2, 3, 3]).constant(integers("s", &[0, 5])).node("Reshape", &["x", "s"], &["y"]),
            "from [1, 2, 3, 3]",
        ),
        (File::new(17, &[2, 3, 3]).with("Softmax", &["x"], &["y"], &[("axis", A::I(7))]), "axis 7 of 4"),
    ] {
        let error = file.error();
        assert!(error.contains(wanted), "{error}, not {wanted}");
    }
}

#[test]
fn constants_that_lie_about_their_size() {
    let with = |dims: &[i64], values: usize| {
        File::new(17, &[2]).constant(floats("w", dims, &ramp(values))).node("MatMul", &["x", "w"], &["y"])
    };
    for (file, wanted) in [
        (with(&[2, 2], 3), "constant `w`"),
        (with(&[-1, 2], 2), "negative"),
        (with(&[i64::MAX, i64::MAX], 2), "more than the limit"),
        (with(&[1 << 28, 1], 2), "constant `w`"),
    ] {
        let error = file.error();
        assert!(error.contains(wanted), "{error}, not {wanted}");
    }
    let raw = TensorProto {
        name: "w".into(),
        dims: vec![2, 2],
        data_type: data_type::FLOAT,
        raw_data: Some(vec![0; 15].into()),
        ..Default::default()
    };
    let error = File::new(17, &[2]).constant(raw).node("MatMul", &["x", "w"], &["y"]).error();
    assert!(error.contains("15 bytes for 4 values of type float (16 bytes)"), "{error}");
}

#[test]
fn small_files_do_not_take_much_memory() {
    // 2^40 zeros asked for in a few bytes
    let filled = File::new(17, &[2])
        .constant(integers("s", &[1 << 20, 1 << 20]))
        .node("ConstantOfShape", &["s"], &["w"])
        .node("MatMul", &["x", "w"], &["y"]);
    assert!(filled.error().contains("more than a file of this size may ask for"), "{}", filled.error());
    // a vector of 2^40 zeros with one value in it, and one that is copied ten thousand times
    let sparse = File::new(17, &[2])
        .constant(floats("z", &[], &[0.0]))
        .constant(integers("s", &[1 << 40]))
        .constant(integers("i", &[0]))
        .constant(floats("u", &[1], &[1.0]))
        .node("Expand", &["z", "s"], &["zeros"])
        .node("ScatterElements", &["zeros", "i", "u"], &["w"])
        .node("Mul", &["x", "w"], &["y"]);
    assert!(sparse.error().contains("more than a file of this size may ask for"), "{}", sparse.error());
    for (kind, second) in [("ScatterElements", "i"), ("CumSum", "axis")] {
        let mut copies = File::new(17, &[2])
            .constant(floats("z", &[], &[0.0]))
            .constant(integers("s", &[1 << 20]))
            .constant(integers("i", &[0]))
            .constant(TensorProto { dims: vec![], ..integers("axis", &[0]) })
            .constant(floats("u", &[1], &[1.0]))
            .node("Expand", &["z", "s"], &["zeros"]);
        for copy in 0..10_000 {
            let inputs = &["zeros", second, "u"][..if kind == "CumSum" { 2 } else { 3 }];
            copies = copies.node(kind, inputs, &[&format!("w{copy}")]);
        }
        let all: Vec<String> = (0..10_000).map(|copy| format!("w{copy}")).collect();
        let all: Vec<&str> = std::iter::once("x").chain(all.iter().map(String::as_str)).collect();
        let error = copies.node("Sum", &all, &["y"]).error();
        assert!(error.contains("more than a file of this size may ask for"), "{error}");
    }
    // lists of positions: each operator is a few bytes, its list as long as an axis
    let wide = |kind: &str, inputs: &[&str], attributes: &[(&str, A<'_>)]| {
        let mut file = File::new(13, &[1, 1 << 20])
            .constant(integers("one", &[1]))
            .constant(integers("most", &[i64::MAX]))
            .constant(integers("axis", &[2]))
            .constant(integers("pads", &[0, 0, 1, 0, 0, 0]))
            .constant(integers("twice", &[1, 1, 2]))
            .constant(integers("halves", &[1 << 19, 1 << 19]))
            .constant(floats("scales", &[4], &[1.0, 1.0, 1.0, 2.0]))
            .constant(integers("image", &[0, 1, 1, -1]))
            .node("Reshape", &["x", "image"], &["i"]);
        let mut all = vec!["x".to_string()];
        for copy in 0..100 {
            let second = format!("second{copy}");
            all.push(format!("v{copy}"));
            let outputs = [all[copy + 1].as_str(), second.as_str()];
            let outputs = &outputs[..if kind == "Split" { 2 } else { 1 }];
            file = file.with(kind, inputs, outputs, attributes);
        }
        let last = all.pop().unwrap_or_default();
        file.node("Relu", &[&last], &["last"]).node(
            "Concat",
            &all.iter().map(String::as_str).collect::<Vec<_>>(),
            &["y"],
        )
    };
    for (kind, inputs, attributes) in [
        ("Slice", &["x", "one", "most", "axis"][..], &[][..]),
        ("Split", &["x", "halves"], &[("axis", A::I(2))]),
        ("Pad", &["x", "pads"], &[("mode", A::S("reflect"))]),
        ("Tile", &["x", "twice"], &[]),
        ("Resize", &["i", "", "scales"], &[]),
    ] {
        let error = wide(kind, inputs, attributes).error();
        assert!(error.contains("more than a file of this size may ask for"), "{kind}: {error}");
    }
    // an image of 2^60 values
    let image = File::new(17, &[1 << 20, 1 << 20, 1 << 20]).node("Relu", &["x"], &["y"]);
    assert!(image.error().contains("limit"), "{}", image.error());
    let padded = File::new(17, &[1, 1, 1])
        .constant(integers("p", &[0, 0, 1 << 24, 1 << 24, 0, 0, 1 << 24, 1 << 24]))
        .node("Pad", &["x", "p"], &["y"]);
    assert!(padded.import().is_err());
    let scaled = File::new(17, &[1, 1, 1]).constant(floats("s", &[4], &[1.0, 1.0, 1e7, 1e7])).node(
        "Resize",
        &["x", "", "s"],
        &["y"],
    );
    assert!(scaled.import().is_err());
    let limited = ImportOptions { limit: 10, ..Default::default() };
    let file = File::new(17, &[2, 3, 3]).node("Relu", &["x"], &["y"]);
    let error = from_bytes(&file.bytes(), None, &limited).expect_err("a limit").to_string();
    assert!(error.contains("ImportOptions::limit"), "{error}");
}

#[test]
fn two_images() {
    let mut file = File::new(17, &[2, 3, 3]).node("Add", &["x", "z"], &["y"]);
    let input = common::value_info("z", data_type::FLOAT, &[Some(1), Some(2), Some(1), Some(1)]);
    file.graph().input.push(input);
    assert!(file.error().contains("`x`, `z`") && file.error().contains("ImportOptions::constants"));
    let value = cnn_onnx::Value::from_tensor(&common::image(&[1, 2, 1, 1]));
    let bind = |name: &str| ImportOptions {
        constants: [(name.to_string(), value.clone())].into(),
        ..Default::default()
    };
    assert!(from_bytes(&file.bytes(), None, &bind("z")).is_ok());
    let error = from_bytes(&file.bytes(), None, &bind("w")).expect_err("no such input").to_string();
    assert!(error.contains("no input `w`; the inputs are: `x`, `z`"), "{error}");
}

#[test]
fn the_preprocessing_is_checked() {
    let mut file = File::new(17, &[3, 2, 2]).node("Relu", &["x"], &["y"]);
    let mut with = |text: &str| {
        file.0.metadata_props = vec![cnn_onnx::proto::StringStringEntryProto {
            key: "cnn.preprocess".into(),
            value: text.into(),
        }];
        file.import().map(|i| i.graph.preprocess)
    };
    assert!(with(r#"{"mean":[0.1,0.2,0.3],"std":[1.0,1.0,1.0]}"#).is_ok_and(|p| p.is_some()));
    for bad in ["", "{}", r#"{"mean":[0.1,0.2],"std":[1.0,1.0]}"#, r#"{"mean":[0.1],"std":[0.0]}"#] {
        assert!(with(bad).expect_err(bad).to_string().contains("cnn.preprocess"), "{bad}");
    }
}

#[test]
fn every_operator_that_is_called_supported_is_known() {
    let lists = [cnn_onnx::supported_operators(), cnn_onnx::folded_operators()];
    for list in lists {
        assert!(list.is_sorted_by(|a, b| a < b), "{list:?}");
    }
    for kind in cnn_onnx::supported_operators() {
        let file = File::new(17, &[2, 3, 3]).node(kind, &["x"], &["y"]);
        if let Err(Error::Unsupported(unsupported)) = file.import() {
            assert!(unsupported.items.iter().all(|i| i.why.is_some()), "{kind}: {unsupported}");
        }
    }
}

#[test]
fn an_empty_axis_hides_no_large_one() {
    let filled = File::new(17, &[2])
        .constant(integers("s", &[0, 1 << 59]))
        .node("ConstantOfShape", &["s"], &["w"])
        .node("MatMul", &["x", "w"], &["y"]);
    assert!(filled.error().contains("more than a file of this size"), "{}", filled.error());
    let given =
        File::new(17, &[2]).constant(floats("w", &[0, 1 << 59], &[])).node("MatMul", &["x", "w"], &["y"]);
    assert!(given.error().contains("more than the limit"), "{}", given.error());
    // a noted shape behind an operator that is not supported
    let mut noted =
        File::new(17, &[2]).constant(integers("a", &[-1])).constant(integers("b", &[i64::MIN + 1]));
    noted = noted.constant(integers("axis", &[1])).node("Erf", &["x"], &["e"]);
    noted = noted.node("Slice", &["e", "a", "b", "axis", "a"], &["y"]);
    noted.graph().value_info.push(value_info("e", data_type::FLOAT, &[None, Some(1 << 58)]));
    assert!(noted.error().contains("Erf"), "{}", noted.error());
    let weights = File::new(17, &[3, 4, 4]).constant(floats("w", &[4, 3, 0, 3], &[]));
    let weights = weights.with("Conv", &["x", "w"], &["y"], &[("auto_pad", A::S("SAME_UPPER"))]);
    assert!(weights.error().contains("which has none"), "{}", weights.error());
}

#[test]
fn numbers_without_an_axis_of_channels() {
    let axis = [("axes", A::Is(&[1])), ("keepdims", A::I(0))];
    let file = File::new(13, &[5])
        .constant(floats("two", &[], &[2.0]))
        .with("ReduceMean", &["x"], &["m"], &axis)
        .node("Mul", &["m", "two"], &["y"]);
    let graph = file.import().unwrap().graph;
    let x = image(&[2, 5]);
    let expected: Vec<f32> = x.rows().into_iter().map(|r| 2.0 * r.sum() / 5.0).collect();
    let y = graph.infer(&x).unwrap();
    assert!(y.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-6), "{y} {expected:?}");
}
