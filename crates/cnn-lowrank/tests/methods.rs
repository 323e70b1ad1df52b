//! The methods on whole networks, through the core's public types.
#![allow(clippy::unwrap_used)] // helpers of tests, too

use cnn_core::init::Init;
use cnn_core::layers::{Activation, Add, Conv2d, ConvOptions, Flatten, GlobalAvgPool, Linear};
use cnn_core::model_file::{Encoder, deploy_bytes, from_bytes};
use cnn_core::tensor::{tensor, zeros};
use cnn_core::testing::{difference, lenet5, stripes};
use cnn_core::train::TrainSettings;
use cnn_core::{Compressor, Constraint, Error, Graph, Registry, Run, Tensor};
use cnn_lowrank::{LowRank, LowRankError, Outcome, Svd, Tucker2, tucker2_macs};
use proptest::prelude::*;
use serde_json::json;

fn registry() -> Registry {
    let mut registry = Registry::core();
    cnn_lowrank::register(&mut registry);
    registry
}

fn noise(shape: &[usize], seed: u64) -> Tensor {
    Init::new(seed).normal(shape, 1.0).unwrap()
}

/// A matrix `[m, n]` of rank `r`.
fn matrix_of_rank(r: usize, [m, n]: [usize; 2], seed: u64) -> Tensor {
    let (a, b) = (noise(&[m, r], seed), noise(&[r, n], seed + 1));
    let at = |i: usize| (0..r).map(|k| a[[i / n, k]] * b[[k, i % n]]).sum();
    tensor(&[m, n], (0..m * n).map(at).collect()).unwrap()
}

/// A kernel `[m, c, kh, kw]` of Tucker-2 ranks `[r3, r4]`.
fn kernel_of_ranks([r3, r4]: [usize; 2], [m, c, kh, kw]: [usize; 4], seed: u64) -> Tensor {
    let (u3, u4, core) =
        (noise(&[c, r3], seed), noise(&[m, r4], seed + 1), noise(&[r4, r3, kh, kw], seed + 2));
    let mut values = Vec::new();
    for i in 0..m * c * kh * kw {
        let [o, n, y, x] = [i / (c * kh * kw), i / (kh * kw) % c, i / kw % kh, i % kw];
        let mut sum = 0.0;
        for b in 0..r4 {
            for a in 0..r3 {
                sum += u4[[o, b]] * core[[b, a, y, x]] * u3[[n, a]];
            }
        }
        values.push(sum);
    }
    tensor(&[m, c, kh, kw], values).unwrap()
}

fn method_error(error: Error) -> LowRankError {
    match error {
        Error::Method(inner) => inner.downcast_ref::<LowRankError>().unwrap().clone(),
        other => panic!("not an error of the method: {other}"),
    }
}

/// Values times a half, as a constraint that has to be respected.
#[derive(Debug, Clone)]
struct Halved;

impl Constraint for Halved {
    fn kind(&self) -> &'static str {
        "test.halved"
    }
    fn materialize(&self, w: &mut Tensor) {
        w.mapv_inplace(|v| v / 2.0);
    }
    fn pull_back(&mut self, _input: &Tensor, grad: &mut Tensor) {
        grad.mapv_inplace(|v| v / 2.0);
    }
    fn select(&mut self, _axis: usize, _keep: &[usize]) -> cnn_core::Result<()> {
        Ok(())
    }
    fn encode(&self, _out: &mut Encoder) -> cnn_core::Result<()> {
        Ok(())
    }
    fn clone_box(&self) -> Box<dyn Constraint> {
        Box::new(self.clone())
    }
}

