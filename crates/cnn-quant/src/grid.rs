//! Linear quantization to 256 levels (SPEC 2.2, eq. 2).
//!
//! `q = round(a (p - b))`, `p ~ q / a + b` with `a = 255 / (max - min)`, where the range is widened to contain 0 and `b` is nudged
//! so that 0 lies on the grid: `b = -z / a` for an integer `z`. With the step `s = 1 / a` then `p ~ s (q - z)`. Everywhere
//! in this crate the **level** `q - z` is what is computed with: level 0 is exactly 0.

use cnn_core::session::Levels;

/// A grid of at most 256 points `step * level`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Grid {
    /// `s`, finite and above 0.
    pub step: f32,
    /// Lowest level, `-z`.
    pub low: i16,
    /// Highest level, at most `low + 255`.
    pub high: i16,
}

impl Grid {
    /// The affine grid for values between `min` and `max`, 256 levels. `max = min` is lossless: the one value is level 1 or -1.
    pub fn affine(min: f32, max: f32) -> Grid {
        Grid::affine_bits(min, max, 8)
    }

    /// The affine grid of `2^bits` levels.
    ///
    /// # Panics
    /// For more than 8 bits, or none.
    pub fn affine_bits(min: f32, max: f32, bits: u8) -> Grid {
        let levels = (1i16 << checked(bits)) - 1;
        if let Some(step) = constant(min, max) {
            let low = if min < 0.0 { -1 } else { 0 };
            return Grid { step, low, high: low + levels };
        }
        // in f64, since max - min may overflow f32
        let (min, max) = (f64::from(min.min(0.0)), f64::from(max.max(0.0)));
        let step = positive((max - min) / f64::from(levels));
        let zero = (-min / f64::from(step)).round_ties_even().clamp(0.0, f64::from(levels));
        let low = -(zero as i16);
        Grid { step, low, high: low + levels }
    }

    /// The symmetric grid for values between `min` and `max`: levels -127 to 127. `max = min` is lossless.
    pub fn symmetric(min: f32, max: f32) -> Grid {
        Grid::symmetric_bits(min, max, 8)
    }

    /// The symmetric grid of `2^bits - 1` levels.
    ///
    /// # Panics
    /// For more than 8 bits, or less than 2.
    pub fn symmetric_bits(min: f32, max: f32, bits: u8) -> Grid {
        assert!(bits > 1, "one bit has no symmetric grid");
        let high = (1i16 << (checked(bits) - 1)) - 1;
        let most = f64::from(min.abs().max(max.abs()));
        let step = constant(min, max).unwrap_or_else(|| positive(most / f64::from(high)));
        Grid { step, low: -high, high }
    }

    /// The grid of `2^bits` levels from `-2^(bits-1)` to `2^(bits-1) - 1`, wide enough for `min` and `max`. `max = min` is lossless.
    ///
    /// # Panics
    /// For more than 8 bits, or less than 2.
    pub fn signed_bits(min: f32, max: f32, bits: u8) -> Grid {
        let symmetric = Grid::symmetric_bits(min, max, bits);
        let (low, high) = (-symmetric.high - 1, symmetric.high);
        if constant(min, max).is_some() {
            return Grid { low, ..symmetric };
        }
        let (below, above) = (f64::from(-min.min(0.0)), f64::from(max.max(0.0)));
        Grid { step: positive((below / f64::from(-low)).max(above / f64::from(high))), low, high }
    }

    /// The bits that number the levels.
    pub fn bits(&self) -> u8 {
        let levels = self.high.abs_diff(self.low);
        (u16::BITS - levels.leading_zeros()) as u8
    }

    /// The level nearest to a value (ties to even levels); beyond the grid, its end. NaN counts as 0.
    pub fn level(&self, value: f32) -> i16 {
        // the cast turns NaN into 0
        self.integer(value) as i16
    }

    /// The value of a level.
    pub fn value(&self, level: i16) -> f32 {
        self.step * f32::from(level)
    }

    /// The point of the grid nearest to a value; NaN stays.
    #[inline(always)]
    pub fn round(&self, value: f32) -> f32 {
        // + 0.0 turns a negative zero into zero
        self.step * self.integer(value) + 0.0
    }

    /// `round(value / step)` on the grid, to even when in the middle. Within the grid's few hundred levels, adding and taking away
    /// `1.5 * 2^23` rounds just so, in two instructions on every processor.
    #[inline(always)]
    fn integer(&self, value: f32) -> f32 {
        const MAGIC: f32 = 12_582_912.0;
        let within = (value / self.step).clamp(f32::from(self.low), f32::from(self.high));
        (within + MAGIC) - MAGIC
    }

    /// The same number of levels with at least this step.
    pub fn coarser(self, step: f32) -> Grid {
        Grid { step: self.step.max(step), ..self }
    }
}

impl From<Grid> for Levels {
    fn from(Grid { step, low, high }: Grid) -> Levels {
        Levels { step, low, high }
    }
}

fn checked(bits: u8) -> u8 {
    assert!((1..=8).contains(&bits), "{bits} bits");
    bits
}

/// The step for a single value, which then is level 1 or -1; `None` for a range.
fn constant(min: f32, max: f32) -> Option<f32> {
    (min == max).then_some(if min == 0.0 { 1.0 } else { min.abs() })
}

