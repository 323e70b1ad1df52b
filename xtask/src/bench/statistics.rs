//! Medians, percentiles, and the interval of a difference between two networks on the same images.

/// The value below which the share `p` (in `[0, 1]`) of the values lies, between the two nearest ones by linear interpolation; NaN for none.
pub fn percentile(values: &[f64], p: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let at = p.clamp(0.0, 1.0) * last as f64;
    let (below, above) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
    below + (above - below) * at.fract()
}

/// The middle value; the mean of the two middle ones for an even number; NaN for none.
pub fn median(values: &[f64]) -> f64 {
    percentile(values, 0.5)
}

/// Mean of the values; NaN for none.
pub fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Sample standard deviation (divided by `n - 1`); 0 for a single value.
pub fn deviation(values: &[f64]) -> f64 {
    if values.len() < 2 {
        return 0.0;
    }
    let m = mean(values);
    (values.iter().map(|v| (v - m).powi(2)).sum::<f64>() / (values.len() - 1) as f64).sqrt()
}

/// A difference in accuracy on the same images.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Paired {
    /// Images that only the baseline got right: `b`.
    pub only_baseline: usize,
    /// Images that only the method got right: `c`.
    pub only_method: usize,
    /// `d = 100 (c - b) / n`, in points (per cent of the images).
    pub points: f64,
    /// `d - h` and `d + h` with `h = 1.96 * 100 sqrt(b + c - (b - c)^2 / n) / n`: the 95 % interval of a paired
    /// difference (Wald). It is about the choice of test images, not about the seed, and too narrow for a handful of
    /// discordant images (of width 0 for none).
    pub interval: [f64; 2],
}

/// Compares two networks image by image.
pub fn paired(baseline: &[bool], method: &[bool]) -> Paired {
    let n = baseline.len().min(method.len()) as f64;
    let count =
        |first: bool| baseline.iter().zip(method).filter(|&(&b, &m)| b == first && m != first).count();
    let (b, c) = (count(true), count(false));
    let (bf, cf) = (b as f64, c as f64);
    let points = 100.0 * (cf - bf) / n;
    let half = 1.96 * 100.0 * (bf + cf - (bf - cf).powi(2) / n).max(0.0).sqrt() / n;
    Paired { only_baseline: b, only_method: c, points, interval: [points - half, points + half] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_interpolate() {
        let values = [4.0, 1.0, 3.0, 2.0];
        assert_eq!(median(&values), 2.5);
        assert_eq!(percentile(&values, 0.0), 1.0);
        assert_eq!(percentile(&values, 1.0), 4.0);
        assert!((percentile(&values, 0.9) - 3.7).abs() < 1e-12);
        assert_eq!(median(&[7.0]), 7.0);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn spread_is_that_of_a_sample() {
        assert_eq!(mean(&[1.0, 2.0, 3.0]), 2.0);
        assert_eq!(deviation(&[1.0, 2.0, 3.0]), 1.0);
        assert_eq!(deviation(&[5.0]), 0.0);
    }

    #[test]
    fn paired_interval_by_hand() {
        // n = 100, b = 6, c = 2: d = -4 points, h = 196 sqrt(8 - 16 / 100) / 100 = 5.488
        let baseline: Vec<bool> = (0..100).map(|i| i < 90).collect();
        let method: Vec<bool> = (0..100).map(|i| (6..92).contains(&i)).collect();
        let p = paired(&baseline, &method);
        assert_eq!((p.only_baseline, p.only_method), (6, 2));
        assert!((p.points + 4.0).abs() < 1e-12);
        assert!((p.interval[0] + 9.488).abs() < 1e-3 && (p.interval[1] - 1.488).abs() < 1e-3, "{p:?}");
    }

    #[test]
    fn equal_networks_do_not_differ() {
        let right = [true, false, true];
        let p = paired(&right, &right);
        assert_eq!((p.only_baseline, p.only_method, p.points, p.interval), (0, 0, 0.0, [0.0, 0.0]));
    }
}
