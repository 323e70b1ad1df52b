//! Pruning of weights in rounds of pruning and retraining.

pub(crate) mod groups;
mod rewind;
mod rounds;

use crate::criteria::Criterion;
use crate::error::{PruneError, check_ratios};
use crate::granularity::Granularity;
use crate::pack;
use crate::retrain::check_rate;
use crate::schedule::Schedule;
use cnn_core::compress::{read_config, write_config};
use cnn_core::{Compressor, Config, Graph, Result, Run, Selection};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Among which weights the smallest are looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Within each layer: every layer loses the same share.
    #[default]
    Layer,
    /// Over all selected layers together, with one threshold for all: layers with low scores lose more.
    Global,
    /// Over layers that look alike, together (Fang et al. 2024, "Isomorphic Pruning for Vision Models"): weights of kernels of one
    /// size, channels that pass the same kinds of layers.
    Isomorphic,
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

/// Pruning in rounds: the weights that matter least are removed and the others retrained (Han et al. 2015,
/// "Learning both Weights and Connections for Efficient Neural Networks"; SPEC 2.1).
///
/// After round `t` of `n` the share of [`schedule`](Weights::schedule) of the weights is gone, by default
/// `s_t = s_f + (s_i - s_f) (1 - t / n)^3` (Zhu & Gupta 2017, "To prune, or not to prune", equation 1); `s_f` is
/// [`ratio`](Weights::ratio). Each round starts from the last: what was removed stays removed. After the
/// last round exactly `round(ratio * n)` of `n` single weights are gone, ties by position, except that every layer
/// keeps at least one unit, and what an earlier mask removed is not brought back. Biases are not pruned. One round without
/// retraining is one-shot pruning.
///
/// With [`max_drop`](Weights::max_drop) the rounds go on *until* the accuracy on the validation images has fallen by so much, and
/// bisection finds the smallest number of connections that still holds it. Rounds are kept in [`Run::memory`]: an interrupted
/// search goes on with the round it was in.
///
/// Retraining starts each time with the learning rate of the first epoch: with the original training's settings that is
/// learning-rate rewinding (Renda, Frankle & Carbin 2020); [`rewind`](Weights::rewind) also sets the weights back.
///
/// The weights get a [`crate::Mask`], which stays while later methods train; [`Compressor::pack`] makes sparse
/// layers of them.
///
/// ```
/// use cnn_core::layers::{Flatten, Linear};
/// use cnn_core::train::TrainSettings;
/// use cnn_core::{Compressor, Graph, Registry, Run, init::Init, testing::stripes};
/// use cnn_prune::Weights;
///
/// let mut graph = Graph::new(&[1, 6, 6]);
/// graph.push("flatten", Flatten)?;
/// graph.push("fc", Linear::new(Init::new(1).glorot(&[2, 36])?, None)?)?;
///
/// let data = stripes(60, [1, 6, 6], 2, 1)?;
/// let registry = Registry::core();
/// let mut run = Run::new(&data, &data, TrainSettings::default(), &registry);
/// let method = Weights { ratio: 0.75, rounds: 2, ..Weights::default() };
/// method.apply(&mut graph, &mut run)?;
/// assert_eq!(graph.cost()?.nonzeros, 18);
/// method.pack(&mut graph)?;
/// assert_eq!(graph.node("fc")?.layer().kind(), "prune.sparse_linear");
/// # Ok::<(), cnn_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Weights {
    /// Which convolutions and linear layers are pruned, all by default: name patterns, `only` these and `skip` those.
    pub layers: Selection,
    /// How much a weight matters; its size by default.
    pub criterion: Criterion,
    /// What is removed at once; single weights by default.
    pub granularity: Granularity,
    /// Share of the weights to remove, in `[0, 1)`; 0.8 by default. N:M patterns decide it themselves.
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
    /// How the share grows over the rounds.
    pub schedule: Schedule,
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
    /// When set: a file with the network as it was early in its training (a checkpoint of a network, or a model file); after each
    /// round the weights that are left are set back to it before they are retrained (Frankle & Carbin 2019, "The Lottery Ticket
    /// Hypothesis"; Frankle et al. 2020).
    pub rewind: Option<PathBuf>,
    /// Training images that criteria look at which need them; 1024 by default.
    pub samples: usize,
}

impl Default for Weights {
    fn default() -> Weights {
        Weights {
            layers: Selection::default(),
            criterion: Criterion::L1,
            granularity: Granularity::Weight,
            ratio: 0.8,
            scope: Scope::Layer,
            threshold: None,
            ratios: BTreeMap::new(),
            rounds: 4,
            schedule: Schedule::Cubic,
            epochs: 1,
            final_epochs: 2,
            learning_rate: None,
            max_drop: None,
            bisections: 2,
            rewind: None,
            samples: 1024,
        }
    }
}

impl Weights {
    /// Name in the registry.
    pub const NAME: &'static str = "prune.weights";

    pub(crate) fn build(config: Config) -> Result<Box<dyn Compressor>> {
        let method: Weights = read_config(Weights::NAME, config)?;
        method.check()?;
        Ok(Box::new(method))
    }

    /// Checks the settings that can be checked without a network.
    ///
    /// # Errors
    /// [`PruneError::Ratio`] or [`PruneError::Setting`].
    pub fn check(&self) -> Result<(), PruneError> {
        check_ratios(self.ratio, &self.ratios)?;
        self.criterion.check_weights()?;
        self.granularity.check()?;
        let setting = |what, why: &str| Err(PruneError::Setting { what, why: why.to_string() });
        if self.granularity.ratio().is_some() && (self.threshold.is_some() || !self.ratios.is_empty()) {
            return setting(
                "granularity",
                "an N:M pattern decides the share itself: no `threshold`, no `ratios`",
            );
        }
        if self.threshold.is_some()
            && (self.criterion != Criterion::L1 || self.granularity != Granularity::Weight)
        {
            return setting("threshold", "is for the magnitude (`l1`) of single weights");
        }
        if self.rounds == 0 {
            return setting("rounds", "at least 1");
        }
        if let Some(Threshold::Absolute(t) | Threshold::Deviations(t)) = self.threshold
            && !(t >= 0.0 && t.is_finite())
        {
            return setting("threshold", "a finite number that is not negative");
        }
        check_rate(self.learning_rate)?;
        if self.max_drop.is_some_and(|points| !(0.0..=100.0).contains(&points)) {
            return setting("max_drop", "percentage points from 0 to 100");
        }
        Ok(())
    }
}

impl Compressor for Weights {
    fn name(&self) -> String {
        Weights::NAME.to_string()
    }

    fn config(&self) -> Config {
        write_config(self)
    }

    fn apply(&self, graph: &mut Graph, run: &mut Run<'_>) -> Result<()> {
        self.check()?;
        *graph = rounds::prune(self, graph, run)?;
        Ok(())
    }

    fn pack(&self, graph: &mut Graph) -> Result<()> {
        pack::pack(graph)
    }
}
