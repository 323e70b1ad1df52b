//! What exporters write in several operators becomes the layers that it is, and computes what it should.

mod common;

use cnn_core::layers::*;
use cnn_onnx::proto::{TensorProto, data_type};
use cnn_onnx::{ImportOptions, from_bytes, load};
use common::{A, File, floats, image, integers, ramp};

type Outcome = Result<(), Box<dyn std::error::Error>>;

/// `[n, 6, 4, 4]` shuffled in two groups, with the sizes computed as PyTorch does it.
fn shuffle() -> File {
    File::new(17, &[6, 4, 4])
        .constant(integers("zero", &[0]))
        .constant(integers("two", &[2]))
        .constant(integers("hw", &[4, 4]))
        .constant(integers("one", &[1]))
        .node("Shape", &["x"], &["s"])
        .node("Gather", &["s", "zero"], &["n"])
        .node("Gather", &["s", "one"], &["c"])
        .node("Div", &["c", "two"], &["half"])
        .with("Concat", &["n", "two", "half", "hw"], &["split"], &[("axis", A::I(0))])
        .with("Concat", &["n", "c", "hw"], &["joined"], &[("axis", A::I(0))])
        .node("Reshape", &["x", "split"], &["a"])
        .with("Transpose", &["a"], &["b"], &[("perm", A::Is(&[0, 2, 1, 3, 4]))])
        .node("Reshape", &["b", "joined"], &["y"])
}

#[test]
fn channel_shuffle() -> Outcome {
    assert_eq!(shuffle().kinds(), ["channel_map"]);
    let graph = shuffle().import()?.graph;
    let map = graph.nodes()[1].layer().downcast_ref::<ChannelMap>();
    assert_eq!(map, Some(&ChannelMap::shuffle(6, 2)?));
    Ok(())
}

#[test]
fn shortcut_of_option_a() -> Outcome {
    let file = File::new(17, &[4, 5, 6])
        .constant(integers("from", &[0, 0]))
        .constant(integers("to", &[i64::MAX, i64::MAX]))
        .constant(integers("axes", &[2, 3]))
        .constant(integers("steps", &[2, 2]))
        .constant(integers("pads", &[0, 2, 0, 0, 0, 2, 0, 0]))
        .node("Slice", &["x", "from", "to", "axes", "steps"], &["s"])
        .with("Pad", &["s", "pads"], &["y"], &[("mode", A::S("constant"))]);
    assert_eq!(file.kinds(), ["max_pool2d", "channel_map"]);
    let graph = file.import()?.graph;
    let x = image(&[2, 4, 5, 6]);
    let y = graph.infer(&x)?;
    assert_eq!(y.shape(), [2, 8, 3, 3]);
    assert_eq!(y[[1, 3, 2, 1]], x[[1, 1, 4, 2]]);
    assert_eq!(y[[1, 1, 2, 1]], 0.0);
    Ok(())
}

#[test]
fn squeeze_and_excitation_with_linear_layers() -> Outcome {
    let file = File::new(13, &[4, 3, 3])
        .constant(floats("fc1.weight", &[2, 4], &ramp(8)))
        .constant(floats("fc1.bias", &[2], &ramp(2)))
        .constant(floats("fc2.weight", &[4, 2], &ramp(8)))
        .constant(floats("fc2.bias", &[4], &ramp(4)))
        .constant(integers("shape", &[-1, 4, 1, 1]))
        .node("GlobalAveragePool", &["x"], &["g"])
        .node("Flatten", &["g"], &["f"])
        .with("Gemm", &["f", "fc1.weight", "fc1.bias"], &["a"], &[("transB", A::I(1))])
        .node("Relu", &["a"], &["b"])
        .with("Gemm", &["b", "fc2.weight", "fc2.bias"], &["c"], &[("transB", A::I(1))])
        .node("Sigmoid", &["c"], &["d"])
        .node("Reshape", &["d", "shape"], &["e"])
        .node("Mul", &["x", "e"], &["y"]);
    assert_eq!(file.kinds(), ["global_avg_pool", "conv2d", "activation", "conv2d", "activation", "mul"]);
    let mut graph = file.import()?.graph;
    let x = image(&[2, 4, 3, 3]);
    let y = graph.infer(&x)?;
    // by hand, for one value
    let mean = |n: usize, c: usize| (0..9).map(|p| x[[n, c, p / 3, p % 3]]).sum::<f32>() / 9.0;
    let hidden: Vec<f32> = (0..2)
        .map(|o| ((0..4).map(|i| ramp(8)[o * 4 + i] * mean(1, i)).sum::<f32>() + ramp(2)[o]).max(0.0))
        .collect();
    let logit = ramp(8)[3 * 2] * hidden[0] + ramp(8)[3 * 2 + 1] * hidden[1] + ramp(4)[3];
    let wanted = x[[1, 3, 2, 0]] / (1.0 + (-logit).exp());
    assert!((y[[1, 3, 2, 0]] - wanted).abs() < 1e-6, "{} {wanted}", y[[1, 3, 2, 0]]);
    // the hidden channels can go
    graph.keep_channels("fc1", &[1])?;
    Ok(())
}

