//! Channels of the library's networks: every legal choice keeps the certificate, and the result is an ordinary network that can be
//! written, exported and compressed further.
#![allow(clippy::unwrap_used)] // helpers of tests are tests

use cnn_core::layers::BatchNorm;
use cnn_core::tensor::relative_error;
use cnn_core::testing::stripes;
use cnn_core::train::TrainSettings;
use cnn_core::{Chain, Compressor, Graph, NetworkOptions, Registry, Run, Selection, Tensor, model_file};
use cnn_prune::{Budget, Channels, Criterion, Lasso, Unit, certify, channel_groups};
use ndarray::IxDyn;
use proptest::prelude::*;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

fn registry() -> Registry {
    let mut registry = Registry::core();
    cnn_lightweight::register(&mut registry);
    cnn_lowrank::register(&mut registry);
    cnn_prune::register(&mut registry);
    cnn_quant::register(&mut registry);
    registry
}

/// A narrow network for small images, with the look of a trained one: batch normalization that shifts.
fn network(name: &str, rng: &mut ChaCha8Rng) -> Graph {
    let (size, width) = match name {
        "lenet5" | "lenet_300_100" => (28, 1.0),
        "resnet20" => (16, 1.0),
        _ => (64, 0.25),
    };
    let channels = if size == 28 { 1 } else { 3 };
    let options =
        NetworkOptions { input: Some([channels, size, size]), classes: Some(10), width, seed: rng.random() };
    let plain = NetworkOptions { width: 1.0, ..options.clone() };
    let mut graph =
        registry().build_network(name, &options).or_else(|_| registry().build_network(name, &plain)).unwrap();
    for name in graph.names_of::<BatchNorm>() {
        let channels = graph.layer::<BatchNorm>(&name).unwrap().unwrap().gamma().len();
        let mut draw = |low: f32, high: f32| -> Vec<f32> {
            (0..channels).map(|_| rng.random_range(low..high)).collect()
        };
        let (gamma, beta) = (draw(0.5, 1.5), draw(-0.5, 0.5));
        let norm = BatchNorm::trained(gamma, beta, draw(-0.3, 0.3), draw(0.5, 2.0), 1e-5).unwrap();
        graph.replace(&name, Box::new(norm)).unwrap();
    }
    graph
}

fn images(graph: &Graph, n: usize, rng: &mut ChaCha8Rng) -> Tensor {
    let shape = [&[n], graph.input_shape()].concat();
    Tensor::from_shape_fn(IxDyn(&shape), |_| rng.random_range(-2.0..2.0))
}

/// Random units of every group, so that every node keeps a channel.
fn choose(graph: &Graph, share: f64, rng: &mut ChaCha8Rng) -> Vec<Unit> {
    let mut left: Vec<usize> = graph.shapes(1).unwrap().iter().map(|s| s[1]).collect();
    let mut gone = Vec::new();
    for group in channel_groups(graph, &Selection::default()).unwrap() {
        let mut units = group.units;
        units.shuffle(rng);
        units.truncate((rng.random_range(0.0..share) * units.len() as f64) as usize);
        for unit in units {
            let mut after = left.clone();
            unit.iter().for_each(|&(at, _)| after[at] -= 1);
            if after.iter().all(|&channels| channels > 0) {
                left = after;
                gone.push(unit);
            }
        }
    }
    gone
}

const NETWORKS: [&str; 9] = [
    "lenet5",
    "lenet_300_100",
    "resnet20",
    "resnet50",
    "squeezenet1_1",
    "mobilenet_v1",
    "mobilenet_v2",
    "shufflenet_v1_g3",
    "shufflenet_v2",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 36, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_legal_set_of_channels_keeps_the_certificate(which in 0..NETWORKS.len(), share in 0.1f64..0.95, seed: u64) {
        let rng = &mut ChaCha8Rng::seed_from_u64(seed);
        let name = NETWORKS[which];
        let graph = network(name, rng);
        let gone = choose(&graph, share, rng);
        let mut thin = graph.clone();
        thin.remove_channels(&gone.concat()).unwrap();
        let x = images(&graph, 2, rng);
        certify(&graph, &thin, &gone, &x).unwrap_or_else(|e| panic!("{name}: {e}"));
        if !gone.is_empty() {
            prop_assert!(thin.cost().unwrap().params < graph.cost().unwrap().params);
        }
        // once more, from what is left
        let again = choose(&thin, share, rng);
        let mut thinner = thin.clone();
        thinner.remove_channels(&again.concat()).unwrap();
        certify(&thin, &thinner, &again, &x).unwrap_or_else(|e| panic!("{name} again: {e}"));
    }
}

