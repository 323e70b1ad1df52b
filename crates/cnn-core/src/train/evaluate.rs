//! Accuracy over a data set.

use super::objective::check_logits;
use crate::data::{Dataset, batch};
use crate::graph::Graph;
use crate::ops::cross_entropy::cross_entropy_loss;
use crate::tensor::slice;
use crate::{Error, Result};

/// Images that go through the network at once.
const BATCH: usize = 250;

/// What a network says of a data set.
#[derive(Debug, Clone)]
pub struct Evaluation {
    /// For each image, whether the first choice was right.
    pub correct: Vec<bool>,
    /// Mean cross-entropy.
    pub loss: f64,
}

impl Evaluation {
    /// Share of images whose first choice was right (top-1), in `[0, 1]`.
    pub fn accuracy(&self) -> f64 {
        self.correct.iter().filter(|&&c| c).count() as f64 / self.correct.len() as f64
    }
}

/// Runs all images through the reference executor.
///
/// # Errors
/// If there is no image, or the network does not fit the images.
pub fn evaluate(graph: &Graph, data: &dyn Dataset) -> Result<Evaluation> {
    if data.is_empty() {
        return Err(Error::Data("there are no images to evaluate on".into()));
    }
    let mut correct = Vec::with_capacity(data.len());
    let mut loss = 0f64;
    let all: Vec<usize> = (0..data.len()).collect();
    for ids in all.chunks(BATCH) {
        let (images, labels) = batch(data, ids)?;
        let logits = graph.infer(&images)?;
        let (logits, classes) = check_logits(&[&logits], &labels)?;
        loss += cross_entropy_loss(slice(logits)?, &labels, classes, 0.0) * ids.len() as f64;
        correct
            .extend(slice(logits)?.chunks(classes).zip(&labels).map(|(z, &label)| argmax(z) == Some(label)));
    }
    Ok(Evaluation { correct, loss: loss / data.len() as f64 })
}

/// Top-1 accuracy in `[0, 1]`.
///
/// # Errors
/// As [`evaluate`].
pub fn accuracy(graph: &Graph, data: &dyn Dataset) -> Result<f64> {
    Ok(evaluate(graph, data)?.accuracy())
}

/// Position of the largest value, the first of equals; `None` if a value is not a number.
fn argmax(values: &[f32]) -> Option<usize> {
    if values.iter().any(|v| v.is_nan()) {
        return None;
    }
    (0..values.len()).rev().max_by(|&a, &b| values[a].total_cmp(&values[b]))
}
