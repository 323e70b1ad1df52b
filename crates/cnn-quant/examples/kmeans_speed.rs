//! Time of clustering a large layer: 1,179,648 weights (512 x 256 x 3 x 3), and of writing and reading their indices.
//!
//! `cargo run --release -p cnn-quant --example kmeans_speed [FILE]`; the weights go to FILE as 32-bit floats, for other programs to cluster.

use cnn_core::init::Init as Random;
use cnn_core::layers::{Conv2d, ConvOptions};
use cnn_core::model_file::{deploy_bytes, from_bytes};
use cnn_core::{Graph, Layer, Registry};
use cnn_quant::{CodebookConv2d, Init, centroids, nearest};
use std::time::Instant;

fn main() -> cnn_core::Result<()> {
    let weights = Random::new(1).normal(&[512, 256, 3, 3], 0.02)?;
    let values = cnn_core::tensor::slice(&weights)?;
    if let Some(path) = std::env::args_os().nth(1) {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        std::fs::write(&path, bytes)
            .map_err(|e| cnn_core::Error::invalid(path.to_string_lossy(), e.to_string()))?;
    }
    for init in [Init::Linear, Init::Density, Init::KMeansPlusPlus] {
        for k in [4, 16, 32, 256] {
            let start = Instant::now();
            let c = centroids(values, k, init, 0)?;
            let time = 1e3 * start.elapsed().as_secs_f64();
            let inertia: f64 = values.iter().map(|&v| f64::from(v - c[nearest(&c, v)]).powi(2)).sum();
            println!("{init:?}, k = {k:3}: {time:6.1} ms, inertia {inertia:.5}");
        }
    }
    let c = centroids(values, 16, Init::Linear, 0)?;
    let mut registry = Registry::core();
    cnn_quant::register(&mut registry);
    let conv = Conv2d::new(weights.mapv(|v| c[nearest(&c, v)]), None, ConvOptions::default())?;
    let start = Instant::now();
    let packed = CodebookConv2d::pack(&conv)?;
    println!("pack   {:6.1} ms", 1e3 * start.elapsed().as_secs_f64());
    println!("{} {:?}", packed.kind(), packed.weights().sizes()?);
    let mut graph = Graph::new(&[256, 8, 8]);
    graph.push("conv", packed)?;
    let start = Instant::now();
    let bytes = deploy_bytes(&graph, false)?;
    println!("encode {:6.1} ms, {} bytes", 1e3 * start.elapsed().as_secs_f64(), bytes.len());
    let start = Instant::now();
    from_bytes(&bytes, &registry)?;
    println!("decode {:6.1} ms", 1e3 * start.elapsed().as_secs_f64());
    Ok(())
}
