//! How long networks take, compiled to a session.

use crate::statistics::percentile;
use crate::stop::Stop;
use cnn_core::session::{Session, SessionOptions};
use cnn_core::{Graph, Result, Tensor};
use serde::Serialize;
use std::hint::black_box;
use std::time::Instant;

/// Times of one network.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Times {
    /// Runs that count.
    pub runs: usize,
    /// In milliseconds for a batch, as all of these.
    pub median_ms: f64,
    /// 10th percentile.
    pub p10_ms: f64,
    /// 90th percentile.
    pub p90_ms: f64,
    /// 99th percentile.
    pub p99_ms: f64,
}

impl Times {
    /// From the times of all runs, in milliseconds.
    pub fn of(all: &[f64]) -> Times {
        let at = |p| percentile(all, p);
        Times { runs: all.len(), median_ms: at(0.5), p10_ms: at(0.1), p90_ms: at(0.9), p99_ms: at(0.99) }
    }
}

/// A network compiled for batches of one shape, for all threads of the current pool or for the calling one alone.
///
/// # Errors
/// If the network does not fit the batch.
pub fn compile(graph: &Graph, batch: &[usize], all_threads: bool) -> Result<Session> {
    let shapes = vec![batch.to_vec()];
    let options = SessionOptions { shapes, current_pool: all_threads, ..SessionOptions::default() };
    Session::new(graph.clone(), &options)
}

/// Runs a network again and again on a batch, after `warm` runs that do not count.
///
/// # Errors
/// If the batch is not of the session's shape, or the user stops it.
pub fn time(network: &mut Session, batch: &Tensor, warm: usize, runs: usize, stop: &Stop) -> Result<Times> {
    in_pool(|| {
        for _ in 0..warm {
            stop.check()?;
            once(network, batch)?;
        }
        let timed = |_| stop.check().and_then(|()| once(network, batch));
        Ok(Times::of(&(0..runs).map(timed).collect::<Result<Vec<f64>>>()?))
    })
}

/// Two networks side by side.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// The first.
    pub first: Times,
    /// The second.
    pub second: Times,
    /// Median over the rounds of: the first one's time / the second one's.
    pub speedup: f64,
}

/// Runs two networks on single images by turns, so that a load on the machine hits both alike. The ratio is
/// taken within a round.
///
/// # Errors
/// If a network does not fit the images, or the user stops it.
pub fn compare(first: &Graph, second: &Graph, images: &[Tensor], stop: &Stop) -> Result<Comparison> {
    let shape = images.first().map_or(&[][..], Tensor::shape);
    let (mut first, mut second) = (compile(first, shape, true)?, compile(second, shape, true)?);
    in_pool(|| by_turns(&mut first, &mut second, images, stop))
}

fn by_turns(first: &mut Session, second: &mut Session, images: &[Tensor], stop: &Stop) -> Result<Comparison> {
    let pass = |network: &mut Session| -> Result<Vec<f64>> {
        images.iter().map(|image| stop.check().and_then(|()| once(network, image))).collect()
    };
    let warm = pass(first)?.iter().sum::<f64>() + pass(second)?.iter().sum::<f64>();
    // about two seconds, but not less than three rounds and not more than thirty
    let rounds = ((2_000.0 / warm.max(1e-3)) as usize).clamp(3, 30);
    let (mut all_first, mut all_second, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..rounds {
        let (a, b) = if round % 2 == 0 {
            let a = pass(first)?;
            (a, pass(second)?)
        } else {
            let b = pass(second)?;
            (pass(first)?, b)
        };
        ratios.push(percentile(&a, 0.5) / percentile(&b, 0.5));
        all_first.extend(a);
        all_second.extend(b);
    }
    Ok(Comparison {
        first: Times::of(&all_first),
        second: Times::of(&all_second),
        speedup: percentile(&ratios, 0.5),
    })
}

/// Calls `f` on a thread of the current pool, as an application does that lives in its pool: entering it for each run would be
/// measured too.
fn in_pool<T: Send>(f: impl FnOnce() -> T + Send) -> T {
    rayon::scope(|_| f())
}

/// Milliseconds of one run.
fn once(network: &mut Session, batch: &Tensor) -> Result<f64> {
    let start = Instant::now();
    black_box(network.run(black_box(batch))?);
    Ok(start.elapsed().as_secs_f64() * 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;
    use cnn_core::init::Init;

    #[test]
    fn a_small_part_of_a_network_is_faster_than_the_whole() {
        let options = cnn_core::NetworkOptions::default();
        let whole = crate::registry().build_network("lenet5", &options).unwrap();
        let small = Graph::new(whole.input_shape());
        let image = Init::new(0).normal(&[1, 1, 28, 28], 1.0).unwrap();
        let c = compare(&whole, &small, std::slice::from_ref(&image), &Stop::default()).unwrap();
        assert!(c.speedup > 1.0 && c.first.median_ms > c.second.median_ms, "{c:?}");
        for all_threads in [false, true] {
            let mut whole = compile(&whole, image.shape(), all_threads).unwrap();
            let times = time(&mut whole, &image, 1, 5, &Stop::default()).unwrap();
            assert!(times.runs == 5 && times.p10_ms <= times.median_ms && times.p90_ms <= times.p99_ms);
        }
        let stop = Stop::default();
        stop.request();
        let mut whole = compile(&whole, image.shape(), true).unwrap();
        assert!(matches!(time(&mut whole, &image, 1, 5, &stop), Err(cnn_core::Error::Interrupted)));
    }
}
