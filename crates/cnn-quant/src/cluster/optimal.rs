//! The best clusters of values in one dimension (Wang & Song 2011, "Ckmeans.1d.dp"; Gronlund et al. 2017, "Fast Exact k-Means, k-Medians
//! and Bregman Divergence Clustering in 1D").
//!
//! With `E_j(n)` the most that `j` clusters explain of the first `n` values' sum of squares, `E_j(n) = max_i E_{j-1}(i) + e(i, n)`. The
//! best `i` grows with `n`, so the middle `n` halves the search of those on both sides: `O(k n log n)` for all. Memory is that of two rows: the best
//! clusters are found by where half of them end (Hirschberg 1975), then by that within both halves.

use super::lloyd::Clusters;

/// The centroids of the best `k` clusters, ascending; fewer different values than `k` repeat the last.
pub fn centroids(clusters: &Clusters<'_>, k: usize) -> Vec<f64> {
    let mut ends = Vec::with_capacity(k);
    split(clusters, 0, clusters.sorted.len(), k, &mut ends);
    let starts = std::iter::once(0).chain(ends.iter().copied());
    let mut c: Vec<f64> = Vec::with_capacity(k);
    for (from, &to) in starts.zip(&ends) {
        let last = c.last().copied().unwrap_or(f64::from(clusters.sorted[0]));
        c.push(if from < to { clusters.mean(from, to) } else { last });
    }
    c
}

/// Appends the ends of the best `k` clusters of `from .. to`.
fn split(clusters: &Clusters<'_>, from: usize, to: usize, k: usize, ends: &mut Vec<usize>) {
    if k == 1 || from == to {
        ends.extend(std::iter::repeat_n(to, k));
        return;
    }
    let (left, right) = (k / 2, k - k / 2);
    let up = best(to - from, left, &|i, j| clusters.explained(from + i, from + j));
    let down = best(to - from, right, &|i, j| clusters.explained(to - j, to - i));
    let middle = (0..=to - from)
        .max_by(|&a, &b| (up[a] + down[to - from - a]).total_cmp(&(up[b] + down[to - from - b])))
        .unwrap_or(0);
    split(clusters, from, from + middle, left, ends);
    split(clusters, from + middle, to, right, ends);
}

/// `E_k(n)` for all `n` up to `len`.
fn best(len: usize, k: usize, explained: &(impl Fn(usize, usize) -> f64 + Sync)) -> Vec<f64> {
    let mut row: Vec<f64> = (0..=len).map(|n| explained(0, n)).collect();
    for _ in 1..k {
        let mut next = vec![0.0; len + 1];
        fill(&row, &mut next, 0, 0..len + 1, explained);
        row = next;
    }
    row
}

/// `next[n - first] = max_i row[i] + e(i, n)`, where the best `i` are among `among`.
fn fill(
    row: &[f64],
    next: &mut [f64],
    first: usize,
    among: std::ops::Range<usize>,
    explained: &(impl Fn(usize, usize) -> f64 + Sync),
) {
    if next.is_empty() {
        return;
    }
    let half = next.len() / 2;
    let n = first + half;
    let candidates = (among.start..among.end.min(n + 1)).map(|i| (row[i] + explained(i, n), i));
    let (most, at) = candidates
        .fold((f64::NEG_INFINITY, among.start), |best, next| if next.0 > best.0 { next } else { best });
    let (below, rest) = next.split_at_mut(half);
    rest[0] = most;
    let above = &mut rest[1..];
    let mut lower = || fill(row, below, first, among.start..at + 1, explained);
    let mut upper = || fill(row, above, n + 1, at..among.end, explained);
    // as tasks while they are large
    if half > 1 << 14 {
        rayon::join(lower, upper);
    } else {
        lower();
        upper();
    }
}
