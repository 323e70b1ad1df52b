//! Channels and branches: what goes, what holds before anything is trained, budgets, bad input.
#![allow(clippy::unwrap_used)] // helpers of tests are tests

mod common;

use cnn_core::init::Init;
use cnn_core::layers::*;
use cnn_core::tensor::{relative_error, zeros};
use cnn_core::train::{Optimizer, TrainSettings};
use cnn_core::{Compressor, Error, Graph, Run, Selection, Tensor, model_file};
use cnn_prune::{
    Branches, Budget, Channels, Criterion, Lasso, Penalty, PruneError, Scope, SparseTraining, certify,
    channel_groups, channel_scores,
};
use common::{data, registry, settings};
use std::collections::BTreeMap;

/// A residual network with normalization, depthwise and grouped convolutions, a shuffle and a concatenation, for images of 1 x 10 x 10.
fn network() -> Graph {
    let mut init = Init::new(5);
    let mut g = Graph::new(&[1, 10, 10]);
    let mut conv = |c: usize, m: usize, k: usize, groups: usize| {
        let options = ConvOptions::default().pad(k / 2).groups(groups);
        Conv2d::new(init.glorot(&[m, c / groups, k, k]).unwrap(), None, options).unwrap()
    };
    g.push("stem", conv(1, 8, 3, 1)).unwrap();
    g.push("norm0", BatchNorm::new(8)).unwrap();
    g.push("relu0", Activation::relu()).unwrap();
    for (i, from) in [(1, "relu0"), (2, "relu1")] {
        let name = |what: &str| format!("{what}{i}");
        g.add(&name("inner"), conv(8, 12, 3, 1), &[from]).unwrap();
        g.push(&name("inner_norm"), BatchNorm::new(12)).unwrap();
        g.push(&name("inner_relu"), Activation::relu()).unwrap();
        g.push(&name("outer"), conv(12, 8, 3, 1)).unwrap();
        g.push(&name("outer_norm"), BatchNorm::new(8)).unwrap();
        g.add(&name("sum"), Add, &[&name("outer_norm"), from]).unwrap();
        g.push(&name("relu"), Activation::relu()).unwrap();
    }
    g.push("depthwise", conv(8, 8, 3, 8)).unwrap();
    g.push("grouped", conv(8, 12, 1, 2)).unwrap();
    g.push("grouped_relu", Activation::relu()).unwrap();
    g.push("shuffle", ChannelMap::shuffle(12, 3).unwrap()).unwrap();
    g.add("cat", Concat, &["shuffle", "relu2"]).unwrap();
    g.push("head", conv(20, 8, 1, 1)).unwrap();
    g.push("head_relu", Activation::relu()).unwrap();
    g.push("pool", MaxPool2d { window: Window::square(2) }).unwrap();
    g.push("flatten", Flatten).unwrap();
    let mut init = Init::new(6);
    g.push("fc", Linear::new(init.glorot(&[4, 200]).unwrap(), Some(zeros(&[4]))).unwrap()).unwrap();
    g
}

/// Statistics of a short training, so that normalization shifts.
fn trained() -> Graph {
    let (data, registry) = (data(1), registry());
    let mut graph = network();
    Run::new(&data, &data, settings(3), &registry).fine_tune(&mut graph, &settings(3)).unwrap();
    graph
}

fn apply(method: &dyn Compressor, graph: &mut Graph) -> cnn_core::Result<()> {
    let (data, registry) = (data(1), registry());
    method.apply(graph, &mut Run::new(&data, &data, settings(1), &registry))
}

fn untrained() -> Channels {
    Channels { epochs: 0, final_epochs: 0, samples: 64, ..Channels::default() }
}

fn bits(graph: &Graph) -> Vec<u8> {
    model_file::deploy_bytes(graph, true).unwrap()
}

fn method_error(error: &Error) -> Option<&PruneError> {
    match error {
        Error::Method(source) => source.downcast_ref(),
        _ => None,
    }
}

