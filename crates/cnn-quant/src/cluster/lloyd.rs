//! Lloyd's iteration over intervals of sorted values: prefix sums give the means, and each bound is searched for from where it was,
//! so that an iteration takes a few steps for each cluster, however many values there are.

/// Bound on the iterations; they end when no value changes its cluster.
const ITERATIONS: usize = 2000;

/// Sorted values with what is needed for the sum over any interval of them.
pub struct Clusters<'a> {
    pub sorted: &'a [f32],
    /// A value in the middle: sums of distances from it round less.
    origin: f64,
    /// `sum h` before each value; none if it is their number.
    masses: Option<Vec<f64>>,
    /// `sum h (v - origin)` before each value.
    sums: Vec<f64>,
}

impl<'a> Clusters<'a> {
    /// All values count alike.
    pub fn new(sorted: &'a [f32]) -> Clusters<'a> {
        let origin = f64::from(sorted[sorted.len() / 2]);
        let sums = prefix(sorted.iter().map(|&v| f64::from(v) - origin));
        Clusters { sorted, origin, masses: None, sums }
    }

    /// Each value counts as its curvature says, all above 0.
    pub fn weighted(sorted: &'a [f32], curvatures: &[f32]) -> Clusters<'a> {
        let origin = f64::from(sorted[sorted.len() / 2]);
        let products = sorted.iter().zip(curvatures).map(|(&v, &h)| (f64::from(v) - origin) * f64::from(h));
        let masses = Some(prefix(curvatures.iter().map(|&h| f64::from(h))));
        Clusters { sorted, origin, masses, sums: prefix(products) }
    }

    /// `sum h` of an interval.
    fn mass(&self, from: usize, to: usize) -> f64 {
        self.masses.as_ref().map_or((to - from) as f64, |m| m[to] - m[from])
    }

    pub fn mean(&self, from: usize, to: usize) -> f64 {
        self.origin + (self.sums[to] - self.sums[from]) / self.mass(from, to)
    }

    /// How much of the sum of squares around the origin a centroid of its own takes from an interval: `(sum h v)^2 / sum h`. What
    /// remains of the sum is the same for all ways to cluster.
    pub fn explained(&self, from: usize, to: usize) -> f64 {
        if from == to {
            return 0.0;
        }
        let sum = self.sums[to] - self.sums[from];
        sum * sum / self.mass(from, to)
    }

    /// Cluster `i` holds the values `bounds[i] .. bounds[i + 1]`: those nearer to centroid `i` than to the others; in the
    /// middle between two, the lower one.
    pub fn bounds(&self, c: &[f64]) -> Vec<usize> {
        let mut bounds = vec![0; c.len() + 1];
        bounds[c.len()] = self.sorted.len();
        self.move_bounds(c, &mut bounds);
        bounds
    }

    /// False if no bound moved.
    fn move_bounds(&self, c: &[f64], bounds: &mut [usize]) -> bool {
        let mut moved = false;
        for (pair, bound) in c.windows(2).zip(&mut bounds[1..]) {
            let at = self.up_to(0.5 * (pair[0] + pair[1]), *bound);
            moved |= at != *bound;
            *bound = at;
        }
        moved
    }

    /// How many values are at most `middle`; looked for from `near` on, in growing steps.
    fn up_to(&self, middle: f64, near: usize) -> usize {
        let below = |&v: &f32| f64::from(v) <= middle;
        let (mut low, mut high) = (near, near);
        let mut step = 8;
        while low > 0 && !below(&self.sorted[low - 1]) {
            (low, high) = (low.saturating_sub(step), low - 1);
            step *= 4;
        }
        while high < self.sorted.len() && below(&self.sorted[high]) {
            (low, high) = (high + 1, (high + step).min(self.sorted.len()));
            step *= 4;
        }
        low + self.sorted[low..high].partition_point(below)
    }

    /// Lloyd's iteration: each value to its nearest centroid, each centroid to the mean of its values. A centroid without
    /// values stays.
    pub fn lloyd(&self, c: &mut [f64]) {
        let mut bounds = self.bounds(c);
        for _ in 0..ITERATIONS {
            for (c, at) in c.iter_mut().zip(bounds.windows(2)).filter(|(_, at)| at[0] < at[1]) {
                *c = self.mean(at[0], at[1]);
            }
            if !self.move_bounds(c, &mut bounds) {
                break;
            }
        }
    }

    /// Puts each centroid without values into the cluster of which it takes most of the sum of squares, by splitting it at its mean.
    /// False if there was none.
    pub fn refill(&self, c: &mut [f64]) -> bool {
        let bounds = self.bounds(c);
        let mut intervals: Vec<Interval> =
            bounds.windows(2).filter(|b| b[0] < b[1]).map(|b| self.interval(b[0], b[1])).collect();
        let missing = c.len() - intervals.len();
        for _ in 0..missing {
            let best = (0..intervals.len()).max_by(|&a, &b| intervals[a].gain.total_cmp(&intervals[b].gain));
            let Some(at) = best.filter(|&at| intervals[at].gain > f64::NEG_INFINITY) else { break };
            let Interval { from, cut, to, .. } = intervals[at];
            intervals[at] = self.interval(from, cut);
            intervals.insert(at + 1, self.interval(cut, to));
        }
        let means: Vec<f64> = intervals.iter().map(|i| self.mean(i.from, i.to)).collect();
        c[..means.len()].copy_from_slice(&means);
        // centroids that found no place repeat the last one: they stay empty, and the order holds
        if let Some(&last) = means.last() {
            c[means.len()..].fill(last);
        }
        missing > 0
    }

    fn interval(&self, from: usize, to: usize) -> Interval {
        if self.sorted[from] == self.sorted[to - 1] {
            return Interval { from, cut: from, to, gain: f64::NEG_INFINITY };
        }
        // at least one value on each side, whatever the rounding of the mean
        let mean = self.mean(from, to);
        let cut = from + self.sorted[from..to].partition_point(|&v| f64::from(v) <= mean);
        let cut = cut.clamp(from + 1, to - 1);
        let gain = self.explained(from, cut) + self.explained(cut, to) - self.explained(from, to);
        Interval { from, cut, to, gain }
    }
}

/// An interval, the place at which it would be split, and how much of the sum of squares that takes away; minus infinity if all its
/// values are the same.
#[derive(Clone, Copy)]
struct Interval {
    from: usize,
    cut: usize,
    to: usize,
    gain: f64,
}

/// The sums before each value, and that of all.
fn prefix(values: impl ExactSizeIterator<Item = f64>) -> Vec<f64> {
    let mut sums = Vec::with_capacity(values.len() + 1);
    let mut sum = 0.0;
    sums.push(sum);
    sums.extend(values.map(|v| {
        sum += v;
        sum
    }));
    sums
}
