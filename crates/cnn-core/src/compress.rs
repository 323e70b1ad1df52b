//! The one trait of all compression methods, and what a method is lent to work with.

use crate::data::{Augment, Dataset, batch};
use crate::graph::Graph;
use crate::model_file;
use crate::registry::Registry;
use crate::tensor::Tensor;
use crate::train::{
    CrossEntropy, History, Hook, Objective, Progress, TrainData, TrainSettings, accuracy, train,
};
use crate::{Error, Result};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::fmt::Debug;
use std::path::{Path, PathBuf};
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
    /// A folder in which methods keep what took them long to find, so that an interrupted one goes on where it was when it is
    /// started again: see [`Run::remember`].
    pub memory: Option<PathBuf>,
}

/// Images of a batch of a sample, at most.
const SAMPLE_BATCH: usize = 64;

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
            memory: None,
        }
    }

    /// Trains the network with the run's data, objective and hooks. With a [`Run::memory`] it keeps a checkpoint there until it is done,
    /// from which the same training goes on after an interruption.
    ///
    /// # Errors
    /// As [`train`].
    pub fn fine_tune(&mut self, graph: &mut Graph, settings: &TrainSettings) -> Result<History> {
        let file =
            self.memory.as_ref().map(|folder| self.checkpoint_in(folder, graph, settings)).transpose()?;
        let data = TrainData {
            train: self.train,
            validation: Some(self.validation),
            augment: self.augment,
            checkpoint: file.as_deref().map(|file| (file, self.registry)),
        };
        let history = train(graph, data, settings, self.objective.as_mut(), &mut self.hooks, &self.progress)?;
        if let Some(file) = file.filter(|file| file.exists()) {
            std::fs::remove_file(&file).map_err(Error::io(&file))?;
        }
        Ok(history)
    }

    /// The file for the checkpoint of a training.
    fn checkpoint_in(&self, folder: &Path, graph: &Graph, settings: &TrainSettings) -> Result<PathBuf> {
        std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
        let settings =
            serde_json::to_value(settings).map_err(|e| Error::invalid("settings", e.to_string()))?;
        Ok(folder.join(format!("training-{}.checkpoint", self.fingerprint(graph, &settings)?)))
    }

    /// Top-1 accuracy on the validation images, in `[0, 1]`.
    ///
    /// # Errors
    /// If the network does not fit the images.
    pub fn accuracy(&self, graph: &Graph) -> Result<f64> {
        accuracy(graph, self.validation)
    }

    /// A name for what a method does to a network in this run, as eight digits: it changes with the network, the method's
    /// configuration, the training settings, the seed, the number and size of the images, whether they are augmented, and the hooks. An
    /// objective of the caller's is not part of it.
    ///
    /// # Errors
    /// If the network cannot be written.
    pub fn fingerprint(&self, graph: &Graph, config: &Config) -> Result<String> {
        let images = [self.train, self.validation].map(|data| (data.len(), data.shape()));
        let hooks: Vec<(&str, Vec<u8>)> = self.hooks.iter().map(|hook| (hook.name(), hook.state())).collect();
        let run = serde_json::to_vec(&(
            (config, &self.settings, self.seed),
            (images, self.augment.is_some(), hooks),
        ));
        let mut hash = crc32fast::Hasher::new();
        hash.update(&run.map_err(|e| Error::invalid("settings", e.to_string()))?);
        // the bytes end in their own checksum; a checksum over that too would always be the same
        let network = model_file::checkpoint_bytes(graph)?;
        hash.update(&network[network.len().saturating_sub(4)..]);
        Ok(format!("{:08x}", hash.finalize()))
    }

    /// The network under a key: read back from [`Run::memory`] if it is there, else made now and kept there. Put
    /// [`Run::fingerprint`] into the key. Without a memory it is made.
    ///
    /// # Errors
    /// Those of `make`, and if the file cannot be read or written.
    pub fn remember(&mut self, key: &str, make: impl FnOnce(&mut Self) -> Result<Graph>) -> Result<Graph> {
        let Some(folder) = self.memory.clone() else { return make(self) };
        let file = folder.join(file_name(key, "network"));
        if file.exists() {
            return model_file::load_checkpoint(&file, self.registry);
        }
        let graph = make(self)?;
        std::fs::create_dir_all(&folder).map_err(Error::io(&folder))?;
        model_file::save_checkpoint(&graph, &file)?;
        Ok(graph)
    }

    /// As [`Run::remember`], for anything that can be written as JSON.
    ///
    /// # Errors
    /// As [`Run::remember`].
    pub fn remember_value<T: Serialize + DeserializeOwned>(
        &mut self,
        key: &str,
        make: impl FnOnce(&mut Self) -> Result<T>,
    ) -> Result<T> {
        let Some(folder) = self.memory.clone() else { return make(self) };
        let file = folder.join(file_name(key, "json"));
        let unreadable = |e: serde_json::Error| Error::invalid(file.display().to_string(), e.to_string());
        if file.exists() {
            return serde_json::from_slice(&std::fs::read(&file).map_err(Error::io(&file))?)
                .map_err(unreadable);
        }
        let value = make(self)?;
        std::fs::create_dir_all(&folder).map_err(Error::io(&folder))?;
        model_file::write_atomically(&file, &serde_json::to_vec(&value).map_err(unreadable)?)?;
        Ok(value)
    }

    /// Positions of `count` training images, or of all if there are fewer, drawn by the run's seed (files are often in the order of
    /// classes), in batches no larger than those of its training.
    ///
    /// # Errors
    /// If that is no image.
    pub fn sample(&self, count: usize) -> Result<Vec<Vec<usize>>> {
        let all = self.train.len();
        if all == 0 || count == 0 {
            return Err(Error::Data(
                "a sample of training images, as for calibration, is needed, and there are none".into(),
            ));
        }
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        let chosen = rand::seq::index::sample(&mut rng, all, count.min(all)).into_vec();
        Ok(chosen.chunks(SAMPLE_BATCH.min(self.settings.batch).max(1)).map(<[usize]>::to_vec).collect())
    }

    /// A sample of training images ([`Run::sample`]) as one batch, for calibration.
    ///
    /// # Errors
    /// If there is no training image.
    pub fn calibration(&self, count: usize) -> Result<Tensor> {
        Ok(batch(self.train, &self.sample(count)?.concat())?.0)
    }
}