#[test]
fn groups_are_what_goes_together() {
    let graph = network();
    let groups = channel_groups(&graph, &Selection::default()).unwrap();
    let found: Vec<(&str, usize, usize)> =
        groups.iter().map(|g| (g.name(&graph), g.producers.len(), g.units.len())).collect();
    // the stream of both branches is one; the grouped convolution's two groups go in step, and so do the two halves it reads: the
    // shuffle ties nothing, since the concatenation is read by one layer
    assert_eq!(
        found,
        [("stem", 3, 4), ("inner1", 1, 12), ("inner2", 1, 12), ("grouped", 1, 6), ("head", 1, 8)]
    );
    assert_eq!(groups[1].signature(&graph), groups[2].signature(&graph));
    assert_ne!(groups[1].signature(&graph), groups[0].signature(&graph));
}

#[test]
fn every_criterion_ranks_every_group() {
    let (graph, data, registry) = (trained(), data(1), registry());
    let mut run = Run::new(&data, &data, settings(1), &registry);
    let inner = Selection { only: vec!["inner*".into()], skip: vec!["*norm*".into(), "*relu*".into()] };
    let groups = channel_groups(&graph, &inner).unwrap();
    let mut orders = Vec::new();
    for criterion in [
        Criterion::L1,
        Criterion::L2,
        Criterion::Taylor,
        Criterion::Obd,
        Criterion::BnScale,
        Criterion::GeometricMedian,
        Criterion::Apoz,
        Criterion::Lamp,
        Criterion::Random,
    ] {
        let scores = channel_scores(criterion, &graph, &groups, &mut run, 64).unwrap();
        assert_eq!(scores.iter().map(Vec::len).collect::<Vec<_>>(), [12, 12], "{criterion:?}");
        assert!(scores.iter().flatten().all(|s| s.is_finite() && *s >= 0.0), "{criterion:?} {scores:?}");
        assert_eq!(scores, channel_scores(criterion, &graph, &groups, &mut run, 64).unwrap());
        let mut order: Vec<usize> = (0..12).collect();
        order.sort_by(|&a, &b| scores[0][a].total_cmp(&scores[0][b]));
        orders.push(order);
    }
    let distinct: std::collections::BTreeSet<_> = orders.iter().collect();
    assert!(distinct.len() > 5, "{orders:?}");
}

#[test]
fn taylor_finds_the_channel_that_does_nothing() {
    let mut graph = trained();
    // what the outer convolution does not read cannot matter
    let outer = graph.layer_mut::<Conv2d>("outer1").unwrap().unwrap().weight_mut();
    let mut w = outer.base().clone();
    w.index_axis_mut(ndarray::Axis(1), 7).fill(0.0);
    outer.set_base(w);
    let (data, registry) = (data(1), registry());
    let mut run = Run::new(&data, &data, settings(1), &registry);
    let groups = channel_groups(&graph, &Selection::default()).unwrap();
    for criterion in [Criterion::Taylor, Criterion::Obd] {
        let scores = channel_scores(criterion, &graph, &groups, &mut run, 64).unwrap();
        let least = (0..12).min_by(|&a, &b| scores[1][a].total_cmp(&scores[1][b]));
        assert_eq!((least, scores[1][7]), (Some(7), 0.0), "{criterion:?}");
    }
}

#[test]
fn all_scopes_and_budgets() {
    let graph = trained();
    let before = graph.cost().unwrap();
    for scope in [Scope::Layer, Scope::Global, Scope::Isomorphic] {
        let mut thin = graph.clone();
        let method =
            Channels { scope, ratio: 0.5, round_to: Some(1), criterion: Criterion::L1, ..untrained() };
        apply(&method, &mut thin).unwrap();
        let left: usize =
            channel_groups(&thin, &Selection::default()).unwrap().iter().map(|g| g.units.len()).sum();
        assert_eq!(left, 21, "{scope:?}");
    }
    let mut thin = graph.clone();
    apply(&Channels { budget: Some(Budget::Macs(0.6)), ..untrained() }, &mut thin).unwrap();
    let part = thin.cost().unwrap().macs.total() as f64 / before.macs.total() as f64;
    assert!((0.4..=0.6).contains(&part), "{part}");
    let mut small = graph.clone();
    apply(&Channels { budget: Some(Budget::Bytes(0.5)), round_to: Some(1), ..untrained() }, &mut small)
        .unwrap();
    let part = bits(&small).len() as f64 / bits(&graph).len() as f64;
    assert!((0.35..=0.55).contains(&part), "{part}"); // names are not counted by the budget
    // in several rounds to the same end
    let mut rounds = graph.clone();
    apply(&Channels { rounds: 3, budget: Some(Budget::Macs(0.6)), ..untrained() }, &mut rounds).unwrap();
    assert!(rounds.cost().unwrap().macs.total() as f64 <= 0.6 * before.macs.total() as f64);
}

