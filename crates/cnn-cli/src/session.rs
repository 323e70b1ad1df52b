//! What every command works with: everything by name, messages, progress, and the wish to stop.

use crate::stop::{Stop, StopHook};
use cnn_core::train::{EpochInfo, Hook, Progress};
use cnn_core::{Graph, Registry, Result};
use std::sync::{Arc, Mutex};

/// How much is said, and how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Voice {
    /// Messages and progress bars on standard error, the answer as text on standard output.
    #[default]
    Human,
    /// The answer as text, and warnings.
    Quiet,
    /// One JSON object on standard output, which holds the messages.
    Json,
}

/// Where messages go; copies speak for the same session.
#[derive(Debug, Clone, Default)]
pub struct Messages {
    voice: Voice,
    all: Arc<Mutex<Vec<String>>>,
}

impl Messages {
    /// Says what is being done or was assumed.
    pub fn note(&self, text: impl Into<String>) {
        self.say(self.voice == Voice::Human, text.into());
    }

    /// Says what the user has to know.
    pub fn warn(&self, text: impl Into<String>) {
        self.say(self.voice != Voice::Json, format!("warning: {}", text.into()));
    }

    fn say(&self, aloud: bool, text: String) {
        if aloud {
            eprintln!("{text}");
        }
        if let Ok(mut all) = self.all.lock() {
            all.push(text);
        }
    }

    /// All messages so far.
    pub fn all(&self) -> Vec<String> {
        self.all.lock().map(|m| m.clone()).unwrap_or_default()
    }
}

/// One run of the program.
#[derive(Debug)]
pub struct Session {
    /// Layers, methods and networks by name.
    pub registry: Registry,
    /// The wish to stop.
    pub stop: Stop,
    /// Where messages go.
    pub messages: Messages,
}

impl Session {
    /// A session with everything of the workspace.
    pub fn new(voice: Voice) -> Session {
        let messages = Messages { voice, all: Arc::default() };
        Session { registry: crate::registry(), stop: Stop::default(), messages }
    }

    /// How much is said.
    pub fn voice(&self) -> Voice {
        self.messages.voice
    }

    /// As [`Messages::note`].
    pub fn note(&self, text: impl Into<String>) {
        self.messages.note(text);
    }

    /// As [`Messages::warn`].
    pub fn warn(&self, text: impl Into<String>) {
        self.messages.warn(text);
    }

    /// Where progress is shown: on a terminal only.
    pub fn progress(&self) -> Progress {
        if self.voice() == Voice::Human { Progress::terminal() } else { Progress::quiet() }
    }

    /// Hooks for every training: one that stops it, one that says how each epoch ended.
    pub fn hooks(&self) -> Vec<Box<dyn Hook>> {
        vec![Box::new(StopHook(self.stop.clone())), Box::new(EpochNotes(self.messages.clone()))]
    }
}

/// Says how each epoch ended.
#[derive(Debug)]
struct EpochNotes(Messages);

impl Hook for EpochNotes {
    fn name(&self) -> &'static str {
        "cli.notes"
    }

    fn on_epoch(&mut self, _graph: &mut Graph, at: &EpochInfo) -> Result<()> {
        let validation =
            at.validation.map_or_else(String::new, |v| format!(", validation {:.2} %", 100.0 * v));
        self.0.note(format!("  epoch {} of {}: loss {:.4}{validation}", at.epoch + 1, at.epochs, at.loss));
        Ok(())
    }
}
