//! How much channels matter.

use super::groups::{ChannelGroup, Unit};
use crate::criteria::{Criterion, for_each_gradient, images, lamp, random};
use crate::error::PruneError;
use crate::targets;
use cnn_core::data::batch;
use cnn_core::layers::{Activation, ActivationFn, BatchNorm};
use cnn_core::{Graph, Layer, Param, Result, Run};
use std::collections::{BTreeMap, BTreeSet};

/// The score of every unit of every group, by the criterion; for [`Criterion::Taylor`] and [`Criterion::Obd`] an estimate of how much
/// the loss changes, for the others in units that only compare within a group.
///
/// `samples` training images are looked at by criteria that need them.
///
/// # Errors
/// [`PruneError::NoData`], [`PruneError::NotFinite`], or [`PruneError::Setting`] where a group has not what the criterion looks
/// at.
pub fn channel_scores(
    criterion: Criterion,
    graph: &Graph,
    groups: &[ChannelGroup],
    run: &mut Run<'_>,
    samples: usize,
) -> Result<Vec<Vec<f32>>> {
    let scores: Vec<Vec<f32>> = match criterion {
        Criterion::Taylor => by_gradient(graph, groups, run, samples, "taylor", |w, g| w * g, f32::abs)?,
        Criterion::Obd => {
            let images = samples.min(run.train.len()) as f32;
            // h w^2 / 2 with h = B E[g^2], the batches' shares of the images are B / images
            let sum = by_gradient(graph, groups, run, samples, "obd", |w, g| 0.5 * w * w * g * g, |sum| sum)?;
            let batch = images.min(run.settings.batch.clamp(1, 64) as f32);
            sum.into_iter().map(|group| group.into_iter().map(|s| s * batch).collect()).collect()
        }
        Criterion::Apoz => apoz(graph, groups, run, samples)?,
        Criterion::Random => {
            groups.iter().map(|g| random::scores(g.units.len(), run.seed, g.producers[0])).collect()
        }
        _ => groups.iter().map(|group| of_weights(criterion, graph, group)).collect::<Result<_>>()?,
    };
    for (group, scores) in groups.iter().zip(&scores) {
        if scores.iter().any(|s| !s.is_finite()) {
            return Err(PruneError::NotFinite { layer: group.name(graph).to_string() }.into());
        }
    }
    Ok(scores)
}

/// The channels of a unit by node.
fn by_node(unit: &Unit) -> BTreeMap<usize, Vec<usize>> {
    let mut nodes: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    unit.iter().for_each(|&(at, channel)| nodes.entry(at).or_default().push(channel));
    nodes
}

/// Parameters of a layer with a row for each output channel.
fn rows(layer: &dyn Layer) -> Vec<&Param> {
    match layer.downcast_ref::<BatchNorm>() {
        Some(norm) => vec![norm.gamma(), norm.beta()],
        None => targets::weight(layer).into_iter().chain(targets::bias(layer)).collect(),
    }
}

/// The values of a parameter's row.
fn row(param: &Param, channel: usize) -> &[f32] {
    let size = param.len() / param.shape()[0].max(1);
    param.value().as_slice().and_then(|v| v.get(channel * size..(channel + 1) * size)).unwrap_or_default()
}

fn of_weights(criterion: Criterion, graph: &Graph, group: &ChannelGroup) -> Result<Vec<f32>> {
    let mut scores = vec![0f32; group.units.len()];
    if criterion == Criterion::BnScale {
        for (unit, score) in group.units.iter().zip(&mut scores) {
            let norms = by_node(unit).into_iter().filter_map(|(at, channels)| {
                Some((graph.nodes()[at].layer().downcast_ref::<BatchNorm>()?, channels))
            });
            let scales: Vec<f32> = norms
                .flat_map(|(norm, channels)| {
                    let gamma = norm.gamma().value();
                    channels.into_iter().map(|c| gamma[c].abs()).collect::<Vec<_>>()
                })
                .collect();
            if scales.is_empty() {
                return Err(missing("bn_scale", graph, group, "batch normalization"));
            }
            *score = scales.iter().sum::<f32>() / scales.len() as f32;
        }
        return Ok(scores);
    }
    for &at in &group.producers {
        let Some(weight) = targets::weight(graph.nodes()[at].layer()) else { continue };
        let per_filter = filter_scores(criterion, weight);
        for (unit, score) in group.units.iter().zip(&mut scores) {
            let filters: Vec<f32> =
                unit.iter().filter(|&&(node, _)| node == at).map(|&(_, c)| per_filter[c]).collect();
            *score +=
                filters.iter().sum::<f32>() / filters.len().max(1) as f32 / group.producers.len() as f32;
        }
    }
    Ok(match criterion {
        Criterion::L2 => scores.into_iter().map(f32::sqrt).collect(),
        Criterion::Lamp => lamp(&scores),
        _ => scores,
    })
}

/// A number for each filter: mean of `|w|`, mean of `w^2`, or distance from the others.
fn filter_scores(criterion: Criterion, weight: &Param) -> Vec<f32> {
    let filters = weight.shape()[0];
    let mean = |f: fn(f32) -> f32| -> Vec<f32> {
        let of =
            |m| row(weight, m).iter().map(|&w| f(w)).sum::<f32>() / (weight.len() / filters).max(1) as f32;
        (0..filters).map(of).collect()
    };
    match criterion {
        Criterion::L2 | Criterion::Lamp => mean(|w| w * w),
        Criterion::GeometricMedian => distances(weight),
        _ => mean(f32::abs),
    }
}

