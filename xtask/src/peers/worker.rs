//! The other side: a process with one engine and one network, that answers one order after the other in JSON lines. The protocol is
//! written down in `scripts/peers_worker.py`.

use anyhow::{Context, Result, bail};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// A running process.
#[derive(Debug)]
pub struct Worker {
    name: String,
    process: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    /// What it said first.
    pub hello: Hello,
    /// Turns after which its threads did not come to rest.
    pub restless: usize,
}

/// What a worker says when its engine is imported.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct Hello {
    /// Version of the engine.
    pub version: String,
    /// High-water mark of the resident size by then, in bytes.
    pub bare: Option<u64>,
}

/// What to load.
#[derive(Debug, Serialize)]
pub struct Load<'a> {
    /// The ONNX file.
    pub model: &'a Path,
    /// Shape of the images, `[n, c, h, w]`.
    pub shape: &'a [usize],
    /// The images, 32-bit floats.
    pub input: &'a Path,
    /// Where the first output goes, alike.
    pub output: &'a Path,
    /// Number of threads.
    pub threads: usize,
}

/// High-water marks of the resident size, in bytes; `None` where the system does not tell.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Marks {
    /// Since the start of the process.
    pub peak: Option<u64>,
    /// Of the runs after the first alone.
    pub running: Option<u64>,
}

#[derive(Serialize)]
#[serde(tag = "do", rename_all = "lowercase")]
enum Order<'a> {
    Load(&'a Load<'a>),
    Run { times: usize },
    Memory { times: usize },
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Answer<T> {
    Ok(T),
    Error(String),
}

#[derive(Deserialize)]
struct Loaded {
    load_ns: u64,
}

#[derive(Deserialize)]
struct Turn {
    ns: Vec<u64>,
    settle_ns: Option<u64>,
}

impl Worker {
    /// Starts a process and waits until it says that it is ready. `name` is for messages.
    ///
    /// # Errors
    /// If it cannot be started, or ends.
    pub fn start(command: &mut Command, name: &str) -> Result<Worker> {
        let program = command.get_program().display().to_string();
        let mut process = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {program}"))?;
        let input = process.stdin.take();
        let output = BufReader::new(process.stdout.take().context("the worker's output")?);
        let (name, hello) = (name.to_string(), Hello::default());
        let mut worker = Worker { name, process, input, output, hello, restless: 0 };
        let line = worker.line()?;
        worker.hello = match serde_json::from_str(&line) {
            Ok(hello) => hello,
            Err(_) => worker.read::<Hello>(&line)?,
        };
        Ok(worker)
    }

    /// Loads a network and runs it once; returns the nanoseconds of loading.
    ///
    /// # Errors
    /// If the engine cannot, or the process ended.
    pub fn load(&mut self, what: &Load<'_>) -> Result<u64> {
        Ok(self.ask::<Loaded>(&Order::Load(what))?.load_ns)
    }

    /// Nanoseconds of so many runs, after one that does not count.
    ///
    /// # Errors
    /// If the engine fails, or the process ended.
    pub fn run(&mut self, times: usize) -> Result<Vec<u64>> {
        let turn: Turn = self.ask(&Order::Run { times })?;
        if turn.ns.len() != times {
            bail!("the worker of {} ran {} times instead of {times}", self.name, turn.ns.len());
        }
        self.restless += usize::from(turn.settle_ns.is_none());
        Ok(turn.ns)
    }

    /// Marks after so many runs more.
    ///
    /// # Errors
    /// If the engine fails, or the process ended.
    pub fn memory(&mut self, times: usize) -> Result<Marks> {
        self.ask(&Order::Memory { times })
    }

    fn ask<T: DeserializeOwned>(&mut self, order: &Order<'_>) -> Result<T> {
        let text = serde_json::to_string(order)?;
        let input = self.input.as_mut().context("the worker's input is closed")?;
        if writeln!(input, "{text}").and_then(|()| input.flush()).is_err() {
            return Err(self.ended());
        }
        let line = self.line()?;
        self.read(&line)
    }

