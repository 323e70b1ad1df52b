//! Every network: exact costs, a step of training, its file, and the removal of channels.

#![allow(clippy::unwrap_used)] // helpers of tests are tests

use cnn_core::data::batch;
use cnn_core::layers::{Conv2d, Linear};
use cnn_core::model_file::{deploy_bytes, from_bytes};
use cnn_core::testing::stripes;
use cnn_core::train::{CrossEntropy, Progress, TrainData, TrainSettings, train};
use cnn_core::{Graph, NetworkOptions, Registry};

fn registry() -> Registry {
    let mut registry = Registry::core();
    cnn_lightweight::register(&mut registry);
    registry
}

/// Parameters and multiply-adds at the network's own input and classes, by width.
const COSTS: [(&str, f64, u64, u64); 30] = [
    ("vgg16", 1.0, 138_357_544, 15_470_264_320),
    ("resnet18", 1.0, 11_689_512, 1_814_073_344),
    ("resnet34", 1.0, 21_797_672, 3_663_761_408),
    ("resnet50", 1.0, 25_557_032, 4_089_184_256),
    ("squeezenet1_0", 1.0, 1_248_424, 818_924_576),
    ("squeezenet1_1", 1.0, 1_235_496, 349_151_936),
    ("mobilenet_v1", 1.0, 4_231_976, 568_740_352),
    ("mobilenet_v1", 0.75, 2_585_560, 325_400_448),
    ("mobilenet_v1", 0.5, 1_331_592, 149_497_088),
    ("mobilenet_v1", 0.25, 470_072, 41_030_272),
    ("mobilenet_v2", 1.0, 3_504_872, 300_774_272),
    ("shufflenet_v1_g3", 1.0, 1_865_728, 137_460_672),
    ("shufflenet_v2", 1.0, 2_278_604, 144_907_992),
    ("fd_mobilenet", 1.0, 2_901_288, 144_489_728),
    ("fd_mobilenet", 0.5, 993_928, 40_132_224),
    ("fd_mobilenet", 0.25, 383_160, 12_037_952),
    ("resnet20", 1.0, 269_722, 40_551_040),
    ("resnet32", 1.0, 464_154, 68_862_592),
    ("resnet44", 1.0, 658_586, 97_174_144),
    ("resnet56", 1.0, 853_018, 125_485_696),
    ("resnet110", 1.0, 1_727_962, 252_887_680),
    ("lenet5", 1.0, 431_080, 2_293_000),
    ("lenet_300_100", 1.0, 266_610, 266_200),
    // not in everybody's tables: added up by hand from the papers' tables of layers
    ("shufflenet_v1_g1", 1.0, 1_531_936, 143_078_976),
    ("shufflenet_v1_g2", 1.0, 1_733_848, 140_836_512),
    ("shufflenet_v1_g4", 1.0, 1_968_344, 134_339_776),
    ("shufflenet_v1_g8", 1.0, 2_434_768, 138_365_952),
    ("shufflenet_v2", 0.5, 1_366_792, 40_476_448),
    ("shufflenet_v2", 1.5, 3_503_624, 295_759_392),
    ("shufflenet_v2", 2.0, 7_393_996, 583_253_464),
];

#[test]
fn costs_are_exact() {
    let registry = registry();
    for (name, width, params, macs) in COSTS {
        let options = NetworkOptions { width, ..NetworkOptions::default() };
        let cost = registry.build_network(name, &options).unwrap().cost().unwrap();
        assert_eq!((cost.params, cost.macs.total()), (params, macs), "{name} at width {width}");
    }
}

/// A small network for images that a digit or a photograph of CIFAR has.
fn small(registry: &Registry, name: &str) -> (Graph, [usize; 3]) {
    let input = if name.starts_with("lenet") { [1, 28, 28] } else { [3, 32, 32] };
    let options = NetworkOptions { input: Some(input), classes: Some(4), width: 0.25, seed: 1 };
    (registry.build_network(name, &options).unwrap(), input)
}

#[test]
fn each_trains_a_step_and_reads_back() {
    let registry = registry();
    for name in registry.network_names() {
        let (mut graph, input) = small(&registry, name);
        let fresh = deploy_bytes(&graph, true).unwrap();
        let data = stripes(4, input, 4, 1).unwrap();
        let settings = TrainSettings { epochs: 1, batch: 4, ..TrainSettings::default() };
        let lent = TrainData { train: &data, validation: None, augment: None, checkpoint: None };
        let quiet = Progress::quiet();
        let history =
            train(&mut graph, lent, &settings, &mut CrossEntropy::default(), &mut [], &quiet).unwrap();
        let loss = history.epochs[0].loss;
        assert!(loss.is_finite() && loss > 0.0, "{name}: {loss}");
        let bytes = deploy_bytes(&graph, true).unwrap();
        assert_ne!(bytes, fresh, "{name}: the step changed nothing");

        let back = from_bytes(&bytes, &registry).unwrap();
        let (images, _) = batch(&data, &[0, 1, 2, 3]).unwrap();
        let answers = graph.infer(&images).unwrap();
        assert_eq!(answers.shape(), [4, 4]);
        assert!(answers.iter().all(|v| v.is_finite()), "{name}");
        assert_eq!(back.infer(&images).unwrap(), answers, "{name}");
        assert_eq!(deploy_bytes(&back, true).unwrap(), bytes, "{name}");
    }
}

