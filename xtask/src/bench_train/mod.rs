//! `cargo xtask bench-train`: time and memory of training steps, beside PyTorch where there is one.

mod memory;
mod networks;
mod stepper;
mod worker;

use crate::bench::statistics::median;
use crate::host::{Host, now};
use crate::table::Table;
use anyhow::{Result, bail};
use clap::Args;
use networks::{Network, all, find};
use std::time::Duration;
use stepper::Stepper;
use worker::Worker;

/// Steps of both sides that do not count, before the first round.
const WARM_UP: usize = 3;
/// Rounds, in each of which both sides run by turns.
const ROUNDS: usize = 8;
/// Rest between two turns, so that the other side's threads have stopped spinning.
const PAUSE: Duration = Duration::from_millis(300);
/// The network whose memory is measured.
const MEMORY: &str = "resnet20";
/// Steps over which memory is measured.
const MEMORY_STEPS: usize = 4;

/// What to measure.
#[derive(Debug, Args)]
pub struct Options {
    /// Python with PyTorch to compare with.
    #[arg(long, default_value = "python3", value_name = "PATH")]
    python: String,
    /// Steps of each network and side that count (small networks take four times as many).
    #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    steps: u16,
    /// Threads of each side; without it, all cores.
    #[arg(long)]
    threads: Option<usize>,
    /// Only these networks, separated by commas.
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    only: Vec<String>,
    /// Measure our memory for one network in this process and print the bytes (used by the command itself).
    #[arg(long, hide = true, value_name = "NETWORK")]
    memory_of: Option<String>,
}

/// Milliseconds of the steps of each round.
type Times = Vec<Vec<f64>>;

/// Runs the measurements and prints them.
///
/// # Errors
/// In a debug build, for unknown networks, or when a side fails.
pub fn run(options: &Options) -> Result<()> {
    let networks = all();
    let chosen: Vec<&Network> = match options.only.as_slice() {
        [] => networks.iter().collect(),
        only => only.iter().map(|name| find(&networks, name)).collect::<Result<_>>()?,
    };
    crate::refuse_debug("bench-train")?;
    let threads = crate::use_threads(options.threads)?;
    if let Some(name) = &options.memory_of {
        println!("{}", memory::ours(find(&networks, name)?, MEMORY_STEPS)?);
        return Ok(());
    }
    let torch = worker::version(&options.python);
    let host = Host::read();
    println!(
        "{}, {threads} of {} cores; {}; {}; revision {}; {}",
        host.cpu,
        host.cores,
        host.os,
        host.rustc,
        host.revision,
        now()
    );
    match &torch {
        Some(version) => println!("PyTorch {version} ({})", options.python),
        None => println!(
            "PyTorch cannot be imported by `{}`: ours alone. Name another with --python.",
            options.python
        ),
    }
    let mut table =
        Table::new(&["network", "batch", "ms", "images/s", "PyTorch ms", "images/s", "ours / PyTorch"]);
    for network in &chosen {
        let ours_and_theirs = measure(network, options, threads, torch.is_some())?;
        table.row(row(network, &ours_and_theirs));
        eprintln!("{} done", network.name);
    }
    println!("\n{}", table.text());
    println!(
        "A step: forward, cross-entropy, backward, SGD with momentum 0.9, on one batch of random images in memory. ms: median over \
         {ROUNDS} rounds by turns, after {WARM_UP} warm-up steps and one more at the start of each turn. ours / PyTorch: images/s, \
         median of the rounds' ratios (above 1: ours is faster). MobileNetV1 is the 32 x 32 variant at width {}.",
        networks::WIDTH
    );
    if chosen.iter().any(|n| n.name == MEMORY) {
        print_memory(find(&networks, MEMORY)?, options, threads, torch.is_some())?;
    }
    Ok(())
}

/// Runs both sides by turns; theirs is empty without PyTorch.
fn measure(network: &Network, options: &Options, threads: usize, torch: bool) -> Result<(Times, Times)> {
    let mut ours = Stepper::new(network)?;
    let mut theirs = if torch { Some(Worker::start(&options.python, network, threads)?) } else { None };
    if let Some(worker) = &mut theirs {
        let params = ours.params()?;
        if worker.params != params {
            bail!(
                "{} has {params} parameters here and {} in the PyTorch script: they are not the same network",
                network.name,
                worker.params
            );
        }
        worker.steps(WARM_UP)?;
    }
    ours.steps(WARM_UP)?;
    let each = (usize::from(options.steps) * network.more).div_ceil(ROUNDS);
    let (mut our_times, mut their_times) = (Times::new(), Times::new());
    for round in 0..ROUNDS {
        // who begins changes from round to round
        for turn in [round % 2, 1 - round % 2] {
            if turn == 0 {
                our_times.push(ours.steps(each)?);
            } else if let Some(worker) = &mut theirs {
                their_times.push(worker.steps(each)?);
            }
            if theirs.is_some() {
                std::thread::sleep(PAUSE);
            }
        }
    }
    Ok((our_times, their_times))
}

fn row(network: &Network, (ours, theirs): &(Times, Times)) -> Vec<String> {
    let speed = |ms: f64| format!("{:.0}", network.batch as f64 / ms * 1e3);
    let over_all = |times: &Times| median(&times.concat());
    let mut cells = vec![network.name.to_string(), network.batch.to_string()];
    cells.extend([format!("{:.2}", over_all(ours)), speed(over_all(ours))]);
    if theirs.is_empty() {
        cells.extend(["-", "-", "-"].map(String::from));
    } else {
        cells.extend([
            format!("{:.2}", over_all(theirs)),
            speed(over_all(theirs)),
            format!("{:.2}", ratio(ours, theirs)),
        ]);
    }
    cells
}

/// Median over the rounds of their median step / our median step: how many times faster ours is.
fn ratio(ours: &Times, theirs: &Times) -> f64 {
    let ratios: Vec<f64> = ours.iter().zip(theirs).map(|(o, t)| median(t) / median(o)).collect();
    median(&ratios)
}

fn print_memory(network: &Network, options: &Options, threads: usize, torch: bool) -> Result<()> {
    let show = |bytes: Option<u64>| bytes.map_or("unknown".into(), |b| format!("{:.1} MB", b as f64 / 1e6));
    let ours = memory::ours_apart(network, threads)?;
    let theirs =
        if torch { Worker::start(&options.python, network, threads)?.memory(MEMORY_STEPS)? } else { None };
    print!(
        "\nPeak memory of {MEMORY_STEPS} steps of {} at batch {}: ours {}",
        network.name,
        network.batch,
        show(ours)
    );
    if torch {
        print!(", PyTorch {}", show(theirs));
    }
    println!(
        ".\nThat is, each in a fresh process: VmHWM of /proc/self/status after the last step, less VmHWM just before the first \
         step (network and batch exist by then; gradients, momentum and activations do not). Before the first step the mark \
         is set back to the resident size (/proc/self/clear_refs), where the system allows it."
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ratio_is_taken_within_rounds() {
        // the second round ran under load, for both
        let ours = vec![vec![10.0, 10.0, 30.0], vec![40.0]];
        let theirs = vec![vec![20.0], vec![80.0]];
        assert_eq!(ratio(&ours, &theirs), 2.0);
    }

    #[test]
    fn without_pytorch_ours_stands_alone() {
        let networks = all();
        let cells = row(&networks[0], &(vec![vec![10.0]], Vec::new()));
        assert_eq!(cells[3], format!("{}", networks[0].batch * 100));
        assert_eq!(cells[6], "-");
    }
}
