//! The method: counts, scopes, rounds, the accuracy that must hold, bad input.
#![allow(clippy::unwrap_used)] // helpers of tests are tests

mod common;

use cnn_core::layers::{Conv2d, Flatten, Linear};
use cnn_core::tensor::tensor;
use cnn_core::train::accuracy;
use cnn_core::{Chain, Compressor, Error, Graph, Run, Selection, model_file};
use cnn_prune::{
    Automatic, Budget, Criterion, Gradual, Granularity, PruneError, Schedule, Scope, Threshold, Weights,
    What, mask_of, sensitivity, sparsity,
};
use common::{data, network, registry, settings};
use proptest::prelude::*;
use std::collections::BTreeMap;

/// No training: for tests of what is removed.
fn untrained(ratio: f64) -> Weights {
    Weights { ratio, rounds: 1, epochs: 0, final_epochs: 0, ..Weights::default() }
}

fn apply(method: &Weights, graph: &mut Graph) -> cnn_core::Result<()> {
    let (data, registry) = (data(1), registry());
    method.apply(graph, &mut Run::new(&data, &data, settings(1), &registry))
}

fn removed(graph: &Graph) -> Vec<usize> {
    sparsity(graph).iter().map(|l| l.weights - l.nonzeros).collect()
}

/// Everything that the graph computes with, as bytes.
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
fn the_smallest_of_each_layer_go() {
    let mut graph = network();
    apply(&untrained(0.5), &mut graph).unwrap();
    assert_eq!(removed(&graph), [27, 216, 2400, 48]);
    let layer = graph.layer::<Linear>("fc1").unwrap().unwrap();
    let keep = mask_of(layer.weight()).unwrap().keep();
    let of = |kept: bool| {
        layer.weight().base().iter().zip(keep).filter(move |(_, k)| **k == kept).map(|(w, _)| w.abs())
    };
    assert!(of(false).fold(0.0, f32::max) <= of(true).fold(f32::MAX, f32::min));
    assert!(layer.bias().unwrap().constraints().is_empty());
}

#[test]
fn a_global_threshold_is_one_for_all() {
    let mut graph = network();
    let method = Weights { scope: Scope::Global, ..untrained(0.7) };
    apply(&method, &mut graph).unwrap();
    let total: usize = sparsity(&graph).iter().map(|l| l.weights).sum();
    assert_eq!(removed(&graph).iter().sum::<usize>(), (0.7 * total as f64).round() as usize);
    let (mut lost, mut kept) = (0f32, f32::MAX);
    for node in graph.nodes() {
        for param in node.layer().params() {
            let Some(mask) = mask_of(param) else { continue };
            for (w, &keep) in param.base().iter().zip(mask.keep()) {
                if keep { kept = kept.min(w.abs()) } else { lost = lost.max(w.abs()) }
            }
        }
    }
    assert!(lost <= kept, "{lost} went, {kept} stayed");
}

#[test]
fn single_layers_have_their_own_ratio() {
    for scope in [Scope::Layer, Scope::Global] {
        let mut graph = network();
        let ratios = BTreeMap::from([("conv1".to_string(), 0.0), ("fc1".to_string(), 0.95)]);
        apply(&Weights { ratios, scope, ..untrained(0.5) }, &mut graph).unwrap();
        let removed = removed(&graph);
        assert_eq!((removed[0], removed[2]), (0, 4560));
        assert_eq!(removed[1] + removed[3], 264);
    }
}

#[test]
fn thresholds_remove_what_is_below() {
    let weights = tensor(&[2, 4], vec![0.1, -0.2, 0.3, -0.4, 0.0, 0.2, 1.0, -1.0]).unwrap();
    let build = || {
        let mut graph = Graph::new(&[4]);
        graph.push("fc", Linear::new(weights.clone(), None).unwrap()).unwrap();
        graph
    };
    let mut graph = build();
    apply(&Weights { threshold: Some(Threshold::Absolute(0.3)), ..untrained(0.9) }, &mut graph).unwrap();
    assert_eq!(removed(&graph), [4]);
    // the deviation is 0.538: half of it is 0.269
    let mut graph = build();
    apply(&Weights { threshold: Some(Threshold::Deviations(0.5)), ..untrained(0.9) }, &mut graph).unwrap();
    assert_eq!(removed(&graph), [4]);
    let mut graph = build();
    apply(&Weights { threshold: Some(Threshold::Absolute(9.0)), ..untrained(0.9) }, &mut graph).unwrap();
    assert_eq!(removed(&graph), [7]);
}

