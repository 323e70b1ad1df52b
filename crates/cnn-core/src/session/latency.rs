//! What an image takes through a network, or through two by turns, so that one can be compared with the other.

use super::{Session, SessionOptions};
use crate::{Graph, Result};
use std::time::Instant;

/// Runs of each side.
const RUNS: usize = 31;

/// Median milliseconds of an image through a network on one thread.
///
/// # Errors
/// If the network cannot be compiled or run.
pub fn latency(graph: &Graph) -> Result<f64> {
    let [ms] = medians([graph])?;
    Ok(ms)
}

/// Median milliseconds of an image through two networks on one thread, by turns: what else the machine does falls on both.
///
/// # Errors
/// If a network cannot be compiled or run.
pub fn latencies(a: &Graph, b: &Graph) -> Result<(f64, f64)> {
    let [a, b] = medians([a, b])?;
    Ok((a, b))
}

fn medians<const N: usize>(graphs: [&Graph; N]) -> Result<[f64; N]> {
    let options = SessionOptions::default();
    let mut sessions = Vec::with_capacity(N);
    for graph in graphs {
        let image = vec![0.5; graph.input_shape().iter().product()];
        let session = Session::new(graph.clone(), &options)?;
        let output = vec![0f32; session.output_shape().iter().product()];
        sessions.push((session, image, output));
    }
    let mut times = [const { Vec::new() }; N];
    for _ in 0..RUNS {
        for (times, (session, image, output)) in times.iter_mut().zip(&mut sessions) {
            session.run_into(image, output)?;
            let start = Instant::now();
            session.run_into(image, output)?;
            times.push(start.elapsed().as_secs_f64() * 1e3);
        }
    }
    Ok(times.map(|mut t| {
        t.sort_by(f64::total_cmp);
        t[t.len() / 2]
    }))
}