#[test]
fn a_matrix_of_low_rank_is_reproduced() {
    let bias = noise(&[30], 3);
    let mut graph = Graph::new(&[40]);
    graph.push("fc", Linear::new(matrix_of_rank(7, [30, 40], 1), Some(bias)).unwrap()).unwrap();
    graph.push("relu", Activation::relu()).unwrap();
    let x = noise(&[5, 40], 9);
    let expected = graph.infer(&x).unwrap();
    let report = Svd { energy: 1.0, ..Svd::default() }.factorize(&mut graph).unwrap();
    let layer = report.layer("fc").unwrap();
    assert_eq!((layer.ranks[0], layer.full[0], layer.weights), (7, 30, [1200, 490]));
    assert_eq!(layer.outcome, Outcome::Replaced(vec!["fc.u".into(), "fc.v".into()]));
    assert!(difference(&graph.infer(&x).unwrap(), &expected) < 1e-5);
    let names: Vec<&str> = graph.nodes().iter().map(|n| n.name.as_str()).collect();
    assert_eq!(names, ["input", "fc.u", "fc.v", "relu"]);
    assert_eq!(graph.cost().unwrap().params, 490 + 30);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    /// Any geometry: same shape, same values, and the graph's cost is the formula of SPEC eq. 5.
    #[test]
    fn a_kernel_of_low_rank_is_reproduced(
        ranks in (1usize..4, 1usize..4), kernel in (1usize..4, 2usize..4), stride in (1usize..3, 1usize..3),
        pad in (0usize..3, 0usize..3, 0usize..3, 0usize..3), dilation in (1usize..3, 1usize..3),
        with_bias: bool, seed in 0u64..1000,
    ) {
        let (m, c) = (14, 12);
        let options = ConvOptions {
            stride: stride.into(), pad: [pad.0, pad.1, pad.2, pad.3], dilation: dilation.into(), groups: 1,
        };
        let weight = kernel_of_ranks(ranks.into(), [m, c, kernel.0, kernel.1], seed);
        let conv = Conv2d::new(weight, with_bias.then(|| noise(&[m], seed + 5)), options).unwrap();
        let geometry = conv.geometry(&[1, c, 9, 8]).unwrap();
        let mut graph = Graph::new(&[c, 9, 8]);
        graph.push("conv", conv).unwrap();
        let x = noise(&[2, c, 9, 8], seed + 6);
        let (expected, before) = (graph.infer(&x).unwrap(), graph.cost().unwrap());
        let report = Tucker2 { energy: 1.0, ..Tucker2::default() }.factorize(&mut graph).unwrap();
        let layer = report.layer("conv").unwrap();
        // a mode may need less than it was made of, when the other one cannot carry more
        prop_assert!(layer.ranks[0] <= ranks.0 && layer.ranks[1] <= ranks.1, "{:?}", layer);
        prop_assert!(layer.energy > 1.0 - 1e-6);
        let after = graph.infer(&x).unwrap();
        prop_assert!(difference(&after, &expected) < 1e-5, "{}", difference(&after, &expected));
        let formula = tucker2_macs(&geometry, [layer.ranks[0], layer.ranks[1]]);
        prop_assert_eq!(layer.macs, [before.macs.total(), formula]);
        match report.replaced() {
            1 => prop_assert_eq!(graph.cost().unwrap().macs.total(), formula),
            _ => prop_assert!(formula >= before.macs.total() || layer.weights[1] >= layer.weights[0]),
        }
    }
}