#[test]
fn every_layer_keeps_a_weight() {
    for scope in [Scope::Layer, Scope::Global] {
        let mut graph = network();
        apply(&Weights { scope, ..untrained(0.9999) }, &mut graph).unwrap();
        assert!(sparsity(&graph).iter().all(|l| l.nonzeros >= 1), "{:?}", sparsity(&graph));
    }
}

#[test]
fn pruning_again_goes_on_from_where_it_was() {
    let mut graph = network();
    apply(&untrained(0.5), &mut graph).unwrap();
    let first = graph.clone();
    apply(&untrained(0.8), &mut graph).unwrap();
    assert_eq!(removed(&graph)[2], 3840);
    for name in graph.names_of::<Linear>() {
        let mask = |g: &Graph| mask_of(g.layer::<Linear>(&name).unwrap().unwrap().weight()).unwrap().clone();
        assert!(mask(&first).keep().iter().zip(mask(&graph).keep()).all(|(before, after)| *before || !after));
    }
    // asking for less brings nothing back
    apply(&untrained(0.1), &mut graph).unwrap();
    assert_eq!(removed(&graph)[2], 3840);
}

#[test]
fn retraining_wins_back_what_pruning_cost() {
    let (train, held_out, registry) = (data(1), data(2), registry());
    let mut run = Run::new(&train, &held_out, settings(8), &registry);
    let mut graph = network();
    run.fine_tune(&mut graph, &settings(8)).unwrap();
    let before = run.accuracy(&graph).unwrap();
    assert!(before > 0.95, "{before}");

    let mut cut = graph.clone();
    untrained(0.93).apply(&mut cut, &mut run).unwrap();
    let cut = run.accuracy(&cut).unwrap();

    let method = Weights { ratio: 0.93, rounds: 4, epochs: 4, final_epochs: 6, ..Weights::default() };
    method.apply(&mut graph, &mut run).unwrap();
    let after = run.accuracy(&graph).unwrap();
    assert!(after > before - 0.03 && after > cut + 0.05, "{before} before, {cut} cut, {after} retrained");
    assert_eq!(removed(&graph), [50, 402, 4464, 89]);

    method.pack(&mut graph).unwrap();
    assert!((run.accuracy(&graph).unwrap() - after).abs() < 0.01);
}

#[test]
fn the_last_network_that_held_is_the_result() {
    let (train, held_out, registry) = (data(1), data(2), registry());
    let mut run = Run::new(&train, &held_out, settings(8), &registry);
    let mut graph = network();
    run.fine_tune(&mut graph, &settings(8)).unwrap();
    let floor = run.accuracy(&graph).unwrap() - 0.01;

    // far too much: some round must fail, and no final network below the floor may come out
    let greedy = Weights { ratio: 0.999, rounds: 6, max_drop: Some(1.0), ..Weights::default() };
    let mut pruned = graph.clone();
    greedy.apply(&mut pruned, &mut run).unwrap();
    assert!(run.accuracy(&pruned).unwrap() >= floor);
    let gone: usize = removed(&pruned).iter().sum();
    let target = Weights { max_drop: None, ..greedy.clone() };
    let mut all = graph.clone();
    target.apply(&mut all, &mut run).unwrap();
    assert!(run.accuracy(&all).unwrap() < floor, "the test asks for too little");
    assert!(gone > 0 && gone < removed(&all).iter().sum(), "{gone} weights removed");

    // bisection finds at least as much
    let coarse = Weights { bisections: 0, ..greedy };
    let mut coarsely = graph.clone();
    coarse.apply(&mut coarsely, &mut run).unwrap();
    assert!(removed(&coarsely).iter().sum::<usize>() <= gone);
}

