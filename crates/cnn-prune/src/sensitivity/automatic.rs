//! Ratios of all layers by sensitivity, for a budget.

use super::allocate::{Offer, ratios_at};
use super::curve::prune_by;
use super::{What, sensitivity};
use crate::channels::{Budget, Channels, channel_groups};
use crate::error::PruneError;
use crate::memory;
use crate::weights::{Scope, Weights};
use crate::{Criterion, pack, targets};
use cnn_core::compress::{read_config, write_config};
use cnn_core::{Compressor, Config, Graph, Result, Run, Selection};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Halvings of the search for the price.
const HALVINGS: usize = 20;

/// Pruning to a budget by sensitivity: each layer is pruned alone at several ratios and the accuracy on the validation images is
/// measured ([`sensitivity`]); then every layer gets the ratio with which all together lose least for what the network may cost,
/// in bytes, multiply-adds or time in a [`cnn_core::session::Session`] on this machine. The ratios go to [`Weights`] or [`Channels`].
///
/// ```
/// use cnn_core::train::TrainSettings;
/// use cnn_core::{Compressor, Registry, Run, testing};
/// use cnn_prune::{Automatic, Budget, What};
///
/// let mut graph = testing::lenet5(0)?;
/// let data = testing::stripes(20, [1, 28, 28], 10, 1)?;
/// let registry = Registry::core();
/// let mut run = Run::new(&data, &data, TrainSettings::default(), &registry);
/// let method = Automatic {
///     what: What::Weights, budget: Budget::Bytes(0.3), grid: vec![0.5, 0.9], epochs: 0, final_epochs: 0, ..Automatic::default()
/// };
/// method.apply(&mut graph, &mut run)?;
/// method.pack(&mut graph)?;
/// assert!(cnn_core::model_file::deploy_bytes(&graph, false)?.len() < 431_080 * 4 * 3 / 10);
/// # Ok::<(), cnn_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Automatic {
    /// Which layers may be pruned, all by default.
    pub layers: Selection,
    /// What goes: `"channels"` by default, or `"weights"`.
    pub what: What,
    /// What the network may cost; by default half of its multiply-adds.
    pub budget: Budget,
    /// The ratios that are tried, ascending, each in `(0, 1)`.
    pub grid: Vec<f64>,
    /// Rounds of pruning and retraining, at least 1; 1 by default.
    pub rounds: usize,
    /// Epochs of retraining in each round but the last; 1 by default.
    pub epochs: usize,
    /// Epochs of retraining after the last round; 5 by default.
    pub final_epochs: usize,
    /// Learning rate of the retraining; the run's own by default.
    #[serde(alias = "rate")]
    pub learning_rate: Option<f32>,
}

impl Default for Automatic {
    fn default() -> Automatic {
        Automatic {
            layers: Selection::default(),
            what: What::Channels,
            budget: Budget::Macs(0.5),
            grid: vec![0.25, 0.5, 0.75],
            rounds: 1,
            epochs: 1,
            final_epochs: 5,
            learning_rate: None,
        }
    }
}

impl Automatic {
    /// Name in the registry.
    pub const NAME: &'static str = "prune.automatic";

    pub(crate) fn build(config: Config) -> Result<Box<dyn Compressor>> {
        let method: Automatic = read_config(Automatic::NAME, config)?;
        method.check()?;
        Ok(Box::new(method))
    }

    /// Checks the settings that can be checked without a network.
    ///
    /// # Errors
    /// [`PruneError::Ratio`] or [`PruneError::Setting`].
    pub fn check(&self) -> Result<(), PruneError> {
        self.budget.check()?;
        let setting = |what, why: &str| Err(PruneError::Setting { what, why: why.to_string() });
        if let Some(&ratio) = self.grid.iter().find(|ratio| !(0.0..1.0).contains(*ratio)) {
            return Err(PruneError::Ratio { what: "grid".to_string(), ratio });
        }
        if self.grid.is_empty() || !self.grid.is_sorted() {
            return setting("grid", "at least one ratio, in ascending order");
        }
        self.weights(BTreeMap::new()).check()
    }

    /// The ratio of each layer, or of each set of layers whose channels go together. They are kept in [`Run::memory`], since they may
    /// depend on measured time.
    ///
    /// # Errors
    /// As [`sensitivity`], and if the budget cannot be kept.
    pub fn ratios(&self, graph: &Graph, run: &mut Run<'_>) -> Result<Vec<(Vec<String>, f64)>> {
        let key = memory::key(Automatic::NAME, graph, &self.config(), run)?;
        run.remember_value(&key, |run| self.search(graph, run))
    }

