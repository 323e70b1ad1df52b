//! The sparse layers in standard operators: the dense layer, whose zeros are filled in by operators.
#![allow(clippy::unwrap_used)] // helpers of tests

mod common;

use cnn_core::express::{Attribute, Constant, Numbers, StandardGraph, express};
use cnn_core::layers::{Conv2d, Linear};
use cnn_core::tensor::{relative_error, tensor};
use cnn_core::{Compressor, Error, Graph, Run, Tensor};
use cnn_prune::Weights;
use common::{data, network, registry, settings};

fn numbers<'a>(graph: &'a StandardGraph, name: &str) -> Option<&'a Constant> {
    graph.constants.iter().find(|c| c.name == name)
}

/// The constant at an input of an operator: as it is, or what operators make of distances and values.
fn constant(graph: &StandardGraph, name: &str) -> Tensor {
    if let Some(Constant { numbers: Numbers::F32(values), shape, .. }) = numbers(graph, name) {
        return tensor(shape, values.clone()).unwrap();
    }
    let made = |name: &str, kind: &str| {
        let found = graph.operators.iter().find(|o| o.output == name).unwrap();
        assert_eq!(found.kind, kind);
        &found.inputs
    };
    let [flat, shape] = &made(name, "Reshape")[..] else { panic!() };
    let [zeros, positions, values] = &made(flat, "ScatterElements")[..] else { panic!() };
    let [zero, size] = &made(zeros, "Expand")[..] else { panic!() };
    let distances = &made(&made(positions, "CumSum")[0], "Cast")[0];
    let of = |name: &str| numbers(graph, name).map(|c| &c.numbers);
    let (Some(Numbers::U8(distances)), Some(Numbers::F32(values))) = (of(distances), of(values)) else {
        panic!()
    };
    let (Some(Numbers::I64(size)), Some(Numbers::I64(shape))) = (of(size), of(shape)) else { panic!() };
    assert_eq!(of(zero), Some(&Numbers::F32(vec![0.0])));
    let mut all = vec![0.0; size[0] as usize];
    let mut at = 0;
    for (&distance, &value) in distances.iter().zip(values) {
        at += usize::from(distance);
        all[at] = value;
    }
    tensor(&shape.iter().map(|&d| d as usize).collect::<Vec<_>>(), all).unwrap()
}

/// The network with its convolutions and linear layers made of what the standard form says.
fn rebuilt(graph: &Graph, standard: &StandardGraph) -> Graph {
    let mut graph = graph.clone();
    for o in standard.operators.iter().filter(|o| ["Conv", "Gemm"].contains(&o.kind)) {
        let weight = constant(standard, &o.inputs[1]);
        let bias = o.inputs.get(2).map(|name| constant(standard, name));
        // the value has the name of the node
        if o.kind == "Gemm" {
            assert_eq!(o.attributes, [("transB", Attribute::Int(1))]);
            graph.replace(&o.output, Box::new(Linear::new(weight, bias).unwrap())).unwrap();
        } else {
            let options = cnn_core::layers::ConvOptions::default().pad(1);
            assert_eq!(o.attributes, options.attributes([3, 3]));
            graph.replace(&o.output, Box::new(Conv2d::new(weight, bias, options).unwrap())).unwrap();
        }
    }
    graph
}

#[test]
fn a_pruned_network_in_standard_operators() {
    let (data, registry) = (data(1), registry());
    let mut run = Run::new(&data, &data, settings(0), &registry);
    let mut graph = network();
    let filling = ["Cast", "CumSum", "Expand", "ScatterElements", "Reshape"];
    let layers = |s: &StandardGraph| -> Vec<_> {
        let layers = s.operators.iter().filter(|o| !filling.contains(&o.kind));
        layers.map(|o| (o.kind, o.attributes.clone())).collect()
    };
    let before = express(&graph, false).unwrap();
    let method = Weights { ratio: 0.9, rounds: 1, epochs: 0, final_epochs: 0, ..Weights::default() };
    method.apply(&mut graph, &mut run).unwrap();

    // a mask is not passed off as a small network
    match express(&graph, false) {
        Err(Error::Node { node, source }) => {
            assert!(node == "conv1" && matches!(*source, Error::Constrained { .. }), "{node}: {source}");
        }
        other => panic!("{other:?}"),
    }

    method.pack(&mut graph).unwrap();
    let packed = |kind| graph.nodes().iter().any(|n| n.layer().kind() == kind);
    assert!(packed("prune.sparse_conv2d") && packed("prune.sparse_linear"));
    let after = express(&graph, false).unwrap();
    assert_eq!(layers(&after), layers(&before));
    let sparse = after.operators.iter().filter(|o| o.kind == "ScatterElements").count();
    assert_eq!(sparse, 2, "conv2 and fc1 have enough weights");
    let numbers = |s: &StandardGraph| s.constants.iter().map(|c| c.numbers.len()).sum::<usize>();
    assert!(numbers(&after) < numbers(&before) / 4, "{} of {}", numbers(&after), numbers(&before));

    let dense = rebuilt(&graph, &after);
    assert_eq!(dense.cost().unwrap().nonzeros, graph.cost().unwrap().nonzeros);
    let x = cnn_core::data::batch(&data, &[0, 3, 5]).unwrap().0;
    assert!(relative_error(&dense.infer(&x).unwrap(), &graph.infer(&x).unwrap()) <= 1e-5);
}
