//! Time for one image, of two networks in turn.

use super::statistics::{median, percentile};
use anyhow::{Context, Result};
use cnn_core::session::{Profile, Session, SessionOptions};
use cnn_core::{Graph, Tensor};
use serde::Serialize;
use std::hint::black_box;
use std::time::Instant;

/// How long to measure.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Rounds {
    /// Rounds; in each both networks run once through the images, in alternating order.
    pub rounds: usize,
    /// Images in a round, one at a time.
    pub images: usize,
}

/// The times of one network beside those of the baseline.
#[derive(Debug, Clone, Serialize)]
pub struct Latency {
    /// What ran the network.
    pub executor: &'static str,
    /// Median over all single images, in milliseconds.
    pub median_ms: f64,
    /// 90th percentile over all single images, in milliseconds.
    pub p90_ms: f64,
    /// The baseline's median in the same rounds, in milliseconds.
    pub baseline_median_ms: f64,
    /// Median over the rounds of: the baseline's median in the round / the network's.
    pub speedup: f64,
}

/// Runs both networks on the images, one at a time, in short rounds by turns, after one round that does not count. A load on the machine
/// then hits both alike, and the ratio is taken within a round.
///
/// # Errors
/// If a network does not fit the images.
pub fn compare(baseline: &Graph, method: &Graph, images: &[Tensor], rounds: usize) -> Result<Latency> {
    let (mut baseline, mut method) = (compile(baseline, images)?, compile(method, images)?);
    // on a thread of the pool: entering it for each image would be measured too
    rayon::scope(|_| by_turns(&mut baseline, &mut method, images, rounds))
}

/// Runs of each kernel in a profile.
const PROFILE_RUNS: usize = 50;

/// Where the time of a network goes, kernel by kernel, on one thread.
///
/// # Errors
/// If the network does not fit the images, or there is none.
pub fn profile(graph: &Graph, images: &[Tensor]) -> Result<Profile> {
    let image = images.first().context("no image to profile with")?;
    Ok(compile(graph, images)?.profile(image, PROFILE_RUNS)?)
}

/// A session on all threads.
fn compile(graph: &Graph, images: &[Tensor]) -> Result<Session> {
    let shapes = images.first().map(|image| image.shape().to_vec()).into_iter().collect();
    let options = SessionOptions { shapes, current_pool: true, ..SessionOptions::default() };
    Ok(Session::new(graph.clone(), &options)?)
}

fn by_turns(
    baseline: &mut Session,
    method: &mut Session,
    images: &[Tensor],
    rounds: usize,
) -> Result<Latency> {
    let (mut all, mut all_baseline, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    time(baseline, images)?;
    time(method, images)?;
    for round in 0..rounds {
        let (b, m) = if round % 2 == 0 {
            let b = time(baseline, images)?;
            (b, time(method, images)?)
        } else {
            let m = time(method, images)?;
            (time(baseline, images)?, m)
        };
        ratios.push(median(&b) / median(&m));
        all_baseline.extend(b);
        all.extend(m);
    }
    Ok(Latency {
        executor: "session",
        median_ms: median(&all),
        p90_ms: percentile(&all, 0.9),
        baseline_median_ms: median(&all_baseline),
        speedup: median(&ratios),
    })
}

/// Milliseconds for each image.
fn time(network: &mut Session, images: &[Tensor]) -> Result<Vec<f64>> {
    let one = |image: &Tensor| {
        let start = Instant::now();
        black_box(network.run(black_box(image))?);
        Ok(start.elapsed().as_secs_f64() * 1e3)
    };
    images.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use cnn_core::data::batch;
    use cnn_core::testing::{lenet5, stripes};

    #[test]
    fn a_small_part_of_a_network_is_faster_than_the_whole() {
        let whole = lenet5(0).unwrap();
        let small = Graph::new(&[1, 28, 28]);
        let data = stripes(4, [1, 28, 28], 2, 0).unwrap();
        let images: Vec<Tensor> = (0..4).map(|i| batch(&data, &[i]).unwrap().0).collect();
        let latency = compare(&whole, &small, &images, 3).unwrap();
        assert!(latency.speedup > 1.0, "{latency:?}");
        assert!(latency.p90_ms >= latency.median_ms && latency.median_ms > 0.0);
        assert!(latency.baseline_median_ms > latency.median_ms);
        let flops = 2 * whole.cost().unwrap().macs.total();
        assert_eq!(profile(&whole, &images).unwrap().total().flops, flops);
        assert!(profile(&whole, &[]).is_err());
    }
}
