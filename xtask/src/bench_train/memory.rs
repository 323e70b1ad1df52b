//! How much memory training steps need, from Linux's high-water mark of the resident size.

use super::MEMORY_STEPS;
use super::networks::Network;
use super::stepper::Stepper;
use crate::resident::{high_water, reset_high_water};
use anyhow::{Context, Result, bail};
use std::process::Command;

/// Growth of the high-water mark over some steps, in bytes, measured in this process.
///
/// # Errors
/// If the steps fail, or the system does not tell.
pub fn ours(network: &Network, steps: usize) -> Result<u64> {
    let mut stepper = Stepper::new(network)?;
    // sets the mark back to what is resident now; where it is not allowed, the mark stays as it is
    let _ = reset_high_water();
    let before = high_water().context("this system has no /proc/self/status with VmHWM")?;
    stepper.steps(steps - 1)?;
    let after = high_water().context("VmHWM")?;
    Ok(after - before)
}

/// The same in a process of its own; `None` where the system does not tell.
///
/// # Errors
/// If the process fails.
pub fn ours_apart(network: &Network, threads: usize) -> Result<Option<u64>> {
    if high_water().is_none() {
        return Ok(None);
    }
    let program = std::env::current_exe().context("the path of this program")?;
    let threads = threads.to_string();
    let arguments = ["bench-train", "--memory-of", network.name, "--threads", &threads];
    let done = Command::new(program).args(arguments).output().context("starting this program again")?;
    if !done.status.success() {
        bail!(
            "measuring the memory of {MEMORY_STEPS} steps failed: {}",
            String::from_utf8_lossy(&done.stderr)
        );
    }
    let text = String::from_utf8_lossy(&done.stdout);
    Ok(Some(text.trim().parse().with_context(|| format!("bytes, not `{}`", text.trim()))?))
}
