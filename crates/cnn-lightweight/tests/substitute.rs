//! The method `light.separable` on whole networks, and the options of the builders.

use cnn_core::layers::Conv2d;
use cnn_core::model_file::{deploy_bytes, from_bytes};
use cnn_core::testing::{lenet5, stripes};
use cnn_core::train::TrainSettings;
use cnn_core::{Compressor, Error, NetworkOptions, Registry, Run, Selection};
use cnn_lightweight::{SubstituteSeparable, cost, resnet20, substitute};

#[test]
fn a_resnet_loses_the_share_that_the_formula_says() {
    let mut graph = resnet20(&NetworkOptions::default()).unwrap();
    let before = graph.clone();
    let replaced = substitute(&mut graph, &Selection::default(), 4).unwrap();
    assert_eq!(replaced.len(), 18); // all but the first convolution
    for change in &replaced {
        let old = before.layer::<Conv2d>(&change.layer).unwrap().unwrap();
        let new = |part: &str| {
            let conv = graph.layer::<Conv2d>(&format!("{}.{part}", change.layer)).unwrap().unwrap();
            conv.weight().len() as f64
        };
        let ratio = (new("depthwise") + new("pointwise")) / old.weight().len() as f64;
        assert!((ratio - change.cost_ratio).abs() < 1e-12);
        assert_eq!(change.cost_ratio, cost::ratio(old.filters() as u64, 9));
        assert!(change.relative_error > 0.0 && change.relative_error < 1.0);
    }
    assert_eq!(graph.shapes(1).unwrap().last(), before.shapes(1).unwrap().last());
}

#[test]
fn fine_tuning_brings_the_accuracy_back_and_the_file_is_smaller() {
    let shape = [1, 20, 20];
    let (train, validation) = (stripes(240, shape, 4, 1).unwrap(), stripes(80, shape, 4, 2).unwrap());
    let mut registry = Registry::core();
    cnn_lightweight::register(&mut registry);
    let options = NetworkOptions { input: Some(shape), classes: Some(4), width: 0.4, seed: 3 };
    let mut graph = registry.build_network("lenet5", &options).unwrap();
    let settings = TrainSettings { epochs: 4, batch: 20, ..TrainSettings::default() };
    let mut run = Run::new(&train, &validation, settings.clone(), &registry);
    run.fine_tune(&mut graph, &settings).unwrap();
    let trained = run.accuracy(&graph).unwrap();
    let size = deploy_bytes(&graph, false).unwrap().len();

    let config = serde_json::json!({ "epochs": 3, "rate": 0.02, "layers": { "only": ["conv*"] } });
    let method = registry.build_method("light.separable", config).unwrap();
    method.apply(&mut graph, &mut run).unwrap();
    method.pack(&mut graph).unwrap();
    let bytes = deploy_bytes(&graph, false).unwrap();
    // 20 filters of 8 x 5 x 5 become 8 of 5 x 5 and 20 of 8
    assert!(size - bytes.len() >= 4 * (20 * 8 * 25 - 8 * 25 - 20 * 8) - 16);
    let back = from_bytes(&bytes, &registry).unwrap();
    let after = run.accuracy(&back).unwrap();
    assert!(trained > 0.9 && after > trained - 0.1, "{trained} before, {after} after");
}

#[test]
fn what_cannot_be_done_leaves_the_graph_as_it_was() {
    let mut graph = lenet5(0).unwrap();
    let bytes = deploy_bytes(&graph, true).unwrap();
    let misspelt = Selection { only: vec!["convolution*".into()], skip: vec![] };
    assert!(matches!(
        substitute(&mut graph, &misspelt, 1),
        Err(cnn_lightweight::Error::Core(Error::UnknownNode { .. }))
    ));
    let linear = Selection { only: vec!["fc*".into()], skip: vec![] };
    assert!(matches!(
        substitute(&mut graph, &linear, 1),
        Err(cnn_lightweight::Error::Nothing { min_inputs: 1 })
    ));
    assert!(substitute(&mut graph, &Selection::default(), 21).is_err());

    let (train, validation) =
        (stripes(8, [1, 28, 28], 2, 1).unwrap(), stripes(8, [1, 28, 28], 2, 2).unwrap());
    let registry = Registry::core();
    let mut run = Run::new(&train, &validation, TrainSettings::default(), &registry);
    for rate in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        let method = SubstituteSeparable { rate: Some(rate), ..SubstituteSeparable::default() };
        assert!(matches!(method.apply(&mut graph, &mut run), Err(Error::Invalid { .. })));
    }
    let empty = cnn_core::data::Subset::new(&train, vec![]).unwrap();
    run.train = &empty;
    assert!(matches!(SubstituteSeparable::default().apply(&mut graph, &mut run), Err(Error::Data(_))));
    assert_eq!(deploy_bytes(&graph, true).unwrap(), bytes);
}

#[test]
fn a_configuration_reads_back_and_unknown_keys_are_errors() {
    let mut registry = Registry::core();
    cnn_lightweight::register(&mut registry);
    let method = registry.build_method("light.separable", serde_json::Value::Null).unwrap();
    let again = registry.build_method("light.separable", method.config()).unwrap();
    assert_eq!(again.config(), method.config());
    let all = serde_json::json!({ "only": [], "skip": [] });
    let defaults = serde_json::json!({ "epochs": 3, "rate": null, "min_inputs": 4, "layers": all });
    assert_eq!(method.config(), defaults);
    for bad in [
        serde_json::json!({ "epoch": 3 }),
        serde_json::json!({ "rate": -1.0 }),
        serde_json::json!({ "epochs": -1 }),
    ] {
        assert!(registry.build_method("light.separable", bad).is_err());
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
