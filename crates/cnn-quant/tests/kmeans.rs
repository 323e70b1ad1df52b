//! `quant.kmeans` on networks: exactness, zeros, errors, size, checkpoints.
#![allow(clippy::unwrap_used)] // helpers of tests

use cnn_core::data::{Subset, batch};
use cnn_core::error::Error;
use cnn_core::layers::{Conv2d, ConvOptions, Flatten, Linear};
use cnn_core::model_file::{deploy_bytes, from_bytes};
use cnn_core::tensor::{slice, tensor};
use cnn_core::testing::{check_layer, lenet5, strategies, stripes};
use cnn_core::train::{CrossEntropy, EpochInfo, Hook, Optimizer, Progress, TrainData, TrainSettings, train};
use cnn_core::{Compressor, Graph, Registry, Run, Tensor};
use cnn_quant::{CODEBOOK, CodebookConv2d, CodebookLinear, Form, HALF, Init, KMeansQuantizer, Sharing};
use proptest::prelude::*;
use serde_json::json;

fn registry() -> Registry {
    let mut registry = Registry::core();
    cnn_quant::register(&mut registry);
    registry
}

/// A small network on 8 x 8 images.
fn small() -> Graph {
    let weights = |shape: &[usize], scale: f32| {
        let count: usize = shape.iter().product();
        tensor(shape, (0..count).map(|i| scale * ((i * 73 % 199) as f32 / 199.0 - 0.5)).collect()).unwrap()
    };
    let mut graph = Graph::new(&[1, 8, 8]);
    let options = ConvOptions::default().stride(2);
    graph
        .push("conv", Conv2d::new(weights(&[6, 1, 3, 3], 1.0), Some(weights(&[6], 0.1)), options).unwrap())
        .unwrap();
    graph.push("relu", cnn_core::layers::Activation::relu()).unwrap();
    graph.push("flatten", Flatten).unwrap();
    graph.push("fc", Linear::new(weights(&[4, 54], 0.5), Some(weights(&[4], 0.1))).unwrap()).unwrap();
    graph
}

fn apply(method: &KMeansQuantizer, graph: &mut Graph) -> cnn_core::Result<()> {
    let (train, validation) = (stripes(64, [1, 8, 8], 4, 0)?, stripes(32, [1, 8, 8], 4, 1)?);
    let registry = registry();
    method.apply(graph, &mut Run::new(&train, &validation, TrainSettings::default(), &registry))
}

/// Zeroes the weights below the given share in absolute value.
fn prune(graph: &mut Graph, node: &str, share: f64) {
    let prune = |weight: &mut cnn_core::Param| {
        let mut sizes: Vec<f32> = weight.base().iter().map(|w| w.abs()).collect();
        sizes.sort_by(f32::total_cmp);
        let threshold = sizes[(share * sizes.len() as f64) as usize];
        weight.set_base(weight.base().mapv(|w| if w.abs() < threshold { 0.0 } else { w }));
    };
    if let Some(conv) = graph.layer_mut::<Conv2d>(node).unwrap() {
        prune(conv.weight_mut());
    } else if let Some(linear) = graph.layer_mut::<Linear>(node).unwrap() {
        prune(linear.weight_mut());
    }
}

