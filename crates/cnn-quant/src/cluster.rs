//! k-means of the weights of one layer (SPEC 2.2; Han, Mao, Dally 2016, section 4, eq. 2):
//! `argmin_C sum_{i=1..k} sum_{w in c_i} |w - c_i|^2`.
//!
//! linfa clusters a sample of bounded size; Lloyd's algorithm then finishes on all weights. In one dimension the clusters of
//! sorted weights are intervals, and prefix sums give their means: an iteration takes k binary searches, not n k distances.

use crate::error::Error;
use linfa::DatasetBase;
use linfa::traits::Fit;
use linfa_clustering::{KMeans, KMeansInit};
use ndarray::Array2;
use rand_xoshiro::Xoshiro256Plus;
use rand_xoshiro::rand_core::SeedableRng;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// Weights that linfa sees.
const SAMPLE: usize = 4096;
/// Iterations on the sample; all weights get theirs afterwards.
const SAMPLE_ITERATIONS: u64 = 25;
/// Bound on Lloyd iterations over all weights; it stops earlier when no weight changes its cluster.
const ITERATIONS: usize = 500;
/// How often clusters that became empty are put to use elsewhere.
const REFILLS: usize = 16;

/// First centroids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Init {
    /// Evenly spaced between the smallest and the largest weight: large weights, few but important, get centroids of their
    /// own. The best of three in Han, Mao, Dally 2016, section 3.2.
    #[default]
    Linear,
    /// k-means++ (Arthur & Vassilvitskii 2007).
    #[serde(alias = "kmeans++", alias = "k-means++")]
    KMeansPlusPlus,
}

/// At most `k` centroids for the values, in ascending order. When there are no more than `k` different values, they are
/// the centroids: nothing is lost.
///
/// The result depends on the values, not on their order, and not on the number of threads.
///
/// # Errors
/// If a value is not finite, `k` is 0, or linfa fails.
pub fn centroids(values: &[f32], k: usize, init: Init, seed: u64) -> Result<Vec<f32>, Error> {
    if k == 0 || values.iter().any(|v| !v.is_finite()) {
        return Err(Error::KMeans("it needs finite values and at least one cluster".into()));
    }
    let mut sorted = values.to_vec();
    sorted.par_sort_unstable_by(f32::total_cmp);
    let mut distinct: Vec<f32> = Vec::with_capacity(k + 1);
    for &v in &sorted {
        if distinct.last() != Some(&v) {
            distinct.push(v);
        }
        if distinct.len() > k {
            break;
        }
    }
    if distinct.len() <= k {
        return Ok(distinct);
    }
    let sorted: Vec<f64> = sorted.into_iter().map(f64::from).collect();
    let clusters = Clusters::new(&sorted);
    let mut c = seeds(&sorted, k, init, seed)?;
    clusters.lloyd(&mut c);
    for _ in 0..REFILLS {
        if !clusters.refill(&mut c) {
            break;
        }
        clusters.lloyd(&mut c);
    }
    let bounds = clusters.bounds(&c);
    let mut found: Vec<f32> =
        c.iter().zip(bounds.windows(2)).filter(|(_, b)| b[0] < b[1]).map(|(&c, _)| c as f32).collect();
    found.dedup();
    Ok(found)
}

/// Position of the centroid nearest to a value, the lower of two at the same distance. `centroids` ascend.
pub fn nearest(centroids: &[f32], value: f32) -> usize {
    let above = centroids.partition_point(|&c| c < value);
    match (above.checked_sub(1).map(|below| centroids[below]), centroids.get(above)) {
        (Some(low), Some(&high)) => above - usize::from(value - low <= high - value),
        (Some(_), None) => above - 1,
        (None, _) => 0,
    }
}

/// Centroids of a sample, by linfa; ascending.
fn seeds(sorted: &[f64], k: usize, init: Init, seed: u64) -> Result<Vec<f64>, Error> {
    // evenly spaced ranks, the extremes included
    let count = sorted.len().min(SAMPLE);
    let sample: Vec<f64> = (0..count).map(|i| sorted[i * (sorted.len() - 1) / (count - 1).max(1)]).collect();
    let (min, max) = (sorted[0], sorted[sorted.len() - 1]);
    let failed = |e: &dyn std::fmt::Display| Error::KMeans(e.to_string());
    let method = match init {
        Init::KMeansPlusPlus => KMeansInit::KMeansPlusPlus,
        Init::Linear => {
            let at = |i: usize| min + (max - min) * (i as f64 + 0.5) / k as f64;
            let c = Array2::from_shape_vec((k, 1), (0..k).map(at).collect()).map_err(|e| failed(&e))?;
            KMeansInit::Precomputed(c)
        }
    };
    let records = Array2::from_shape_vec((count, 1), sample).map_err(|e| failed(&e))?;
    let model = KMeans::params_with_rng(k, Xoshiro256Plus::seed_from_u64(seed))
        .init_method(method)
        .n_runs(1)
        .max_n_iterations(SAMPLE_ITERATIONS)
        .tolerance(1e-6 * (max - min))
        .fit(&DatasetBase::from(records))
        .map_err(|e| failed(&e))?;
    let mut c: Vec<f64> = model.centroids().iter().copied().collect();
    c.sort_by(f64::total_cmp);
    Ok(c)
}

/// Sorted values with what is needed for the sum over any interval of them.
struct Clusters<'a> {
    sorted: &'a [f64],
    sums: Vec<f64>,
    squares: Vec<f64>,
}

