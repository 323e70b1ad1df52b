//! Magnitude pruning in rounds of pruning and retraining.

use crate::error::PruneError;
use crate::mask::{Mask, mask_of, restrict};
use crate::{criteria, pack, schedule, targets};
use cnn_core::compress::{read_config, write_config};
use cnn_core::{Compressor, Config, Graph, Result, Run, Selection};
use ndarray::{ArrayD, IxDyn};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Among which weights the smallest are looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Within each layer: every layer loses the same share.
    #[default]
    Layer,
    /// Over all selected layers together, with one threshold for all: layers with small weights lose more.
    Global,
}

/// A magnitude below which weights are removed, instead of a share.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Threshold {
    /// `|w| < t`.
    Absolute(f32),
    /// `|w| < q sigma` with the standard deviation `sigma` of the layer's weights that are left: Han et al.
    /// 2015, section 3.
    Deviations(f32),
}

/// Magnitude pruning: the smallest weights are removed and the others retrained, in rounds (Han et al. 2015,
/// "Learning both Weights and Connections for Efficient Neural Networks"; SPEC 2.1).
///
/// After round `t` of `n` the share `s_t = s_f + (s_i - s_f) (1 - t / n)^3` of the weights is gone (Zhu &
/// Gupta 2017, "To prune, or not to prune", equation 1; see [`schedule::cubic`]); `s_f` is
/// [`ratio`](Magnitude::ratio). Each round starts from the last: what was removed stays removed. After the
/// last round exactly `round(ratio * n)` of `n` weights are gone, ties by position, except that every layer
/// keeps at least one weight, and what an earlier mask removed is not brought back. Biases are not pruned.
///
/// The weights get a [`Mask`], which stays while later methods train; [`Compressor::pack`] makes sparse
/// layers of them.
///
/// ```
/// use cnn_core::layers::{Flatten, Linear};
/// use cnn_core::train::TrainSettings;
/// use cnn_core::{Compressor, Graph, Registry, Run, init::Init, testing::stripes};
/// use cnn_prune::Magnitude;
///
/// let mut graph = Graph::new(&[1, 6, 6]);
/// graph.push("flatten", Flatten)?;
/// graph.push("fc", Linear::new(Init::new(1).glorot(&[2, 36])?, None)?)?;
///
/// let data = stripes(60, [1, 6, 6], 2, 1)?;
/// let registry = Registry::core();
/// let mut run = Run::new(&data, &data, TrainSettings::default(), &registry);
/// let method = Magnitude { ratio: 0.75, rounds: 2, ..Magnitude::default() };
/// method.apply(&mut graph, &mut run)?;
/// assert_eq!(graph.cost()?.nonzeros, 18);
/// method.pack(&mut graph)?;
/// assert_eq!(graph.node("fc")?.layer().kind(), "prune.sparse_linear");
/// # Ok::<(), cnn_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Magnitude {
    /// Which convolutions and linear layers are pruned, all by default: name patterns, `only` these and `skip` those.
    pub layers: Selection,
    /// Share of the weights to remove, in `[0, 1)`; 0.8 by default.
    pub ratio: f64,
    /// Whether the share counts for each layer, as by default, or over all of them.
    pub scope: Scope,
    /// When set, decides instead of `ratio` and `scope` how many weights each layer loses. They are counted
    /// once, before the first round.
    pub threshold: Option<Threshold>,
    /// Shares of single layers by name pattern, as `{"conv1": 0.3, "fc*": 0.95}`: they are then pruned on
    /// their own, whatever scope and threshold. A layer may be matched by one pattern only.
    pub ratios: BTreeMap<String, f64>,
    /// Rounds of pruning and retraining, at least 1; 4 by default.
    pub rounds: usize,
    /// Epochs of retraining in each round; 1 by default.
    pub epochs: usize,
    /// Epochs of retraining after the last round; 2 by default.
    pub final_epochs: usize,
    /// Learning rate of the retraining; the run's own by default.
    #[serde(alias = "rate")]
    pub learning_rate: Option<f32>,
    /// When set: how many percentage points of accuracy on the validation images the network may lose (0.5:
    /// from 99.0 % to 98.5 %). A round that loses more is undone, and the last network that held is the
    /// result.
    pub max_drop: Option<f64>,
    /// With `max_drop`: after a round that lost too much, this many more are tried, each half way between the
    /// last that held and the first that did not; 2 by default.
    pub bisections: usize,
}

