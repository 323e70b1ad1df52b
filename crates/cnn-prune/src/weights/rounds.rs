//! The rounds of pruning and retraining, and the search for the last that holds.

use super::groups::{Choice, Extent, Group, remove};
use super::{Weights, rewind};
use crate::memory;
use crate::retrain::retrain;
use cnn_core::{Compressor, Config, Graph, Result, Run};

/// What a search works with.
struct Search<'a> {
    method: &'a Weights,
    groups: Vec<Group>,
    /// The network whose weights those that are left are set back to.
    early: Option<Graph>,
    /// Key of what is remembered.
    key: String,
    /// Trainings so far: each sees the images in another order.
    trainings: u64,
}

pub(super) fn prune(method: &Weights, graph: &Graph, run: &mut Run<'_>) -> Result<Graph> {
    let Weights { granularity, ratio, scope, threshold, .. } = *method;
    let extent =
        Extent { layers: &method.layers, granularity, ratio, scope, threshold, ratios: &method.ratios };
    let groups = extent.groups(graph)?;
    let early = method.rewind.as_deref().map(|file| rewind::load(file, graph, run.registry)).transpose()?;
    // of the early network the content counts, not the file's name
    let content = early.as_ref().map(|e| run.fingerprint(e, &Config::Null)).transpose()?;
    let config = Weights { rewind: content.map(Into::into), ..method.clone() }.config();
    let key = memory::key(Weights::NAME, graph, &config, run)?;
    let mut search = Search { method, groups, early, key, trainings: 0 };
    search.run(graph, run)
}

impl Search<'_> {
    fn run(&mut self, graph: &Graph, run: &mut Run<'_>) -> Result<Graph> {
        let method = self.method;
        let floor = match method.max_drop {
            // a billionth less, so that a network exactly at the limit is not lost to rounding
            Some(points) => Some(run.accuracy(graph)? - points / 100.0 - 1e-9),
            None => None,
        };
        let holds = |graph: &Graph, run: &Run<'_>| -> Result<bool> {
            floor.map_or(Ok(true), |floor| Ok(run.accuracy(graph)? >= floor))
        };
        // `done` and `failed` are parts of the way, from 0 at the start to 1 at the ratio that is asked for
        let (mut held, mut done, mut failed) = (graph.clone(), 0.0, None);
        for round in 1..=method.rounds {
            let part = method.schedule.part(round, method.rounds, method.ratio);
            let next = self.round(&held, part, run)?;
            if !holds(&next, run)? {
                failed = Some(part);
                break;
            }
            (held, done) = (next, part);
        }
        if let Some(mut failed) = failed {
            for _ in 0..method.bisections {
                let part = 0.5 * (done + failed);
                let next = self.round(&held, part, run)?;
                match holds(&next, run)? {
                    true => (held, done) = (next, part),
                    false => failed = part,
                }
            }
        }
        if done > 0.0 && method.final_epochs > 0 {
            let tuned = self.retrain(held.clone(), method.final_epochs, run)?;
            if holds(&tuned, run)? {
                held = tuned;
            }
        }
        Ok(held)
    }

    /// Removes weights up to a part of the way, and retrains.
    fn round(&mut self, from: &Graph, part: f64, run: &mut Run<'_>) -> Result<Graph> {
        let mut graph = from.clone();
        let Weights { criterion, granularity, samples, .. } = *self.method;
        remove(&mut graph, &self.groups, part, Choice { criterion, granularity, samples }, run)?;
        if let Some(early) = &self.early {
            rewind::set_back(&mut graph, early)?;
        }
        self.retrain(graph, self.method.epochs, run)
    }

    /// Trains with the masks in place.
    fn retrain(&mut self, mut graph: Graph, epochs: usize, run: &mut Run<'_>) -> Result<Graph> {
        let training = self.trainings;
        self.trainings += 1;
        if epochs == 0 {
            return Ok(graph);
        }
        let rate = self.method.learning_rate;
        run.remember(&format!("{}-{training}", self.key), |run| {
            retrain(&mut graph, epochs, rate, training, run)?;
            Ok(graph)
        })
    }
}
