//! What is exported and imported again computes the same, for every layer of the core.

mod common;

use cnn_core::init::Init;
use cnn_core::layers::*;
use cnn_core::tensor::{relative_error, tensor};
use cnn_core::testing::lenet5;
use cnn_core::{Graph, Preprocess};
use cnn_onnx::{ExportOptions, ImportOptions, from_bytes, load, save, to_bytes};
use common::{image, ramp};

type Outcome = Result<(), Box<dyn std::error::Error>>;

/// Exports and imports, and compares on a batch of two.
fn same(graph: &Graph) -> Result<Graph, Box<dyn std::error::Error>> {
    let bytes = to_bytes(graph, &ExportOptions::default())?;
    let back = from_bytes(&bytes, None, &ImportOptions::default())?.graph;
    let x = image(&[&[2], graph.input_shape()].concat());
    let error = relative_error(&back.infer(&x)?, &graph.infer(&x)?);
    assert!(error <= 1e-5, "relative error {error}\n{graph}\n{back}");
    Ok(back)
}

#[test]
fn lenet5_keeps_names_and_shape() -> Outcome {
    let graph = lenet5(3)?;
    let back = same(&graph)?;
    let names = |g: &Graph| g.nodes().iter().map(|n| n.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&back), names(&graph));
    assert_eq!(back.cost()?, graph.cost()?);
    Ok(())
}

#[test]
fn a_file_is_written_with_its_preprocessing() -> Outcome {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("a.onnx");
    let mut graph = lenet5(3)?;
    graph.preprocess = Some(Preprocess { mean: vec![0.25], std: vec![0.5] });
    let length = save(&graph, &path, &ExportOptions::default())?;
    assert_eq!(length, std::fs::metadata(&path)?.len());
    let imported = load(&path, &ImportOptions::default())?;
    assert_eq!(imported.graph.preprocess, graph.preprocess);
    assert_eq!((imported.opset, imported.input.as_str(), imported.output.as_str()), (17, "input", "fc2"));
    assert_eq!(imported.operators["Gemm"], 2);
    Ok(())
}

#[test]
fn equal_constants_are_stored_once() -> Outcome {
    let mut init = Init::new(1);
    let weight = init.glorot(&[64, 64])?;
    let mut graph = Graph::new(&[64]);
    graph.push("a", Linear::new(weight.clone(), None)?)?;
    graph.push("b", Linear::new(weight, None)?)?;
    let length = to_bytes(&graph, &ExportOptions::default())?.len();
    assert!(length < 64 * 64 * 4 + 1000, "{length}");
    same(&graph)?;
    Ok(())
}

#[test]
fn convolutions_and_normalization() -> Outcome {
    let mut init = Init::new(2);
    let mut graph = Graph::new(&[4, 9, 8]);
    let options = ConvOptions { stride: [2, 1], pad: [1, 0, 2, 1], dilation: [1, 2], groups: 2 };
    graph.push("conv", Conv2d::new(init.glorot(&[6, 2, 3, 2])?, Some(tensor(&[6], ramp(6))?), options)?)?;
    let positive = |n| ramp(n).iter().map(|v| v.abs() + 0.5).collect::<Vec<f32>>();
    graph.push("bn", BatchNorm::trained(ramp(6), ramp(6), ramp(6), positive(6), 1e-3)?)?;
    graph.push(
        "dw",
        Conv2d::new(init.glorot(&[6, 1, 3, 3])?, None, ConvOptions::default().pad(1).groups(6))?,
    )?;
    graph.push("relu6", Activation { function: ActivationFn::Relu6 })?;
    graph.push(
        "max",
        MaxPool2d { window: Window { ceil_mode: true, ..Window::square(3).stride(2).pad(1) } },
    )?;
    graph.push("avg", AvgPool2d { window: Window::square(2).stride(1).pad(1), count_include_pad: true })?;
    graph.push("avg2", AvgPool2d { window: Window::square(2).stride(1).pad(1), count_include_pad: false })?;
    graph.push("adaptive", AdaptiveAvgPool { size: [3, 2] })?;
    let back = same(&graph)?;
    let kinds = |g: &Graph| g.nodes().iter().map(|n| n.layer().kind()).collect::<Vec<_>>();
    assert_eq!(kinds(&back), kinds(&graph));
    Ok(())
}

