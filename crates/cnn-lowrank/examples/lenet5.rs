//! Low rank on LeNet-5: trains it on synthetic stripes, factorizes at several energies, fine-tunes, and
//! compares.
//!
//! `cargo run --release -p cnn-lowrank --example lenet5`

use cnn_core::model_file::deploy_bytes;
use cnn_core::testing::{lenet5, stripes};
use cnn_core::train::{Optimizer, TrainSettings};
use cnn_core::{Compressor, Registry, Run};
use cnn_lowrank::LowRank;

fn main() -> cnn_core::Result<()> {
    let (train, validation) = (stripes(1000, [1, 28, 28], 10, 1)?, stripes(500, [1, 28, 28], 10, 2)?);
    let registry = Registry::core();
    let settings =
        TrainSettings { epochs: 4, optimizer: Optimizer::sgd(0.01, 5e-4), ..TrainSettings::default() };
    let mut run = Run::new(&train, &validation, settings.clone(), &registry);
    let mut original = lenet5(0)?;
    run.fine_tune(&mut original, &settings)?;
    let line = |what: &str, graph: &cnn_core::Graph, accuracy: f64| -> cnn_core::Result<()> {
        let (cost, bytes) = (graph.cost()?, deploy_bytes(graph, false)?.len());
        println!(
            "{what:<28} {bytes:>9} bytes {:>9} multiply-adds  accuracy {accuracy:.3}",
            cost.macs.total()
        );
        Ok(())
    };
    line("LeNet-5", &original, run.accuracy(&original)?)?;
    for energy in [0.95, 0.9, 0.8, 0.6] {
        let method =
            LowRank { linear_energy: energy, conv_energy: energy, epochs: Some(2), ..LowRank::default() };
        let mut cut = original.clone();
        let report = method.factorize(&mut cut)?;
        line(&format!("energy {energy}, truncated"), &cut, run.accuracy(&cut)?)?;
        let mut tuned = original.clone();
        method.apply(&mut tuned, &mut run)?;
        line(&format!("energy {energy}, fine-tuned"), &tuned, run.accuracy(&tuned)?)?;
        print!("{report}");
    }
    Ok(())
}
