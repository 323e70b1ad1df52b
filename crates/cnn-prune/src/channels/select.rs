//! Which channels go: the ranking, and the widths that come of it.

use super::groups::{ChannelGroup, Unit};
use super::shares::GroupKey;
use crate::criteria::Criterion;
use crate::weights::Scope;
use cnn_core::simd::Isa;
use cnn_core::{Graph, Result};
use std::collections::BTreeMap;

/// Groups whose units are ranked together, weakest first.
#[derive(Debug)]
struct Pool {
    /// Group and unit.
    order: Vec<(usize, usize)>,
    /// Share of the units to remove now; where a budget decides there is none.
    share: Option<f64>,
}

/// The ranking of all units, and the widths that are allowed.
#[derive(Debug)]
pub(super) struct Ranking {
    pools: Vec<Pool>,
    /// For each group: units now, the multiple to round to, the fewest that may be left.
    widths: Vec<(usize, usize, usize)>,
    /// For each unit of each group the nodes whose channels it has, and how many of each.
    members: Vec<Vec<Vec<(usize, usize)>>>,
    /// Channels of each node.
    channels: Vec<usize>,
}

/// How units are ranked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules<'a> {
    /// Part of the way that is to be done, from 0 to 1.
    pub part: f64,
    /// Units of each group at the start of the way.
    pub before: &'a BTreeMap<GroupKey, usize>,
    /// The share that goes; without it a budget decides.
    pub ratio: Option<f64>,
    /// The shares of groups that have one of their own.
    pub own: &'a BTreeMap<GroupKey, f64>,
    pub criterion: Criterion,
    pub scope: Scope,
    pub min_width: usize,
    pub round_to: Option<usize>,
}

impl Ranking {
    /// Ranks units by score for each unit of cost.
    pub fn of(
        graph: &Graph,
        groups: &[ChannelGroup],
        scores: &[Vec<f32>],
        costs: Option<&[f64]>,
        rules: Rules<'_>,
    ) -> Result<Ranking> {
        let keys: Vec<GroupKey> = groups.iter().map(|group| group.key(graph)).collect();
        // estimates of the loss compare as they are, and so do scales of normalizations (Network Slimming has one threshold for all);
        // other scores only relative to their group's mean
        let comparable = matches!(
            rules.criterion,
            Criterion::Taylor | Criterion::Obd | Criterion::Lamp | Criterion::BnScale
        );
        let values: Vec<Vec<f64>> = scores
            .iter()
            .enumerate()
            .map(|(g, scores)| {
                let mean = scores.iter().map(|&s| f64::from(s)).sum::<f64>() / scores.len().max(1) as f64;
                let mean = if comparable || mean <= 0.0 { 1.0 } else { mean };
                let cost = costs.map_or(1.0, |costs| costs[g].max(1e-12));
                scores.iter().map(|&s| f64::from(s) / mean / cost).collect()
            })
            .collect();
        let mut pools: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (g, group) in groups.iter().enumerate() {
            let key = match (rules.own.get(&keys[g]), rules.scope) {
                (Some(_), _) | (None, Scope::Layer) => format!("group {g}"),
                (None, Scope::Isomorphic) => group.signature(graph),
                (None, Scope::Global) => String::new(),
            };
            pools.entry(key).or_default().push(g);
        }
        let pool = |members: Vec<usize>| {
            let mut order: Vec<(usize, usize)> =
                members.iter().flat_map(|&g| (0..groups[g].units.len()).map(move |u| (g, u))).collect();
            order.sort_by(|&a, &b| values[a.0][a.1].total_cmp(&values[b.0][b.1]).then(a.cmp(&b)));
            let now = |&g: &usize| groups[g].units.len();
            let before = |g: &usize| rules.before.get(&keys[*g]).copied().unwrap_or(now(g));
            let ratio = rules.own.get(&keys[members[0]]).copied().or(rules.ratio);
            let (before, now) = (members.iter().map(before).sum(), members.iter().map(now).sum());
            Pool { order, share: ratio.map(|ratio| still_to_go(ratio, rules.part, before, now)) }
        };
        let widths = groups
            .iter()
            .map(|group| {
                let width = group.units.len();
                let round_to = rules.round_to.unwrap_or_else(|| automatic(width)).clamp(1, width);
                (width, round_to, rules.min_width.clamp(1, width))
            })
            .collect();
        let members = groups.iter().map(|group| group.units.iter().map(counts).collect()).collect();
        let channels = graph.shapes(1)?.iter().map(|s| s.get(1).copied().unwrap_or(1)).collect();
        Ok(Ranking { pools: pools.into_values().map(pool).collect(), widths, members, channels })
    }

