//! A student that sees few images, with and without a teacher that saw many: is it true that few samples are
//! enough (SPEC 2.4)?
//!
//! `cargo run --release -p cnn-distill --example few_samples`

use cnn_core::init::Init;
use cnn_core::layers::{Activation, Conv2d, ConvOptions, Flatten, GlobalAvgPool, Linear};
use cnn_core::tensor::zeros;
use cnn_core::testing::stripes;
use cnn_core::train::{Optimizer, TrainSettings};
use cnn_core::{Graph, Registry, Result, Run};
use cnn_distill::{Distill, mean_divergence};

/// Students with different first weights.
const SEEDS: u64 = 10;

/// One convolution of 5 x 5, pooled over the image.
fn network(filters: usize, classes: usize, seed: u64) -> Result<Graph> {
    let mut init = Init::new(seed);
    let mut graph = Graph::new(&[1, 8, 8]);
    graph.push(
        "conv",
        Conv2d::new(init.he(&[filters, 1, 5, 5])?, Some(zeros(&[filters])), ConvOptions::default())?,
    )?;
    graph.push("relu", Activation::relu())?;
    graph.push("pool", GlobalAvgPool)?;
    graph.push("flatten", Flatten)?;
    graph.push("fc", Linear::new(init.glorot(&[classes, filters])?, Some(zeros(&[classes])))?)?;
    Ok(graph)
}

fn main() -> Result<()> {
    let classes = 16;
    let shape = [1, 8, 8];
    let (many, few) = (stripes(1600, shape, classes, 1)?, stripes(48, shape, classes, 2)?);
    let test = stripes(800, shape, classes, 3)?;
    let registry = Registry::core();
    let settings = TrainSettings {
        epochs: 30,
        batch: 16,
        optimizer: Optimizer::adamw(0.005, 1e-4),
        ..TrainSettings::default()
    };

    let mut teacher = network(32, classes, 0)?;
    let mut run = Run::new(&many, &test, settings.clone(), &registry);
    run.fine_tune(&mut teacher, &settings)?;
    println!("teacher, {} images: accuracy {:.3}", 1600, run.accuracy(&teacher)?);

    let mut run = Run::new(&few, &test, TrainSettings { epochs: 200, ..settings }, &registry);
    for alpha in [0.0, 0.7, 1.0] {
        let (mut accuracy, mut kl) = (0.0, 0.0);
        for seed in 1..=SEEDS {
            let mut student = network(12, classes, seed)?;
            Distill { alpha, ..Distill::default() }.train(&mut student, &teacher, &mut run)?;
            accuracy += run.accuracy(&student)? / SEEDS as f64;
            kl += mean_divergence(&teacher, &student, &test, 1.0)? / SEEDS as f64;
        }
        println!(
            "student, 48 images, alpha {alpha}: accuracy {accuracy:.3}, KL {kl:.3} (means of {SEEDS} seeds)"
        );
    }
    Ok(())
}
