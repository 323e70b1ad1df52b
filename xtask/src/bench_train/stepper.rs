//! Our side: training steps of one network on one batch.

use super::networks::Network;
use anyhow::{Result, bail};
use cnn_core::train::{Batch, CrossEntropy, Optimizer, Tape, forward_backward};
use cnn_core::{Graph, Tensor};
use std::time::Instant;

/// Learning rate of both sides.
const RATE: f32 = 0.01;
/// Weight decay of both sides.
const DECAY: f32 = 1e-4;

/// A network with what a training keeps from step to step.
#[derive(Debug)]
pub struct Stepper {
    graph: Graph,
    tape: Tape,
    images: Tensor,
    ids: Vec<usize>,
    labels: Vec<usize>,
    optimizer: Optimizer,
    done: u64,
}

impl Stepper {
    /// Builds the network and a batch of random images.
    ///
    /// # Errors
    /// If the network cannot be built.
    pub fn new(network: &Network) -> Result<Stepper> {
        let graph = (network.build)()?;
        let mut shape = vec![network.batch];
        shape.extend(graph.input_shape());
        let images = cnn_core::init::Init::new(1).normal(&shape, 1.0)?;
        let ids: Vec<usize> = (0..network.batch).collect();
        let labels = ids.iter().map(|i| i % 10).collect();
        let optimizer = Optimizer::sgd(RATE, DECAY);
        Ok(Stepper { graph, tape: Tape::default(), images, ids, labels, optimizer, done: 0 })
    }

    /// Number of trainable parameters.
    ///
    /// # Errors
    /// If the graph is invalid.
    pub fn params(&self) -> Result<u64> {
        Ok(self.graph.cost()?.params)
    }

    /// Runs one step that does not count and then `count` that do: milliseconds of each.
    ///
    /// # Errors
    /// If training fails or the loss is not finite.
    pub fn steps(&mut self, count: usize) -> Result<Vec<f64>> {
        self.step()?;
        (0..count)
            .map(|_| {
                let start = Instant::now();
                self.step()?;
                Ok(start.elapsed().as_secs_f64() * 1e3)
            })
            .collect()
    }

    fn step(&mut self) -> Result<()> {
        let batch = Batch { ids: &self.ids, images: &self.images, labels: &self.labels };
        let mut loss = CrossEntropy::default();
        if forward_backward(&mut self.graph, &mut self.tape, &batch, &mut loss, self.done)?.is_none() {
            bail!("the loss of step {} is not finite: its time would mean nothing", self.done);
        }
        self.done += 1;
        self.optimizer.step(&mut self.graph, 1.0);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cnn_core::testing::lenet5;

    #[test]
    fn steps_train() {
        let network = Network { name: "lenet5", batch: 4, more: 1, build: || Ok(lenet5(0)?) };
        let mut stepper = Stepper::new(&network).unwrap();
        let weights = |s: &Stepper| {
            s.graph.layer::<cnn_core::layers::Conv2d>("conv1").unwrap().unwrap().weight().value().clone()
        };
        let before = weights(&stepper);
        assert_eq!(stepper.params().unwrap(), 431_080);
        assert!(stepper.steps(2).unwrap().iter().all(|&ms| ms > 0.0));
        assert_eq!(stepper.done, 3);
        assert_ne!(before, weights(&stepper));
    }
}
