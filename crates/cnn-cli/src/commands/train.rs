//! `cnn train`: a network from nothing.

use super::networks::{BuildOptions, check_name};
use crate::images::{self, ImageArgs, Images};
use crate::measure::{Scores, evaluate};
use crate::network::{self, LoadOptions, SaveOptions};
use crate::recipe::{Augmentation, Recipe, Rule, TrainSection};
use crate::session::Session;
use crate::table::grouped;
use anyhow::{Context, Result, bail};
use cnn_core::train::{CrossEntropy, EpochRecord, EpochRule, Schedule, TrainData, TrainSettings, train};
use cnn_core::{Dataset, Error, Graph, NetworkOptions};
use serde::Serialize;
use std::fmt::{Display, Formatter};
use std::path::{Path, PathBuf};

/// Options of the command.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Options {
    /// Name of the network, as `cnn networks` lists them
    pub network: String,
    /// Images: a folder with train/, val/ and test/ folders of classes, CIFAR or IDX files, .npz, .npy, ...
    #[arg(long, value_name = "PATH")]
    pub data: PathBuf,
    /// The file to write; its name's end, .cnn or .onnx, says how
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// A recipe whose sections `[data]` and `[train]` count where the command line says nothing
    #[arg(long, value_name = "RECIPE")]
    pub recipe: Option<PathBuf>,
    /// Start anew, even if there is a checkpoint to go on from
    #[arg(long)]
    pub restart: bool,
    /// How the network is built
    #[command(flatten)]
    pub build: BuildOptions,
    /// How to train
    #[command(flatten)]
    pub train: TrainArgs,
    /// What the images are to become
    #[command(flatten)]
    pub images: ImageArgs,
}

/// How to train.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Training")]
pub struct TrainArgs {
    /// Passes over the training images [default: 10]
    #[arg(long)]
    pub epochs: Option<usize>,
    /// Images in a step [default: 64]
    #[arg(long)]
    pub batch: Option<usize>,
    /// Learning rate [default: 0.01 for sgd, 0.001 for adam and adamw]
    #[arg(long, visible_alias = "learning-rate")]
    pub lr: Option<f32>,
    /// Update rule [default: sgd]
    #[arg(long)]
    pub optimizer: Option<Rule>,
    /// Momentum of sgd [default: 0.9]
    #[arg(long)]
    pub momentum: Option<f32>,
    /// Weight decay [default: 0.0005]
    #[arg(long)]
    pub weight_decay: Option<f32>,
    /// constant, cosine, or epochs at which the rate falls to a tenth, as 30,60 [default: cosine]
    #[arg(long, value_parser = schedule)]
    pub schedule: Option<Schedule>,
    /// Epochs in which the rate rises to its height, before the schedule
    #[arg(long)]
    pub warm_up: Option<usize>,
    /// Largest norm of the gradients
    #[arg(long)]
    pub clip: Option<f32>,
    /// Seed of first weights, order of images, augmentation [default: 0]
    #[arg(long)]
    pub seed: Option<u64>,
    /// Keep the epoch that is best on the validation images, instead of the last
    #[arg(long)]
    pub best: bool,
    /// Random changes of training images: shift=N, crop=N, flip; several by commas
    #[arg(long, value_parser = augmentation)]
    pub augment: Option<Augmentation>,
}

fn schedule(text: &str) -> Result<Schedule, String> {
    match text {
        "constant" => Ok(Schedule::Constant),
        "cosine" => Ok(Schedule::Cosine),
        list => {
            let at = list.split(',').map(|e| e.trim().parse()).collect::<Result<Vec<usize>, _>>();
            let at = at.map_err(|_| format!("`{text}` is not constant, cosine, or epochs such as 30,60"))?;
            Ok(Schedule::Step { at, factor: 0.1 })
        }
    }
}

fn augmentation(text: &str) -> Result<Augmentation, String> {
    let mut all = Augmentation::default();
    for part in text.split(',').map(str::trim) {
        let pixels =
            |n: &str| n.parse::<usize>().map(Some).map_err(|_| format!("`{part}`: not a number of pixels"));
        match part.split_once('=') {
            None if part == "flip" => all.flip = true,
            Some(("shift", n)) => all.shift = pixels(n)?,
            Some(("crop", n)) => all.crop = pixels(n)?,
            _ => return Err(format!("`{part}` is not shift=N, crop=N or flip")),
        }
    }
    Ok(all)
}

impl TrainArgs {
    fn section(&self) -> TrainSection {
        let rise = |epochs| Schedule::WarmUp {
            epochs,
            then: Box::new(self.schedule.clone().unwrap_or(Schedule::Cosine)),
        };
        TrainSection {
            epochs: self.epochs,
            batch: self.batch,
            learning_rate: self.lr,
            optimizer: self.optimizer,
            momentum: self.momentum,
            nesterov: None,
            weight_decay: self.weight_decay,
            schedule: self.warm_up.map(rise).or_else(|| self.schedule.clone()),
            clip: self.clip,
            seed: self.seed,
            epoch_rule: self.best.then_some(EpochRule::BestOnValidation),
        }
    }
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// The network's name.
    pub network: String,
    /// The file that was written.
    pub output: PathBuf,
    /// Its length.
    pub bytes: u64,
    /// Parameters.
    pub params: u64,
    /// Multiply-adds for an image.
    pub macs: u64,
    /// How it was trained.
    pub settings: TrainSettings,
    /// The epochs.
    pub epochs: Vec<EpochRecord>,
    /// On test images, as read back from the file; `None` if there are none.
    pub test: Option<Scores>,
}