impl Clusters<'_> {
    fn new(sorted: &[f64]) -> Clusters<'_> {
        let prefix = |f: fn(f64) -> f64| {
            let running = sorted.iter().scan(0.0, |sum, &v| {
                *sum += f(v);
                Some(*sum)
            });
            std::iter::once(0.0).chain(running).collect::<Vec<f64>>()
        };
        Clusters { sorted, sums: prefix(|v| v), squares: prefix(|v| v * v) }
    }

    /// Cluster `i` holds the values `bounds[i] .. bounds[i + 1]`: those nearer to centroid `i` than to the others; in the
    /// middle between two, the lower one.
    fn bounds(&self, c: &[f64]) -> Vec<usize> {
        let between = c.windows(2).map(|pair| {
            let middle = 0.5 * (pair[0] + pair[1]);
            self.sorted.partition_point(|&v| v <= middle)
        });
        std::iter::once(0).chain(between).chain([self.sorted.len()]).collect()
    }

    fn mean(&self, from: usize, to: usize) -> f64 {
        (self.sums[to] - self.sums[from]) / (to - from) as f64
    }

    fn inertia(&self, from: usize, to: usize) -> f64 {
        let sum = self.sums[to] - self.sums[from];
        self.squares[to] - self.squares[from] - sum * sum / (to - from).max(1) as f64
    }

    /// Lloyd's iteration: each value to its nearest centroid, each centroid to the mean of its values. A centroid without
    /// values stays.
    fn lloyd(&self, c: &mut [f64]) {
        let mut bounds = self.bounds(c);
        for _ in 0..ITERATIONS {
            for (c, at) in c.iter_mut().zip(bounds.windows(2)).filter(|(_, at)| at[0] < at[1]) {
                *c = self.mean(at[0], at[1]);
            }
            let next = self.bounds(c);
            if next == bounds {
                break;
            }
            bounds = next;
        }
    }

    /// Puts each centroid without values into the cluster with the largest sum of squares, which is split at its mean.
    /// False if there was none.
    fn refill(&self, c: &mut [f64]) -> bool {
        let bounds = self.bounds(c);
        let mut intervals: Vec<(usize, usize)> =
            bounds.windows(2).filter(|b| b[0] < b[1]).map(|b| (b[0], b[1])).collect();
        let missing = c.len() - intervals.len();
        for _ in 0..missing {
            let splittable = |&(from, to): &(usize, usize)| self.sorted[from] < self.sorted[to - 1];
            let worst = (0..intervals.len()).filter(|&i| splittable(&intervals[i])).max_by(|&a, &b| {
                let inertia = |i: usize| self.inertia(intervals[i].0, intervals[i].1);
                inertia(a).total_cmp(&inertia(b))
            });
            let Some(worst) = worst else { break };
            let (from, to) = intervals[worst];
            let mean = self.mean(from, to);
            // at least one value on each side, whatever the rounding of the mean
            let cut = from + self.sorted[from..to].partition_point(|&v| v <= mean);
            let cut = cut.clamp(from + 1, to - 1);
            intervals[worst] = (from, cut);
            intervals.insert(worst + 1, (cut, to));
        }
        let means: Vec<f64> = intervals.iter().map(|&(from, to)| self.mean(from, to)).collect();
        c[..means.len()].copy_from_slice(&means);
        // centroids that found no place repeat the last one: they stay empty, and the order holds
        if let Some(&last) = means.last() {
            c[means.len()..].fill(last);
        }
        missing > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Sum of squares to the nearest centroid, by trying all.
    fn inertia(values: &[f64], c: &[f64]) -> f64 {
        values.iter().map(|v| c.iter().map(|c| (v - c).powi(2)).fold(f64::INFINITY, f64::min)).sum()
    }

    /// One iteration as in a textbook.
    fn naive_step(values: &[f64], c: &[f64]) -> Vec<f64> {
        let mut members = vec![Vec::new(); c.len()];
        for &v in values {
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
            mut values in prop::collection::vec(-1.0f64..1.0, 20..300),
            mut c in prop::collection::vec(-1.0f64..1.0, 1..12),
        ) {
            values.sort_by(f64::total_cmp);
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
        fn refilling_lowers_the_inertia(mut values in prop::collection::vec(-1.0f64..1.0, 20..100)) {
            values.sort_by(f64::total_cmp);
            let clusters = Clusters::new(&values);
            let mut c = vec![0.0, 5.0, 6.0, 7.0];
            clusters.lloyd(&mut c);
            let before = inertia(&values, &c);
            prop_assert!(clusters.refill(&mut c));
            prop_assert!(c.is_sorted() && c[3] <= 1.0);
            prop_assert!(inertia(&values, &c) < before);
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
    }

    #[test]
    fn both_ways_to_start_find_separate_heaps() {
        let heaps = [-2.0f32, -0.5, 0.25, 3.0];
        let values: Vec<f32> =
            (0..20_000).map(|i| heaps[i % 4] + ((i * 37 % 101) as f32 - 50.0) * 1e-3).collect();
        for init in [Init::Linear, Init::KMeansPlusPlus] {
            let c = centroids(&values, 4, init, 3).unwrap();
            assert!(c.iter().zip(heaps).all(|(c, heap)| (c - heap).abs() < 1e-3), "{init:?}: {c:?}");
        }
    }

    #[test]
    fn tied_values_with_outliers() {
        // a sample by rank sees only a few different values, the whole has more than k
        let mut values = vec![0.5f32; 100_000];
        values.extend((0..40).map(|i| -(i as f32)));
        for init in [Init::Linear, Init::KMeansPlusPlus] {
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
}
