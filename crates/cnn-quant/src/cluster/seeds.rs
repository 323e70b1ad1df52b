//! Centroids to start from.

use crate::error::Error;
use linfa::DatasetBase;
use linfa::traits::Fit;
use linfa_clustering::{KMeans, KMeansInit};
use ndarray::Array2;
use rand_xoshiro::Xoshiro256Plus;
use rand_xoshiro::rand_core::SeedableRng;

/// Weights that linfa sees.
const SAMPLE: usize = 1024;

/// In the middles of `k` equal parts of the range.
pub fn linear(sorted: &[f32], k: usize) -> Vec<f64> {
    let (min, max) = (f64::from(sorted[0]), f64::from(sorted[sorted.len() - 1]));
    (0..k).map(|i| min + (max - min) * (i as f64 + 0.5) / k as f64).collect()
}

/// In the middles of `k` parts of as many values.
pub fn density(sorted: &[f32], k: usize) -> Vec<f64> {
    (0..k).map(|i| f64::from(sorted[((2 * i + 1) * sorted.len() / (2 * k)).min(sorted.len() - 1)])).collect()
}

/// k-means++ on a sample of bounded size, by linfa; ascending.
pub fn k_means_plus_plus(sorted: &[f32], k: usize, seed: u64) -> Result<Vec<f64>, Error> {
    // evenly spaced ranks, the extremes included
    let count = sorted.len().min(SAMPLE);
    let sample = (0..count).map(|i| f64::from(sorted[i * (sorted.len() - 1) / (count - 1).max(1)])).collect();
    let records = Array2::from_shape_vec((count, 1), sample).map_err(|e| Error::KMeans(e.to_string()))?;
    // no more than a first iteration: Lloyd's over all weights follows
    let model = KMeans::params_with_rng(k, Xoshiro256Plus::seed_from_u64(seed))
        .init_method(KMeansInit::KMeansPlusPlus)
        .n_runs(1)
        .max_n_iterations(1)
        .tolerance(f64::MAX)
        .fit(&DatasetBase::from(records))
        .map_err(|e| Error::KMeans(e.to_string()))?;
    let mut c: Vec<f64> = model.centroids().iter().copied().collect();
    c.sort_by(f64::total_cmp);
    Ok(c)
}
