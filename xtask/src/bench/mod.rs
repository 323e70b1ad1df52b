//! `cargo xtask bench`: every family of methods on LeNet-5 and handwritten digits.

mod labels;
mod latency;
mod measure;
mod pareto;
pub mod plan;
mod plot;
mod report;
pub mod statistics;

use crate::host::Host;
use anyhow::{Context, Result, bail};
use clap::Args;
use cnn_cli::recipe::Recipe;
use cnn_core::data::{Subset, batch};
use cnn_core::model_file::write_atomically;
use cnn_core::train::{CrossEntropy, Progress, TrainData, train};
use cnn_core::{Dataset, Graph, NetworkOptions, Registry, Tensor};
use cnn_data::{Shift, Splits, augment::black, mnist::preprocess};
use latency::Rounds;
use measure::Bench;
use plan::{BASELINE, Budget, Entry, NETWORK};
use plot::{Labels, Point};
use report::{Data, Measured, Outcome, Report, Row, Settings};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Pixels by which training images are moved at random.
const SHIFT: usize = 2;

/// What to run and where.
#[derive(Debug, Args)]
pub struct Options {
    /// List the rows and stop.
    #[arg(long)]
    list: bool,
    /// Only these rows, separated by commas (the baseline is always run).
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    only: Vec<String>,
    /// A recipe, as `cnn compress` takes it, as one more row under the file's name; its `data` section is not used here.
    #[arg(long, value_name = "FILE")]
    recipe: Option<PathBuf>,
    /// All families in under a minute, with little training: to see that everything works.
    #[arg(long)]
    smoke: bool,
    /// Repeat with so many seeds, and give mean and spread.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1000))]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Directory with the four files of MNIST; without it, the embedded digits.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Where the files go.
    #[arg(long, value_name = "DIR", default_value = "target/bench/mnist")]
    out: PathBuf,
    /// Show also where the time of each row's network goes, kernel by kernel.
    #[arg(long)]
    profile: bool,
    /// Threads; without it, all cores.
    #[arg(long)]
    threads: Option<usize>,
}

/// Runs the benchmark; `false` if a row failed.
///
/// # Errors
/// In a debug build unless it is a smoke run, for unknown rows, if the data cannot be read, if the baseline fails, or if the files cannot be written.
pub fn run(options: &Options) -> Result<bool> {
    let budget = |seed| Budget { smoke: options.smoke, seed };
    let entries = plan::select(plan::entries(budget(options.seed)), &options.only)?;
    if options.list {
        list(&entries);
        return Ok(true);
    }
    if !options.smoke {
        crate::refuse_debug("bench")?;
    }
    let threads = crate::use_threads(options.threads)?;
    let start = Instant::now();
    std::fs::create_dir_all(&options.out).with_context(|| options.out.display().to_string())?;
    let registry = cnn_cli::registry();
    let recipe = options.recipe.as_deref().map(|path| read_recipe(path, &registry)).transpose()?;
    let (splits, source) = load(options.data.as_deref())?;
    let most = if options.smoke { [2_000, 500, 1_500] } else { [usize::MAX; 3] };
    let [train, validation, test] =
        [first(&splits.train, most[0])?, first(&splits.validation, most[1])?, first(&splits.test, most[2])?];
    let rounds =
        if options.smoke { Rounds { rounds: 6, images: 10 } } else { Rounds { rounds: 30, images: 20 } };
    let images: Vec<Tensor> =
        (0..rounds.images.min(test.len())).map(|i| Ok(batch(&test, &[i])?.0)).collect::<Result<_>>()?;
    let shift = Shift { max: SHIFT, fill: black(&preprocess()) };
    let original_bytes = 4 * network(&registry, options.seed)?.cost()?.params;
    let settings = budget(options.seed);
    let mut report = Report::new(
        Host::read(),
        Data { source, train: train.len(), validation: validation.len(), test: test.len() },
        Settings {
            network: NETWORK,
            original_bytes,
            smoke: options.smoke,
            seeds: (options.seed..options.seed + options.seeds).collect(),
            threads,
            baseline: settings.baseline(),
            fine_tune: settings.fine_tune(),
            augment: format!("shifted by up to {SHIFT} pixels"),
            latency: rounds,
        },
    );
    println!("{NETWORK}, trained with {}", serde_json::to_string(&settings.baseline())?);
    for seed in report.settings.seeds.clone() {
        let bench = Bench {
            registry: &registry,
            train: &train,
            augment: &shift,
            validation: &validation,
            test: &test,
            images: images.clone(),
            rounds: rounds.rounds,
            profile: options.profile,
            fine_tune: budget(seed).fine_tune(),
            original_bytes,
            out: &options.out,
            suffix: if options.seeds > 1 { format!("-seed{seed}") } else { String::new() },
        };
        let entries = plan::select(plan::entries(budget(seed)), &options.only)?;
        report.rows.extend(one_seed(&bench, budget(seed), &entries, recipe.as_ref())?);
    }
    report.finish(start.elapsed().as_secs_f64());
    write(&report, &options.out)?;
    print(&report, &options.out);
    Ok(!report.failed())
}

