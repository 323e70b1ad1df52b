//! The layers that quantization works on: convolutions and linear layers, with their weights first and the bias second.

use crate::error::Error;
use cnn_core::layers::{Conv2d, Linear};
use cnn_core::{Graph, Layer, Param, Selection};

/// Weights, then the bias if there is one; empty for other layers.
pub fn params(layer: &dyn Layer) -> Vec<&Param> {
    match layer.is::<Conv2d>() || layer.is::<Linear>() {
        true => layer.params(),
        false => Vec::new(),
    }
}

/// As [`params`], to be changed.
pub fn params_mut(layer: &mut dyn Layer) -> Vec<&mut Param> {
    match layer.is::<Conv2d>() || layer.is::<Linear>() {
        true => layer.trainable().map(|t| t.params_mut()).unwrap_or_default(),
        false => Vec::new(),
    }
}

/// Positions of the layers that are selected for `method`, whose weights and biases are finite and do not carry `constraint` yet.
pub fn select(
    graph: &Graph,
    method: &'static str,
    layers: &Selection,
    constraint: &'static str,
) -> cnn_core::Result<Vec<usize>> {
    layers.check(graph)?;
    let mut found = Vec::new();
    for (at, node) in graph.nodes().iter().enumerate().filter(|(_, n)| layers.matches(&n.name)) {
        let params = params(node.layer());
        let Some(weight) = params.first() else { continue };
        let layer = node.name.clone();
        if weight.constraints().iter().any(|c| c.kind() == constraint) {
            return Err(Error::AlreadyConstrained { layer, constraint }.into());
        }
        for (what, param) in ["weights", "bias values"].into_iter().zip(&params) {
            if param.value().iter().any(|v| !v.is_finite()) {
                return Err(Error::NotFinite { what, layer }.into());
            }
        }
        found.push(at);
    }
    match found.is_empty() {
        true => Err(Error::NothingSelected { method }.into()),
        false => Ok(found),
    }
}

/// True if the layer's weights carry the constraint.
pub fn carries(layer: &dyn Layer, constraint: &str) -> bool {
    params(layer).first().is_some_and(|w| w.constraints().iter().any(|c| c.kind() == constraint))
}
