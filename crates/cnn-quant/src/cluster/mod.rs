//! k-means of the weights of one layer (SPEC 2.2; Han, Mao, Dally 2016, section 4, eq. 2):
//! `argmin_C sum_{i=1..k} sum_{w in c_i} h_w (w - c_i)^2`, with `h = 1`, or with the weight's curvature for `h` (Choi, El-Khamy, Lee
//! 2017, "Towards the Limit of Network Quantization", section 3.2, eq. 9).
//!
//! In one dimension the clusters of sorted weights are intervals: a few centroids to start from ([`seeds`]), Lloyd's iteration over
//! intervals ([`lloyd`]), or the optimum itself ([`optimal`]).

mod lloyd;
mod optimal;
mod seeds;

use crate::error::Error;
use lloyd::Clusters;
use serde::{Deserialize, Serialize};

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
    /// Evenly spaced ranks: as many weights in each cluster (the same section's density-based initialization).
    Density,
    /// k-means++ (Arthur & Vassilvitskii 2007).
    #[serde(alias = "kmeans++", alias = "k-means++")]
    KMeansPlusPlus,
    /// No start but the end: the clusters with the smallest sum of squares there is. Seconds for a million weights.
    Optimal,
}

/// At most `k` centroids for the values, in ascending order. When there are no more than `k` different values, they are
/// the centroids: nothing is lost.
///
/// The result depends on the values, not on their order, and not on the number of threads.
///
/// # Errors
/// If a value is not finite, `k` is 0, or linfa fails.
pub fn centroids(values: &[f32], k: usize, init: Init, seed: u64) -> Result<Vec<f32>, Error> {
    check(values, k)?;
    let mut sorted = values.to_vec();
    radsort::sort(&mut sorted);
    match distinct(&sorted, k) {
        Some(values) => Ok(values),
        None => cluster(&Clusters::new(&sorted), k, init, seed),
    }
}

/// As [`centroids`], where each value counts as much as its `curvatures` says: the change of the loss is about
/// `1/2 sum h (w - c)^2` for the diagonal `h` of the Hessian (Choi, El-Khamy, Lee 2017, eq. 7). Values whose curvature is 0 move nothing,
/// unless all are.
///
/// # Errors
/// As [`centroids`], and if a curvature is missing, negative or not finite.
pub fn weighted_centroids(
    values: &[f32],
    curvatures: &[f32],
    k: usize,
    init: Init,
    seed: u64,
) -> Result<Vec<f32>, Error> {
    if curvatures.len() != values.len() || curvatures.iter().any(|h| !(h.is_finite() && *h >= 0.0)) {
        return Err(Error::KMeans("it needs a finite curvature, not negative, for each value".into()));
    }
    check(values, k)?;
    let mut pairs: Vec<(f32, f32)> =
        values.iter().copied().zip(curvatures.iter().copied()).filter(|p| p.1 > 0.0).collect();
    if pairs.is_empty() {
        return centroids(values, k, init, seed);
    }
    radsort::sort_by_key(&mut pairs, |p| p.0);
    let (sorted, curvatures): (Vec<f32>, Vec<f32>) = pairs.into_iter().unzip();
    match distinct(&sorted, k) {
        Some(values) => Ok(values),
        None => cluster(&Clusters::weighted(&sorted, &curvatures), k, init, seed),
    }
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

fn check(values: &[f32], k: usize) -> Result<(), Error> {
    if k == 0 || values.iter().any(|v| !v.is_finite()) {
        return Err(Error::KMeans("it needs finite values and at least one cluster".into()));
    }
    Ok(())
}

/// The different values if there are at most `k`.
fn distinct(sorted: &[f32], k: usize) -> Option<Vec<f32>> {
    let mut found: Vec<f32> = Vec::with_capacity(k + 1);
    for &v in sorted {
        if found.last() != Some(&v) {
            found.push(v);
        }
        if found.len() > k {
            return None;
        }
    }
    Some(found)
}

fn cluster(clusters: &Clusters<'_>, k: usize, init: Init, seed: u64) -> Result<Vec<f32>, Error> {
    let mut c = match init {
        Init::Linear => seeds::linear(clusters.sorted, k),
        Init::Density => seeds::density(clusters.sorted, k),
        Init::KMeansPlusPlus => seeds::k_means_plus_plus(clusters.sorted, k, seed)?,
        Init::Optimal => optimal::centroids(clusters, k),
    };
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

#[cfg(test)]
mod tests;
