//! Weights are set back to an early network.

use crate::error::PruneError;
use cnn_core::{Graph, Node, Registry, Result, model_file};
use std::path::Path;

/// Reads the early network and checks that it is the same one: nodes of the same kinds and inputs with parameters of the same shapes.
pub(super) fn load(file: &Path, graph: &Graph, registry: &Registry) -> Result<Graph> {
    let early = model_file::load_checkpoint(file, registry).or_else(|_| model_file::load(file, registry))?;
    let nodes = |graph: &Graph| -> Vec<String> {
        let shapes = |n: &Node| n.layer().params().iter().map(|p| p.shape().to_vec()).collect::<Vec<_>>();
        graph.nodes().iter().map(|n| format!("{} {:?} {:?}", n.layer().kind(), n.inputs, shapes(n))).collect()
    };
    match nodes(graph) == nodes(&early) {
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

/// Puts the early layers in the place of the present ones, statistics of normalizations included; masks and other constraints stay.
pub(super) fn set_back(graph: &mut Graph, early: &Graph) -> Result<()> {
    for at in 0..graph.nodes().len() {
        let mut layer = early.nodes()[at].layer().clone_box();
        let Some(trainable) = layer.trainable() else { continue };
        for (early, now) in trainable.params_mut().into_iter().zip(graph.nodes()[at].layer().params()) {
            early.bake();
            now.constraints().iter().for_each(|constraint| early.constrain(constraint.clone()));
        }
        let name = graph.nodes()[at].name.clone();
        graph.replace(&name, layer)?;
    }
    Ok(())
}