/// A layer of the middle of each network, and the channels that go: so that each group of a grouped
/// convolution keeps as many.
#[test]
fn channels_can_be_removed_inside_each() {
    let registry = registry();
    let inner = |name: &str| match name {
        "vgg16" => "conv3_2",
        "lenet5" => "conv1",
        "lenet_300_100" => "fc1",
        "squeezenet1_0" | "squeezenet1_1" => "fire4.expand3",
        "mobilenet_v1" | "mobilenet_v2" | "fd_mobilenet" => "block5.conv1",
        "resnet18" | "resnet34" => "stage2.block1.conv1",
        "resnet50" => "stage3.block2.conv2",
        name if name.starts_with("resnet") => "stage2.block1.conv1",
        // ungrouped, so that only the groups after the shuffle have to stay even
        name if name.starts_with("shufflenet_v1") => "stage2.unit1.conv1",
        "shufflenet_v2" => "stage3.unit2.conv1",
        other => panic!("no layer is named for {other}"),
    };
    for name in registry.network_names() {
        let (mut graph, input) = small(&registry, name);
        let (full, layer) = (graph.cost().unwrap(), inner(name));
        let count = graph.shapes(1).unwrap()[graph.find(layer).unwrap()][1];
        let groups = name.strip_prefix("shufflenet_v1_g").map_or(1, |g| g.parse::<usize>().unwrap());
        // after the shuffle, channel i is channel i % groups * size + i / groups of before
        let size = count / groups;
        let after = |c: usize| c % size * groups + c / size;
        let keep: Vec<usize> = (0..count).filter(|&c| after(c) % size != 0).collect();
        assert!(!keep.is_empty() && keep.len() < count, "{name}");
        graph.keep_channels(layer, &keep).unwrap_or_else(|e| panic!("{name}: {e}"));
        let thin = graph.cost().unwrap();
        assert!(thin.params < full.params && thin.macs.total() < full.macs.total(), "{name}");
        let (images, _) = batch(&stripes(2, input, 4, 1).unwrap(), &[0, 1]).unwrap();
        assert!(graph.infer(&images).unwrap().iter().all(|v| v.is_finite()), "{name}");
        let back = from_bytes(&deploy_bytes(&graph, true).unwrap(), &registry).unwrap();
        assert_eq!(back.infer(&images).unwrap(), graph.infer(&images).unwrap(), "{name}");
    }
}

#[test]
fn the_weights_are_spread_as_the_rules_say() {
    let registry = registry();
    for name in registry.network_names() {
        let input = if name.starts_with("lenet") { [1, 28, 28] } else { [3, 32, 32] };
        let options = NetworkOptions { input: Some(input), width: 0.5, ..NetworkOptions::default() };
        let graph = registry.build_network(name, &options).unwrap();
        let glorot_throughout = name.starts_with("lenet");
        for conv in graph.names_of::<Conv2d>() {
            let layer = graph.layer::<Conv2d>(&conv).unwrap().unwrap();
            let (weight, shape) = (layer.weight().value(), layer.weight().shape());
            let (m, fan_in) = (shape[0] as f32, shape[1..].iter().product::<usize>() as f32);
            let expected = match conv.as_str() {
                "conv10" => 0.01,
                _ if glorot_throughout => (2.0 / (fan_in + m * (shape[2] * shape[3]) as f32)).sqrt(),
                _ => (2.0 / fan_in).sqrt(),
            };
            check_spread(weight.iter().copied(), expected, &format!("{name}: {conv}"));
        }
        for fc in graph.names_of::<Linear>() {
            let layer = graph.layer::<Linear>(&fc).unwrap().unwrap();
            let shape = layer.weight().shape();
            let expected = (2.0 / (shape[0] + shape[1]) as f32).sqrt();
            check_spread(layer.weight().value().iter().copied(), expected, &format!("{name}: {fc}"));
        }
    }
}

/// The standard deviation of a sample is within five standard errors of what it should be.
fn check_spread(values: impl ExactSizeIterator<Item = f32>, expected: f32, what: &str) {
    let count = values.len() as f64;
    let square = values.map(|v| f64::from(v).powi(2)).sum::<f64>() / count;
    let ratio = square.sqrt() / f64::from(expected);
    assert!((ratio - 1.0).abs() < 5.0 / (2.0 * count).sqrt(), "{what}: {ratio} of {expected}");
}