#[test]
fn gates_are_activations() {
    let silu = File::new(17, &[2, 3, 3]).node("Sigmoid", &["x"], &["s"]).node("Mul", &["s", "x"], &["y"]);
    let function = |file: &File| {
        let graph = file.import().unwrap().graph;
        assert_eq!(graph.nodes().len(), 2, "{graph}");
        graph.nodes()[1].layer().downcast_ref::<Activation>().map(|a| a.function)
    };
    assert_eq!(function(&silu), Some(ActivationFn::Silu));
    let clipped = File::new(9, &[2, 3, 3])
        .constant(floats("three", &[], &[3.0]))
        .constant(floats("six", &[], &[6.0]))
        .node("Add", &["x", "three"], &["a"])
        .with("Clip", &["a"], &["b"], &[("min", A::F(0.0)), ("max", A::F(6.0))]);
    let early = clipped.clone().node("Div", &["b", "six"], &["c"]).node("Mul", &["x", "c"], &["y"]);
    assert_eq!(function(&early), Some(ActivationFn::HardSwish));
    let late = clipped.clone().node("Mul", &["x", "b"], &["c"]).node("Div", &["c", "six"], &["y"]);
    assert_eq!(function(&late), Some(ActivationFn::HardSwish));
    let sigmoid = clipped.node("Div", &["b", "six"], &["y"]);
    assert_eq!(function(&sigmoid), Some(ActivationFn::HardSigmoid));
}

#[test]
fn a_bias_added_afterwards_is_the_bias() -> Outcome {
    let file = File::new(17, &[2, 3, 3])
        .constant(floats("conv.weight", &[3, 2, 1, 1], &ramp(6)))
        .constant(floats("b", &[3, 1, 1], &[1.0, 2.0, 3.0]))
        .node("Conv", &["x", "conv.weight"], &["a"])
        .node("Add", &["b", "a"], &["y"]);
    assert_eq!(file.kinds(), ["conv2d"]);
    let graph = file.import()?.graph;
    let conv = graph.layer::<Conv2d>("conv")?.ok_or("no convolution")?;
    assert_eq!(conv.bias().map(|b| b.value().iter().copied().collect()), Some(vec![1.0, 2.0, 3.0]));
    // not if the sum without bias is read elsewhere
    let shared = File::new(17, &[2, 3, 3])
        .constant(floats("conv.weight", &[2, 2, 1, 1], &ramp(4)))
        .constant(floats("b", &[2, 1, 1], &[1.0, 2.0]))
        .node("Conv", &["x", "conv.weight"], &["a"])
        .node("Add", &["a", "b"], &["c"])
        .node("Mul", &["a", "c"], &["y"]);
    assert_eq!(shared.kinds(), ["conv2d", "arithmetic_constant", "mul"]);
    Ok(())
}

fn bytes_of(kind: i32, name: &str, dims: &[i64], raw: Vec<u8>) -> TensorProto {
    TensorProto {
        name: name.into(),
        dims: dims.to_vec(),
        data_type: kind,
        raw_data: Some(raw.into()),
        ..Default::default()
    }
}

