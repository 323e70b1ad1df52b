//! The sparse layers in standard operators: the dense layer, zeros and all.
#![allow(clippy::unwrap_used)] // helpers of tests

mod common;

use cnn_core::express::{Attribute, Numbers, StandardGraph, express};
use cnn_core::layers::{Conv2d, Linear};
use cnn_core::tensor::{relative_error, tensor};
use cnn_core::{Compressor, Error, Graph, Run, Tensor};
use cnn_prune::Weights;
use common::{data, network, registry, settings};

/// The constant at an input of an operator.
fn constant(graph: &StandardGraph, name: &str) -> Option<Tensor> {
    let found = graph.constants.iter().find(|c| c.name == name)?;
    let Numbers::F32(values) = &found.numbers else { panic!("{name} is not of floats") };
    Some(tensor(&found.shape, values.clone()).unwrap())
}

/// The network with its convolutions and linear layers made of what the standard form says.
fn rebuilt(graph: &Graph, standard: &StandardGraph) -> Graph {
    let mut graph = graph.clone();
    for o in standard.operators.iter().filter(|o| ["Conv", "Gemm"].contains(&o.kind)) {
        let weight = constant(standard, &o.inputs[1]).unwrap();
        let bias = o.inputs.get(2).map(|name| constant(standard, name).unwrap());
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
    let shape_of = |s: &StandardGraph| -> Vec<_> {
        s.operators.iter().map(|o| (o.kind, o.attributes.clone())).collect()
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
    assert_eq!(shape_of(&after), shape_of(&before));
    let sizes = |s: &StandardGraph| s.constants.iter().map(|c| c.numbers.len()).collect::<Vec<_>>();
    assert_eq!(sizes(&after), sizes(&before), "dense, of the size it was before");

    let dense = rebuilt(&graph, &after);
    assert_eq!(dense.cost().unwrap().nonzeros, graph.cost().unwrap().nonzeros);
    let x = cnn_core::data::batch(&data, &[0, 3, 5]).unwrap().0;
    assert!(relative_error(&dense.infer(&x).unwrap(), &graph.infer(&x).unwrap()) <= 1e-5);
}
