//! Peak memory of a process that loads a network from its ONNX file and runs it, for each side in a fresh one.

use super::engine::Engine;
use super::environment::Environment;
use super::export::Exported;
use super::options::Options;
use super::ours::Ours;
use super::worker::{Load, Marks};
use crate::resident::{high_water, reset_high_water};
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::process::Command;

/// Runs after the first one.
const RUNS: usize = 3;

/// High-water marks of one process, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Peak {
    /// Before loading, with the engine imported.
    pub bare: Option<u64>,
    /// Over everything, and of the runs after the first alone.
    #[serde(flatten)]
    pub marks: Marks,
}

impl Peak {
    /// What loading and running added to the bare process.
    pub fn increment(&self) -> Option<u64> {
        Some(self.marks.peak?.saturating_sub(self.bare?))
    }

    /// What is there beyond the bare process while it runs.
    pub fn running_increment(&self) -> Option<u64> {
        Some(self.marks.running?.saturating_sub(self.bare?))
    }
}

/// The marks of one side; or why there are none.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// `ours`, or the engine's name.
    pub side: &'static str,
    /// The marks.
    #[serde(flatten)]
    pub peak: Option<Peak>,
    /// Why it failed.
    pub failed: Option<String>,
}

/// Measures all sides on one network, one after the other.
pub fn measure(
    exported: &Exported,
    engines: &[Engine],
    environment: &Environment,
    options: &Options,
) -> Vec<Row> {
    let threads = options.threads[0];
    let row = |side, peak: Result<Peak>| match peak {
        Ok(peak) => Row { side, peak: Some(peak), failed: None },
        Err(error) => Row { side, peak: None, failed: Some(format!("{error:#}")) },
    };
    let mut rows = vec![row("ours", ours_apart(&exported.model, threads, options.batch))];
    rows.extend(engines.iter().map(|e| row(e.name(), theirs(*e, exported, environment, threads))));
    rows
}

fn theirs(engine: Engine, exported: &Exported, environment: &Environment, threads: usize) -> Result<Peak> {
    let mut worker = engine.start(environment)?;
    worker.load(&Load {
        model: &exported.theirs,
        shape: exported.images.shape(),
        input: &exported.input,
        output: &exported.output,
        threads,
    })?;
    Ok(Peak { bare: worker.hello.bare, marks: worker.memory(RUNS)? })
}

/// Ours, by this program started again.
fn ours_apart(model: &Path, threads: usize, batch: usize) -> Result<Peak> {
    let program = std::env::current_exe().context("the path of this program")?;
    let done = Command::new(program)
        .args(["peers", "--threads", &threads.to_string(), "--batch", &batch.to_string(), "--memory-of"])
        .arg(model)
        .output()
        .context("starting this program again")?;
    if !done.status.success() {
        bail!("measuring our memory failed: {}", String::from_utf8_lossy(&done.stderr).trim());
    }
    let text = String::from_utf8_lossy(&done.stdout);
    serde_json::from_str(&text).with_context(|| format!("marks, not `{}`", text.trim()))
}

/// Ours, in this process.
///
/// # Errors
/// If the file cannot be read or run.
pub fn ours(model: &Path, threads: usize, batch: usize) -> Result<Peak> {
    let bare = high_water();
    let graph = cnn_onnx::load(model, &cnn_onnx::ImportOptions::default())?.graph;
    let images = crate::onnx::networks::images(&graph, batch, 1)?;
    let mut ours = Ours::new(graph, &images, threads)?;
    drop(images);
    ours.output()?;
    // the system's counters are approximate, but no mark is below an earlier one
    let peak = bare.max(high_water());
    let apart = reset_high_water();
    for _ in 0..RUNS {
        ours.output()?;
    }
    let running = high_water();
    Ok(Peak { bare, marks: Marks { peak: peak.max(running), running: running.filter(|_| apart) } })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn increments_are_over_the_bare_process() {
        let marks = Marks { peak: Some(50), running: Some(15) };
        let peak = Peak { bare: Some(20), marks };
        assert_eq!((peak.increment(), peak.running_increment()), (Some(30), Some(0)));
        assert_eq!(Peak { bare: None, marks }.increment(), None);
        let back: Peak = serde_json::from_str(&serde_json::to_string(&peak).unwrap()).unwrap();
        assert_eq!(back, peak);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_process_of_ours_tells_its_marks() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("a.onnx");
        let graph = cnn_core::testing::lenet5(0).unwrap();
        cnn_onnx::save(&graph, &file, &Default::default()).unwrap();
        let peak = ours(&file, 1, 2).unwrap();
        assert!(peak.bare.unwrap() <= peak.marks.peak.unwrap());
        assert!(ours(&directory.path().join("b.onnx"), 1, 1).is_err());
    }
}
