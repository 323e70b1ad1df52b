//! Pruning during one training, with or without regrowth.

use crate::criteria::{Criterion, REMOVED, lamp, lowest_units, magnitude};
use crate::error::{PruneError, check_ratios};
use crate::granularity::{Granularity, Units};
use crate::mask::{Mask, mask_of, put};
use crate::retrain::check_rate;
use crate::schedule::cubic;
use crate::weights::Scope;
use crate::weights::groups::{Extent, Group};
use crate::{pack, targets};
use cnn_core::compress::{read_config, write_config};
use cnn_core::train::{EpochRule, Hook, StepInfo};
use cnn_core::{Compressor, Config, Graph, Param, Result, Run, Selection};
use ndarray::{ArrayD, IxDyn};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A removed weight comes back when it has grown this much beyond the largest that goes, so that weights near the threshold do
/// not come and go (Guo et al. 2016, equation 3, have two thresholds).
const RETURN: f32 = 1.1;

/// Pruning during one training: every few steps the smallest weights are masked anew, so that their share grows as
/// `s_t = s_f (1 - (1 - t / n)^3)` over the first part of the training (Zhu & Gupta 2017, "To prune, or not to prune: exploring the
/// efficacy of pruning for model compression", equation 1: automated gradual pruning).
///
/// With [`regrow`](Gradual::regrow) the removed weights go on being trained as if they were there, and one that grows large comes
/// back in the place of another: dynamic network surgery (Guo, Yao & Chen 2016, "Dynamic Network Surgery for Efficient DNNs",
/// section 3: pruning and splicing). The masks are fixed for the last part of the training.
///
/// ```
/// use cnn_core::layers::{Flatten, Linear};
/// use cnn_core::train::TrainSettings;
/// use cnn_core::{Compressor, Graph, Registry, Run, init::Init, testing::stripes};
/// use cnn_prune::Gradual;
///
/// let mut graph = Graph::new(&[1, 6, 6]);
/// graph.push("flatten", Flatten)?;
/// graph.push("fc", Linear::new(Init::new(1).glorot(&[2, 36])?, None)?)?;
/// let data = stripes(60, [1, 6, 6], 2, 1)?;
/// let registry = Registry::core();
/// let mut run = Run::new(&data, &data, TrainSettings::default(), &registry);
/// let method = Gradual { ratio: 0.75, regrow: true, every: 1, ..Gradual::default() };
/// method.apply(&mut graph, &mut run)?;
/// assert_eq!(graph.cost()?.nonzeros, 18);
/// # Ok::<(), cnn_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Gradual {
    /// Which convolutions and linear layers are pruned, all by default: name patterns, `only` these and `skip` those.
    pub layers: Selection,
    /// How much a weight matters: `l1` (by default) or `l2`, which differ for units of several weights, or `lamp`.
    pub criterion: Criterion,
    /// What is removed at once; single weights by default. N:M patterns are for [`crate::Weights`].
    pub granularity: Granularity,
    /// Share of the weights to remove, in `[0, 1)`; 0.8 by default.
    pub ratio: f64,
    /// Whether the share counts for each layer, as by default, or over all of them.
    pub scope: Scope,
    /// Shares of single layers by name pattern; they are then pruned on their own.
    pub ratios: BTreeMap<String, f64>,
    /// Whether removed weights can come back; not by default.
    pub regrow: bool,
    /// Epochs of the training; the run's by default.
    pub epochs: Option<usize>,
    /// Learning rate of the training; the run's by default.
    #[serde(alias = "rate")]
    pub learning_rate: Option<f32>,
    /// Part of the training, in `(0, 1]`, after which the share is reached and the masks are fixed; 0.7 by default.
    pub ramp: f64,
    /// Steps from one choice of masks to the next, at least 1; 50 by default.
    pub every: usize,
}

