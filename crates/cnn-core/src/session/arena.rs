//! One piece of memory for all edges: those that are never alive together share places.

/// Floats of a cache line: everything starts on one.
const LINE: usize = 16;

/// An offset for each storage, and the length of the whole. A storage lives from its first to its last step, both included; one with
/// `first > last` needs no place.
///
/// The largest comes first; each takes the lowest gap between those that live at the same time.
pub(super) fn place(sizes: &[usize], lives: &[(usize, usize)]) -> (Vec<usize>, usize) {
    let mut order: Vec<usize> = (0..sizes.len()).filter(|&i| lives[i].0 <= lives[i].1).collect();
    order.sort_by_key(|&i| (std::cmp::Reverse(sizes[i]), i));
    let mut offsets = vec![0; sizes.len()];
    let mut placed: Vec<usize> = Vec::new();
    let mut total = 0;
    for &i in &order {
        let mut taken: Vec<(usize, usize)> = placed
            .iter()
            .filter(|&&j| lives[j].0 <= lives[i].1 && lives[i].0 <= lives[j].1)
            .map(|&j| (offsets[j], offsets[j] + sizes[j]))
            .collect();
        taken.sort_unstable();
        let mut at = 0;
        for (start, end) in taken {
            if start >= at + sizes[i] {
                break;
            }
            at = at.max(end.next_multiple_of(LINE));
        }
        offsets[i] = at;
        total = total.max(at + sizes[i]);
        placed.push(i);
    }
    (offsets, total)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_chain_needs_two_places() {
        let (offsets, total) = place(&[64, 64, 64, 64], &[(0, 1), (1, 2), (2, 3), (3, 4)]);
        assert_eq!(offsets, [0, 64, 0, 64]);
        assert_eq!(total, 128);
    }

    proptest! {
        #[test]
        fn what_lives_together_lies_apart(all in prop::collection::vec((1usize..100, 0usize..10, 0usize..10), 1..20)) {
            let sizes: Vec<usize> = all.iter().map(|a| a.0).collect();
            let lives: Vec<_> = all.iter().map(|a| (a.1.min(a.2), a.1.max(a.2))).collect();
            let (offsets, total) = place(&sizes, &lives);
            for i in 0..sizes.len() {
                prop_assert!(offsets[i] + sizes[i] <= total && offsets[i].is_multiple_of(LINE));
                for j in 0..i {
                    let together = lives[i].0 <= lives[j].1 && lives[j].0 <= lives[i].1;
                    let apart = offsets[i] + sizes[i] <= offsets[j] || offsets[j] + sizes[j] <= offsets[i];
                    prop_assert!(!together || apart);
                }
            }
        }
    }
}
