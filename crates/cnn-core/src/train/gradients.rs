//! Gradients without training: for what measures how the loss depends on weights.

use crate::compress::Run;
use crate::data::batch;
use crate::graph::Graph;
use crate::train::{Batch, Tape, forward_backward};
use crate::{Error, Result};

/// Calls `each` with a copy of the network that has the gradients of a batch, for batches of `samples` training images in all
/// ([`Run::sample`]), and with the share of the images that the batch has. The network is in training mode, and nothing is updated.
///
/// # Errors
/// Those of `each`, if there are no images, or if the loss is not finite.
pub fn for_each_gradient(
    graph: &Graph,
    run: &mut Run<'_>,
    samples: usize,
    mut each: impl FnMut(&Graph, f64) -> Result<()>,
) -> Result<()> {
    let batches = run.sample(samples)?;
    let count: usize = batches.iter().map(Vec::len).sum();
    let (mut graph, mut tape) = (graph.clone(), Tape::default());
    for (step, ids) in batches.iter().enumerate() {
        let (images, labels) = batch(run.train, ids)?;
        let batch = Batch { ids, images: &images, labels: &labels };
        let loss = forward_backward(&mut graph, &mut tape, &batch, run.objective.as_mut(), step as u64)?;
        if loss.is_none() {
            let node = graph.nodes()[graph.output()].name.clone();
            let rescue = "the graph is as it was".to_string();
            return Err(Error::NonFinite { what: "loss", node, epoch: 0, step, rescue });
        }
        each(&graph, ids.len() as f64 / count as f64)?;
    }
    Ok(())
}
