//! The command line.

use crate::answer::Answer;
use crate::commands::{
    bench, completions, compress, convert, eval, inspect, methods, networks, train, verify,
};
use crate::session::{Session, Voice};
use anyhow::{Context, Result, bail};
use clap::{CommandFactory, Parser, Subcommand};
use serde_json::json;

const CODES: &str = "Exit codes: 0 done, 1 an error, 2 wrong usage, 3 `cnn verify` found a difference, 130 \
    interrupted.
Ctrl-C stops a training within a moment and keeps what is done, whole epochs too; the same command goes on from there.
Twice quits at once.";

/// Arguments of the program.
#[derive(Debug, Parser)]
#[command(name = "cnn", version, about = "Makes convolutional networks small and fast", after_help = CODES)]
#[command(propagate_version = true)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    #[command(flatten)]
    global: Global,
}

#[derive(Debug, clap::Args)]
struct Global {
    /// One JSON object on standard output; no messages, no progress
    #[arg(long, global = true, display_order = 900)]
    json: bool,
    /// No messages and no progress, only warnings and the answer
    #[arg(short, long, global = true, conflicts_with = "json", display_order = 901)]
    quiet: bool,
    /// Threads; all processors by default
    #[arg(long, global = true, value_name = "N", display_order = 902)]
    threads: Option<usize>,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show a network's layers: shape, parameters, non-zeros, multiply-adds, bytes
    Inspect(inspect::Options),
    /// Train a network by name
    Train(Box<train::Options>),
    /// Count the images a network gets right
    Eval(Box<eval::Options>),
    /// Make a network smaller by a recipe
    Compress(Box<compress::Options>),
    /// Write a network in the other form of file
    Convert(convert::Options),
    /// Compare the outputs of two networks on images
    Verify(Box<verify::Options>),
    /// Time a network
    Bench(bench::Options),
    /// List the compression methods, or show what one takes in a recipe
    Methods(methods::Options),
    /// List the networks that can be trained by name, or say what one costs
    Networks(networks::Options),
    /// Print a script that makes a shell complete arguments
    Completions(completions::Options),
}

impl Arguments {
    /// How much is to be said.
    pub fn voice(&self) -> Voice {
        match (self.global.json, self.global.quiet) {
            (true, _) => Voice::Json,
            (_, true) => Voice::Quiet,
            _ => Voice::Human,
        }
    }

    /// Makes the process's one thread pool.
    ///
    /// # Errors
    /// For zero threads, or if there is a pool already.
    pub fn use_threads(&self) -> Result<()> {
        match self.global.threads {
            None => Ok(()),
            Some(0) => bail!("--threads 0: at least 1"),
            Some(n) => {
                rayon::ThreadPoolBuilder::new().num_threads(n).build_global().context("making threads")
            }
        }
    }

    /// Does it.
    ///
    /// # Errors
    /// Those of the command.
    pub fn run(&self, session: &Session) -> Result<Answer> {
        match &self.command {
            Command::Inspect(o) => Answer::of(&inspect::run(o, session)?),
            Command::Train(o) => Answer::of(&train::run(o, session)?),
            Command::Eval(o) => Answer::of(&eval::run(o, session)?),
            Command::Compress(o) => Answer::of(&compress::run(o, session)?),
            Command::Convert(o) => Answer::of(&convert::run(o, session)?),
            Command::Verify(o) => {
                let report = verify::run(o, session)?;
                let code = if report.same { 0 } else { verify::DIFFERS };
                Ok(Answer { code, ..Answer::of(&report)? })
            }
            Command::Bench(o) => Answer::of(&bench::run(o, session)?),
            Command::Methods(o) => Answer::of(&methods::run(o, session)?),
            Command::Networks(o) => Answer::of(&networks::run(o, session)?),
            Command::Completions(o) => {
                let script = completions::run(o, Arguments::command());
                Ok(Answer { data: json!({ "script": script }), text: script, code: 0 })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Arguments, String> {
        Arguments::try_parse_from(line.split(' ')).map_err(|e| e.to_string())
    }

    #[test]
    fn the_commands_are_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn argument_errors_name_the_argument() {
        for (line, name) in [
            ("cnn eval net.onnx --data d --size 3x", "--size"),
            ("cnn eval net.onnx --data d --split half", "--split"),
            ("cnn train lenet5 --data d -o a.cnn --schedule never", "--schedule"),
            ("cnn train lenet5 --data d -o a.cnn --augment flop", "--augment"),
            ("cnn inspect --json --quiet x", "--quiet"),
            ("cnn compress a.onnx -o b.onnx", "--recipe"),
        ] {
            let error = parse(line).unwrap_err();
            assert!(error.contains(name), "{line}: {error}");
        }
    }

    #[test]
    fn lists_and_negative_numbers_are_read() {
        let line = "cnn train lenet5 --data d -o a.cnn --mean -0.5,0.1,0 --std 1 --schedule 3,6 --augment \
            crop=4,flip";
        let Command::Train(o) = parse(line).unwrap().command else { panic!() };
        assert_eq!(o.images.mean, Some(vec![-0.5, 0.1, 0.0]));
        assert!(o.train.augment.unwrap().flip);
    }
}