#[test]
fn widths_are_rounded_and_single_layers_have_their_own_share() {
    let mut graph = trained();
    let ratios = BTreeMap::from([("inner1".to_string(), 0.75)]);
    let method = Channels { ratio: 0.0, ratios, round_to: Some(4), scope: Scope::Layer, ..untrained() };
    apply(&method, &mut graph).unwrap();
    let widths: Vec<usize> =
        channel_groups(&graph, &Selection::default()).unwrap().iter().map(|g| g.units.len()).collect();
    assert_eq!(widths, [4, 4, 12, 6, 8]);
}

#[test]
fn a_thinned_network_learns_and_deploys() {
    let (train, held_out, registry) = (data(1), data(2), registry());
    let settings = TrainSettings { optimizer: Optimizer::sgd(0.01, 1e-4), ..settings(25) };
    let mut run = Run::new(&train, &held_out, settings.clone(), &registry);
    let mut graph = network();
    run.fine_tune(&mut graph, &settings).unwrap();
    let before = (run.accuracy(&graph).unwrap(), bits(&graph).len());
    assert!(before.0 > 0.9, "{before:?}");
    let method =
        Channels { budget: Some(Budget::Macs(0.5)), final_epochs: 12, samples: 64, ..Channels::default() };
    method.apply(&mut graph, &mut run).unwrap();
    method.pack(&mut graph).unwrap();
    let back = model_file::from_bytes(&bits(&graph), &registry).unwrap();
    let after = (run.accuracy(&back).unwrap(), bits(&back).len());
    assert!(after.0 > before.0 - 0.05 && after.1 < before.1 * 7 / 10, "{before:?} {after:?}");
}

/// Claims that channels pass one by one, but adds a mean over all of them.
#[derive(Debug, Clone)]
struct Liar;

impl cnn_core::Layer for Liar {
    fn kind(&self) -> &'static str {
        "test.liar"
    }
    fn output_shape(&self, inputs: &[&[usize]]) -> cnn_core::Result<Vec<usize>> {
        Ok(inputs[0].to_vec())
    }
    fn infer(&self, inputs: &[&Tensor]) -> cnn_core::Result<Tensor> {
        Ok(inputs[0] + inputs[0].mean().unwrap())
    }
    fn cost(&self, _inputs: &[&[usize]]) -> cnn_core::Result<cnn_core::Cost> {
        Ok(cnn_core::Cost::default())
    }
    fn encode(&self, _out: &mut cnn_core::Encoder) -> cnn_core::Result<()> {
        Ok(())
    }
    fn clone_box(&self) -> Box<dyn cnn_core::Layer> {
        Box::new(Liar)
    }
    fn channels(&self, _inputs: &[&[usize]]) -> cnn_core::ChannelRule {
        cnn_core::ChannelRule::Same
    }
    fn select(&mut self, _keep: cnn_core::Keep<'_>) -> cnn_core::Result<()> {
        Ok(())
    }
}