#[test]
fn when_nothing_holds_the_network_stays() {
    let (train, registry) = (data(1), registry());
    let mut run = Run::new(&train, &train, settings(4), &registry);
    let mut graph = network();
    run.fine_tune(&mut graph, &settings(4)).unwrap();
    let before = bits(&graph);
    let method = Weights { max_drop: Some(0.0), bisections: 0, ..untrained(0.999) };
    method.apply(&mut graph, &mut run).unwrap();
    assert_eq!(bits(&graph), before);
}

#[test]
fn the_same_bits_with_any_number_of_threads() {
    let run_with = |threads: usize| {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(|| {
            let mut graph = network();
            let method = Weights { ratio: 0.8, scope: Scope::Global, rounds: 2, ..Weights::default() };
            apply(&method, &mut graph).unwrap();
            method.pack(&mut graph).unwrap();
            (bits(&graph), accuracy(&graph, &data(2)).unwrap())
        })
    };
    assert_eq!(run_with(1), run_with(3));
}

#[test]
fn masks_survive_the_loss_of_channels() {
    let mut graph = network();
    apply(&untrained(0.6), &mut graph).unwrap();
    let before = graph.layer::<Conv2d>("conv2").unwrap().unwrap().weight().value().clone();
    graph.keep_channels("conv1", &[0, 2, 5]).unwrap();
    graph.keep_channels("conv2", &[1, 3, 4, 7]).unwrap();
    let conv2 = graph.layer::<Conv2d>("conv2").unwrap().unwrap().weight();
    let expected = before.select(ndarray::Axis(1), &[0, 2, 5]).select(ndarray::Axis(0), &[1, 3, 4, 7]);
    assert_eq!(conv2.value(), expected);
    assert!(
        conv2.base().iter().zip(conv2.value()).any(|(base, value)| base != value),
        "no weight is masked any more"
    );
    let (data, registry) = (data(1), registry());
    let mut run = Run::new(&data, &data, settings(1), &registry);
    let zeros = removed(&graph);
    run.fine_tune(&mut graph, &settings(1)).unwrap();
    assert_eq!(removed(&graph), zeros);
    cnn_prune::pack(&mut graph).unwrap();
    bits(&graph);
}

#[test]
fn in_a_chain_and_by_name() {
    let registry = registry();
    let config = serde_json::json!({ "ratio": 0.5, "rounds": 1, "epochs": 0, "final_epochs": 0 });
    let steps = vec![
        registry.build_method("prune.weights", config.clone()).unwrap(),
        registry
            .build_method(
                "prune.weights",
                serde_json::json!({
                    "ratio": 0.9, "layers": { "only": ["fc*"] }, "scope": "global",
                    "rounds": 1, "epochs": 0, "final_epochs": 0
                }),
            )
            .unwrap(),
    ];
    assert_eq!(steps[0].config()["ratio"], 0.5);
    assert_eq!(steps[0].config()["scope"], "layer");
    let chain = Chain::new("twice", steps);
    let data = data(1);
    let mut graph = network();
    chain.apply(&mut graph, &mut Run::new(&data, &data, settings(1), &registry)).unwrap();
    let gone = removed(&graph);
    assert_eq!((gone[0], gone[1], gone[2] + gone[3]), (27, 216, 4406));
    chain.pack(&mut graph).unwrap();
    assert_eq!(removed(&graph), gone);
}

#[test]
fn bad_settings_are_errors_that_name_them() {
    let bad = [
        (serde_json::json!({ "ratio": 1.0 }), "ratio"),
        (serde_json::json!({ "ratio": -0.1 }), "ratio"),
        (serde_json::json!({ "ratios": { "conv1": 1.5 } }), "ratios.conv1"),
        (serde_json::json!({ "rounds": 0 }), "rounds"),
        (serde_json::json!({ "threshold": { "absolute": -1.0 } }), "threshold"),
        (serde_json::json!({ "learning_rate": -1.0 }), "learning_rate"),
        (serde_json::json!({ "max_drop": 101.0 }), "max_drop"),
        (serde_json::json!({ "ration": 0.5 }), "ration"),
        (serde_json::json!({ "scope": "galaxy" }), "galaxy"),
    ];
    for (config, name) in bad {
        let error = registry().build_method("prune.weights", config).unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
    }
    for method in [
        untrained(f64::NAN),
        Weights { max_drop: Some(f64::NAN), ..untrained(0.5) },
        Weights { threshold: Some(Threshold::Deviations(f32::NAN)), ..untrained(0.5) },
        Weights { learning_rate: Some(f32::INFINITY), ..untrained(0.5) },
    ] {
        let mut graph = network();
        let before = bits(&graph);
        assert!(method_error(&apply(&method, &mut graph).unwrap_err()).is_some());
        assert_eq!(bits(&graph), before);
    }
}