#[test]
fn packed_equals_constrained_and_survives_the_file() {
    let groups = [Sharing::Layer, Sharing::Channel, Sharing::Groups(3)];
    for (half, sharing) in [true, false].into_iter().flat_map(|half| groups.map(|sharing| (half, sharing))) {
        let mut graph = small();
        prune(&mut graph, "fc", 0.3);
        let method = KMeansQuantizer { bits: 3, half, sharing, rate: 1e-2, ..KMeansQuantizer::default() };
        apply(&method, &mut graph).unwrap();
        assert!(matches!(deploy_bytes(&graph, false), Err(Error::Node { .. } | Error::Constrained { .. })));
        let images = batch(&stripes(9, [1, 8, 8], 4, 7).unwrap(), &[0, 3, 8]).unwrap().0;
        let constrained = graph.infer(&images).unwrap();
        method.pack(&mut graph).unwrap();
        assert_eq!(graph.infer(&images).unwrap(), constrained);
        let bytes = deploy_bytes(&graph, false).unwrap();
        let back = from_bytes(&bytes, &registry()).unwrap();
        assert_eq!(back.infer(&images).unwrap(), constrained);
        assert_eq!(back.cost().unwrap(), graph.cost().unwrap());
        let fc = graph.layer::<CodebookLinear>("fc").unwrap().unwrap();
        assert!(fc.weights().alphabet() <= 8);
        let books = fc.weights().codebooks().len();
        assert_eq!(
            books,
            match sharing {
                Sharing::Layer => 1,
                Sharing::Channel => 4,
                Sharing::Groups(n) => n,
            }
        );
        assert_eq!(fc.weights().decoded().unwrap(), *fc.dense().unwrap().weight().value());
        assert!(graph.layer::<CodebookConv2d>("conv").unwrap().is_some());
    }
}

#[test]
fn centroids_learn_and_zeros_stay() {
    let mut graph = small();
    let data = stripes(64, [1, 8, 8], 4, 0).unwrap();
    let loss = |g: &Graph| cnn_core::train::evaluate(g, &data).unwrap().loss;
    let optimizer = Optimizer::sgd(0.05, 5e-4);
    let float = TrainSettings { epochs: 30, batch: 16, optimizer, ..TrainSettings::default() };
    let training = TrainData { train: &data, validation: None, augment: None, checkpoint: None };
    train(&mut graph, training, &float, &mut CrossEntropy::default(), &mut [], &Progress::quiet()).unwrap();
    assert!(loss(&graph) < 0.2, "{}", loss(&graph));
    prune(&mut graph, "fc", 0.6);
    prune(&mut graph, "conv", 0.3);
    let zeros = |g: &Graph| -> Vec<bool> {
        let fc = g.layer::<Linear>("fc").unwrap().unwrap();
        let conv = g.layer::<Conv2d>("conv").unwrap().unwrap();
        fc.weight().value().iter().chain(conv.weight().value()).map(|&w| w == 0.0).collect()
    };
    let before = zeros(&graph);
    let still = KMeansQuantizer { bits: 2, epochs: 0, ..KMeansQuantizer::default() };
    let learned = KMeansQuantizer { epochs: 10, rate: 1e-2, ..still.clone() };
    let mut fixed = graph.clone();
    apply(&still, &mut fixed).unwrap();
    apply(&learned, &mut graph).unwrap();
    assert_eq!(zeros(&fixed), before);
    assert_eq!(zeros(&graph), before);
    assert!(loss(&graph) < 0.9 * loss(&fixed), "{} from {}", loss(&graph), loss(&fixed));
    // three values and zero
    let mut values: Vec<f32> =
        slice(graph.layer::<Linear>("fc").unwrap().unwrap().weight().value()).unwrap().to_vec();
    values.sort_by(f32::total_cmp);
    values.dedup();
    assert!(values.len() <= 4 && values.contains(&0.0), "{values:?}");
}

#[test]
fn settings_reach_the_weights() {
    let values = |method: KMeansQuantizer| {
        let mut graph = small();
        apply(&KMeansQuantizer { epochs: 0, ..method.clone() }, &mut graph).unwrap();
        method.pack(&mut graph).unwrap();
        let fc = graph.layer::<CodebookLinear>("fc").unwrap().unwrap();
        (fc.weights().alphabet(), slice(&fc.weights().decoded().unwrap()).unwrap().to_vec())
    };
    let default = KMeansQuantizer { bits: 3, ..KMeansQuantizer::default() };
    assert_eq!(values(KMeansQuantizer { clusters: Some(11), ..default.clone() }).0, 11);
    let few = values(KMeansQuantizer { error: Some(0.3), ..default.clone() }).0;
    assert!((2..8).contains(&few), "{few}");
    let plain = values(default.clone()).1;
    assert_ne!(values(KMeansQuantizer { curvature: 32, ..default.clone() }).1, plain);
    assert_ne!(values(KMeansQuantizer { init: Init::Optimal, ..default }).1, plain);
}

