//! Weights are set back to an early network.

use crate::error::PruneError;
use cnn_core::{Graph, Registry, Result, model_file};
use std::path::Path;

/// Reads the early network and checks that it is the same one.
pub(super) fn load(file: &Path, graph: &Graph, registry: &Registry) -> Result<Graph> {
    let early = model_file::load_checkpoint(file, registry).or_else(|_| model_file::load(file, registry))?;
    let shapes = |graph: &Graph| -> Vec<Vec<usize>> {
        let params = graph.nodes().iter().flat_map(|n| n.layer().params());
        params.map(|p| p.shape().to_vec()).collect()
    };
    match shapes(graph) == shapes(&early) {
        true => Ok(early),
        false => Err(PruneError::Setting {
            what: "rewind",
            why: format!(
                "the network in {} has other layers or shapes than the one to prune",
                file.display()
            ),
        }
        .into()),
    }
}

/// Gives every parameter the base values of the early network; masks and other constraints stay.
pub(super) fn set_back(graph: &mut Graph, early: &Graph) -> Result<()> {
    for at in 0..graph.nodes().len() {
        let layer = graph.layer_at_mut(at);
        let Some(layer) = layer.trainable() else { continue };
        for (param, early) in layer.params_mut().into_iter().zip(early.nodes()[at].layer().params()) {
            param.set_base(early.value().clone());
        }
    }
    Ok(())
}
