//! Pruning of channels: whole filters, and everything that is tied to them, are removed physically.

mod balance;
mod budget;
mod certificate;
mod groups;
mod scores;
mod select;
mod shares;

pub use budget::Budget;
pub use certificate::certify;
pub use groups::{ChannelGroup, Unit, channel_groups};
pub use scores::channel_scores;
pub(crate) use shares::GroupKey;

use crate::criteria::Criterion;
use crate::error::{PruneError, check_ratios};
use crate::memory;
use crate::retrain::{check_rate, retrain};
use crate::schedule::Schedule;
use crate::weights::Scope;
use cnn_core::compress::{read_config, write_config};
use cnn_core::{Compressor, Config, Graph, Result, Run, Selection};
use select::{Ranking, Rules};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Halvings of the search for a budget.
const HALVINGS: usize = 14;
/// Images that the certificate is made for.
const CERTIFIED: usize = 4;

/// Channel pruning through the dependency graph: the channels that matter least are removed with everything that is tied to them, from
/// the layers that make them and from those that read them, whatever lies between (Li et al. 2017, "Pruning Filters for Efficient
/// ConvNets"; Fang et al. 2023, "DepGraph: Towards Any Structural Pruning"). What is left is an ordinary smaller network.
///
/// Before anything is fine-tuned, the thinned network has to give what the network gave with the removed channels at zero, on
/// training images and to 1e-5 at every node: see [`certify`].
///
/// ```
/// use cnn_core::train::TrainSettings;
/// use cnn_core::{Compressor, Registry, Run, testing};
/// use cnn_prune::{Budget, Channels};
///
/// let mut graph = testing::lenet5(0)?;
/// let before = graph.cost()?.macs.total();
/// let data = testing::stripes(8, [1, 28, 28], 10, 1)?;
/// let registry = Registry::core();
/// let mut run = Run::new(&data, &data, TrainSettings::default(), &registry);
/// let method = Channels { budget: Some(Budget::Macs(0.5)), epochs: 0, final_epochs: 0, ..Channels::default() };
/// method.apply(&mut graph, &mut run)?;
/// let after = graph.cost()?.macs.total();
/// assert!(after * 2 <= before && after * 3 > before);
/// # Ok::<(), cnn_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Channels {
    /// Whose channels may go, all by default: name patterns of convolutions and linear layers, `only` these and `skip` those. Channels
    /// that several layers share only go if all of them are selected.
    pub layers: Selection,
    /// How much a channel matters; by default first-order Taylor.
    pub criterion: Criterion,
    /// Share of the channels to remove, in `[0, 1)`; 0.3 by default.
    pub ratio: f64,
    /// Whether the share counts for each layer, over all, or over layers that look alike. By default over all.
    pub scope: Scope,
    /// Shares of single layers by name pattern, as `{"conv1": 0.3}`.
    pub ratios: BTreeMap<String, f64>,
    /// When set, decides instead of `ratio` how much goes: channels that save much for what they matter go first.
    pub budget: Option<Budget>,
    /// Fewest units that a layer keeps; 2 by default. A unit is a channel, or of grouped convolutions one of each group.
    pub min_width: usize,
    /// Widths are multiples of this, so that fewer multiply-adds become time; by default of the vectors of this machine, and of less
    /// for narrow layers. 1 allows every width.
    pub round_to: Option<usize>,
    /// Rounds of pruning and retraining, at least 1; 1 by default.
    pub rounds: usize,
    /// How the share grows over the rounds.
    pub schedule: Schedule,
    /// Epochs of retraining in each round but the last; 1 by default.
    pub epochs: usize,
    /// Epochs of retraining after the last round; 5 by default.
    pub final_epochs: usize,
    /// Learning rate of the retraining; the run's own by default.
    #[serde(alias = "rate")]
    pub learning_rate: Option<f32>,
    /// Training images that criteria look at which need them; 1024 by default.
    pub samples: usize,
}

impl Default for Channels {
    fn default() -> Channels {
        Channels {
            layers: Selection::default(),
            criterion: Criterion::Taylor,
            ratio: 0.3,
            scope: Scope::Global,
            ratios: BTreeMap::new(),
            budget: None,
            min_width: 2,
            round_to: None,
            rounds: 1,
            schedule: Schedule::Linear,
            epochs: 1,
            final_epochs: 5,
            learning_rate: None,
            samples: 1024,
        }
    }
}

impl Channels {
    /// Name in the registry.
    pub const NAME: &'static str = "prune.channels";

    pub(crate) fn build(config: Config) -> Result<Box<dyn Compressor>> {
        let method: Channels = read_config(Channels::NAME, config)?;
        method.check()?;
        Ok(Box::new(method))
    }