#[test]
fn what_cannot_be_pruned_is_an_error() {
    let only = |pattern: &str| Selection { only: vec![pattern.to_string()], skip: vec![] };
    let with = |pattern: &str| Weights { layers: only(pattern), ..untrained(0.5) };
    let mut graph = network();
    let before = bits(&graph);

    assert!(matches!(apply(&with("fc9"), &mut graph), Err(Error::UnknownNode { .. })));
    let error = apply(&with("relu*"), &mut graph).unwrap_err();
    assert!(
        matches!(method_error(&error), Some(PruneError::NotPrunable { node, .. }) if node == "relu1"),
        "{error}"
    );
    let skip = Weights { layers: Selection { only: vec![], skip: vec!["*".into()] }, ..untrained(0.5) };
    assert!(matches!(
        method_error(&apply(&skip, &mut graph).unwrap_err()),
        Some(PruneError::NoLayers { .. })
    ));

    let ratios = |pairs: &[(&str, f64)]| pairs.iter().map(|(p, r)| (p.to_string(), *r)).collect();
    let typo = Weights { ratios: ratios(&[("cnov1", 0.1)]), ..untrained(0.5) };
    assert!(matches!(apply(&typo, &mut graph), Err(Error::UnknownNode { .. })));
    let two = Weights { ratios: ratios(&[("fc*", 0.1), ("fc1", 0.2)]), ..untrained(0.5) };
    assert!(matches!(
        method_error(&apply(&two, &mut graph).unwrap_err()),
        Some(PruneError::Ambiguous { layer, .. }) if layer == "fc1"
    ));
    assert_eq!(bits(&graph), before);

    // packed layers
    apply(&untrained(0.9), &mut graph).unwrap();
    cnn_prune::pack(&mut graph).unwrap();
    let before = bits(&graph);
    let error = apply(&with("fc1"), &mut graph).unwrap_err();
    assert!(
        matches!(method_error(&error), Some(PruneError::NotPrunable { kind, .. }) if kind == "prune.sparse_linear")
    );
    assert_eq!(bits(&graph), before);

    let mut bare = Graph::new(&[1, 4, 4]);
    bare.push("flatten", Flatten).unwrap();
    let error = apply(&untrained(0.5), &mut bare).unwrap_err();
    assert!(
        matches!(method_error(&error), Some(PruneError::NoLayers { .. }))
            && error.to_string().contains("flatten")
    );
}

#[test]
fn weights_that_are_not_finite_are_an_error() {
    for poison in [f32::NAN, f32::INFINITY] {
        let mut graph = network();
        let weight = graph.layer_mut::<Conv2d>("conv2").unwrap().unwrap().weight_mut();
        let mut base = weight.base().clone();
        base[[1, 2, 0, 1]] = poison;
        weight.set_base(base);
        let error = apply(&untrained(0.5), &mut graph).unwrap_err();
        assert!(matches!(method_error(&error), Some(PruneError::NotFinite { layer }) if layer == "conv2"));
        assert_eq!(removed(&graph)[0], 0);
    }
}