/// Trains a baseline and runs all rows on it.
fn one_seed(
    bench: &Bench<'_>,
    budget: Budget,
    entries: &[Entry],
    recipe: Option<&(String, Recipe)>,
) -> Result<Vec<Row>> {
    let settings = budget.baseline();
    let start = Instant::now();
    let mut graph = network(bench.registry, budget.seed)?;
    let data =
        TrainData { train: bench.train, validation: None, augment: Some(bench.augment), checkpoint: None };
    train(&mut graph, data, &settings, &mut CrossEntropy::default(), &mut [], &Progress::terminal())
        .context("training the baseline")?;
    let seconds = start.elapsed().as_secs_f64();
    let (baseline, measured) = bench.baseline(graph).context("measuring the baseline")?;
    let mut rows = vec![Row {
        name: BASELINE.to_string(),
        family: BASELINE,
        method: "cross-entropy".into(),
        config: serde_json::to_value(&settings)?,
        seed: budget.seed,
        seconds,
        outcome: Outcome::Measured(Box::new(measured)),
    }];
    say(&rows[0]);
    for entry in entries {
        rows.push(bench.row(entry, &baseline));
        say(&rows[rows.len() - 1]);
    }
    if let Some((name, recipe)) = recipe {
        rows.push(bench.recipe(name, recipe, &baseline));
        say(&rows[rows.len() - 1]);
    }
    Ok(rows)
}

/// A recipe and the name of its row.
fn read_recipe(path: &Path, registry: &Registry) -> Result<(String, Recipe)> {
    let recipe = Recipe::load(path, registry)?;
    let name = path.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
    match plan::entries(Budget { smoke: false, seed: 0 }).iter().any(|e| e.name == name) || name == BASELINE {
        true => bail!("{}: a row is already named `{name}`; name the file otherwise", path.display()),
        false => Ok((name, recipe)),
    }
}

fn network(registry: &Registry, seed: u64) -> Result<Graph> {
    Ok(registry.build_network(NETWORK, &NetworkOptions { seed, ..NetworkOptions::default() })?)
}

fn load(directory: Option<&Path>) -> Result<(Splits, String)> {
    match directory {
        None => Ok((cnn_data::mnist::embedded()?, "embedded digits (from MNIST's training images)".into())),
        Some(directory) => {
            let splits = cnn_data::mnist::load_dir(directory)?;
            Ok((splits, format!("MNIST in {}", directory.display())))
        }
    }
}

/// The first images of a data set.
fn first(data: &dyn Dataset, most: usize) -> Result<Subset<'_>> {
    Ok(Subset::new(data, (0..most.min(data.len())).collect())?)
}

fn list(entries: &[Entry]) {
    let mut table = crate::table::Table::new(&["row", "family", "methods"]);
    table.row([BASELINE, "", "cross-entropy"].map(String::from).to_vec());
    for entry in entries {
        table.row(vec![entry.name.into(), entry.family.into(), entry.methods()]);
    }
    print!("{}", table.text());
}

/// One line on standard error as soon as a row is done.
fn say(row: &Row) {
    match &row.outcome {
        Outcome::Failed(why) => eprintln!("{} (seed {}): failed: {why}", row.name, row.seed),
        Outcome::Measured(m) => eprintln!(
            "{} (seed {}): {:.2} %, {} bytes, {:.1} s",
            row.name, row.seed, m.top1, m.bytes, row.seconds
        ),
    }
}

fn write(report: &Report, out: &Path) -> Result<()> {
    let json = serde_json::to_string_pretty(report)? + "\n";
    write_atomically(&out.join("report.json"), json.as_bytes())?;
    write_atomically(&out.join("report.md"), report.markdown().as_bytes())?;
    let title = format!("{NETWORK} on {} test images; orange: Pareto front", report.data.test);
    let accuracy = "top-1 accuracy on test images (%)";
    let bytes = Labels { title: &title, cost: "bytes of the deployed file (log scale)", accuracy };
    plot::write(out, "pareto-bytes", bytes, &points(report, |m| m.bytes as f64))?;
    let latency = Labels { title: &title, cost: "ms for one image, median (log scale)", accuracy };
    plot::write(out, "pareto-latency", latency, &points(report, |m| m.latency.median_ms))
}

/// A point for each row that was measured; its mean over the seeds.
fn points(report: &Report, cost: fn(&Measured) -> f64) -> Vec<Point> {
    let first = report.settings.seeds[0];
    let names = report.rows.iter().filter(|r| r.seed == first).map(|r| r.name.as_str());
    let point = |name: &str| {
        let measured: Vec<&Measured> =
            report.rows.iter().filter(|r| r.name == name).filter_map(Row::measured).collect();
        let over = |value: &dyn Fn(&Measured) -> f64| {
            statistics::mean(&measured.iter().map(|m| value(m)).collect::<Vec<_>>())
        };
        let point = Point { label: name.to_string(), cost: over(&cost), accuracy: over(&|m| m.top1) };
        (!measured.is_empty()).then_some(point)
    };
    names.filter_map(point).collect()
}

fn print(report: &Report, out: &Path) {
    println!("\n{}", report.table().text());
    if !report.summary.is_empty() {
        println!("Mean ± sample standard deviation over the seeds:\n{}", report.summary_table().text());
    }
    for (name, profile) in report.profiles() {
        println!("{name}, each kernel alone on one thread:\n{profile}\n");
    }
    report.notes().iter().for_each(|n| println!("{n}"));
    println!("{:.0} s in all; report.json, report.md and pictures in {}", report.seconds, out.display());
}
