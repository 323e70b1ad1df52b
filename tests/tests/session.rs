//! The session gives the reference executor's answers, for every network that the toolkit builds and whatever the threads.

#![allow(clippy::unwrap_used)] // also in the helpers of tests

use cnn_core::layers::BatchNorm;
use cnn_core::session::{Session, SessionOptions, Tuning};
use cnn_core::tensor::{relative_error, tensor};
use cnn_core::{Graph, NetworkOptions, Registry, Tensor};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

fn registry() -> Registry {
    let mut registry = Registry::core();
    cnn_lightweight::register(&mut registry);
    registry
}

/// A small form of a network, with batch normalization that differs from channel to channel.
fn small(name: &str) -> Graph {
    let input = if name.starts_with("lenet") { [1, 28, 28] } else { [3, 32, 32] };
    let options = NetworkOptions { input: Some(input), classes: Some(10), width: 0.5, seed: 1 };
    let mut graph = registry().build_network(name, &options).unwrap_or_else(|e| panic!("{name}: {e}"));
    let mut random = ChaCha8Rng::seed_from_u64(1);
    for at in 0..graph.nodes().len() {
        if let Some(norm) = graph.layer_at_mut(at).downcast_mut::<BatchNorm>() {
            let count = norm.gamma().len();
            let mut draw = |low: f32, high| (0..count).map(|_| random.random_range(low..high)).collect();
            let (gamma, beta, mean, var) = (draw(0.5, 1.5), draw(-0.3, 0.3), draw(-0.3, 0.3), draw(0.5, 2.0));
            *norm = BatchNorm::trained(gamma, beta, mean, var, norm.epsilon).unwrap();
        }
    }
    graph
}

fn images(graph: &Graph, n: usize) -> Tensor {
    let mut random = ChaCha8Rng::seed_from_u64(7);
    let shape = [&[n], graph.input_shape()].concat();
    let values = (0..shape.iter().product()).map(|_| random.random_range(-2.0f32..2.0)).collect();
    tensor(&shape, values).unwrap()
}

fn options(graph: &Graph, threads: usize) -> SessionOptions {
    SessionOptions::with_threads(threads).unwrap().batches(graph, &[1, 3])
}

#[test]
fn every_network_runs_as_the_reference_does() {
    for name in registry().network_names() {
        let graph = small(name);
        let exact = SessionOptions { exact: true, ..options(&graph, 1) };
        for (options, most) in [(exact, 1e-5), (options(&graph, 1), 1e-3)] {
            let mut session = Session::new(graph.clone(), &options).unwrap();
            for n in [1, 3, 1] {
                let images = images(&graph, n);
                let error = relative_error(&session.run(&images).unwrap(), &graph.infer(&images).unwrap());
                assert!(error <= most, "{name}, batch {n}, exact {}: {error}", options.exact);
            }
        }
    }
}

#[test]
fn the_bits_do_not_depend_on_the_threads() {
    for name in registry().network_names() {
        let graph = small(name);
        let images = images(&graph, 3);
        let [one, two, three] = [1, 2, 3].map(|threads| {
            Session::new(graph.clone(), &options(&graph, threads)).unwrap().run(&images).unwrap()
        });
        assert_eq!(one, two, "{name}");
        assert_eq!(one, three, "{name}");
    }
}

#[test]
fn measured_choices_are_replayed() {
    for name in ["resnet20", "mobilenet_v1", "squeezenet1_0"] {
        let graph = small(name);
        let measured = SessionOptions { tuning: Tuning::Measure, ..options(&graph, 1) };
        let mut first = Session::new(graph.clone(), &measured).unwrap();
        let replayed = SessionOptions { choices: Some(first.choices().clone()), ..options(&graph, 1) };
        let mut second = Session::new(graph.clone(), &replayed).unwrap();
        assert_eq!(first.choices(), second.choices());
        let images = images(&graph, 1);
        assert_eq!(first.run(&images).unwrap(), second.run(&images).unwrap(), "{name}");
    }
}