#[test]
fn the_certificate_names_the_node_that_differs() {
    let mut graph = trained();
    graph.insert_after("inner_relu1", "liar", Box::new(Liar)).unwrap();
    let before = bits(&graph);
    let only = Selection { only: vec!["inner1".into()], skip: vec![] };
    let method = Channels { layers: only, criterion: Criterion::L1, scope: Scope::Layer, ..untrained() };
    let error = apply(&method, &mut graph).unwrap_err();
    assert!(
        matches!(method_error(&error), Some(PruneError::Certificate { node, .. }) if node == "liar"),
        "{error}"
    );
    assert_eq!(bits(&graph), before);

    // a wrong weight in the thinned network is found where it is
    let graph = trained();
    let groups = channel_groups(&graph, &Selection::default()).unwrap();
    let gone = vec![groups[1].units[3].clone()];
    let mut thin = graph.clone();
    thin.remove_channels(&gone.concat()).unwrap();
    let images = Tensor::ones(vec![2, 1, 10, 10]);
    assert!(certify(&graph, &thin, &gone, &images).unwrap() < 1e-5);
    let weight = thin.layer_mut::<Conv2d>("outer1").unwrap().unwrap().weight_mut();
    let mut base = weight.base().clone();
    base[[0, 0, 1, 1]] += 0.5;
    weight.set_base(base);
    let error = certify(&graph, &thin, &gone, &images).unwrap_err();
    assert!(
        matches!(method_error(&error), Some(PruneError::Certificate { node, .. }) if node == "outer1"),
        "{error}"
    );
}

#[test]
fn branches_go_until_the_budget_is_kept() {
    let mut graph = trained();
    let before = graph.cost().unwrap().macs.total();
    let method = Branches { budget: Budget::Macs(0.7), final_epochs: 0, samples: 64, ..Branches::default() };
    apply(&method, &mut graph).unwrap();
    assert_eq!(graph.names_of::<Add>().len(), 1);
    assert!(graph.cost().unwrap().macs.total() as f64 <= 0.7 * before as f64);
    let too_much = Branches { budget: Budget::Macs(0.01), ..method.clone() };
    let left = bits(&graph);
    let error = apply(&too_much, &mut graph).unwrap_err().to_string();
    assert!(error.contains("budget") && error.contains("cannot be reached"), "{error}");
    assert_eq!(bits(&graph), left);
    let none = Branches { layers: Selection { only: vec!["sun*".into()], skip: vec![] }, ..method };
    assert!(matches!(apply(&none, &mut graph), Err(Error::UnknownNode { .. })));
}

#[test]
fn reconstruction_is_nearer_than_removal() {
    let (graph, data, registry) = (trained(), data(1), registry());
    let (images, _) = cnn_core::data::batch(&data, &(0..64).collect::<Vec<_>>()).unwrap();
    let target = graph.infer(&images).unwrap();
    let error = |method: &dyn Compressor| {
        let mut thin = graph.clone();
        method.apply(&mut thin, &mut Run::new(&data, &data, settings(1), &registry)).unwrap();
        let found = thin.infer(&images).unwrap();
        (thin.cost().unwrap().macs.total(), relative_error(&found, &target))
    };
    let layers = Selection { only: vec!["outer*".into()], skip: vec!["*norm*".into()] };
    let lasso = Lasso { layers, ratio: 0.5, epochs: 0, ..Lasso::default() };
    let inner = Selection { only: vec!["inner?".into()], skip: vec![] };
    let plain = Channels {
        layers: inner,
        ratio: 0.5,
        scope: Scope::Layer,
        criterion: Criterion::L1,
        round_to: Some(1),
        ..untrained()
    };
    let (lasso, plain) = (error(&lasso), error(&plain));
    assert_eq!(lasso.0, plain.0);
    assert!(lasso.1 < 0.6 * plain.1, "{lasso:?} {plain:?}");
}

#[test]
fn a_shared_stream_is_read_through_a_selection() {
    let mut graph = trained();
    let layers = Selection { only: vec!["inner2".into()], skip: vec![] };
    apply(&Lasso { layers: layers.clone(), ratio: 0.5, epochs: 0, ..Lasso::default() }, &mut graph).unwrap();
    let select = graph.layer::<ChannelMap>("inner2.select").unwrap().unwrap();
    assert_eq!(select.map().len(), 4);
    assert_eq!(graph.layer::<Conv2d>("inner2").unwrap().unwrap().channels_in(), 4);
    let mut stays = trained();
    apply(&Lasso { layers, samplers: false, ratio: 0.5, epochs: 0, ..Lasso::default() }, &mut stays).unwrap();
    assert_eq!(bits(&stays), bits(&trained()));
    // masks and reconstruction do not go together
    let mut masked = trained();
    let weights = cnn_prune::Weights { rounds: 1, epochs: 0, final_epochs: 0, ..Default::default() };
    apply(&weights, &mut masked).unwrap();
    let error = apply(&Lasso { epochs: 0, ..Lasso::default() }, &mut masked).unwrap_err().to_string();
    assert!(error.contains("constraint"), "{error}");
}

