//! The training loop.

use super::checkpoint::{self, State};
use super::evaluate::accuracy;
use super::hook::{EpochInfo, Hook, StepInfo};
use super::objective::{Batch, Objective};
use super::optimizer::{Optimizer, clip_gradients, for_each_param};
use super::progress::Progress;
use super::schedule::Schedule;
use super::seed::mix;
use super::tape::Tape;
use crate::data::{Augment, Dataset};
use crate::graph::Graph;
use crate::model_file::{Encoder, Purpose, encode_graph, frame};
use crate::param::Param;
use crate::registry::Registry;
use crate::tensor::{Tensor, slice_mut};
use crate::{Error, Result};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Which epoch's network a training returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EpochRule {
    /// That of the last epoch.
    #[default]
    LastEpoch,
    /// That of the epoch with the best accuracy on the validation images, the first of equals.
    BestOnValidation,
}

/// How to train.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainSettings {
    /// Passes over the training images.
    pub epochs: usize,
    /// Images in a step; the last step of an epoch takes what is left.
    pub batch: usize,
    /// Update rule with the base learning rate.
    pub optimizer: Optimizer,
    /// Learning rate over time.
    pub schedule: Schedule,
    /// Largest joint L2 norm of the gradients.
    pub clip: Option<f32>,
    /// Seed of shuffling, augmentation and dropout.
    pub seed: u64,
    /// Which epoch counts.
    pub epoch_rule: EpochRule,
}

impl Default for TrainSettings {
    fn default() -> TrainSettings {
        TrainSettings {
            epochs: 10,
            batch: 64,
            optimizer: Optimizer::sgd(0.01, 5e-4),
            schedule: Schedule::Cosine,
            clip: None,
            seed: 0,
            epoch_rule: EpochRule::LastEpoch,
        }
    }
}

impl TrainSettings {
    /// Checks the settings.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming the setting.
    pub fn check(&self) -> Result<()> {
        if self.batch == 0 {
            return Err(Error::invalid("batch", "at least 1"));
        }
        if self.clip.is_some_and(|c| c.is_nan() || c <= 0.0) {
            return Err(Error::invalid("clip", "a positive norm"));
        }
        self.schedule.check()?;
        self.optimizer.check()
    }
}

/// What a training works on.
#[derive(Debug, Clone, Copy)]
pub struct TrainData<'a> {
    /// Images to learn from.
    pub train: &'a dyn Dataset,
    /// Images to watch, if there are any.
    pub validation: Option<&'a dyn Dataset>,
    /// Random changes of the training images.
    pub augment: Option<&'a dyn Augment>,
    /// File for the state after each epoch, with the registry to read it back. When it exists, training goes on from there.
    pub checkpoint: Option<(&'a Path, &'a Registry)>,
}

/// One epoch of a training.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct EpochRecord {
    /// Epoch, from 0.
    pub epoch: usize,
    /// Mean loss over the epoch's steps.
    pub loss: f64,
    /// Accuracy on the validation images after the epoch, in `[0, 1]`.
    pub validation: Option<f64>,
}

/// What happened in a training.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct History {
    /// The epochs.
    pub epochs: Vec<EpochRecord>,
}

