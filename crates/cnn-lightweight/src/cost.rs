//! The formulas of the operations' costs: same padding, stride 1, `h x w` pixels, `n` input channels, `m`
//! filters, `k x k` kernel, no bias. Numbers beyond 64 bits stop at the largest one.
//!
//! | operation | multiply-adds | weights |
//! |---|---|---|
//! | standard convolution | `H W N K^2 M` | `K^2 M N` |
//! | depthwise part | `H W N K^2` | `K^2 N` |
//! | pointwise part (1 x 1) | `H W N M` | `M N` |
//! | depthwise separable | `H W N K^2 + H W N M` | `K^2 N + M N` |
//!
//! Separable over standard is `1 / M + 1 / K^2` for both (Howard et al. 2017, section 3.1).

/// Multiply-adds and weights of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Multiply-adds for one image.
    pub macs: u64,
    /// Weights, without bias.
    pub weights: u64,
}

fn product(factors: &[u64]) -> u64 {
    // a zero makes zero, whatever else overflows
    match factors.contains(&0) {
        true => 0,
        false => factors.iter().fold(1, |p, &f| p.saturating_mul(f)),
    }
}

/// A standard convolution.
pub fn standard(h: u64, w: u64, n: u64, m: u64, k: u64) -> Counts {
    Counts { macs: product(&[h, w, n, k, k, m]), weights: product(&[k, k, m, n]) }
}

/// A depthwise convolution.
pub fn depthwise(h: u64, w: u64, n: u64, k: u64) -> Counts {
    Counts { macs: product(&[h, w, n, k, k]), weights: product(&[k, k, n]) }
}

/// A convolution of 1 x 1.
pub fn pointwise(h: u64, w: u64, n: u64, m: u64) -> Counts {
    Counts { macs: product(&[h, w, n, m]), weights: product(&[m, n]) }
}

/// A depthwise convolution and a pointwise one after it.
pub fn separable(h: u64, w: u64, n: u64, m: u64, k: u64) -> Counts {
    let (d, p) = (depthwise(h, w, n, k), pointwise(h, w, n, m));
    Counts { macs: d.macs.saturating_add(p.macs), weights: d.weights.saturating_add(p.weights) }
}

/// Separable over standard, `1 / M + 1 / K^2`, for a kernel of `taps = K^2` elements.
///
/// ```
/// assert_eq!(cnn_lightweight::cost::ratio(64, 9), 1.0 / 64.0 + 1.0 / 9.0);
/// ```
pub fn ratio(m: u64, taps: u64) -> f64 {
    1.0 / m as f64 + 1.0 / taps as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use cnn_core::Graph;
    use cnn_core::layers::{Conv2d, ConvOptions};
    use cnn_core::tensor::zeros;
    use proptest::prelude::*;

    /// What the core's cost model says of a convolution with same padding.
    fn core(h: u64, w: u64, n: u64, m: u64, k: u64, groups: u64) -> Counts {
        let [h, w, n, m, k, groups] = [h, w, n, m, k, groups].map(|v| usize::try_from(v).unwrap());
        let mut graph = Graph::new(&[n, h, w]);
        let options = ConvOptions::default().pad(k / 2).groups(groups);
        graph.push("conv", Conv2d::new(zeros(&[m, n / groups, k, k]), None, options).unwrap()).unwrap();
        let cost = graph.cost().unwrap();
        Counts { macs: cost.macs.total(), weights: cost.params }
    }

    proptest! {
        #[test]
        fn the_formulas_are_the_core_s(
            h in 1u64..9, w in 1u64..9, n in 1u64..7, m in 1u64..7, half in 0u64..3,
        ) {
            let k = 2 * half + 1;
            prop_assert_eq!(standard(h, w, n, m, k), core(h, w, n, m, k, 1));
            prop_assert_eq!(depthwise(h, w, n, k), core(h, w, n, n, k, n));
            prop_assert_eq!(pointwise(h, w, n, m), core(h, w, n, m, 1, 1));
            let (d, p) = (core(h, w, n, n, k, n), core(h, w, n, m, 1, 1));
            let both = separable(h, w, n, m, k);
            prop_assert_eq!(both, Counts { macs: d.macs + p.macs, weights: d.weights + p.weights });
            let full = standard(h, w, n, m, k);
            let expected = ratio(m, k * k);
            prop_assert!((both.macs as f64 / full.macs as f64 - expected).abs() < 1e-12);
            prop_assert!((both.weights as f64 / full.weights as f64 - expected).abs() < 1e-12);
        }

        #[test]
        fn absurd_sizes_do_not_overflow(h: u64, w: u64, n: u64, m: u64, k: u64) {
            prop_assert!(separable(h, w, n, m, k).macs >= depthwise(h, w, n, k).macs);
            let full = standard(h.max(1), w.max(1), n, m, k);
            prop_assert!(full.macs >= full.weights);
        }
    }
}