#[test]
fn regularisers_pull_towards_zero() {
    let gammas = |graph: &Graph| -> f32 {
        let norms = graph.names_of::<BatchNorm>();
        norms.iter().map(|n| graph.layer::<BatchNorm>(n).unwrap().unwrap().gamma().value().sum()).sum()
    };
    let train = |penalty, strength| {
        let mut graph = network();
        let method = SparseTraining { penalty, strength, epochs: Some(3), ..SparseTraining::default() };
        apply(&method, &mut graph).unwrap();
        graph
    };
    assert!(gammas(&train(Penalty::BnScale, 0.02)) < 0.8 * gammas(&train(Penalty::BnScale, 0.0)));
    let size = |graph: &Graph| {
        let conv = graph.layer::<Conv2d>("inner1").unwrap().unwrap();
        conv.weight().value().iter().map(|w| w.abs()).sum::<f32>()
    };
    for penalty in [Penalty::GroupLasso, Penalty::L1] {
        assert!(size(&train(penalty, 0.02)) < 0.9 * size(&train(penalty, 0.0)), "{penalty:?}");
    }
    let mut bare = Graph::new(&[1, 10, 10]);
    bare.push("flatten", Flatten).unwrap();
    let error = apply(&SparseTraining::default(), &mut bare).unwrap_err().to_string();
    assert!(error.contains("group_lasso"), "{error}");
}

#[test]
fn bad_input_is_an_error_and_the_network_stays() {
    let graph = trained();
    let before = bits(&graph);
    let select = |only: &str| Selection { only: vec![only.into()], skip: vec![] };
    let refused: Vec<(Channels, &str)> = vec![
        (Channels { ratio: 1.0, ..untrained() }, "ratio"),
        (Channels { ratio: f64::NAN, ..untrained() }, "ratio"),
        (Channels { min_width: 0, ..untrained() }, "min_width"),
        (Channels { round_to: Some(0), ..untrained() }, "round_to"),
        (Channels { rounds: 0, ..untrained() }, "rounds"),
        (Channels { budget: Some(Budget::Macs(0.0)), ..untrained() }, "budget"),
        (Channels { budget: Some(Budget::Milliseconds(f64::INFINITY)), ..untrained() }, "budget"),
        (Channels { budget: Some(Budget::Macs(0.001)), ..untrained() }, "cannot be reached"),
        (Channels { layers: select("inner9"), ..untrained() }, "inner9"),
        (Channels { layers: select("outer1"), ..untrained() }, "not selected"),
        (Channels { layers: select("fc"), ..untrained() }, "network's output"),
        (
            Channels { criterion: Criterion::BnScale, layers: select("head"), ..untrained() },
            "batch normalization",
        ),
        (Channels { criterion: Criterion::Taylor, samples: 0, ..untrained() }, "samples"),
        (
            Channels { ratios: BTreeMap::from([("fc".into(), 0.5)]), ..untrained() },
            "matches no layer that is pruned",
        ),
    ];
    for (method, says) in refused {
        let mut graph = graph.clone();
        let error = apply(&method, &mut graph).unwrap_err().to_string();
        assert!(error.contains(says), "{says}: {error}");
        assert_eq!(bits(&graph), before);
    }
    // weights that are not finite
    let mut poisoned = graph.clone();
    let weight = poisoned.layer_mut::<Conv2d>("inner2").unwrap().unwrap().weight_mut();
    let mut base = weight.base().clone();
    base[[0, 0, 0, 0]] = f32::NAN;
    weight.set_base(base);
    let error = apply(&untrained(), &mut poisoned).unwrap_err();
    assert!(matches!(method_error(&error), Some(PruneError::NotFinite { .. })), "{error}");
    // no images
    let (data, registry) = (data(1), registry());
    let empty = cnn_core::data::Subset::new(&data, vec![]).unwrap();
    let mut graph = graph.clone();
    let error =
        untrained().apply(&mut graph, &mut Run::new(&empty, &data, settings(1), &registry)).unwrap_err();
    assert!(matches!(method_error(&error), Some(PruneError::NoData { what: "taylor" })), "{error}");
    // an opaque layer behind everything that is selected
    graph.insert_after("head_relu", "softmax", Box::new(Softmax)).unwrap();
    let head = Channels { layers: select("head"), criterion: Criterion::L1, ..untrained() };
    let error = apply(&head, &mut graph).unwrap_err().to_string();
    assert!(error.contains("softmax"), "{error}");
}

