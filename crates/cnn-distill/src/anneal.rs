//! How the temperature falls to 1.

use crate::DistillError;
use serde::{Deserialize, Serialize};

/// The course of the temperature from `T0` in the first epoch to 1 in the last, so that the class
/// probabilities turn to the right class (SPEC 2.4, step 3). In JSON `"constant"`, `"linear"`, `"geometric"`
/// or `{"steps": 3}`.
///
/// A training of a single epoch stays at `T0`.
///
/// ```
/// use cnn_distill::Anneal;
/// let course = |anneal: Anneal| (0..6).map(|epoch| anneal.temperature(4.0, epoch, 6)).collect::<Vec<_>>();
/// assert_eq!(course(Anneal::Steps(3)), [4.0, 4.0, 2.0, 2.0, 1.0, 1.0]);
/// assert_eq!(course(Anneal::Constant), [4.0; 6]);
/// assert_eq!(course(Anneal::Linear)[5], 1.0);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Anneal {
    /// Always `T0` (Hinton, Vinyals & Dean 2015).
    Constant,
    /// `T0 + (1 - T0) t` with `t` from 0 to 1.
    Linear,
    /// `T0^(1 - t)`.
    Geometric,
    /// So many plateaus of (nearly) equal length, with the same ratio from one to the next. With fewer epochs
    /// than steps, each epoch is a step.
    Steps(usize),
}

impl Default for Anneal {
    fn default() -> Anneal {
        Anneal::Steps(3)
    }
}

impl Anneal {
    /// Checks the number of steps.
    ///
    /// # Errors
    /// [`DistillError::Steps`] below 2.
    pub fn check(self) -> Result<(), DistillError> {
        match self {
            Anneal::Steps(steps @ 0..2) => Err(DistillError::Steps(steps)),
            _ => Ok(()),
        }
    }

    /// The temperature in an epoch, counted from 0.
    pub fn temperature(self, start: f64, epoch: usize, epochs: usize) -> f64 {
        // position k of n, from 0 to n - 1
        let along = |k: usize, n: usize| if n > 1 { k.min(n - 1) as f64 / (n - 1) as f64 } else { 0.0 };
        let t = along(epoch, epochs);
        match self {
            Anneal::Constant => start,
            Anneal::Linear => start + (1.0 - start) * t,
            Anneal::Geometric => start.powf(1.0 - t),
            Anneal::Steps(steps) => {
                let steps = steps.min(epochs).max(1);
                let step = epoch.min(epochs.saturating_sub(1)).saturating_mul(steps) / epochs.max(1);
                start.powf(1.0 - along(step, steps))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_anneal() -> impl Strategy<Value = Anneal> {
        prop_oneof![
            Just(Anneal::Constant),
            Just(Anneal::Linear),
            Just(Anneal::Geometric),
            (2usize..8).prop_map(Anneal::Steps)
        ]
    }

    proptest! {
        #[test]
        fn falls_from_the_start_to_one(anneal in any_anneal(), start in 1.0f64..50.0, epochs in 1usize..30) {
            let course: Vec<f64> = (0..epochs).map(|e| anneal.temperature(start, e, epochs)).collect();
            prop_assert!((course[0] - start).abs() < 1e-12 * start);
            prop_assert!(course.windows(2).all(|w| w[1] <= w[0]), "{:?}", course);
            if anneal != Anneal::Constant && epochs > 1 {
                prop_assert!((course[epochs - 1] - 1.0).abs() < 1e-12, "{:?}", course);
            }
            if let Anneal::Steps(steps) = anneal {
                let mut plateaus = course.clone();
                plateaus.dedup();
                prop_assert!(start < 1.001 || plateaus.len() == steps.min(epochs), "{:?}", course);
            }
        }
    }

    #[test]
    fn by_hand() {
        assert_eq!(Anneal::Linear.temperature(5.0, 2, 5), 3.0);
        assert_eq!(Anneal::Geometric.temperature(9.0, 1, 3), 3.0);
        assert_eq!(Anneal::Linear.temperature(5.0, 0, 1), 5.0);
        // later epochs than announced stay at the end
        assert_eq!(Anneal::Steps(3).temperature(4.0, 9, 3), 1.0);
        assert_eq!(Anneal::Steps(1).check(), Err(DistillError::Steps(1)));
        assert!(Anneal::Steps(2).check().is_ok());
    }
}
