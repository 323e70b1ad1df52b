//! Which layers are ranked together, how much they are to lose, and the removal itself.

use super::{Scope, Threshold};
use crate::criteria::{self, Criterion, lowest_units, weight_scores};
use crate::error::PruneError;
use crate::granularity::{Granularity, Units, lowest_of_each};
use crate::mask::{Mask, mask_of, restrict};
use crate::targets;
use cnn_core::{Graph, Result, Run, Selection};
use ndarray::{ArrayD, IxDyn};
use std::collections::BTreeMap;

/// What is to be removed of which layers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Extent<'a> {
    pub layers: &'a Selection,
    pub granularity: Granularity,
    pub ratio: f64,
    pub scope: Scope,
    pub threshold: Option<Threshold>,
    pub ratios: &'a BTreeMap<String, f64>,
}

/// Layers whose weights are ranked together.
#[derive(Debug)]
pub(crate) struct Group {
    /// Positions of the layers' nodes.
    pub nodes: Vec<usize>,
    /// Weights that are gone at the start.
    start: usize,
    /// Weights that are to be gone at the end.
    end: usize,
}

impl Group {
    /// Weights that are to be gone after a part of the way, from 0 at the start to 1 at the end.
    pub fn gone(&self, part: f64) -> usize {
        self.start + (part * self.end.saturating_sub(self.start) as f64).round() as usize
    }
}

impl Extent<'_> {
    /// The groups of layers of a network.
    pub fn groups(&self, graph: &Graph) -> Result<Vec<Group>> {
        let found = targets::find(graph, self.layers)?;
        let suits = |&at: &usize| {
            targets::weight(graph.nodes()[at].layer()).is_some_and(|w| self.granularity.suits(w.shape()))
        };
        let nodes: Vec<usize> = found.into_iter().filter(suits).collect();
        if nodes.is_empty() {
            return Err(PruneError::Setting {
                what: "granularity",
                why: "no selected layer has input channels that the pattern divides".to_string(),
            }
            .into());
        }
        let own = self.own_ratios(graph, &nodes)?;
        let ratio = self.granularity.ratio().unwrap_or(self.ratio);
        let (alone, mut pool): (Vec<usize>, Vec<usize>) = nodes.iter().partition(|at| own.contains_key(at));
        let mut groups: Vec<Group> = alone.iter().map(|&at| share(graph, vec![at], own[&at])).collect();
        match (self.threshold, self.scope) {
            (Some(threshold), _) => groups.extend(pool.drain(..).map(|at| below(graph, at, threshold))),
            (None, Scope::Layer) => groups.extend(pool.drain(..).map(|at| share(graph, vec![at], ratio))),
            (None, Scope::Global) => groups.push(share(graph, pool, ratio)),
            (None, Scope::Isomorphic) => {
                let mut alike: BTreeMap<Vec<usize>, Vec<usize>> = BTreeMap::new();
                for at in pool {
                    // filters of one kernel size, or neurons
                    let shape = targets::weight(graph.nodes()[at].layer()).map_or(&[][..], |w| w.shape());
                    alike.entry(shape.get(2..).unwrap_or_default().to_vec()).or_default().push(at);
                }
                groups.extend(alike.into_values().map(|nodes| share(graph, nodes, ratio)));
            }
        }
        Ok(groups)
    }

    /// The ratios of layers that have one of their own, by position.
    fn own_ratios(&self, graph: &Graph, nodes: &[usize]) -> Result<BTreeMap<usize, f64>> {
        let mut own: BTreeMap<usize, (&str, f64)> = BTreeMap::new();
        for (pattern, &ratio) in self.ratios {
            let mut layers = targets::matching(graph, pattern)?;
            layers.retain(|at| nodes.contains(at));
            if layers.is_empty() {
                return Err(PruneError::Unused { pattern: pattern.clone() }.into());
            }
            for at in layers {
                if let Some((first, _)) = own.insert(at, (pattern, ratio)) {
                    let layer = graph.nodes()[at].name.clone();
                    let (first, second) = (first.to_string(), pattern.clone());
                    return Err(PruneError::Ambiguous { layer, first, second }.into());
                }
            }
        }
        Ok(own.into_iter().map(|(at, (_, ratio))| (at, ratio)).collect())
    }
}

