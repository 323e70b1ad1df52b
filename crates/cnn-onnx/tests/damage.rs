//! Damaged files are errors, never panics.

mod common;

use cnn_core::layers::*;
use cnn_core::{Graph, tensor::tensor};
use cnn_onnx::{ExportOptions, ImportOptions, from_bytes, to_bytes};
use common::{A, File, floats, integers, ramp};
use proptest::prelude::*;
use proptest::sample::Index;

/// Files with many operators, small enough to be damaged thoroughly.
fn files() -> Vec<Vec<u8>> {
    let chain = File::new(17, &[4, 4, 4])
        .constant(floats("conv.weight", &[4, 4, 1, 1], &ramp(16)))
        .constant(integers("zero", &[0]))
        .constant(integers("rest", &[-1]))
        .constant(floats("scales", &[4], &[1.0, 1.0, 2.0, 2.0]))
        .with(
            "Conv",
            &["x", "conv.weight"],
            &["a"],
            &[("auto_pad", A::S("SAME_UPPER")), ("strides", A::Is(&[2, 2]))],
        )
        .with("MaxPool", &["a"], &["b"], &[("kernel_shape", A::Is(&[2, 2])), ("dilations", A::Is(&[1, 1]))])
        .node("Resize", &["b", "", "scales"], &["c"])
        .with("Split", &["c"], &["d", "e"], &[("axis", A::I(1))])
        .with("Concat", &["e", "d"], &["f"], &[("axis", A::I(-1))])
        .node("Shape", &["f"], &["s"])
        .node("Gather", &["s", "zero"], &["n"])
        .with("Concat", &["n", "rest"], &["t"], &[("axis", A::I(0))])
        .node("Reshape", &["f", "t"], &["g"])
        .with("Softmax", &["g"], &["y"], &[("axis", A::I(1))])
        .bytes();
    let mut graph = Graph::new(&[2, 4, 4]);
    let build = |graph: &mut Graph| -> cnn_core::Result<()> {
        graph.push(
            "c",
            Conv2d::new(tensor(&[2, 1, 3, 3], ramp(18))?, None, ConvOptions::default().pad(1).groups(2))?,
        )?;
        graph.push("q", FakeQuantize::new(vec![0.1], vec![3], 0, -128, 127)?)?;
        graph.push("m", AxisMap::new(3, 4, vec![Some(3), None, Some(0)])?)?;
        graph.push("p", AvgPool2d { window: Window::square(2), count_include_pad: false })?;
        graph.push("r", Mean::new(vec![2], false)?)
    };
    build(&mut graph).expect("a graph");
    vec![chain, to_bytes(&graph, &ExportOptions::default()).expect("a file")]
}

/// A file that is read can also be run, unless it says that it cannot.
fn read(bytes: &[u8]) {
    let options = ImportOptions { limit: 1 << 20, ..Default::default() };
    if let Ok(imported) = from_bytes(bytes, None, &options) {
        let shape = [&[1], imported.graph.input_shape()].concat();
        let _ = imported.graph.infer(&common::image(&shape));
    }
    let _ = cnn_onnx::evaluate(bytes, &Default::default());
}

#[test]
fn the_files_are_whole() {
    for bytes in files() {
        from_bytes(&bytes, None, &ImportOptions::default()).unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn changed_bytes(which in 0usize..2, changes in prop::collection::vec((any::<Index>(), any::<u8>()), 1..4)) {
        let mut bytes = files().swap_remove(which);
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        read(&bytes);
    }

    #[test]
    fn cut_and_joined(which in 0usize..2, a in any::<Index>(), b in any::<Index>()) {
        let mut bytes = files().swap_remove(which);
        let (a, b) = (a.index(bytes.len()), b.index(bytes.len()));
        bytes.drain(a.min(b)..a.max(b));
        read(&bytes);
    }

    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        read(&bytes);
    }
}
