//! Images and gradients for the criteria that look at data.

use crate::error::PruneError;
use cnn_core::data::batch;
use cnn_core::train::{Batch, Tape, forward_backward};
use cnn_core::{Error, Graph, Result, Run};
use rand::SeedableRng;
use rand::seq::index::sample;
use rand_chacha::ChaCha8Rng;

/// Images of a batch, at most.
const BATCH: usize = 64;

/// Positions of `samples` training images, chosen by the run's seed, in batches no larger than those of its training.
pub(crate) fn images(run: &Run<'_>, samples: usize, what: &'static str) -> Result<Vec<Vec<usize>>> {
    let all = run.train.len();
    if all == 0 || samples == 0 {
        return Err(PruneError::NoData { what }.into());
    }
    let mut rng = ChaCha8Rng::seed_from_u64(run.seed);
    let chosen = sample(&mut rng, all, samples.min(all)).into_vec();
    Ok(chosen.chunks(BATCH.min(run.settings.batch).max(1)).map(<[usize]>::to_vec).collect())
}

/// Calls `each` with a copy of the network that has the gradients of a batch, for batches of `samples` training images in all, and
/// with the share of the images that the batch has. The network is in training mode, and nothing is updated.
pub(crate) fn for_each_gradient(
    graph: &Graph,
    run: &mut Run<'_>,
    samples: usize,
    what: &'static str,
    mut each: impl FnMut(&Graph, f64) -> Result<()>,
) -> Result<()> {
    let batches = images(run, samples, what)?;
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
