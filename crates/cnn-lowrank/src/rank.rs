//! How a rank is chosen.

use crate::LowRankError;

/// Tail energy, as a share of the whole, that is rounding of 32-bit weights (a relative error of 3e-7) and
/// never counts.
const ROUNDING: f64 = 1e-13;

/// The rank at which a spectrum is cut.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rank {
    /// The smallest rank whose squared singular values sum to at least this share of all, in `(0, 1]`. 1
    /// keeps everything but the rounding of the weights.
    Energy(f64),
    /// This rank, or the full one where that is smaller.
    Fixed(usize),
    /// This share of the full rank, rounded, at least 1, in `(0, 1]`.
    Ratio(f64),
}

impl Rank {
    /// Checks the number; `key` is what the configuration calls it.
    ///
    /// # Errors
    /// [`LowRankError::Energy`], [`LowRankError::RankZero`] or [`LowRankError::RankRatio`].
    pub fn check(self, key: &'static str) -> Result<(), LowRankError> {
        let share = |value: f64| value > 0.0 && value <= 1.0;
        match self {
            Rank::Energy(value) if !share(value) => Err(LowRankError::Energy { key, value }),
            Rank::Ratio(value) if !share(value) => Err(LowRankError::RankRatio { key, value }),
            Rank::Fixed(0) => Err(LowRankError::RankZero { key }),
            _ => Ok(()),
        }
    }

    /// The rank for squared singular values in falling order; between 1 and their number.
    pub fn choose(self, energies: &[f64]) -> usize {
        let full = energies.len().max(1);
        match self {
            Rank::Fixed(rank) => rank.clamp(1, full),
            Rank::Ratio(ratio) => ((ratio * full as f64).round() as usize).clamp(1, full),
            Rank::Energy(share) => {
                let total: f64 = energies.iter().sum();
                let allowed = (1.0 - share + ROUNDING) * total;
                // the longest tail, summed from its small end, that may be cut off
                let mut tail = 0.0;
                let cut = energies.iter().rev().take_while(|&&e| {
                    tail += e;
                    tail <= allowed
                });
                full.saturating_sub(cut.count()).max(1)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn energy_by_hand() {
        let energies = [8.0, 1.0, 0.5, 0.5];
        let ranks = [0.1, 0.8, 0.81, 0.9, 0.95, 0.96, 1.0].map(|e| Rank::Energy(e).choose(&energies));
        assert_eq!(ranks, [1, 1, 2, 2, 3, 4, 4]);
        assert_eq!(Rank::Energy(1.0).choose(&[4.0, 1.0, 1e-15, 0.0]), 2);
        assert_eq!(Rank::Energy(0.9).choose(&[0.0; 3]), 1);
    }

    #[test]
    fn fixed_ranks_are_bounded_by_the_full_one() {
        let energies = [1.0; 8];
        assert_eq!([1, 5, 9].map(|r| Rank::Fixed(r).choose(&energies)), [1, 5, 8]);
        assert_eq!([0.01, 0.5, 0.55, 1.0].map(|r| Rank::Ratio(r).choose(&energies)), [1, 4, 4, 8]);
    }

    #[test]
    fn bad_numbers_are_named() {
        for bad in [0.0, -0.5, 1.01, f64::NAN, f64::INFINITY] {
            assert!(matches!(
                Rank::Energy(bad).check("energy"),
                Err(LowRankError::Energy { key: "energy", .. })
            ));
            assert!(matches!(Rank::Ratio(bad).check("rank_ratio"), Err(LowRankError::RankRatio { .. })));
        }
        assert_eq!(Rank::Fixed(0).check("rank"), Err(LowRankError::RankZero { key: "rank" }));
        assert!(Rank::Energy(1.0).check("energy").is_ok());
    }

    proptest! {
        #[test]
        fn ranks_rise_with_the_energy(
            mut energies in proptest::collection::vec(0.0f64..10.0, 1..20),
            a in 0.001f64..=1.0, b in 0.001f64..=1.0,
        ) {
            energies.sort_by(|x, y| y.total_cmp(x));
            let at = |share: f64| Rank::Energy(share).choose(&energies);
            let (low, high) = (at(a.min(b)), at(a.max(b)));
            prop_assert!(low >= 1 && low <= high && high <= energies.len());
            // what is kept suffices, and one less would not
            let total: f64 = energies.iter().sum();
            let kept = |r: usize| energies[..r].iter().sum::<f64>();
            prop_assert!(kept(high) >= a.max(b) * total - 1e-9);
            prop_assert!(high == 1 || kept(high - 1) < a.max(b) * total + 1e-9);
        }
    }
}
