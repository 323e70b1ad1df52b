//! `cargo xtask onnx`: the standard's node tests, and parity with ONNX Runtime in both directions.

mod compressed;
mod import_time;
mod models;
pub mod networks;
mod node_tests;
mod parity;
mod python;

use crate::host::{Host, command_line, now};
use crate::table::Table;
use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use cnn_core::model_file::write_atomically;
use python::{Python, Versions};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// What to run and with what.
#[derive(Debug, Args)]
pub struct Options {
    /// Python with the packages in xtask/scripts/onnx_requirements.txt.
    #[arg(long, default_value = "python3", value_name = "PATH")]
    python: PathBuf,
    /// Directory with .onnx files of others, to be compared too.
    #[arg(long, value_name = "DIR")]
    models: Option<PathBuf>,
    /// Images for those: a .npz with x_test (u8, n h w c) and y_test.
    #[arg(long, value_name = "FILE", requires = "models")]
    images: Option<PathBuf>,
    /// Where the report goes.
    #[arg(long, value_name = "DIR", default_value = "target/onnx")]
    out: PathBuf,
    /// Only these parts, separated by commas.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "PARTS")]
    only: Vec<Part>,
    /// Write the list of node tests that must pass from this run.
    #[arg(long)]
    bless: bool,
    /// Threads of our side; without it, all cores.
    #[arg(long)]
    threads: Option<usize>,
}

/// A part of the suite.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// The standard's node tests.
    Nodes,
    /// All registered networks.
    Parity,
    /// Compressed networks.
    Compressed,
    /// The files in --models.
    Models,
    /// Import time of a large file.
    Time,
}

/// All of a run.
#[derive(Debug, Serialize)]
struct Report {
    date: String,
    command: String,
    host: Host,
    versions: Versions,
    operators: Vec<String>,
    /// Operators that only fold.
    folded: Vec<String>,
    tolerance: f32,
    node_tests: Option<node_tests::NodeTests>,
    parity: Vec<parity::Row>,
    compressed: Vec<compressed::Compressed>,
    models: Vec<models::Model>,
    import_time: Option<import_time::ImportTime>,
    seconds: f64,
}

/// Runs the suite; `false` if an answer was wrong.
///
/// # Errors
/// If times are asked for in a debug build, without Python and its packages, or if files cannot be read or written.
pub fn run(options: &Options) -> Result<bool> {
    let wanted = |part| options.only.is_empty() || options.only.contains(&part);
    if wanted(Part::Time) {
        crate::refuse_debug("onnx")?;
    }
    crate::use_threads(options.threads)?;
    let start = Instant::now();
    std::fs::create_dir_all(&options.out).with_context(|| options.out.display().to_string())?;
    let work = options.out.join("work");
    std::fs::create_dir_all(&work).with_context(|| work.display().to_string())?;
    let registry = cnn_cli::registry();
    let mut python = Python::start(&options.python, &work)?;
    let folded = cnn_onnx::folded_operators().iter().filter(|o| !cnn_onnx::supported_operators().contains(o));
    let mut report = Report {
        date: now(),
        command: command_line(),
        host: Host::read(),
        versions: python.versions.clone(),
        operators: cnn_onnx::supported_operators().iter().map(ToString::to_string).collect(),
        folded: folded.map(ToString::to_string).collect(),
        tolerance: parity::TOLERANCE,
        node_tests: None,
        parity: Vec::new(),
        compressed: Vec::new(),
        models: Vec::new(),
        import_time: None,
        seconds: 0.0,
    };
    if wanted(Part::Parity) {
        report.parity = parity::run(&registry, &mut python, &work)?;
        report.parity.extend(parity::thinned(&registry, &mut python, &work)?);
    }
    if wanted(Part::Compressed) {
        report.compressed = compressed::run(&registry, &mut python, &work)?;
    }
    if wanted(Part::Time) {
        report.import_time = Some(import_time::run(&registry, &mut python, &work)?);
    }
    if let Some(directory) = options.models.as_deref().filter(|_| wanted(Part::Models)) {
        report.models = models::run(&mut python, directory, options.images.as_deref(), &work)?;
    }
    if wanted(Part::Nodes) {
        report.node_tests = Some(node_tests::run(&options.python, &work, options.bless)?);
    }
    report.seconds = start.elapsed().as_secs_f64();
    let text = report.text(Table::text);
    print!("{text}");
    write(&report, &options.out)?;
    Ok(report.good())
}

impl Report {
    fn good(&self) -> bool {
        let rows = self.parity.iter().chain(self.compressed.iter().map(|c| &c.row));
        let mut rows = rows.chain(self.models.iter().map(|m| &m.row));
        rows.all(|r| r.failed.is_none()) && self.node_tests.as_ref().is_none_or(|n| n.good())
    }

    /// Everything, with tables in the given form.
    fn text(&self, table: impl Fn(&Table) -> String) -> String {
        let mut parts = vec![format!(
            "onnx {}, ONNX Runtime {}; {}; {} cores; revision {}; {}; {:.0} s",
            self.versions.onnx,
            self.versions.onnxruntime,
            self.host.cpu,
            self.host.cores,
            self.host.revision,
            self.date,
            self.seconds
        )];
        if !self.parity.is_empty() {
            parts.push(format!(
                "Registered networks with random weights, at batch 1 and 3: max |a - b| / max |b| of the logits, at most {:.0e}.",
                parity::TOLERANCE
            ));
            parts.push(table(&parity::table("network", &self.parity)));
        }
        if !self.compressed.is_empty() {
            parts.push(format!(
                "Compressed networks, on digits. Layers in integers: each alone at most {:.0e}, the whole network at most {:.1e}.",
                parity::TOLERANCE,
                compressed::INTEGER_TOLERANCE
            ));
            parts.push(table(&compressed::table(&self.compressed)));
        }
        if let Some(time) = &self.import_time {
            parts.push(time.text());
        }
        if !self.models.is_empty() {
            parts.push("Files of others: import and export against ONNX Runtime, random images.".to_string());
            parts.push(table(&models::table(&self.models)));
        }
        if let Some(nodes) = &self.node_tests {
            parts.push(format!(
                "Node tests of onnx {}: {} operators become layers, {} more fold; {} tests use others, {} have sequences.",
                nodes.onnx,
                self.operators.len(),
                self.folded.len(),
                nodes.others,
                nodes.not_tensors
            ));
            parts.push(table(&nodes.by_operator()));
            parts.push(table(&nodes.reasons()));
            parts.extend(nodes.wrong().iter().map(|w| format!("wrong: {w}")));
            parts.extend(nodes.lost.iter().map(|l| format!("must pass: {l}")));
            parts.push(nodes.closing());
        }
        parts.join("\n\n") + "\n"
    }
}

fn write(report: &Report, out: &Path) -> Result<()> {
    let json = serde_json::to_string_pretty(report)? + "\n";
    write_atomically(&out.join("report.json"), json.as_bytes())?;
    write_atomically(&out.join("report.md"), report.text(Table::markdown).as_bytes())?;
    eprintln!("report in {}", out.display());
    Ok(())
}
