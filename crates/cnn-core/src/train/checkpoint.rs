//! The state of a training after an epoch: enough to go on with the same bits.

use super::hook::Hook;
use super::trainer::EpochRecord;
use crate::graph::Graph;
use crate::model_file::{
    DEFAULT_LIMIT, Encoder, Purpose, decode_graph, encode_graph, frame, unframe, write_atomically,
};
use crate::registry::Registry;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// All that is not in the graph. Shuffling, augmentation and dropout need no state: they are seeded by epoch, image and
/// step.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct State {
    /// Settings and data the training was started with; another training does not go on from here.
    pub fingerprint: String,
    /// Epochs done.
    pub epochs_done: usize,
    /// What happened so far.
    pub records: Vec<EpochRecord>,
    /// Name and state of each hook.
    pub hooks: Vec<(String, Vec<u8>)>,
    /// Accuracy of the best graph so far on validation images.
    pub best: Option<f64>,
}

/// Writes the state atomically: the file before stays until the new one is complete.
pub(super) fn write(path: &Path, state: &State, graph: &Graph, best: Option<&Graph>) -> Result<()> {
    let mut out = Encoder::new(Purpose::Checkpoint);
    out.structure(state)?;
    encode_graph(graph, true, &mut out)?;
    if let Some(best) = best {
        encode_graph(best, true, &mut out)?;
    }
    write_atomically(path, &frame(out)?)
}

/// Reads a state and its graphs back.
pub(super) fn read(path: &Path, registry: &Registry) -> Result<(State, Graph, Option<Graph>)> {
    let bytes = std::fs::read(path).map_err(Error::io(path))?;
    // a large network with its optimizer state and a second copy may pass the usual limit; the file's own length bounds it
    let limit = DEFAULT_LIMIT.max(bytes.len() as u64);
    let mut from = unframe(&bytes, Purpose::Checkpoint, registry, limit)?;
    let state: State = from.structure()?;
    let graph = decode_graph(&mut from)?;
    let best = state.best.map(|_| decode_graph(&mut from)).transpose()?;
    from.finish()?;
    Ok((state, graph, best))
}

/// The states of all hooks.
pub(super) fn hook_states(hooks: &[Box<dyn Hook>]) -> Vec<(String, Vec<u8>)> {
    hooks.iter().map(|h| (h.name().to_string(), h.state())).collect()
}

/// Gives the hooks their states back.
pub(super) fn restore_hooks(hooks: &mut [Box<dyn Hook>], states: &[(String, Vec<u8>)]) -> Result<()> {
    let names: Vec<&str> = hooks.iter().map(|h| h.name()).collect();
    if !states.iter().map(|s| s.0.as_str()).eq(names.iter().copied()) {
        return Err(Error::Edit(format!(
            "the checkpoint has other hooks than this training ({})",
            names.join(", ")
        )));
    }
    hooks.iter_mut().zip(states).try_for_each(|(hook, (_, state))| hook.restore(state))
}
