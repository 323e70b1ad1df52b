use super::*;
use proptest::prelude::*;

/// Sum of squares to the nearest centroid, by trying all.
fn inertia(values: &[f32], c: &[f64]) -> f64 {
    values
        .iter()
        .map(|&v| f64::from(v))
        .map(|v| c.iter().map(|c| (v - c).powi(2)).fold(f64::INFINITY, f64::min))
        .sum()
}

/// One iteration as in a textbook.
fn naive_step(values: &[f32], c: &[f64]) -> Vec<f64> {
    let mut members = vec![Vec::new(); c.len()];
    for v in values.iter().map(|&v| f64::from(v)) {
        let mut best = 0;
        for k in 1..c.len() {
            // in the middle, the lower one; the same expression as above, so that ties fall alike
            if v > 0.5 * (c[best] + c[k]) {
                best = k;
            }
        }
        members[best].push(v);
    }
    c.iter()
        .zip(&members)
        .map(|(&c, m)| if m.is_empty() { c } else { m.iter().sum::<f64>() / m.len() as f64 })
        .collect()
}

proptest! {
    #[test]
    fn lloyd_is_the_naive_one_and_inertia_never_rises(
        mut values in prop::collection::vec(-1.0f32..1.0, 20..300),
        mut c in prop::collection::vec(-1.0f64..1.0, 1..12),
    ) {
        values.sort_by(f32::total_cmp);
        c.sort_by(f64::total_cmp);
        let mut fast = c.clone();
        Clusters::new(&values).lloyd(&mut fast);
        let mut before = inertia(&values, &c);
        loop {
            let next = naive_step(&values, &c);
            let now = inertia(&values, &next);
            prop_assert!(now <= before + 1e-9, "{} rose to {}", before, now);
            before = now;
            if next == c {
                break;
            }
            c = next;
        }
        for (a, b) in fast.iter().zip(&c) {
            prop_assert!((a - b).abs() < 1e-9, "{:?} and {:?}", fast, c);
        }
    }

    #[test]
    fn refilling_lowers_the_inertia(mut values in prop::collection::vec(-1.0f32..1.0, 20..100)) {
        values.sort_by(f32::total_cmp);
        let clusters = Clusters::new(&values);
        let mut c = vec![0.0, 5.0, 6.0, 7.0];
        clusters.lloyd(&mut c);
        let before = inertia(&values, &c);
        prop_assert!(clusters.refill(&mut c));
        prop_assert!(c.is_sorted() && c[3] <= 1.0);
        prop_assert!(inertia(&values, &c) < before);
    }

    /// Against all ways to cut the sorted values.
    #[test]
    fn the_optimum_is_the_best_of_all(mut values in prop::collection::vec(-1.0f32..1.0, 4..12), h in prop::collection::vec(0.1f32..2.0, 12), k in 1usize..5) {
        values.sort_by(f32::total_cmp);
        let n = values.len();
        for clusters in [Clusters::new(&values), Clusters::weighted(&values, &h[..n])] {
            let cuts = (0..1usize << (n - 1)).filter(|cuts| cuts.count_ones() as usize == k.min(n) - 1);
            let explained = |ends: &[usize]| {
                let starts = std::iter::once(&0).chain(ends);
                starts.zip(ends).map(|(&from, &to)| clusters.explained(from, to)).sum::<f64>()
            };
            let most = cuts
                .map(|cuts| explained(&(1..=n).filter(|&i| i == n || cuts >> (i - 1) & 1 == 1).collect::<Vec<_>>()))
                .fold(f64::NEG_INFINITY, f64::max);
            let found = explained(&clusters.bounds(&optimal::centroids(&clusters, k))[1..]);
            prop_assert!((most - found).abs() < 1e-9, "{} and not {}", found, most);
        }
    }

    /// A curvature of three is three values.
    #[test]
    fn curvatures_are_repetitions(values in prop::collection::vec((-1.0f32..1.0, 0usize..4), 40..80), optimal: bool) {
        let init = if optimal { Init::Optimal } else { Init::Linear };
        let (v, h): (Vec<f32>, Vec<f32>) = values.iter().map(|&(v, times)| (v, times as f32)).unzip();
        let repeated: Vec<f32> = values.iter().flat_map(|&(v, times)| std::iter::repeat_n(v, times)).collect();
        let weighted = weighted_centroids(&v, &h, 5, init, 0).unwrap();
        let plain = centroids(&repeated, 5, init, 0).unwrap();
        prop_assert_eq!(weighted.len(), plain.len());
        for (a, b) in weighted.iter().zip(&plain) {
            prop_assert!((a - b).abs() < 1e-6, "{:?} and {:?}", weighted, plain);
        }
    }

    #[test]
    fn nearest_is_nearest(mut c in prop::collection::vec(-1.0f32..1.0, 1..20), value in -1.5f32..1.5) {
        c.sort_by(f32::total_cmp);
        let best = c.iter().map(|c| (value - c).abs()).fold(f32::INFINITY, f32::min);
        prop_assert_eq!((value - c[nearest(&c, value)]).abs(), best);
    }
}