#[test]
fn an_interrupted_method_goes_on() {
    let (data, registry) = (data(1), registry());
    let folder = tempfile::tempdir().unwrap();
    let method = Channels { rounds: 2, ratio: 0.4, final_epochs: 1, samples: 64, ..Channels::default() };
    let run_with = |memory: bool| {
        let mut run = Run::new(&data, &data, settings(1), &registry);
        run.memory = memory.then(|| folder.path().to_path_buf());
        let mut graph = trained();
        method.apply(&mut graph, &mut run).unwrap();
        bits(&graph)
    };
    let plain = run_with(false);
    assert_eq!(run_with(true), plain);
    let mut files: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|f| f.unwrap().path()).collect();
    files.sort();
    assert_eq!(files.len(), 2);
    // as if it had been stopped in the second round
    std::fs::remove_file(&files[1]).unwrap();
    let first = std::fs::metadata(&files[0]).unwrap().modified().unwrap();
    assert_eq!(run_with(true), plain);
    assert_eq!(std::fs::metadata(&files[0]).unwrap().modified().unwrap(), first);
}

#[test]
fn own_shares_are_reached_over_several_rounds_and_not_passed() {
    let mut graph = trained();
    let ratios = BTreeMap::from([("inner1".to_string(), 0.5)]);
    let method =
        Channels { ratio: 0.25, ratios, rounds: 3, round_to: Some(1), scope: Scope::Layer, ..untrained() };
    apply(&method, &mut graph).unwrap();
    let widths: Vec<usize> =
        channel_groups(&graph, &Selection::default()).unwrap().iter().map(|g| g.units.len()).collect();
    assert_eq!(widths[1..3], [6, 9]);
}

#[test]
fn every_layer_reaches_its_share_over_rounds_whatever_it_is_rounded_to() {
    let widths = |rounds| {
        let mut graph = trained();
        let method = Channels {
            ratio: 0.5,
            rounds,
            round_to: Some(4),
            scope: Scope::Layer,
            criterion: Criterion::L1,
            ..untrained()
        };
        apply(&method, &mut graph).unwrap();
        let groups = channel_groups(&graph, &Selection::default()).unwrap();
        groups.iter().map(|g| g.units.len()).collect::<Vec<_>>()
    };
    assert_eq!(widths(1), [4, 8, 8, 4, 4]);
    assert_eq!(widths(4), widths(1));
}

#[test]
fn a_budget_that_is_kept_changes_nothing() {
    let graph = trained();
    for budget in [Budget::Macs(1.0), Budget::Milliseconds(1e4)] {
        let mut same = graph.clone();
        apply(&Channels { budget: Some(budget), ..untrained() }, &mut same).unwrap();
        apply(&Branches { budget, final_epochs: 0, samples: 32, ..Branches::default() }, &mut same).unwrap();
        assert_eq!(bits(&same), bits(&graph));
    }
}

#[test]
fn slimming_has_one_threshold_for_all_scales() {
    let mut graph = trained();
    let norm = graph.layer_mut::<BatchNorm>("inner_norm1").unwrap().unwrap();
    let small = norm.gamma().base().mapv(|g| g * 1e-3);
    norm.gamma_mut().set_base(small);
    let layers = Selection { only: vec!["inner?".into()], skip: vec![] };
    let method = Channels {
        layers,
        ratio: 0.4,
        criterion: Criterion::BnScale,
        round_to: Some(1),
        scope: Scope::Global,
        ..untrained()
    };
    apply(&method, &mut graph).unwrap();
    let widths: Vec<usize> =
        channel_groups(&graph, &Selection::default()).unwrap()[1..3].iter().map(|g| g.units.len()).collect();
    assert_eq!(widths, [2, 12]);
}

