//! Ranges of activations from a sample of them, in constant memory.

use crate::error::Error;
use crate::grid::{Grid, range};
use cnn_core::tensor::slice;
use cnn_core::{Graph, Tensor};
use ndarray::Axis;
use serde::{Deserialize, Serialize};

/// How the range of a layer's input is chosen. Values beyond it are cut off; the narrower it is, the finer are the levels inside.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Observer {
    /// From the smallest to the largest value: nothing is cut off.
    #[default]
    MinMax,
    /// Means over batches of the smallest and largest values, later ones counting more (Jacob et al. 2018, section 3.1).
    MovingAverage,
    /// The central so many percent of the values.
    Percentile(f64),
    /// Where the quantized values have the distribution nearest to that of the values, by Kullback-Leibler divergence (Migacz 2017,
    /// "8-bit Inference with TensorRT").
    Kl,
    /// Where the mean squared error is smallest.
    Mse,
}

/// What a batch counts in the moving average.
const MOMENTUM: f64 = 0.1;

/// Ends that are tried: each is this part of the one before.
const SHRINK: f32 = 0.95;
/// So many of them.
const CANDIDATES: i32 = 100;

/// What has been seen of an input.
#[derive(Debug, Clone, Default)]
pub struct Watch {
    whole: Option<(f32, f32)>,
    moving: (f64, f64),
    histogram: Histogram,
}

impl Watch {
    /// Takes a batch of values; false if one is not finite.
    pub fn see(&mut self, values: &[f32]) -> bool {
        let Some((min, max)) = range(values.iter().copied()) else { return values.is_empty() };
        match &mut self.whole {
            None => {
                self.whole = Some((min, max));
                self.moving = (f64::from(min), f64::from(max));
            }
            Some(whole) => {
                *whole = (whole.0.min(min), whole.1.max(max));
                self.moving.0 += MOMENTUM * (f64::from(min) - self.moving.0);
                self.moving.1 += MOMENTUM * (f64::from(max) - self.moving.1);
            }
        }
        self.histogram.add(values, min.abs().max(max.abs()));
        true
    }

    /// As [`Watch::see`], for the input of the layer at `at`.
    pub fn see_input(&mut self, graph: &Graph, at: usize, values: &Tensor) -> cnn_core::Result<()> {
        if self.see(slice(values)?) {
            return Ok(());
        }
        let layer = graph.nodes()[at].name.clone();
        Err(Error::NotFinite { what: "calibration activations", layer }.into())
    }

    /// The grid for what was seen; `None` if that is nothing.
    pub fn grid(&self, observer: Observer, bits: u8) -> Option<Grid> {
        let (min, max) = self.whole?;
        // a constant is lossless by every observer
        if min == max {
            return Some(Grid::affine_bits(min, max, bits));
        }
        // one end after the other, twice
        let best = |loss: &dyn Fn(&Grid) -> f64| {
            let mut ends = [min.min(0.0), max.max(0.0)];
            for end in [1, 0, 1, 0] {
                let whole = [min.min(0.0), max.max(0.0)][end];
                let losses = (0..CANDIDATES).map(|at| {
                    let mut tried = ends;
                    tried[end] = whole * SHRINK.powi(at);
                    (loss(&Grid::affine_bits(tried[0], tried[1], bits)), tried)
                });
                ends = losses.min_by(|a, b| a.0.total_cmp(&b.0)).map_or(ends, |(_, tried)| tried);
            }
            Grid::affine_bits(ends[0], ends[1], bits)
        };
        Some(match observer {
            Observer::MinMax => Grid::affine_bits(min, max, bits),
            Observer::MovingAverage => Grid::affine_bits(self.moving.0 as f32, self.moving.1 as f32, bits),
            Observer::Percentile(percent) => {
                let outside = 0.5 * (1.0 - percent / 100.0);
                let [low, high] = [outside, 1.0 - outside].map(|share| self.histogram.quantile(share));
                Grid::affine_bits(low.clamp(min, max), high.clamp(min, max), bits)
            }
            Observer::Kl => best(&|grid| self.histogram.divergence(grid)),
            Observer::Mse => best(&|grid| self.histogram.square_error(grid)),
        })
    }
}

/// Images that go through the network at once: inner activations are large.
const BATCH: usize = 8;

/// What the images say about the input of each of the layers at `found`.
///
/// # Errors
/// [`Error::NotFinite`] naming the layer.
pub fn watch(graph: &Graph, found: &[usize], images: &Tensor) -> cnn_core::Result<Vec<Watch>> {
    let mut watches = vec![Watch::default(); found.len()];
    each_batch(graph, found, images, |i, values, _| watches[i].see_input(graph, found[i], values))?;
    Ok(watches)
}

