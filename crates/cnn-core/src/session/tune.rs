//! Which algorithm a layer runs: the recorded one, the cost model's, or the fastest of all.

use super::choices::Choices;
use super::floats::{self, Floats};
use super::kernel::{Kernel, Part, Place};
use super::lowering::{Edge, Layout, Lowered, Lowering, Shared};
use super::plan::{Memory, Step};
use super::{SessionOptions, Tuning};
use crate::graph::{Graph, Node};
use crate::{Error, Result};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Time that a candidate may take.
const ENOUGH: Duration = Duration::from_millis(4);
/// Floats that are read between two timed runs at most: 32 MiB.
const MOST_BETWEEN: usize = 8 << 20;
/// Floats of a cache line.
const LINE: usize = 16;

/// What was decided for the nodes so far.
#[derive(Debug, Default)]
pub(super) struct Decisions {
    /// What is in use.
    pub choices: Choices,
    /// For each of them, what would do too.
    pub alternatives: BTreeMap<String, Vec<&'static str>>,
    /// As large as the network's weights. In a run they all go through the cache between two uses of a layer's own; a
    /// timing that found those there would choose the algorithms with the largest weights.
    between: Vec<f32>,
}

impl Decisions {
    /// None yet, for a graph that will be compiled so.
    pub fn new(graph: &Graph, options: &SessionOptions) -> Result<Decisions> {
        let mut decisions = Decisions::default();
        if options.tuning == Tuning::Measure {
            let weights = usize::try_from(graph.cost()?.params).unwrap_or(usize::MAX);
            // not zeros: pages that nobody wrote are all the same one
            decisions.between = vec![1.0; weights.min(MOST_BETWEEN)];
        }
        Ok(decisions)
    }

    /// Everything is decided.
    pub fn settle(&mut self) {
        self.between = Vec::new();
    }
}

/// Lowers a layer and records the choice where there was one.
pub(super) fn lower(
    node: &Node,
    at: &Lowering<'_>,
    options: &SessionOptions,
    decisions: &mut Decisions,
) -> Result<Option<Lowered>> {
    let shape = at.inputs.first().map(|e| e.shape.clone()).unwrap_or_default();
    let key = Choices::key(&node.name, &shape);
    let recorded = options.choices.as_ref().and_then(|c| c.0.get(&key)).map(String::as_str);
    let measured = match (recorded, options.tuning) {
        (None, Tuning::Measure) => fastest(node, at, &decisions.between)?,
        _ => None,
    };
    let named = |choice: Option<&str>| node.layer().lower(&Lowering { choice, ..*at });
    let Some(mut chosen) = named(recorded.or(measured)) else { return Ok(None) };
    if let Some(name) = recorded.filter(|&name| name != chosen.kernel.algorithm()) {
        let Some(first) = named(None) else { return Ok(None) };
        if !first.alternatives.is_empty() {
            return Err(Error::Invalid {
                what: format!("choice `{name}` for `{key}`"),
                why: format!(
                    "this layer has the algorithms {}, {}; remove the entry to choose again",
                    first.kernel.algorithm(),
                    first.alternatives.join(", ")
                ),
            });
        }
        chosen = first;
    }
    at.shared.forget_unused();
    let asked = recorded.or(measured).is_some_and(|name| name == chosen.kernel.algorithm());
    if !asked && chosen.alternatives.is_empty() {
        return Ok(Some(chosen));
    }
    decisions.alternatives.insert(key.clone(), chosen.alternatives.clone());
    decisions.choices.0.insert(key, chosen.kernel.algorithm().to_string());
    Ok(Some(chosen))
}

/// The name of the fastest, if there are several. What the candidates pack is gone afterwards.
fn fastest(node: &Node, at: &Lowering<'_>, between: &[f32]) -> Result<Option<&'static str>> {
    let timed = |choice: Option<&str>| -> Result<Option<(Duration, Lowered)>> {
        let at = Lowering { choice, shared: &Shared::default(), ..*at };
        // one that was asked for need not name the others
        let lowered = node.layer().lower(&at).filter(|l| choice.is_some() || !l.alternatives.is_empty());
        let timed = |l: Lowered| Ok((time(l.kernel.as_ref(), &l, &at, between)?, l));
        lowered.map(timed).transpose()
    };
    floats::apart(|| {
        let Some((taken, first)) = timed(None)? else { return Ok(None) };
        let mut best = (taken, first.kernel.algorithm());
        let others = first.alternatives.clone();
        drop(first);
        for name in others {
            if let Some((taken, _)) = timed(Some(name))?.filter(|(taken, _)| *taken < best.0) {
                best = (taken, name);
            }
        }
        Ok(Some(best.1))
    })
}

/// Shortest time of all parts of a kernel, one after the other on this thread.
fn time(kernel: &dyn Kernel, lowered: &Lowered, at: &Lowering<'_>, between: &[f32]) -> Result<Duration> {
    let mut floats = 0;
    let mut place = |shape: &[usize], layout: Layout| {
        let (pixels, channels) = Edge::rows(shape, if shape.len() == 4 { layout } else { Layout::Planar });
        let offset = floats;
        floats = (floats + pixels * channels).next_multiple_of(16);
        let codes = if layout == Layout::Codes { channels } else { 0 };
        let channels = if codes > 0 { codes.div_ceil(4) } else { channels };
        Place { external: false, offset, pixels, channels, pitch: channels, codes }
    };
    let mut inputs: Vec<Place> =
        at.inputs.iter().zip(&lowered.inputs).map(|(e, &layout)| place(&e.shape, layout)).collect();
    if at.epilogue.residual {
        inputs.push(place(at.output, lowered.output));
    }
    let output = place(at.output, lowered.output);
    let mut arena = Floats::zeros(floats);
    let mut scratch = Floats::zeros(kernel.scratch());
    let memory = Memory {
        images: std::ptr::null(),
        arena: arena.as_mut_ptr(),
        scratch: scratch.as_mut_ptr(),
        scratch_each: kernel.scratch(),
    };
    let parts: Vec<Part> = kernel.parts();
    let (mut best, mut all, mut runs) = (Duration::MAX, Duration::ZERO, 0);
    while runs < 3 || (all < ENOUGH && runs < 10) {
        std::hint::black_box(between.iter().step_by(LINE).fold(0.0, |sum, v| sum + v));
        let start = Instant::now();
        for part in &parts {
            // SAFETY: the memory was made for these places.
            unsafe { Step::run_part(kernel, part, &inputs, &output, &memory, 0)? };
        }
        let taken = start.elapsed();
        (best, all) = (best.min(taken), all + taken);
        runs += 1;
    }
    Ok(best)
}
