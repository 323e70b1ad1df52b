//! Every registered network, and compressed ones, out to ONNX and in again. `cargo xtask onnx` compares them
//! with ONNX Runtime.

#![allow(clippy::unwrap_used)] // helpers of tests are tests

use cnn_core::layers::BatchNorm;
use cnn_core::model_file::deploy_bytes;
use cnn_core::tensor::relative_error;
use cnn_core::testing::stripes;
use cnn_core::train::TrainSettings;
use cnn_core::{Config, Graph, NetworkOptions, Registry, Run, Tensor, data::batch};
use cnn_onnx::{ExportOptions, ImportOptions, from_bytes, to_bytes};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::json;

fn registry() -> Registry {
    let mut registry = Registry::core();
    cnn_prune::register(&mut registry);
    cnn_quant::register(&mut registry);
    cnn_lowrank::register(&mut registry);
    cnn_lightweight::register(&mut registry);
    registry
}

/// A small form of a network, with batch normalization that differs from channel to channel.
fn small(registry: &Registry, name: &str) -> Graph {
    let input = if name.starts_with("lenet") { [1, 28, 28] } else { [3, 32, 32] };
    let options = NetworkOptions { input: Some(input), classes: Some(10), width: 0.5, seed: 1 };
    let mut graph = registry.build_network(name, &options).unwrap_or_else(|e| panic!("{name}: {e}"));
    let mut random = ChaCha8Rng::seed_from_u64(1);
    for at in 0..graph.nodes().len() {
        if !graph.nodes()[at].layer().is::<BatchNorm>() {
            continue;
        }
        let norm = graph.layer_at_mut(at).downcast_mut::<BatchNorm>().unwrap();
        let count = norm.gamma().len();
        let mut draw = |low: f32, high| (0..count).map(|_| random.random_range(low..high)).collect();
        let (gamma, beta, mean, var) = (draw(0.5, 1.5), draw(-0.3, 0.3), draw(-0.3, 0.3), draw(0.5, 2.0));
        *norm = BatchNorm::trained(gamma, beta, mean, var, norm.epsilon).unwrap();
    }
    graph
}

fn images(graph: &Graph, count: usize) -> Tensor {
    let shape = graph.input_shape();
    let data = stripes(count, [shape[0], shape[1], shape[2]], 10, 3).unwrap();
    batch(&data, &(0..count).collect::<Vec<_>>()).unwrap().0
}

/// Out and in again; the relative difference of the logits of three images.
fn difference(graph: &Graph, options: &ExportOptions) -> f32 {
    let back = from_bytes(&to_bytes(graph, options).unwrap(), None, &ImportOptions::default()).unwrap();
    let images = images(graph, 3);
    let logits = graph.infer(&images).unwrap();
    let varied = logits.iter().any(|v| (v - logits[[0, 0]]).abs() > 1e-3);
    assert!(varied, "the network says nothing: {logits}");
    relative_error(&back.graph.infer(&images).unwrap(), &logits)
}

#[test]
fn every_network_comes_back() {
    let registry = registry();
    for name in registry.network_names() {
        let graph = small(&registry, name);
        let difference = difference(&graph, &ExportOptions::default());
        assert!(difference <= 1e-5, "{name}: {difference}");
    }
}

#[test]
fn a_network_that_came_back_has_the_same_costs_and_is_a_network_like_any_other() {
    let registry = registry();
    for name in ["resnet20", "mobilenet_v1", "lenet5"] {
        let graph = small(&registry, name);
        let bytes = to_bytes(&graph, &ExportOptions::default()).unwrap();
        let back = from_bytes(&bytes, None, &ImportOptions::default()).unwrap().graph;
        assert_eq!(back.cost().unwrap().macs, graph.cost().unwrap().macs, "{name}");
        let again = to_bytes(&back, &ExportOptions::default()).unwrap();
        let twice = from_bytes(&again, None, &ImportOptions::default()).unwrap().graph;
        let images = images(&graph, 2);
        let error = relative_error(&twice.infer(&images).unwrap(), &back.infer(&images).unwrap());
        assert!(error <= 1e-5, "{name}: {error}");
        assert!(deploy_bytes(&back, false).is_ok(), "{name}");
    }
}

