//! Callbacks during training.

use crate::Result;
use crate::graph::Graph;
use std::fmt::Debug;

/// Where a step stands.
#[derive(Debug, Clone, Copy)]
pub struct StepInfo {
    /// Epoch, from 0.
    pub epoch: usize,
    /// Number of epochs.
    pub epochs: usize,
    /// Step within the epoch, from 0.
    pub step: usize,
    /// Steps in an epoch.
    pub steps: usize,
    /// Learning rate of this step.
    pub rate: f32,
}

/// Where an epoch ended.
#[derive(Debug, Clone, Copy)]
pub struct EpochInfo {
    /// Epoch, from 0.
    pub epoch: usize,
    /// Number of epochs.
    pub epochs: usize,
    /// Mean training loss.
    pub loss: f64,
    /// Accuracy on validation images, if there are any.
    pub validation: Option<f64>,
}

/// Something that acts during training: a regulariser adds to gradients, a schedule tightens a constraint. Its state goes
/// into the checkpoint, so that resuming gives the same bits.
pub trait Hook: Debug + Send {
    /// Under which its state is stored in checkpoints.
    fn name(&self) -> &'static str;

    /// After the backward pass, before the optimizer: gradients may be changed.
    ///
    /// # Errors
    /// Stops the training.
    fn on_step(&mut self, _graph: &mut Graph, _at: &StepInfo) -> Result<()> {
        Ok(())
    }

    /// After an epoch: constraints may be changed.
    ///
    /// # Errors
    /// Stops the training.
    fn on_epoch(&mut self, _graph: &mut Graph, _at: &EpochInfo) -> Result<()> {
        Ok(())
    }

    /// The state to store.
    fn state(&self) -> Vec<u8> {
        Vec::new()
    }

    /// Takes a stored state back.
    ///
    /// # Errors
    /// If the bytes are not such a state.
    fn restore(&mut self, _state: &[u8]) -> Result<()> {
        Ok(())
    }
}