#[test]
fn every_activation() -> Outcome {
    let functions = [
        ActivationFn::Relu,
        ActivationFn::Relu6,
        ActivationFn::LeakyRelu(0.3),
        ActivationFn::Sigmoid,
        ActivationFn::HardSigmoid,
        ActivationFn::HardSwish,
        ActivationFn::Silu,
        ActivationFn::Tanh,
        ActivationFn::Elu(0.7),
        ActivationFn::Clip(-0.5, 0.25),
    ];
    for function in functions {
        let mut graph = Graph::new(&[3, 5, 5]);
        graph.push("a", Activation { function })?;
        let back = same(&graph)?;
        assert_eq!(back.layer::<Activation>("a")?.map(|a| a.function), Some(function));
    }
    Ok(())
}

#[test]
fn merging_and_moving() -> Outcome {
    let mut graph = Graph::new(&[4, 6, 6]);
    graph.push("shuffle", ChannelMap::shuffle(4, 2)?)?;
    graph.push("pad_channels", ChannelMap::pad(4, 1, 1)?)?;
    graph.push("map", ChannelMap::new(6, vec![Some(5), None, Some(0), Some(0)])?)?;
    graph.push("axis", AxisMap::new(3, 6, vec![Some(4), None, Some(1), Some(1), Some(0), Some(5)])?)?;
    graph.add("add", Add, &["axis", "shuffle"])?;
    graph.add("cat", Concat, &["add", "input"])?;
    graph.push("gap", GlobalAvgPool)?;
    graph.add("scale", Mul, &["cat", "gap"])?;
    graph.add("minus", Arithmetic { operator: ArithmeticOperator::Sub }, &["scale", "gap"])?;
    let constant =
        |shape: &[usize]| tensor(shape, ramp(shape.iter().product()).iter().map(|v| v + 2.0).collect());
    graph.push("over", ArithmeticConstant::new(ArithmeticOperator::Sub, constant(&[1, 8, 1, 1])?, true)?)?;
    graph.push("by", ArithmeticConstant::new(ArithmeticOperator::Div, constant(&[6])?, false)?)?;
    graph.push("plus", ArithmeticConstant::new(ArithmeticOperator::Add, constant(&[1, 1, 6, 6])?, false)?)?;
    graph.push("pad", Pad { pad: [1, 0, 0, 2], value: 0.5 })?;
    graph.push("drop", Dropout::new(0.5)?)?;
    graph.push("turn", Transpose::new(vec![0, 2, 1, 3])?)?;
    graph.push("mean", Mean::new(vec![1], false)?)?;
    graph.push("flat", Flatten)?;
    graph.push("shape", Reshape { shape: vec![8, 8] })?;
    graph.push("soft", Softmax)?;
    graph.push("same", Identity)?;
    same(&graph)?;
    Ok(())
}

#[test]
fn resizing_and_grids() -> Outcome {
    for (mode, coordinates) in [
        (ResizeMode::Nearest(NearestRounding::Floor), ResizeCoordinates::Asymmetric),
        (ResizeMode::Nearest(NearestRounding::PreferFloor), ResizeCoordinates::HalfPixel),
        (ResizeMode::Linear, ResizeCoordinates::HalfPixel),
        (ResizeMode::Linear, ResizeCoordinates::AlignCorners),
        (ResizeMode::Cubic(-0.75), ResizeCoordinates::PytorchHalfPixel),
    ] {
        let mut graph = Graph::new(&[2, 4, 5]);
        graph.push("r", Resize { mode, coordinates, size: [8, 10], scale: [2.0, 2.0] })?;
        let back = same(&graph)?;
        assert_eq!(back.layer::<Resize>("r")?, graph.layer::<Resize>("r")?);
    }
    let mut graph = Graph::new(&[3, 4, 4]);
    graph.push("q", FakeQuantize::new(vec![0.1, 0.02, 0.05], vec![3, 0, -7], 1, -128, 127)?)?;
    graph.push("u", FakeQuantize::new(vec![0.04], vec![100], 0, 0, 255)?)?;
    let back = same(&graph)?;
    let kinds: Vec<_> = back.nodes()[1..].iter().map(|n| n.layer().kind()).collect();
    assert_eq!(kinds, ["fake_quantize", "fake_quantize"]);
    Ok(())
}

#[test]
fn an_imported_network_is_trained_and_loses_channels() -> Outcome {
    let graph = lenet5(0)?;
    let bytes = to_bytes(&graph, &ExportOptions::default())?;
    let mut back = from_bytes(&bytes, None, &ImportOptions::default())?.graph;
    let keep: Vec<usize> = (0..10).collect();
    back.keep_channels("conv1", &keep)?;
    assert_eq!(back.layer::<Conv2d>("conv1")?.map(Conv2d::filters), Some(10));
    same(&back)?;
    for at in 1..back.nodes().len() {
        assert!(back.layer_at_mut(at).trainable().is_some());
    }
    Ok(())
}
