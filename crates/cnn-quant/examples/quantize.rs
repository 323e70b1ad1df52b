//! Trains LeNet-5 on striped images, then compresses it in three ways and reports file size, accuracy and arithmetic.
//!
//! `cargo run --release -p cnn-quant --example quantize`

use cnn_core::testing::{lenet5, stripes};
use cnn_core::train::{Optimizer, TrainSettings, evaluate};
use cnn_core::{Compressor, Graph, Registry, Run, model_file};
use cnn_quant::{Int8Quantizer, KMeansQuantizer, WeightGrid};
use std::time::Instant;

fn main() -> cnn_core::Result<()> {
    let (train, validation) = (stripes(2000, [1, 28, 28], 10, 0)?, stripes(1000, [1, 28, 28], 10, 1)?);
    let mut registry = Registry::core();
    cnn_quant::register(&mut registry);
    let settings =
        TrainSettings { epochs: 4, optimizer: Optimizer::sgd(0.01, 5e-4), ..TrainSettings::default() };
    let mut run = Run::new(&train, &validation, settings.clone(), &registry);

    let mut trained = lenet5(0)?;
    run.fine_tune(&mut trained, &settings)?;
    let report = |name: &str, graph: &Graph, run: &Run<'_>| -> cnn_core::Result<()> {
        // what counts is the file, read back
        let bytes = model_file::deploy_bytes(graph, false)?;
        let read = model_file::from_bytes(&bytes, &registry)?;
        let start = Instant::now();
        let evaluation = evaluate(&read, run.validation)?;
        let time = start.elapsed();
        println!(
            "{name:34} {:9} bytes ({:5.1} x)  {:6.2} %  loss {:.5}  {:6.1} ms for 1000 images",
            bytes.len(),
            1_724_320.0 / bytes.len() as f64,
            100.0 * evaluation.accuracy(),
            evaluation.loss,
            1e3 * time.as_secs_f64()
        );
        Ok(())
    };
    report("32-bit floats", &trained, &run)?;

    for bits in [8, 5, 3, 2] {
        let method = KMeansQuantizer { bits, ..KMeansQuantizer::default() };
        compress(&format!("quant.kmeans, {bits} bits"), &method, &trained, &mut run, report)?;
    }
    let method = KMeansQuantizer { bits: 2, epochs: 0, ..KMeansQuantizer::default() };
    compress("quant.kmeans, 2 bits, not tuned", &method, &trained, &mut run, report)?;
    for weights in [WeightGrid::Symmetric, WeightGrid::Affine] {
        let method = Int8Quantizer { weights, ..Int8Quantizer::default() };
        compress(&format!("quant.int8, {weights:?}"), &method, &trained, &mut run, report)?;
    }
    Ok(())
}

fn compress(
    name: &str,
    method: &dyn Compressor,
    trained: &Graph,
    run: &mut Run<'_>,
    report: impl Fn(&str, &Graph, &Run<'_>) -> cnn_core::Result<()>,
) -> cnn_core::Result<()> {
    let mut graph = trained.clone();
    method.apply(&mut graph, run)?;
    method.pack(&mut graph)?;
    report(name, &graph, run)
}
