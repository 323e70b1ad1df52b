//! Edits and channel surgery.
#![allow(clippy::unwrap_used)] // also in the helpers of tests

use cnn_core::graph::Fixed;
use cnn_core::layers::*;
use cnn_core::testing::difference;
use cnn_core::testing::lenet5;
use cnn_core::{Error, Graph, Tensor};
use proptest::prelude::*;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

fn random(rng: &mut ChaCha8Rng, shape: &[usize]) -> Tensor {
    Tensor::from_shape_fn(shape, |_| rng.random_range(-1.0..1.0))
}

fn conv(rng: &mut ChaCha8Rng, c: usize, m: usize, k: usize, groups: usize) -> Conv2d {
    let options = ConvOptions::default().pad(k / 2).groups(groups);
    Conv2d::new(random(rng, &[m, c / groups, k, k]), Some(random(rng, &[m])), options).unwrap()
}

fn norm(rng: &mut ChaCha8Rng, c: usize) -> BatchNorm {
    let mut draw = || (0..c).map(|_| rng.random_range(0.5..1.5)).collect::<Vec<f32>>();
    BatchNorm::trained(draw(), draw(), draw(), draw(), 1e-5).unwrap()
}

/// Residual addition, depthwise, groups, shuffle, concat, padded shortcut, squeeze-and-excitation, flatten, linear.
fn everything(seed: u64) -> Graph {
    let rng = &mut ChaCha8Rng::seed_from_u64(seed);
    let mut g = Graph::new(&[3, 6, 6]);
    g.push("stem", conv(rng, 3, 8, 3, 1)).unwrap();
    g.push("bn", norm(rng, 8)).unwrap();
    g.push("relu", Activation::relu()).unwrap();
    g.push("inner", conv(rng, 8, 8, 3, 1)).unwrap();
    g.add("residual", Add, &["inner", "relu"]).unwrap();
    g.push("depthwise", conv(rng, 8, 8, 3, 8)).unwrap();
    g.push("grouped", conv(rng, 8, 12, 1, 2)).unwrap();
    g.push("shuffle", ChannelMap::shuffle(12, 3).unwrap()).unwrap();
    g.push("after", conv(rng, 12, 6, 1, 1)).unwrap();
    g.add("short", ChannelMap::pad(8, 1, 1).unwrap(), &["residual"]).unwrap();
    g.add("cat", Concat, &["after", "short"]).unwrap();
    g.push("squeeze", GlobalAvgPool).unwrap();
    g.push("excite", conv(rng, 16, 16, 1, 1)).unwrap();
    g.push("gate", Activation { function: ActivationFn::Sigmoid }).unwrap();
    g.add("scaled", Mul, &["cat", "gate"]).unwrap();
    g.push("pool", MaxPool2d { window: Window::square(2) }).unwrap();
    g.push("flatten", Flatten).unwrap();
    g.push("fc", Linear::new(random(rng, &[4, 16 * 9]), Some(random(rng, &[4]))).unwrap()).unwrap();
    g
}

