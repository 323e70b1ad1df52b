//! The one trait of all compression methods, and what a method is lent to work with.

use crate::data::{Augment, Dataset, batch};
use crate::graph::Graph;
use crate::registry::Registry;
use crate::tensor::Tensor;
use crate::train::{
    CrossEntropy, History, Hook, Objective, Progress, TrainData, TrainSettings, accuracy, train,
};
use crate::{Error, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::fmt::Debug;
use wildmatch::WildMatch;

/// The configuration of a method, as it appears in recipes and reports.
pub type Config = serde_json::Value;

/// Reads the configuration of a method: `null` gives the defaults, unknown keys and bad values are errors.
///
/// # Errors
/// [`Error::Invalid`] naming the method.
pub fn read_config<T: DeserializeOwned + Default>(method: &str, config: Config) -> Result<T> {
    match config {
        Config::Null => Ok(T::default()),
        config => serde_json::from_value(config)
            .map_err(|e| Error::invalid(format!("configuration of {method}"), e.to_string())),
    }
}

/// The configuration in force, for [`Compressor::config`].
pub fn write_config<T: Serialize>(config: &T) -> Config {
    serde_json::to_value(config).unwrap_or(Config::Null)
}

/// Which layers a method works on, by name; `*` and `?` match any text and any character.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Selection {
    /// Only these; empty means all.
    pub only: Vec<String>,
    /// Not these.
    pub skip: Vec<String>,
}

impl Selection {
    /// True if the method works on the named layer.
    pub fn matches(&self, name: &str) -> bool {
        let any = |patterns: &[String]| patterns.iter().any(|p| WildMatch::new(p).matches(name));
        (self.only.is_empty() || any(&self.only)) && !any(&self.skip)
    }

    /// Checks that each pattern matches a node: a misspelt name must not silently do nothing.
    ///
    /// # Errors
    /// [`Error::UnknownNode`] for the first that does not.
    pub fn check(&self, graph: &Graph) -> Result<()> {
        for pattern in self.only.iter().chain(&self.skip) {
            let wild = WildMatch::new(pattern);
            if !graph.nodes().iter().any(|n| wild.matches(&n.name)) {
                graph.find(pattern)?;
            }
        }
        Ok(())
    }
}

/// A compression method, or a chain of them.
///
/// [`Compressor::apply`] changes and fine-tunes a trainable network; [`Compressor::pack`] then swaps dense layers
/// under constraints for packed ones. Between the two, further methods may be applied.
pub trait Compressor: Debug + Send + Sync {
    /// The method's name, as registered.
    fn name(&self) -> String;

    /// The settings in force, defaults included.
    fn config(&self) -> Config;

    /// Edits, constrains and fine-tunes the network.
    ///
    /// # Errors
    /// If the settings are out of range, the network does not suit, or training fails.
    fn apply(&self, graph: &mut Graph, run: &mut Run<'_>) -> Result<()>;

    /// Replaces what `apply` prepared by packed layers. Low-rank and light structures have nothing to pack.
    ///
    /// # Errors
    /// If a layer cannot be packed.
    fn pack(&self, _graph: &mut Graph) -> Result<()> {
        Ok(())
    }
}

/// What a method is lent: data, settings, objective, hooks, seed.
pub struct Run<'a> {
    /// Training images; methods fine-tune and calibrate on them.
    pub train: &'a dyn Dataset,
    /// Images for decisions (ratios, ranks, when to stop). Never the test images.
    pub validation: &'a dyn Dataset,
    /// Random changes of training images.
    pub augment: Option<&'a dyn Augment>,
    /// How to fine-tune, unless a method's own settings say otherwise.
    pub settings: TrainSettings,
    /// What training minimises. A method retrains with it and does not know whether a teacher is behind it.
    pub objective: Box<dyn Objective>,
    /// Called during every training.
    pub hooks: Vec<Box<dyn Hook>>,
    /// Kinds, methods and networks by name.
    pub registry: &'a Registry,
    /// Seed of the method's own random choices.
    pub seed: u64,
    /// Where progress is shown.
    pub progress: Progress,
}

impl<'a> Run<'a> {
    /// A run with cross-entropy, no augmentation, no hooks, quiet.
    pub fn new(
        train: &'a dyn Dataset,
        validation: &'a dyn Dataset,
        settings: TrainSettings,
        registry: &'a Registry,
    ) -> Run<'a> {
        Run {
            train,
            validation,
            augment: None,
            seed: settings.seed,
            settings,
            objective: Box::new(CrossEntropy::default()),
            hooks: Vec::new(),
            registry,
            progress: Progress::quiet(),
        }
    }

    /// Trains the network with the run's data, objective and hooks.
    ///
    /// # Errors
    /// As [`train`].
    pub fn fine_tune(&mut self, graph: &mut Graph, settings: &TrainSettings) -> Result<History> {
        let data = TrainData {
            train: self.train,
            validation: Some(self.validation),
            augment: self.augment,
            checkpoint: None,
        };
        train(graph, data, settings, self.objective.as_mut(), &mut self.hooks, &self.progress)
    }

    /// Top-1 accuracy on the validation images, in `[0, 1]`.
    ///
    /// # Errors
    /// If the network does not fit the images.
    pub fn accuracy(&self, graph: &Graph) -> Result<f64> {
        accuracy(graph, self.validation)
    }

    /// The first `count` training images as one batch, for calibration.
    ///
    /// # Errors
    /// If there is no training image.
    pub fn calibration(&self, count: usize) -> Result<Tensor> {
        let count = count.min(self.train.len());
        if count == 0 {
            return Err(Error::Data("calibration needs training images, and there are none".into()));
        }
        Ok(batch(self.train, &(0..count).collect::<Vec<_>>())?.0)
    }
}

/// Methods one after the other: applied in order, packed in reverse.
#[derive(Debug)]
pub struct Chain {
    name: String,
    steps: Vec<Box<dyn Compressor>>,
}

impl Chain {
    /// A chain under a name of its own.
    pub fn new(name: impl Into<String>, steps: Vec<Box<dyn Compressor>>) -> Chain {
        Chain { name: name.into(), steps }
    }
}

impl Compressor for Chain {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn config(&self) -> Config {
        self.steps.iter().map(|s| serde_json::json!({ "method": s.name(), "config": s.config() })).collect()
    }

    fn apply(&self, graph: &mut Graph, run: &mut Run<'_>) -> Result<()> {
        self.steps.iter().try_for_each(|step| step.apply(graph, run))
    }

    fn pack(&self, graph: &mut Graph) -> Result<()> {
        self.steps.iter().rev().try_for_each(|step| step.pack(graph))
    }
}
