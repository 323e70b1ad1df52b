//! `cnn bench`: how long a network takes.

use crate::latency::{Times, compile, time};
use crate::network::{self, LoadOptions};
use crate::session::Session;
use anyhow::{Result, bail};
use cnn_core::init::Init;
use cnn_core::model_file::DEFAULT_LIMIT;
use cnn_core::session::{Profile, SessionOptions};
use serde::Serialize;
use std::fmt::{Display, Formatter};
use std::path::PathBuf;

/// Options of the command.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// A network, .onnx or .cnn
    pub file: PathBuf,
    /// Images that go through the network at once
    #[arg(long, default_value_t = 1)]
    pub batch: usize,
    /// Runs that count
    #[arg(long, default_value_t = 50)]
    pub runs: usize,
    /// Runs before that, which do not count
    #[arg(long, default_value_t = 5)]
    pub warm: usize,
    /// Show also where the time goes, kernel by kernel (on one thread)
    #[arg(long)]
    pub profile: bool,
    /// Show also, layer by layer, whether the zeros of a pruned network pay here (on one thread)
    #[arg(long)]
    pub zeros: bool,
    /// How to read ONNX
    #[command(flatten)]
    pub load: LoadOptions,
}

/// What was measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// The network.
    pub file: PathBuf,
    /// What ran it.
    pub executor: &'static str,
    /// Threads.
    pub threads: usize,
    /// Images at once.
    pub batch: usize,
    /// Times of a batch.
    #[serde(flatten)]
    pub times: Times,
    /// Images a second, from the median.
    pub images_per_second: f64,
    /// Times of a batch on one thread, where there are more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub one_thread: Option<Times>,
    /// Kernel by kernel, if that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile: Option<Profile>,
    /// A sentence on each sparse layer, if that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zeros: Option<Vec<String>>,
}

/// Times a network on noise, which takes as long as images do.
///
/// # Errors
/// If the network cannot be read or run.
pub fn run(options: &Options, session: &Session) -> Result<Report> {
    if options.batch == 0 || options.runs == 0 {
        bail!("--batch and --runs: at least 1");
    }
    let loaded = network::load(&options.file, &options.load, &session.registry)?;
    let shape: Vec<usize> =
        std::iter::once(options.batch).chain(loaded.graph.input_shape().iter().copied()).collect();
    // refused before memory is taken
    let largest = loaded.graph.shapes(options.batch)?.iter().map(|s| s.iter().product::<usize>()).max();
    if largest.is_some_and(|l| l as u64 > DEFAULT_LIMIT) {
        bail!(
            "--batch {}: too large, an activation would have more than {DEFAULT_LIMIT} values",
            options.batch
        );
    }
    let images = Init::new(0).normal(&shape, 1.0)?;
    let threads = rayon::current_num_threads();
    let measure = |all_threads| {
        let mut network = compile(&loaded.graph, &shape, all_threads)?;
        let times = time(&mut network, &images, options.warm, options.runs, &session.stop)?;
        let profile = options.profile && (threads == 1 || !all_threads);
        Ok::<_, cnn_core::Error>((
            times,
            profile.then(|| network.profile(&images, options.runs)).transpose()?,
        ))
    };
    // with one thread it is the same session
    let (times, profile) = measure(true)?;
    let (one_thread, profile) = match threads {
        1 => (None, profile),
        _ => measure(false).map(|(times, profile)| (Some(times), profile))?,
    };
    let zeros = match options.zeros {
        true => {
            let shapes = vec![shape];
            let found =
                cnn_prune::outlook(&loaded.graph, &SessionOptions { shapes, ..SessionOptions::default() })?;
            Some(found.iter().map(ToString::to_string).collect())
        }
        false => None,
    };
    if cfg!(debug_assertions) {
        session.warn("this is a debug build; its times mean little");
    }
    Ok(Report {
        file: options.file.clone(),
        executor: "session",
        threads,
        batch: options.batch,
        images_per_second: options.batch as f64 * 1e3 / times.median_ms,
        times,
        one_thread,
        profile,
        zeros,
    })
}

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let t = &self.times;
        writeln!(
            f,
            "{} in a {}: batches of {}, {} threads, {} runs",
            self.file.display(),
            self.executor,
            self.batch,
            self.threads,
            t.runs
        )?;
        writeln!(
            f,
            "median {:.3} ms; 10 % below {:.3}, 90 % below {:.3}, 99 % below {:.3} ms",
            t.median_ms, t.p10_ms, t.p90_ms, t.p99_ms
        )?;
        if let Some(one) = &self.one_thread {
            writeln!(
                f,
                "on one thread: median {:.3} ms; 10 % below {:.3}, 90 % below {:.3}, 99 % below {:.3} ms",
                one.median_ms, one.p10_ms, one.p90_ms, one.p99_ms
            )?;
        }
        write!(f, "{:.1} images a second", self.images_per_second)?;
        if let Some(profile) = &self.profile {
            write!(
                f,
                "\n\nEach kernel alone on one thread, median; the machine reaches {:.1} GFLOP/s on one:\n{profile}",
                profile.peak_gflops
            )?;
        }
        match self.zeros.as_deref() {
            None => {}
            Some([]) => write!(f, "\n\nNo layer is stored without its zeros.")?,
            Some(layers) => write!(f, "\n\nWhat the zeros are worth here:\n{}", layers.join("\n"))?,
        }
        Ok(())
    }
}