/// The network with the removed channels of one convolution forced to zero right behind it, by zero filters.
fn zero_filters(graph: &mut Graph, name: &str, keep: &[usize]) {
    let layer = graph.layer_mut::<Conv2d>(name).unwrap().unwrap();
    let mut w = layer.weight().base().clone();
    let mut b = layer.bias().unwrap().base().clone();
    for m in (0..layer.filters()).filter(|m| !keep.contains(m)) {
        w.index_axis_mut(ndarray::Axis(0), m).fill(0.0);
        b[m] = 0.0;
    }
    layer.weight_mut().set_base(w);
    layer.bias_mut().unwrap().set_base(b);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Nothing but zeros flows out of a convolution that feeds another directly, so the thinned network must agree.
    #[test]
    fn thinned_is_masked(seed: u64, mask in prop::collection::vec(any::<bool>(), 6)) {
        let keep: Vec<usize> = (0..6).filter(|&c| mask[c]).collect();
        prop_assume!(!keep.is_empty());
        let mut thin = everything(seed);
        // let the gate be open whatever comes in, so that removed channels stay zero up to the linear layer
        thin.replace("gate", Box::new(Activation::relu())).unwrap();
        let mut masked = thin.clone();
        zero_filters(&mut masked, "after", &keep);
        let excite = masked.layer::<Conv2d>("excite").unwrap().unwrap().clone();
        thin.keep_channels("after", &keep).unwrap();
        let x = random(&mut ChaCha8Rng::seed_from_u64(!seed), &[2, 3, 6, 6]);
        prop_assert_eq!(excite.filters(), 16);
        prop_assert!(difference(&thin.infer(&x).unwrap(), &masked.infer(&x).unwrap()) < 1e-5);
        prop_assert_eq!(thin.layer::<Linear>("fc").unwrap().unwrap().inputs(), 9 * (keep.len() + 10));
    }

    /// The residual stream of eight channels runs through everything; groups of four must lose the same number each.
    #[test]
    fn surgery_runs_through_everything(seed: u64, a in 0usize..4, b in 4usize..8) {
        let mut graph = everything(seed);
        let keep: Vec<usize> = (0..8).filter(|&c| c != a && c != b).collect();
        graph.keep_channels("stem", &keep).unwrap();
        let shapes = graph.shapes(1).unwrap();
        let channels = |name: &str| shapes[graph.find(name).unwrap()][1];
        prop_assert_eq!(["bn", "inner", "residual", "depthwise"].map(channels), [6; 4]);
        prop_assert_eq!(channels("short"), 8);
        prop_assert_eq!(channels("cat"), 14);
        prop_assert_eq!(graph.layer::<Conv2d>("depthwise").unwrap().unwrap().options.groups, 6);
        let x = random(&mut ChaCha8Rng::seed_from_u64(seed), &[1, 3, 6, 6]);
        prop_assert!(graph.infer(&x).unwrap().iter().all(|v| v.is_finite()));
    }
}

#[test]
fn tied_channels_are_named() {
    let tied = everything(0).tied_channels("inner").unwrap();
    assert!(
        ["stem", "bn", "residual", "depthwise", "short"].iter().all(|n| tied.iter().any(|t| t == n)),
        "{tied:?}"
    );
    assert!(!tied.iter().any(|t| t == "grouped" || t == "input"), "{tied:?}");
}

/// An edit that fails must leave the graph as it was.
fn refused(graph: &mut Graph, edit: impl FnOnce(&mut Graph) -> cnn_core::Result<()>, says: &str) {
    let before = (format!("{graph}"), graph.nodes().len());
    let x = Tensor::ones([&[1], graph.input_shape()].concat());
    let y = graph.infer(&x).unwrap();
    let message = edit(graph).unwrap_err().to_string();
    assert!(message.contains(says), "{message}");
    assert_eq!(before, (format!("{graph}"), graph.nodes().len()));
    assert_eq!(y, graph.infer(&x).unwrap());
}

#[test]
fn impossible_surgery_is_refused() {
    let mut g = everything(1);
    refused(&mut g, |g| g.keep_channels("nowhere", &[0]), "nowhere");
    refused(&mut g, |g| g.keep_channels("stem", &[]), "all its channels");
    refused(&mut g, |g| g.keep_channels("stem", &[8]), "out of range");
    refused(&mut g, |g| g.keep_channels("stem", &[1, 1]), "twice");
    refused(&mut g, |g| g.keep_channels("fc", &[0, 1]), "output");
    refused(&mut g, |g| g.keep_channels("input", &[0, 1]), "input");
    refused(&mut g, |g| g.keep_channels("stem", &[0, 1, 2, 3, 4, 5, 6]), "grouped");
    g.push("softmax", Softmax).unwrap();
    g.push("head", Linear::new(Tensor::ones(vec![2, 4]), None).unwrap()).unwrap();
    refused(&mut g, |g| g.keep_channels("fc", &[0, 1]), "softmax");
}

