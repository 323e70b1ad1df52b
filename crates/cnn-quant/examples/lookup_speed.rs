//! Linear layers with shared weights, looked up as they are multiplied, against the same ones in floats, by turns in sessions:
//! `cargo run --release -p cnn-quant --example lookup_speed [bits] [threads]`.

mod turns;

use cnn_core::Graph;
use cnn_core::layers::Linear;
use cnn_core::session::{Session, SessionOptions};
use cnn_core::tensor::tensor;
use cnn_quant::{CodebookLinear, CodebookWeights};
use turns::time;

/// Rounds, in each of which both run.
const ROUNDS: usize = 30;

fn main() -> cnn_core::Result<()> {
    let mut numbers = std::env::args().skip(1).filter_map(|n| n.parse().ok());
    let (bits, threads) = (numbers.next().unwrap_or(4).clamp(1, 8), numbers.next().unwrap_or(1));
    println!("{bits} bits, {threads} threads: outputs x inputs, images   floats, lookup (ms)   ratio");
    for (outputs, inputs) in [(120, 400), (500, 800), (1000, 512), (1000, 1280), (4096, 4096), (4096, 25_088)]
    {
        let values = (0..outputs * inputs).map(|i: usize| {
            let index = i.wrapping_mul(2_654_435_761) >> 13 & ((1 << bits) - 1);
            (index as f32 - 3.5) / 64.0
        });
        let w = tensor(&[outputs, inputs], values.collect())?;
        let shared = CodebookLinear::new(CodebookWeights::new(&w)?, None)?;
        let floats = Linear::new(w, None)?;
        for images in [1, 4, 8] {
            let session = |graph: Graph| {
                let options = SessionOptions::with_threads(threads)?.batches(&graph, &[images]);
                Session::new(graph, &options)
            };
            let (mut a, mut b) = (Graph::new(&[inputs]), Graph::new(&[inputs]));
            a.push("layer", floats.clone())?;
            b.push("layer", shared.clone())?;
            let (mut a, mut b) = (session(a)?, session(b)?);
            let x: Vec<f32> = (0..images * inputs).map(|i| (i * 31 % 97) as f32 / 48.5 - 1.0).collect();
            let mut y = vec![0.0; images * outputs];
            let mut rounds = Vec::new();
            for _ in 0..ROUNDS {
                rounds.push([time(&mut a, &x, &mut y)?, time(&mut b, &x, &mut y)?]);
            }
            let median = |of: &dyn Fn(&[f64; 2]) -> f64| {
                let mut all: Vec<f64> = rounds.iter().map(of).collect();
                all.sort_by(f64::total_cmp);
                all[all.len() / 2]
            };
            println!(
                "{outputs:5} x {inputs:5}, {images}   {:8.4} {:8.4}   {:5.2}",
                median(&|r| r[0]) * 1e3,
                median(&|r| r[1]) * 1e3,
                median(&|r| r[0] / r[1]),
            );
        }
    }
    Ok(())
}