    /// For every group whether each unit goes, when the share `severity` is to where a budget decides.
    pub fn removed(&self, severity: f64) -> Vec<Vec<bool>> {
        let mut gone: Vec<Vec<bool>> = self.widths.iter().map(|w| vec![false; w.0]).collect();
        let mut left: Vec<usize> = self.widths.iter().map(|w| w.0).collect();
        // a slice may have channels of several groups, and must not lose all of them either
        let mut of_node = self.channels.clone();
        for pool in &self.pools {
            let count = (pool.share.unwrap_or(severity) * pool.order.len() as f64).round() as usize;
            let mut taken = 0;
            for &(g, u) in &pool.order {
                if taken == count {
                    break;
                }
                let unit = &self.members[g][u];
                if left[g] > self.widths[g].2 && unit.iter().all(|&(at, count)| of_node[at] > count) {
                    unit.iter().for_each(|&(at, count)| of_node[at] -= count);
                    gone[g][u] = true;
                    left[g] -= 1;
                    taken += 1;
                }
            }
        }
        // the strongest of those that would go come back until the width is a multiple
        for pool in &self.pools {
            for &(g, u) in pool.order.iter().rev() {
                let (width, multiple, _) = self.widths[g];
                if gone[g][u] && left[g] < left[g].next_multiple_of(multiple).min(width) {
                    gone[g][u] = false;
                    left[g] += 1;
                }
            }
        }
        gone
    }
}

/// The share of `now` units that has to go so that of `before` units a part of a ratio is gone.
fn still_to_go(ratio: f64, part: f64, before: usize, now: usize) -> f64 {
    (1.0 - (1.0 - part * ratio) * before as f64 / now.max(1) as f64).max(0.0)
}

/// How many channels of each node a unit has.
fn counts(unit: &Unit) -> Vec<(usize, usize)> {
    let mut counts: BTreeMap<usize, usize> = BTreeMap::new();
    unit.iter().for_each(|&(at, _)| *counts.entry(at).or_default() += 1);
    counts.into_iter().collect()
}

/// The multiple that widths are rounded to when nothing else is asked for: the lanes of this machine's vectors, or less for narrow
/// layers, so that at least a quarter can be chosen.
fn automatic(width: usize) -> usize {
    let quarter = (width / 4).max(1);
    (1 << quarter.ilog2()).min(Isa::active().lanes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranking(order: Vec<(usize, usize)>, widths: Vec<(usize, usize, usize)>) -> Ranking {
        // each group is a node, each unit one of its channels
        let members = widths.iter().enumerate().map(|(g, w)| vec![vec![(g, 1)]; w.0]).collect();
        let channels = widths.iter().map(|w| w.0).collect();
        Ranking { pools: vec![Pool { order, share: None }], widths, members, channels }
    }

    fn left(gone: &[Vec<bool>]) -> Vec<usize> {
        gone.iter().map(|g| g.iter().filter(|gone| !**gone).count()).collect()
    }

    #[test]
    fn widths_are_rounded_up_and_never_below_the_least() {
        // all of group 0 is weaker than group 1
        let order: Vec<_> = (0..8).map(|u| (0, u)).chain((0..8).map(|u| (1, u))).collect();
        let r = ranking(order.clone(), vec![(8, 1, 2), (8, 1, 2)]);
        assert_eq!(left(&r.removed(0.25)), [4, 8]);
        assert_eq!(left(&r.removed(0.5)), [2, 6]);
        assert_eq!(left(&r.removed(1.0)), [2, 2]);
        let r = ranking(order, vec![(8, 4, 1), (8, 4, 1)]);
        let gone = r.removed(0.5);
        assert_eq!(left(&gone), [4, 8]);
        // those that came back are the strongest
        assert_eq!(gone[0], [true, true, true, true, false, false, false, false]);
    }

    #[test]
    fn no_node_loses_all_its_channels() {
        let order: Vec<_> = (0..3).flat_map(|u| [(0, u), (1, u)]).collect();
        let mut r = ranking(order, vec![(3, 1, 1), (3, 1, 1)]);
        // node 2 is a slice that has the first two channels of both groups
        r.channels.push(4);
        r.members.iter_mut().for_each(|group| group[..2].iter_mut().for_each(|unit| unit.push((2, 1))));
        let gone = r.removed(1.0);
        let of_slice = gone.iter().flat_map(|g| &g[..2]).filter(|gone| !**gone).count();
        assert!(of_slice >= 1 && left(&gone) == [1, 1], "{gone:?}");
    }

    #[test]
    fn rounds_end_at_the_ratio() {
        assert_eq!(still_to_go(0.5, 0.5, 16, 16), 0.25);
        assert_eq!(still_to_go(0.5, 1.0, 16, 12), 1.0 - 8.0 / 12.0);
        assert_eq!(still_to_go(0.5, 1.0, 16, 6), 0.0);
    }

    #[test]
    fn narrow_layers_are_rounded_to_less() {
        assert!([4, 3, 1].iter().all(|&w| automatic(w) == 1));
        assert_eq!(automatic(16), 4);
        assert_eq!(automatic(4096), Isa::active().lanes());
    }
}
