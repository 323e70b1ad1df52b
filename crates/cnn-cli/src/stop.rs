//! Stopping on the user's request: Ctrl-C once to stop at the next step, twice to quit at once.

use cnn_core::train::{Hook, StepInfo};
use cnn_core::{Error, Graph, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Exit code of a program that Ctrl-C ended (128 + SIGINT).
pub const INTERRUPTED: u8 = 130;

/// A wish to stop, shared by all who can act on it.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Wishes to stop.
    pub fn request(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// True once it was wished.
    pub fn requested(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    /// For the middle of long work.
    ///
    /// # Errors
    /// [`Error::Interrupted`] once it was wished.
    pub fn check(&self) -> Result<()> {
        if self.requested() { Err(Error::Interrupted) } else { Ok(()) }
    }

    /// Makes Ctrl-C (and SIGTERM) a wish to stop; the second one ends the process.
    ///
    /// # Errors
    /// If the system refuses, or it was done before in this process.
    pub fn on_ctrl_c(&self) -> anyhow::Result<()> {
        let stop = self.clone();
        ctrlc::set_handler(move || {
            if stop.requested() {
                std::process::exit(i32::from(INTERRUPTED));
            }
            stop.request();
            eprintln!("\nstopping after this step; press Ctrl-C again to quit at once");
        })?;
        Ok(())
    }
}

/// Stops a training at its next step.
#[derive(Debug)]
pub struct StopHook(pub Stop);

impl Hook for StopHook {
    fn name(&self) -> &'static str {
        "cli.stop"
    }

    fn on_step(&mut self, _graph: &mut Graph, _at: &StepInfo) -> Result<()> {
        self.0.check()
    }
}
