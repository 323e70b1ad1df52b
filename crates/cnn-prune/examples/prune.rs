//! Trains a small network, prunes nine tenths of it, and writes and reads the file.
//!
//!     cargo run --release -p cnn-prune --example prune

use cnn_core::init::Init;
use cnn_core::layers::{Activation, Conv2d, ConvOptions, Flatten, Linear, MaxPool2d, Window};
use cnn_core::train::{Optimizer, TrainSettings};
use cnn_core::{Graph, Registry, Result, Run, model_file, testing::stripes};

fn main() -> Result<()> {
    let mut registry = Registry::core();
    cnn_prune::register(&mut registry);

    let mut init = Init::new(1);
    let mut graph = Graph::new(&[1, 16, 16]);
    let pad = ConvOptions::default().pad(1);
    graph.push("conv1", Conv2d::new(init.glorot(&[16, 1, 3, 3])?, None, pad)?)?;
    graph.push("relu1", Activation::relu())?;
    graph.push("pool1", MaxPool2d { window: Window::square(2) })?;
    graph.push("conv2", Conv2d::new(init.glorot(&[32, 16, 3, 3])?, None, pad)?)?;
    graph.push("relu2", Activation::relu())?;
    graph.push("pool2", MaxPool2d { window: Window::square(2) })?;
    graph.push("flatten", Flatten)?;
    graph.push("fc1", Linear::new(init.glorot(&[64, 512])?, None)?)?;
    graph.push("relu3", Activation::relu())?;
    graph.push("fc2", Linear::new(init.glorot(&[8, 64])?, None)?)?;

    let (train, validation, test) = (
        stripes(800, [1, 16, 16], 8, 1)?,
        stripes(400, [1, 16, 16], 8, 2)?,
        stripes(400, [1, 16, 16], 8, 3)?,
    );
    let optimizer = Optimizer::sgd(0.05, 5e-4);
    let settings = TrainSettings { epochs: 4, optimizer, ..TrainSettings::default() };
    let mut run = Run::new(&train, &validation, settings.clone(), &registry);
    run.fine_tune(&mut graph, &settings)?;
    let accuracy = |graph: &Graph| cnn_core::train::accuracy(graph, &test);
    println!(
        "dense:  {:6} bytes, accuracy {:.4}",
        model_file::deploy_bytes(&graph, false)?.len(),
        accuracy(&graph)?
    );

    let config = serde_json::json!({
        "ratio": 0.95, "ratios": { "conv1": 0.5 }, "rounds": 4, "epochs": 3, "max_drop": 1.0
    });
    let method = registry.build_method("prune.weights", config)?;
    method.apply(&mut graph, &mut run)?;
    method.pack(&mut graph)?;
    for layer in cnn_prune::sparsity(&graph) {
        println!(
            "  {:6} {:20} {:6} of {:6} weights left",
            layer.name, layer.kind, layer.nonzeros, layer.weights
        );
    }

    let path = std::env::temp_dir().join("pruned.cnn");
    let bytes = model_file::save(&graph, &path)?;
    let back = model_file::load(&path, &registry)?;
    println!("pruned: {bytes:6} bytes, accuracy {:.4}, read back from {}", accuracy(&back)?, path.display());
    Ok(())
}