impl Default for Gradual {
    fn default() -> Gradual {
        Gradual {
            layers: Selection::default(),
            criterion: Criterion::L1,
            granularity: Granularity::Weight,
            ratio: 0.8,
            scope: Scope::Layer,
            ratios: BTreeMap::new(),
            regrow: false,
            epochs: None,
            learning_rate: None,
            ramp: 0.7,
            every: 50,
        }
    }
}

impl Gradual {
    /// Name in the registry.
    pub const NAME: &'static str = "prune.gradual";

    pub(crate) fn build(config: Config) -> Result<Box<dyn Compressor>> {
        let method: Gradual = read_config(Gradual::NAME, config)?;
        method.check()?;
        Ok(Box::new(method))
    }

    /// Checks the settings that can be checked without a network.
    ///
    /// # Errors
    /// [`PruneError::Ratio`] or [`PruneError::Setting`].
    pub fn check(&self) -> Result<(), PruneError> {
        check_ratios(self.ratio, &self.ratios)?;
        self.granularity.check()?;
        let setting = |what, why: &str| Err(PruneError::Setting { what, why: why.to_string() });
        if !matches!(self.criterion, Criterion::L1 | Criterion::L2 | Criterion::Lamp) {
            return setting("criterion", "masks are chosen between two steps: l1, l2 or lamp");
        }
        if self.granularity.ratio().is_some() {
            return setting("granularity", "N:M patterns do not grow; use prune.weights");
        }
        if !(self.ramp > 0.0 && self.ramp <= 1.0) {
            return setting("ramp", "a part of the training, above 0 and at most 1");
        }
        if self.every == 0 {
            return setting("every", "at least one step");
        }
        if self.epochs == Some(0) {
            return setting("epochs", "weights are removed during a training: at least 1");
        }
        check_rate(self.learning_rate)
    }

    fn prune(&self, graph: &Graph, run: &mut Run<'_>) -> Result<Graph> {
        let Gradual { granularity, ratio, scope, .. } = *self;
        let extent =
            Extent { layers: &self.layers, granularity, ratio, scope, threshold: None, ratios: &self.ratios };
        let groups = extent.groups(graph)?;
        let mut settings = run.settings.clone();
        settings.epochs = self.epochs.unwrap_or(settings.epochs);
        if settings.epochs == 0 {
            return Err(PruneError::Setting {
                what: "epochs",
                why: "weights are removed during a training: at least 1".into(),
            }
            .into());
        }
        if let Some(rate) = self.learning_rate {
            settings.optimizer = settings.optimizer.with_rate(rate);
        }
        // the best epoch may be one before the weights are gone
        settings.epoch_rule = EpochRule::LastEpoch;
        let mut pruned = graph.clone();
        let earlier =
            |&at: &usize| Some((at, mask_of(targets::weight(graph.nodes()[at].layer())?)?.keep().clone()));
        let earlier = groups.iter().flat_map(|g| &g.nodes).filter_map(earlier).collect();
        let chooser = Chooser { method: self.clone(), groups, earlier };
        run.hooks.push(Box::new(chooser));
        let trained = run.fine_tune(&mut pruned, &settings);
        run.hooks.pop();
        trained?;
        close(&mut pruned);
        Ok(pruned)
    }
}

impl Compressor for Gradual {
    fn name(&self) -> String {
        Gradual::NAME.to_string()
    }

    fn config(&self) -> Config {
        write_config(self)
    }

    fn apply(&self, graph: &mut Graph, run: &mut Run<'_>) -> Result<()> {
        self.check()?;
        *graph = self.prune(graph, run)?;
        Ok(())
    }

    fn pack(&self, graph: &mut Graph) -> Result<()> {
        pack::pack(graph)
    }
}

/// Chooses the masks during the training. What it does follows from the step alone.
#[derive(Debug)]
struct Chooser {
    method: Gradual,
    groups: Vec<Group>,
    /// What the masks of earlier methods keep: nothing else comes back.
    earlier: BTreeMap<usize, ArrayD<bool>>,
}

