//! Methods of different crates, one after the other: they compose through core types only.

#![allow(clippy::unwrap_used)] // also in the helpers of tests

use cnn_core::data::Subset;
use cnn_core::layers::Linear;
use cnn_core::model_file::{deploy_bytes, from_bytes};
use cnn_core::tensor::relative_error;
use cnn_core::train::{CrossEntropy, Optimizer, Progress, TrainData, TrainSettings, accuracy, train};
use cnn_core::{Chain, Config, Dataset, Graph, NetworkOptions, Registry, Run, data::batch};
use serde_json::json;
use std::sync::OnceLock;

fn registry() -> &'static Registry {
    static REGISTRY: OnceLock<Registry> = OnceLock::new();
    REGISTRY.get_or_init(|| {
        let mut registry = Registry::core();
        cnn_prune::register(&mut registry);
        cnn_quant::register(&mut registry);
        cnn_lowrank::register(&mut registry);
        cnn_distill::register(&mut registry);
        cnn_lightweight::register(&mut registry);
        registry
    })
}

fn settings() -> TrainSettings {
    TrainSettings { epochs: 1, batch: 32, optimizer: Optimizer::sgd(0.01, 5e-4), ..TrainSettings::default() }
}

/// 1,000 digits to train on, 500 to validate.
fn digits() -> &'static cnn_data::Splits {
    static DIGITS: OnceLock<cnn_data::Splits> = OnceLock::new();
    DIGITS.get_or_init(|| cnn_data::mnist::embedded().unwrap())
}

fn part(data: &dyn Dataset, count: usize) -> Subset<'_> {
    Subset::new(data, (0..count).collect()).unwrap()
}

/// A small LeNet-5 after three epochs, trained once for all tests.
fn baseline() -> Graph {
    static BASELINE: OnceLock<Graph> = OnceLock::new();
    BASELINE
        .get_or_init(|| {
            let options = NetworkOptions { width: 0.5, ..NetworkOptions::default() };
            let mut graph = registry().build_network("lenet5", &options).unwrap();
            let images = part(&digits().train, 1_000);
            let data = TrainData { train: &images, validation: None, augment: None, checkpoint: None };
            let settings = TrainSettings { epochs: 3, ..settings() };
            train(&mut graph, data, &settings, &mut CrossEntropy::default(), &mut [], &Progress::quiet())
                .unwrap();
            graph
        })
        .clone()
}

/// Applies and packs methods, and returns the network before packing, after it, and the bytes of its file.
fn run(methods: &[(&str, Config)]) -> (Graph, Graph, Vec<u8>) {
    let steps = methods.iter().map(|(name, config)| registry().build_method(name, config.clone()).unwrap());
    let chain = Chain::new("chain", steps.collect());
    let (images, validation) = (part(&digits().train, 1_000), part(&digits().validation, 500));
    let mut run = Run::new(&images, &validation, settings(), registry());
    let mut graph = baseline();
    use cnn_core::Compressor;
    chain.apply(&mut graph, &mut run).unwrap();
    let mut packed = graph.clone();
    chain.pack(&mut packed).unwrap();
    let bytes = deploy_bytes(&packed, false).unwrap();
    (graph, packed, bytes)
}

/// Packing and the file must not change what the network says; `tolerance` on the relative logit error of packing.
fn faithful(methods: &[(&str, Config)], tolerance: f32) -> (Graph, usize) {
    let (constrained, packed, bytes) = run(methods);
    let back = from_bytes(&bytes, registry()).unwrap();
    let (images, _) = batch(&digits().validation, &(0..100).collect::<Vec<_>>()).unwrap();
    let logits = packed.infer(&images).unwrap();
    assert_eq!(back.infer(&images).unwrap(), logits, "the file gives other values");
    let error = relative_error(&logits, &constrained.infer(&images).unwrap());
    assert!(error <= tolerance, "packing changes the logits by {error}");
    let right = accuracy(&back, &part(&digits().validation, 500)).unwrap();
    assert!(right > 0.8, "only {right} right");
    (back, bytes.len())
}

