//! `quant.qat`: what is packed is what was trained, learned steps are better than rounding, and what cannot be is refused.
#![allow(clippy::unwrap_used)] // helpers of tests

use cnn_core::data::{MemoryDataset, batch};
use cnn_core::layers::{Activation, Add, BatchNorm, Conv2d, ConvOptions, Flatten, Linear};
use cnn_core::model_file::{deploy_bytes, from_bytes, load_checkpoint, save_checkpoint};
use cnn_core::tensor::{tensor, zeros};
use cnn_core::testing::{difference, stripes};
use cnn_core::train::{TrainSettings, evaluate};
use cnn_core::{Compressor, Graph, Registry, Run, Tensor};
use cnn_quant::{Bits, Conv2dI8, LinearI8, QuantizationAwareTraining, StepGradient};
use serde_json::json;

fn registry() -> Registry {
    let mut registry = Registry::core();
    cnn_quant::register(&mut registry);
    registry
}

fn numbers(shape: &[usize], scale: f32) -> Tensor {
    let count = shape.iter().product::<usize>();
    tensor(shape, (0..count).map(|i| scale * ((i * 31 % 97) as f32 - 48.0) / 97.0).collect()).unwrap()
}

/// A residual network whose shortcut and branch read the same values.
fn network() -> Graph {
    let conv = |m, c| Conv2d::new(numbers(&[m, c, 3, 3], 1.0), None, ConvOptions::default().pad(1)).unwrap();
    let mut graph = Graph::new(&[1, 8, 8]);
    graph.push("stem", conv(4, 1)).unwrap();
    graph.push("stem.norm", BatchNorm::new(4)).unwrap();
    graph.push("relu", Activation::relu()).unwrap();
    graph.push("branch", conv(4, 4)).unwrap();
    graph.push("branch.norm", BatchNorm::new(4)).unwrap();
    graph.add("shortcut", conv(4, 4), &["relu"]).unwrap();
    graph.add("sum", Add, &["branch.norm", "shortcut"]).unwrap();
    graph.push("flatten", Flatten).unwrap();
    graph.push("fc", Linear::new(numbers(&[4, 256], 0.2), Some(zeros(&[4]))).unwrap()).unwrap();
    graph
}

fn apply(
    method: &QuantizationAwareTraining,
    graph: &mut Graph,
    data: &MemoryDataset,
) -> cnn_core::Result<()> {
    let settings = TrainSettings { batch: 16, ..TrainSettings::default() };
    method.apply(graph, &mut Run::new(data, data, settings, &registry()))
}

#[test]
fn what_is_packed_is_what_was_trained() {
    let data = stripes(48, [1, 8, 8], 4, 0).unwrap();
    let images = batch(&data, &[0, 1, 2, 3, 4]).unwrap().0;
    for gradient in [StepGradient::Lsq, StepGradient::Pact] {
        let mut graph = network();
        let per_layer = [("branch".to_string(), Bits { weights: 2, activations: 3 })].into();
        let method = QuantizationAwareTraining { epochs: 2, gradient, per_layer, ..Default::default() };
        apply(&method, &mut graph, &data).unwrap();
        let trained = graph.clone();
        method.pack(&mut graph).unwrap();
        // layer by layer: through several, rounding of floats may move a value to the next level
        for name in ["stem", "branch", "shortcut", "fc"] {
            let node = graph.node(name).unwrap();
            let source = graph.nodes()[node.inputs[0]].name.as_str();
            let x = &graph.capture(&[source], &images).unwrap()[0];
            let on_grid = trained.node(&format!("{name}.grid")).unwrap().layer().infer(&[x]).unwrap();
            let wanted = trained.node(name).unwrap().layer().infer(&[&on_grid]).unwrap();
            // biases become multiples of the product of both steps
            let most = if name == "fc" { 1e-3 } else { 1e-5 };
            assert!(difference(&node.layer().infer(&[x]).unwrap(), &wanted) < most, "{name}");
        }
        assert_eq!(graph.cost().unwrap().macs.float, 0);
        assert_eq!(graph.nodes().len(), network().nodes().len(), "no grid is left");
        let bits = |name: &str| {
            let weights = graph.layer::<Conv2dI8>(name).unwrap().unwrap().weights();
            (weights.grids()[0].bits(), weights.input().bits())
        };
        assert_eq!([bits("stem"), bits("branch"), bits("shortcut")], [(8, 8), (2, 3), (4, 4)]);
        let fc = graph.layer::<LinearI8>("fc").unwrap().unwrap().weights();
        assert_eq!((fc.grids()[0].bits(), fc.input().bits()), (8, 8));
        let bytes = deploy_bytes(&graph, false).unwrap();
        let back = from_bytes(&bytes, &registry()).unwrap();
        assert_eq!(back.infer(&images).unwrap(), graph.infer(&images).unwrap());
    }
}

