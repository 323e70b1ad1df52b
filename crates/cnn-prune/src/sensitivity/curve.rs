//! Accuracy against ratio, layer by layer.

use super::What;
use crate::channels::{Channels, channel_groups};
use crate::targets;
use crate::weights::{Scope, Weights};
use cnn_core::compress::write_config;
use cnn_core::{Compressor, Graph, Result, Run, Selection};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The accuracy of a network of which one layer is pruned.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Curve {
    /// The layer; for channels the first of those that go together.
    pub layer: String,
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
/// assert_eq!(curves.iter().map(|c| c.layer.as_str()).collect::<Vec<_>>(), ["conv1", "conv2", "fc1", "fc2"]);
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
    let names: Vec<String> = match what {
        What::Weights => {
            targets::find(graph, layers)?.into_iter().map(|at| graph.nodes()[at].name.clone()).collect()
        }
        What::Channels => {
            channel_groups(graph, layers)?.iter().map(|group| group.name(graph).to_string()).collect()
        }
    };
    let key = match run.memory {
        Some(_) => format!("sensitivity-{}", run.fingerprint(graph, &write_config(&what))?),
        None => String::new(),
    };
    let start = run.remember_value(&format!("{key}-start"), |run| run.accuracy(graph))?;
    let bar = run.progress.bar((names.len() * ratios.len()) as u64, "sensitivity");
    let mut curves = Vec::new();
    for layer in names {
        let mut points = vec![(0.0, start)];
        for &ratio in ratios {
            let key = format!("{key}-{layer}-{ratio}");
            let accuracy = run.remember_value(&key, |run| point(graph, what, &layer, ratio, run))?;
            points.push((ratio, accuracy));
            bar.inc(1);
        }
        curves.push(Curve { layer, points });
    }
    bar.finish_and_clear();
    Ok(curves)
}

/// The accuracy when one layer is pruned.
fn point(graph: &Graph, what: What, layer: &str, ratio: f64, run: &mut Run<'_>) -> Result<f64> {
    let mut pruned = graph.clone();
    let memory = run.memory.take();
    let done = one_shot(what, BTreeMap::from([(layer.to_string(), ratio)])).apply(&mut pruned, run);
    run.memory = memory;
    done?;
    run.accuracy(&pruned)
}

/// The method that prunes some layers by their own ratio, all others not at all, without training.
pub(super) fn one_shot(what: What, ratios: BTreeMap<String, f64>) -> Box<dyn Compressor> {
    match what {
        What::Weights => Box::new(Weights {
            ratio: 0.0,
            ratios,
            rounds: 1,
            epochs: 0,
            final_epochs: 0,
            ..Weights::default()
        }),
        What::Channels => Box::new(Channels {
            ratio: 0.0,
            ratios,
            scope: Scope::Layer,
            criterion: crate::Criterion::L1,
            rounds: 1,
            epochs: 0,
            final_epochs: 0,
            ..Channels::default()
        }),
    }
}
