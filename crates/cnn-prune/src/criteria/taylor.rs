//! First-order Taylor expansion of the loss.

use super::for_each_gradient;
use crate::granularity::Units;
use crate::targets;
use cnn_core::{Graph, Result, Run};

/// `E_batch |sum_{w in u} g_w w|`, for each weight of the unit: by how much the loss changes, to first order, when the unit goes.
pub(super) fn scores(
    graph: &Graph,
    layers: &[(usize, Units)],
    run: &mut Run<'_>,
    samples: usize,
) -> Result<Vec<Vec<f32>>> {
    let mut scores: Vec<Vec<f32>> = layers.iter().map(|(_, units)| vec![0.0; units.count()]).collect();
    for_each_gradient(graph, run, samples, "taylor", |graph, share| {
        for ((at, units), scores) in layers.iter().zip(&mut scores) {
            let Some(weight) = targets::weight(graph.nodes()[*at].layer()) else { continue };
            let Some(grad) = weight.grad() else { continue };
            let means = units.means(weight.value().iter().zip(grad).map(|(w, g)| w * g));
            scores.iter_mut().zip(means).for_each(|(s, m)| *s += share as f32 * m.abs());
        }
        Ok(())
    })?;
    Ok(scores)
}