#[test]
fn no_validation_images_with_a_limit_is_an_error() {
    let (train, registry) = (data(1), registry());
    let none = cnn_core::data::Subset::new(&train, vec![]).unwrap();
    let mut graph = network();
    let before = bits(&graph);
    let method = Weights { max_drop: Some(1.0), ..untrained(0.5) };
    let error = method.apply(&mut graph, &mut Run::new(&train, &none, settings(1), &registry)).unwrap_err();
    assert!(matches!(error, Error::Data(_)));
    assert_eq!(bits(&graph), before);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn exactly_the_ratio_is_removed(ratio in 0.0f64..1.0, rounds in 1usize..5, global: bool, equal: bool) {
        let mut graph = network();
        if equal {
            // ties everywhere
            for name in graph.names_of::<Linear>() {
                let weight = graph.layer_mut::<Linear>(&name).unwrap().unwrap().weight_mut();
                weight.set_base(weight.base().mapv(|w| if w > 0.0 { 0.5 } else { -0.5 }));
            }
        }
        let scope = if global { Scope::Global } else { Scope::Layer };
        apply(&Weights { scope, rounds, ..untrained(ratio) }, &mut graph).unwrap();
        let report = sparsity(&graph);
        if global {
            let total: usize = report.iter().map(|l| l.weights).sum();
            let expected = ((ratio * total as f64).round() as usize).min(total - report.len());
            prop_assert_eq!(removed(&graph).iter().sum::<usize>(), expected);
        } else {
            for layer in report {
                let expected = ((ratio * layer.weights as f64).round() as usize).min(layer.weights - 1);
                prop_assert_eq!(layer.weights - layer.nonzeros, expected);
            }
        }
    }
}

/// The kept flags of a convolution.
fn kept(graph: &Graph, name: &str) -> ndarray::ArrayD<bool> {
    mask_of(graph.layer::<Conv2d>(name).unwrap().unwrap().weight()).unwrap().keep().clone()
}

#[test]
fn n_of_m_keeps_as_many_of_each_group_of_input_channels() {
    let mut graph = network();
    let granularity = Granularity::NOfM { keep: 1, of: 2, filters: 1 };
    apply(&Weights { granularity, rounds: 3, ..untrained(0.0) }, &mut graph).unwrap();
    let keep = kept(&graph, "conv2");
    for (filter, pair, ky, kx) in (0..8 * 3 * 9).map(|i| (i / 27, i / 9 % 3, i / 3 % 3, i % 3)) {
        let of = [0, 1].map(|c| usize::from(keep[[filter, 2 * pair + c, ky, kx]]));
        assert_eq!(of.iter().sum::<usize>(), 1);
    }
    // the first layer reads one channel and stays
    assert_eq!(removed(&graph), [0, 216, 2400, 48]);
    let error = apply(
        &Weights { granularity: Granularity::NOfM { keep: 3, of: 7, filters: 1 }, ..untrained(0.0) },
        &mut network(),
    );
    assert!(error.unwrap_err().to_string().contains("granularity"));
}

#[test]
fn blocks_and_kernels_go_as_a_whole() {
    let mut graph = network();
    apply(&Weights { granularity: Granularity::Kernel, ..untrained(0.5) }, &mut graph).unwrap();
    let keep = kept(&graph, "conv2");
    let kernels: Vec<usize> =
        keep.as_slice().unwrap().chunks(9).map(|k| k.iter().filter(|&&k| k).count()).collect();
    assert!(kernels.iter().all(|&n| n == 0 || n == 9));
    assert_eq!(kernels.iter().filter(|&&n| n == 9).count(), 24);

    let mut graph = network();
    apply(&Weights { granularity: Granularity::Block(4), ..untrained(0.5) }, &mut graph).unwrap();
    let keep = kept(&graph, "conv2").into_shape_with_order((2, 4, 54)).unwrap();
    for (block, column) in (0..2 * 54).map(|i| (i / 54, i % 54)) {
        let of: Vec<bool> = (0..4).map(|f| keep[[block, f, column]]).collect();
        assert!(of.iter().all(|&k| k == of[0]), "{of:?}");
    }
    assert_eq!(keep.iter().filter(|&&k| k).count(), 216);
}

#[test]
fn all_criteria_and_schedules() {
    let mut masks = Vec::new();
    for criterion in
        [Criterion::L1, Criterion::L2, Criterion::Taylor, Criterion::Obd, Criterion::Lamp, Criterion::Random]
    {
        let mut graph = network();
        let method = Weights { criterion, scope: Scope::Global, samples: 192, ..untrained(0.6) };
        apply(&method, &mut graph).unwrap();
        assert_eq!(removed(&graph).iter().sum::<usize>(), 3229, "{criterion:?}");
        masks.push(kept(&graph, "conv2"));
    }
    // single weights: the mean of |w| and the root of w^2 are the same; the others differ
    assert_eq!(masks[0], masks[1]);
    let distinct = masks[1..].iter().enumerate().all(|(i, m)| masks[i + 2..].iter().all(|other| m != other));
    assert!(distinct);
    for schedule in [Schedule::Cubic, Schedule::Linear, Schedule::Geometric] {
        let mut graph = network();
        apply(&Weights { schedule, rounds: 3, ..untrained(0.6) }, &mut graph).unwrap();
        assert_eq!(removed(&graph)[2], 2880, "{schedule:?}");
    }
    for scope in [Scope::Layer, Scope::Isomorphic] {
        let mut graph = network();
        apply(&Weights { scope, ..untrained(0.5) }, &mut graph).unwrap();
        let removed = removed(&graph);
        // the two convolutions have the same kernels, and so have the two linear layers
        assert_eq!((removed[0] + removed[1], removed[2] + removed[3]), (243, 2448), "{scope:?}");
    }
}