/// A file for a key, which may have names of layers in it: where such a name is long or has other signs, its checksum stands for it.
fn file_name(key: &str, end: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "-_.+".contains(c) { c } else { '_' };
    let name: String = key.chars().map(plain).take(100).collect();
    match name == key {
        true => format!("{name}.{end}"),
        false => format!("{name}-{:08x}.{end}", crc32fast::hash(key.as_bytes())),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{lenet5, stripes};
    use crate::train::StepInfo;

    #[test]
    fn what_was_found_is_read_back() {
        let data = stripes(4, [1, 28, 28], 10, 1).unwrap();
        let registry = Registry::core();
        let mut run = Run::new(&data, &data, TrainSettings::default(), &registry);
        let folder = tempfile::tempdir().unwrap();
        let graph = lenet5(0).unwrap();
        // without a memory everything is made
        assert_eq!(run.remember_value("a/b", |_| Ok(1)).unwrap(), 1);
        run.memory = Some(folder.path().join("inner"));
        assert_eq!(run.remember_value("a/b", |_| Ok(2)).unwrap(), 2);
        assert_eq!(run.remember_value("a/b", |_| Ok(3)).unwrap(), 2);
        assert_eq!(run.remember_value("a_b", |_| Ok(4)).unwrap(), 4);
        let made = run.remember("a", |_| Ok(graph.clone())).unwrap();
        let read = run.remember("a", |_| lenet5(1)).unwrap();
        let key = |g: &Graph| run.fingerprint(g, &Config::Null).unwrap();
        assert_eq!(key(&made), key(&read));
        assert_ne!(key(&made), key(&lenet5(1).unwrap()));
        assert_ne!(key(&made), run.fingerprint(&made, &serde_json::json!({ "ratio": 0.5 })).unwrap());
        std::fs::write(folder.path().join("inner/b.json"), "{").unwrap();
        let error = run.remember_value("b", |_| Ok(1)).unwrap_err().to_string();
        assert!(error.contains("b.json"), "{error}");
    }

    /// Stops the training in its second epoch, the first time.
    #[derive(Debug)]
    struct Interruption(bool);

    impl Hook for Interruption {
        fn name(&self) -> &'static str {
            "interruption"
        }

        fn on_step(&mut self, _graph: &mut Graph, at: &StepInfo) -> Result<()> {
            let stop = self.0 && at.epoch == 1;
            if stop { Err(Error::Interrupted) } else { Ok(()) }
        }
    }

    #[test]
    fn an_interrupted_training_goes_on() {
        let data = stripes(40, [1, 28, 28], 10, 1).unwrap();
        let registry = Registry::core();
        let settings = TrainSettings { epochs: 3, batch: 8, ..TrainSettings::default() };
        let folder = tempfile::tempdir().unwrap();
        let train = |stop: bool, memory: Option<PathBuf>| {
            let mut run = Run::new(&data, &data, settings.clone(), &registry);
            run.hooks = vec![Box::new(Interruption(stop))];
            run.memory = memory;
            let mut graph = lenet5(0).unwrap();
            let history = run.fine_tune(&mut graph, &settings);
            (history.map(|h| h.epochs), run.fingerprint(&graph, &Config::Null).unwrap())
        };
        let (whole, expected) = train(false, None);
        let memory = folder.path().join("memory");
        let files = || std::fs::read_dir(&memory).unwrap().count();
        let (stopped, _) = train(true, Some(memory.clone()));
        assert!(matches!(stopped, Err(Error::Interrupted)) && files() == 1);
        let (went_on, network) = train(false, Some(memory.clone()));
        assert_eq!((went_on.unwrap(), network), (whole.unwrap(), expected));
        assert_eq!(files(), 0);
    }
}