#[test]
fn narrow_weights_are_widened() -> Outcome {
    // a codebook: 4-bit positions, two a byte, low half first
    let codebook = File::new(21, &[4])
        .constant(bytes_of(data_type::UINT4, "codes", &[2, 4], vec![0x10, 0x32, 0x01, 0x23]))
        .constant(floats("book", &[4], &[-1.0, 0.0, 0.5, 2.0]))
        .with("Cast", &["codes"], &["i"], &[("to", A::I(6))])
        .with("Gather", &["book", "i"], &["w"], &[("axis", A::I(0))])
        .with("Gemm", &["x", "w"], &["y"], &[("transB", A::I(1))]);
    // 8-bit weights with one scale a row
    let int8 = File::new(17, &[2])
        .constant(bytes_of(data_type::INT8, "q", &[2, 2], vec![1, 255, 2, 254]))
        .constant(floats("s", &[2], &[0.5, 0.25]))
        .constant(bytes_of(data_type::INT8, "z", &[2], vec![0, 1]))
        .with("DequantizeLinear", &["q", "s", "z"], &["w"], &[("axis", A::I(0))])
        .with("Gemm", &["x", "w"], &["y"], &[("transB", A::I(1))]);
    // 16-bit floats
    let half: Vec<u8> = [1.5f32, -2.0].iter().flat_map(|&v| half::f16::from_f32(v).to_le_bytes()).collect();
    let half = File::new(17, &[2])
        .constant(bytes_of(data_type::FLOAT16, "h", &[1, 2], half))
        .with("Cast", &["x"], &["x16"], &[("to", A::I(10))])
        .with("Gemm", &["x16", "h"], &["y16"], &[("transB", A::I(1))])
        .with("Cast", &["y16"], &["y"], &[("to", A::I(1))]);
    for (file, wanted) in [
        (codebook, vec![-1.0, 0.0, 0.5, 2.0, 0.0, -1.0, 2.0, 0.5]),
        (int8, vec![0.5, -0.5, 0.25, -0.75]),
        (half, vec![1.5, -2.0]),
    ] {
        let graph = file.import()?.graph;
        let linear = graph.nodes()[1].layer().downcast_ref::<Linear>().ok_or("no linear layer")?;
        assert_eq!(linear.weight().value().iter().copied().collect::<Vec<_>>(), wanted);
    }
    Ok(())
}

#[test]
fn quantized_and_back_is_one_layer() -> Outcome {
    let grid = File::new(17, &[2, 2])
        .constant(floats("s", &[], &[0.1]))
        .constant(bytes_of(data_type::UINT8, "z", &[], vec![128]))
        .node("QuantizeLinear", &["x", "s", "z"], &["q"]);
    let twice = grid
        .clone()
        .node("DequantizeLinear", &["q", "s", "z"], &["a"])
        .node("DequantizeLinear", &["q", "s", "z"], &["b"])
        .node("Add", &["a", "b"], &["y"]);
    assert_eq!(twice.kinds(), ["fake_quantize", "add"]);
    let seen = grid.clone().node("Relu", &["q"], &["y"]);
    assert!(seen.error().contains("arithmetic on quantized values"), "{}", seen.error());
    let other = grid.constant(floats("t", &[], &[0.2])).node("DequantizeLinear", &["q", "t", "z"], &["y"]);
    assert!(other.error().contains("another grid"), "{}", other.error());
    Ok(())
}

