//! What a change of a network does to its answers.

use cnn_core::session::{Session, SessionOptions};
use cnn_core::{Graph, Result, Tensor};
use ndarray::Axis;

/// Images of a batch.
const BATCH: usize = 32;

/// The answers of a network, in batches.
///
/// # Errors
/// If the network does not fit the images.
pub fn answers(graph: &Graph, images: &Tensor) -> Result<Vec<Tensor>> {
    let count = images.len_of(Axis(0));
    let mut batches = vec![BATCH.min(count), count % BATCH];
    batches.retain(|&n| n > 0);
    batches.dedup();
    let mut session = Session::new(graph.clone(), &SessionOptions::default().batches(graph, &batches))?;
    images.axis_chunks_iter(Axis(0), BATCH).map(|images| session.run(&images.to_owned())).collect()
}

/// Mean Kullback-Leibler divergence of the softmaxes.
pub fn divergence(expected: &[Tensor], found: &[Tensor]) -> f64 {
    let (mut sum, mut count) = (0.0, 0);
    for (p, q) in expected.iter().zip(found) {
        for (p, q) in p.outer_iter().zip(q.outer_iter()) {
            let [p, q] =
                [p, q].map(|row| log_softmax(&row.iter().map(|&v| f64::from(v)).collect::<Vec<_>>()));
            sum += p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum::<f64>();
            count += 1;
        }
    }
    sum / f64::from(count.max(1))
}

fn log_softmax(row: &[f64]) -> Vec<f64> {
    let most = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let all = row.iter().map(|v| (v - most).exp()).sum::<f64>().ln() + most;
    row.iter().map(|v| v - all).collect()
}