/// `sum over j of |F_i - F_j|` for every filter, with `|F_i - F_j|^2 = F_i F_i + F_j F_j - 2 F_i F_j` from one matrix product.
fn distances(weight: &Param) -> Vec<f32> {
    let filters = weight.shape()[0];
    let Ok(f) = weight.value().view().into_shape_with_order((filters, weight.len() / filters)) else {
        return vec![0.0; filters];
    };
    let products = f.dot(&f.t());
    let of = |i: usize| {
        let square = |j: usize| products[[i, i]] + products[[j, j]] - 2.0 * products[[i, j]];
        (0..filters).filter(|&j| j != i).map(|j| square(j).max(0.0).sqrt()).sum()
    };
    (0..filters).map(of).collect()
}

/// For every unit the sum, over the layers that make its channels (convolution, normalization, depthwise convolution), of
/// `E_batch[outer(sum over the channel's parameters of inner(w, g))]`. For `inner = w g` that sum is what the channel's values times
/// their gradients add up to, whether scale and shift are in a normalization or folded.
fn by_gradient(
    graph: &Graph,
    groups: &[ChannelGroup],
    run: &mut Run<'_>,
    samples: usize,
    what: &'static str,
    inner: fn(f32, f32) -> f32,
    outer: fn(f32) -> f32,
) -> Result<Vec<Vec<f32>>> {
    let nodes: Vec<Vec<BTreeMap<usize, Vec<usize>>>> =
        groups.iter().map(|g| g.units.iter().map(by_node).collect()).collect();
    let mut scores: Vec<Vec<f32>> = groups.iter().map(|g| vec![0.0; g.units.len()]).collect();
    for_each_gradient(graph, run, samples, what, |graph, share| {
        for (units, scores) in nodes.iter().zip(&mut scores) {
            for (unit, score) in units.iter().zip(scores) {
                for (&at, channels) in unit {
                    let mut sum = 0f32;
                    for param in rows(graph.nodes()[at].layer()) {
                        let Some(grad) = param.grad().and_then(|g| g.as_slice()) else { continue };
                        let size = param.len() / param.shape()[0].max(1);
                        for &c in channels {
                            let grads = &grad[c * size..(c + 1) * size];
                            sum += row(param, c).iter().zip(grads).map(|(&w, &g)| inner(w, g)).sum::<f32>();
                        }
                    }
                    *score += share as f32 * outer(sum);
                }
            }
        }
        Ok(())
    })?;
    Ok(scores)
}

/// Share of positions at which a channel is not zero after its activation.
fn apoz(graph: &Graph, groups: &[ChannelGroup], run: &mut Run<'_>, samples: usize) -> Result<Vec<Vec<f32>>> {
    let has_zeros = |at: usize| {
        let layer = graph.nodes()[at].layer().downcast_ref::<Activation>();
        layer.is_some_and(|a| match a.function {
            ActivationFn::Relu | ActivationFn::Relu6 | ActivationFn::HardSwish => true,
            ActivationFn::Clip(low, _) => low == 0.0,
            _ => false,
        })
    };
    let batches = images(run, samples, "apoz")?;
    let count: usize = batches.iter().map(Vec::len).sum();
    let mut scores = Vec::new();
    // group by group, since all activations at once may not fit in memory
    for group in groups {
        let members: BTreeSet<usize> = group.units.iter().flatten().map(|&(at, _)| at).collect();
        let wanted: Vec<usize> = members.into_iter().filter(|&at| has_zeros(at)).collect();
        let names: Vec<&str> = wanted.iter().map(|&at| graph.nodes()[at].name.as_str()).collect();
        let mut shares: BTreeMap<(usize, usize), f32> = BTreeMap::new();
        for ids in &batches {
            let values = graph.capture(&names, &batch(run.train, ids)?.0)?;
            for (&at, values) in wanted.iter().zip(values) {
                let of_image = (values.len() / values.shape()[0] / values.shape()[1]).max(1) as f32;
                for (c, values) in values.axis_iter(ndarray::Axis(1)).enumerate() {
                    let active = values.iter().filter(|&&v| v != 0.0).count() as f32;
                    *shares.entry((at, c)).or_default() += active / of_image / count as f32;
                }
            }
        }
        let unit = |unit: &Unit| {
            let found: Vec<f32> = unit.iter().filter_map(|member| shares.get(member).copied()).collect();
            match found.is_empty() {
                true => Err(missing("apoz", graph, group, "activation with zeros, such as ReLU,")),
                false => Ok(found.iter().sum::<f32>() / found.len() as f32),
            }
        };
        scores.push(group.units.iter().map(unit).collect::<Result<Vec<f32>>>()?);
    }
    Ok(scores)
}

fn missing(criterion: &str, graph: &Graph, group: &ChannelGroup, what: &str) -> cnn_core::Error {
    let why = format!(
        "`{criterion}` looks at the {what} after a channel, and there is none after `{}`; skip that layer, or use \
         another criterion",
        group.name(graph)
    );
    PruneError::Setting { what: "criterion", why }.into()
}
