//! Sparse training: what is to be pruned is pulled towards zero first.

use crate::error::PruneError;
use crate::targets;
use cnn_core::compress::{read_config, write_config};
use cnn_core::layers::BatchNorm;
use cnn_core::train::{Hook, StepInfo};
use cnn_core::{Compressor, Config, Graph, Param, Result, Run, Selection};
use serde::{Deserialize, Serialize};

/// What is pulled towards zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Penalty {
    /// The scales of batch normalizations: `strength * |gamma|` (Liu et al. 2017, "Learning Efficient Convolutional Networks through
    /// Network Slimming", equation 1). Prune with the criterion `bn_scale` afterwards.
    #[default]
    BnScale,
    /// Whole filters: `strength * |F|` for each filter `F`, its Euclidean length (Wen et al. 2016, "Learning Structured Sparsity in
    /// Deep Neural Networks", equation 2). Prune with `l2`.
    GroupLasso,
    /// Single weights: `strength * |w|` (Tibshirani 1996). Prune with [`crate::Weights`].
    L1,
}

/// Sparse training before pruning: a regulariser pulls towards zero what pruning can then remove without loss.
///
/// ```
/// use cnn_core::train::TrainSettings;
/// use cnn_core::{Compressor, Registry, Run, testing};
/// use cnn_prune::{Penalty, SparseTraining};
///
/// let mut graph = testing::lenet5(0)?;
/// let size = |g: &cnn_core::Graph| g.nodes()[1].layer().params()[0].value().iter().map(|w| w.abs()).sum::<f32>();
/// let before = size(&graph);
/// let data = testing::stripes(64, [1, 28, 28], 10, 1)?;
/// let registry = Registry::core();
/// let mut run = Run::new(&data, &data, TrainSettings::default(), &registry);
/// let method = SparseTraining { penalty: Penalty::GroupLasso, strength: 0.5, epochs: Some(2), ..Default::default() };
/// method.apply(&mut graph, &mut run)?;
/// assert!(size(&graph) < before);
/// # Ok::<(), cnn_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SparseTraining {
    /// Which layers are pulled, all that have what the penalty needs by default.
    pub layers: Selection,
    /// What is pulled towards zero.
    pub penalty: Penalty,
    /// Factor of the penalty in the loss; 1e-4 by default.
    pub strength: f32,
    /// Epochs of the training; the run's by default.
    pub epochs: Option<usize>,
    /// Learning rate of the training; the run's by default.
    #[serde(alias = "rate")]
    pub learning_rate: Option<f32>,
}

impl Default for SparseTraining {
    fn default() -> SparseTraining {
        SparseTraining {
            layers: Selection::default(),
            penalty: Penalty::BnScale,
            strength: 1e-4,
            epochs: None,
            learning_rate: None,
        }
    }
}

impl SparseTraining {
    /// Name in the registry.
    pub const NAME: &'static str = "prune.sparse_training";

    pub(crate) fn build(config: Config) -> Result<Box<dyn Compressor>> {
        let method: SparseTraining = read_config(SparseTraining::NAME, config)?;
        method.check()?;
        Ok(Box::new(method))
    }

    /// Checks the settings that can be checked without a network.
    ///
    /// # Errors
    /// [`PruneError::Setting`].
    pub fn check(&self) -> Result<(), PruneError> {
        let number = |what, value: f32| match value >= 0.0 && value.is_finite() {
            true => Ok(()),
            false => {
                Err(PruneError::Setting { what, why: "a finite number that is not negative".to_string() })
            }
        };
        number("strength", self.strength)?;
        number("learning_rate", self.learning_rate.unwrap_or(0.0))
    }
}

impl Compressor for SparseTraining {
    fn name(&self) -> String {
        SparseTraining::NAME.to_string()
    }

    fn config(&self) -> Config {
        write_config(self)
    }

    fn apply(&self, graph: &mut Graph, run: &mut Run<'_>) -> Result<()> {
        self.check()?;
        self.layers.check(graph)?;
        let penalised = |at: &usize| {
            let node = &graph.nodes()[*at];
            let has = match self.penalty {
                Penalty::BnScale => node.layer().is::<BatchNorm>(),
                Penalty::GroupLasso | Penalty::L1 => targets::weight(node.layer()).is_some(),
            };
            has && self.layers.matches(&node.name)
        };
        let nodes: Vec<usize> = (0..graph.nodes().len()).filter(penalised).collect();
        if nodes.is_empty() {
            let why = "no selected layer has what it pulls towards zero (a network whose batch normalization is folded \
                       has no scales: use `group_lasso`)";
            return Err(PruneError::Setting { what: "penalty", why: why.to_string() }.into());
        }
        let mut settings = run.settings.clone();
        settings.epochs = self.epochs.unwrap_or(settings.epochs);
        if let Some(rate) = self.learning_rate {
            settings.optimizer = settings.optimizer.with_rate(rate);
        }
        run.hooks.push(Box::new(Pull { penalty: self.penalty, strength: self.strength, nodes }));
        let trained = run.fine_tune(graph, &settings);
        run.hooks.pop();
        trained.map(|_| ())
    }
}

/// Adds the penalty's gradient to that of the loss.
#[derive(Debug)]
struct Pull {
    penalty: Penalty,
    strength: f32,
    nodes: Vec<usize>,
}

impl Hook for Pull {
    fn name(&self) -> &'static str {
        SparseTraining::NAME
    }

    fn on_step(&mut self, graph: &mut Graph, _at: &StepInfo) -> Result<()> {
        for &at in &self.nodes {
            let layer = graph.layer_at_mut(at);
            let param = match self.penalty {
                Penalty::BnScale => layer.downcast_mut::<BatchNorm>().map(BatchNorm::gamma_mut),
                Penalty::GroupLasso | Penalty::L1 => targets::weight_mut(layer),
            };
            if let Some(param) = param {
                let pull = self.gradient(param);
                param.write_grad(|grad| grad.copy_from_slice(&pull));
            }
        }
        Ok(())
    }
}

impl Pull {
    /// `strength * w / |F|` for the filter `F` that a weight is in, or `strength * sign(w)`.
    fn gradient(&self, param: &Param) -> Vec<f32> {
        let values: Vec<f32> = param.value().iter().copied().collect();
        match self.penalty {
            Penalty::GroupLasso => {
                let size = (values.len() / param.shape()[0].max(1)).max(1);
                let pull = |filter: &[f32]| {
                    let length = filter.iter().map(|w| w * w).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
                    filter.iter().map(|w| self.strength * w / length).collect::<Vec<f32>>()
                };
                values.chunks(size).flat_map(pull).collect()
            }
            Penalty::BnScale | Penalty::L1 => {
                let sign = |w: &f32| if *w == 0.0 { 0.0 } else { w.signum() };
                values.iter().map(|w| self.strength * sign(w)).collect()
            }
        }
    }
}
