//! Which layers become integers so that an image takes at most so many milliseconds, the others staying in floats.

use crate::divergence::{answers, divergence};
use crate::int8::Int8Quantizer;
use cnn_core::session::{Session, SessionOptions, latency};
use cnn_core::{Compressor, Error, Graph, Result, Run, Tensor};
use rayon::prelude::*;
use std::collections::BTreeMap;

/// Runs in which kernels are timed.
const RUNS: usize = 31;

/// What integers do to a layer.
struct Choice {
    name: String,
    /// Divergence of the answers from the original ones with this layer alone in integers, for each nanosecond that it saves.
    price: f64,
}

/// The layers to quantize: those that change the answers least for the time they save, as few as keep to the limit on one thread of this
/// machine. None if the network keeps to it as it is.
///
/// # Errors
/// If not even integers wherever they save time keep to the limit; as the method has them.
pub fn choose(
    method: &Int8Quantizer,
    graph: &Graph,
    found: &[usize],
    run: &mut Run<'_>,
    ms: f64,
) -> Result<Vec<String>> {
    let mut integers = graph.clone();
    let all = Int8Quantizer { ms: None, epochs: 0, ..method.after_preparation() };
    all.apply(&mut integers, run)?;
    all.pack(&mut integers)?;
    let now = latency(graph)?;
    if now <= ms {
        return Ok(Vec::new());
    }
    let choices = choices(graph, &integers, found, &run.calibration(method.calibration)?)?;
    let with = |count: usize| {
        let mut some = graph.clone();
        for choice in &choices[..count] {
            some.replace(&choice.name, integers.node(&choice.name)?.layer().clone_box())?;
        }
        latency(&some)
    };
    // how many of them, in this order: the time of a whole network is measured, since that of its layers does not quite add up
    let (mut too_few, mut enough) = (0, choices.len());
    while enough - too_few > 1 {
        let middle = (too_few + enough) / 2;
        match with(middle)? <= ms {
            true => enough = middle,
            false => too_few = middle,
        }
    }
    // measured anew, since a lucky measurement may have gone before
    let mut fastest = with(enough)?;
    while fastest > ms && enough < choices.len() {
        enough += 1;
        fastest = fastest.min(with(enough)?);
    }
    if choices.is_empty() || fastest > ms {
        let why = format!(
            "an image takes {now:.3} ms on one thread of this machine and {fastest:.3} ms with integers in all layers that are faster so; \
             skip fewer layers, prune first, or allow more"
        );
        return Err(Error::invalid(format!("`ms` of `{}`", Int8Quantizer::NAME), why));
    }
    Ok(choices.into_iter().take(enough).map(|choice| choice.name).collect())
}

/// The layers that save time, the cheapest first.
fn choices(graph: &Graph, integers: &Graph, found: &[usize], images: &Tensor) -> Result<Vec<Choice>> {
    let expected = answers(graph, images)?;
    let (before, after) = (nanoseconds(graph)?, nanoseconds(integers)?);
    let choice = |&at: &usize| {
        let name = graph.nodes()[at].name.clone();
        let mut alone = graph.clone();
        alone.replace(&name, integers.node(&name)?.layer().clone_box())?;
        // NaN, where an answer is none, sorts behind all numbers
        let cost = divergence(&expected, &answers(&alone, images)?);
        let saved = before.get(&name).unwrap_or(&0.0) - after.get(&name).unwrap_or(&0.0);
        Ok((saved > 0.0).then(|| Choice { name, price: cost / saved }))
    };
    let choices: Vec<Option<Choice>> = found.par_iter().map(choice).collect::<Result<_>>()?;
    let mut choices: Vec<Choice> = choices.into_iter().flatten().collect();
    choices.sort_by(|a, b| a.price.total_cmp(&b.price));
    Ok(choices)
}

/// What the kernels of each node take.
fn nanoseconds(graph: &Graph) -> Result<BTreeMap<String, f64>> {
    let mut session = Session::new(graph.clone(), &SessionOptions::default())?;
    let profile = session.profile(&Tensor::zeros([&[1], graph.input_shape()].concat()), RUNS)?;
    let mut times = BTreeMap::new();
    for row in profile.rows {
        *times.entry(row.node).or_insert(0.0) += row.nanoseconds as f64;
    }
    Ok(times)
}