#[test]
fn edits_keep_the_wiring() {
    let mut g = everything(2);
    let x = Tensor::from_shape_fn(vec![2, 3, 6, 6], |i| (i[1] + i[2] * 2 + i[3]) as f32 * 0.1);
    let y = g.infer(&x).unwrap();
    // a chain of identities in the place of a node that is read twice, and after one
    g.insert_after("relu", "same", Box::new(Identity)).unwrap();
    let relu = || -> Box<dyn cnn_core::Layer> { Box::new(Activation::relu()) };
    g.splice("same", vec![("s1".into(), Box::new(Identity)), ("same".into(), relu()), ("s2".into(), relu())])
        .unwrap();
    assert_eq!(g.infer(&x).unwrap(), y);
    assert_eq!(
        g.nodes()[g.find("residual").unwrap()].inputs,
        [g.find("inner").unwrap(), g.find("s2").unwrap()]
    );
    for name in ["s1", "same", "s2"] {
        g.remove(name).unwrap();
    }
    assert_eq!(g.infer(&x).unwrap(), y);
    assert_eq!(format!("{g}"), format!("{}", everything(2)));
    // after the output, the new node is the output
    g.insert_after("fc", "probabilities", Box::new(Softmax)).unwrap();
    assert_eq!(g.nodes()[g.output()].name, "probabilities");
    g.remove("probabilities").unwrap();
    assert_eq!(g.infer(&x).unwrap(), y);
}

#[test]
fn impossible_edits_are_refused() {
    let mut g = lenet5(0).unwrap();
    refused(&mut g, |g| g.replace("fc1", Box::new(Flatten)), "fc2");
    refused(&mut g, |g| g.replace("nowhere", Box::new(Flatten)), "conv1, pool1");
    refused(&mut g, |g| g.remove("pool2"), "fc1");
    refused(&mut g, |g| g.remove("input"), "input");
    refused(&mut g, |g| g.splice("conv1", vec![]), "remove");
    refused(&mut g, |g| g.splice("relu1", vec![("fc2".into(), Box::new(Identity))]), "fc2");
    refused(&mut g, |g| g.insert_after("conv1", "pool1", Box::new(Identity)), "pool1");
    refused(&mut g, |g| g.insert_after("conv1", "x", Box::new(GlobalAvgPool)), "x");
    refused(&mut g, |g| g.push("conv1", Identity), "conv1");
    refused(&mut g, |g| g.add("sum", Add, &["conv1", "fc1"]), "sum");
    let error = g.infer(&Tensor::ones(vec![1, 3, 28, 28])).unwrap_err();
    assert!(matches!(error, Error::Shape(_)) && error.to_string().contains("1, 28, 28"), "{error}");
    assert!(g.infer(&Tensor::ones(vec![0, 1, 28, 28])).is_err());
}

#[test]
fn the_table_has_a_row_for_each_node() {
    let table = format!("{}", lenet5(0).unwrap());
    assert_eq!(table.lines().count(), 1 + 9 + 1);
    let total = table.lines().last().unwrap();
    assert!(total.contains("431080") && total.contains("2293000"), "{total}");
    println!("{table}");
}

#[test]
fn capture_returns_inner_activations() {
    let g = lenet5(0).unwrap();
    let x = Tensor::ones(vec![2, 1, 28, 28]);
    let inner = g.capture(&["fc1", "conv1", "fc2", "input"], &x).unwrap();
    assert_eq!(
        inner.iter().map(|t| t.shape().to_vec()).collect::<Vec<_>>(),
        [vec![2, 500], vec![2, 20, 24, 24], vec![2, 10], vec![2, 1, 28, 28]]
    );
    assert_eq!(inner[2], g.infer(&x).unwrap());
}