#[test]
fn fewer_values_than_centroids_lose_nothing() {
    let mut graph = small();
    let fc = graph.layer_mut::<Linear>("fc").unwrap().unwrap();
    let coarse = fc.weight().base().mapv(|w| (w * 8.0).round() / 8.0);
    fc.weight_mut().set_base(coarse);
    let before = fc.weight().value().clone();
    let layers = cnn_core::Selection { only: vec!["fc".into()], skip: vec![] };
    for half in [true, false] {
        let mut graph = graph.clone();
        let method = KMeansQuantizer {
            bits: 8,
            half,
            epochs: 0,
            layers: layers.clone(),
            ..KMeansQuantizer::default()
        };
        apply(&method, &mut graph).unwrap();
        assert_eq!(graph.layer::<Linear>("fc").unwrap().unwrap().weight().value(), &before);
        assert!(graph.layer::<Conv2d>("conv").unwrap().unwrap().weight().constraints().is_empty());
    }
    // all weights pruned, and all weights equal
    for value in [0.0f32, 0.25] {
        let mut graph = graph.clone();
        let fc = graph.layer_mut::<Linear>("fc").unwrap().unwrap();
        fc.weight_mut().set_base(Tensor::from_elem(ndarray::IxDyn(&[4, 54]), value));
        let method = KMeansQuantizer { bits: 1, ..KMeansQuantizer::default() };
        apply(&method, &mut graph).unwrap();
        method.pack(&mut graph).unwrap();
        from_bytes(&deploy_bytes(&graph, false).unwrap(), &registry()).unwrap();
        let fc = graph.layer::<CodebookLinear>("fc").unwrap().unwrap();
        assert_eq!(fc.weights().alphabet(), 1);
    }
}

#[test]
fn values_that_16_bits_cannot_hold_keep_32() {
    for scale in [1e-7f32, 1e7] {
        let mut graph = small();
        let fc = graph.layer_mut::<Linear>("fc").unwrap().unwrap();
        let scaled = fc.weight().base() * scale;
        fc.weight_mut().set_base(scaled.clone());
        let method = KMeansQuantizer { bits: 6, epochs: 0, ..KMeansQuantizer::default() };
        apply(&method, &mut graph).unwrap();
        method.pack(&mut graph).unwrap();
        let fc = graph.layer::<CodebookLinear>("fc").unwrap().unwrap();
        assert!(cnn_core::tensor::relative_error(fc.dense().unwrap().weight().value(), &scaled) < 0.05);
        from_bytes(&deploy_bytes(&graph, false).unwrap(), &registry()).unwrap();
    }
}

#[test]
fn bits_by_pattern() {
    let mut graph = small();
    let method = KMeansQuantizer {
        bits: 4,
        per_layer: [("conv*".to_string(), 2), ("*".to_string(), 3)].into(),
        epochs: 0,
        init: Init::KMeansPlusPlus,
        ..KMeansQuantizer::default()
    };
    apply(&method, &mut graph).unwrap();
    method.pack(&mut graph).unwrap();
    assert_eq!(graph.layer::<CodebookConv2d>("conv").unwrap().unwrap().weights().alphabet(), 4);
    assert_eq!(graph.layer::<CodebookLinear>("fc").unwrap().unwrap().weights().alphabet(), 8);
}