#[test]
fn reports_say_what_is_left_and_why() {
    let mut graph = Graph::new(&[8, 6, 6]);
    let conv = |m, c, k, groups, seed| {
        let options = ConvOptions::default().groups(groups);
        Conv2d::new(noise(&[m, c / groups, k, k], seed), None, options).unwrap()
    };
    graph.push("window", conv(8, 8, 3, 1, 1)).unwrap();
    graph.push("depthwise", conv(8, 8, 3, 8, 2)).unwrap();
    graph.push("pointwise", conv(8, 8, 1, 1, 3)).unwrap();
    graph.push("pool", GlobalAvgPool).unwrap();
    graph.push("flatten", Flatten).unwrap();
    graph.push("fc", Linear::new(noise(&[5, 8], 4), None).unwrap()).unwrap();
    let before = deploy_bytes(&graph, true).unwrap();
    // random weights at 99 % of the energy have nearly full rank
    let report = LowRank { linear_energy: 0.99, conv_energy: 0.99, ..LowRank::default() }
        .factorize(&mut graph)
        .unwrap();
    assert_eq!(report.replaced(), 0);
    assert_eq!(deploy_bytes(&graph, true).unwrap(), before);
    let outcome = |name: &str| report.layer(name).unwrap().outcome.clone();
    assert_eq!([outcome("window"), outcome("fc")], [Outcome::NoGain, Outcome::NoGain]);
    assert!(matches!(outcome("depthwise"), Outcome::Unsuited(why) if why.contains("grouped")));
    assert!(matches!(outcome("pointwise"), Outcome::Unsuited(why) if why.contains("matrix")));
    let text = report.to_string();
    assert_eq!(text.lines().count(), 4);
    assert!(text.contains("fc: left, factors would not be smaller; rank ["), "{text}");
}

#[test]
fn several_readers_read_the_end_of_the_chain() {
    let mut graph = Graph::new(&[12, 6, 6]);
    let options = ConvOptions::default().pad(1);
    graph
        .push("conv", Conv2d::new(kernel_of_ranks([2, 3], [12, 12, 3, 3], 4), None, options).unwrap())
        .unwrap();
    graph.push("relu", Activation::relu()).unwrap();
    graph.add("sum", Add, &["conv", "relu"]).unwrap();
    let x = noise(&[2, 12, 6, 6], 5);
    let expected = graph.infer(&x).unwrap();
    let report = Tucker2 { energy: 1.0, ..Tucker2::default() }.factorize(&mut graph).unwrap();
    assert_eq!(report.layers[0].ranks, [2, 3]);
    assert!(difference(&graph.infer(&x).unwrap(), &expected) < 1e-5);
    let sum = graph.node("sum").unwrap();
    assert_eq!(sum.inputs, [graph.find("conv.out").unwrap(), graph.find("relu").unwrap()]);
}

#[test]
fn constrained_layers_are_refused_and_the_graph_stays() {
    let mut graph = lenet5(1).unwrap();
    for name in ["fc2", "conv2"] {
        let at = graph.find(name).unwrap();
        let layer = graph.layer_at_mut(at);
        layer.trainable().unwrap().params_mut()[0].constrain(Box::new(Halved));
    }
    let x = noise(&[2, 1, 28, 28], 1);
    let expected = graph.infer(&x).unwrap();
    let error = method_error(Svd { energy: 0.5, ..Svd::default() }.factorize(&mut graph).unwrap_err());
    assert_eq!(error, LowRankError::Constrained { node: "fc2".into(), constraint: "test.halved".into() });
    assert!(error.to_string().contains("apply low rank first"), "{error}");
    let error =
        method_error(Tucker2 { energy: 0.5, ..Tucker2::default() }.factorize(&mut graph).unwrap_err());
    assert_eq!(error, LowRankError::Constrained { node: "conv2".into(), constraint: "test.halved".into() });
    assert_eq!(graph.nodes().len(), lenet5(1).unwrap().nodes().len());
    assert_eq!(graph.infer(&x).unwrap(), expected);
    // left out, they do no harm
    let layers = serde_json::from_value(json!({ "skip": ["fc2", "conv2"] })).unwrap();
    let report = LowRank { layers, linear_energy: 0.4, ..LowRank::default() }.factorize(&mut graph).unwrap();
    assert!(report.layer("fc2").is_none() && report.layer("fc1").is_some());
}

#[test]
fn weights_that_are_not_numbers_are_refused() {
    for bad in [f32::NAN, f32::INFINITY] {
        let mut w = noise(&[6, 8], 1);
        w[[2, 3]] = bad;
        let mut graph = Graph::new(&[8]);
        graph.push("fc", Linear::new(w, None).unwrap()).unwrap();
        let error = method_error(Svd::default().factorize(&mut graph).unwrap_err());
        assert_eq!(error, LowRankError::NotFinite { node: "fc".into() });
    }
}