fn prune() -> (&'static str, Config) {
    ("prune.weights", json!({ "ratios": { "conv*": 0.5, "fc*": 0.9 }, "rounds": 1, "final_epochs": 1 }))
}

/// Every layer alike, and less.
fn prune_half() -> (&'static str, Config) {
    ("prune.weights", json!({ "ratio": 0.5, "rounds": 1, "final_epochs": 1 }))
}

fn share() -> (&'static str, Config) {
    ("quant.kmeans", json!({ "bits": 5, "epochs": 1 }))
}

#[test]
fn deep_compression() {
    let dense = deploy_bytes(&baseline(), false).unwrap().len();
    let (_, pruned) = faithful(&[prune()], 1e-5);
    let (back, shared) = faithful(&[prune(), share()], 1e-6);
    assert!(dense > 4 * pruned && pruned > 3 * shared, "{dense}, {pruned}, {shared} bytes");
    // weight sharing keeps the pruned zeros
    let cost = back.cost().unwrap();
    assert!(cost.nonzeros * 5 < cost.params, "{cost:?}");
    let kinds: Vec<&str> =
        back.nodes().iter().map(|n| n.layer().kind()).filter(|k| k.contains('.')).collect();
    assert_eq!(
        kinds,
        ["quant.codebook_conv2d", "quant.codebook_conv2d", "quant.codebook_linear", "quant.codebook_linear"]
    );
}

#[test]
fn pruned_zeros_survive_sharing_while_training() {
    let (constrained, _, _) = run(&[prune(), share()]);
    let weight = constrained.layer::<Linear>("fc1").unwrap().unwrap().weight();
    let zeros = weight.len() as u64 - weight.nonzeros();
    assert!(zeros >= weight.len() as u64 * 9 / 10, "{zeros} zeros of {}", weight.len());
    let mut values: Vec<u32> = weight.value().iter().filter(|v| **v != 0.0).map(|v| v.to_bits()).collect();
    values.sort_unstable();
    values.dedup();
    assert!(values.len() < 32, "{} values", values.len());
}

#[test]
fn low_rank_then_prune_then_share() {
    let low_rank = ("lowrank", json!({ "linear_energy": 0.8, "conv_energy": 0.9, "epochs": 1 }));
    let (back, bytes) = faithful(&[low_rank, prune_half(), share()], 1e-6);
    assert!(back.nodes().len() > 9, "{back}");
    assert!(bytes * 10 < 4 * baseline().cost().unwrap().params as usize, "{bytes} bytes");
}

#[test]
fn separable_then_int8() {
    let (separable, int8) = (("light.separable", json!({ "epochs": 2 })), ("quant.int8", json!({})));
    let (constrained, packed, bytes) = run(&[separable, int8]);
    let validation = part(&digits().validation, 500);
    let (before, after) =
        (accuracy(&constrained, &validation).unwrap(), accuracy(&packed, &validation).unwrap());
    assert!(after > before - 0.02, "{before} before, {after} after");
    assert!(bytes.len() * 7 < 2 * 4 * packed.cost().unwrap().params as usize, "{} bytes", bytes.len());
    assert_eq!(packed.cost().unwrap().macs.float, 0);
}

#[test]
fn a_distilled_student_is_pruned() {
    let student = json!({ "student": "lenet_300_100", "width": 0.2, "epochs": 3, "rate": 0.02 });
    let (back, _) = faithful(&[("distill.soft_targets", student), prune_half()], 1e-5);
    assert!(back.cost().unwrap().params < baseline().cost().unwrap().params);
}

#[test]
fn a_constrained_network_is_not_deployed_and_not_factorized() {
    let (constrained, _, _) = run(&[prune()]);
    let error = deploy_bytes(&constrained, false).unwrap_err().to_string();
    assert!(error.contains("prune.mask") && error.contains("pack"), "{error}");
    let mut graph = constrained.clone();
    let images = part(&digits().train, 100);
    let mut lent = Run::new(&images, &images, settings(), registry());
    let error =
        registry().build_method("lowrank", json!({})).unwrap().apply(&mut graph, &mut lent).unwrap_err();
    assert!(error.to_string().contains("constrain"), "{error}");
    assert_eq!(format!("{graph}"), format!("{constrained}"));
}