#[test]
fn what_cannot_be_is_refused_and_the_graph_stays() {
    let registry = registry();
    let build = |config| registry.build_method("quant.kmeans", config);
    assert!(build(json!(null)).is_ok());
    for bad in [
        json!({ "bits": 0 }),
        json!({ "bits": 9 }),
        json!({ "bits": 300 }),
        json!({ "bits": -1 }),
        json!({ "rate": -1.0 }),
        json!({ "rate": "fast" }),
        json!({ "per_layer": { "fc": 9 } }),
        json!({ "init": "random" }),
        json!({ "clusters": 1 }),
        json!({ "clusters": 257 }),
        json!({ "error": 1.0 }),
        json!({ "error": -0.5 }),
        json!({ "sharing": { "groups": 0 } }),
        json!({ "sharing": "row" }),
        json!({ "gradient": "median" }),
        json!({ "bit": 4 }),
    ] {
        let message = build(bad.clone()).map(|_| ()).unwrap_err().to_string();
        assert!(message.contains("quant.kmeans"), "{bad}: {message}");
    }
    let graph = small();
    for (method, says) in [
        (KMeansQuantizer { bits: 77, ..Default::default() }, "1 to 8"),
        (KMeansQuantizer { rate: f32::NAN, ..Default::default() }, "rate"),
        (KMeansQuantizer { per_layer: [("cnv".to_string(), 3)].into(), ..Default::default() }, "cnv"),
        (serde_json::from_value(json!({ "layers": { "only": ["relu"] } })).unwrap(), "no convolution"),
        (serde_json::from_value(json!({ "layers": { "only": ["nothing"] } })).unwrap(), "nothing"),
    ] {
        let mut changed = graph.clone();
        let message = apply(&method, &mut changed).unwrap_err().to_string();
        assert!(message.contains(says), "{message}");
        assert_eq!(deploy_bytes(&changed, true).unwrap(), deploy_bytes(&graph, true).unwrap());
    }
    let mut bad = graph.clone();
    bad.layer_mut::<Linear>("fc")
        .unwrap()
        .unwrap()
        .weight_mut()
        .set_base(Tensor::from_elem(ndarray::IxDyn(&[4, 54]), f32::NAN));
    let message = apply(&KMeansQuantizer::default(), &mut bad).unwrap_err().to_string();
    assert!(message.contains("weights of `fc` are not finite"), "{message}");

    let mut twice = graph.clone();
    apply(&KMeansQuantizer::default(), &mut twice).unwrap();
    let message = apply(&KMeansQuantizer::default(), &mut twice).unwrap_err().to_string();
    assert!(message.contains("already"), "{message}");
    // packing where there is nothing to pack changes nothing
    let mut untouched = graph.clone();
    KMeansQuantizer::default().pack(&mut untouched).unwrap();
    assert_eq!(deploy_bytes(&untouched, true).unwrap(), deploy_bytes(&graph, true).unwrap());
}

#[test]
fn more_than_256_values_on_top_are_refused_by_pack() {
    let mut graph = lenet5(0).unwrap();
    let data = stripes(8, [1, 28, 28], 10, 0).unwrap();
    let registry = registry();
    let method = KMeansQuantizer { epochs: 0, ..KMeansQuantizer::default() };
    method.apply(&mut graph, &mut Run::new(&data, &data, TrainSettings::default(), &registry)).unwrap();
    #[derive(Debug, Clone)]
    struct Noise;
    impl cnn_core::Constraint for Noise {
        fn kind(&self) -> &'static str {
            "test.noise"
        }
        fn materialize(&self, w: &mut Tensor) {
            w.iter_mut().enumerate().for_each(|(i, w)| *w += i as f32 * 1e-5);
        }
        fn pull_back(&mut self, _: &Tensor, _: &mut Tensor) {}
        fn select(&mut self, _: usize, _: &[usize]) -> cnn_core::Result<()> {
            Ok(())
        }
        fn encode(&self, _: &mut cnn_core::model_file::Encoder) -> cnn_core::Result<()> {
            Ok(())
        }
        fn clone_box(&self) -> Box<dyn cnn_core::Constraint> {
            Box::new(self.clone())
        }
    }
    graph.layer_mut::<Linear>("fc1").unwrap().unwrap().weight_mut().constrain(Box::new(Noise));
    let message = method.pack(&mut graph).unwrap_err().to_string();
    assert!(message.contains("fc1") && message.contains("256"), "{message}");
    assert!(graph.layer::<Conv2d>("conv1").unwrap().is_some());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn contract_of_the_packed_layers(
        w in strategies::tensor(&[4, 2, 3, 3]),
        b in strategies::tensor(&[4]),
        x in strategies::tensor(&[3, 4, 6, 5]),
        levels in 1.0f32..60.0,
        half in any::<bool>(),
    ) {
        // coarse values, so that they repeat and some are zero
        let round = |t: &Tensor| t.mapv(|v| {
            let v = (v * levels).round() / levels;
            if half { half::f16::from_f32(v).to_f32() } else { v }
        });
        let options = ConvOptions::default().groups(2).pad(1);
        let conv = Conv2d::new(round(&w), Some(round(&b)), options).unwrap();
        let packed = CodebookConv2d::pack(&conv).unwrap();
        check_layer(&packed, &x, &registry()).unwrap();
        prop_assert_eq!(packed.dense().weight().value(), conv.weight().value());
        let linear = Linear::new(round(&w).into_shape_with_order(ndarray::IxDyn(&[8, 9])).unwrap(), None).unwrap();
        let input = x.into_shape_with_order(ndarray::IxDyn(&[40, 9])).unwrap();
        check_layer(&CodebookLinear::pack(&linear).unwrap(), &input, &registry()).unwrap();
    }
}

