//! Training after something was removed.

use crate::error::PruneError;
use cnn_core::{Graph, Result, Run};

/// Fine-tunes with the run's settings but for the epochs and, where given, the learning rate. `training` counts the trainings of a method,
/// which see the images in different orders. No epochs do nothing.
pub(crate) fn retrain(
    graph: &mut Graph,
    epochs: usize,
    learning_rate: Option<f32>,
    training: u64,
    run: &mut Run<'_>,
) -> Result<()> {
    if epochs == 0 {
        return Ok(());
    }
    let mut settings = run.settings.clone();
    settings.epochs = epochs;
    settings.seed = settings.seed.wrapping_add(training);
    if let Some(rate) = learning_rate {
        settings.optimizer = settings.optimizer.with_rate(rate);
    }
    run.fine_tune(graph, &settings).map(|_| ())
}

/// Checks the learning rate of a configuration.
pub(crate) fn check_rate(learning_rate: Option<f32>) -> Result<(), PruneError> {
    match learning_rate {
        Some(rate) if !(rate >= 0.0 && rate.is_finite()) => Err(PruneError::Setting {
            what: "learning_rate",
            why: "a finite number that is not negative".to_string(),
        }),
        _ => Ok(()),
    }
}
