//! The methods of substitution on whole networks, and the options of the builders.

#![allow(clippy::unwrap_used)] // helpers of tests are tests

use cnn_core::layers::{Activation, BatchNorm, Conv2d};
use cnn_core::model_file::{deploy_bytes, from_bytes};
use cnn_core::tensor::relative_error;
use cnn_core::testing::{lenet5, stripes};
use cnn_core::train::TrainSettings;
use cnn_core::{Compressor, Error, Graph, NetworkOptions, Registry, Run, Selection};
use cnn_lightweight::{
    SubstituteGroupShuffle, SubstituteInverted, SubstituteSeparable, Substitution, cost, resnet20,
};

type Substitute = fn(&Selection, usize, &mut Graph) -> cnn_lightweight::Result<Vec<Substitution>>;

/// The three methods with all that is common.
const ALL: [(&str, Substitute); 3] = [
    ("light.separable", |layers, min_inputs, graph| {
        let method =
            SubstituteSeparable { layers: layers.clone(), min_inputs, ..SubstituteSeparable::default() };
        method.substitute(graph)
    }),
    ("light.group_shuffle", |layers, min_inputs, graph| {
        let groups = 2;
        SubstituteGroupShuffle {
            groups,
            layers: layers.clone(),
            min_inputs,
            ..SubstituteGroupShuffle::default()
        }
        .substitute(graph)
    }),
    ("light.inverted_residual", |layers, min_inputs, graph| {
        let method =
            SubstituteInverted { layers: layers.clone(), min_inputs, ..SubstituteInverted::default() };
        method.substitute(graph)
    }),
];

fn only(patterns: &[&str]) -> Selection {
    Selection { only: patterns.iter().map(|p| p.to_string()).collect(), skip: vec![] }
}

#[test]
fn a_resnet_loses_the_share_that_the_formula_says() {
    for (multiplier, r) in [(1, 1.0), (3, 3.0)] {
        let mut graph = resnet20(&NetworkOptions::default()).unwrap();
        let before = graph.clone();
        let method = SubstituteSeparable { multiplier, ..SubstituteSeparable::default() };
        let replaced = method.substitute(&mut graph).unwrap();
        assert_eq!(replaced.len(), 18); // all but the first convolution
        for change in &replaced {
            let old = before.layer::<Conv2d>(&change.layer).unwrap().unwrap();
            let formula = r * cost::ratio(old.filters() as u64, 9);
            assert!((change.cost_ratio - formula).abs() < 1e-12);
            let [was, is] = change.weights;
            assert!((is as f64 / was as f64 - formula).abs() < 1e-12);
            assert!(change.relative_error > 0.0 && change.relative_error < 1.0);
        }
        assert_eq!(graph.shapes(1).unwrap().last(), before.shapes(1).unwrap().last());
    }
}

/// What the methods say of costs is what the network says, strides included, and what was around a layer
/// stays.
#[test]
fn reports_add_up() {
    let before = resnet20(&NetworkOptions::default()).unwrap();
    for (name, substitute) in ALL {
        let mut graph = before.clone();
        let replaced = substitute(&Selection::default(), 4, &mut graph).unwrap();
        assert_eq!(replaced.len(), 18, "{name}");
        let (old, new) = (before.cost().unwrap(), graph.cost().unwrap());
        let sum = |of: fn(&Substitution) -> [u64; 2]| {
            replaced.iter().map(of).fold((0, 0), |(a, b), [was, is]| (a + was, b + is))
        };
        let (macs, weights) = (sum(|c| c.macs), sum(|c| c.weights));
        assert_eq!(old.macs.total() - new.macs.total(), macs.0 - macs.1, "{name}");
        assert_eq!(old.params - new.params, weights.0 - weights.1, "{name}");
        assert_eq!(graph.names_of::<BatchNorm>(), before.names_of::<BatchNorm>(), "{name}");
        for change in &replaced {
            assert!(change.cost_ratio < 1.0, "{name}: {change}");
            assert_eq!(change.cost_ratio, change.macs[1] as f64 / change.macs[0] as f64);
        }
    }
}

/// With as many filters, ranks or channels as the weights have, the network gives what it gave, through
/// strides, shortcuts and batch normalization. Nothing is cheaper then, so the layers are exchanged by hand.
#[test]
fn forms_of_full_rank_change_nothing() {
    let options = NetworkOptions { width: 0.5, seed: 4, ..NetworkOptions::default() };
    let mut graph = resnet20(&options).unwrap();
    // an input that no rectifier would leave as it is
    let images = cnn_core::init::Init::new(2).normal(&[2, 3, 32, 32], 1.0).unwrap();
    let before = graph.infer(&images).unwrap();
    for name in ["stage2.block1.conv1", "stage3.block2.conv2"] {
        let conv = graph.layer::<Conv2d>(name).unwrap().unwrap().clone();
        let light = cnn_lightweight::group_shuffle(&conv, 2, 64.0).unwrap();
        let chain: Vec<(String, Box<dyn cnn_core::Layer>)> = vec![
            (format!("{name}.grouped"), Box::new(light.grouped)),
            (format!("{name}.shuffle"), Box::new(light.shuffle)),
            (format!("{name}.pointwise"), Box::new(light.pointwise)),
        ];
        graph.splice(name, chain).unwrap();
    }
    let error = relative_error(&graph.infer(&images).unwrap(), &before);
    assert!(error < 1e-5, "{error}");
}

