//! Which weights go first: the criteria, one a file, and the choice of the lowest scores.

mod data;
mod lamp;
mod lowest;
mod magnitude;
mod obd;
pub(crate) mod random;
mod taylor;

pub(crate) use data::{for_each_gradient, images};
pub(crate) use lamp::lamp;
pub use lowest::{lowest, lowest_units};
pub use magnitude::magnitude;

use crate::error::PruneError;
use crate::granularity::Units;
use crate::mask::mask_of;
use crate::targets;
use cnn_core::{Graph, Param, Result, Run};
use serde::{Deserialize, Serialize};

/// Score of what an earlier round removed: below every importance.
pub(crate) const REMOVED: f32 = -1.0;

/// How much a weight, or a group of weights that goes together, matters. The scores of a group are per weight, so that groups of
/// several sizes can be ranked together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Criterion {
    /// Mean of `|w|` (Han et al. 2015, section 3.1; for filters Li et al. 2017, "Pruning Filters for Efficient ConvNets").
    #[default]
    L1,
    /// Root of the mean of `w^2`.
    L2,
    /// First-order Taylor expansion of the loss, `|sum of g w|`, averaged over batches (Molchanov et al. 2017, "Pruning Convolutional
    /// Neural Networks for Resource Efficient Inference", equation 7; 2019, "Importance Estimation for Neural Network Pruning",
    /// squares it).
    Taylor,
    /// Diagonal of the Hessian, `h w^2 / 2` (LeCun, Denker & Solla 1990, "Optimal Brain Damage", equation 5), with the empirical
    /// Fisher information for `h`.
    Obd,
    /// `|gamma|` of the batch normalization that follows a channel (Liu et al. 2017, "Network Slimming"). Channels only.
    BnScale,
    /// Distance of a filter from all others of its layer: those near the geometric median can be replaced by the others (He et al.
    /// 2019, "Filter Pruning via Geometric Median", equation 4). Channels only.
    GeometricMedian,
    /// Share of positions at which the channel is not zero after its activation: 1 - APoZ (Hu et al. 2016, "Network Trimming",
    /// equation 1). Channels with ReLU or another activation that has zeros only.
    Apoz,
    /// `w^2` over the sum of all `w^2` of the layer that are not smaller (Lee et al. 2021, "Layer-adaptive Sparsity for the
    /// Magnitude-based Pruning", equation 3); for a scope of several layers.
    Lamp,
    /// A random order: the control that every other criterion has to beat.
    Random,
}

impl Criterion {
    /// Its name in configurations.
    pub fn name(self) -> &'static str {
        match self {
            Criterion::L1 => "l1",
            Criterion::L2 => "l2",
            Criterion::Taylor => "taylor",
            Criterion::Obd => "obd",
            Criterion::BnScale => "bn_scale",
            Criterion::GeometricMedian => "geometric_median",
            Criterion::Apoz => "apoz",
            Criterion::Lamp => "lamp",
            Criterion::Random => "random",
        }
    }

    /// True if it needs training images.
    pub fn reads_data(self) -> bool {
        matches!(self, Criterion::Taylor | Criterion::Obd | Criterion::Apoz)
    }

    /// True if it ranks single weights; the others rank channels alone.
    pub fn ranks_weights(self) -> bool {
        !matches!(self, Criterion::BnScale | Criterion::GeometricMedian | Criterion::Apoz)
    }

    /// Refuses a criterion that ranks channels alone.
    pub(crate) fn check_weights(self) -> Result<(), PruneError> {
        match self.ranks_weights() {
            true => Ok(()),
            false => Err(PruneError::Setting {
                what: "criterion",
                why: format!("`{}` ranks channels alone; use it with prune.channels", self.name()),
            }),
        }
    }
}

/// The scores of the units of some layers, [`REMOVED`] for those that a mask has removed.
///
/// `samples` training images are looked at by criteria that need them.
pub(crate) fn weight_scores(
    criterion: Criterion,
    graph: &Graph,
    layers: &[(usize, Units)],
    run: &mut Run<'_>,
    samples: usize,
) -> Result<Vec<Vec<f32>>> {
    let mut scores = match criterion {
        Criterion::Taylor => taylor::scores(graph, layers, run, samples)?,
        Criterion::Obd => obd::scores(graph, layers, run, samples)?,
        _ => layers
            .iter()
            .filter_map(|(at, units)| Some((*at, units, targets::weight(graph.nodes()[*at].layer())?)))
            .map(|(at, units, weight)| match criterion {
                Criterion::L2 => magnitude::l2(weight, units),
                Criterion::Lamp => lamp::scores(weight, units),
                Criterion::Random => random::scores(units.count(), run.seed, at),
                _ => magnitude::l1(weight, units),
            })
            .collect(),
    };
    for ((at, units), scores) in layers.iter().zip(&mut scores) {
        let node = &graph.nodes()[*at];
        if scores.iter().any(|s| !s.is_finite()) {
            return Err(PruneError::NotFinite { layer: node.name.clone() }.into());
        }
        if let Some(weight) = targets::weight(node.layer()) {
            mark_removed(weight, units, scores);
        }
    }
    Ok(scores)
}

/// Gives units of which a mask has removed everything the lowest score.
fn mark_removed(weight: &Param, units: &Units, scores: &mut [f32]) {
    let Some(mask) = mask_of(weight).filter(|mask| mask.keep().shape() == weight.shape()) else { return };
    let mut left = vec![false; units.count()];
    units.of().zip(mask.keep()).for_each(|(u, &keep)| left[u] |= keep);
    scores.iter_mut().zip(left).filter(|(_, left)| !left).for_each(|(s, _)| *s = REMOVED);
}