/// Trains a graph in place.
///
/// The same seed, data and machine give the same bits, whatever the number of threads, and whether or not the training was
/// interrupted and went on from its checkpoint.
///
/// # Errors
/// [`Error::Invalid`] for bad settings, [`Error::Data`] without images, [`Error::NonFinite`] when the loss, an activation or
/// a parameter is no longer finite (the checkpoint of the epoch before stays), [`Error::NotTrainable`] for a packed
/// layer. On an error the graph is as it was before the call.
pub fn train(
    graph: &mut Graph,
    data: TrainData<'_>,
    settings: &TrainSettings,
    objective: &mut dyn Objective,
    hooks: &mut [Box<dyn Hook>],
    progress: &Progress,
) -> Result<History> {
    settings.check()?;
    if data.train.is_empty() {
        return Err(Error::Data("there are no images to train on".into()));
    }
    if settings.epoch_rule == EpochRule::BestOnValidation && data.validation.is_none_or(|v| v.is_empty()) {
        return Err(Error::Data(
            "the best epoch on validation images was asked for, but there are none".into(),
        ));
    }
    let mut current = graph.clone();
    for_each_param(&mut current, Param::reset_slots);
    let mut state = State { fingerprint: fingerprint(settings, &data, &current)?, ..State::default() };
    let mut best: Option<Graph> = None;
    if let Some((path, registry)) = data.checkpoint.filter(|(path, _)| path.exists()) {
        let (found, at, best_so_far) = checkpoint::read(path, registry)?;
        if found.fingerprint != state.fingerprint {
            return Err(Error::invalid(
                format!("checkpoint {}", path.display()),
                "it belongs to a training with other settings, data or network; delete it or name another file",
            ));
        }
        checkpoint::restore_hooks(hooks, &found.hooks)?;
        (state, current, best) = (found, at, best_so_far);
    }

    let mut tape = Tape::default();
    while state.epochs_done < settings.epochs {
        let epoch = state.epochs_done;
        objective.begin_epoch(epoch, settings.epochs);
        let loss =
            train_epoch(&mut current, &mut tape, &data, settings, objective, hooks, progress, &mut state)?;
        check_params(&current, epoch, data.checkpoint.is_some())?;
        let validation =
            data.validation.filter(|v| !v.is_empty()).map(|v| accuracy(&current, v)).transpose()?;
        if settings.epoch_rule == EpochRule::BestOnValidation && validation > state.best {
            state.best = validation;
            best = Some(current.clone());
        }
        let info = EpochInfo { epoch, epochs: settings.epochs, loss, validation };
        hooks.iter_mut().try_for_each(|hook| hook.on_epoch(&mut current, &info))?;
        state.records.push(EpochRecord { epoch, loss, validation });
        state.epochs_done += 1;
        if let Some((path, _)) = data.checkpoint {
            state.hooks = checkpoint::hook_states(hooks);
            checkpoint::write(path, &state, &current, best.as_ref())?;
        }
    }
    *graph = best.unwrap_or(current);
    graph.preprocess = data.train.preprocess().or(graph.preprocess.take());
    Ok(History { epochs: state.records })
}

#[allow(clippy::too_many_arguments)] // the loop's whole state, used once
fn train_epoch(
    graph: &mut Graph,
    tape: &mut Tape,
    data: &TrainData<'_>,
    settings: &TrainSettings,
    objective: &mut dyn Objective,
    hooks: &mut [Box<dyn Hook>],
    progress: &Progress,
    state: &mut State,
) -> Result<f64> {
    let epoch = state.epochs_done;
    let order = shuffled(data.train.len(), settings.seed, epoch);
    let steps = order.len().div_ceil(settings.batch);
    let bar = progress.bar(order.len() as u64, &format!("epoch {}/{}", epoch + 1, settings.epochs));
    let mut total = 0f64;
    let [c, h, w] = data.train.shape();
    let mut images = Tensor::default(ndarray::IxDyn(&[0]));
    for (step, ids) in order.chunks(settings.batch).enumerate() {
        let shape = [ids.len(), c, h, w];
        if images.shape() != shape {
            images = crate::tensor::zeros(&shape);
        }
        let labels = load(data, ids, settings.seed, epoch, &mut images)?;
        let batch = Batch { ids, images: &images, labels: &labels };
        let seed = mix(settings.seed, epoch, step + 1);
        let loss = forward_backward(graph, tape, &batch, objective, seed)?;
        let rescue = || rescue(epoch, data.checkpoint.is_some());
        let Some(loss) = loss else {
            let node = blame(graph, tape, &images, seed)?;
            return Err(Error::NonFinite { what: "loss", node, epoch, step, rescue: rescue() });
        };
        let progressed = epoch as f32 + step as f32 / steps as f32;
        let factor = settings.schedule.factor(progressed, settings.epochs as f32);
        let rate = settings.optimizer.rate() * factor;
        let info = StepInfo { epoch, epochs: settings.epochs, step, steps, rate };
        hooks.iter_mut().try_for_each(|hook| hook.on_step(graph, &info))?;
        if let Some(most) = settings.clip
            && !clip_gradients(graph, most).is_finite()
        {
            let node = bad_gradient(graph);
            return Err(Error::NonFinite { what: "gradient", node, epoch, step, rescue: rescue() });
        }
        settings.optimizer.step(graph, factor);
        total += loss * ids.len() as f64;
        bar.inc(ids.len() as u64);
    }
    bar.finish_and_clear();
    Ok(total / order.len() as f64)
}

