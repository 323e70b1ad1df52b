//! Percentiles, intervals of shares, differences between two networks on the same images.

use serde::Serialize;

/// The normal quantile of 95 % intervals.
const Z: f64 = 1.959_963_984_540_054;

/// The value below which the share `p` (in `[0, 1]`) of the values lies, by linear interpolation; NaN for
/// none.
pub fn percentile(values: &[f64], p: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let at = p.clamp(0.0, 1.0) * last as f64;
    let (below, above) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
    below + (above - below) * at.fract()
}

/// The 95 % interval of a share, in `[0, 1]` (Wilson 1927):
/// `(p + z^2 / 2n -+ z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n)`.
pub fn wilson(hits: usize, of: usize) -> [f64; 2] {
    if of == 0 {
        return [0.0, 1.0];
    }
    let n = of as f64;
    let p = hits as f64 / n;
    let middle = p + Z * Z / (2.0 * n);
    let half = Z * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
    let scale = 1.0 + Z * Z / n;
    [((middle - half) / scale).max(0.0), ((middle + half) / scale).min(1.0)]
}

/// A difference in accuracy on the same images, in points.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Paired {
    /// Images that only the first network got right: `b`.
    pub only_first: usize,
    /// Images that only the second got right: `c`.
    pub only_second: usize,
    /// `d = 100 (c - b) / n`.
    pub points: f64,
    /// `d -+ 100 z sqrt(b + c - (b - c)^2 / n) / n`: the 95 % interval of a paired difference (Wald).
    pub interval: [f64; 2],
}

/// Compares two networks image by image.
pub fn paired(first: &[bool], second: &[bool]) -> Paired {
    let n = first.len().min(second.len()).max(1) as f64;
    let count = |right: bool| first.iter().zip(second).filter(|&(&a, &b)| a == right && b != right).count();
    let (only_first, only_second) = (count(true), count(false));
    let (b, c) = (only_first as f64, only_second as f64);
    let points = 100.0 * (c - b) / n;
    let half = 100.0 * Z * (b + c - (b - c).powi(2) / n).max(0.0).sqrt() / n;
    Paired { only_first, only_second, points, interval: [points - half, points + half] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wilson_by_hand() {
        // 8 of 10: (0.8 + 0.19207 -+ 1.96 sqrt(0.016 + 0.0096036)) / 1.38415
        let [low, high] = wilson(8, 10);
        assert!((low - 0.4902).abs() < 1e-4 && (high - 0.9433).abs() < 1e-4, "{low} {high}");
        assert_eq!(wilson(0, 10)[0], 0.0);
        assert!(wilson(10, 10)[1] <= 1.0 && wilson(10, 10)[0] < 0.75);
        assert_eq!(wilson(0, 0), [0.0, 1.0]);
    }

    #[test]
    fn percentiles_interpolate() {
        let values = [4.0, 1.0, 3.0, 2.0];
        assert_eq!(percentile(&values, 0.5), 2.5);
        assert!((percentile(&values, 0.9) - 3.7).abs() < 1e-12);
        assert!(percentile(&[], 0.5).is_nan());
    }

    #[test]
    fn paired_interval_by_hand() {
        let first: Vec<bool> = (0..100).map(|i| i < 90).collect();
        let second: Vec<bool> = (0..100).map(|i| (6..92).contains(&i)).collect();
        let p = paired(&first, &second);
        assert_eq!((p.only_first, p.only_second), (6, 2));
        assert!((p.points + 4.0).abs() < 1e-12);
        assert!((p.interval[0] + 9.488).abs() < 1e-3 && (p.interval[1] - 1.488).abs() < 1e-3, "{p:?}");
    }
}