#[test]
fn bad_configurations_are_refused() {
    let registry = registry();
    for (method, config) in [
        ("lowrank.svd", json!({ "energy": 0.0 })),
        ("lowrank.svd", json!({ "energy": 1.5 })),
        ("lowrank.svd", json!({ "rank": 0 })),
        ("lowrank.svd", json!({ "rank": 4, "rank_ratio": 0.5 })),
        ("lowrank.svd", json!({ "rank_ratio": -0.5 })),
        ("lowrank.svd", json!({ "rate": -0.1 })),
        ("lowrank.svd", json!({ "energie": 0.9 })),
        ("lowrank.tucker2", json!({ "energy": -1.0 })),
        ("lowrank.tucker2", json!({ "ranks": [3, 0] })),
        ("lowrank.tucker2", json!({ "rank_ratios": [0.5, 1.5] })),
        ("lowrank.tucker2", json!({ "ranks": [3, 3], "rank_ratios": [0.5, 0.5] })),
        ("lowrank.tucker2", json!({ "sweeps": 101 })),
        ("lowrank", json!({ "linear_energy": 2.0 })),
        ("lowrank", json!({ "conv_energy": 0.0 })),
    ] {
        let error = registry.build_method(method, config.clone()).unwrap_err().to_string();
        let key = config.as_object().unwrap().keys().next().unwrap().clone();
        assert!(error.contains(&key) || error.contains("both given"), "{method} {config}: {error}");
    }
    // set in code, they are found by `check`
    assert_eq!(
        Svd { rate: Some(f32::NAN), ..Svd::default() }.check().map_err(|e| e.to_string()).unwrap_err(),
        "`rate` is NaN: a learning rate is finite and above 0"
    );
    assert!(Svd { energy: f64::NAN, ..Svd::default() }.plan(&lenet5(0).unwrap()).is_err());
    assert!(LowRank { conv_energy: f64::NAN, ..LowRank::default() }.check().is_err());
}

#[test]
fn misspelt_and_unsuitable_layers_are_refused() {
    let mut graph = lenet5(0).unwrap();
    let only = |names: &[&str]| serde_json::from_value(json!({ "only": names })).unwrap();
    let error = Svd { layers: only(&["fc9"]), ..Svd::default() }.factorize(&mut graph).unwrap_err();
    assert!(matches!(error, Error::UnknownNode { .. }), "{error}");
    let error =
        method_error(Svd { layers: only(&["conv*"]), ..Svd::default() }.factorize(&mut graph).unwrap_err());
    assert_eq!(error, LowRankError::NoLayer { wanted: "a linear layer" });
}

#[test]
fn methods_keep_their_configuration() {
    let registry = registry();
    for name in ["lowrank", "lowrank.svd", "lowrank.tucker2"] {
        let method = registry.build_method(name, serde_json::Value::Null).unwrap();
        assert_eq!(method.name(), name);
        let again = registry.build_method(name, method.config()).unwrap();
        assert_eq!(again.config(), method.config());
    }
}

/// Two convolutions and two linear layers, on stripes in three directions.
fn small(seed: u64) -> Graph {
    let mut init = Init::new(seed);
    let mut graph = Graph::new(&[1, 10, 10]);
    let pad = ConvOptions::default().pad(1);
    graph
        .push("conv1", Conv2d::new(init.he(&[12, 1, 3, 3]).unwrap(), Some(zeros(&[12])), pad).unwrap())
        .unwrap();
    graph.push("relu1", Activation::relu()).unwrap();
    let down = ConvOptions::default().pad(1).stride(2);
    graph
        .push("conv2", Conv2d::new(init.he(&[16, 12, 3, 3]).unwrap(), Some(zeros(&[16])), down).unwrap())
        .unwrap();
    graph.push("relu2", Activation::relu()).unwrap();
    graph.push("pool", GlobalAvgPool).unwrap();
    graph.push("flatten", Flatten).unwrap();
    graph.push("fc1", Linear::new(init.he(&[24, 16]).unwrap(), Some(zeros(&[24]))).unwrap()).unwrap();
    graph.push("relu3", Activation::relu()).unwrap();
    graph.push("fc2", Linear::new(init.glorot(&[4, 24]).unwrap(), Some(zeros(&[4]))).unwrap()).unwrap();
    graph
}