/// One forward and backward pass: afterwards every parameter has its gradient. Returns the loss, or `None` when it is not
/// finite; there was no backward pass then. `seed` drives dropout.
///
/// # Errors
/// If the batch or the objective does not fit the graph, or a layer cannot be trained.
pub fn forward_backward(
    graph: &mut Graph,
    tape: &mut Tape,
    batch: &Batch<'_>,
    objective: &mut dyn Objective,
    seed: u64,
) -> Result<Option<f64>> {
    let mut wanted = vec![graph.output()];
    for name in objective.nodes() {
        wanted.push(graph.find(&name)?);
    }
    for_each_param(graph, Param::zero_grad);
    tape.forward(graph, batch.images, &wanted, seed)?;
    let outputs: Vec<&Tensor> = wanted.iter().filter_map(|&at| tape.value(at)).collect();
    let loss = objective.loss(batch, &outputs)?;
    if !loss.value.is_finite() {
        return Ok(None);
    }
    if loss.grads.len() != wanted.len() {
        return Err(Error::Edit(format!(
            "the objective gave {} gradients for {} outputs",
            loss.grads.len(),
            wanted.len()
        )));
    }
    for (grad, output) in loss.grads.iter().zip(&outputs) {
        if grad.shape() != output.shape() || !grad.is_standard_layout() {
            return Err(Error::Shape(format!(
                "the objective's gradient {:?} of {:?}",
                grad.shape(),
                output.shape()
            )));
        }
    }
    tape.backward(graph, wanted.into_iter().zip(loss.grads).collect())?;
    Ok(Some(loss.value))
}

/// Reads images into a batch and augments them, each with a generator of its own.
fn load(
    data: &TrainData<'_>,
    ids: &[usize],
    seed: u64,
    epoch: usize,
    images: &mut Tensor,
) -> Result<Vec<usize>> {
    let shape = data.train.shape();
    let size: usize = shape.iter().product();
    slice_mut(images)?.par_chunks_mut(size.max(1)).zip(ids).try_for_each(|(image, &id)| {
        data.train.image(id, image)?;
        if let Some(augment) = data.augment {
            augment.apply(image, shape, &mut ChaCha8Rng::seed_from_u64(mix(!seed, epoch, id)));
        }
        Ok::<(), Error>(())
    })?;
    Ok(ids.iter().map(|&id| data.train.label(id)).collect())
}

/// The order of the images in an epoch.
fn shuffled(count: usize, seed: u64, epoch: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    order.shuffle(&mut ChaCha8Rng::seed_from_u64(mix(seed, epoch, 0)));
    order
}

/// The first node whose output is not finite, found by running the step again with everything kept.
fn blame(graph: &mut Graph, tape: &mut Tape, images: &Tensor, seed: u64) -> Result<String> {
    let all: Vec<usize> = (0..graph.nodes().len()).collect();
    tape.forward(graph, images, &all, seed)?;
    Ok(tape.first_not_finite(graph).unwrap_or_else(|| graph.nodes()[graph.output()].name.clone()))
}

fn bad_gradient(graph: &Graph) -> String {
    let bad = |p: &&Param| p.grad().is_some_and(|g| g.iter().any(|v| !v.is_finite()));
    let node = graph.nodes().iter().find(|n| n.layer().params().iter().any(bad));
    node.map_or_else(String::new, |n| n.name.clone())
}

/// No checkpoint with NaN in it replaces a good one.
fn check_params(graph: &Graph, epoch: usize, has_checkpoint: bool) -> Result<()> {
    for node in graph.nodes() {
        if node.layer().params().iter().any(|p| p.base().iter().chain(p.value()).any(|v| !v.is_finite())) {
            let (what, node, rescue) = ("parameter", node.name.clone(), rescue(epoch, has_checkpoint));
            return Err(Error::NonFinite { what, node, epoch, step: 0, rescue });
        }
    }
    Ok(())
}

fn rescue(epoch: usize, has_checkpoint: bool) -> String {
    match (epoch, has_checkpoint) {
        (0, true) => "no checkpoint was written yet".to_string(),
        (_, true) => format!("the checkpoint of epoch {} is untouched", epoch - 1),
        (_, false) => "the graph is as it was before training".to_string(),
    }
}

/// What a training is: settings, data, and the network it starts from, weights and constraints included.
fn fingerprint(settings: &TrainSettings, data: &TrainData<'_>, graph: &Graph) -> Result<String> {
    if data.checkpoint.is_none() {
        return Ok(String::new());
    }
    let mut out = Encoder::new(Purpose::Checkpoint);
    encode_graph(graph, true, &mut out)?;
    // the frame ends in its own checksum (a checksum over that too would always be the same)
    let framed = frame(out)?;
    let network = &framed[framed.len() - 4..];
    let text = serde_json::to_string(&(
        settings,
        data.train.len(),
        data.train.shape(),
        data.train.classes(),
        network,
    ));
    text.map_err(|e| Error::invalid("settings", e.to_string()))
}
