//! The same seed gives the same bits, whatever the number of threads.

#![allow(clippy::unwrap_used)] // helpers of tests are tests

use cnn_core::data::Subset;
use cnn_core::model_file::deploy_bytes;
use cnn_core::train::{CrossEntropy, Progress, TrainData, TrainSettings, train};
use cnn_core::{Graph, NetworkOptions};
use cnn_data::{Shift, augment::black, mnist};

fn trained(mut graph: Graph, threads: usize) -> Vec<u8> {
    let digits = mnist::embedded().unwrap();
    let few = Subset::new(&digits.train, (0..200).collect()).unwrap();
    let watch = Subset::new(&digits.validation, (0..100).collect()).unwrap();
    let augment = Shift { max: 2, fill: black(&mnist::preprocess()) };
    let settings = TrainSettings { epochs: 1, batch: 48, seed: 7, ..TrainSettings::default() };
    let data = TrainData { train: &few, validation: Some(&watch), augment: Some(&augment), checkpoint: None };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    pool.install(|| {
        let mut objective = CrossEntropy::default();
        train(&mut graph, data, &settings, &mut objective, &mut [], &Progress::quiet()).unwrap();
    });
    deploy_bytes(&graph, true).unwrap()
}

#[test]
fn lenet5_trains_to_the_same_bits_with_one_and_two_threads() {
    let fresh = cnn_lightweight::lenet5(&NetworkOptions::default()).unwrap();
    let one = trained(fresh.clone(), 1);
    assert_ne!(one, deploy_bytes(&fresh, true).unwrap());
    assert!(one == trained(fresh.clone(), 2), "two threads give other bits");
    assert!(one == trained(fresh, 3), "three threads give other bits");
}

#[test]
fn so_do_batch_normalization_and_depthwise_convolutions() {
    let options = NetworkOptions { input: Some([1, 28, 28]), classes: Some(10), width: 0.25, seed: 1 };
    for build in [cnn_lightweight::resnet20, cnn_lightweight::mobilenet_v1] {
        let fresh = build(&options).unwrap();
        assert!(trained(fresh.clone(), 1) == trained(fresh, 2), "two threads give other bits");
    }
}