/// LeNet-5 through one method.
fn compressed(method: &str, config: Config) -> Graph {
    let registry = registry();
    let mut graph = small(&registry, "lenet5");
    let data = stripes(32, [1, 28, 28], 10, 1).unwrap();
    let settings = TrainSettings { epochs: 1, batch: 16, ..TrainSettings::default() };
    let mut run = Run::new(&data, &data, settings, &registry);
    let method = registry.build_method(method, config).unwrap();
    method.apply(&mut graph, &mut run).unwrap();
    method.pack(&mut graph).unwrap();
    graph
}

#[test]
fn compressed_networks_come_back() {
    let prune = json!({ "ratio": 0.8, "rounds": 1, "epochs": 1, "final_epochs": 1 });
    for (method, config) in [
        ("prune.weights", prune),
        ("quant.kmeans", json!({ "bits": 4, "epochs": 1 })),
        ("quant.kmeans", json!({ "bits": 3, "epochs": 1, "sharing": { "groups": 3 } })),
        ("lowrank", json!({ "epochs": 1 })),
    ] {
        let graph = compressed(method, config);
        for four_bit in [false, true] {
            let difference = difference(&graph, &ExportOptions { four_bit, ..ExportOptions::default() });
            assert!(difference <= 1e-5, "{method}, four_bit {four_bit}: {difference}");
        }
    }
}

/// The dense form of a network's sparse layers.
fn dense(graph: &Graph) -> Graph {
    let mut dense = graph.clone();
    for node in graph.nodes() {
        let layer = node.layer();
        if let Some(sparse) = layer.downcast_ref::<cnn_prune::SparseLinear>() {
            dense.replace(&node.name, Box::new(sparse.to_dense().unwrap())).unwrap();
        } else if let Some(sparse) = layer.downcast_ref::<cnn_prune::SparseConv2d>() {
            dense.replace(&node.name, Box::new(sparse.to_dense().unwrap())).unwrap();
        }
    }
    dense
}

#[test]
fn zeros_are_not_in_the_file_and_come_back_to_the_bit() {
    let prune = |ratio: f64| {
        compressed("prune.weights", json!({ "ratio": ratio, "rounds": 1, "epochs": 1, "final_epochs": 0 }))
    };
    for (ratio, share) in [(0.5, 0.64), (0.9, 0.15), (0.99, 0.06)] {
        let graph = prune(ratio);
        let dense = dense(&graph);
        let bytes = to_bytes(&graph, &ExportOptions::default()).unwrap();
        let in_full = to_bytes(&dense, &ExportOptions::default()).unwrap();
        assert!((bytes.len() as f64) < share * in_full.len() as f64, "{} of {}", bytes.len(), in_full.len());
        let back = from_bytes(&bytes, None, &ImportOptions::default()).unwrap();
        assert!(back.operators["ScatterElements"] >= 3, "{:?}", back.operators);
        let kinds =
            |g: &Graph| g.nodes().iter().map(|n| (n.name.clone(), n.layer().kind())).collect::<Vec<_>>();
        assert_eq!(kinds(&back.graph), kinds(&dense));
        let images = images(&graph, 3);
        assert_eq!(back.graph.infer(&images).unwrap(), dense.infer(&images).unwrap());
    }
}

#[test]
fn a_codebook_is_smaller_in_the_file_too() {
    let graph = compressed("quant.kmeans", json!({ "bits": 4, "epochs": 1 }));
    let length =
        |four_bit| to_bytes(&graph, &ExportOptions { four_bit, ..ExportOptions::default() }).unwrap().len();
    let weights = graph.cost().unwrap().params as usize;
    assert!(length(false) < weights + weights / 10, "{} bytes for {weights} weights", length(false));
    assert!(length(true) < weights / 2 + weights / 10, "{} bytes for {weights} weights", length(true));
}
