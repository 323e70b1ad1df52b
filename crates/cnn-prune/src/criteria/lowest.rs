//! The choice of the lowest scores.

/// True for the `count` lowest scores over all layers together.
///
/// Exactly `count` are chosen: of equal scores the one in the earlier layer, then at the earlier position,
/// goes first. The highest score of each layer is never chosen, so that no layer is cut through; `count` is
/// capped accordingly. Scores are finite.
pub fn lowest(scores: &[Vec<f32>], count: usize) -> Vec<Vec<bool>> {
    let mut chosen: Vec<Vec<bool>> = scores.iter().map(|layer| vec![false; layer.len()]).collect();
    let mut order = Vec::with_capacity(scores.iter().map(Vec::len).sum());
    for (layer, scores) in scores.iter().enumerate() {
        let best = (0..scores.len()).max_by(|&a, &b| scores[a].total_cmp(&scores[b]));
        order.extend((0..scores.len()).filter(|&at| Some(at) != best).map(|at| (scores[at], layer, at)));
    }
    let count = count.min(order.len());
    if count > 0 && count < order.len() {
        order.select_nth_unstable_by(count - 1, |a, b| a.0.total_cmp(&b.0).then((a.1, a.2).cmp(&(b.1, b.2))));
    }
    order[..count].iter().for_each(|&(_, layer, at)| chosen[layer][at] = true);
    chosen
}

/// As [`lowest`] for units of several sizes: the units with the lowest scores that have at most `count` weights together, as
/// long as they come in order. `sizes` are the weights of each unit.
pub fn lowest_units(scores: &[Vec<f32>], sizes: &[&[u32]], count: usize) -> Vec<Vec<bool>> {
    if sizes.iter().all(|layer| layer.iter().all(|&n| n == 1)) {
        return lowest(scores, count);
    }
    let mut chosen: Vec<Vec<bool>> = scores.iter().map(|layer| vec![false; layer.len()]).collect();
    let mut order = Vec::with_capacity(scores.iter().map(Vec::len).sum());
    for (layer, scores) in scores.iter().enumerate() {
        let best = (0..scores.len()).max_by(|&a, &b| scores[a].total_cmp(&scores[b]));
        order.extend((0..scores.len()).filter(|&at| Some(at) != best).map(|at| (scores[at], layer, at)));
    }
    order.sort_by(|a, b| a.0.total_cmp(&b.0).then((a.1, a.2).cmp(&(b.1, b.2))));
    let mut left = count;
    for (_, layer, at) in order {
        let Some(rest) = left.checked_sub(sizes[layer][at] as usize) else { break };
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
        let sizes: [&[u32]; 2] = [&[4, 4, 1], &[2, 2]];
        assert_eq!(lowest_units(&scores, &sizes, 6), [vec![false, true, false], vec![true, false]]);
        assert_eq!(lowest_units(&scores, &sizes, 5), [vec![false, true, false], vec![false, false]]);
        assert_eq!(lowest_units(&scores, &[&[1; 3], &[1; 2]], 2), lowest(&scores, 2));
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
