//! The project's commands, as `cargo xtask <command>`: benchmarks, and rules that the compiler does not know.

mod bench;
mod bench_train;
mod host;
mod onnx;
mod peers;
mod resident;
mod table;
mod tidy;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use std::process::ExitCode;

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", about = "The project's commands")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Compress LeNet-5 with every method and compare accuracy, bytes and latency
    Bench(bench::Options),
    /// Measure training steps, beside PyTorch where there is one
    BenchTrain(bench_train::Options),
    /// Run the standard's node tests, and compare networks with ONNX Runtime
    Onnx(onnx::Options),
    /// Compare inference with ONNX Runtime, OpenVINO and other engines, by turns on the same networks
    Peers(peers::Options),
    /// Check dependencies between the crates, their READMEs and forbidden words
    Tidy,
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Bench(options) => bench::run(&options),
        Command::BenchTrain(options) => bench_train::run(&options).map(|()| true),
        Command::Onnx(options) => onnx::run(&options),
        Command::Peers(options) => peers::run(&options),
        Command::Tidy => tidy::run().map(|()| true),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Times of a debug build mean nothing.
fn refuse_debug(command: &str) -> Result<()> {
    if cfg!(debug_assertions) {
        bail!(
            "this is a debug build, and its times mean nothing; run `cargo xtask {command}`, which builds with --release"
        );
    }
    Ok(())
}

/// Makes the one thread pool of this process, and returns its number of threads.
fn use_threads(wanted: Option<usize>) -> Result<usize> {
    if wanted == Some(0) {
        bail!("--threads 0: at least 1");
    }
    let threads = wanted.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global().context("making the thread pool")?;
    Ok(threads)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(line: &str) -> Result<Arguments, String> {
        Arguments::try_parse_from(line.split(' ')).map_err(|e| e.to_string())
    }

    #[test]
    fn the_commands_are_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn argument_errors_name_the_argument() {
        assert!(parse("xtask bench --seeds 0").unwrap_err().contains("--seeds"));
        assert!(parse("xtask bench --fast").unwrap_err().contains("--fast"));
        assert!(parse("xtask bench-train --steps x").unwrap_err().contains("--steps"));
        assert!(parse("xtask onnx --only models,nods").unwrap_err().contains("nods"));
        assert!(parse("xtask onnx --images a.npz").unwrap_err().contains("--models"));
        assert!(parse("xtask onnx --only nodes,parity --python venv/bin/python").is_ok());
        assert!(parse("xtask bench --only a,b --smoke --seed 3").is_ok());
        assert!(parse("xtask peers --engines onnxruntime,tensorflow").unwrap_err().contains("tensorflow"));
        assert!(parse("xtask peers --batch 0").unwrap_err().contains("--batch"));
        assert!(parse("xtask peers --threads 1,0").unwrap_err().contains("--threads"));
        assert!(parse("xtask peers --memory --no-memory").unwrap_err().contains("--no-memory"));
        assert!(parse("xtask peers --quick --only lenet5,vgg16 --rust-peers --check").is_ok());
    }

    #[test]
    fn zero_threads_are_refused() {
        assert!(use_threads(Some(0)).unwrap_err().to_string().contains("--threads"));
    }

    #[test]
    fn debug_builds_are_refused_with_the_remedy() {
        let refused = refuse_debug("bench");
        assert_eq!(refused.is_err(), cfg!(debug_assertions));
        if let Err(e) = refused {
            assert!(e.to_string().contains("cargo xtask bench"));
        }
    }
}