impl Hook for Chooser {
    fn name(&self) -> &'static str {
        Gradual::NAME
    }

    fn on_step(&mut self, graph: &mut Graph, at: &StepInfo) -> Result<()> {
        let (step, all) = (at.epoch * at.steps + at.step, at.epochs * at.steps);
        let last = ((self.method.ramp * all as f64) as usize).clamp(1, all) - 1;
        if step > last || (step % self.method.every != 0 && step != last) {
            return Ok(());
        }
        let part = cubic(0.0, 1.0, step + 1, last + 1);
        for group in &self.groups {
            self.choose(graph, group, part, self.method.regrow && step != last);
        }
        Ok(())
    }
}

impl Chooser {
    fn choose(&self, graph: &mut Graph, group: &Group, part: f64, open: bool) {
        let weights: Vec<(usize, &Param)> = group
            .nodes
            .iter()
            .filter_map(|&at| Some((at, targets::weight(graph.nodes()[at].layer())?)))
            .collect();
        let units: Vec<Units> =
            weights.iter().map(|(_, w)| self.method.granularity.units(w.shape())).collect();
        let scores: Vec<Vec<f32>> =
            weights.iter().zip(&units).map(|((at, weight), units)| self.scores(*at, weight, units)).collect();
        let sizes: Vec<Option<&[u32]>> = units.iter().map(|u| u.sizes()).collect();
        let chosen = lowest_units(&scores, &sizes, group.gone(part));
        for ((&at, units), chosen) in group.nodes.iter().zip(&units).zip(chosen) {
            if let Some(weight) = targets::weight_mut(graph.layer_at_mut(at)) {
                let mut keep: Vec<bool> = units.of().map(|u| !chosen[u]).collect();
                if let Some(earlier) = self.earlier.get(&at) {
                    keep.iter_mut().zip(earlier).for_each(|(keep, earlier)| *keep &= earlier);
                }
                if let Ok(keep) = ArrayD::from_shape_vec(IxDyn(weight.shape()), keep) {
                    put(weight, Mask::new(keep).opened(open));
                }
            }
        }
    }

    /// The scores of a layer's units, [`REMOVED`] for those that are gone for good.
    fn scores(&self, at: usize, weight: &Param, units: &Units) -> Vec<f32> {
        let sizes = self.sizes_of(at, weight);
        let of = |f: fn(f32) -> f32| units.means(sizes.iter().map(|s| f(s.max(0.0))));
        let mut scores = match self.method.criterion {
            Criterion::L2 => of(|s| s * s),
            Criterion::Lamp => lamp(&of(|s| s * s)),
            _ => of(|s| s),
        };
        let mut left = vec![false; units.count()];
        units.of().zip(&sizes).for_each(|(u, &size)| left[u] |= size > REMOVED);
        scores.iter_mut().zip(left).filter(|(_, left)| !left).for_each(|(score, _)| *score = REMOVED);
        scores
    }

    /// `|w|` of every weight; of removed ones [`REMOVED`], or with regrowth what they have grown to.
    fn sizes_of(&self, at: usize, weight: &Param) -> Vec<f32> {
        let mask = mask_of(weight).filter(|mask| self.method.regrow && mask.keep().shape() == weight.shape());
        let Some(mask) = mask else { return magnitude(weight) };
        let mut sizes: Vec<f32> = weight
            .base()
            .iter()
            .zip(mask.keep())
            .map(|(w, &keep)| if keep { w.abs() } else { w.abs() / RETURN })
            .collect();
        if let Some(earlier) = self.earlier.get(&at) {
            sizes.iter_mut().zip(earlier).filter(|(_, keep)| !**keep).for_each(|(size, _)| *size = REMOVED);
        }
        sizes
    }
}

/// Masks that are still open, since the training ended early, are fixed.
fn close(graph: &mut Graph) {
    for at in 0..graph.nodes().len() {
        if let Some(weight) = targets::weight_mut(graph.layer_at_mut(at))
            && let Some(mask) = mask_of(weight).cloned()
        {
            put(weight, mask.opened(false));
        }
    }
}