/// LeNet-5 with weights of a trained shape (large ones are rare), pruned to about 7 %.
fn pruned_lenet() -> Graph {
    let mut graph = lenet5(3).unwrap();
    for (name, share) in [("conv1", 0.34), ("conv2", 0.88), ("fc1", 0.937), ("fc2", 0.81)] {
        // uniform initial weights, bent into a heavy-tailed distribution
        let bend = |w: f32| w * w.abs() * 8.0;
        if let Some(conv) = graph.layer_mut::<Conv2d>(name).unwrap() {
            let bent = conv.weight().base().mapv(bend);
            conv.weight_mut().set_base(bent);
        } else if let Some(linear) = graph.layer_mut::<Linear>(name).unwrap() {
            let bent = linear.weight().base().mapv(bend);
            linear.weight_mut().set_base(bent);
        }
        prune(&mut graph, name, share);
    }
    graph
}

#[test]
fn a_pruned_lenet_is_at_least_35_times_smaller() {
    let mut graph = pruned_lenet();
    let nonzeros = graph.cost().unwrap().nonzeros;
    assert!((25_000..32_000).contains(&nonzeros), "{nonzeros}");
    let data = stripes(16, [1, 28, 28], 10, 0).unwrap();
    let registry = registry();
    let method = KMeansQuantizer {
        bits: 5,
        per_layer: [("conv*".to_string(), 8)].into(),
        epochs: 1,
        ..KMeansQuantizer::default()
    };
    method.apply(&mut graph, &mut Run::new(&data, &data, TrainSettings::default(), &registry)).unwrap();
    method.pack(&mut graph).unwrap();
    let bytes = deploy_bytes(&graph, false).unwrap();
    for name in ["fc1", "fc2"] {
        let sizes = graph.layer::<CodebookLinear>(name).unwrap().unwrap().weights().sizes().unwrap();
        println!("{name}: {sizes:?}");
        assert_eq!(sizes.iter().min_by_key(|s| s.1).unwrap().0, Form::Adaptive);
    }
    for name in ["conv1", "conv2"] {
        println!(
            "{name}: {:?}",
            graph.layer::<CodebookConv2d>(name).unwrap().unwrap().weights().sizes().unwrap()
        );
    }
    println!("{} bytes, {:.1} times smaller", bytes.len(), 1_724_320.0 / bytes.len() as f64);
    assert!(bytes.len() * 35 <= 1_724_320, "{} bytes", bytes.len());
}

