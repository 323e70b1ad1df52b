//! The other side: Python processes with the `onnx` and `onnxruntime` packages.

use anyhow::{Context, Result, bail};
use cnn_core::Tensor;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

const WORKER: &str = include_str!("../../scripts/onnx_worker.py");

/// A running Python that answers one order after the other; `scripts/onnx_worker.py` says how.
#[derive(Debug)]
pub struct Python {
    process: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    /// Where tensors lie on their way.
    directory: PathBuf,
    /// What it runs.
    pub versions: Versions,
}

/// Versions of the packages.
#[derive(Debug, Clone, Default, serde::Deserialize, serde::Serialize)]
pub struct Versions {
    /// Of `onnx`.
    pub onnx: String,
    /// Of `onnxruntime`.
    pub onnxruntime: String,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "lowercase")]
enum Answer<T> {
    Ok(T),
    Error(String),
}

impl Python {
    /// Starts one. `directory` takes the tensors on their way; it exists.
    ///
    /// # Errors
    /// If Python cannot be started or lacks a package.
    pub fn start(python: &Path, directory: &Path) -> Result<Python> {
        let mut process = Command::new(python)
            .args(["-c", WORKER])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {}", python.display()))?;
        let input = process.stdin.take();
        let output = BufReader::new(process.stdout.take().context("the worker's output")?);
        let (directory, versions) = (directory.to_path_buf(), Versions::default());
        let mut started = Python { process, input, output, directory, versions };
        let line = started.line().with_context(|| {
            format!("{} needs the packages in xtask/scripts/onnx_requirements.txt", python.display())
        })?;
        started.versions = serde_json::from_str(&line)?;
        Ok(started)
    }

    /// The standard's checker, with shape inference.
    ///
    /// # Errors
    /// With its words, if it does not accept the file.
    pub fn check(&mut self, model: &Path) -> Result<()> {
        self.ask(json!({ "do": "check", "model": model })).context("onnx.checker")
    }

    /// What ONNX Runtime says of a batch, with its optimizations of the graph or without.
    ///
    /// # Errors
    /// If it cannot run the file, or gives something else than a tensor.
    pub fn run(&mut self, model: &Path, images: &Tensor, optimize: bool) -> Result<Tensor> {
        let (input, output) = (self.directory.join("input.f32"), self.directory.join("output.f32"));
        write(&input, images)?;
        let order = json!({
            "do": "run", "model": model, "input": input, "shape": images.shape(), "output": output, "optimize": optimize,
        });
        let shape: Vec<usize> = self.ask(order).context("ONNX Runtime")?;
        Ok(cnn_core::tensor::tensor(&shape, read(&output)?)?)
    }

    /// Milliseconds in which ONNX Runtime makes a session of a file, so many times.
    ///
    /// # Errors
    /// If it cannot.
    pub fn session_ms(&mut self, model: &Path, times: usize) -> Result<Vec<f64>> {
        self.ask(json!({ "do": "time", "model": model, "times": times })).context("ONNX Runtime")
    }

    /// Normalized images and their classes from `x_test` and `y_test` of an `.npz` file.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn images(
        &mut self,
        npz: &Path,
        (mean, std): ([f32; 3], [f32; 3]),
        part: std::ops::Range<usize>,
    ) -> Result<(Tensor, Vec<usize>)> {
        let (pixels, labels) = (self.directory.join("pixels.f32"), self.directory.join("labels.f32"));
        let order = json!({
            "do": "images", "npz": npz, "pixels": pixels, "labels": labels, "mean": mean, "std": std,
            "from": part.start, "to": part.end,
        });
        let shape: Vec<usize> = self.ask(order)?;
        let labels = read(&labels)?.iter().map(|&l| l as usize).collect();
        Ok((cnn_core::tensor::tensor(&shape, read(&pixels)?)?, labels))
    }

    fn ask<T: DeserializeOwned>(&mut self, order: Value) -> Result<T> {
        let input = self.input.as_mut().context("the worker's input is closed")?;
        writeln!(input, "{order}")
            .and_then(|()| input.flush())
            .context("the Python worker ended; see its message above")?;
        let line = self.line()?;
        match serde_json::from_str(&line)
            .with_context(|| format!("the Python worker said `{}`", line.trim()))?
        {
            Answer::Ok(value) => Ok(value),
            Answer::Error(why) => bail!("{why}"),
        }
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        if self.output.read_line(&mut line).context("reading from the Python worker")? == 0 {
            bail!("the Python worker ended; see its message above");
        }
        Ok(line)
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        // without input the process ends by itself
        self.input = None;
        let _ = self.process.wait();
    }
}

/// Runs a script to its end.
///
/// # Errors
/// If it cannot be started or fails.
pub fn script(python: &Path, script: &str, arguments: &[&str]) -> Result<()> {
    let status = Command::new(python)
        .args(["-c", script])
        .args(arguments)
        .status()
        .with_context(|| format!("starting {}", python.display()))?;
    if !status.success() {
        bail!("a script failed in {} ({status}); see its message above", python.display());
    }
    Ok(())
}

fn write(path: &Path, tensor: &Tensor) -> Result<()> {
    let bytes: Vec<u8> = tensor.iter().flat_map(|v| v.to_le_bytes()).collect();
    std::fs::write(path, bytes).with_context(|| path.display().to_string())
}

fn read(path: &Path) -> Result<Vec<f32>> {
    let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
    Ok(bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_survive_the_way() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.f32");
        let tensor = cnn_core::tensor::tensor(&[2, 1, 2], vec![1.5, -0.0, f32::MIN_POSITIVE, 3e38]).unwrap();
        write(&path, &tensor).unwrap();
        assert_eq!(read(&path).unwrap(), tensor.iter().copied().collect::<Vec<_>>());
    }

    #[test]
    fn answers() {
        let good: Answer<Vec<usize>> = serde_json::from_str(r#"{"ok": [3, 10]}"#).unwrap();
        assert!(matches!(good, Answer::Ok(shape) if shape == [3, 10]));
        let none: Answer<()> = serde_json::from_str(r#"{"ok": null}"#).unwrap();
        assert!(matches!(none, Answer::Ok(())));
        let bad: Answer<()> = serde_json::from_str(r#"{"error": "no such file"}"#).unwrap();
        assert!(matches!(bad, Answer::Error(why) if why.contains("no such")));
    }

    #[test]
    fn a_missing_python_is_named() {
        let error = Python::start(Path::new("/nowhere/python3"), Path::new(".")).unwrap_err();
        assert!(format!("{error:#}").contains("/nowhere/python3"));
        assert!(script(Path::new("/nowhere/python3"), "", &[]).is_err());
    }
}
