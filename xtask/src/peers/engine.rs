//! The engines to compare with, and how a process of each is started.

use super::environment::Environment;
use super::worker::Worker;
use anyhow::{Context, Result};
use clap::ValueEnum;
use serde::Serialize;
use std::process::Command;

const SCRIPT: &str = include_str!("../../scripts/peers_worker.py");

/// An engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// ONNX Runtime
    #[value(name = "onnxruntime")]
    OnnxRuntime,
    /// OpenVINO
    #[value(name = "openvino")]
    OpenVino,
    /// tract, in Rust
    Tract,
    /// rten, in Rust
    Rten,
}

impl Engine {
    /// All of them.
    pub const ALL: [Engine; 4] = [Engine::OnnxRuntime, Engine::OpenVino, Engine::Tract, Engine::Rten];

    /// As on the command line and in the protocol.
    pub fn name(self) -> &'static str {
        match self {
            Engine::OnnxRuntime => "onnxruntime",
            Engine::OpenVino => "openvino",
            Engine::Tract => "tract",
            Engine::Rten => "rten",
        }
    }

    /// As it calls itself.
    pub fn title(self) -> &'static str {
        match self {
            Engine::OnnxRuntime => "ONNX Runtime",
            Engine::OpenVino => "OpenVINO",
            Engine::Tract => "tract",
            Engine::Rten => "rten",
        }
    }

    /// Whether it is built by cargo, not installed by pip.
    pub fn is_rust(self) -> bool {
        matches!(self, Engine::Tract | Engine::Rten)
    }

    /// Whether the targets name it.
    pub fn is_target(self) -> bool {
        !self.is_rust()
    }

    /// A fresh process with the engine imported and nothing loaded.
    ///
    /// # Errors
    /// If it cannot be started; the message names the remedy.
    pub fn start(self, environment: &Environment) -> Result<Worker> {
        let worker = if self.is_rust() {
            let program = environment.rust_peers.as_ref().context("xtask/peers was not built; see above")?;
            Worker::start(Command::new(program).arg(self.name()), self.name())
        } else {
            let python = environment.python.as_ref().context("there is no Python; see above")?;
            Worker::start(Command::new(python).args(["-c", SCRIPT, self.name()]), self.name()).with_context(|| {
                format!(
                    "{}: does this Python have the package `{}`? Without --python an environment is made that has; the pins are in \
                     xtask/scripts/peers_requirements.txt",
                    python.display(),
                    self.name()
                )
            })
        };
        worker.with_context(|| format!("{} cannot be started", self.title()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    #[test]
    fn names_are_those_of_the_command_line() {
        for engine in Engine::ALL {
            assert_eq!(Engine::from_str(engine.name(), false).unwrap(), engine);
            assert_eq!(serde_json::to_value(engine).unwrap(), engine.name());
        }
    }

    #[test]
    fn what_is_missing_is_named_with_the_remedy() {
        let nothing = Environment { python: None, rust_peers: None };
        assert!(format!("{:#}", Engine::Tract.start(&nothing).unwrap_err()).contains("xtask/peers"));
        let wrong = Environment { python: Some(PathBuf::from("/nowhere/python3")), rust_peers: None };
        let message = format!("{:#}", Engine::OpenVino.start(&wrong).unwrap_err());
        assert!(message.contains("OpenVINO") && message.contains("/nowhere/python3"), "{message}");
        assert!(message.contains("--python"), "{message}");
    }
}