/// The rectifier of the inverted residual block stands where the input is known not to be negative, and there
/// changes nothing.
#[test]
fn a_rectifier_stands_where_it_changes_nothing() {
    let options = NetworkOptions { input: Some([3, 32, 32]), classes: Some(4), width: 0.25, seed: 2 };
    let plain = cnn_lightweight::vgg16(&options).unwrap();
    let images = cnn_core::init::Init::new(2).normal(&[2, 3, 32, 32], 1.0).unwrap();
    let with = |rectify| {
        let mut graph = plain.clone();
        let method = SubstituteInverted { rectify, min_inputs: 1, ..SubstituteInverted::default() };
        let replaced = method.substitute(&mut graph).unwrap();
        (graph.names_of::<Activation>().len(), graph.infer(&images).unwrap(), replaced)
    };
    let ((without, linear, _), (rectified, answers, replaced)) = (with(false), with(true));
    assert_eq!(answers, linear);
    assert_eq!(without, 14);
    let first = usize::from(replaced.iter().any(|c| c.layer == "conv1_1"));
    // images have negative pixels: the first convolution gets none
    assert_eq!(rectified, without + replaced.len() - first);
}

#[test]
fn fine_tuning_brings_the_accuracy_back_and_the_file_is_smaller() {
    let shape = [1, 20, 20];
    let (train, validation) = (stripes(240, shape, 4, 1).unwrap(), stripes(80, shape, 4, 2).unwrap());
    let mut registry = Registry::core();
    cnn_lightweight::register(&mut registry);
    let options = NetworkOptions { input: Some(shape), classes: Some(4), width: 0.4, seed: 3 };
    let mut dense = registry.build_network("lenet5", &options).unwrap();
    let settings = TrainSettings { epochs: 4, batch: 20, ..TrainSettings::default() };
    let mut run = Run::new(&train, &validation, settings.clone(), &registry);
    run.fine_tune(&mut dense, &settings).unwrap();
    let trained = run.accuracy(&dense).unwrap();
    let size = deploy_bytes(&dense, false).unwrap().len();

    // 20 filters of 8 x 5 x 5: 8 of 5 x 5 and 20 of 8; 5 channels between each two of two groups;
    // 16 copies of 8, 16 of 5 x 5 and 20 of 16
    let methods = [
        ("light.separable", serde_json::json!({}), 8 * 25 + 20 * 8),
        ("light.group_shuffle", serde_json::json!({ "groups": 2 }), 20 * 4 * 25 + 20 * 10),
        ("light.inverted_residual", serde_json::json!({ "expansion": 2 }), 16 * 8 + 16 * 25 + 20 * 16),
    ];
    for (name, mut config, weights) in methods {
        config["epochs"] = 3.into();
        config["rate"] = 0.02.into();
        config["layers"] = serde_json::json!({ "only": ["conv*"] });
        let method = registry.build_method(name, config).unwrap();
        let mut graph = dense.clone();
        method.apply(&mut graph, &mut run).unwrap();
        method.pack(&mut graph).unwrap();
        let bytes = deploy_bytes(&graph, false).unwrap();
        assert!(size - bytes.len() >= 4 * (20 * 8 * 25 - weights) - 48, "{name}");
        let back = from_bytes(&bytes, &registry).unwrap();
        let after = run.accuracy(&back).unwrap();
        assert!(trained > 0.9 && after > trained - 0.1, "{name}: {trained} before, {after} after");
    }
}

