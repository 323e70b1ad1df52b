//! What is removed at once: single weights, or groups of them that kernels profit from.

use crate::error::PruneError;
use serde::{Deserialize, Serialize};

/// What is removed at once. Whole channels are removed by [`crate::Channels`], physically.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Granularity {
    /// Single weights.
    #[default]
    Weight,
    /// Of `of` weights of a filter that read consecutive input channels at the same place of the kernel, `keep` stay (2:4: Mishra et
    /// al. 2021, "Accelerating Sparse Deep Neural Networks"; also 4:8 and 1:4). The share that is removed is `1 - keep / of`;
    /// layers whose input channels are not a multiple of `of` are left alone.
    NOfM {
        /// Weights that stay, at least 1.
        keep: usize,
        /// Weights of a group, more than `keep`.
        of: usize,
        /// Consecutive filters that keep the same ones; 1 by default. With 16 a vector of filters reads the same inputs, and the kernel
        /// leaves out what is gone (Castro et al. 2023, "VENOM").
        #[serde(default = "one")]
        filters: usize,
    },
    /// The weights of this many consecutive filters at one place: a vector of the dense kernels. The last block of a layer may be
    /// smaller.
    Block(usize),
    /// All weights of a filter for one input channel, `kh x kw`.
    Kernel,
}

fn one() -> usize {
    1
}

impl Granularity {
    pub(crate) fn check(self) -> Result<(), PruneError> {
        let why = match self {
            Granularity::NOfM { keep, of, .. } if keep == 0 || keep >= of => {
                format!("{keep} of {of}: at least one weight has to stay, and at least one to go")
            }
            Granularity::NOfM { filters: 0, .. } => "at least one filter has a pattern".to_string(),
            Granularity::Block(0) => "a block has at least one filter".to_string(),
            _ => return Ok(()),
        };
        Err(PruneError::Setting { what: "granularity", why })
    }

    /// The share of the weights that is removed, where the granularity alone decides it.
    pub(crate) fn ratio(self) -> Option<f64> {
        match self {
            Granularity::NOfM { keep, of, .. } => Some(1.0 - keep as f64 / of as f64),
            _ => None,
        }
    }

    /// True if weights of this shape, `[m, c, kh, kw]` or `[outputs, inputs]`, can be removed so.
    pub(crate) fn suits(self, shape: &[usize]) -> bool {
        match self {
            Granularity::NOfM { of, .. } => shape.get(1).is_some_and(|&c| c.is_multiple_of(of)),
            _ => true,
        }
    }

    /// The units of weights of a shape.
    pub fn units(self, shape: &[usize]) -> Units {
        let count: usize = shape.iter().product();
        let filters = shape.first().copied().unwrap_or(1).max(1);
        let per_filter = (count / filters).max(1);
        let spatial: usize = shape.iter().skip(2).product();
        let unit = |i: usize| match self {
            Granularity::Weight | Granularity::NOfM { .. } => i,
            Granularity::Block(height) => i / per_filter / height * per_filter + i % per_filter,
            Granularity::Kernel => i / spatial.max(1),
        };
        match self {
            Granularity::Weight | Granularity::NOfM { .. } => Units(Partition::Single(count)),
            _ => Units::new((0..count).map(|i| unit(i) as u32).collect()),
        }
    }
}

/// A partition of the weights of a layer, in memory order, into units that are removed as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Units(Partition);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Partition {
    /// Every weight by itself.
    Single(usize),
    /// The unit of each weight, and the weights of each unit.
    Groups { of: Vec<u32>, sizes: Vec<u32> },
}

impl Units {
    fn new(of: Vec<u32>) -> Units {
        let count = of.iter().max().map_or(0, |&u| u as usize + 1);
        let mut sizes = vec![0; count];
        of.iter().for_each(|&u| sizes[u as usize] += 1);
        Units(Partition::Groups { of, sizes })
    }

