//! What training minimises.

use crate::ops::cross_entropy::cross_entropy;
use crate::tensor::{Tensor, slice, slice_mut, zeros};
use crate::{Error, Result};
use std::fmt::Debug;

/// The samples of a step.
#[derive(Debug, Clone, Copy)]
pub struct Batch<'a> {
    /// Position of each sample in the data set.
    pub ids: &'a [usize],
    /// The images as the network sees them, augmented.
    pub images: &'a Tensor,
    /// The class of each.
    pub labels: &'a [usize],
}

/// A loss and its gradients.
#[derive(Debug)]
pub struct Loss {
    /// Mean over the batch.
    pub value: f64,
    /// Gradient with respect to the network's output, then to each of [`Objective::nodes`].
    pub grads: Vec<Tensor>,
}

/// A loss on the outputs of a network; plugs a teacher, a reconstruction error or plain cross-entropy into any training.
pub trait Objective: Debug + Send {
    /// Nodes whose outputs are wanted, after the network's own.
    fn nodes(&self) -> Vec<String> {
        Vec::new()
    }

    /// Called before each epoch, for schedules such as a falling temperature. `epoch` counts from 0. Nothing of an objective
    /// is stored in checkpoints: what it does must follow from the epoch and the batch alone.
    fn begin_epoch(&mut self, _epoch: usize, _epochs: usize) {}

    /// The loss for the outputs: the network's, then those of [`Objective::nodes`].
    ///
    /// # Errors
    /// If the outputs do not have the expected shape.
    fn loss(&mut self, batch: &Batch<'_>, outputs: &[&Tensor]) -> Result<Loss>;
}

/// Cross-entropy of the logits, with label smoothing `s`: the target is `1 - s + s / k` for the right class and `s / k`
/// for each other of `k` classes.
#[derive(Debug, Clone, Copy, Default)]
pub struct CrossEntropy {
    /// `s` in `[0, 1)`.
    pub label_smoothing: f32,
}

impl Objective for CrossEntropy {
    fn loss(&mut self, batch: &Batch<'_>, outputs: &[&Tensor]) -> Result<Loss> {
        if !(0.0..1.0).contains(&self.label_smoothing) {
            return Err(Error::invalid(
                "label smoothing",
                format!("in [0, 1), got {}", self.label_smoothing),
            ));
        }
        let (logits, classes) = check_logits(outputs, batch.labels)?;
        let mut grad = zeros(logits.shape());
        let value =
            cross_entropy(slice(logits)?, batch.labels, classes, self.label_smoothing, slice_mut(&mut grad)?);
        Ok(Loss { value, grads: vec![grad] })
    }
}

/// Checks the network's output as logits for the labels, and returns them with the number of classes.
pub(super) fn check_logits<'a>(outputs: &[&'a Tensor], labels: &[usize]) -> Result<(&'a Tensor, usize)> {
    let output = outputs.first().ok_or_else(|| Error::Shape("the loss was given no output".into()))?;
    let [n, rest @ ..] = output.shape() else {
        return Err(Error::Shape("the network's output has no axes".into()));
    };
    let classes: usize = rest.iter().product();
    if *n != labels.len() || classes == 0 {
        return Err(Error::Shape(format!(
            "logits of shape {:?} for {} labels",
            output.shape(),
            labels.len()
        )));
    }
    match labels.iter().find(|&&l| l >= classes) {
        None => Ok((output, classes)),
        Some(bad) => Err(Error::Data(format!("label {bad}, but the network has {classes} outputs"))),
    }
}