fn positive(step: f64) -> f32 {
    (step as f32).max(f32::MIN_POSITIVE)
}

/// Smallest and largest value; `None` if one is not finite or there are none.
pub fn range(values: impl IntoIterator<Item = f32>) -> Option<(f32, f32)> {
    let mut range: Option<(f32, f32)> = None;
    for v in values {
        if !v.is_finite() {
            return None;
        }
        range = Some(range.map_or((v, v), |(min, max)| (min.min(v), max.max(v))));
    }
    range
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn within_half_a_step_and_zero_is_exact(min in -10.0f32..10.0, span in 1e-3f32..20.0, at in 0.0f32..1.0) {
            let max = min + span;
            let value = min + at * span;
            for grid in [Grid::affine(min, max), Grid::symmetric(min, max), Grid::signed_bits(min, max, 8)] {
                // nudging zero onto the grid can move the ends by half a step
                prop_assert!((grid.round(value) - value).abs() <= grid.step * 1.0001);
                prop_assert_eq!(grid.value(grid.level(value)), grid.round(value));
                prop_assert_eq!(grid.level(0.0), 0);
                prop_assert!(i32::from(grid.high) - i32::from(grid.low) <= 255);
            }
            if min <= 0.0 && max >= 0.0 {
                let error = (Grid::affine(min, max).round(value) - value).abs();
                prop_assert!(error <= Grid::affine(min, max).step * 1.0001, "{}", error);
                let error = (Grid::symmetric(min, max).round(value) - value).abs();
                prop_assert!(error <= Grid::symmetric(min, max).step * 0.5001, "{}", error);
            }
        }

        #[test]
        fn one_value_is_lossless(value in any::<f32>().prop_filter("finite", |v| v.is_finite() && v.abs() > 1e-30)) {
            prop_assert_eq!(Grid::affine(value, value).round(value), value);
            prop_assert_eq!(Grid::symmetric(value, value).round(value), value);
            prop_assert_eq!(Grid::signed_bits(value, value, 2).round(value), value);
        }
    }

    #[test]
    fn rounding_is_to_even() {
        let grid = Grid { step: 1.0, low: -100, high: 155 };
        for i in -1200..1800 {
            let v = i as f32 / 8.0;
            assert_eq!(f32::from(grid.level(v)), v.round_ties_even().clamp(-100.0, 155.0));
        }
        assert_eq!(grid.round(-0.2).to_bits(), 0);
        assert!(grid.round(f32::NAN).is_nan());
    }

    #[test]
    fn codes_are_levels() {
        let odd = [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.0];
        let values: Vec<f32> = (-700..700).map(|i| i as f32 / 128.0).chain(odd).collect();
        for grid in [Grid::affine(-1.0, 3.0), Grid::affine_bits(0.5, 2.0, 4), Grid::signed_bits(-1.0, 1.0, 8)]
        {
            let levels = Levels::from(grid);
            for &v in &values {
                assert_eq!(i16::from(levels.code(v)), grid.level(v) - grid.low, "{v}");
                assert_eq!(levels.value(levels.code(v)), grid.value(grid.level(v)));
            }
        }
    }

    #[test]
    fn fewer_bits_are_fewer_levels() {
        for bits in 2..=8 {
            let (affine, symmetric) =
                (Grid::affine_bits(-1.0, 2.0, bits), Grid::symmetric_bits(-1.0, 2.0, bits));
            assert_eq!(affine.high - affine.low, (1 << bits) - 1);
            assert_eq!((symmetric.low, symmetric.high), (-symmetric.high, (1 << (bits - 1)) - 1));
            assert_eq!((affine.bits(), symmetric.bits()), (bits, bits));
            assert!((symmetric.value(symmetric.high) - 2.0).abs() < 1e-6);
            let signed = Grid::signed_bits(-1.0, 2.0, bits);
            assert_eq!((signed.low, signed.high, signed.bits()), (-(1 << (bits - 1)), symmetric.high, bits));
            assert!((signed.value(signed.high) - 2.0).abs() < 1e-6);
        }
    }

    #[test]
    fn equation_2_by_hand() {
        // a = 255 / 2.55 = 100, b = -0.55 lies on the grid already
        let grid = Grid::affine(-0.55, 2.0);
        assert!((grid.step - 0.01).abs() < 1e-9);
        assert_eq!((grid.low, grid.high), (-55, 200));
        assert_eq!(grid.level(0.123), 12);
        assert_eq!(grid.level(99.0), 200);
        assert_eq!(grid.level(f32::NEG_INFINITY), -55);
        assert_eq!(grid.level(f32::NAN), 0);
    }

    #[test]
    fn extremes() {
        let grid = Grid::affine(f32::MIN, f32::MAX);
        assert!(grid.step.is_finite() && grid.round(f32::MAX) > 3e38);
        assert!(Grid::affine(0.0, 1e-45).step > 0.0);
        assert_eq!(Grid::affine(0.0, 0.0).round(0.0), 0.0);
        assert_eq!(range([]), None);
        assert_eq!(range([1.0, f32::NAN]), None);
        assert_eq!(range([1.0, -2.0]), Some((-2.0, 1.0)));
    }
}
