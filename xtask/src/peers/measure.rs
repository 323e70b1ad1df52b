//! One network with one number of threads, on all sides.

use super::engine::Engine;
use super::environment::Environment;
use super::export::Exported;
use super::ours::Ours;
use super::rounds::{Plan, Rounds, Turn, alternate};
use super::statistics::{Quartiles, ratios};
use super::worker::{Load, Worker};
use crate::bench::statistics::median;
use anyhow::{Result, anyhow};
use cnn_core::Tensor;
use cnn_core::tensor::relative_error;
use serde::Serialize;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Figures of one network with one number of threads.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// The network.
    pub network: &'static str,
    /// Threads of each side.
    pub threads: usize,
    /// Why there are no figures of ours.
    pub failed: Option<String>,
    /// Median over the rounds, in milliseconds.
    pub ours_ms: Option<f64>,
    /// Milliseconds of compiling our session.
    pub create_ms: Option<f64>,
    /// `max|a - b| / max|b|` of our logits to those of the reference executor.
    pub reference_error: Option<f32>,
    /// Whether our logits have the same bits as with the first number of threads.
    pub same_bits: Option<bool>,
    /// The others.
    pub peers: Vec<Peer>,
    /// The faster one of those that the targets name, and ours / its time.
    pub best: Option<Best>,
}

/// Figures of another engine.
#[derive(Debug, Clone, Serialize)]
pub struct Peer {
    /// The engine.
    pub engine: Engine,
    /// Why there are no figures.
    pub failed: Option<String>,
    /// Median over the rounds, in milliseconds.
    pub ms: Option<f64>,
    /// Milliseconds of loading the file.
    pub load_ms: Option<f64>,
    /// `max|a - b| / max|b|` of our logits to this engine's.
    pub error: Option<f32>,
    /// Ours / its time, over the rounds.
    pub ratio: Option<Quartiles>,
    /// Turns after which its threads did not come to rest.
    pub restless: usize,
}

/// The fastest of some engines.
#[derive(Debug, Clone, Serialize)]
pub struct Best {
    /// Which.
    pub engine: Engine,
    /// Ours / its time, over the rounds.
    pub ratio: Quartiles,
}

impl Row {
    /// A row without figures.
    pub fn failed(network: &'static str, threads: usize, why: &anyhow::Error) -> Row {
        let failed = Some(format!("{why:#}"));
        Row {
            network,
            threads,
            failed,
            ours_ms: None,
            create_ms: None,
            reference_error: None,
            same_bits: None,
            peers: Vec::new(),
            best: None,
        }
    }
}

/// Runs work that may fail or panic.
///
/// # Errors
/// If it does.
pub fn caught<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        Err(anyhow!("panicked: {}", text.unwrap_or("without a message")))
    })
}