#[test]
fn fine_tuning_recovers_what_truncation_lost() {
    let (train, validation) =
        (stripes(200, [1, 10, 10], 4, 1).unwrap(), stripes(100, [1, 10, 10], 4, 2).unwrap());
    let registry = registry();
    let settings = TrainSettings { epochs: 12, batch: 20, ..TrainSettings::default() };
    let mut run = Run::new(&train, &validation, settings.clone(), &registry);
    let mut graph = small(3);
    run.fine_tune(&mut graph, &settings).unwrap();
    let original = run.accuracy(&graph).unwrap();
    let before = graph.cost().unwrap();

    let method = LowRank { linear_energy: 0.6, conv_energy: 0.5, epochs: Some(8), ..LowRank::default() };
    let mut cut = graph.clone();
    let report = method.factorize(&mut cut).unwrap();
    let truncated = run.accuracy(&cut).unwrap();
    assert!(report.replaced() >= 2, "{report}");
    method.apply(&mut graph, &mut run).unwrap();
    let recovered = run.accuracy(&graph).unwrap();
    assert!(truncated < original - 0.1, "{original} {truncated}");
    assert!(recovered > truncated + 0.1 && recovered > 0.9, "{original} {truncated} {recovered}");

    // the file is smaller and says the same
    let cost = graph.cost().unwrap();
    assert!(cost.params < before.params && cost.macs.total() < before.macs.total());
    method.pack(&mut graph).unwrap();
    let bytes = deploy_bytes(&graph, false).unwrap();
    assert!(bytes.len() < deploy_bytes(&small(3), false).unwrap().len());
    let x = noise(&[3, 1, 10, 10], 8);
    assert_eq!(from_bytes(&bytes, &registry).unwrap().infer(&x).unwrap(), graph.infer(&x).unwrap());
}

#[test]
fn a_failed_training_leaves_the_graph() {
    let data = stripes(20, [1, 10, 10], 4, 1).unwrap();
    let empty = stripes(0, [1, 10, 10], 4, 1).unwrap();
    let registry = registry();
    let mut run = Run::new(&empty, &data, TrainSettings::default(), &registry);
    let mut graph = small(3);
    let before = deploy_bytes(&graph, true).unwrap();
    assert!(LowRank { conv_energy: 0.5, ..LowRank::default() }.apply(&mut graph, &mut run).is_err());
    assert_eq!(deploy_bytes(&graph, true).unwrap(), before);
    // without training there is no need for images
    LowRank { conv_energy: 0.5, epochs: Some(0), ..LowRank::default() }.apply(&mut graph, &mut run).unwrap();
    assert_ne!(deploy_bytes(&graph, true).unwrap(), before);
}

#[test]
fn the_same_bits_whatever_the_number_of_threads() {
    let data = stripes(40, [1, 10, 10], 4, 1).unwrap();
    let registry = registry();
    let bytes = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let settings = TrainSettings { epochs: 2, batch: 20, ..TrainSettings::default() };
            let mut run = Run::new(&data, &data, settings, &registry);
            let mut graph = small(3);
            LowRank { conv_energy: 0.5, linear_energy: 0.5, ..LowRank::default() }
                .apply(&mut graph, &mut run)
                .unwrap();
            deploy_bytes(&graph, true).unwrap()
        })
    };
    assert_eq!(bytes(1), bytes(3));
}