#[test]
fn every_network_can_be_thinned_written_and_exported() {
    let registry = registry();
    for name in NETWORKS {
        let rng = &mut ChaCha8Rng::seed_from_u64(7);
        let mut graph = network(name, rng);
        let shape = [graph.input_shape()[0], graph.input_shape()[1], graph.input_shape()[2]];
        let data = stripes(8, shape, 10, 1).unwrap();
        let full = model_file::deploy_bytes(&graph, false).unwrap().len();
        let mut run = Run::new(&data, &data, TrainSettings::default(), &registry);
        let method = Channels {
            criterion: Criterion::L1,
            ratio: 0.4,
            epochs: 0,
            final_epochs: 0,
            round_to: Some(1),
            ..Channels::default()
        };
        method.apply(&mut graph, &mut run).unwrap_or_else(|e| panic!("{name}: {e}"));
        let small = model_file::deploy_bytes(&graph, false).unwrap();
        assert!(small.len() * 10 < full * 9, "{name}: {full} -> {}", small.len());
        let x = images(&graph, 2, rng);
        let expected = graph.infer(&x).unwrap();
        let back = model_file::from_bytes(&small, &registry).unwrap();
        assert_eq!(back.infer(&x).unwrap(), expected, "{name}");
        let onnx = cnn_onnx::to_bytes(&graph, &cnn_onnx::ExportOptions::default()).unwrap();
        let back = cnn_onnx::from_bytes(&onnx, None, &cnn_onnx::ImportOptions::default()).unwrap().graph;
        assert!(relative_error(&back.infer(&x).unwrap(), &expected) < 1e-5, "{name}");
        // an imported network is thinned like any other
        let mut back = back;
        let before = back.cost().unwrap().macs.total();
        let half = Channels { budget: Some(Budget::Macs(0.7)), ..method };
        half.apply(&mut back, &mut run).unwrap_or_else(|e| panic!("{name} imported: {e}"));
        assert!(back.cost().unwrap().macs.total() as f64 <= 0.7 * before as f64, "{name}");
    }
}

/// "Channel pruning, channel decomposition and spatial decomposition" of He, Zhang & Sun 2017, section 4.1.3: the methods know nothing
/// of each other, and meet in ordinary layers.
#[test]
fn reconstruction_goes_with_low_rank_and_with_what_packs() {
    let registry = registry();
    let rng = &mut ChaCha8Rng::seed_from_u64(3);
    let graph = network("resnet20", rng);
    let data = stripes(64, [3, 16, 16], 10, 1).unwrap();
    let build = |name: &str, config: serde_json::Value| registry.build_method(name, config).unwrap();
    let x = images(&graph, 2, rng);
    let mut run = Run::new(&data, &data, TrainSettings { epochs: 1, ..TrainSettings::default() }, &registry);
    let chain = Chain::new(
        "3C and more",
        vec![
            build("lowrank.tucker2", serde_json::json!({ "energy": 0.8, "epochs": 0 })),
            Box::new(Lasso { ratio: 0.3, epochs: 0, samples: 32, ..Lasso::default() }) as Box<dyn Compressor>,
            build(
                "prune.weights",
                serde_json::json!({ "ratio": 0.6, "rounds": 1, "epochs": 0, "final_epochs": 1 }),
            ),
            build("quant.kmeans", serde_json::json!({ "bits": 5, "epochs": 1 })),
        ],
    );
    let full = (model_file::deploy_bytes(&graph, false).unwrap().len(), graph.cost().unwrap().macs.total());
    let mut small = graph.clone();
    chain.apply(&mut small, &mut run).unwrap();
    let zeros = cnn_prune::sparsity(&small).iter().map(|l| l.weights - l.nonzeros).sum::<usize>();
    chain.pack(&mut small).unwrap();
    let bytes = model_file::deploy_bytes(&small, false).unwrap();
    assert!(bytes.len() * 8 < full.0, "{} of {}", bytes.len(), full.0);
    assert!(small.cost().unwrap().macs.total() * 2 < full.1);
    assert!(zeros > 0);
    let back = model_file::from_bytes(&bytes, &registry).unwrap();
    assert_eq!(back.infer(&x).unwrap(), small.infer(&x).unwrap());
}
