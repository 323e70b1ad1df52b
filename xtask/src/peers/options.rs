//! What `cargo xtask peers` is asked to do.

use super::engine::Engine;
use super::rounds::Plan;
use clap::Args;
use std::path::PathBuf;
use std::time::Duration;

/// Rounds, and those of `--quick`.
const ROUNDS: [usize; 2] = [15, 3];
/// Milliseconds of a turn, and those of `--quick`.
const TURN_MS: [u64; 2] = [100, 30];

/// What to compare and how.
#[derive(Debug, Args)]
#[command(
    after_help = "Each network is built with seeded weights and written as an ONNX file, which every engine loads in a process of its own. \
Then all run it by turns: in each round every engine has one turn, in an order that changes from round to round; a turn is one run that does \
not count and as many that do as fit into --turn-ms (at least 2), and ends when the engine's threads have stopped spinning. A round's figure is \
the median of its runs, the ratio is taken within each round, and the result is the median over the rounds with its quartiles: a load on the \
machine hits both sides alike. Ratios are ours / the faster of ONNX Runtime and OpenVINO; under 1, ours is faster.

Without --python, an environment with pinned packages (xtask/scripts/peers_requirements.txt) is made once in target/peers-env; this needs \
python3 with venv and a package index. An engine that cannot be started or fails is named and left out; the others go on.

Examples:
  cargo xtask peers
  cargo xtask peers --quick --only lenet5,resnet20
  cargo xtask peers --int8 --no-memory
  cargo xtask peers --threads 1 --rounds 25 --json target/peers/report.json
  cargo xtask peers --python venv/bin/python --engines onnxruntime --rust-peers"
)]
pub struct Options {
    /// Threads of each side, separated by commas; everything is measured for each number
    #[arg(long, value_delimiter = ',', value_name = "NUMBERS", default_values_t = [1, 2], value_parser = at_least_one)]
    pub threads: Vec<usize>,
    /// Images in a batch; the targets are for 1
    #[arg(long, value_name = "IMAGES", default_value_t = 1, value_parser = at_least_one)]
    pub batch: usize,
    /// Rounds in which every engine has a turn [default: 15, with --quick 3]
    #[arg(long, value_name = "NUMBER", value_parser = at_least_one)]
    rounds: Option<usize>,
    /// Milliseconds of a turn [default: 100, with --quick 30]
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(1..=10_000))]
    turn_ms: Option<u64>,
    /// Only these networks, separated by commas
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    pub only: Vec<String>,
    /// In 8-bit integers: ours by `quant.int8`, the other engines' by ONNX Runtime's quantizer, on the same weights and images
    #[arg(long)]
    pub int8: bool,
    /// Engines to compare with, separated by commas
    #[arg(long, value_enum, value_delimiter = ',', value_name = "ENGINES", default_values_t = [Engine::OnnxRuntime, Engine::OpenVino])]
    engines: Vec<Engine>,
    /// Also compare with tract and rten; builds them first (xtask/peers)
    #[arg(long)]
    rust_peers: bool,
    /// Few and short rounds, no memory: to see that it works
    #[arg(long)]
    pub quick: bool,
    /// Measure peak memory also with --quick
    #[arg(long)]
    memory: bool,
    /// Do not measure peak memory
    #[arg(long, conflicts_with = "memory")]
    no_memory: bool,
    /// Fail (exit code 1) unless all targets of the networks measured are met
    #[arg(long)]
    pub check: bool,
    /// Also write everything as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Python with the packages in xtask/scripts/peers_requirements.txt, instead of target/peers-env
    #[arg(long, value_name = "PATH")]
    pub python: Option<PathBuf>,
    /// Where the ONNX files lie while they are measured
    #[arg(long, value_name = "DIR", default_value = "target/peers")]
    pub out: PathBuf,
    /// Do not remove the ONNX files
    #[arg(long)]
    pub keep: bool,
    /// Measure our memory on one file in this process and print it (used by the command itself)
    #[arg(long, hide = true, value_name = "FILE")]
    pub memory_of: Option<PathBuf>,
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("at least 1".into()),
        Ok(number) => Ok(number),
        Err(error) => Err(format!("{error}")),
    }
}

impl Options {
    /// The engines, each once.
    pub fn engines(&self) -> Vec<Engine> {
        let rust = Engine::ALL.into_iter().filter(|e| self.rust_peers && e.is_rust());
        let mut engines = Vec::new();
        for engine in self.engines.iter().copied().chain(rust) {
            if !engines.contains(&engine) {
                engines.push(engine);
            }
        }
        engines
    }

    /// How the turns are laid out.
    pub fn plan(&self) -> Plan {
        let at = usize::from(self.quick);
        Plan {
            rounds: self.rounds.unwrap_or(ROUNDS[at]),
            turn: Duration::from_millis(self.turn_ms.unwrap_or(TURN_MS[at])),
        }
    }

    /// Whether peak memory is measured.
    pub fn measures_memory(&self) -> bool {
        self.memory || !(self.no_memory || self.quick)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn parse(arguments: &str) -> Options {
        let line = Line::try_parse_from(std::iter::once("peers").chain(arguments.split_whitespace()));
        line.map_err(|e| e.to_string()).unwrap().options
    }

    #[test]
    fn defaults() {
        let options = parse("");
        assert_eq!((options.threads.as_slice(), options.batch), ([1, 2].as_slice(), 1));
        assert_eq!(options.engines(), [Engine::OnnxRuntime, Engine::OpenVino]);
        assert!(options.measures_memory() && options.plan().rounds == 15);
    }

    #[test]
    fn quick_is_short_and_leaves_memory_out_unless_asked() {
        let options = parse("--quick");
        assert!(!options.measures_memory() && options.plan().rounds == 3);
        assert!(parse("--quick --memory").measures_memory() && !parse("--no-memory").measures_memory());
        assert_eq!(parse("--quick --rounds 7").plan().rounds, 7);
    }

    #[test]
    fn engines_are_named_once() {
        let all = parse("--rust-peers --engines rten,openvino,rten").engines();
        assert_eq!(all, [Engine::Rten, Engine::OpenVino, Engine::Tract]);
    }
}