#[test]
fn a_graph_from_all_its_nodes() {
    use cnn_core::layers::{Add, Flatten};
    use cnn_core::{Error, Graph, Layer};
    let node =
        |name: &str, layer: Box<dyn Layer>, inputs: &[usize]| (name.to_string(), layer, inputs.to_vec());
    let nodes = vec![node("a", Box::new(Flatten), &[0]), node("b", Box::new(Add), &[1, 1])];
    let graph = Graph::from_nodes(&[2, 3, 3], nodes).unwrap();
    assert_eq!((graph.output(), graph.shapes(4).unwrap()[2].as_slice()), (2, [4, 18].as_slice()));
    let twice = vec![node("a", Box::new(Flatten), &[0]), node("a", Box::new(Flatten), &[1])];
    assert!(matches!(Graph::from_nodes(&[2], twice), Err(Error::DuplicateNode(_))));
    assert!(Graph::from_nodes(&[2], vec![node("input", Box::new(Flatten), &[0])]).is_err());
    assert!(Graph::from_nodes(&[2], vec![node("a", Box::new(Flatten), &[1])]).is_err(), "it reads itself");
    assert!(Graph::from_nodes(&[2], vec![node("a", Box::new(Flatten), &[7])]).is_err());
}

#[test]
fn classes_partition_all_channels() {
    let graph = everything(3);
    let classes = graph.channel_classes().unwrap();
    let mut all: Vec<(usize, usize)> = classes.iter().flat_map(|c| c.members.clone()).collect();
    let count = all.len();
    all.sort_unstable();
    all.dedup();
    let channels: usize = graph.shapes(1).unwrap().iter().map(|s| s[1]).sum();
    assert_eq!((all.len(), count), (channels, channels));
    let at = |name: &str| graph.find(name).unwrap();
    let class = |member| classes.iter().find(|c| c.members.contains(&member)).unwrap();
    assert_eq!(class((0, 1)).fixed, Some(Fixed::Input));
    assert_eq!(class((at("fc"), 3)).fixed, Some(Fixed::Output));
    let stem = class((at("stem"), 5));
    assert_eq!(stem.fixed, None);
    // the padded shortcut puts one channel before it, the concat six; each becomes nine features
    for tied in [(at("inner"), 5), (at("residual"), 5), (at("cat"), 12), (at("flatten"), 12 * 9 + 8)] {
        assert!(stem.members.contains(&tied), "{tied:?} {stem:?}");
    }
}

#[test]
fn channels_of_several_nodes_go_in_one_edit() {
    let mut graph = everything(3);
    let at = |g: &Graph, name: &str| g.find(name).unwrap();
    let (after, cat) = (at(&graph, "after"), at(&graph, "cat"));
    graph.remove_channels(&[(after, 0), (after, 5), (cat, 3)]).unwrap();
    let shapes = graph.shapes(1).unwrap();
    assert_eq!((shapes[after][1], shapes[cat][1]), (3, 13));
    refused(&mut graph, |g| g.remove_channels(&[(after, 3)]), "no channel 3");
    refused(&mut graph, |g| g.remove_channels(&[(99, 0)]), "no channel 0 of node 99");
    refused(&mut graph, |g| g.remove_channels(&[(after, 0), (after, 1), (after, 2)]), "all its channels");
}

#[test]
fn an_opaque_layer_fixes_what_it_reads() {
    let mut graph = everything(4);
    graph.push("softmax", Softmax).unwrap();
    graph.push("head", Linear::new(Tensor::ones(vec![2, 4]), None).unwrap()).unwrap();
    let (fc, softmax) = (graph.find("fc").unwrap(), graph.find("softmax").unwrap());
    let classes = graph.channel_classes().unwrap();
    let class = classes.iter().find(|c| c.members.contains(&(fc, 0))).unwrap();
    assert_eq!(class.fixed, Some(Fixed::Opaque(softmax)));
}

#[test]
fn a_branch_is_bypassed_with_all_that_only_it_needs() {
    let mut graph = everything(5);
    let x = random(&mut ChaCha8Rng::seed_from_u64(1), &[2, 3, 6, 6]);
    let mut zero = graph.clone();
    let all: Vec<usize> = Vec::new();
    zero_filters(&mut zero, "inner", &all);
    graph.bypass("residual", 1).unwrap();
    assert!(graph.find("inner").is_err() && graph.find("residual").is_err());
    assert!(difference(&graph.infer(&x).unwrap(), &zero.infer(&x).unwrap()) < 1e-6);
    refused(&mut graph, |g| g.bypass("cat", 2), "no input 2");
    // the other way the shapes do not fit
    refused(&mut graph, |g| g.bypass("cat", 0), "excite");
}