    fn read<T: DeserializeOwned>(&self, line: &str) -> Result<T> {
        match serde_json::from_str(line)
            .with_context(|| format!("the worker of {} said `{}`", self.name, line.trim()))?
        {
            Answer::Ok(value) => Ok(value),
            Answer::Error(why) => bail!("{why}"),
        }
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        let read = self.output.read_line(&mut line);
        match read.with_context(|| format!("reading from the worker of {}", self.name))? {
            0 => Err(self.ended()),
            _ => Ok(line),
        }
    }

    fn ended(&mut self) -> anyhow::Error {
        self.input = None;
        let how = self.process.wait().map_or_else(|e| e.to_string(), |status| status.to_string());
        anyhow::anyhow!("the worker of {} ended ({how}); see its message above", self.name)
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
pub mod tests {
    use super::*;

    /// A worker that says these lines, one for each order.
    #[cfg(unix)]
    pub fn fake(hello: &str, answers: &[&str]) -> Result<Worker> {
        let mut script = format!("echo '{hello}'\n");
        for answer in answers {
            script += &format!("read -r order; echo '{answer}'\n");
        }
        Worker::start(Command::new("sh").args(["-c", &script]), "fake")
    }

    pub const HELLO: &str = r#"{"engine": "fake", "version": "1.2", "bare": 4096}"#;

    fn load() -> Load<'static> {
        let path = Path::new("a");
        Load { model: path, shape: &[1, 3, 2, 2], input: path, output: path, threads: 2 }
    }

    #[test]
    fn orders_are_those_of_the_protocol() {
        let text = |order: &Order<'_>| serde_json::to_value(order).unwrap();
        let expected = serde_json::json!({
            "do": "load", "model": "a", "shape": [1, 3, 2, 2], "input": "a", "output": "a", "threads": 2,
        });
        assert_eq!(text(&Order::Load(&load())), expected);
        assert_eq!(text(&Order::Run { times: 3 }), serde_json::json!({ "do": "run", "times": 3 }));
        assert_eq!(text(&Order::Memory { times: 3 }), serde_json::json!({ "do": "memory", "times": 3 }));
    }

    #[cfg(unix)]
    #[test]
    fn a_conversation() {
        let mut worker = fake(
            HELLO,
            &[
                r#"{"ok": {"load_ns": 7}}"#,
                r#"{"ok": {"ns": [1, 2], "settle_ns": 5}}"#,
                r#"{"ok": {"ns": [3, 4], "settle_ns": null}}"#,
                r#"{"ok": {"peak": 9, "running": null}}"#,
                r#"{"error": "out of paper"}"#,
            ],
        )
        .unwrap();
        assert_eq!(worker.hello, Hello { version: "1.2".into(), bare: Some(4096) });
        assert_eq!(worker.load(&load()).unwrap(), 7);
        assert_eq!((worker.run(2).unwrap(), worker.restless), (vec![1, 2], 0));
        assert_eq!((worker.run(2).unwrap(), worker.restless), (vec![3, 4], 1));
        assert_eq!(worker.memory(1).unwrap(), Marks { peak: Some(9), running: None });
        assert_eq!(worker.run(1).unwrap_err().to_string(), "out of paper");
        let ended = worker.run(1).unwrap_err().to_string();
        assert!(ended.contains("fake") && ended.contains("ended"), "{ended}");
        assert!(worker.run(1).is_err());
    }

    #[cfg(unix)]
    #[test]
    fn nonsense_is_quoted_and_wrong_counts_are_refused() {
        let mut worker = fake(HELLO, &["hum", r#"{"ok": {"ns": [1], "settle_ns": 5}}"#]).unwrap();
        assert!(format!("{:#}", worker.run(2).unwrap_err()).contains("`hum`"));
        assert!(worker.run(2).unwrap_err().to_string().contains("1 times instead of 2"));
    }

    #[cfg(unix)]
    #[test]
    fn a_start_that_fails_says_why() {
        assert!(format!("{:#}", fake(r#"{"error": "No module"}"#, &[]).unwrap_err()).contains("No module"));
        let nothing = Worker::start(Command::new("sh").args(["-c", "exit 3"]), "fake").unwrap_err();
        assert!(nothing.to_string().contains('3'), "{nothing}");
        let missing = Worker::start(&mut Command::new("/nowhere/engine"), "fake").unwrap_err();
        assert!(missing.to_string().contains("/nowhere/engine"));
    }
}
