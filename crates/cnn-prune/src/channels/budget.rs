//! What a network may cost, and what its channels cost.

use super::groups::ChannelGroup;
use crate::error::PruneError;
use cnn_core::session::{Session, SessionOptions, latencies};
use cnn_core::{ChannelRule, Graph, Result, Tensor, model_file};
use serde::{Deserialize, Serialize};

/// Runs in which kernels are timed.
const RUNS: usize = 31;

/// What the pruned network may cost, as a part of what it cost before, in `(0, 1]`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Budget {
    /// Multiply-adds.
    Macs(f64),
    /// Bytes of the file.
    Bytes(f64),
    /// Time of an image in a [`Session`] on one thread of this machine, both networks by turns.
    Latency(f64),
    /// The same in milliseconds.
    Milliseconds(f64),
}

impl Budget {
    pub(crate) fn check(self) -> Result<(), PruneError> {
        let (what, holds) = match self {
            Budget::Macs(part) | Budget::Bytes(part) | Budget::Latency(part) => {
                ("a part of what it costs now, above 0 and at most 1", part > 0.0 && part <= 1.0)
            }
            Budget::Milliseconds(ms) => ("a positive number of milliseconds", ms > 0.0 && ms.is_finite()),
        };
        match holds {
            true => Ok(()),
            false => Err(PruneError::Setting { what: "budget", why: what.to_string() }),
        }
    }

    /// What is allowed of it.
    pub(crate) fn limit(self) -> f64 {
        match self {
            Budget::Macs(part) | Budget::Bytes(part) | Budget::Latency(part) | Budget::Milliseconds(part) => {
                part
            }
        }
    }

    /// What may be left of it after a part of the way, from 0 to 1. A network that keeps to the budget already stays as it is.
    pub(crate) fn limit_at(self, part: f64, original: &Graph) -> Result<f64> {
        let whole = self.cost(original, original)?;
        Ok(match whole <= self.limit() {
            true => self.limit(),
            false => whole - part * (whole - self.limit()),
        })
    }

    /// What a network costs, in the budget's measure, when `original` is what it was made of.
    pub(crate) fn cost(self, graph: &Graph, original: &Graph) -> Result<f64> {
        Ok(match self {
            Budget::Macs(_) => {
                graph.cost()?.macs.total() as f64 / original.cost()?.macs.total().max(1) as f64
            }
            Budget::Bytes(_) => bytes(graph)? / bytes(original)?.max(1.0),
            Budget::Latency(_) => {
                let (ours, theirs) = latencies(graph, original)?;
                ours / theirs.max(1e-9)
            }
            Budget::Milliseconds(_) => latencies(graph, original)?.0,
        })
    }

    /// What the network saves, about, when a unit of each group goes.
    pub(crate) fn of_units(self, graph: &Graph, groups: &[ChannelGroup]) -> Result<Vec<f64>> {
        match self {
            Budget::Macs(_) => saved(graph, groups, |graph| Ok(graph.cost()?.macs.total() as f64)),
            Budget::Bytes(_) => saved(graph, groups, |graph| Ok(graph.cost()?.params as f64)),
            Budget::Latency(_) | Budget::Milliseconds(_) => nanoseconds(graph, groups),
        }
    }
}

/// The length of a network's file, with constraints applied.
fn bytes(graph: &Graph) -> Result<f64> {
    let mut plain = graph.clone();
    for at in 0..plain.nodes().len() {
        if let Some(layer) = plain.layer_at_mut(at).trainable() {
            layer.params_mut().into_iter().for_each(|p| p.bake());
        }
    }
    Ok(model_file::deploy_bytes(&plain, false)?.len() as f64)
}

/// By how much a measure falls when one unit of each group goes.
fn saved(
    graph: &Graph,
    groups: &[ChannelGroup],
    measure: impl Fn(&Graph) -> Result<f64>,
) -> Result<Vec<f64>> {
    let all = measure(graph)?;
    groups
        .iter()
        .map(|group| {
            let mut less = graph.clone();
            match group.units.len() {
                1 => Ok(all),
                _ => {
                    less.remove_channels(&group.units[0])?;
                    Ok(all - measure(&less)?)
                }
            }
        })
        .collect()
}

/// The share of a unit in the time of the layers that make its channels and of those that read them.
fn nanoseconds(graph: &Graph, groups: &[ChannelGroup]) -> Result<Vec<f64>> {
    let mut session = Session::new(graph.clone(), &SessionOptions::default())?;
    let image = Tensor::zeros([&[1], graph.input_shape()].concat());
    let profile = session.profile(&image, RUNS)?;
    let shapes = graph.shapes(1)?;
    let time = |at: usize| {
        let rows = profile.rows.iter().filter(|row| row.node == graph.nodes()[at].name);
        rows.map(|row| row.nanoseconds as f64).sum::<f64>()
    };
    let width = |at: usize| shapes[at].get(1).copied().unwrap_or(1).max(1) as f64;
    let of_unit = |group: &ChannelGroup| {
        let mut sum = 0.0;
        for &(at, _) in &group.units[0] {
            sum += time(at) / width(at);
            for (reader, node) in graph.nodes().iter().enumerate().filter(|(_, n)| n.inputs.contains(&at)) {
                let inputs: Vec<&[usize]> = node.inputs.iter().map(|&i| shapes[i].as_slice()).collect();
                if node.layer().channels(&inputs) == ChannelRule::Free {
                    sum += time(reader) / width(at);
                }
            }
        }
        sum
    };
    Ok(groups.iter().map(of_unit).collect())
}