#[test]
fn training_makes_up_for_two_bits() {
    let data = stripes(64, [1, 8, 8], 4, 0).unwrap();
    let loss = |epochs, gradient| {
        let mut graph = network();
        let (weight_bits, activation_bits) = (2, 2);
        let method = QuantizationAwareTraining {
            weight_bits,
            activation_bits,
            epochs,
            gradient,
            ..QuantizationAwareTraining::default()
        };
        apply(&method, &mut graph, &data).unwrap();
        method.pack(&mut graph).unwrap();
        evaluate(&graph, &data).unwrap().loss
    };
    for gradient in [StepGradient::Lsq, StepGradient::Pact] {
        let (before, after) = (loss(0, gradient), loss(20, gradient));
        assert!(after < 0.6 * before, "{gradient:?}: {before} became {after}");
    }
}

#[test]
fn a_checkpoint_keeps_the_learned_steps() {
    let data = stripes(48, [1, 8, 8], 4, 0).unwrap();
    let method = QuantizationAwareTraining { epochs: 2, ..Default::default() };
    let mut graph = network();
    apply(&method, &mut graph, &data).unwrap();
    let path = std::env::temp_dir().join(format!("cnn-qat-{}.checkpoint", std::process::id()));
    save_checkpoint(&graph, &path).unwrap();
    let mut back = load_checkpoint(&path, &registry()).unwrap();
    std::fs::remove_file(&path).unwrap();
    method.pack(&mut graph).unwrap();
    method.pack(&mut back).unwrap();
    assert_eq!(deploy_bytes(&back, true).unwrap(), deploy_bytes(&graph, true).unwrap());
}

#[test]
fn what_cannot_be_is_refused() {
    let registry = registry();
    let build = |config| registry.build_method("quant.qat", config).err().map(|e| e.to_string());
    assert!(
        build(json!({ "weight_bits": 1 }))
            .unwrap()
            .contains("`weight_bits` of `quant.qat` is 1: 2 to 8 bits")
    );
    assert!(build(json!({ "ends": 9 })).unwrap().contains("`ends`"));
    assert!(build(json!({ "calibration": 0 })).unwrap().contains("calibration"));
    assert!(build(json!({ "rate": -1.0 })).unwrap().contains("rate"));
    assert!(
        build(json!({ "per_layer": { "a": { "weights": 4, "activations": 0 } } }))
            .unwrap()
            .contains("per_layer.a")
    );
    assert!(build(json!({ "gradient": "sgd" })).is_some());

    let data = stripes(16, [1, 8, 8], 4, 0).unwrap();
    let per_layer = [("nothing*".to_string(), Bits { weights: 4, activations: 4 })].into();
    let unknown = QuantizationAwareTraining { per_layer, ..Default::default() };
    let mut graph = network();
    assert!(apply(&unknown, &mut graph, &data).is_err());
    assert_eq!(graph.infer(&zeros(&[1, 1, 8, 8])).unwrap(), network().infer(&zeros(&[1, 1, 8, 8])).unwrap());
    let once = QuantizationAwareTraining { epochs: 0, ..Default::default() };
    apply(&once, &mut graph, &data).unwrap();
    assert!(apply(&once, &mut graph, &data).unwrap_err().to_string().contains("already carries"));
}