    /// The unit of each weight.
    pub fn of(&self) -> impl Iterator<Item = usize> + '_ {
        let (single, groups) = match &self.0 {
            Partition::Single(count) => (0..*count, &[][..]),
            Partition::Groups { of, .. } => (0..0, &of[..]),
        };
        single.chain(groups.iter().map(|&u| u as usize))
    }

    /// Number of units.
    pub fn count(&self) -> usize {
        match &self.0 {
            Partition::Single(count) => *count,
            Partition::Groups { sizes, .. } => sizes.len(),
        }
    }

    /// Weights of each unit; `None` if that is one for all.
    pub fn sizes(&self) -> Option<&[u32]> {
        match &self.0 {
            Partition::Single(_) => None,
            Partition::Groups { sizes, .. } => Some(sizes),
        }
    }

    /// The mean of each unit's values.
    pub(crate) fn means(&self, values: impl Iterator<Item = f32>) -> Vec<f32> {
        let Partition::Groups { of, sizes } = &self.0 else { return values.collect() };
        let mut sums = vec![0f64; self.count()];
        of.iter().zip(values).for_each(|(&u, v)| sums[u as usize] += f64::from(v));
        sums.iter().zip(sizes).map(|(sum, &n)| (sum / f64::from(n.max(1))) as f32).collect()
    }
}

/// The weights, in memory order, that go when `gone` of every `of` consecutive input channels do, the same ones for `filters` consecutive
/// filters: those with the lowest sums of scores, of equal ones the earlier.
pub(crate) fn lowest_of_each(
    scores: &[f32],
    shape: &[usize],
    [of, filters]: [usize; 2],
    gone: usize,
) -> Vec<bool> {
    let channels = shape.get(1).copied().unwrap_or(1);
    let spatial: usize = shape.iter().skip(2).product();
    let all = scores.len() / (channels * spatial).max(1);
    let mut chosen = vec![false; scores.len()];
    for block in (0..all).step_by(filters) {
        let block = block..(block + filters).min(all);
        for place in 0..spatial {
            for first in (0..channels).step_by(of) {
                let at = |filter: usize, c: usize| (filter * channels + c) * spatial + place;
                let mut group: Vec<(f32, usize)> = (first..(first + of).min(channels))
                    .map(|c| (block.clone().map(|filter| scores[at(filter, c)]).sum(), c))
                    .collect();
                group.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
                for (_, c) in group.into_iter().take(gone) {
                    block.clone().for_each(|filter| chosen[at(filter, c)] = true);
                }
            }
        }
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_of_a_small_convolution() {
        let shape = [3, 2, 1, 2];
        assert_eq!(Granularity::Weight.units(&shape).count(), 12);
        let kernels = Granularity::Kernel.units(&shape);
        assert!(kernels.of().eq([0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]));
        assert!(Granularity::Weight.units(&shape).of().eq(0..12));
        let blocks = Granularity::Block(2).units(&shape);
        assert!(blocks.of().eq([0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 6, 7]));
        assert_eq!(blocks.sizes(), Some(&[2, 2, 2, 2, 1, 1, 1, 1][..]));
        let means = blocks.means((0..12).map(|i| i as f32));
        assert_eq!(means, [2.0, 3.0, 4.0, 5.0, 8.0, 9.0, 10.0, 11.0]);
    }

    #[test]
    fn two_of_four_input_channels_at_each_place() {
        // one filter of four channels and two places
        let scores = [4.0, 1.0, 3.0, 1.0, 2.0, 1.0, 1.0, 2.0];
        let gone = lowest_of_each(&scores, &[1, 4, 1, 2], [4, 1], 2);
        assert_eq!(gone, [false, true, false, true, true, false, true, false]);
        // two filters together
        let scores = [4.0, 1.0, 3.0, 2.0, 0.0, 1.0, 9.0, 1.5];
        let gone = lowest_of_each(&scores, &[2, 4], [4, 2], 2);
        assert_eq!(gone, [false, true, false, true, false, true, false, true]);
        let n_of_m = |keep, of| Granularity::NOfM { keep, of, filters: 1 };
        assert!(!n_of_m(2, 4).suits(&[8, 3, 3, 3]));
        assert!(n_of_m(4, 4).check().is_err());
        assert_eq!(n_of_m(2, 4).ratio(), Some(0.5));
    }
}