#[test]
fn weights_in_another_file() -> Outcome {
    let directory = tempfile::tempdir()?;
    let entry = |key: &str, value: &str| cnn_onnx::proto::StringStringEntryProto {
        key: key.into(),
        value: value.into(),
    };
    let external = |location: &str, offset: &str| TensorProto {
        name: "w".into(),
        dims: vec![1, 2],
        data_type: data_type::FLOAT,
        data_location: 1,
        external_data: vec![entry("location", location), entry("offset", offset), entry("length", "8")],
        ..Default::default()
    };
    let file = |location: &str, offset: &str| {
        File::new(17, &[2]).constant(external(location, offset)).with(
            "Gemm",
            &["x", "w"],
            &["y"],
            &[("transB", A::I(1))],
        )
    };
    let path = directory.path().join("m.onnx");
    std::fs::write(directory.path().join("w.bin"), [0f32, 1.0, 2.0, 3.0].map(f32::to_le_bytes).concat())?;
    let read = |location: &str, offset: &str| {
        std::fs::write(&path, file(location, offset).bytes()).unwrap();
        load(&path, &ImportOptions::default())
    };
    let graph = read("w.bin", "4")?.graph;
    let linear = graph.nodes()[1].layer().downcast_ref::<Linear>().ok_or("no linear layer")?;
    assert_eq!(linear.weight().value().iter().copied().collect::<Vec<_>>(), [1.0, 2.0]);
    for (location, offset, wanted) in [
        ("../w.bin", "0", "outside the model's directory"),
        ("/etc/hostname", "0", "outside the model's directory"),
        ("w.bin", "12", "has 16 bytes, but 8 from 12 on are needed"),
        ("w.bin", "18446744073709551615", "are needed"),
        ("w.bin", "-1", "no offset"),
        ("other.bin", "0", "other.bin"),
        ("", "0", "outside the model's directory"),
    ] {
        let error = read(location, offset).expect_err(location).to_string();
        assert!(error.contains(wanted), "{location} {offset}: {error}");
    }
    let error =
        from_bytes(&file("w.bin", "0").bytes(), None, &ImportOptions::default()).expect_err("no directory");
    assert!(error.to_string().contains("load the model from its path"), "{error}");
    #[cfg(unix)]
    {
        let outside = tempfile::NamedTempFile::new()?;
        std::fs::write(outside.path(), [0; 16])?;
        std::os::unix::fs::symlink(outside.path(), directory.path().join("link.bin"))?;
        let error = read("link.bin", "0").expect_err("a link out").to_string();
        assert!(error.contains("link out of the model's directory"), "{error}");
    }
    Ok(())
}

#[test]
fn a_fixed_batch_is_any_batch() -> Outcome {
    let mut file = File::new(17, &[2, 3, 3]).constant(integers("shape", &[4, -1])).node(
        "Reshape",
        &["x", "shape"],
        &["y"],
    );
    assert!(file.error().contains("mixes the images of a batch"), "{}", file.error());
    file.graph().input[0] = common::value_info("x", data_type::FLOAT, &[Some(4), Some(2), Some(3), Some(3)]);
    let graph = file.import()?.graph;
    assert_eq!(graph.infer(&image(&[3, 2, 3, 3]))?.shape(), [3, 18]);
    Ok(())
}

#[test]
fn open_sizes_are_said_by_the_options() -> Outcome {
    let mut file = File::new(17, &[2, 3, 3]).node("Relu", &["x"], &["y"]);
    file.graph().input[0] = common::value_info("x", data_type::FLOAT, &[None, Some(2), None, None]);
    assert!(file.error().contains("input_shape"), "{}", file.error());
    let import = |shape: &[usize]| {
        let options = ImportOptions { input_shape: Some(shape.to_vec()), ..Default::default() };
        from_bytes(&file.bytes(), None, &options)
    };
    assert_eq!(import(&[2, 5, 7])?.graph.input_shape(), [2, 5, 7]);
    assert!(import(&[3, 5, 7]).is_err());
    Ok(())
}

#[test]
fn any_value_can_be_the_output() -> Outcome {
    let file = File::new(17, &[2, 3, 3]).node("Relu", &["x"], &["a"]).with(
        "ArgMax",
        &["a"],
        &["y"],
        &[("axis", A::I(1))],
    );
    assert!(file.error().contains("ArgMax (node `/y/ArgMax`)"), "{}", file.error());
    let options = ImportOptions { output: Some("a".into()), ..Default::default() };
    let imported = from_bytes(&file.bytes(), None, &options)?;
    assert_eq!((imported.output.as_str(), imported.operators.len()), ("a", 1));
    Ok(())
}

