//! Images and gradients for the criteria that look at data.

use crate::error::PruneError;
use cnn_core::{Graph, Result, Run};

/// Positions of `samples` training images in batches ([`Run::sample`]).
pub(crate) fn images(run: &Run<'_>, samples: usize, what: &'static str) -> Result<Vec<Vec<usize>>> {
    if run.train.is_empty() || samples == 0 {
        return Err(PruneError::NoData { what }.into());
    }
    run.sample(samples)
}

/// The core's function, with this crate's error when there are no images.
pub(crate) fn for_each_gradient(
    graph: &Graph,
    run: &mut Run<'_>,
    samples: usize,
    what: &'static str,
    each: impl FnMut(&Graph, f64) -> Result<()>,
) -> Result<()> {
    images(run, samples, what)?;
    cnn_core::train::for_each_gradient(graph, run, samples, each)
}
