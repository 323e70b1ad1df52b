//! Residual branches are removed whole.

use crate::channels::Budget;
use crate::criteria::images;
use crate::error::PruneError;
use crate::memory;
use crate::retrain::{check_rate, retrain};
use crate::schedule::Schedule;
use cnn_core::compress::{read_config, write_config};
use cnn_core::data::Subset;
use cnn_core::layers::Add;
use cnn_core::train::evaluate;
use cnn_core::{Compressor, Config, Graph, Result, Run, Selection};
use serde::{Deserialize, Serialize};

/// Removal of residual branches: where a network adds a branch to a shortcut, the branch goes with its addition, so that all its
/// channels are gone and none of its time is left. Residual networks lose little by it (Veit, Wilber & Belongie 2016, "Residual
/// Networks Behave Like Ensembles of Relatively Shallow Networks", section 4.1); where layers are too narrow for fewer channels to
/// become less time, it is the way to a faster network (Chen & Zhao 2019, "Shallowing Deep Networks: Layer-wise Pruning Based on
/// Feature Representations").
///
/// One after the other goes the branch whose loss, measured on training images, rises least for the multiply-adds that it saves, until the
/// [`budget`](Branches::budget) is kept. What is left is an ordinary network of fewer layers.
///
/// ```
/// use cnn_core::layers::{Add, Conv2d, ConvOptions, GlobalAvgPool, Flatten, Linear};
/// use cnn_core::train::TrainSettings;
/// use cnn_core::{Compressor, Graph, Registry, Run, init::Init, testing::stripes};
/// use cnn_prune::{Branches, Budget};
///
/// let mut init = Init::new(1);
/// let pad = ConvOptions::default().pad(1);
/// let mut graph = Graph::new(&[1, 8, 8]);
/// graph.push("stem", Conv2d::new(init.glorot(&[4, 1, 3, 3])?, None, pad)?)?;
/// let mut from = "stem".to_string();
/// for i in 0..3 {
///     let [conv, sum] = [format!("conv{i}"), format!("sum{i}")];
///     graph.add(&conv, Conv2d::new(init.glorot(&[4, 4, 3, 3])?, None, pad)?, &[&from])?;
///     graph.add(&sum, Add, &[&conv, &from])?;
///     from = sum;
/// }
/// graph.push("pool", GlobalAvgPool)?;
/// graph.push("flatten", Flatten)?;
/// graph.push("fc", Linear::new(init.glorot(&[2, 4])?, None)?)?;
/// let data = stripes(32, [1, 8, 8], 2, 1)?;
/// let registry = Registry::core();
/// let mut run = Run::new(&data, &data, TrainSettings::default(), &registry);
/// let method = Branches { budget: Budget::Macs(0.7), final_epochs: 0, ..Branches::default() };
/// method.apply(&mut graph, &mut run)?;
/// assert_eq!(graph.names_of::<Add>().len(), 2);
/// # Ok::<(), cnn_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Branches {
    /// Which additions may go with one of their branches, all by default: name patterns, `only` these and `skip` those.
    pub layers: Selection,
    /// What the network may cost; by default half of its multiply-adds.
    pub budget: Budget,
    /// Rounds of removal and retraining, at least 1; 1 by default.
    pub rounds: usize,
    /// Epochs of retraining in each round but the last; 1 by default.
    pub epochs: usize,
    /// Epochs of retraining after the last round; 5 by default.
    pub final_epochs: usize,
    /// Learning rate of the retraining; the run's own by default.
    #[serde(alias = "rate")]
    pub learning_rate: Option<f32>,
    /// Training images on which the loss is measured; 1024 by default.
    pub samples: usize,
}

impl Default for Branches {
    fn default() -> Branches {
        Branches {
            layers: Selection::default(),
            budget: Budget::Macs(0.5),
            rounds: 1,
            epochs: 1,
            final_epochs: 5,
            learning_rate: None,
            samples: 1024,
        }
    }
}

impl Branches {
    /// Name in the registry.
    pub const NAME: &'static str = "prune.branches";

    pub(crate) fn build(config: Config) -> Result<Box<dyn Compressor>> {
        let method: Branches = read_config(Branches::NAME, config)?;
        method.check()?;
        Ok(Box::new(method))
    }

