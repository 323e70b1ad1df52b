//! Channel surgery on whole networks: a network whose channels are removed gives what the network gives in
//! which the same channels are zero.

#![allow(clippy::unwrap_used)] // helpers of tests are tests

use cnn_core::layers::{BatchNorm, Conv2d};
use cnn_core::tensor::relative_error;
use cnn_core::{Graph, NetworkOptions, Param, Tensor};
use ndarray::{Axis, IxDyn};
use proptest::prelude::*;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Gives batch normalization the look of a trained one, so that a zero channel before it is not zero after it
/// by itself.
fn season(graph: &mut Graph, rng: &mut ChaCha8Rng) {
    for name in graph.names_of::<BatchNorm>() {
        let channels = graph.layer::<BatchNorm>(&name).unwrap().unwrap().gamma().len();
        let mut draw = |low: f32, high: f32| -> Vec<f32> {
            (0..channels).map(|_| rng.random_range(low..high)).collect()
        };
        let (gamma, beta) = (draw(0.5, 1.5), draw(-0.5, 0.5));
        let norm = BatchNorm::trained(gamma, beta, draw(-0.3, 0.3), draw(0.5, 2.0), 1e-5).unwrap();
        graph.replace(&name, Box::new(norm)).unwrap();
    }
}

fn zero(param: &mut Param, channel: usize) {
    let mut base = param.base().clone();
    base.index_axis_mut(Axis(0), channel).fill(0.0);
    param.set_base(base);
}

/// Zeroes the removed channels of a node and of all that are tied to it. In a ResNet a channel `c` of `C` is
/// tied to channel `c + (D - C) / 2` of a node with `D` channels, if there is one: the shortcut pads by as
/// much on both sides.
fn mask(graph: &mut Graph, target: &str, removed: &[usize]) {
    let shapes = graph.shapes(1).unwrap();
    let channels = |graph: &Graph, name: &str| shapes[graph.find(name).unwrap()][1];
    let own = channels(graph, target);
    for name in graph.tied_channels(target).unwrap() {
        let count = channels(graph, &name);
        let tied = removed.iter().filter_map(|&c| (c + count / 2).checked_sub(own / 2));
        for channel in tied.filter(|&c| c < count) {
            if let Some(conv) = graph.layer_mut::<Conv2d>(&name).unwrap() {
                zero(conv.weight_mut(), channel);
            } else if let Some(norm) = graph.layer_mut::<BatchNorm>(&name).unwrap() {
                zero(norm.gamma_mut(), channel);
                zero(norm.beta_mut(), channel);
            }
        }
    }
}

/// Removes random channels of a random convolution, and compares.
fn check(mut graph: Graph, seed: u64) -> Result<(), TestCaseError> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    season(&mut graph, &mut rng);
    let mut masked = graph.clone();
    for _ in 0..3 {
        // the names stay, and masking follows the original's positions: each convolution is thinned at most
        // once
        let convs: Vec<String> = masked.names_of::<Conv2d>();
        let target = &convs[rng.random_range(0..convs.len())];
        let full = masked.layer::<Conv2d>(target).unwrap().unwrap().filters();
        if graph.layer::<Conv2d>(target).unwrap().unwrap().filters() != full {
            continue;
        }
        // the middle channel exists in every stage: with it no stage loses all its channels
        let (keep, removed): (Vec<usize>, Vec<usize>) =
            (0..full).partition(|&c| c == full / 2 || (c > 0 && rng.random_bool(0.6)));
        graph.keep_channels(target, &keep).unwrap();
        mask(&mut masked, target, &removed);
    }
    let [c, h, w] = [graph.input_shape()[0], graph.input_shape()[1], graph.input_shape()[2]];
    let images = Tensor::from_shape_fn(IxDyn(&[2, c, h, w]), |_| rng.random_range(-2.0..2.0));
    let (thin, zeroed) = (graph.infer(&images).unwrap(), masked.infer(&images).unwrap());
    let error = relative_error(&thin, &zeroed);
    prop_assert!(error <= 1e-5, "relative error {error}");
    let (thin, full) = (graph.cost().unwrap(), masked.cost().unwrap());
    prop_assert!(thin.params < full.params && thin.macs.total() < full.macs.total());
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_thinned_resnet_is_the_masked_one(seed: u64) {
        let options = NetworkOptions { input: Some([3, 16, 16]), seed, ..NetworkOptions::default() };
        check(cnn_lightweight::resnet20(&options).unwrap(), seed)?;
    }

    #[test]
    fn a_thinned_mobilenet_is_the_masked_one(seed: u64) {
        let options = NetworkOptions { input: Some([3, 32, 32]), classes: Some(10), width: 0.25, seed };
        check(cnn_lightweight::mobilenet_v1(&options).unwrap(), seed)?;
    }
}

#[test]
fn a_stage_without_a_channel_is_refused() {
    let mut graph = cnn_lightweight::resnet20(&NetworkOptions::default()).unwrap();
    let before = graph.cost().unwrap();
    // these 16 of the last stage's 64 channels are all that the first stage has
    let keep: Vec<usize> = (0..64).filter(|c| !(24..40).contains(c)).collect();
    assert!(graph.keep_channels("stage3.block3.conv2", &keep).is_err());
    assert!(graph.keep_channels("fc", &[0]).is_err());
    assert_eq!(graph.cost().unwrap(), before);
}
