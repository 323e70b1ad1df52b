//! Accuracy over a data set.

use super::objective::check_logits;
use crate::data::{Dataset, batch};
use crate::graph::Graph;
use crate::ops::cross_entropy::cross_entropy_loss;
use crate::session::{Session, SessionOptions};
use crate::tensor::{Tensor, elements, slice};
use crate::{Error, Result};

/// Most images that go through the network at once: weights are read once for all of them, and the activations of small images
/// still stay in the caches (8 to 16 were the fastest for LeNet-5 and ResNet-20).
const BATCH: usize = 16;
/// Most values of the largest activation of a batch: bounds the memory of an evaluation.
const ACTIVATION: usize = 1 << 23;

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

/// Runs all images through a [`Session`] on the current pool's threads; the bits do not depend on their number.
///
/// # Errors
/// If there is no image, or the network does not fit the images.
pub fn evaluate(graph: &Graph, data: &dyn Dataset) -> Result<Evaluation> {
    let mut correct = Vec::with_capacity(data.len());
    let mut loss = 0f64;
    for_each_batch(graph, data, |logits, labels| {
        let (logits, classes) = check_logits(&[logits], labels)?;
        loss += cross_entropy_loss(slice(logits)?, labels, classes, 0.0) * labels.len() as f64;
        correct
            .extend(slice(logits)?.chunks(classes).zip(labels).map(|(z, &label)| argmax(z) == Some(label)));
        Ok(())
    })?;
    Ok(Evaluation { correct, loss: loss / data.len() as f64 })
}

/// Calls `each` with the outputs for all images of a data set, in order, batch by batch, and with their labels.
///
/// The graph is compiled for the call, which takes about as long as the network takes for a few images.
///
/// # Errors
/// If there is no image, the network does not fit the images, or `each` fails.
pub fn for_each_batch(
    graph: &Graph,
    data: &dyn Dataset,
    mut each: impl FnMut(&Tensor, &[usize]) -> Result<()>,
) -> Result<()> {
    if data.is_empty() {
        return Err(Error::Data("there are no images to evaluate on".into()));
    }
    graph.check_input_shape(&[&[1], &data.shape()[..]].concat())?;
    let largest = graph.shapes(1)?.iter().map(|s| elements(s)).max().unwrap_or(1);
    let (size, rest) = sizes(data.len(), (ACTIVATION / largest.max(1)).clamp(1, BATCH));
    let options = SessionOptions { current_pool: true, ..SessionOptions::default() };
    let mut session = Session::new(graph.clone(), &options.batches(graph, &[&[size][..], &rest].concat()))?;
    let all: Vec<usize> = (0..data.len()).collect();
    for ids in all.chunks(size) {
        let (images, labels) = batch(data, ids)?;
        each(&session.run(&images)?, &labels)?;
    }
    Ok(())
}

/// Batches of nearly the same size, at most `most`: the size of all but the last, and of the last if it differs.
fn sizes(images: usize, most: usize) -> (usize, Vec<usize>) {
    let size = images.div_ceil(images.div_ceil(most));
    let rest = images % size;
    (size, if rest == 0 { Vec::new() } else { vec![rest] })
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{lenet5, stripes};

    #[test]
    fn batches_are_nearly_of_one_size() {
        assert_eq!(sizes(1, 64), (1, vec![]));
        assert_eq!(sizes(64, 64), (64, vec![]));
        assert_eq!(sizes(65, 64), (33, vec![32]));
        assert_eq!(sizes(1500, 64), (63, vec![51]));
        assert_eq!(sizes(7, 1), (1, vec![]));
        for images in 1..300 {
            let (size, rest) = sizes(images, 64);
            assert!(size <= 64 && rest.iter().all(|&r| r < size), "{images}: {size}, {rest:?}");
        }
    }

    #[test]
    fn a_session_says_what_the_reference_says() {
        let graph = lenet5(0).unwrap();
        for n in [1, 70, 130] {
            let data = stripes(n, [1, 28, 28], 10, 1).unwrap();
            let (images, labels) = batch(&data, &(0..n).collect::<Vec<_>>()).unwrap();
            let expected = graph.infer(&images).unwrap();
            let (mut outputs, mut seen) = (Vec::new(), Vec::new());
            for_each_batch(&graph, &data, |logits, labels| {
                outputs.extend_from_slice(slice(logits)?);
                seen.extend_from_slice(labels);
                Ok(())
            })
            .unwrap();
            let outputs = crate::tensor::tensor(expected.shape(), outputs).unwrap();
            assert!(crate::tensor::relative_error(&outputs, &expected) < 1e-3);
            assert_eq!(seen, labels);
            let loss = cross_entropy_loss(slice(&expected).unwrap(), &labels, 10, 0.0);
            let evaluation = evaluate(&graph, &data).unwrap();
            assert!((evaluation.loss - loss).abs() < 1e-3 * loss, "{} {loss}", evaluation.loss);
            assert_eq!(evaluation.correct.len(), n);
        }
    }

    #[test]
    fn constrained_weights_are_evaluated_as_they_are_under_the_constraint() {
        use crate::layers::Conv2d;
        /// Everything is zero.
        #[derive(Debug, Clone)]
        struct Zero;
        impl crate::Constraint for Zero {
            fn kind(&self) -> &'static str {
                "test.zero"
            }
            fn materialize(&self, w: &mut Tensor) {
                w.fill(0.0);
            }
            fn pull_back(&mut self, _input: &Tensor, _grad: &mut Tensor) {}
            fn select(&mut self, _axis: usize, _keep: &[usize]) -> Result<()> {
                Ok(())
            }
            fn encode(&self, _out: &mut crate::model_file::Encoder) -> Result<()> {
                Ok(())
            }
            fn clone_box(&self) -> Box<dyn crate::Constraint> {
                Box::new(self.clone())
            }
        }
        let mut graph = lenet5(0).unwrap();
        let data = stripes(20, [1, 28, 28], 10, 1).unwrap();
        let free = evaluate(&graph, &data).unwrap().loss;
        let names = graph.names_of::<Conv2d>();
        graph.layer_mut::<Conv2d>(&names[0]).unwrap().unwrap().weight_mut().constrain(Box::new(Zero));
        let (images, labels) = batch(&data, &(0..20).collect::<Vec<_>>()).unwrap();
        let expected = cross_entropy_loss(slice(&graph.infer(&images).unwrap()).unwrap(), &labels, 10, 0.0);
        let loss = evaluate(&graph, &data).unwrap().loss;
        assert!((loss - expected).abs() < 1e-4 && (loss - free).abs() > 1e-3, "{loss} {expected} {free}");
    }

    #[test]
    fn images_that_do_not_fit_are_refused_before_anything_is_compiled() {
        let data = stripes(4, [1, 8, 8], 10, 1).unwrap();
        let error = evaluate(&lenet5(0).unwrap(), &data).unwrap_err().to_string();
        assert!(error.contains("[n, 1, 28, 28]"), "{error}");
    }

    #[test]
    fn the_bits_do_not_depend_on_the_threads() {
        let (graph, data) = (lenet5(0).unwrap(), stripes(70, [1, 28, 28], 10, 1).unwrap());
        let loss = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| evaluate(&graph, &data).unwrap().loss.to_bits())
        };
        assert!(loss(1) == loss(2) && loss(1) == loss(3));
    }
}
