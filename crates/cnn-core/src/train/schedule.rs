//! Learning rate over time.

use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// The factor on the base learning rate, by progress.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    /// Always 1.
    #[default]
    Constant,
    /// Multiplied by `factor` at each of the given epochs.
    Step {
        /// Epochs, from 0, at which the rate falls.
        at: Vec<usize>,
        /// What it is multiplied by.
        factor: f32,
    },
    /// `(1 + cos(pi t)) / 2` with `t` from 0 to 1 over the training (Loshchilov & Hutter 2017, one period).
    Cosine,
    /// Linear from 0 over the first epochs, then another schedule over the rest, whose epochs count from there.
    WarmUp {
        /// Epochs of rise.
        epochs: usize,
        /// What follows.
        then: Box<Schedule>,
    },
}

impl Schedule {
    /// Checks the settings.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a factor that is negative or not finite.
    pub fn check(&self) -> Result<()> {
        match self {
            Schedule::Step { factor, .. } if !factor.is_finite() || *factor < 0.0 => {
                Err(Error::invalid("schedule", format!("a finite factor that is not negative, got {factor}")))
            }
            Schedule::WarmUp { then, .. } => then.check(),
            _ => Ok(()),
        }
    }

    /// The factor at `epoch` (fractional, from 0) of `epochs`.
    pub fn factor(&self, epoch: f32, epochs: f32) -> f32 {
        match self {
            Schedule::Constant => 1.0,
            Schedule::Step { at, factor } => {
                let passed = at.iter().filter(|&&a| epoch >= a as f32).count();
                factor.powi(passed as i32)
            }
            Schedule::Cosine => {
                let t = (epoch / epochs.max(f32::MIN_POSITIVE)).clamp(0.0, 1.0);
                0.5 * (1.0 + (std::f32::consts::PI * t).cos())
            }
            Schedule::WarmUp { epochs: rise, then } => {
                let rise = *rise as f32;
                if epoch < rise { epoch / rise } else { then.factor(epoch - rise, epochs - rise) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cosine_goes_from_one_to_zero() {
        let s = Schedule::Cosine;
        assert_eq!(s.factor(0.0, 10.0), 1.0);
        assert!((s.factor(5.0, 10.0) - 0.5).abs() < 1e-6);
        assert!(s.factor(10.0, 10.0).abs() < 1e-6);
    }

    #[test]
    fn steps_multiply() {
        let s = Schedule::Step { at: vec![2, 4], factor: 0.1 };
        assert_eq!(s.factor(1.9, 6.0), 1.0);
        assert!((s.factor(2.0, 6.0) - 0.1).abs() < 1e-7);
        assert!((s.factor(5.0, 6.0) - 0.01).abs() < 1e-7);
    }

    #[test]
    fn warm_up_rises_then_follows() {
        let s = Schedule::WarmUp { epochs: 2, then: Box::new(Schedule::Cosine) };
        assert_eq!(s.factor(1.0, 10.0), 0.5);
        assert_eq!(s.factor(2.0, 10.0), 1.0);
        assert!(s.factor(10.0, 10.0).abs() < 1e-6);
    }
}