#[test]
fn criteria_without_images_or_for_channels_are_refused() {
    let (data, registry) = (data(1), registry());
    let empty = cnn_core::data::Subset::new(&data, vec![]).unwrap();
    let mut graph = network();
    let before = bits(&graph);
    let method = Weights { criterion: Criterion::Obd, ..untrained(0.5) };
    let error = method.apply(&mut graph, &mut Run::new(&empty, &data, settings(1), &registry)).unwrap_err();
    assert!(matches!(method_error(&error), Some(PruneError::NoData { what: "obd" })));
    let error = apply(&Weights { criterion: Criterion::Apoz, ..untrained(0.5) }, &mut graph).unwrap_err();
    assert!(error.to_string().contains("prune.channels"), "{error}");
    assert_eq!(bits(&graph), before);
}

#[test]
fn weights_are_set_back_to_an_early_network() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("early.network");
    let early = network();
    model_file::save_checkpoint(&early, &file).unwrap();
    let (data, registry) = (data(1), registry());
    let mut run = Run::new(&data, &data, settings(4), &registry);
    let mut graph = network();
    run.fine_tune(&mut graph, &settings(4)).unwrap();
    let trained = graph.clone();
    let method = Weights { rewind: Some(file), ..untrained(0.5) };
    method.apply(&mut graph, &mut run).unwrap();
    let weight = |g: &Graph| g.layer::<Conv2d>("conv2").unwrap().unwrap().weight().clone();
    assert_eq!(weight(&graph).base(), weight(&early).base());
    // what is left is chosen by the trained weights
    let keep = kept(&graph, "conv2");
    let sizes = |kept: bool| {
        let pairs = weight(&trained).base().iter().zip(&keep).map(|(w, k)| (w.abs(), *k)).collect::<Vec<_>>();
        pairs.into_iter().filter(move |p| p.1 == kept).map(|p| p.0)
    };
    assert!(sizes(false).fold(0.0, f32::max) <= sizes(true).fold(f32::MAX, f32::min));
    // another network
    let other = folder.path().join("other.network");
    model_file::save_checkpoint(&cnn_core::testing::lenet5(0).unwrap(), &other).unwrap();
    let error = Weights { rewind: Some(other), ..untrained(0.5) }.apply(&mut graph, &mut run).unwrap_err();
    assert!(error.to_string().contains("rewind"), "{error}");
}

#[test]
fn an_interrupted_search_goes_on_with_the_same_bits() {
    let (data, registry) = (data(1), registry());
    let folder = tempfile::tempdir().unwrap();
    let method = Weights { ratio: 0.9, rounds: 3, max_drop: Some(2.0), ..Weights::default() };
    let run_with = |memory: bool| {
        let mut run = Run::new(&data, &data, settings(2), &registry);
        run.memory = memory.then(|| folder.path().to_path_buf());
        let mut graph = network();
        run.fine_tune(&mut graph, &settings(2)).unwrap();
        method.apply(&mut graph, &mut run).unwrap();
        bits_of(&graph)
    };
    let plain = run_with(false);
    assert_eq!(run_with(true), plain);
    let mut files: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|f| f.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 2, "{files:?}");
    std::fs::remove_file(files.last().unwrap()).unwrap();
    assert_eq!(run_with(true), plain);
}

/// The values of a masked network, which cannot be deployed as it is.
fn bits_of(graph: &Graph) -> Vec<u32> {
    let params = graph.nodes().iter().flat_map(|n| n.layer().params());
    params.flat_map(|p| p.value().iter().map(|v| v.to_bits()).collect::<Vec<_>>()).collect()
}

