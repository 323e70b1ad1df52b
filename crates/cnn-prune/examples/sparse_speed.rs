//! Time of sparse layers against the dense ones they replace, on this machine: what fine-grained
//! pruning is worth without special hardware.
//!
//!     cargo run --release -p cnn-prune --example sparse_speed

use cnn_core::init::Init;
use cnn_core::layers::{Conv2d, ConvOptions, Linear};
use cnn_core::tensor::Tensor;
use cnn_core::{Layer, Result};
use cnn_prune::{SparseConv2d, SparseLinear, criteria};
use std::time::Instant;

fn main() -> Result<()> {
    let mut init = Init::new(1);
    println!("layer, input: dense, then sparse with 80 %, 90 %, 95 % zeros; milliseconds, best of 15");
    for (name, filters, input, pad) in [
        ("conv 5x5 20>50 ", [50, 20, 5, 5], [20, 12, 12], 0),
        ("conv 3x3 64>64 ", [64, 64, 3, 3], [64, 56, 56], 1),
        ("conv 1x1 64>256", [256, 64, 1, 1], [64, 56, 56], 0),
        ("conv 3x3 256>256", [256, 256, 3, 3], [256, 14, 14], 1),
    ] {
        let weights = init.glorot(&filters)?;
        let options = ConvOptions::default().pad(pad);
        for n in [1, 16] {
            let x = init.glorot(&[n, input[0], input[1], input[2]])?;
            let dense = Conv2d::new(weights.clone(), None, options)?;
            print!("{name}, {:?}: {:7.3}", x.shape(), time(&dense, &x)?);
            for ratio in [0.8, 0.9, 0.95] {
                let pruned = Conv2d::new(without(&weights, ratio), None, options)?;
                print!(" {:7.3}", time(&SparseConv2d::from_dense(&pruned)?, &x)?);
            }
            println!();
        }
    }
    for (name, shape) in [("linear 800>500  ", [500, 800]), ("linear 4096>4096", [4096, 4096])] {
        let weights = init.glorot(&shape)?;
        for n in [1, 16] {
            let x = init.glorot(&[n, shape[1]])?;
            print!("{name}, {:?}: {:7.3}", x.shape(), time(&Linear::new(weights.clone(), None)?, &x)?);
            for ratio in [0.8, 0.9, 0.95] {
                let pruned = Linear::new(without(&weights, ratio), None)?;
                print!(" {:7.3}", time(&SparseLinear::from_dense(&pruned)?, &x)?);
            }
            println!();
        }
    }
    Ok(())
}

/// The weights with a share of the smallest set to zero.
fn without(weights: &Tensor, ratio: f64) -> Tensor {
    let scores = vec![weights.iter().map(|w| w.abs()).collect::<Vec<f32>>()];
    let removed = criteria::lowest(&scores, (ratio * weights.len() as f64).round() as usize);
    let mut removed = removed.into_iter().flatten();
    weights.mapv(|w| if removed.next() == Some(true) { 0.0 } else { w })
}

/// Milliseconds of the fastest of 15 runs.
fn time(layer: &dyn Layer, x: &Tensor) -> Result<f64> {
    let mut best = f64::INFINITY;
    for _ in 0..15 {
        let start = Instant::now();
        layer.infer(&[x])?;
        best = best.min(start.elapsed().as_secs_f64() * 1e3);
    }
    Ok(best)
}
