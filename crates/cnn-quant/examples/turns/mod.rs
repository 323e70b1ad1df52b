//! What one side of a comparison takes when it has its turn.

use cnn_core::session::Session;
use std::time::{Duration, Instant};

/// What a turn takes at least.
const TURN: Duration = Duration::from_millis(10);

/// Seconds a run, of several runs.
pub fn time(session: &mut Session, x: &[f32], y: &mut [f32]) -> cnn_core::Result<f64> {
    let (start, mut runs) = (Instant::now(), 0);
    while runs == 0 || start.elapsed() < TURN {
        session.run_into(x, y)?;
        runs += 1;
    }
    Ok(start.elapsed().as_secs_f64() / f64::from(runs))
}
