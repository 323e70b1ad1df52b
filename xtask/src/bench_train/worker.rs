//! The other side: a Python process that runs training steps in PyTorch when it is told to, and waits otherwise.
//!
//! It says one JSON line when it is ready, `{"params": 431080}`. Then, for each line `go 5` on its standard input, it runs one step that does not
//! count and five that do, and answers with a JSON list of milliseconds; for `memory 4` it answers with the bytes that the
//! high-water mark grew by in four steps, or `null`. It ends with its input.

use super::networks::Network;
use anyhow::{Context, Result, bail};
use serde::de::DeserializeOwned;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

const SCRIPT: &str = include_str!("../../scripts/bench_train.py");

/// A running Python process with one network.
#[derive(Debug)]
pub struct Worker {
    process: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    /// Number of trainable parameters of its network.
    pub params: u64,
}

#[derive(serde::Deserialize)]
struct Ready {
    params: u64,
}

/// The version of PyTorch that a Python imports, or `None`.
pub fn version(python: &str) -> Option<String> {
    let done = Command::new(python).args(["-c", "import torch; print(torch.__version__)"]).output().ok()?;
    done.status.success().then(|| String::from_utf8_lossy(&done.stdout).trim().to_string())
}

impl Worker {
    /// Starts a process and waits until its network is built.
    ///
    /// # Errors
    /// If it cannot be started, or ends.
    pub fn start(python: &str, network: &Network, threads: usize) -> Result<Worker> {
        let mut process = Command::new(python)
            .args(["-c", SCRIPT, network.name, &network.batch.to_string(), &threads.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {python}"))?;
        let input = process.stdin.take();
        let output = BufReader::new(process.stdout.take().context("the worker's output")?);
        let mut worker = Worker { process, input, output, params: 0 };
        worker.params = worker.answer::<Ready>()?.params;
        Ok(worker)
    }

    /// Milliseconds of `count` steps, after one that does not count.
    ///
    /// # Errors
    /// If the process ended or answers something else.
    pub fn steps(&mut self, count: usize) -> Result<Vec<f64>> {
        self.tell(&format!("go {count}"))?;
        let times: Vec<f64> = self.answer()?;
        if times.len() != count {
            bail!("the worker ran {} steps instead of {count}", times.len());
        }
        Ok(times)
    }

    /// Bytes by which the high-water mark grew in the first `count` steps; `None` where the system does not tell.
    ///
    /// # Errors
    /// If the process ended or answers something else.
    pub fn memory(&mut self, count: usize) -> Result<Option<u64>> {
        self.tell(&format!("memory {count}"))?;
        self.answer()
    }

    fn tell(&mut self, line: &str) -> Result<()> {
        let input = self.input.as_mut().context("the worker's input is closed")?;
        writeln!(input, "{line}")
            .and_then(|()| input.flush())
            .context("the PyTorch worker ended; see its message above")
    }

    fn answer<T: DeserializeOwned>(&mut self) -> Result<T> {
        let mut line = String::new();
        if self.output.read_line(&mut line).context("reading from the PyTorch worker")? == 0 {
            bail!("the PyTorch worker ended; see its message above");
        }
        serde_json::from_str(&line).with_context(|| format!("the PyTorch worker said `{}`", line.trim()))
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // without input the process ends by itself
        self.input = None;
        let _ = self.process.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_python_has_no_version() {
        assert_eq!(version("/nowhere/python3"), None);
    }
}
