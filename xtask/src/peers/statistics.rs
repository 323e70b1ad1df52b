//! Quartiles and the geometric mean.

use crate::bench::statistics::percentile;
use serde::Serialize;

/// The middle half of some values.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Quartiles {
    /// A quarter of the values lies below.
    pub lower: f64,
    /// Half of them.
    pub median: f64,
    /// Three quarters.
    pub upper: f64,
}

impl Quartiles {
    /// Of the values; `None` for none.
    pub fn of(values: &[f64]) -> Option<Quartiles> {
        let at = |p| percentile(values, p);
        (!values.is_empty()).then(|| Quartiles { lower: at(0.25), median: at(0.5), upper: at(0.75) })
    }
}

/// `exp(mean(log(values)))`; `None` for none.
pub fn geometric_mean(values: &[f64]) -> Option<f64> {
    let sum: f64 = values.iter().map(|v| v.ln()).sum();
    (!values.is_empty()).then(|| (sum / values.len() as f64).exp())
}

/// The ratios `ours / theirs`, round by round.
pub fn ratios(ours: &[f64], theirs: &[f64]) -> Vec<f64> {
    ours.iter().zip(theirs).map(|(o, t)| o / t).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quartiles_by_hand() {
        let quartiles = Quartiles { lower: 2.0, median: 3.0, upper: 4.0 };
        assert_eq!(Quartiles::of(&[5.0, 1.0, 4.0, 2.0, 3.0]), Some(quartiles));
        assert_eq!(Quartiles::of(&[]), None);
    }

    #[test]
    fn the_geometric_mean_of_a_ratio_and_its_inverse_is_one() {
        assert!((geometric_mean(&[4.0, 0.25]).unwrap() - 1.0).abs() < 1e-12);
        assert!((geometric_mean(&[2.0, 8.0]).unwrap() - 4.0).abs() < 1e-12);
        assert_eq!(geometric_mean(&[]), None);
    }

    #[test]
    fn a_load_on_both_sides_of_a_round_leaves_the_ratio() {
        let loaded = ratios(&[1.0, 10.0, 1.0], &[2.0, 20.0, 2.0]);
        assert_eq!(Quartiles::of(&loaded).unwrap(), Quartiles { lower: 0.5, median: 0.5, upper: 0.5 });
    }
}
