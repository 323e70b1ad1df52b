//! What an image takes through two networks, measured so that one can be compared with the other.

use super::{Session, SessionOptions};
use crate::{Graph, Result};
use std::time::Instant;

/// Runs of each side.
const RUNS: usize = 31;

/// Median milliseconds of an image through two networks on one thread, by turns: what else the machine does falls on both.
///
/// # Errors
/// If a network cannot be compiled or run.
pub fn latencies(a: &Graph, b: &Graph) -> Result<(f64, f64)> {
    let options = SessionOptions::default();
    let mut sessions = [Session::new(a.clone(), &options)?, Session::new(b.clone(), &options)?];
    let mut times = [const { Vec::new() }; 2];
    let images = [a, b].map(|g| vec![0.5; g.input_shape().iter().product()]);
    let mut outputs = sessions.each_ref().map(|s| vec![0f32; s.output_shape().iter().product()]);
    for _ in 0..RUNS {
        for i in 0..2 {
            sessions[i].run_into(&images[i], &mut outputs[i])?;
            let start = Instant::now();
            sessions[i].run_into(&images[i], &mut outputs[i])?;
            times[i].push(start.elapsed().as_secs_f64() * 1e3);
        }
    }
    let [a, b] = times.map(|mut t| {
        t.sort_by(f64::total_cmp);
        t[t.len() / 2]
    });
    Ok((a, b))
}