/// Trains, writes, reads back, and measures.
///
/// # Errors
/// If images or settings do not suit, training diverges, or the user stops it; the checkpoint is then still
/// there.
pub fn run(options: &Options, session: &Session) -> Result<Report> {
    let recipe = options.recipe.as_ref().map(|path| Recipe::load(path, &session.registry)).transpose()?;
    check_name(&options.network, session)?;
    network::check_writable(&options.output)?;
    let section = options.images.over(recipe.as_ref())?;
    let said = recipe.as_ref().map_or_else(TrainSection::default, |r| r.train.clone());
    let settings = options.train.section().or(&said).over(&TrainSettings::default())?;
    let images =
        images::open_for_training(&options.data, &options.images, &section, options.build.shape()?, session)?;
    let mut graph = build(options, &images, settings.seed, session)?;
    let (learn, decide) = images.learning(&options.data, section.validation, session)?;
    let augmentation = options.train.augment.as_ref().or(section.augment.as_ref());
    let augment = images::augment(augmentation, images.preprocess.as_ref());

    let checkpoint = checkpoint(&options.output, options.restart, session)?;
    let data = TrainData {
        train: &learn,
        validation: Some(&decide),
        augment: augment.as_deref(),
        checkpoint: Some((&checkpoint, &session.registry)),
    };
    let (mut objective, mut hooks) = (CrossEntropy::default(), session.hooks());
    let trained = train(&mut graph, data, &settings, &mut objective, &mut hooks, &session.progress());
    let history = trained.map_err(|e| explain(e, &checkpoint))?;
    graph.preprocess = images.preprocess.clone();
    let bytes = network::save(&graph, &options.output, SaveOptions { names: true, four_bit: false })?;
    std::fs::remove_file(&checkpoint).with_context(|| checkpoint.display().to_string())?;

    let back = network::load(&options.output, &LoadOptions::default(), &session.registry)?;
    let test = images.test.as_ref().map(|t| evaluate(&back.graph, t, "testing", session)).transpose()?;
    let cost = back.graph.cost()?;
    Ok(Report {
        network: options.network.clone(),
        output: options.output.clone(),
        bytes,
        params: cost.params,
        macs: cost.macs.total(),
        settings,
        epochs: history.epochs,
        test,
    })
}

fn build(options: &Options, images: &Images, seed: u64, session: &Session) -> Result<Graph> {
    let Some(train) = &images.train else { bail!("there are no training images") };
    let shape = train.shape();
    if let Some(wanted) = options.build.shape()?.filter(|w| *w != shape) {
        bail!("--input {wanted:?}, but the images are {shape:?}");
    }
    let classes = options.build.classes.unwrap_or(train.classes());
    if classes < train.classes() {
        bail!("--classes {classes}, but the images are of {} classes", train.classes());
    }
    let build =
        NetworkOptions { input: Some(shape), classes: Some(classes), width: options.build.width, seed };
    let graph = session.registry.build_network(&options.network, &build)?;
    let cost = graph.cost()?;
    session.note(format!(
        "{}: {} parameters, {} multiply-adds for an image",
        options.network,
        grouped(cost.params),
        grouped(cost.macs.total())
    ));
    Ok(graph)
}

/// Where the state after each epoch goes.
fn checkpoint(output: &Path, restart: bool, session: &Session) -> Result<PathBuf> {
    let mut name = output.as_os_str().to_owned();
    name.push(".checkpoint");
    let path = PathBuf::from(name);
    if path.is_dir() {
        bail!("{}: this folder belongs to `cnn compress`; name another output, or remove it", path.display());
    }
    if path.exists() {
        if restart {
            std::fs::remove_file(&path).with_context(|| path.display().to_string())?;
        } else {
            session.note(format!("going on from {}", path.display()));
        }
    }
    Ok(path)
}

/// Says what is left when a training ends early.
fn explain(error: Error, checkpoint: &Path) -> anyhow::Error {
    let at = checkpoint.display();
    let left = match (&error, checkpoint.exists()) {
        (Error::Interrupted | Error::NonFinite { .. }, true) => {
            format!(
                "{at} holds the state of the last epoch: the same command goes on from there, --restart \
                    starts anew"
            )
        }
        (Error::Interrupted, false) => "no epoch was finished".to_string(),
        (Error::Invalid { .. }, true) => {
            format!("{at} is of another training; --restart removes it and starts anew")
        }
        _ => return error.into(),
    };
    anyhow::Error::new(error).context(left)
}

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        if let Some(last) = self.epochs.last() {
            let validation =
                last.validation.map_or_else(String::new, |v| format!(", validation {:.2} %", 100.0 * v));
            writeln!(f, "{} epochs: loss {:.4}{validation}", self.epochs.len(), last.loss)?;
        }
        if let Some(test) = &self.test {
            writeln!(f, "test: {}", test.text())?;
        }
        write!(
            f,
            "{}: {} bytes, {} parameters",
            self.output.display(),
            grouped(self.bytes),
            grouped(self.params)
        )
    }
}