/// `visit(i, input of the i-th layer, share of the images)` for the images in batches.
pub fn each_batch(
    graph: &Graph,
    found: &[usize],
    images: &Tensor,
    mut visit: impl FnMut(usize, &Tensor, f64) -> cnn_core::Result<()>,
) -> cnn_core::Result<()> {
    let nodes = graph.nodes();
    let inputs = found.iter().filter_map(|&at| nodes[at].inputs.first());
    let sources: Vec<&str> = inputs.map(|&i| nodes[i].name.as_str()).collect();
    let count = images.shape()[0].max(1) as f64;
    for images in images.axis_chunks_iter(Axis(0), BATCH) {
        let activations = graph.capture(&sources, &images.to_owned())?;
        let share = images.shape()[0] as f64 / count;
        activations.iter().enumerate().try_for_each(|(i, values)| visit(i, values, share))?;
    }
    Ok(())
}

/// Bins on each side of zero.
const BINS: i64 = 4096;

/// Counts of values by size. Where a value is too large, bins become twice as wide.
#[derive(Debug, Clone, Default)]
struct Histogram {
    /// Exact zeros, which every grid has.
    zeros: u64,
    width: f64,
    /// Bin `i` holds the values from `(i - BINS) width` up to the next.
    counts: Vec<u64>,
}

impl Histogram {
    /// Adds values of which the largest is `most` in absolute value.
    fn add(&mut self, values: &[f32], most: f32) {
        let most = f64::from(most);
        if most > 0.0 && self.counts.is_empty() {
            self.counts = vec![0; 2 * BINS as usize];
            self.width = 2.0 * most / BINS as f64;
        }
        while most >= self.width * BINS as f64 && most > 0.0 {
            self.widen();
        }
        let per_width = 1.0 / self.width;
        for &v in values {
            match v == 0.0 {
                true => self.zeros += 1,
                false => {
                    let bin = (f64::from(v) * per_width).floor() as i64;
                    self.counts[(bin + BINS).clamp(0, 2 * BINS - 1) as usize] += 1;
                }
            }
        }
    }

    fn widen(&mut self) {
        let mut wider = vec![0; self.counts.len()];
        for (bin, &count) in (-BINS..).zip(&self.counts) {
            wider[(bin.div_euclid(2) + BINS) as usize] += count;
        }
        self.counts = wider;
        self.width *= 2.0;
    }

    /// Middles and counts of the bins that are not empty.
    fn bins(&self) -> impl Iterator<Item = (f32, f64)> {
        let bins = (-BINS..).zip(&self.counts).filter(|(_, count)| **count > 0);
        bins.map(|(bin, &count)| (((bin as f64 + 0.5) * self.width) as f32, count as f64))
    }

    /// The value below which this share of all values lies.
    fn quantile(&self, share: f64) -> f32 {
        let all = self.counts.iter().sum::<u64>() + self.zeros;
        let mut left = share * all as f64;
        let zeros = (0.0, self.zeros as f64);
        let (below, above): (Vec<_>, Vec<_>) = self.bins().partition(|(middle, _)| *middle < 0.0);
        let mut last = 0.0;
        for (middle, count) in below.into_iter().chain([zeros]).chain(above) {
            last = middle;
            left -= count;
            if left < 0.0 {
                break;
            }
        }
        last
    }

    fn square_error(&self, grid: &Grid) -> f64 {
        self.bins().map(|(v, count)| count * f64::from(v - grid.round(v)).powi(2)).sum()
    }