#[test]
fn pools_with_dilation_and_wide_padding() -> Outcome {
    let pool = |kind: &str, attributes: &[(&str, A<'_>)]| {
        File::new(19, &[1, 1, 6]).with(kind, &["x"], &["y"], attributes)
    };
    let x = cnn_core::tensor::tensor(&[1, 1, 1, 6], vec![-1.0, 5.0, -3.0, 2.0, 4.0, -6.0])?;
    let run = |file: File| {
        Ok::<_, Box<dyn std::error::Error>>(
            file.import()?.graph.infer(&x)?.iter().copied().collect::<Vec<f32>>(),
        )
    };
    let dilated: &[(&str, A<'_>)] = &[
        ("kernel_shape", A::Is(&[1, 2])),
        ("dilations", A::Is(&[1, 2])),
        ("pads", A::Is(&[0, 1, 0, 1])),
        ("strides", A::Is(&[1, 2])),
    ];
    // windows at (-1, 1), (1, 3), (3, 5)
    assert_eq!(run(pool("MaxPool", dilated))?, [5.0, 5.0, 2.0]);
    assert_eq!(run(pool("AveragePool", dilated))?, [5.0, 3.5, -2.0]);
    let counted: &[(&str, A<'_>)] = &[
        ("kernel_shape", A::Is(&[1, 2])),
        ("dilations", A::Is(&[1, 2])),
        ("pads", A::Is(&[0, 1, 0, 1])),
        ("strides", A::Is(&[1, 2])),
        ("count_include_pad", A::I(1)),
    ];
    assert_eq!(run(pool("AveragePool", counted))?, [2.5, 3.5, -2.0]);
    Ok(())
}

#[test]
fn zeros_in_front_of_a_kernel_are_its_padding() -> Outcome {
    let padded = |pads: &[i64]| {
        File::new(17, &[2, 4, 4]).constant(integers("p", pads)).node("Pad", &["x", "p"], &["a"])
    };
    let conv = padded(&[0, 0, 1, 0, 0, 0, 0, 2]).constant(floats("c.weight", &[2, 2, 3, 3], &ramp(36))).with(
        "Conv",
        &["a", "c.weight"],
        &["y"],
        &[("pads", A::Is(&[0, 1, 1, 0]))],
    );
    assert_eq!(conv.kinds(), ["conv2d"]);
    let graph = conv.import()?.graph;
    assert_eq!(graph.layer::<Conv2d>("c")?.map(|c| c.options.pad), Some([1, 1, 1, 2]));

    let kernel = || ("kernel_shape", A::Is(&[2, 2]));
    let pool = padded(&[0, 0, 1, 1, 0, 0, 1, 1]).with("AveragePool", &["a"], &["y"], &[kernel()]);
    assert_eq!(pool.kinds(), ["avg_pool2d"]);
    let x = image(&[1, 2, 4, 4]);
    let y = pool.import()?.graph.infer(&x)?;
    assert!((y[[0, 1, 0, 2]] - (x[[0, 1, 0, 1]] + x[[0, 1, 0, 2]]) / 4.0).abs() < 1e-6);
    // zeros are no padding of a pool that leaves its own padding out
    let outside = padded(&[0, 0, 1, 1, 0, 0, 1, 1]).with(
        "AveragePool",
        &["a"],
        &["y"],
        &[kernel(), ("pads", A::Is(&[1, 1, 0, 0]))],
    );
    assert_eq!(outside.kinds(), ["pad", "avg_pool2d"]);
    Ok(())
}

#[test]
fn one_value_put_together_with_itself_is_transposed_once() {
    let many = |count: usize| {
        let inputs = vec!["x"; count];
        File::new(17, &[2, 1, 1])
            .with("Concat", &inputs, &["y"], &[("axis", A::I(3))])
            .import()
            .unwrap()
            .graph
    };
    let graph = many(3);
    let kinds: Vec<_> = graph.nodes()[1..].iter().map(|n| n.layer().kind()).collect();
    assert_eq!(kinds, ["transpose", "concat", "transpose"]);
    let x = image(&[2, 2, 1, 1]);
    let thrice: Vec<f32> = x.iter().flat_map(|&v| [v; 3]).collect();
    assert_eq!(graph.infer(&x).unwrap().iter().copied().collect::<Vec<_>>(), thrice);
    // the work grows with the number of inputs, not with its square
    let graph = many(1_000_000);
    assert_eq!(graph.shapes(1).unwrap().last().unwrap(), &[1, 2, 1, 1_000_000]);
}