#[test]
fn what_cannot_be_done_leaves_the_graph_as_it_was() {
    let mut graph = lenet5(0).unwrap();
    let bytes = deploy_bytes(&graph, true).unwrap();
    for (name, substitute) in ALL {
        assert!(matches!(
            substitute(&only(&["convolution*"]), 1, &mut graph),
            Err(cnn_lightweight::Error::Core(Error::UnknownNode { .. }))
        ));
        let nothing =
            |layers: &Selection, min_inputs, graph: &mut Graph| match substitute(layers, min_inputs, graph) {
                Err(cnn_lightweight::Error::Nothing(why)) => why,
                other => panic!("{name}: {other:?}"),
            };
        assert_eq!(nothing(&only(&["fc*"]), 1, &mut graph), "the selection holds none");
        let why = nothing(&Selection::default(), 21, &mut graph);
        assert!(why.contains("conv1 has 1 input") && why.contains("conv2 has 20 input channels"), "{why}");
        // named without a wildcard: refused by name
        for (layer, least, reason) in [("fc1", 1, "`linear`"), ("conv1", 2, "1 input channels")] {
            let refused = substitute(&only(&[layer, "conv*"]), least, &mut graph).unwrap_err().to_string();
            assert!(refused.contains(layer) && refused.contains(reason), "{refused}");
        }
    }
    let error =
        SubstituteSeparable { multiplier: 30, layers: only(&["conv2"]), ..SubstituteSeparable::default() }
            .substitute(&mut graph)
            .unwrap_err()
            .to_string();
    assert!(error.contains("conv2") && error.contains("times the multiply-adds"), "{error}");

    let (train, validation) =
        (stripes(8, [1, 28, 28], 2, 1).unwrap(), stripes(8, [1, 28, 28], 2, 2).unwrap());
    let registry = Registry::core();
    let mut run = Run::new(&train, &validation, TrainSettings::default(), &registry);
    for rate in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        let rate = Some(rate);
        let methods: [Box<dyn Compressor>; 3] = [
            Box::new(SubstituteSeparable { rate, ..SubstituteSeparable::default() }),
            Box::new(SubstituteGroupShuffle { rate, ..SubstituteGroupShuffle::default() }),
            Box::new(SubstituteInverted { rate, ..SubstituteInverted::default() }),
        ];
        for method in methods {
            assert!(matches!(method.apply(&mut graph, &mut run), Err(Error::Invalid { .. })));
        }
    }
    let empty = cnn_core::data::Subset::new(&train, vec![]).unwrap();
    run.train = &empty;
    assert!(matches!(SubstituteSeparable::default().apply(&mut graph, &mut run), Err(Error::Data(_))));
    assert_eq!(deploy_bytes(&graph, true).unwrap(), bytes);
}

#[test]
fn a_configuration_reads_back_and_bad_ones_are_errors() {
    let mut registry = Registry::core();
    cnn_lightweight::register(&mut registry);
    let all = serde_json::json!({ "only": [], "skip": [] });
    let common = |more: serde_json::Value| {
        let mut defaults =
            serde_json::json!({ "epochs": 3, "rate": null, "min_inputs": 4, "layers": all.clone() });
        for (key, value) in more.as_object().unwrap() {
            defaults[key] = value.clone();
        }
        defaults
    };
    let methods = [
        ("light.separable", serde_json::json!({ "multiplier": 1 }), serde_json::json!({ "multiplier": 0 })),
        (
            "light.group_shuffle",
            serde_json::json!({ "groups": 4, "inner": 1.0 }),
            serde_json::json!({ "groups": 1 }),
        ),
        (
            "light.inverted_residual",
            serde_json::json!({ "expansion": 2, "rectify": true }),
            serde_json::json!({ "expansion": 0 }),
        ),
    ];
    for (name, own, bad) in methods {
        let method = registry.build_method(name, serde_json::Value::Null).unwrap();
        assert_eq!(method.name(), name);
        assert_eq!(method.config(), common(own));
        let again = registry.build_method(name, method.config()).unwrap();
        assert_eq!(again.config(), method.config());
        for bad in [
            bad,
            serde_json::json!({ "epoch": 3 }),
            serde_json::json!({ "rate": -1.0 }),
            serde_json::json!({ "epochs": -1 }),
        ] {
            assert!(registry.build_method(name, bad).is_err(), "{name}");
        }
    }
    for inner in [0.0, -1.0, 65.0] {
        let bad = serde_json::json!({ "inner": inner });
        assert!(registry.build_method("light.group_shuffle", bad).is_err());
    }
}

#[test]
fn absurd_options_are_errors_for_every_network() {
    let mut registry = Registry::core();
    cnn_lightweight::register(&mut registry);
    let names: Vec<&str> = registry.network_names().collect();
    assert_eq!(names.len(), 22);
    let plain = NetworkOptions::default();
    for name in names {
        let options = |change: &dyn Fn(&mut NetworkOptions)| {
            let mut options = plain.clone();
            change(&mut options);
            options
        };
        let mut absurd: Vec<NetworkOptions> =
            [0.0, -1.0, f64::NAN, f64::INFINITY, 1e9].map(|w| options(&|o| o.width = w)).into();
        absurd.extend([0, usize::MAX, 1 << 28].map(|c| options(&|o| o.classes = Some(c))));
        let inputs = [[0, 32, 32], [1, 0, 32], [usize::MAX, 2, 2], [1, usize::MAX, 1], [1 << 26, 64, 64]];
        absurd.extend(inputs.map(|i| options(&|o| o.input = Some(i))));
        for options in absurd {
            let error = registry.build_network(name, &options).unwrap_err().to_string();
            assert!(error.contains(name), "{name}: {error}");
        }
    }
}
