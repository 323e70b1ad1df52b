//! Optimal brain damage.

use super::for_each_gradient;
use crate::granularity::Units;
use crate::targets;
use cnn_core::{Graph, Result, Run};

/// `h w^2 / 2` for each weight of the unit, with `h = E_batch[B g^2]` for batches of `B` images: near a minimum the gradients of the
/// images are independent and their mean is zero, so that this is the empirical Fisher information, which is the diagonal of
/// the Hessian where the network's probabilities are right.
pub(super) fn scores(
    graph: &Graph,
    layers: &[(usize, Units)],
    run: &mut Run<'_>,
    samples: usize,
) -> Result<Vec<Vec<f32>>> {
    let images = samples.min(run.train.len()) as f64;
    let mut scores: Vec<Vec<f32>> = layers.iter().map(|(_, units)| vec![0.0; units.count()]).collect();
    for_each_gradient(graph, run, samples, "obd", |graph, share| {
        let half_batch = 0.5 * share * images;
        for ((at, units), scores) in layers.iter().zip(&mut scores) {
            let Some(weight) = targets::weight(graph.nodes()[*at].layer()) else { continue };
            let Some(grad) = weight.grad() else { continue };
            let means = units.means(weight.value().iter().zip(grad).map(|(w, g)| w * w * g * g));
            scores.iter_mut().zip(means).for_each(|(s, m)| *s += (share * half_batch) as f32 * m);
        }
        Ok(())
    })?;
    Ok(scores)
}
