//! The layers that can be pruned: trainable convolutions and linear layers.

use crate::error::PruneError;
use cnn_core::layers::{Conv2d, Linear};
use cnn_core::{Graph, Layer, Param, Result, Selection};

/// The weights of a layer, if it is one that can be pruned.
pub(crate) fn weight(layer: &dyn Layer) -> Option<&Param> {
    let conv = layer.downcast_ref::<Conv2d>().map(Conv2d::weight);
    conv.or_else(|| layer.downcast_ref::<Linear>().map(Linear::weight))
}

/// The bias of a layer that can be pruned.
pub(crate) fn bias(layer: &dyn Layer) -> Option<&Param> {
    let conv = layer.downcast_ref::<Conv2d>().and_then(Conv2d::bias);
    conv.or_else(|| layer.downcast_ref::<Linear>().and_then(Linear::bias))
}

/// The weights of a layer, mutable.
pub(crate) fn weight_mut(layer: &mut dyn Layer) -> Option<&mut Param> {
    if layer.is::<Conv2d>() {
        return layer.downcast_mut::<Conv2d>().map(Conv2d::weight_mut);
    }
    layer.downcast_mut::<Linear>().map(Linear::weight_mut)
}

/// Positions of the selected layers that can be pruned, in execution order; their weights are finite.
pub(crate) fn find(graph: &Graph, selection: &Selection) -> Result<Vec<usize>> {
    selection.check(graph)?;
    for pattern in &selection.only {
        matching(graph, pattern)?;
    }
    let nodes = graph.nodes().iter().enumerate();
    let found: Vec<usize> = nodes
        .filter(|(_, n)| weight(n.layer()).is_some() && selection.matches(&n.name))
        .map(|(at, _)| at)
        .collect();
    if found.is_empty() {
        let kinds = graph.nodes().iter().filter(|n| selection.matches(&n.name)).map(|n| n.layer().kind());
        let mut kinds: Vec<&str> = kinds.collect();
        kinds.sort_unstable();
        kinds.dedup();
        let found = if kinds.is_empty() {
            "nothing is selected".into()
        } else {
            format!("found: {}", kinds.join(", "))
        };
        return Err(PruneError::NoLayers { found }.into());
    }
    for &at in &found {
        let node = &graph.nodes()[at];
        if weight(node.layer()).is_some_and(|w| w.value().iter().any(|v| !v.is_finite())) {
            return Err(PruneError::NotFinite { layer: node.name.clone() }.into());
        }
    }
    Ok(found)
}

/// Positions of the prunable layers that a pattern matches: at least one.
pub(crate) fn matching(graph: &Graph, pattern: &str) -> Result<Vec<usize>> {
    let only = Selection { only: vec![pattern.to_string()], skip: Vec::new() };
    only.check(graph)?;
    let all: Vec<usize> =
        (0..graph.nodes().len()).filter(|&at| only.matches(&graph.nodes()[at].name)).collect();
    let layers: Vec<usize> =
        all.iter().copied().filter(|&at| weight(graph.nodes()[at].layer()).is_some()).collect();
    match (layers.is_empty(), all.first()) {
        (true, Some(&first)) => {
            let node = &graph.nodes()[first];
            let kind = node.layer().kind().to_string();
            Err(PruneError::NotPrunable { pattern: pattern.to_string(), node: node.name.clone(), kind }
                .into())
        }
        _ => Ok(layers),
    }
}
