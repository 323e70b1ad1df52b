//! Which algorithm a layer runs: the recorded one, the cost model's, or the fastest of all.

use super::choices::Choices;
use super::floats::Floats;
use super::kernel::{Kernel, Part, Place};
use super::lowering::{Edge, Layout, Lowered, Lowering};
use super::plan::{Memory, Step};
use super::{SessionOptions, Tuning};
use crate::graph::Node;
use crate::{Error, Result};
use std::time::{Duration, Instant};

/// Time that a candidate may take.
const ENOUGH: Duration = Duration::from_millis(4);

/// Lowers a layer and records the choice where there was one.
pub(super) fn lower(
    node: &Node,
    at: &Lowering<'_>,
    options: &SessionOptions,
    choices: &mut Choices,
) -> Result<Option<Lowered>> {
    let Some(first) = node.layer().lower(at) else { return Ok(None) };
    if first.alternatives.is_empty() {
        return Ok(Some(first));
    }
    let shape = at.inputs.first().map(|e| e.shape.clone()).unwrap_or_default();
    let key = Choices::key(&node.name, &shape);
    let named = |name: &str| node.layer().lower(&Lowering { choice: Some(name), ..*at });
    let recorded = options.choices.as_ref().and_then(|c| c.0.get(&key));
    let chosen = match (recorded, options.tuning) {
        (Some(name), _) => {
            let lowered = named(name).filter(|l| l.kernel.algorithm() == name);
            lowered.ok_or_else(|| Error::Invalid {
                what: format!("choice `{name}` for `{key}`"),
                why: format!(
                    "this layer has the algorithms {}, {}; remove the entry to choose again",
                    first.kernel.algorithm(),
                    first.alternatives.join(", ")
                ),
            })?
        }
        (None, Tuning::CostModel) => first,
        (None, Tuning::Measure) => {
            let mut best = (time(first.kernel.as_ref(), &first, at)?, first);
            for name in best.1.alternatives.clone() {
                if let Some(candidate) = named(name) {
                    let taken = time(candidate.kernel.as_ref(), &candidate, at)?;
                    if taken < best.0 {
                        best = (taken, candidate);
                    }
                }
            }
            best.1
        }
    };
    choices.0.insert(key, chosen.kernel.algorithm().to_string());
    Ok(Some(chosen))
}

/// Shortest time of all parts of a kernel, one after the other on this thread.
fn time(kernel: &dyn Kernel, lowered: &Lowered, at: &Lowering<'_>) -> Result<Duration> {
    let mut floats = 0;
    let mut place = |shape: &[usize], layout: Layout| {
        let (pixels, channels) = Edge::rows(shape, if shape.len() == 4 { layout } else { Layout::Planar });
        let offset = floats;
        floats = (floats + pixels * channels).next_multiple_of(16);
        Place { external: false, offset, pixels, channels, pitch: channels }
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
    let mut best = Duration::MAX;
    let begin = Instant::now();
    let mut runs = 0;
    while runs < 3 || (begin.elapsed() < ENOUGH && runs < 100) {
        let start = Instant::now();
        for part in &parts {
            // SAFETY: the memory was made for these places.
            unsafe { Step::run_part(kernel, part, &inputs, &output, &memory, 0)? };
        }
        best = best.min(start.elapsed());
        runs += 1;
    }
    Ok(best)
}
