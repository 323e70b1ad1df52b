//! What zeros are worth on this machine: time of the kernels of pruned layers in a session against that of the dense kernel
//! which the session would run, alternated, and the share of zeros from which on the sparse kernel is the faster one.
//!
//!     cargo run --release -p cnn-prune --example sparse_speed [part of a name]

use cnn_core::init::Init;
use cnn_core::layers::{Activation, Conv2d, ConvOptions, Linear};
use cnn_core::session::{Choices, Session, SessionOptions};
use cnn_core::tensor::Tensor;
use cnn_core::{Graph, Result};
use cnn_prune::{SparseConv2d, SparseLinear};

/// Rounds in which all candidates run after each other.
const ROUNDS: usize = 15;
/// Runs of a candidate in a round.
const RUNS: usize = 3;
/// Densities at which unstructured zeros are measured.
const DENSITIES: [f64; 5] = [0.05, 0.1, 0.2, 0.35, 0.5];

/// A layer: name, filters, stride, input.
type Case = (&'static str, Vec<usize>, usize, [usize; 2]);

fn main() -> Result<()> {
    let wanted = std::env::args().nth(1).unwrap_or_default();
    let conv = |name, m, c, k, stride, size| -> Case { (name, vec![m, c, k, k], stride, [size; 2]) };
    let linear = |name, m, c| -> Case { (name, vec![m, c], 1, [1, 1]) };
    let cases = [
        conv("conv 5x5 20>50 12", 50, 20, 5, 1, 12),
        conv("conv 3x3 64>64 56", 64, 64, 3, 1, 56),
        conv("conv 3x3 64>128/2 56", 128, 64, 3, 2, 56),
        conv("conv 3x3 128>128 28", 128, 128, 3, 1, 28),
        conv("conv 3x3 128>256/2 28", 256, 128, 3, 2, 28),
        conv("conv 3x3 256>256 14", 256, 256, 3, 1, 14),
        conv("conv 3x3 256>512/2 14", 512, 256, 3, 2, 14),
        conv("conv 3x3 512>512 7", 512, 512, 3, 1, 7),
        conv("conv 1x1 32>64 112", 64, 32, 1, 1, 112),
        conv("conv 1x1 64>128 56", 128, 64, 1, 1, 56),
        conv("conv 1x1 128>128 56", 128, 128, 1, 1, 56),
        conv("conv 1x1 128>256 28", 256, 128, 1, 1, 28),
        conv("conv 1x1 256>256 28", 256, 256, 1, 1, 28),
        conv("conv 1x1 256>512 14", 512, 256, 1, 1, 14),
        conv("conv 1x1 512>512 14", 512, 512, 1, 1, 14),
        conv("conv 1x1 512>1024 7", 1024, 512, 1, 1, 7),
        conv("conv 1x1 1024>1024 7", 1024, 1024, 1, 1, 7),
        linear("fc 512>10", 10, 512),
        linear("fc 800>500", 500, 800),
        linear("fc 512>1000", 1000, 512),
        linear("fc 4096>4096", 4096, 4096),
    ];
    let patterns = [("2:4", [2, 4]), ("4:8", [4, 8]), ("1:4", [1, 4])];
    print!("{:22} {:>8} {:>12}", "layer", "dense ms", "algorithm");
    DENSITIES.iter().for_each(|d| print!(" {:>6.0} %", 100.0 * (1.0 - d)));
    patterns.iter().for_each(|(name, _)| print!(" {name:>8}"));
    println!(" {:>8} {:>8} {:>8} {:>8}  break-even", "2:4 x 16", "2:4 x 32", "blk 75%", "blk 90%");
    for case in cases.iter().filter(|case| case.0.contains(&wanted)) {
        let dense = weights(&case.1, |_, _, _| true)?;
        let mut all = vec![session(case, &dense, None)?];
        for density in DENSITIES {
            let kept = |m, c, t| hash(m, c, t) < density;
            all.push(session(case, &weights(&case.1, kept)?, Some("sparse"))?);
        }
        for (_, [n, of]) in patterns {
            // of each group of channels those with the smallest numbers
            let kept = |m, c, t| {
                let first = c / of * of;
                let own = hash(m, c, t);
                (first..first + of).filter(|&c| hash(m, c, t) < own).count() < n
            };
            all.push(session(case, &weights(&case.1, kept)?, Some("sparse"))?);
        }
        let name = if case.1.len() == 4 { BLOCKS } else { "sparse" };
        // the same pattern for the filters of a vector, or of two
        for filters in [16, 32] {
            let kept = |m: usize, c, t| {
                let first = c / 4 * 4;
                let own = hash(m / filters, c, t);
                (first..first + 4).filter(|&c| hash(m / filters, c, t) < own).count() < 2
            };
            all.push(session(case, &weights(&case.1, kept)?, Some(name))?);
        }
        for density in [0.25, 0.1] {
            let kept = |m: usize, c, t| hash(m / 16, c, t) < density;
            all.push(session(case, &weights(&case.1, kept)?, Some(name))?);
        }
        let times = alternate(&mut all)?;
        let ratios: Vec<f64> = times[1..].iter().map(|t| times[0] / t).collect();
        print!("{:22} {:8.3} {:>12}", case.0, times[0] * 1e-6, all[0].algorithm);
        ratios[..DENSITIES.len()].iter().for_each(|r| print!(" {r:>7.2}x"));
        ratios[DENSITIES.len()..].iter().for_each(|r| print!(" {r:>7.2}x"));
        println!("  {}", break_even(&ratios[..DENSITIES.len()]));
    }
    Ok(())
}

/// The kernel for blocks of zeros.
const BLOCKS: &str = "sparse-blocks";

/// A number in `[0, 1)` for each weight.
fn hash(m: usize, c: usize, t: usize) -> f64 {
    let mut h = (m as u64) << 40 ^ (c as u64) << 16 ^ t as u64;
    for _ in 0..2 {
        h = (h ^ h >> 31).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
    (h >> 40) as f64 / (1u64 << 24) as f64
}

/// Weights of which those of some filters, channels and taps are not zero.
fn weights(shape: &[usize], kept: impl Fn(usize, usize, usize) -> bool) -> Result<Tensor> {
    let mut w = Init::new(1).glorot(shape)?;
    let (channels, taps) = (shape[1], shape[2..].iter().product::<usize>());
    for (i, w) in w.iter_mut().enumerate() {
        if !kept(i / taps / channels, i / taps % channels, i % taps) {
            *w = 0.0;
        }
    }
    Ok(w)
}

/// A session of one layer, between activations as in a network.
struct Timed {
    session: Session,
    x: Tensor,
    algorithm: String,
}

fn session(case: &Case, weights: &Tensor, algorithm: Option<&str>) -> Result<Timed> {
    let (_, shape, stride, size) = case;
    let input = if shape.len() == 2 { vec![shape[1]] } else { vec![shape[1], size[0], size[1]] };
    let mut graph = Graph::new(&input);
    graph.push("before", Activation::relu())?;
    if shape.len() == 2 {
        let dense = Linear::new(weights.clone(), None)?;
        match algorithm {
            Some(_) => graph.push("layer", SparseLinear::from_dense(&dense)?)?,
            None => graph.push("layer", dense)?,
        }
    } else {
        let options = ConvOptions::default().stride(*stride).pad(if shape[2] == 3 { 1 } else { 0 });
        let dense = Conv2d::new(weights.clone(), None, options)?;
        match algorithm {
            Some(_) => graph.push("layer", SparseConv2d::from_dense(&dense)?)?,
            None => graph.push("layer", dense)?,
        }
    }
    graph.push("after", Activation::relu())?;
    let full = [&[1], &input[..]].concat();
    let choices = algorithm.map(|name| Choices([(Choices::key("layer", &full), name.to_string())].into()));
    let mut session = Session::new(graph, &SessionOptions { choices, ..SessionOptions::default() })?;
    let x = Init::new(2).glorot(&full)?;
    let algorithm = row(&mut session, &x)?.1;
    Ok(Timed { session, x, algorithm })
}

/// Nanoseconds and algorithm of the layer.
fn row(session: &mut Session, x: &Tensor) -> Result<(u64, String)> {
    let profile = session.profile(x, RUNS)?;
    let row = profile.rows.into_iter().find(|r| r.node == "layer" && r.kind != "layout");
    Ok(row.map_or((0, String::new()), |r| (r.nanoseconds, r.algorithm)))
}

/// Median nanoseconds of each.
fn alternate(all: &mut [Timed]) -> Result<Vec<f64>> {
    let mut times = vec![Vec::new(); all.len()];
    for _ in 0..ROUNDS {
        for (timed, times) in all.iter_mut().zip(&mut times) {
            times.push(row(&mut timed.session, &timed.x)?.0);
        }
    }
    Ok(times
        .into_iter()
        .map(|mut t| {
            t.sort_unstable();
            t[t.len() / 2] as f64
        })
        .collect())
}

/// Where the ratio passes 1, between the measured densities.
fn break_even(ratios: &[f64]) -> String {
    let points: Vec<(f64, f64)> = DENSITIES.into_iter().zip(ratios.iter().map(|r| 1.0 / r)).collect();
    match points.iter().position(|p| p.1 > 1.0) {
        Some(0) => format!("above {:.0} %", 100.0 * (1.0 - DENSITIES[0])),
        Some(i) => {
            let ((d0, t0), (d1, t1)) = (points[i - 1], points[i]);
            format!("{:.0} %", 100.0 * (1.0 - d0 - (1.0 - t0) / (t1 - t0) * (d1 - d0)))
        }
        None => format!("below {:.0} %", 100.0 * (1.0 - DENSITIES[DENSITIES.len() - 1])),
    }
}