    /// Checks the settings that can be checked without a network.
    ///
    /// # Errors
    /// [`PruneError::Setting`].
    pub fn check(&self) -> Result<(), PruneError> {
        self.budget.check()?;
        let setting = |what, why: &str| Err(PruneError::Setting { what, why: why.to_string() });
        if self.rounds == 0 {
            return setting("rounds", "at least 1");
        }
        check_rate(self.learning_rate)
    }

    fn prune(&self, original: &Graph, run: &mut Run<'_>) -> Result<Graph> {
        self.layers.check(original)?;
        let key = memory::key(Branches::NAME, original, &self.config(), run)?;
        let mut graph = original.clone();
        for round in 1..=self.rounds {
            let part = Schedule::Linear.part(round, self.rounds, 1.0);
            let limit = self.budget.limit_at(part, original)?;
            graph = run.remember(&format!("{key}-{round}"), |run| {
                let mut shallower = self.shorten(&graph, original, limit, run)?;
                let epochs = if round == self.rounds { self.final_epochs } else { self.epochs };
                retrain(&mut shallower, epochs, self.learning_rate, round as u64 - 1, run)?;
                Ok(shallower)
            })?;
        }
        Ok(graph)
    }

    /// Removes branches until the network keeps to a limit.
    fn shorten(&self, from: &Graph, original: &Graph, limit: f64, run: &Run<'_>) -> Result<Graph> {
        let ids = images(run, self.samples, "loss")?.concat();
        let images = Subset::new(run.train, ids)?;
        let mut graph = from.clone();
        loop {
            let cost = self.budget.cost(&graph, original)?;
            if cost <= limit {
                return Ok(graph);
            }
            let loss = evaluate(&graph, &images)?.loss;
            if !loss.is_finite() {
                let layer = graph.nodes()[graph.output()].name.clone();
                return Err(PruneError::NotFinite { layer }.into());
            }
            let mut best: Option<(f64, Graph)> = None;
            for shorter in self.candidates(&graph)? {
                let saved = (graph.cost()?.macs.total() - shorter.cost()?.macs.total()) as f64;
                let rise = evaluate(&shorter, &images)?.loss - loss;
                // a loss that falls is worth the more the more is saved
                let price = if rise < 0.0 { rise * saved } else { rise / saved };
                let price = if price.is_nan() { f64::INFINITY } else { price };
                if best.as_ref().is_none_or(|(least, _)| price < *least) {
                    best = Some((price, shorter));
                }
            }
            let Some((_, shorter)) = best else {
                let why = format!(
                    "{limit:.3} cannot be reached: without all its branches the network costs {cost:.3}"
                );
                return Err(PruneError::Setting { what: "budget", why }.into());
            };
            graph = shorter;
        }
    }

    /// The network without one of its branches, for each that saves multiply-adds.
    fn candidates(&self, graph: &Graph) -> Result<Vec<Graph>> {
        let shapes = graph.shapes(1)?;
        let macs = graph.cost()?.macs.total();
        let mut found = Vec::new();
        for (at, node) in graph.nodes().iter().enumerate() {
            if !node.layer().is::<Add>() || !self.layers.matches(&node.name) {
                continue;
            }
            let mut shorter: Vec<Graph> = Vec::new();
            for (kept, &input) in node.inputs.iter().enumerate() {
                if shapes[input] != shapes[at] {
                    continue;
                }
                let mut without = graph.clone();
                without.bypass(&node.name, kept)?;
                // the input has to matter still
                if without.cost()?.macs.total() < macs {
                    shorter.push(without);
                }
            }
            // of two branches the one that costs more is the branch, the other one the shortcut
            found.extend(shorter.into_iter().min_by_key(|g| g.cost().map_or(u64::MAX, |c| c.macs.total())));
        }
        Ok(found)
    }
}

impl Compressor for Branches {
    fn name(&self) -> String {
        Branches::NAME.to_string()
    }

    fn config(&self) -> Config {
        write_config(self)
    }

    fn apply(&self, graph: &mut Graph, run: &mut Run<'_>) -> Result<()> {
        self.check()?;
        *graph = self.prune(graph, run)?;
        Ok(())
    }
}