    fn search(&self, graph: &Graph, run: &mut Run<'_>) -> Result<Vec<(Vec<String>, f64)>> {
        let curves = sensitivity(graph, self.what, &self.layers, &self.grid, run)?;
        let whole = self.costs(graph)?;
        let offers: Vec<Offer> = curves
            .iter()
            .zip(&whole)
            .map(|(curve, whole)| {
                let options = curve.points.iter().zip(curve.drops());
                Offer {
                    options: options
                        .map(|(&(ratio, _), lost)| (ratio, lost, whole * (1.0 - ratio)))
                        .collect(),
                }
            })
            .collect();
        let chosen = |price: f64| -> Vec<(Vec<String>, f64)> {
            curves.iter().map(|c| c.layers.clone()).zip(ratios_at(&offers, price)).collect()
        };
        // both sides as they would be deployed
        let mut original = graph.clone();
        pack::pack(&mut original)?;
        let cost = |ratios: &[(Vec<String>, f64)], run: &mut Run<'_>| -> Result<f64> {
            let mut pruned = prune_by(self.what, graph, ratios, run)?;
            pack::pack(&mut pruned)?;
            self.budget.cost(&pruned, &original)
        };
        // prices are relative to what the whole network costs
        let unit = 1.0 / whole.iter().sum::<f64>().max(f64::MIN_POSITIVE);
        let (mut low, mut high) = (-20.0f64, 20.0f64);
        let dearest = chosen(unit * high.exp2());
        let least = cost(&dearest, run)?;
        if least > self.budget.limit() {
            let why = format!(
                "{} cannot be reached: with {} of every layer gone the network still costs {least:.3}; make `grid` longer",
                self.budget.limit(),
                self.grid.last().copied().unwrap_or_default()
            );
            return Err(PruneError::Setting { what: "budget", why }.into());
        }
        // the price at which the network just keeps to the budget, on a logarithmic scale
        let mut best = dearest;
        for _ in 0..HALVINGS {
            let middle = 0.5 * (low + high);
            let ratios = chosen(unit * middle.exp2());
            match cost(&ratios, run)? <= self.budget.limit() {
                true => (high, best) = (middle, ratios),
                false => low = middle,
            }
        }
        Ok(best)
    }

    /// What each layer, or group of channels, costs now, about.
    fn costs(&self, graph: &Graph) -> Result<Vec<f64>> {
        match self.what {
            What::Channels => {
                let groups = channel_groups(graph, &self.layers)?;
                let units = self.budget.of_units(graph, &groups)?;
                Ok(groups.iter().zip(units).map(|(group, unit)| unit * group.units.len() as f64).collect())
            }
            What::Weights => {
                let costs = graph.costs()?;
                let of = |at: usize| match self.budget {
                    Budget::Bytes(_) => costs[at].params as f64,
                    _ => costs[at].macs.total() as f64,
                };
                Ok(targets::find(graph, &self.layers)?.into_iter().map(of).collect())
            }
        }
    }

    fn weights(&self, ratios: BTreeMap<String, f64>) -> Weights {
        let Automatic { rounds, epochs, final_epochs, learning_rate, .. } = *self;
        let layers = self.layers.clone();
        let rest = Weights::default();
        Weights { layers, ratio: 0.0, ratios, rounds, epochs, final_epochs, learning_rate, ..rest }
    }

    fn channels(&self) -> Channels {
        let Automatic { rounds, epochs, final_epochs, learning_rate, .. } = *self;
        Channels {
            layers: self.layers.clone(),
            criterion: Criterion::L1,
            ratio: 0.0,
            scope: Scope::Layer,
            rounds,
            epochs,
            final_epochs,
            learning_rate,
            ..Channels::default()
        }
    }
}

impl Compressor for Automatic {
    fn name(&self) -> String {
        Automatic::NAME.to_string()
    }

    fn config(&self) -> Config {
        write_config(self)
    }

    fn apply(&self, graph: &mut Graph, run: &mut Run<'_>) -> Result<()> {
        self.check()?;
        let ratios = self.ratios(graph, run)?;
        match self.what {
            What::Weights => {
                let ratios = ratios.into_iter().map(|(layers, ratio)| (layers.concat(), ratio)).collect();
                self.weights(ratios).apply(graph, run)
            }
            What::Channels => {
                *graph = self.channels().prune(graph, &ratios.into_iter().collect(), run)?;
                Ok(())
            }
        }
    }

    fn pack(&self, graph: &mut Graph) -> Result<()> {
        pack::pack(graph)
    }
}
