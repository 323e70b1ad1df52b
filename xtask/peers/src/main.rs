//! An inference engine written in Rust with one network, told what to do line by line: the protocol of `cargo xtask peers`, which
//! is written down in `xtask/scripts/peers_worker.py`.

mod engine;
mod process;
mod rten;
mod tract;

use anyhow::{Context, Result, bail};
use engine::{ENGINES, Engine, Load};
use serde::Deserialize;
use serde_json::{Value, json};
use std::hint::black_box;
use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

/// A line of the input.
#[derive(Debug, Deserialize)]
#[serde(tag = "do", rename_all = "lowercase")]
enum Order {
    Load { model: PathBuf, shape: Vec<usize>, input: PathBuf, output: PathBuf, threads: usize },
    Run { times: usize },
    Memory { times: usize },
}

/// The network, once there is one.
struct Worker {
    load: Load,
    engine: Option<Box<dyn Engine>>,
}

fn main() -> ExitCode {
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn serve() -> Result<()> {
    let names = ENGINES.map(|(name, ..)| name).join(" | ");
    let wanted = std::env::args().nth(1).with_context(|| format!("usage: cnn-peers {names}"))?;
    let Some((name, version, load)) = ENGINES.into_iter().find(|(name, ..)| *name == wanted) else {
        bail!("there is no engine {wanted}; there are: {names}");
    };
    say(&json!({ "engine": name, "version": version, "bare": process::high_water() }))?;
    let mut worker = Worker { load, engine: None };
    for line in std::io::stdin().lock().lines() {
        say(&match serde_json::from_str(&line?).map_err(Into::into).and_then(|order| worker.obey(order)) {
            Ok(value) => json!({ "ok": value }),
            Err(error) => json!({ "error": format!("{error:#}") }),
        })?;
    }
    Ok(())
}

fn say(answer: &Value) -> Result<()> {
    let mut output = std::io::stdout().lock();
    writeln!(output, "{answer}")?;
    Ok(output.flush()?)
}

impl Worker {
    fn obey(&mut self, order: Order) -> Result<Value> {
        match order {
            Order::Load { model, shape, input, output, threads } => {
                self.load(&model, &shape, &input, &output, threads)
            }
            Order::Run { times } => self.run(times),
            Order::Memory { times } => self.memory(times),
        }
    }

    fn load(
        &mut self,
        model: &Path,
        shape: &[usize],
        input: &Path,
        output: &Path,
        threads: usize,
    ) -> Result<Value> {
        let bytes = std::fs::read(input).with_context(|| input.display().to_string())?;
        let images = bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        let start = Instant::now();
        let engine = self.engine.insert((self.load)(model, shape, images, threads)?);
        let load_ns = nanoseconds(start);
        let bytes: Vec<u8> = engine.run()?.values()?.iter().flat_map(|v| v.to_le_bytes()).collect();
        std::fs::write(output, bytes).with_context(|| output.display().to_string())?;
        Ok(json!({ "load_ns": load_ns }))
    }

    fn run(&mut self, times: usize) -> Result<Value> {
        let engine = self.engine()?;
        black_box(engine.run()?);
        let mut taken = Vec::with_capacity(times);
        for _ in 0..times {
            let start = Instant::now();
            let output = engine.run()?;
            taken.push(nanoseconds(start));
            black_box(output);
        }
        let settled = process::settle().map(|d| d.as_nanos() as u64);
        Ok(json!({ "ns": taken, "settle_ns": settled }))
    }

    fn memory(&mut self, times: usize) -> Result<Value> {
        let peak = process::high_water();
        let apart = process::reset_high_water();
        let engine = self.engine()?;
        for _ in 0..times {
            black_box(engine.run()?);
        }
        let running = process::high_water();
        Ok(json!({ "peak": peak.max(running), "running": running.filter(|_| apart) }))
    }

    fn engine(&mut self) -> Result<&mut Box<dyn Engine>> {
        self.engine.as_mut().context("nothing is loaded")
    }
}

fn nanoseconds(since: Instant) -> u64 {
    since.elapsed().as_nanos() as u64
}
