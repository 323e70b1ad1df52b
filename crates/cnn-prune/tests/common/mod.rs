//! A network and data small enough to train in every test.
#![allow(dead_code)] // each test file uses its part

use cnn_core::data::MemoryDataset;
use cnn_core::init::Init;
use cnn_core::layers::{Activation, Conv2d, ConvOptions, Flatten, Linear, MaxPool2d, Window};
use cnn_core::tensor::zeros;
use cnn_core::testing::stripes;
use cnn_core::train::{Optimizer, Schedule, TrainSettings};
use cnn_core::{Graph, Registry};

/// Two convolutions and two linear layers for images of 1 x 10 x 10 in four classes.
pub fn network() -> Graph {
    let mut init = Init::new(3);
    let mut graph = Graph::new(&[1, 10, 10]);
    let bias = |n| Some(zeros(&[n]));
    let pad = ConvOptions::default().pad(1);
    graph.push("conv1", Conv2d::new(init.glorot(&[6, 1, 3, 3]).unwrap(), bias(6), pad).unwrap()).unwrap();
    graph.push("relu1", Activation::relu()).unwrap();
    graph.push("pool1", MaxPool2d { window: Window::square(2) }).unwrap();
    graph.push("conv2", Conv2d::new(init.glorot(&[8, 6, 3, 3]).unwrap(), bias(8), pad).unwrap()).unwrap();
    graph.push("relu2", Activation::relu()).unwrap();
    graph.push("flatten", Flatten).unwrap();
    graph.push("fc1", Linear::new(init.glorot(&[24, 200]).unwrap(), bias(24)).unwrap()).unwrap();
    graph.push("relu3", Activation::relu()).unwrap();
    graph.push("fc2", Linear::new(init.glorot(&[4, 24]).unwrap(), bias(4)).unwrap()).unwrap();
    graph
}

pub fn data(seed: u64) -> MemoryDataset {
    stripes(240, [1, 10, 10], 4, seed).unwrap()
}

pub fn settings(epochs: usize) -> TrainSettings {
    let optimizer = Optimizer::sgd(0.05, 1e-4);
    TrainSettings { epochs, batch: 24, optimizer, schedule: Schedule::Constant, ..TrainSettings::default() }
}

pub fn registry() -> Registry {
    let mut registry = Registry::core();
    cnn_prune::register(&mut registry);
    registry
}