#[test]
fn channels_behind_a_concatenation_go_and_a_second_selection_has_a_name_of_its_own() {
    let mut graph = trained();
    // the head reads a concatenation of the shuffled groups, which tie, and of the stream
    let layers = Selection { only: vec!["inner2".into()], skip: vec![] };
    for _ in 0..2 {
        apply(&Lasso { layers: layers.clone(), ratio: 0.5, epochs: 0, ..Lasso::default() }, &mut graph)
            .unwrap();
    }
    assert_eq!(graph.layer::<Conv2d>("inner2").unwrap().unwrap().channels_in(), 2);

    let mut init = Init::new(9);
    let mut fire = Graph::new(&[1, 10, 10]);
    let conv = |init: &mut Init, c: usize, m: usize, k: usize| {
        Conv2d::new(init.he(&[m, c, k, k]).unwrap(), None, ConvOptions::default().pad(k / 2)).unwrap()
    };
    fire.push("squeeze", conv(&mut init, 1, 6, 3)).unwrap();
    fire.add("expand1", conv(&mut init, 6, 8, 1), &["squeeze"]).unwrap();
    fire.add("expand3", conv(&mut init, 6, 8, 3), &["squeeze"]).unwrap();
    fire.add("cat", Concat, &["expand1", "expand3"]).unwrap();
    fire.push("relu", Activation::relu()).unwrap();
    fire.push("last", conv(&mut init, 16, 4, 1)).unwrap();
    let layers = Selection { only: vec!["last".into()], skip: vec![] };
    apply(&Lasso { layers, ratio: 0.5, epochs: 0, ..Lasso::default() }, &mut fire).unwrap();
    assert!(fire.find("last.select").is_err());
    let filters = |name: &str| fire.layer::<Conv2d>(name).unwrap().unwrap().filters();
    assert_eq!(filters("expand1") + filters("expand3"), 8);
}

#[test]
fn sensitivity_and_ratios_of_a_residual_network() {
    // the padded shortcut ties some channels of the wide stage to the narrow one: two groups begin with one layer
    let mut init = Init::new(4);
    let mut g = Graph::new(&[1, 10, 10]);
    let conv = |init: &mut Init, c: usize, m: usize| {
        Conv2d::new(init.he(&[m, c, 3, 3]).unwrap(), None, ConvOptions::default().pad(1)).unwrap()
    };
    g.push("stem", conv(&mut init, 1, 6)).unwrap();
    g.push("relu", Activation::relu()).unwrap();
    g.push("wide", conv(&mut init, 6, 10)).unwrap();
    g.add("short", ChannelMap::pad(6, 2, 2).unwrap(), &["relu"]).unwrap();
    g.add("sum", Add, &["wide", "short"]).unwrap();
    g.push("again", conv(&mut init, 10, 10)).unwrap();
    g.add("sum2", Add, &["again", "sum"]).unwrap();
    g.push("pool", GlobalAvgPool).unwrap();
    g.push("flatten", Flatten).unwrap();
    g.push("fc", Linear::new(init.glorot(&[4, 10]).unwrap(), None).unwrap()).unwrap();
    let (data, registry) = (data(1), registry());
    let mut run = Run::new(&data, &data, settings(6), &registry);
    run.fine_tune(&mut g, &settings(6)).unwrap();
    let curves =
        cnn_prune::sensitivity(&g, cnn_prune::What::Channels, &Selection::default(), &[0.5], &mut run)
            .unwrap();
    let layers: Vec<Vec<String>> = curves.iter().map(|c| c.layers.clone()).collect();
    assert_eq!(layers, [vec!["stem", "wide", "again"], vec!["wide", "again"]]);
    for part in [0.9, 0.7, 0.5] {
        let mut thin = g.clone();
        let method = cnn_prune::Automatic {
            budget: Budget::Macs(part),
            grid: vec![0.25, 0.5, 0.75],
            final_epochs: 0,
            ..Default::default()
        };
        method.apply(&mut thin, &mut run).unwrap();
        let left = thin.cost().unwrap().macs.total() as f64 / g.cost().unwrap().macs.total() as f64;
        assert!(left <= part && left > 0.1, "{part} {left}");
    }
}