impl Default for Magnitude {
    fn default() -> Magnitude {
        Magnitude {
            layers: Selection::default(),
            ratio: 0.8,
            scope: Scope::Layer,
            threshold: None,
            ratios: BTreeMap::new(),
            rounds: 4,
            epochs: 1,
            final_epochs: 2,
            learning_rate: None,
            max_drop: None,
            bisections: 2,
        }
    }
}

/// Layers whose weights are ranked together.
#[derive(Debug)]
struct Group {
    /// Positions of the layers' nodes.
    nodes: Vec<usize>,
    /// Weights that are gone at the start.
    start: usize,
    /// Weights that are to be gone at the end.
    end: usize,
}

impl Magnitude {
    /// Name in the registry.
    pub const NAME: &'static str = "prune.magnitude";

    pub(crate) fn build(config: Config) -> Result<Box<dyn Compressor>> {
        let method: Magnitude = read_config(Magnitude::NAME, config)?;
        method.check()?;
        Ok(Box::new(method))
    }

    /// Checks the settings that can be checked without a network.
    ///
    /// # Errors
    /// [`PruneError::Ratio`] or [`PruneError::Setting`].
    pub fn check(&self) -> Result<(), PruneError> {
        let named = self.ratios.iter().map(|(pattern, &ratio)| (format!("ratios.{pattern}"), ratio));
        for (what, ratio) in named.chain([("ratio".to_string(), self.ratio)]) {
            if !(0.0..1.0).contains(&ratio) {
                return Err(PruneError::Ratio { what, ratio });
            }
        }
        let setting = |what, why: &str| Err(PruneError::Setting { what, why: why.to_string() });
        if self.rounds == 0 {
            return setting("rounds", "at least 1");
        }
        if let Some(Threshold::Absolute(t) | Threshold::Deviations(t)) = self.threshold
            && !(t >= 0.0 && t.is_finite())
        {
            return setting("threshold", "a finite number that is not negative");
        }
        if self.learning_rate.is_some_and(|rate| !(rate >= 0.0 && rate.is_finite())) {
            return setting("learning_rate", "a finite number that is not negative");
        }
        if self.max_drop.is_some_and(|points| !(0.0..=100.0).contains(&points)) {
            return setting("max_drop", "percentage points from 0 to 100");
        }
        Ok(())
    }

