//! Every registered network trains a step, and its file reads back to the same bits.

use cnn_core::data::batch;
use cnn_core::model_file::{deploy_bytes, from_bytes};
use cnn_core::testing::stripes;
use cnn_core::train::{CrossEntropy, Progress, TrainData, TrainSettings, train};
use cnn_core::{NetworkOptions, Registry};

#[test]
fn each_trains_a_step_and_reads_back() {
    let mut registry = Registry::core();
    cnn_lightweight::register(&mut registry);
    let names: Vec<&str> = registry.network_names().collect();
    assert!(names.len() >= 8, "{names:?}");
    for name in names {
        // the networks for digits see digits' size, the others that of CIFAR
        let input = if name.starts_with("lenet") { [1, 28, 28] } else { [3, 32, 32] };
        let options = NetworkOptions { input: Some(input), classes: Some(10), width: 0.5, seed: 1 };
        let mut graph = registry.build_network(name, &options).unwrap();
        let fresh = deploy_bytes(&graph, true).unwrap();

        let data = stripes(4, input, 10, 1).unwrap();
        let settings = TrainSettings { epochs: 1, batch: 4, ..TrainSettings::default() };
        let lent = TrainData { train: &data, validation: None, augment: None, checkpoint: None };
        let quiet = Progress::quiet();
        let history =
            train(&mut graph, lent, &settings, &mut CrossEntropy::default(), &mut [], &quiet).unwrap();
        assert!(history.epochs[0].loss > 0.0, "{name}");
        let bytes = deploy_bytes(&graph, true).unwrap();
        assert_ne!(bytes, fresh, "{name}: the step changed nothing");

        let back = from_bytes(&bytes, &registry).unwrap();
        let (images, _) = batch(&data, &[0, 1, 2, 3]).unwrap();
        assert_eq!(back.infer(&images).unwrap(), graph.infer(&images).unwrap(), "{name}");
        assert_eq!(deploy_bytes(&back, true).unwrap(), bytes, "{name}");
        assert_eq!(back.cost().unwrap(), graph.cost().unwrap(), "{name}");
    }
}

#[test]
fn the_seed_decides() {
    let mut registry = Registry::core();
    cnn_lightweight::register(&mut registry);
    for name in registry.network_names() {
        let bytes = |seed| {
            let options = NetworkOptions { width: 0.25, seed, ..NetworkOptions::default() };
            deploy_bytes(&registry.build_network(name, &options).unwrap(), true).unwrap()
        };
        assert_eq!(bytes(3), bytes(3), "{name}");
        assert_ne!(bytes(3), bytes(4), "{name}");
    }
}
