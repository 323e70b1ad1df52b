//! Real digits are really learned, and a separable substitute learns them again.

use cnn_core::data::Subset;
use cnn_core::train::{Optimizer, TrainSettings};
use cnn_core::{Compressor, NetworkOptions, Registry, Run};
use cnn_data::mnist;
use cnn_lightweight::SubstituteSeparable;

#[test]
fn lenet5_learns_digits_and_does_so_again_with_separable_convolutions() {
    let digits = mnist::embedded().unwrap();
    let few = Subset::new(&digits.train, (0..2_000).collect()).unwrap();
    let registry = Registry::core();
    let optimizer = Optimizer::sgd(0.01, 5e-4);
    let settings = TrainSettings { epochs: 3, batch: 32, optimizer, ..TrainSettings::default() };
    let mut run = Run::new(&few, &digits.validation, settings.clone(), &registry);
    let mut graph =
        cnn_lightweight::lenet5(&NetworkOptions { width: 0.5, ..NetworkOptions::default() }).unwrap();
    run.fine_tune(&mut graph, &settings).unwrap();
    let trained = run.accuracy(&graph).unwrap();

    let mut light = graph.clone();
    SubstituteSeparable { epochs: 0, ..SubstituteSeparable::default() }.apply(&mut light, &mut run).unwrap();
    let without = run.accuracy(&light).unwrap();
    let mut tuned = graph.clone();
    let method = SubstituteSeparable { epochs: 2, rate: Some(0.01), ..SubstituteSeparable::default() };
    method.apply(&mut tuned, &mut run).unwrap();
    let after = run.accuracy(&tuned).unwrap();
    println!("{trained:.4} trained, {without:.4} replaced, {after:.4} fine-tuned");
    assert!(trained > 0.9, "{trained}");
    assert!(after > 0.9 && after > without, "{trained} trained, {without} replaced, {after} fine-tuned");
}
