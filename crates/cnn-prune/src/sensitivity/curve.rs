//! Accuracy against ratio, layer by layer.

use super::What;
use crate::Criterion;
use crate::channels::{Channels, channel_groups};
use crate::memory;
use crate::targets;
use crate::weights::{Scope, Weights};
use cnn_core::compress::write_config;
use cnn_core::{Compressor, Graph, Result, Run, Selection};
use serde::{Deserialize, Serialize};

/// The accuracy of a network of which one layer is pruned.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Curve {
    /// The layer; for channels all that make the channels which go together.
    pub layers: Vec<String>,
    /// Ratio and accuracy on the validation images, in `[0, 1]`; the first ratio is 0.
    pub points: Vec<(f64, f64)>,
}

impl Curve {
    /// By how much the accuracy falls at each ratio, never less than at a smaller one.
    pub fn drops(&self) -> Vec<f64> {
        let start = self.points.first().map_or(0.0, |p| p.1);
        let mut worst = 0f64;
        self.points
            .iter()
            .map(|(_, accuracy)| {
                worst = worst.max(start - accuracy);
                worst
            })
            .collect()
    }
}

/// The accuracy on the run's validation images when each selected layer is pruned alone, at each of the ratios, without retraining
/// (Li et al. 2017, "Pruning Filters for Efficient ConvNets", section 3.2; Han et al. 2015, figure 6). An evaluation uses all threads of
/// the current pool. What was found is kept in [`Run::memory`], point by point, so that an interrupted analysis goes on.
///
/// ```
/// use cnn_core::train::TrainSettings;
/// use cnn_core::{Registry, Run, Selection, testing};
/// use cnn_prune::{What, sensitivity};
///
/// let graph = testing::lenet5(0)?;
/// let data = testing::stripes(40, [1, 28, 28], 10, 1)?;
/// let registry = Registry::core();
/// let mut run = Run::new(&data, &data, TrainSettings::default(), &registry);
/// let curves = sensitivity(&graph, What::Weights, &Selection::default(), &[0.5, 0.9], &mut run)?;
/// assert_eq!(curves.iter().map(|c| c.layers[0].as_str()).collect::<Vec<_>>(), ["conv1", "conv2", "fc1", "fc2"]);
/// assert_eq!(curves[0].points.len(), 3);
/// # Ok::<(), cnn_core::Error>(())
/// ```
///
/// # Errors
/// If a ratio is outside `[0, 1)`, a pattern matches nothing, or there are no validation images.
pub fn sensitivity(
    graph: &Graph,
    what: What,
    layers: &Selection,
    ratios: &[f64],
    run: &mut Run<'_>,
) -> Result<Vec<Curve>> {
    let names: Vec<Vec<String>> = match what {
        What::Weights => {
            let found = targets::find(graph, layers)?.into_iter();
            found.map(|at| vec![graph.nodes()[at].name.clone()]).collect()
        }
        What::Channels => channel_groups(graph, layers)?.iter().map(|group| group.key(graph)).collect(),
    };
    let key = memory::key("sensitivity", graph, &write_config(&what), run)?;
    let start = run.remember_value(&format!("{key}-start"), |run| run.accuracy(graph))?;
    let bar = run.progress.bar((names.len() * ratios.len()) as u64, "sensitivity");
    let mut curves = Vec::new();
    for layers in names {
        let mut points = vec![(0.0, start)];
        for &ratio in ratios {
            let key = format!("{key}-{}-{ratio}", layers.join("+"));
            let shares = [(layers.clone(), ratio)];
            let accuracy = run.remember_value(&key, |run| {
                let pruned = prune_by(what, graph, &shares, run)?;
                run.accuracy(&pruned)
            })?;
            points.push((ratio, accuracy));
            bar.inc(1);
        }
        curves.push(Curve { layers, points });
    }
    bar.finish_and_clear();
    Ok(curves)
}

/// The network with some layers, or groups of them, pruned by their own ratios, all others not at all, without training.
pub(super) fn prune_by(
    what: What,
    graph: &Graph,
    shares: &[(Vec<String>, f64)],
    run: &mut Run<'_>,
) -> Result<Graph> {
    let memory = run.memory.take();
    let pruned = match what {
        What::Weights => {
            let ratios = shares.iter().map(|(layers, ratio)| (layers[0].clone(), *ratio)).collect();
            let method =
                Weights { ratio: 0.0, ratios, rounds: 1, epochs: 0, final_epochs: 0, ..Weights::default() };
            let mut pruned = graph.clone();
            method.apply(&mut pruned, run).map(|()| pruned)
        }
        What::Channels => {
            let method = Channels {
                ratio: 0.0,
                scope: Scope::Layer,
                criterion: Criterion::L1,
                rounds: 1,
                final_epochs: 0,
                ..Channels::default()
            };
            method.prune(graph, &shares.iter().cloned().collect(), run)
        }
    };
    run.memory = memory;
    pruned
}
