//! `cargo xtask peers`: inference beside other engines, by turns on the same networks.

mod engine;
mod environment;
mod export;
mod measure;
mod memory;
mod options;
mod ours;
mod report;
mod rounds;
mod statistics;
mod targets;
mod worker;

pub use options::Options;

use crate::host::{Host, command_line, now};
use anyhow::{Context, Result, bail};
use cnn_core::Registry;
use cnn_core::model_file::write_atomically;
use engine::Engine;
use environment::Environment;
use export::Exported;
use measure::{Row, caught, measure};
use report::{Missing, NetworkMemory, Report, Version, means};
use std::path::Path;
use std::time::Instant;
use targets::targets;

/// Runs the comparison; `false` if targets are not met and that was to be checked.
///
/// # Errors
/// In a debug build, for unknown networks, without any engine, or if files cannot be written.
pub fn run(options: &Options) -> Result<bool> {
    let networks = export::chosen(&options.only)?;
    crate::refuse_debug("peers")?;
    if let Some(file) = &options.memory_of {
        println!("{}", serde_json::to_string(&memory::ours(file, options.threads[0], options.batch)?)?);
        return Ok(true);
    }
    let start = Instant::now();
    create_directories(options)?;
    let asked = options.engines();
    let environment = Environment::prepare(options, &asked);
    let (versions, missing) = probe(&asked, &environment);
    if versions.is_empty() {
        bail!("no engine to compare with; see the warnings above");
    }
    let engines: Vec<Engine> = versions.iter().map(|v| v.engine).collect();
    let registry = cnn_cli::registry();
    let (mut rows, mut memory) = (Vec::new(), Vec::new());
    for name in networks {
        let (of, marks) = network(&registry, name, &engines, &environment, options);
        rows.extend(of);
        memory.extend(marks);
    }
    let report = Report {
        date: now(),
        command: command_line(),
        host: Host::read(),
        isa: cnn_core::simd::Isa::active().name().to_string(),
        engines: versions,
        missing,
        batch: options.batch,
        plan: options.plan(),
        means: means(&rows, &options.threads),
        targets: if options.batch == 1 { targets(&rows, &memory, options.int8) } else { Vec::new() },
        rows,
        memory,
        memory_threads: options.threads[0],
        seconds: start.elapsed().as_secs_f64(),
    };
    print!("{}", report.text());
    if let Some(file) = &options.json {
        write_atomically(file, (serde_json::to_string_pretty(&report)? + "\n").as_bytes())?;
        eprintln!("report in {}", file.display());
    }
    Ok(!options.check || report.targets.iter().all(|t| t.met))
}

/// Before anything is measured.
fn create_directories(options: &Options) -> Result<()> {
    let beside = options.json.as_deref().and_then(Path::parent).filter(|p| !p.as_os_str().is_empty());
    for directory in beside.into_iter().chain([options.out.as_path()]) {
        std::fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
    }
    Ok(())
}

/// Starts each engine once: those that answer with their versions, and those that do not.
fn probe(engines: &[Engine], environment: &Environment) -> (Vec<Version>, Vec<Missing>) {
    let (mut versions, mut missing) = (Vec::new(), Vec::new());
    for &engine in engines {
        match engine.start(environment) {
            Ok(worker) => versions.push(Version { engine, version: worker.hello.version.clone() }),
            Err(error) => {
                eprintln!("warning: {error:#}; it is left out");
                missing.push(Missing { engine, why: format!("{error:#}") });
            }
        }
    }
    (versions, missing)
}

/// All figures of one network.
fn network(
    registry: &Registry,
    name: &'static str,
    engines: &[Engine],
    environment: &Environment,
    options: &Options,
) -> (Vec<Row>, Option<NetworkMemory>) {
    let made = || {
        let mut exported = Exported::new(registry, name, options.int8, options.batch, &options.out)?;
        if options.int8 {
            exported.quantize_theirs(environment)?;
        }
        Ok(exported)
    };
    let exported = match caught(made) {
        Ok(exported) => exported,
        Err(error) => {
            eprintln!("{name}: failed: {error:#}");
            return (options.threads.iter().map(|&t| Row::failed(name, t, &error)).collect(), None);
        }
    };
    let mut first = None;
    let row = |&threads: &usize| {
        let measured =
            caught(|| measure(&exported, threads, engines, environment, options.plan(), &mut first));
        let row = measured.unwrap_or_else(|error| Row::failed(name, threads, &error));
        say(&row);
        row
    };
    let rows = options.threads.iter().map(row).collect();
    let memory = options.measures_memory().then(|| NetworkMemory {
        network: name,
        sides: memory::measure(&exported, engines, environment, options),
    });
    if !options.keep {
        exported.remove();
    }
    (rows, memory)
}

/// One line on standard error as soon as a row is done.
fn say(row: &Row) {
    let what = match (&row.failed, &row.best) {
        (Some(why), _) => format!("failed: {why}"),
        (None, Some(best)) => format!("ours / best {:.2} ({})", best.ratio.median, best.engine.title()),
        (None, None) => "done".to_string(),
    };
    eprintln!("{}, {} thread(s): {what}", row.network, row.threads);
}