#[test]
fn gradual_pruning_ends_at_the_ratio_with_and_without_regrowth() {
    let (train, held_out, registry) = (data(1), data(2), registry());
    let mut run = Run::new(&train, &held_out, settings(8), &registry);
    let mut trained = network();
    run.fine_tune(&mut trained, &settings(8)).unwrap();
    let before = run.accuracy(&trained).unwrap();
    let mut masks = Vec::new();
    for regrow in [false, true] {
        let mut graph = trained.clone();
        let method = Gradual { ratio: 0.9, regrow, every: 3, scope: Scope::Global, ..Gradual::default() };
        method.apply(&mut graph, &mut run).unwrap();
        assert_eq!(removed(&graph).iter().sum::<usize>(), 4844);
        assert!(run.accuracy(&graph).unwrap() > before - 0.05, "{regrow}");
        // the masks are ordinary ones now: further training brings nothing back
        let keep = kept(&graph, "conv2");
        run.fine_tune(&mut graph, &settings(1)).unwrap();
        assert_eq!(removed(&graph).iter().sum::<usize>(), 4844);
        assert_eq!(kept(&graph, "conv2"), keep);
        method.pack(&mut graph).unwrap();
        bits(&graph);
        masks.push(keep);
    }
    assert_ne!(masks[0], masks[1]);
    for (config, says) in [
        (serde_json::json!({ "ramp": 0.0 }), "ramp"),
        (serde_json::json!({ "every": 0 }), "every"),
        (serde_json::json!({ "epochs": 0 }), "epochs"),
        (serde_json::json!({ "criterion": "taylor" }), "criterion"),
        (serde_json::json!({ "granularity": { "n_of_m": { "keep": 2, "of": 4 } } }), "N:M"),
    ] {
        let error = registry.build_method("prune.gradual", config).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
}

#[test]
fn ratios_by_sensitivity_keep_the_budget() {
    let (train, held_out, registry) = (data(1), data(2), registry());
    let mut run = Run::new(&train, &held_out, settings(8), &registry);
    let mut graph = network();
    run.fine_tune(&mut graph, &settings(8)).unwrap();
    let curves = sensitivity(&graph, What::Weights, &Selection::default(), &[0.5, 0.99], &mut run).unwrap();
    assert!(curves.iter().all(|c| c.points[0].1 == curves[0].points[0].1));
    assert!(curves.iter().any(|c| c.drops()[2] > 0.05), "{curves:?}");
    let folder = tempfile::tempdir().unwrap();
    run.memory = Some(folder.path().to_path_buf());
    for (what, budget) in [(What::Weights, Budget::Bytes(0.4)), (What::Channels, Budget::Macs(0.5))] {
        let mut pruned = graph.clone();
        let method = Automatic { what, budget, epochs: 0, final_epochs: 0, ..Automatic::default() };
        let ratios = method.ratios(&graph, &mut run).unwrap();
        assert!(ratios.iter().any(|(_, r)| *r > 0.0), "{ratios:?}");
        method.apply(&mut pruned, &mut run).unwrap();
        method.pack(&mut pruned).unwrap();
        let part = match what {
            What::Weights => bits(&pruned).len() as f64 / bits(&graph).len() as f64,
            What::Channels => {
                pruned.cost().unwrap().macs.total() as f64 / graph.cost().unwrap().macs.total() as f64
            }
        };
        assert!(part <= budget_limit(budget) * 1.02 && part > 0.1, "{what:?} {part}");
    }
    // every point was kept: the analysis is read back
    assert!(std::fs::read_dir(folder.path()).unwrap().count() > 10);
    let impossible = Automatic { what: What::Weights, budget: Budget::Bytes(0.001), ..Automatic::default() };
    let error = impossible.apply(&mut graph, &mut run).unwrap_err().to_string();
    assert!(error.contains("cannot be reached"), "{error}");
}

fn budget_limit(budget: Budget) -> f64 {
    match budget {
        Budget::Macs(p) | Budget::Bytes(p) | Budget::Latency(p) | Budget::Milliseconds(p) => p,
    }
}
