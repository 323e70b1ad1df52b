//! Convolutions of signs against the same ones in floats, by Winograd's algorithm and directly, by turns in sessions: `cargo run --release -p cnn-quant --example xnor_speed
//! [threads]`.

mod turns;

use cnn_core::layers::{Conv2d, ConvOptions};
use cnn_core::session::{Session, SessionOptions};
use cnn_core::tensor::tensor;
use cnn_core::{Graph, Layer};
use cnn_quant::{XnorConv2d, XnorWeights};
use turns::time;

/// Rounds, in each of which both run.
const ROUNDS: usize = 60;

fn session(layer: impl Layer, input: [usize; 3], threads: usize, exact: bool) -> cnn_core::Result<Session> {
    let mut graph = Graph::new(&input);
    graph.push("layer", layer)?;
    Session::new(graph, &SessionOptions { exact, ..SessionOptions::with_threads(threads)? })
}

fn main() -> cnn_core::Result<()> {
    let threads = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(1);
    println!("3 x 3, {threads} threads   Winograd, direct, signs (ms)   ratios   10^9 products/s of signs");
    for (channels, size) in [(128, 28), (128, 14), (256, 14), (256, 28), (512, 7), (512, 14)] {
        let count = channels * channels * 9;
        let w =
            (0..count).map(|i: usize| if i.wrapping_mul(2_654_435_761) >> 13 & 1 == 0 { 0.1 } else { -0.1 });
        let w = tensor(&[channels, channels, 3, 3], w.collect())?;
        let options = ConvOptions::default().pad(1);
        let input = [channels, size, size];
        let signs = XnorConv2d::new(XnorWeights::new(&w, vec![0.0; channels], None)?, options)?;
        let floats = Conv2d::new(w, None, options)?;
        let mut winograd = session(floats.clone(), input, threads, false)?;
        let mut direct = session(floats, input, threads, true)?;
        let mut signs = session(signs, input, threads, false)?;
        let x: Vec<f32> = (0..channels * size * size).map(|i| (i * 31 % 97) as f32 / 48.5 - 1.0).collect();
        let mut y = vec![0.0; x.len()];
        let mut rounds = Vec::new();
        for _ in 0..ROUNDS {
            let mut round = [0.0; 3];
            for (taken, session) in round.iter_mut().zip([&mut winograd, &mut direct, &mut signs]) {
                *taken = time(session, &x, &mut y)?;
            }
            rounds.push(round);
        }
        let median = |of: &dyn Fn(&[f64; 3]) -> f64| {
            let mut all: Vec<f64> = rounds.iter().map(of).collect();
            all.sort_by(f64::total_cmp);
            all[all.len() / 2]
        };
        let [a, b, c] = [0, 1, 2].map(|i| 1e3 * median(&|r| r[i]));
        let [of_winograd, of_direct] = [0, 1].map(|i| median(&|r| r[i] / r[2]));
        let products = (count * size * size) as f64 / c / 1e6;
        println!(
            "{channels:4} channels, {size:2} px   {a:.4} {b:.4} {c:.4}   {of_winograd:5.2} {of_direct:5.2}   {products:5.0}"
        );
    }
    Ok(())
}