/// Lets all sides run the network by turns. `first` is what ours gave with the first number of threads; it is set if it is `None`.
///
/// # Errors
/// If ours fails; engines that fail say so in the row.
pub fn measure(
    exported: &Exported,
    threads: usize,
    engines: &[Engine],
    environment: &Environment,
    plan: Plan,
    first: &mut Option<Tensor>,
) -> Result<Row> {
    let mut ours = Ours::new(exported.graph.clone(), &exported.images, threads)?;
    let logits = ours.output()?;
    let mut others: Vec<Result<Loaded>> =
        engines.iter().map(|&engine| load(engine, exported, threads, environment)).collect();
    let mut turns: Vec<Turn<'_>> = vec![Box::new(|runs| ours.turn(runs))];
    turns.extend(
        others.iter_mut().flatten().map(|other| -> Turn<'_> { Box::new(|runs| other.worker.run(runs)) }),
    );
    let mut rounds = alternate(turns, plan).into_iter();
    let our_rounds = rounds.next().ok_or_else(|| anyhow!("no rounds"))??;
    let peers = engines
        .iter()
        .zip(others)
        .map(|(&engine, other)| match other {
            Ok(other) => peer(engine, &other, rounds.next(), &our_rounds, &logits),
            Err(why) => Peer::failed(engine, &why),
        })
        .collect::<Vec<_>>();
    let same_bits = first.as_ref().map(|first| same_bits(first, &logits));
    let row = Row {
        network: exported.name,
        threads,
        failed: None,
        ours_ms: Some(median(&our_rounds)),
        create_ms: Some(ours.create_ns as f64 / 1e6),
        reference_error: Some(relative_error(&logits, &exported.reference)),
        same_bits,
        best: best(&peers),
        peers,
    };
    first.get_or_insert(logits);
    Ok(row)
}

/// An engine with the network.
struct Loaded {
    worker: Worker,
    load_ns: u64,
    logits: Tensor,
}

fn load(engine: Engine, exported: &Exported, threads: usize, environment: &Environment) -> Result<Loaded> {
    let mut worker = engine.start(environment)?;
    let load_ns = worker.load(&Load {
        model: &exported.theirs,
        shape: exported.images.shape(),
        input: &exported.input,
        output: &exported.output,
        threads,
    })?;
    Ok(Loaded { worker, load_ns, logits: exported.read_output()? })
}

impl Peer {
    fn failed(engine: Engine, why: &anyhow::Error) -> Peer {
        let failed = Some(format!("{why:#}"));
        Peer { engine, failed, ms: None, load_ms: None, error: None, ratio: None, restless: 0 }
    }
}

fn peer(engine: Engine, other: &Loaded, rounds: Option<Rounds>, ours: &[f64], logits: &Tensor) -> Peer {
    let theirs = match rounds {
        Some(Ok(theirs)) => theirs,
        Some(Err(why)) => return Peer::failed(engine, &why),
        None => return Peer::failed(engine, &anyhow!("no rounds")),
    };
    Peer {
        engine,
        failed: None,
        ms: Some(median(&theirs)),
        load_ms: Some(other.load_ns as f64 / 1e6),
        error: Some(relative_error(logits, &other.logits)),
        ratio: Quartiles::of(&ratios(ours, &theirs)),
        restless: other.worker.restless,
    }
}

/// The engine of the lowest median among those that the targets name. It is chosen once and not in each round: the fastest of several in
/// every round would be faster than each of them.
fn best(peers: &[Peer]) -> Option<Best> {
    let timed =
        peers.iter().filter(|p| p.engine.is_target()).filter_map(|p| Some((p.ms?, p.engine, p.ratio?)));
    let (_, engine, ratio) = timed.min_by(|a, b| a.0.total_cmp(&b.0))?;
    Some(Best { engine, ratio })
}

fn same_bits(a: &Tensor, b: &Tensor) -> bool {
    a.shape() == b.shape() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timed(engine: Engine, ms: f64, ratio: f64) -> Peer {
        let ratio = Quartiles::of(&[ratio]);
        Peer { engine, failed: None, ms: Some(ms), load_ms: None, error: None, ratio, restless: 0 }
    }

    #[test]
    fn the_best_is_the_fastest_that_the_targets_name() {
        let peers = [
            timed(Engine::OnnxRuntime, 2.0, 0.5),
            Peer::failed(Engine::OpenVino, &anyhow!("no")),
            timed(Engine::Tract, 1.0, 1.0),
        ];
        let found = best(&peers).unwrap();
        assert_eq!((found.engine, found.ratio.median), (Engine::OnnxRuntime, 0.5));
        let peers = [timed(Engine::OnnxRuntime, 2.0, 0.5), timed(Engine::OpenVino, 1.9, 0.6)];
        assert_eq!(best(&peers).unwrap().engine, Engine::OpenVino);
        assert!(best(&[timed(Engine::Rten, 1.0, 1.0)]).is_none());
    }

    #[test]
    fn panics_become_errors() {
        assert_eq!(caught(|| Ok(3)).unwrap(), 3);
        let panicked = caught(|| -> Result<()> { panic!("at {}", "the disco") });
        assert_eq!(panicked.unwrap_err().to_string(), "panicked: at the disco");
    }

    #[test]
    fn bits_are_compared_as_bits() {
        let of = |v: Vec<f32>| cnn_core::tensor::tensor(&[1, 2], v).unwrap();
        assert!(same_bits(&of(vec![0.0, f32::NAN]), &of(vec![0.0, f32::NAN])));
        assert!(!same_bits(&of(vec![0.0, 1.0]), &of(vec![-0.0, 1.0])));
    }

    #[cfg(unix)]
    #[test]
    fn a_peer_has_the_ratio_of_each_round() {
        use super::super::worker::tests::{HELLO, fake};
        let worker = fake(HELLO, &[]).unwrap();
        let logits = cnn_core::tensor::tensor(&[1, 2], vec![1.0, 2.0]).unwrap();
        let other = Loaded { worker, load_ns: 2_000_000, logits: logits.mapv(|v| 2.0 * v) };
        let row = peer(Engine::Tract, &other, Some(Ok(vec![2.0, 4.0, 8.0])), &[1.0, 1.0, 8.0], &logits);
        assert_eq!(row.ratio.unwrap(), Quartiles { lower: 0.375, median: 0.5, upper: 0.75 });
        assert_eq!((row.ms, row.load_ms, row.error), (Some(4.0), Some(2.0), Some(0.5)));
        let row = peer(Engine::Tract, &other, Some(Err(anyhow!("ran away"))), &[1.0], &logits);
        assert_eq!(row.failed.as_deref(), Some("ran away"));
    }
}