    /// `KL(P || Q)`: `P` are the values with those beyond the grid at its ends, `Q` spreads what a level has of the values inside evenly
    /// over its bins.
    fn divergence(&self, grid: &Grid) -> f64 {
        let level = |v: f32| usize::try_from(grid.level(v) - grid.low).unwrap_or(0);
        let levels = (grid.high - grid.low) as usize + 1;
        let (mut inside, mut bins_of) = (vec![0.0; levels], vec![0.0; levels]);
        let beyond = |v: f32| {
            v < grid.value(grid.low) - 0.5 * grid.step || v > grid.value(grid.high) + 0.5 * grid.step
        };
        let (mut ends, mut all_inside) = ([0.0; 2], 0.0);
        for (v, count) in self.bins() {
            match beyond(v) {
                true => ends[usize::from(v > 0.0)] += count,
                false => {
                    inside[level(v)] += count;
                    bins_of[level(v)] += 1.0;
                    all_inside += count;
                }
            }
        }
        if all_inside == 0.0 {
            return f64::INFINITY;
        }
        let all = all_inside + ends[0] + ends[1];
        let kept: Vec<(f32, f64)> = self.bins().filter(|(v, _)| !beyond(*v)).collect();
        let last = kept.len() - 1;
        let terms = kept.iter().enumerate().map(|(i, &(v, count))| {
            let cut_off = if i == 0 { ends[0] } else { 0.0 } + if i == last { ends[1] } else { 0.0 };
            let p = (count + cut_off) / all;
            let q = inside[level(v)] / bins_of[level(v)] / all_inside;
            p * (p / q).ln()
        });
        terms.sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_xoshiro::Xoshiro256Plus;
    use rand_xoshiro::rand_core::{RngCore, SeedableRng};

    /// Sums of twelve uniform numbers are nearly normal; with a few outliers.
    fn seen(outlier: f32) -> Watch {
        let mut rng = Xoshiro256Plus::seed_from_u64(1);
        let mut uniform = || rng.next_u32() as f32 / u32::MAX as f32 - 0.5;
        let mut watch = Watch::default();
        for batch in 0..20 {
            let mut values: Vec<f32> = (0..1000).map(|_| (0..12).map(|_| uniform()).sum()).collect();
            values[batch] = 0.0;
            if batch == 7 {
                values[0] = outlier;
            }
            assert!(watch.see(&values));
        }
        watch
    }

    fn end(watch: &Watch, observer: Observer, bits: u8) -> f32 {
        let grid = watch.grid(observer, bits).unwrap();
        grid.value(grid.high)
    }

    #[test]
    fn one_outlier_does_not_stretch_what_looks_at_all_values() {
        let (plain, wild) = (seen(0.5), seen(100.0));
        assert!((end(&wild, Observer::MinMax, 8) - 100.0).abs() < 1.0);
        // the square of its error still counts something
        for (observer, most) in
            [(Observer::Percentile(99.9), 0.1), (Observer::Kl, 2.0), (Observer::Mse, 10.0)]
        {
            let (a, b) = (end(&plain, observer, 4), end(&wild, observer, 4));
            assert!((a - b).abs() < most, "{observer:?}: {a} and {b}");
        }
        let moving = end(&wild, Observer::MovingAverage, 8);
        assert!(moving < 20.0 && moving > 3.0, "{moving}");
    }

    #[test]
    fn the_mse_range_is_the_best_of_the_candidates() {
        let watch = seen(30.0);
        for bits in [2, 4, 8] {
            let best = watch.grid(Observer::Mse, bits).unwrap();
            let error = watch.histogram.square_error(&best);
            for other in [Observer::MinMax, Observer::Percentile(99.0), Observer::Kl] {
                let grid = watch.grid(other, bits).unwrap();
                // percentiles are no candidates
                assert!(error <= 1.02 * watch.histogram.square_error(&grid), "{bits} bits, {other:?}");
            }
        }
        // the optimum for a normal distribution and 4 bits: 2.56 standard deviations (Banner et al. 2019, table 1, Gauss)
        let alpha = end(&seen(4.0), Observer::Mse, 4);
        assert!((2.2..3.0).contains(&alpha), "{alpha}");
    }

    #[test]
    fn bins_widen_without_losing_values() {
        let mut histogram = Histogram::default();
        histogram.add(&[0.0, 0.0], 0.0);
        histogram.add(&[1.0, -1.0, 0.5, 0.0], 1.0);
        histogram.add(&[1000.0, -0.25], 1000.0);
        assert_eq!((histogram.zeros, histogram.counts.iter().sum::<u64>()), (3, 5));
        assert!(f64::from(histogram.quantile(0.99) - 1000.0).abs() < histogram.width);
        assert!(histogram.quantile(0.01) < 0.0 && histogram.quantile(0.5) == 0.0);
    }

    #[test]
    fn nothing_constants_and_infinity() {
        let mut watch = Watch::default();
        assert!(watch.see(&[]) && watch.grid(Observer::Kl, 8).is_none());
        assert!(!watch.see(&[1.0, f32::NAN]) && !watch.see(&[f32::INFINITY]));
        for value in [0.0, 2.5, -3.0] {
            let mut watch = Watch::default();
            watch.see(&[value; 3]);
            for observer in [
                Observer::MinMax,
                Observer::MovingAverage,
                Observer::Percentile(50.0),
                Observer::Kl,
                Observer::Mse,
            ] {
                assert_eq!(watch.grid(observer, 3).unwrap().round(value), value);
            }
        }
    }
}
