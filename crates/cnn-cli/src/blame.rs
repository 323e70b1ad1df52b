//! Which layer of a compressed network costs how much: each of them alone in the place of the original one.

use crate::measure::evaluate;
use crate::part::Part;
use crate::session::Session;
use anyhow::{Result, bail};
use cnn_core::data::batch;
use cnn_core::layers::BatchNorm;
use cnn_core::{Graph, Layer};
use serde::Serialize;

/// Images on which the outputs of single layers are compared.
const IMAGES: usize = 64;

/// A layer of the second network in the place of that of the first.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Blame {
    /// The layer.
    pub layer: String,
    /// Its kind in both networks.
    pub kinds: [String; 2],
    /// Ratio of the squares of the layer's outputs to those of their errors, in decibels; `None` without errors.
    pub sqnr: Option<f64>,
    /// Images that the network gets right with this layer alone.
    pub correct: usize,
    /// Difference to the first network, in points.
    pub points: f64,
}

/// What the convolutions and linear layers cost that differ, in the order of the network: the n-th of one network is the n-th of the other,
/// whatever their names, which small files do not keep. A normalization that the second network has no more, because it went into the layer
/// before, is left out with it.
///
/// # Errors
/// If the networks have not as many of these layers, or the images cannot be read or do not suit the networks.
pub fn blame(first: &Graph, second: &Graph, images: &Part, session: &Session) -> Result<Vec<Blame>> {
    let (of_first, of_second) = (multiplying(first)?, multiplying(second)?);
    if of_first.len() != of_second.len() {
        bail!(
            "the networks have {} and {} convolutions and linear layers: --layers compares those of one structure",
            of_first.len(),
            of_second.len()
        );
    }
    let all = evaluate(first, images, "evaluating", session)?;
    let few: Vec<usize> = (0..cnn_core::Dataset::len(images).min(IMAGES)).collect();
    let (few, _) = batch(images, &few)?;
    let mut found = Vec::new();
    for (at, other_at) in of_first.into_iter().zip(of_second) {
        let (node, other) = (&first.nodes()[at], &second.nodes()[other_at]);
        if same(node.layer(), other.layer()) {
            continue;
        }
        let mut alone = first.clone();
        let gone = normalization(first, at).filter(|_| normalization(second, other_at).is_none());
        let placed = alone.edit(|graph| {
            graph.replace(&node.name, other.layer().clone_box())?;
            gone.iter().try_for_each(|name| graph.remove(name))
        });
        if placed.is_err() {
            session.warn(format!("`{}` is of another shape in the second network; left out", node.name));
            continue;
        }
        let scores = evaluate(&alone, images, &format!("with `{}` alone", node.name), session)?;
        let last = gone.as_ref().unwrap_or(&node.name);
        let (wanted, is) = (first.capture(&[last], &few)?, alone.capture(&[&node.name], &few)?);
        let square =
            |values: &mut dyn Iterator<Item = f32>| values.map(|v| f64::from(v).powi(2)).sum::<f64>();
        let error = square(&mut wanted[0].iter().zip(&is[0]).map(|(a, b)| a - b));
        let sqnr = (error > 0.0).then(|| 10.0 * (square(&mut wanted[0].iter().copied()) / error).log10());
        found.push(Blame {
            layer: node.name.clone(),
            kinds: [node.layer(), other.layer()].map(|layer| layer.kind().to_string()),
            sqnr,
            correct: scores.correct,
            points: 100.0 * (scores.top1 - all.top1),
        });
    }
    Ok(found)
}

/// True if both layers are of one kind with the same parameters.
fn same(a: &dyn Layer, b: &dyn Layer) -> bool {
    let values = |layer: &dyn Layer| layer.params().iter().map(|p| p.value().clone()).collect::<Vec<_>>();
    a.kind() == b.kind() && values(a) == values(b)
}

/// Positions of the layers that multiply.
fn multiplying(graph: &Graph) -> Result<Vec<usize>> {
    let costs = graph.costs()?;
    Ok((0..costs.len()).filter(|&at| costs[at].macs.total() > 0).collect())
}

/// The name of the normalization that alone reads the node.
fn normalization(graph: &Graph, at: usize) -> Option<String> {
    let mut readers = graph.nodes().iter().filter(|n| n.inputs.contains(&at));
    let reader = readers.next().filter(|n| n.layer().is::<BatchNorm>())?;
    readers.next().is_none().then(|| reader.name.clone())
}