    fn prune(&self, graph: &Graph, run: &mut Run<'_>) -> Result<Graph> {
        let groups = self.groups(graph)?;
        let floor = match self.max_drop {
            // a billionth less, so that a network exactly at the limit is not lost to rounding
            Some(points) => Some(run.accuracy(graph)? - points / 100.0 - 1e-9),
            None => None,
        };
        let holds = |graph: &Graph, run: &Run<'_>| -> Result<bool> {
            floor.map_or(Ok(true), |floor| Ok(run.accuracy(graph)? >= floor))
        };
        // `done` and `failed` are parts of the way, from 0 at the start to 1 at the ratio that is asked for
        let (mut held, mut done, mut failed) = (graph.clone(), 0.0, None);
        let mut trainings = 0;
        for round in 1..=self.rounds {
            let part = schedule::cubic(0.0, 1.0, round, self.rounds);
            let next = self.round(&held, &groups, part, trainings, run)?;
            trainings += 1;
            if !holds(&next, run)? {
                failed = Some(part);
                break;
            }
            (held, done) = (next, part);
        }
        if let Some(mut failed) = failed {
            for _ in 0..self.bisections {
                let part = 0.5 * (done + failed);
                let next = self.round(&held, &groups, part, trainings, run)?;
                trainings += 1;
                match holds(&next, run)? {
                    true => (held, done) = (next, part),
                    false => failed = part,
                }
            }
        }
        if done > 0.0 && self.final_epochs > 0 {
            let mut tuned = held.clone();
            self.retrain(&mut tuned, self.final_epochs, trainings, run)?;
            if holds(&tuned, run)? {
                held = tuned;
            }
        }
        Ok(held)
    }

    /// Removes weights up to a part of the way, and retrains.
    fn round(
        &self,
        from: &Graph,
        groups: &[Group],
        part: f64,
        training: u64,
        run: &mut Run<'_>,
    ) -> Result<Graph> {
        let mut graph = from.clone();
        for group in groups {
            let more = group.end.saturating_sub(group.start) as f64;
            remove(&mut graph, &group.nodes, group.start + (part * more).round() as usize);
        }
        self.retrain(&mut graph, self.epochs, training, run)?;
        Ok(graph)
    }

    /// Trains with the masks in place; `training` counts the trainings, which see the images in different
    /// orders.
    fn retrain(&self, graph: &mut Graph, epochs: usize, training: u64, run: &mut Run<'_>) -> Result<()> {
        if epochs == 0 {
            return Ok(());
        }
        let mut settings = run.settings.clone();
        settings.epochs = epochs;
        settings.seed = settings.seed.wrapping_add(training);
        if let Some(rate) = self.learning_rate {
            settings.optimizer = settings.optimizer.with_rate(rate);
        }
        run.fine_tune(graph, &settings)?;
        Ok(())
    }

    /// Which layers are ranked together, and how much they are to lose.
    fn groups(&self, graph: &Graph) -> Result<Vec<Group>> {
        let nodes = targets::find(graph, &self.layers)?;
        let own = self.own_ratios(graph, &nodes)?;
        let (alone, mut pool): (Vec<usize>, Vec<usize>) = nodes.iter().partition(|at| own.contains_key(at));
        let mut groups: Vec<Group> = alone.iter().map(|&at| share(graph, vec![at], own[&at])).collect();
        match (self.threshold, self.scope) {
            (Some(threshold), _) => groups.extend(pool.drain(..).map(|at| below(graph, at, threshold))),
            (None, Scope::Layer) => {
                groups.extend(pool.drain(..).map(|at| share(graph, vec![at], self.ratio)))
            }
            (None, Scope::Global) => groups.push(share(graph, pool, self.ratio)),
        }
        Ok(groups)
    }

    /// The ratios of layers that have one of their own, by position.
    fn own_ratios(&self, graph: &Graph, nodes: &[usize]) -> Result<BTreeMap<usize, f64>> {
        let mut own: BTreeMap<usize, (&str, f64)> = BTreeMap::new();
        for (pattern, &ratio) in &self.ratios {
            for at in targets::matching(graph, pattern)?.into_iter().filter(|at| nodes.contains(at)) {
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

impl Compressor for Magnitude {
    fn name(&self) -> String {
        Magnitude::NAME.to_string()
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

/// Masks the weakest weights of some layers, so that `count` are gone.
fn remove(graph: &mut Graph, nodes: &[usize], count: usize) {
    let weights = nodes.iter().filter_map(|&at| targets::weight(graph.nodes()[at].layer()));
    let scores: Vec<Vec<f32>> = weights.map(criteria::magnitude).collect();
    for (&at, removed) in nodes.iter().zip(criteria::lowest(&scores, count)) {
        if !removed.contains(&true) {
            continue;
        }
        if let Some(weight) = targets::weight_mut(graph.layer_at_mut(at)) {
            let keep = removed.into_iter().map(|removed| !removed).collect();
            let shape = IxDyn(weight.shape());
            let keep = ArrayD::from_shape_vec(shape, keep)
                .unwrap_or_else(|_| unreachable!("one score for each weight"));
            restrict(weight, Mask::new(keep));
        }
    }
}
