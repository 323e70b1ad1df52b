//! The choice of the lowest scores.

use std::cmp::Ordering;

/// True for the `count` lowest scores over all layers together.
///
/// Exactly `count` are chosen: of equal scores the one in the earlier layer, then at the earlier position,
/// goes first. The highest score of each layer is never chosen, so that no layer is cut through; `count` is
/// capped accordingly. Scores are finite.
pub fn lowest(scores: &[Vec<f32>], count: usize) -> Vec<Vec<bool>> {
    let bests: Vec<Option<usize>> = scores.iter().map(|layer| best(layer)).collect();
    let mut all: Vec<f32> = Vec::with_capacity(scores.iter().map(Vec::len).sum());
    for (scores, best) in scores.iter().zip(&bests) {
        all.extend(scores.iter().enumerate().filter(|(at, _)| Some(*at) != *best).map(|(_, &s)| s));
    }
    let count = count.min(all.len());
    if count == 0 {
        return scores.iter().map(|layer| vec![false; layer.len()]).collect();
    }
    let (below, &mut threshold, _) = all.select_nth_unstable_by(count - 1, f32::total_cmp);
    // what is below the threshold, and of what is equal to it the first ones
    let mut equal = count - below.iter().filter(|s| s.total_cmp(&threshold).is_lt()).count();
    let mut choose = |s: &f32| match s.total_cmp(&threshold) {
        Ordering::Less => true,
        Ordering::Equal if equal > 0 => {
            equal -= 1;
            true
        }
        _ => false,
    };
    let layers = scores.iter().zip(bests);
    layers
        .map(|(scores, best)| {
            scores.iter().enumerate().map(|(at, s)| Some(at) != best && choose(s)).collect()
        })
        .collect()
}

/// Position of a layer's highest score, the last of equals.
fn best(scores: &[f32]) -> Option<usize> {
    (0..scores.len()).max_by(|&a, &b| scores[a].total_cmp(&scores[b]))
}

/// As [`lowest`] for units of several sizes: the units with the lowest scores that have at most `count` weights together, as
/// long as they come in order. `sizes` are the weights of each layer's units, `None` where each has one.
pub fn lowest_units(scores: &[Vec<f32>], sizes: &[Option<&[u32]>], count: usize) -> Vec<Vec<bool>> {
    if sizes.iter().all(Option::is_none) {
        return lowest(scores, count);
    }
    let mut chosen: Vec<Vec<bool>> = scores.iter().map(|layer| vec![false; layer.len()]).collect();
    let mut order = Vec::with_capacity(scores.iter().map(Vec::len).sum());
    for (layer, scores) in scores.iter().enumerate() {
        let best = best(scores);
        order.extend((0..scores.len()).filter(|&at| Some(at) != best).map(|at| (scores[at], layer, at)));
    }
    order.sort_by(|a, b| a.0.total_cmp(&b.0).then((a.1, a.2).cmp(&(b.1, b.2))));
    let mut left = count;
    for (_, layer, at) in order {
        let size = sizes[layer].map_or(1, |sizes| sizes[at] as usize);
        let Some(rest) = left.checked_sub(size) else { break };
        left = rest;
        chosen[layer][at] = true;
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn smallest_first_and_ties_by_position() {
        let scores = [vec![0.5, 0.1, 0.1], vec![0.1, 0.9]];
        assert_eq!(lowest(&scores, 2), [vec![false, true, true], vec![false, false]]);
        assert_eq!(lowest(&scores, 3), [vec![false, true, true], vec![true, false]]);
    }

    #[test]
    fn each_layer_keeps_its_best() {
        let scores = [vec![0.1, 0.2], vec![5.0, 6.0]];
        assert_eq!(lowest(&scores, 4), [vec![true, false], vec![true, false]]);
        assert_eq!(lowest(&[vec![], vec![1.0]], 1), [vec![], vec![false]]);
    }

    #[test]
    fn units_go_while_they_fit() {
        let scores = [vec![0.5, 0.1, 0.3], vec![0.2, 0.9]];
        let sizes: [Option<&[u32]>; 2] = [Some(&[4, 4, 1]), Some(&[2, 2])];
        assert_eq!(lowest_units(&scores, &sizes, 6), [vec![false, true, false], vec![true, false]]);
        assert_eq!(lowest_units(&scores, &sizes, 5), [vec![false, true, false], vec![false, false]]);
        assert_eq!(lowest_units(&scores, &[None, Some(&[1; 2])], 2), lowest(&scores, 2));
    }

    proptest! {
        #[test]
        fn exactly_the_lowest(
            scores in proptest::collection::vec(proptest::collection::vec(0u8..9, 1..30), 1..4),
            part in 0.0f64..1.0,
        ) {
            let scores: Vec<Vec<f32>> =
                scores.into_iter().map(|l| l.into_iter().map(f32::from).collect()).collect();
            let total: usize = scores.iter().map(Vec::len).sum();
            let count = (part * total as f64).round() as usize;
            let chosen = lowest(&scores, count);
            let flat = |want: bool| -> Vec<f32> {
                let both = scores.iter().flatten().zip(chosen.iter().flatten());
                both.filter(|(_, c)| **c == want).map(|(s, _)| *s).collect()
            };
            prop_assert_eq!(flat(true).len(), count.min(total - scores.len()));
            for (layer, chosen) in scores.iter().zip(&chosen) {
                prop_assert!(chosen.contains(&false), "a layer lost everything");
                // what stays and is lower than something chosen anywhere can only be a layer's best
                let best = layer.iter().copied().fold(f32::MIN, f32::max);
                let worst = flat(true).into_iter().fold(f32::MIN, f32::max);
                let spared = layer.iter().zip(chosen).filter(|(s, c)| !**c && **s < worst);
                prop_assert!(spared.clone().count() <= 1 && spared.map(|(s, _)| *s).all(|s| s == best));
            }
        }
    }
}
