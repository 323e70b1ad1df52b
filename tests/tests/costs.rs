//! Parameters and multiply-adds of the named networks are exactly those that the literature and other

#![allow(clippy::unwrap_used)] // helpers of tests are tests
//! frameworks count.

use cnn_core::{NetworkOptions, Registry};

fn cost(name: &str, options: &NetworkOptions) -> (u64, u64) {
    let mut registry = Registry::core();
    cnn_lightweight::register(&mut registry);
    let cost = registry.build_network(name, options).unwrap().cost().unwrap();
    (cost.params, cost.macs.total())
}

#[test]
fn lenets() {
    let options = NetworkOptions::default();
    assert_eq!(cost("lenet5", &options), (431_080, 2_293_000));
    assert_eq!(cost("lenet_300_100", &options), (266_610, 784 * 300 + 300 * 100 + 100 * 10));
}

#[test]
fn cifar_resnets() {
    let options = NetworkOptions::default();
    assert_eq!(cost("resnet20", &options), (269_722, 40_551_040));
    assert_eq!(cost("resnet32", &options), (464_154, 68_862_592));
    assert_eq!(cost("resnet44", &options), (658_586, 97_174_144));
    assert_eq!(cost("resnet56", &options), (853_018, 125_485_696));
    assert_eq!(cost("resnet110", &options), (1_727_962, 252_887_680));
}

#[test]
fn mobilenets() {
    let at = |width| cost("mobilenet_v1", &NetworkOptions { width, ..NetworkOptions::default() });
    assert_eq!(at(1.0), (4_231_976, 568_740_352));
    assert_eq!(at(0.75), (2_585_560, 325_400_448));
    assert_eq!(at(0.5), (1_331_592, 149_497_088));
    assert_eq!(at(0.25), (470_072, 41_030_272));
}