    /// Checks the settings that can be checked without a network.
    ///
    /// # Errors
    /// [`PruneError::Ratio`] or [`PruneError::Setting`].
    pub fn check(&self) -> Result<(), PruneError> {
        check_ratios(self.ratio, &self.ratios)?;
        let setting = |what, why: &str| Err(PruneError::Setting { what, why: why.to_string() });
        if let Some(budget) = self.budget {
            budget.check()?;
        }
        if self.min_width == 0 {
            return setting("min_width", "at least 1: a layer cannot lose all its channels");
        }
        if self.round_to == Some(0) {
            return setting("round_to", "at least 1");
        }
        if self.rounds == 0 {
            return setting("rounds", "at least 1");
        }
        check_rate(self.learning_rate)
    }

    /// Prunes with shares of single groups in the place of the patterns in `ratios`.
    pub(crate) fn prune(
        &self,
        original: &Graph,
        own: &BTreeMap<GroupKey, f64>,
        run: &mut Run<'_>,
    ) -> Result<Graph> {
        let shares: Vec<(&GroupKey, &f64)> = own.iter().collect();
        let key = memory::key(Channels::NAME, original, &write_config(&(self, shares)), run)?;
        let mut graph = original.clone();
        for round in 1..=self.rounds {
            let part = self.schedule.part(round, self.rounds, self.ratio);
            graph = run.remember(&format!("{key}-{round}"), |run| {
                let mut thinned = self.thin(&graph, original, own, part, run)?;
                let epochs = if round == self.rounds { self.final_epochs } else { self.epochs };
                retrain(&mut thinned, epochs, self.learning_rate, round as u64 - 1, run)?;
                Ok(thinned)
            })?;
        }
        Ok(graph)
    }

    /// Removes channels until a part of the way from the original network to what is asked for is done.
    fn thin(
        &self,
        graph: &Graph,
        original: &Graph,
        own: &BTreeMap<GroupKey, f64>,
        part: f64,
        run: &mut Run<'_>,
    ) -> Result<Graph> {
        let groups = channel_groups(graph, &self.layers)?;
        let scores = channel_scores(self.criterion, graph, &groups, run, self.samples)?;
        let costs = self.budget.map(|budget| budget.of_units(graph, &groups)).transpose()?;
        let Channels { criterion, scope, min_width, round_to, .. } = *self;
        let start = channel_groups(original, &self.layers)?;
        let before = start.iter().map(|g| (g.key(original), g.units.len())).collect();
        let ratio = if self.budget.is_some() { None } else { Some(self.ratio) };
        let rules = Rules { part, before: &before, ratio, own, criterion, scope, min_width, round_to };
        let ranking = Ranking::of(graph, &groups, &scores, costs.as_deref(), rules)?;
        let without = |severity: f64| -> Result<(Graph, Vec<Unit>)> {
            let gone = ranking.removed(severity);
            let units: Vec<Unit> = groups
                .iter()
                .zip(&gone)
                .flat_map(|(group, gone)| group.units.iter().zip(gone))
                .filter(|(_, gone)| **gone)
                .map(|(unit, _)| unit.clone())
                .collect();
            let mut thinned = graph.clone();
            thinned.remove_channels(&units.concat())?;
            Ok((thinned, units))
        };
        let (thinned, units) = match self.budget {
            Some(budget) => {
                let limit = budget.limit_at(part, original)?;
                let cost = |severity: f64| budget.cost(&without(severity)?.0, original);
                without(self.severity(limit, cost)?)?
            }
            None => without(0.0)?,
        };
        let images = run.calibration(CERTIFIED)?;
        certify(graph, &thinned, &units, &images)?;
        Ok(thinned)
    }

    /// The least severe pruning that keeps to a limit.
    fn severity(&self, limit: f64, cost: impl Fn(f64) -> Result<f64>) -> Result<f64> {
        if cost(0.0)? <= limit {
            return Ok(0.0);
        }
        let (mut low, mut high) = (0.0, 1.0);
        let least = cost(high)?;
        if least > limit {
            let why = format!(
                "{limit:.3} cannot be reached: with `min_width` = {} the network still costs {least:.3}",
                self.min_width
            );
            return Err(PruneError::Setting { what: "budget", why }.into());
        }
        for _ in 0..HALVINGS {
            let middle = 0.5 * (low + high);
            match cost(middle)? <= limit {
                true => high = middle,
                false => low = middle,
            }
        }
        Ok(high)
    }
}

impl Compressor for Channels {
    fn name(&self) -> String {
        Channels::NAME.to_string()
    }

    fn config(&self) -> Config {
        write_config(self)
    }

    fn apply(&self, graph: &mut Graph, run: &mut Run<'_>) -> Result<()> {
        self.check()?;
        let own = shares::by_pattern(graph, &channel_groups(graph, &self.layers)?, &self.ratios)?;
        *graph = self.prune(graph, &own, run)?;
        Ok(())
    }
}