#[test]
fn few_different_values_are_kept() {
    let values: Vec<f32> = (0..1000).map(|i| (i % 7) as f32).collect();
    assert_eq!(centroids(&values, 8, Init::Linear, 0).unwrap(), [0., 1., 2., 3., 4., 5., 6.]);
    assert_eq!(centroids(&values, 7, Init::KMeansPlusPlus, 0).unwrap().len(), 7);
    assert_eq!(centroids(&[], 4, Init::Linear, 0).unwrap(), [0f32; 0]);
    assert!(centroids(&[f32::NAN], 4, Init::Linear, 0).is_err());
    assert!(centroids(&[1.0], 0, Init::Linear, 0).is_err());
    for wrong in [&[1.0f32][..], &[1.0, -1.0], &[f32::NAN, 1.0]] {
        assert!(weighted_centroids(&[1.0, 2.0], wrong, 1, Init::Linear, 0).is_err());
    }
    assert_eq!(weighted_centroids(&[1.0, 3.0], &[0.0, 0.0], 1, Init::Linear, 0).unwrap(), [2.0]);
    assert_eq!(weighted_centroids(&[1.0, 3.0], &[0.0, 1.0], 1, Init::Linear, 0).unwrap(), [3.0]);
}

#[test]
fn all_ways_to_start_find_separate_heaps() {
    let heaps = [-2.0f32, -0.5, 0.25, 3.0];
    let values: Vec<f32> =
        (0..20_000).map(|i| heaps[i % 4] + ((i * 37 % 101) as f32 - 50.0) * 1e-3).collect();
    for init in [Init::Linear, Init::Density, Init::KMeansPlusPlus, Init::Optimal] {
        let c = centroids(&values, 4, init, 3).unwrap();
        assert!(c.iter().zip(heaps).all(|(c, heap)| (c - heap).abs() < 1e-3), "{init:?}: {c:?}");
    }
}

#[test]
fn tied_values_with_outliers() {
    // a sample by rank sees only a few different values, the whole has more than k
    let mut values = vec![0.5f32; 100_000];
    values.extend((0..40).map(|i| -(i as f32)));
    for init in [Init::Linear, Init::Density, Init::KMeansPlusPlus, Init::Optimal] {
        let c = centroids(&values, 32, init, 0).unwrap();
        assert!(c.len() > 16 && c.len() <= 32 && c.is_sorted(), "{init:?}: {c:?}");
    }
}

#[test]
fn the_same_whatever_the_threads() {
    let values: Vec<f32> =
        (0..50_000).map(|i| ((i * 7919 % 10_007) as f32 / 10_007.0 - 0.5).powi(3)).collect();
    let with = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| centroids(&values, 64, Init::KMeansPlusPlus, 9).unwrap())
    };
    assert_eq!(with(1), with(3));
}