#[test]
fn damaged_bytes_give_errors() {
    let mut graph = small();
    prune(&mut graph, "fc", 0.7);
    let method = KMeansQuantizer { bits: 4, epochs: 0, ..KMeansQuantizer::default() };
    apply(&method, &mut graph).unwrap();
    method.pack(&mut graph).unwrap();
    let good = deploy_bytes(&graph, false).unwrap();
    let registry = registry();
    // 54 weights and 216, twice each, must be claimed before they are decoded
    let message = cnn_core::model_file::from_bytes_limited(&good, &registry, 400).unwrap_err().to_string();
    assert!(message.contains("400 elements"), "{message}");
    let body = good.len() - 4;
    let framed = |mut bytes: Vec<u8>| {
        let sum = crc32fast::hash(&bytes);
        bytes.extend_from_slice(&sum.to_le_bytes());
        bytes
    };
    // with a checksum that fits, so that the decoders themselves are reached
    for at in 5..body {
        for flip in [0x01, 0x10, 0x80, 0xff] {
            let mut bytes = good[..body].to_vec();
            bytes[at] ^= flip;
            let read = cnn_core::model_file::from_bytes_limited(&framed(bytes), &registry, 100_000);
            if let Ok(graph) = read {
                graph.cost().unwrap();
            }
        }
        assert!(from_bytes(&framed(good[..at].to_vec()), &registry).is_err(), "cut at {at}");
    }
}

/// Fails after the second epoch, if armed.
#[derive(Debug)]
struct Interrupt {
    armed: bool,
}

impl Hook for Interrupt {
    fn name(&self) -> &'static str {
        "test.interrupt"
    }

    fn on_epoch(&mut self, _: &mut Graph, info: &EpochInfo) -> cnn_core::Result<()> {
        match info.epoch {
            1 if self.armed => Err(Error::Data("interrupted".into())),
            _ => Ok(()),
        }
    }
}

#[test]
fn training_goes_on_from_a_checkpoint_with_the_same_bits() {
    let mut start = small();
    prune(&mut start, "fc", 0.5);
    apply(&KMeansQuantizer { bits: 3, epochs: 0, ..Default::default() }, &mut start).unwrap();
    let data = stripes(48, [1, 8, 8], 4, 0).unwrap();
    let few = Subset::new(&data, (0..40).collect()).unwrap();
    let settings = TrainSettings {
        epochs: 3,
        optimizer: Optimizer::adamw(1e-2, 1e-3),
        batch: 16,
        ..TrainSettings::default()
    };
    let registry = registry();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state");
    let run = |graph: &mut Graph, checkpoint: bool, hooks: &mut [Box<dyn Hook>]| {
        let checkpoint = checkpoint.then_some((path.as_path(), &registry));
        let data = TrainData { train: &few, validation: None, augment: None, checkpoint };
        train(graph, data, &settings, &mut CrossEntropy::default(), hooks, &Progress::quiet()).map(|_| ())
    };
    let mut whole = start.clone();
    run(&mut whole, false, &mut [Box::new(Interrupt { armed: false })]).unwrap();
    let mut resumed = start.clone();
    assert!(run(&mut resumed, true, &mut [Box::new(Interrupt { armed: true })]).is_err());
    run(&mut resumed, true, &mut [Box::new(Interrupt { armed: false })]).unwrap();
    for name in ["fc", "conv"] {
        let value = |g: &Graph| g.node(name).unwrap().layer().params()[0].value().clone();
        assert_eq!(value(&whole), value(&resumed));
        assert_ne!(value(&whole), value(&start));
        let kinds: Vec<&str> =
            resumed.node(name).unwrap().layer().params()[0].constraints().iter().map(|c| c.kind()).collect();
        assert_eq!(kinds, [CODEBOOK]);
        assert_eq!(resumed.node(name).unwrap().layer().params()[1].constraints()[0].kind(), HALF);
    }
}

#[test]
fn channels_can_be_removed_under_the_constraint() {
    let mut graph = small();
    let method = KMeansQuantizer { bits: 3, epochs: 0, ..KMeansQuantizer::default() };
    apply(&method, &mut graph).unwrap();
    let full = graph.layer::<Conv2d>("conv").unwrap().unwrap().weight().value().clone();
    graph.keep_channels("conv", &[1, 4, 5]).unwrap();
    let kept = graph.layer::<Conv2d>("conv").unwrap().unwrap().weight().value().clone();
    assert_eq!(kept, full.select(ndarray::Axis(0), &[1, 4, 5]));
    method.pack(&mut graph).unwrap();
    assert_eq!(graph.shapes(1).unwrap().last().unwrap(), &[1, 4]);
}
