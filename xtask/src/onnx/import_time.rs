//! How long it takes to read a large file.

use super::networks::random;
use super::python::Python;
use crate::bench::statistics::median;
use anyhow::{Context, Result};
use cnn_core::{NetworkOptions, Registry};
use cnn_onnx::{ExportOptions, ImportOptions};
use serde::Serialize;
use std::hint::black_box;
use std::path::Path;
use std::time::Instant;

/// The network with the largest file.
pub const NETWORK: &str = "vgg16";

/// Of so many times, the median.
const TIMES: usize = 3;

/// Times of one file.
#[derive(Debug, Clone, Serialize)]
pub struct ImportTime {
    /// The network.
    pub network: &'static str,
    /// Length of its file.
    pub bytes: u64,
    /// Milliseconds of writing the file, once.
    pub export_ms: f64,
    /// Milliseconds from a path to a network, the median.
    pub import_ms: f64,
    /// Milliseconds in which ONNX Runtime makes a session of the path, the median.
    pub session_ms: f64,
}

/// Measures them; the file lies in memory of the operating system, since it was just written.
///
/// # Errors
/// If a step fails.
pub fn run(registry: &Registry, python: &mut Python, directory: &Path) -> Result<ImportTime> {
    let graph = random(registry, NETWORK, &NetworkOptions::default())?;
    let file = directory.join("import-time.onnx");
    let start = Instant::now();
    let bytes = cnn_onnx::save(&graph, &file, &ExportOptions::default()).context("export")?;
    let export_ms = start.elapsed().as_secs_f64() * 1e3;
    drop(graph);
    let mut times = Vec::new();
    for _ in 0..TIMES {
        let start = Instant::now();
        black_box(cnn_onnx::load(&file, &ImportOptions::default()).context("import")?);
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    let session_ms = median(&python.session_ms(&file, TIMES)?);
    std::fs::remove_file(&file).with_context(|| file.display().to_string())?;
    Ok(ImportTime { network: NETWORK, bytes, export_ms, import_ms: median(&times), session_ms })
}

impl ImportTime {
    /// One sentence.
    pub fn text(&self) -> String {
        format!(
            "{} ({} bytes): imported in {:.0} ms, exported in {:.0} ms; ONNX Runtime makes a session in {:.0} ms (medians of {TIMES})",
            self.network,
            crate::table::grouped(self.bytes),
            self.import_ms,
            self.export_ms,
            self.session_ms
        )
    }
}
