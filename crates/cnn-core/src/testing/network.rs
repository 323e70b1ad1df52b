//! A network and a data set that need no other crate.

use crate::data::MemoryDataset;
use crate::graph::Graph;
use crate::init::Init;
use crate::layers::{Activation, Conv2d, ConvOptions, Flatten, Linear, MaxPool2d, Window};
use crate::tensor::{tensor, zeros};
use crate::{Error, Result};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// LeNet-5 in Caffe's form: convolutions of 20 and 50 filters of 5 x 5, each max-pooled by 2, then 500 and 10 neurons.
/// 431,080 parameters, 2,293,000 multiply-adds.
///
/// # Errors
/// None in practice.
pub fn lenet5(seed: u64) -> Result<Graph> {
    let mut init = Init::new(seed);
    let mut graph = Graph::new(&[1, 28, 28]);
    let bias = |n| Some(zeros(&[n]));
    let options = ConvOptions::default();
    let pool = || MaxPool2d { window: Window::square(2) };
    graph.push("conv1", Conv2d::new(init.glorot(&[20, 1, 5, 5])?, bias(20), options)?)?;
    graph.push("pool1", pool())?;
    graph.push("conv2", Conv2d::new(init.glorot(&[50, 20, 5, 5])?, bias(50), options)?)?;
    graph.push("pool2", pool())?;
    graph.push("flatten", Flatten)?;
    graph.push("fc1", Linear::new(init.glorot(&[500, 800])?, bias(500))?)?;
    graph.push("relu1", Activation::relu())?;
    graph.push("fc2", Linear::new(init.glorot(&[10, 500])?, bias(10))?)?;
    Ok(graph)
}

/// Noisy images of shape `[c, h, w]` with stripes in one of `classes` directions: easy, but not to be had by chance.
///
/// # Errors
/// If a size or the number of classes is zero.
pub fn stripes(count: usize, shape: [usize; 3], classes: usize, seed: u64) -> Result<MemoryDataset> {
    if classes == 0 || shape.contains(&0) {
        return Err(Error::invalid("stripes", "sizes and classes of at least 1"));
    }
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let [c, h, w] = shape;
    let mut values = Vec::with_capacity(count * c * h * w);
    let labels: Vec<usize> = (0..count).map(|i| i % classes).collect();
    for &label in &labels {
        let angle = std::f32::consts::PI * label as f32 / classes as f32;
        let phase: f32 = rng.random_range(0.0..6.0);
        for _ in 0..c {
            for y in 0..h {
                for x in 0..w {
                    let along = x as f32 * angle.cos() + y as f32 * angle.sin();
                    values.push((along + phase).sin() + rng.random_range(-0.5..0.5));
                }
            }
        }
    }
    MemoryDataset::new(tensor(&[count, c, h, w], values)?, labels, classes)
}