/// A group that is to lose a share of its weights.
fn share(graph: &Graph, nodes: Vec<usize>, ratio: f64) -> Group {
    let weights = nodes.iter().filter_map(|&at| targets::weight(graph.nodes()[at].layer()));
    let (mut all, mut start) = (0usize, 0);
    for weight in weights {
        all += weight.len();
        start += mask_of(weight).map_or(0, Mask::removed);
    }
    Group { nodes, start, end: (ratio * all as f64).round() as usize }
}

/// A layer that is to lose as many weights as are below a threshold now.
fn below(graph: &Graph, at: usize, threshold: Threshold) -> Group {
    let Some(weight) = targets::weight(graph.nodes()[at].layer()) else {
        return Group { nodes: vec![at], start: 0, end: 0 };
    };
    let scores = criteria::magnitude(weight);
    let left: Vec<f64> =
        weight.value().iter().zip(&scores).filter(|(_, s)| **s >= 0.0).map(|(&w, _)| f64::from(w)).collect();
    let limit = match threshold {
        Threshold::Absolute(t) => f64::from(t),
        Threshold::Deviations(q) => f64::from(q) * deviation(&left),
    };
    let start = scores.len() - left.len();
    Group { nodes: vec![at], start, end: start + left.iter().filter(|w| w.abs() < limit).count() }
}

/// Standard deviation; 0 without values.
fn deviation(values: &[f64]) -> f64 {
    let n = values.len().max(1) as f64;
    let mean = values.iter().sum::<f64>() / n;
    (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n).sqrt()
}

/// How what goes is chosen.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Choice {
    pub criterion: Criterion,
    pub granularity: Granularity,
    pub samples: usize,
}

/// Masks the weakest units of all groups, so that a part of what is to go is gone.
pub(crate) fn remove(
    graph: &mut Graph,
    groups: &[Group],
    part: f64,
    choice: Choice,
    run: &mut Run<'_>,
) -> Result<()> {
    let units: Vec<(usize, Units)> = groups
        .iter()
        .flat_map(|group| &group.nodes)
        .filter_map(|&at| {
            let weight = targets::weight(graph.nodes()[at].layer())?;
            Some((at, choice.granularity.units(weight.shape())))
        })
        .collect();
    let scores = weight_scores(choice.criterion, graph, &units, run, choice.samples)?;
    let mut first = 0;
    for group in groups {
        let layers = first..first + group.nodes.len();
        first = layers.end;
        let gone = gone_of(graph, &units[layers.clone()], &scores[layers], group.gone(part), part, choice);
        for (&at, gone) in group.nodes.iter().zip(gone) {
            mask(graph, at, gone);
        }
    }
    Ok(())
}

/// For each layer of a group, the weights that go, those that are gone included.
fn gone_of(
    graph: &Graph,
    layers: &[(usize, Units)],
    scores: &[Vec<f32>],
    count: usize,
    part: f64,
    choice: Choice,
) -> Vec<Vec<bool>> {
    if let Granularity::NOfM { keep, of, filters } = choice.granularity {
        let gone = (part * (of - keep) as f64).round() as usize;
        let shape = |at: usize| targets::weight(graph.nodes()[at].layer()).map_or(&[][..], |w| w.shape());
        return layers
            .iter()
            .zip(scores)
            .map(|((at, _), s)| lowest_of_each(s, shape(*at), [of, filters], gone))
            .collect();
    }
    let sizes: Vec<Option<&[u32]>> = layers.iter().map(|(_, units)| units.sizes()).collect();
    let chosen = lowest_units(scores, &sizes, count);
    let spread = |((_, units), chosen): (&(usize, Units), Vec<bool>)| units.of().map(|u| chosen[u]).collect();
    layers.iter().zip(chosen).map(spread).collect()
}

/// Puts a mask on the weights of a layer, or narrows the one that is there.
fn mask(graph: &mut Graph, at: usize, gone: Vec<bool>) {
    if !gone.contains(&true) {
        return;
    }
    if let Some(weight) = targets::weight_mut(graph.layer_at_mut(at)) {
        let keep = gone.into_iter().map(|gone| !gone).collect();
        let keep = ArrayD::from_shape_vec(IxDyn(weight.shape()), keep)
            .unwrap_or_else(|_| unreachable!("one score for each weight"));
        restrict(weight, Mask::new(keep));
    }
}
